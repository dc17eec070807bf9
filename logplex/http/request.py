"""One request as a handler sees it: its head, its body, and the one answer that it gets.

* A handler answers exactly once: with `respond`, or with a `Stream`. One that returns without an answer is a bug
  and answered 500; a `ClientError` that it raises is its answer, as plain text.
* The body is read when it is asked for (and `100 Continue` sent then), no faster than the handler takes it and no
  slower than the least speed allows. An answer before its end is the connection's last.
* What the kernel takes at once is written without a task switch.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import trio

from ..config import Settings
from ..errors import TooLarge
from ..ledger import Ledger
from . import answer
from .answer import Headers
from .bodies import UNCOUNTED_BYTES, Bodies, Holding
from .head import Head
from .parser import RequestParser
from .refusal import ClientGone, Refusal
from .stream import Stream
from .wire import PACE_SECONDS, Wire

READ_BYTES = 128 * 1024  # a usual batch of a shipper in one call


@dataclass(slots=True, kw_only=True, eq=False)
class Shared:
    """What all connections of a server have in common."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float]
    bodies: Bodies
    buffer: bytearray = field(default_factory=lambda: bytearray(READ_BYTES))  # whatever is read is parsed at once
    date: bytes = b""  # the header line of this second
    no_content: bytes = b""  # the whole commonest answer
    stopping: bool = False
    streams: set[Stream] = field(default_factory=set)  # answers that are being streamed

    def set_date(self, wall: float) -> None:
        """Called about once a second."""
        self.date = answer.date_line(wall)
        self.no_content = answer.start(204, (), self.date) + b"\r\n"


