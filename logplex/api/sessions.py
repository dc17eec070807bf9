"""`GET /sessions/<uuid>`: the lines of a channel, plain or as server-sent events (protocol section 6).

* The URL is the right: no log-in. It is no secret of a page either, so answers are not stored, sniffed or referred.
* `Accept: text/event-stream` makes it a stream of events, anything else plain text; `?events=severity` names them.
* `Last-Event-ID`, or `?since=` with such an id or a time, resumes. A rubbish Last-Event-ID is ignored (a browser
  repeats what it was told by whomever); a rubbish `since` was typed by a person, who is told: 422.
* An answer that does not follow names the id of its end (`Logplex-Last-Id`): `?since=` that id, over and over, reads
  everything once.
* A stream that cannot be ended in order is broken off, so that its reader can tell.
"""

import re
from typing import Protocol
from urllib.parse import parse_qs

import trio

from ..channel import Channel
from ..errors import NotFound, StoreError, Unavailable
from ..http import ClientGone, Request, Stream
from ..rendering import Id, parse_id
from ..sessions import Sessions, parse_since
from .lines import HISTORY_DISCARDED

PREFIX = b"/sessions/"

_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEADERS = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cache-Control", b"no-store"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Accel-Buffering", b"no"),  # nginx would hold lines back
    (b"Connection", b"close"),
)
_PLAIN = (b"Content-Type", b"text/plain; charset=utf-8")
_EVENTS = (b"Content-Type", b"text/event-stream; charset=utf-8")


class Channels(Protocol):
    """The reading sides of channels."""

    async def get(self, channel_id: int) -> Channel:
        """The channel with this internal id. Raises NotFound when it was deleted."""


class StreamSink:
    """A reader's socket (tail.Sink) over an answer of the HTTP server.

    The answer takes a piece whole or not at all; what the kernel has not taken of it is sent on while we wait.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._stream.send_nowait(data)  # type: ignore[arg-type]  # whole pieces come back as they were
        except ClientGone as exc:
            raise trio.BrokenResourceError from exc

    async def wait_writable(self) -> None:
        with trio.CancelScope() as scope:
            await self._stream.wait_gone(scope.cancel)
        if not scope.cancelled_caught:
            raise trio.BrokenResourceError

    async def wait_end(self) -> None:
        await self._stream.wait_gone()
        if self._stream.gone:
            raise trio.BrokenResourceError


class SessionPages:
    """The raw handler of `/sessions/*`."""

    def __init__(self, sessions: Sessions, channels: Channels) -> None:
        self._sessions = sessions
        self._channels = channels

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        if request.method not in (b"GET", b"HEAD"):
            await request.respond(405, (_PLAIN, (b"Allow", b"GET, HEAD")), b"Method not allowed")
            return
        uuid = request.path.removeprefix(PREFIX)
        if not _UUID.fullmatch(uuid):
            raise NotFound("Not found")
        try:
            session = await self._sessions.find(uuid.decode())
            channel = None if session.channel_id is None else await self._channels.get(session.channel_id)
        except StoreError as exc:
            raise Unavailable("sessions cannot be read at the moment") from exc
        after = _after(request)
        sse = _wants_events(request.headers.get(b"accept", b""))
        headers: tuple[tuple[bytes, bytes], ...] = (_EVENTS if sse else _PLAIN, *_HEADERS)
        if channel is None:
            await request.respond(200, headers)
            return
        if channel.no_history:
            headers += ((b"X-Heroku-Warning", HISTORY_DISCARDED.encode()),)
        if request.method == b"HEAD":
            await request.respond(200, headers)
            return
        named = _query(request, "events") == "severity"
        opened = await self._sessions.open(session, channel, sse=sse, after=after, named=named)
        if not session.tail:
            headers += ((b"Logplex-Last-Id", opened.last_id),)
        async with request.stream(200, headers) as stream:
            try:
                await self._sessions.show(opened, StreamSink(stream))
            except trio.BrokenResourceError as exc:
                raise ClientGone from exc


def _wants_events(accept: bytes) -> bool:
    """Whether `text/event-stream` is named, and not with a weight of 0 (RFC 9110 section 12.5.1)."""
    for entry in accept.lower().split(b","):
        media, _, parameters = entry.partition(b";")
        if media.strip() == b"text/event-stream":
            return not re.fullmatch(rb"\s*q=0(\.0{0,3})?\s*", parameters)
    return False


def _after(request: Request) -> Id | int | None:
    last_id = parse_id(request.headers.get(b"last-event-id", b"").decode("latin-1"))
    if last_id is not None:
        return last_id
    since = _query(request, "since")
    return parse_since(since) if since else None


def _query(request: Request, name: str) -> str:
    """A field of the query, the last of its name; empty when there is none."""
    return parse_qs(request.query.decode("latin-1"), encoding="utf-8").get(name, [""])[-1]
