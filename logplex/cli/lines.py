"""How `logplex tail` shows a line: as it is into a pipe, coloured and escaped on a terminal, or as JSON.

* A line reads `TIME SOURCE[PROCESS]: MESSAGE` (protocol section 6). Header fields hold no space, so the first two
  words are the header whatever the message says.
* Into a pipe a line's bytes pass unchanged; only a time that was asked for in another zone is rewritten.
* On a terminal every source and process has its colour, in the order of appearance as the Heroku CLI does it, and
  control characters are shown escaped.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from ..printable import printable
from .sse import Event

_COLOURS = ("36", "33", "32", "35", "31", "1;36", "1;33", "1;32", "1;35", "1;31")  # SGR: cyan, yellow, green, …

Show = Callable[[Event], bytes]


class Shown(NamedTuple):
    """A line in its parts; `process` is empty when there is none."""

    time: str
    source: str
    process: str
    message: str


def parse(line: bytes) -> Shown | None:
    """None for what is no line of an app (an L20 notice)."""
    time, _, rest = line.partition(b" ")
    header, colon, message = rest.partition(b": ")
    if not colon and rest.endswith(b":"):
        header, colon = rest[:-1], b":"
    if not colon or b" " in header or not time[:1].isdigit():
        return None
    source, bracket, process = header.partition(b"[")
    if not bracket or not process.endswith(b"]"):
        source, process = header, b""
    parts = (time, source, process.removesuffix(b"]"), message)
    return Shown(*(part.decode("utf-8", "replace") for part in parts))


def plain(zone: tzinfo | None, *, shift: bool) -> Show:
    """Bytes for a pipe; with `shift`, times in `zone` (None: the local one)."""

    def show(event: Event) -> bytes:
        assert event.data is not None
        if not shift:
            return event.data + b"\n"
        time, space, rest = event.data.partition(b" ")
        return in_zone(time.decode("latin-1"), zone).encode("latin-1") + space + rest + b"\n"

    return show


def coloured(zone: tzinfo | None, *, shift: bool, colours: bool) -> Show:
    """Text for a terminal."""
    given: dict[str, str] = {}

    def show(event: Event) -> bytes:
        assert event.data is not None
        line = parse(event.data)
        if line is None:
            return (printable(event.data.decode("utf-8", "replace")) + "\n").encode()
        time = in_zone(line.time, zone) if shift else line.time
        name = f"{line.source}[{line.process}]" if line.process else line.source
        header = printable(f"{time} {name}:")
        if colours:
            colour = given.setdefault(name, _COLOURS[len(given) % len(_COLOURS)])
            if len(given) > 1000:  # a source that invents processes must not grow us for ever
                given.clear()
            header = f"\x1b[{colour}m{header}\x1b[0m"
        return f"{header} {printable(line.message)}\n".encode()

    return show


def as_json(zone: tzinfo | None, *, shift: bool) -> Show:
    """One object a line; `id` is the line's place, which --json readers may keep."""

    def show(event: Event) -> bytes:
        assert event.data is not None
        line = parse(event.data)
        if line is None:
            found = {"message": event.data.decode("utf-8", "replace")}
        else:
            time = in_zone(line.time, zone) if shift else line.time
            found = {"time": time, "source": line.source, "process": line.process, "message": line.message}
        if event.id is not None:
            found["id"] = event.id
        return (json.dumps(found) + "\n").encode()

    return show


def in_zone(time: str, zone: tzinfo | None) -> str:
    """An RFC 3339 time in another zone (None: the local one); anything else unchanged."""
    try:
        moment = datetime.fromisoformat(time.replace("Z+00:00", "+00:00"))
    except ValueError:
        return time
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(zone).isoformat()
    except (ValueError, OverflowError):  # year 1 or 9999 at the edge of a zone
        return time