class Request:
    """A request. `headers` by name in lower case; `path` and `query` as sent, not unescaped; `peer` is an address."""

    __slots__ = (
        "_holding",
        "_parser",
        "_rest",
        "_shared",
        "_stream",
        "_unsent",
        "_wire",
        "answered",
        "head",
        "headers",
        "method",
        "path",
        "peer",
        "persistent",
        "query",
        "secure",
    )

    def __init__(
        self, head: Head, parser: RequestParser, wire: Wire, shared: Shared, *, peer: str, secure: bool
    ) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.peer = peer
        self.secure = secure
        self.answered = False  # the head of the answer was sent, or begun to be
        self.persistent = head.keep_alive  # whether the connection goes on after the answer
        self._rest = b""  # bytes of the requests behind this one
        self._unsent: memoryview | None = None
        self._parser = parser
        self._wire = wire
        self._shared = shared
        self._holding: Holding | None = None
        self._stream: Stream | None = None

    async def body(self, limit: int, *, principal: Hashable = None) -> bytes:
        """The whole body, of at most `limit` bytes; once.

        Its memory is counted against `principal` (default: the peer's address) until the request is answered.
        Raises TooLarge, Refusal (408, broken chunks) and ClientGone; none of them needs handling.
        """
        parser = self._parser
        if not parser.complete:
            if self.head.length is not None and self.head.length > limit:
                raise TooLarge("Request body too large")
            await self._read_body(limit, principal or self.peer)
        return self.whole_body(limit)

    async def hold(self, count: int, *, principal: Hashable = None) -> None:
        """Count memory that the request needs beside its body, as inflated bytes; given back with the answer.

        Raises ClientGone when there is no room for too long.
        """
        if self._holding is None:
            self._holding = self._shared.bodies.hold(principal or self.peer)
        try:
            await self._holding.take(count)
        except ClientGone:
            self._shared.ledger.refuse("unfinished_bodies")
            raise

    async def _read_body(self, limit: int, principal: Hashable) -> None:
        wire, parser, shared = self._wire, self._parser, self._shared
        if self.head.expects_continue and not parser.body_bytes and not self.answered:
            await wire.send(answer.CONTINUE)
        if parser.body_bytes > UNCOUNTED_BYTES:
            await self.hold(parser.body_bytes, principal=principal)
        pace = int(shared.settings.body_bytes_per_second * PACE_SECONDS)
        wire.due_in(PACE_SECONDS, pace=pace)
        reads = 0
        while not parser.complete:
            reads += 1
            if reads % 16 == 0:
                await trio.lowlevel.checkpoint()  # a fast sender must not keep the others waiting
            count = await wire.receive(shared.buffer)
            if count == 0:
                if wire.overdue and not shared.stopping:
                    raise Refusal(408, "http_slow_body", "Request body too slow")
                raise ClientGone
            before = parser.body_bytes
            end = parser.feed(shared.buffer, 0, count)
            if parser.body_bytes > limit:
                raise TooLarge("Request body too large")
            if end < count:
                self._rest = bytes(memoryview(shared.buffer)[end:count])
            if parser.body_bytes > UNCOUNTED_BYTES:
                left = wire.deadline - shared.clock()
                wire.not_due()
                await self.hold(parser.body_bytes - (before if self._holding else 0), principal=principal)
                wire.deadline = shared.clock() + left  # the client is not slow while we do not read
        wire.not_due()

    def whole_body(self, limit: int) -> bytes:
        """The body where all of it was read with the head; once. Raises TooLarge."""
        parser = self._parser
        assert parser.complete, "the body is not there yet"
        if parser.body_bytes > limit:
            raise TooLarge("Request body too large")
        pieces = parser.body
        parser.body = []
        first = pieces[0] if len(pieces) == 1 else None
        return first if isinstance(first, bytes) else b"".join(pieces)

    async def respond(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answer; returns when the kernel has all of it. Raises ClientGone, and ValueError for unsendable headers."""
        self.respond_nowait(status, headers, body)
        await self.finish()

    def respond_nowait(self, status: int, headers: Headers = (), body: bytes = b"") -> bool:
        """Answer as far as the kernel takes it: whether that is all; if not, `finish` goes on. Raises as `respond`."""
        assert not self.answered, "a request is answered once"
        shared = self._shared
        if not self._parser.complete or shared.stopping:
            self.persistent = False
        if status == 204 and not headers and self.persistent:
            self.answered = True
            data = shared.no_content
        else:
            data = self._whole(status, headers, body)
            self.answered = True
        sent = self._wire.send_nowait(data)
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            return False
        self._release()
        return True

    async def finish(self) -> None:
        """Send what is left of an answer. Raises ClientGone."""
        if self._unsent is not None:
            unsent, self._unsent = self._unsent, None
            await self._wire.send(unsent)
            self._release()

    def _whole(self, status: int, headers: Headers, body: bytes) -> bytes:
        head = answer.start(status, headers, self._shared.date)
        if headers and b"close" in (answer.given(headers, b"connection") or b"").lower():
            self.persistent = False
        if not answer.has_body(status):
            return head + self._end()
        length = len(body)
        if self.method == b"HEAD":
            length, body = int(answer.given(headers, b"content-length") or length), b""
        return b"%bContent-Length: %d\r\n%b%b" % (head, length, self._end(), body)

    def _end(self) -> bytes:
        return b"\r\n" if self.persistent else b"Connection: close\r\n\r\n"

    def stream(self, status: int, headers: Headers = ()) -> Stream:
        """Answer with a body of unknown length: `async with request.stream(200, …) as out`."""
        assert not self.answered, "a request is answered once"
        head = answer.start(status, headers, self._shared.date)
        self.answered = True
        if not self._parser.complete or self._shared.stopping or self.head.http_1_0:
            self.persistent = False
        if b"close" in (answer.given(headers, b"connection") or b"").lower():
            self.persistent = False
        chunked = not self.head.http_1_0 and answer.has_body(status)
        head += (b"Transfer-Encoding: chunked\r\n" if chunked else b"") + self._end()
        silent = self.method == b"HEAD" or not answer.has_body(status)
        self._stream = Stream(self._wire, self._shared.streams, head, chunked=chunked, silent=silent)
        if self._shared.stopping:
            self._stream.stop()
        return self._stream

    def end(self) -> None:
        """Called by the server when the handler has ended."""
        if self._stream is not None and self._stream.broken:
            self.persistent = False
        self._parser.body = []  # nobody takes it any more, and the parser's end waits for gc: llhttp's refers to it
        self._release()

    def _release(self) -> None:
        if self._holding is not None:
            self._holding.release()
            self._holding = None

    def take_rest(self) -> bytes:
        """The bytes that were read behind this request's end."""
        rest, self._rest = self._rest, b""
        return rest
