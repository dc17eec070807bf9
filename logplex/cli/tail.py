"""`logplex tail`: the newest lines of an app, and then every new one.

* It reads a session by server-sent events and remembers the place of the last line it saw. A connection that breaks,
  or is silent for longer than heartbeats are apart, is opened again and goes on after that place, without gap or
  repeat; what the server could not keep is told in the stream (L11).
* A session that has ended (or was lost with its server) is replaced by a new one; the place is valid there too.
* Notices go to standard error; Ctrl-C and a closed pipe end it without a word.
"""

import http.client
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from urllib.parse import urlsplit

import click

from . import lines
from .channels import missing
from .client import Failed, Refused, Server, json_option, parse_url, server_option, translated
from .sse import Decoder, Event
from .terminal import coloured, note, on_terminal

SILENCE_SECONDS = 45.0  # heartbeats are promised every 15 s: three missed mean a dead connection
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0
READ_BYTES = 65536
FORBIDDEN = b"Error L20 (Tail sessions forbidden)"


@click.command()
@click.argument("app")
@click.option("-n", "--num", type=click.IntRange(min=0), default=100, show_default=True, help="Lines to begin with.")
@click.option("--source", help="Only this source: app, heroku.")
@click.option("--ps", help="Only this process: web.1, or web for all of web.*")
@click.option("--text", help="Only lines that hold this text.")
@click.option("--pattern", help="Only lines that match this regular expression (RE2).")
@click.option("--severity", help="Only lines at least this severe: error, warning, info, …")
@click.option("--since", help="Only lines received since: 10m, 2h, 2024-05-01T12:00:00Z.")
@click.option("--until", help="Only lines received before.")
@click.option(
    "--field", "fields", multiple=True, help="Only lines with this field: status>=500, at=error. Repeatable."
)
@click.option("--follow/--no-follow", default=True, help="Whether to wait for new lines.")
@click.option("--utc", "zone", flag_value="utc", help="Show times in UTC.")
@click.option("--local", "zone", flag_value="local", help="Show times in the local zone.")
@json_option
@server_option
def tail(app: str, num: int, follow: bool, zone: str | None, as_json: bool, server: Server, **filters: Any) -> int:
    """Show an app's newest lines and follow it.

    On a terminal sources and processes have colours, and control characters are shown escaped; into a pipe go the
    bytes as they are. A lost connection is opened again, and goes on where it broke off.
    """
    wanted = {name: value for name, value in filters.items() if value}
    if "fields" in wanted:
        wanted["fields"] = list(wanted["fields"])
    session = Session(server, app, {"num": num, "tail": follow} | wanted)
    shifted = (UTC if zone == "utc" else None, zone is not None)
    try:
        if not (follow or as_json or zone or on_terminal()):
            return _copy_plain(session)
        return _copy(session, _shower(*shifted, as_json=as_json), follow=follow)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return 0


def _shower(zone: Any, shift: bool, *, as_json: bool) -> lines.Show:
    if as_json:
        return lines.as_json(zone, shift=shift)
    if on_terminal():
        return lines.coloured(zone, shift=shift, colours=coloured())
    return lines.plain(zone, shift=shift)


@dataclass(slots=True)
class Session:
    """A session of the server: made when there is none, opened at the place where the last stream ended."""

    server: Server
    app: str
    wanted: dict[str, Any]
    url: str | None = None
    last_id: str | None = None

    @contextmanager
    def open(self, accept: str = "text/event-stream") -> Iterator[http.client.HTTPResponse]:
        """One stream of the session. Raises Failed; the connection is closed at the end."""
        made = self.url is None
        if self.url is None:
            body = {"channel_id": self.app} | self.wanted
            self.url = str(self.server.call("POST", "/v3/sessions", body, missing=missing(self.app))["url"])
        place = parse_url(self.url, "the session URL", "try again")
        target = urlsplit(self.url)
        headers = {"Accept": accept} | place.headers()
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        connection = place.connect(SILENCE_SECONDS)
        try:
            with translated(self.server):
                connection.request("GET", target.path + (f"?{target.query}" if target.query else ""), headers=headers)
                answer = connection.getresponse()
            if answer.status == 404 and not made:
                self.url = None
                raise Ended
            if answer.status != 200:
                raise Refused(f"the server answered {answer.status} to the tail: try again", answer.status)
            if made and (warning := answer.headers.get("X-Heroku-Warning")):
                note(warning)
            yield answer
        finally:
            connection.close()

    def read(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """What arrives, until the stream ends. Raises Failed when it breaks."""
        while True:
            with translated(self.server):
                received = answer.read1(READ_BYTES)
            if not received:
                return
            yield received

    def events(self, answer: http.client.HTTPResponse) -> Iterator[list[Event]]:
        """The same as events; remembers the place."""
        decoder = Decoder()
        for received in self.read(answer):
            try:
                events = decoder.feed(received)
            except ValueError as exc:
                raise Garbled from exc
            self.last_id = decoder.last_id or self.last_id
            yield events


class Garbled(Failed):
    """What comes is no event stream; trying again cannot help."""

    def __init__(self) -> None:
        super().__init__("the server does not speak server-sent events: is a proxy between?")


class Ended(Failed):
    """The session is over; the next one goes on where it ended."""

    def __init__(self) -> None:
        super().__init__("the session has ended")


def _copy_plain(session: Session) -> int:
    """Past lines into a pipe, as plain text: events would make an LF of a CR inside a line."""
    with session.open("text/plain") as answer:
        for received in session.read(answer):
            sys.stdout.buffer.write(received)
    sys.stdout.buffer.flush()
    return 0


def _copy(session: Session, show: lines.Show, *, follow: bool) -> int:
    """Write lines until there are no more (without follow), or for ever; the exit code."""
    wait = FIRST_WAIT_SECONDS
    connected = lost = False
    while True:
        newest = b""
        reason = "the server ended it"
        try:
            with session.open() as answer:
                if lost:
                    note("connected again")
                connected, lost, wait = True, False, FIRST_WAIT_SECONDS
                for events in session.events(answer):
                    newest = _write(events, show) or newest
            if FORBIDDEN in newest:
                return 1
            if not follow:
                return 0
        except Ended:
            continue
        except Failed as exc:
            if not (connected and follow) or _final(exc):
                raise
            reason = exc.message
        if not lost:
            lost = True
            note(f"connection lost ({reason}); trying again")
        time.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads reconnects, guards nothing
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if _reader_is_gone():
            raise BrokenPipeError


def _final(error: Failed) -> bool:
    """Whether trying again cannot help: the server runs and says no."""
    return isinstance(error, Garbled) or (isinstance(error, Refused) and error.status in (400, 401, 403, 404, 422))


def _write(events: list[Event], show: lines.Show) -> bytes:
    """Show the lines among the events; the last of them, empty when there was none."""
    shown = [event for event in events if event.data is not None]
    if not shown:
        if _reader_is_gone():
            raise BrokenPipeError
        return b""
    sys.stdout.buffer.write(b"".join(map(show, shown)))
    sys.stdout.buffer.flush()
    return shown[-1].data or b""


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, so that a quiet tail ends too."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
