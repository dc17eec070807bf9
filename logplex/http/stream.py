"""An answer whose length nobody knows yet: a tail, a backlog, a stream of an ASGI application.

* `send` waits until the client takes it. `send_nowait` never waits: one task writes to a thousand readers, and one
  that takes nothing is told by the answer 0.
* A body that ends in an exception ends without its last chunk, so that the client can tell it from a whole one.
* HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from .answer import LAST_CHUNK
from .refusal import ClientGone
from .wire import Wire

MAX_DISCARDED_BYTES = 1024 * 1024  # at once, of what a client sends while it reads a stream; above it is cut off
_discarded = bytearray(4096)  # nobody looks at it


class Stream:
    """The body of an answer, between `async with`; everything may raise ClientGone, which needs no handling.

    `gone` says that the client has closed or broken its connection, `broken` that the body has no proper end.
    """

    __slots__ = ("_chunked", "_head", "_rest", "_silent", "_stopped", "_streams", "_wire", "broken", "gone")

    # The same bytes for a thousand readers are framed once, and held once when the kernels do not take them.
    _framed: tuple[bytes, bytes] = (b"", b"")

    def __init__(self, wire: Wire, streams: "set[Stream]", head: bytes, *, chunked: bool, silent: bool) -> None:
        self._wire = wire
        self._streams = streams
        self._head = head
        self._chunked = chunked
        self._silent = silent  # an answer to HEAD: its body is not sent
        self._rest: memoryview | bytes = b""  # taken from send_nowait and not yet by the kernel
        self._stopped = False
        self.gone = False
        self.broken = True

    async def __aenter__(self) -> Self:
        self._wire.prepare_stream()
        await self._send(self._head)
        self._streams.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.discard(self)
        if kind is None and not self.gone:
            await self._send(LAST_CHUNK if self._chunked and not self._silent else b"")
            self.broken = False

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; returns when the kernel has it."""
        if data and not self._silent:
            await self._send(self._frame(data))

    def send_nowait(self, data: bytes) -> int:
        """Send a piece without waiting; returns `len(data)`, or 0 when the client is behind and nothing was taken.

        What the kernel does not take of it is kept and sent on first, so one piece at most is held for a slow
        reader, and shared by all readers that were given the same object. Raises ClientGone.
        """
        if self.gone:
            raise ClientGone
        if not data or self._silent:
            return len(data)
        try:
            if self._rest and not self._flush():
                return 0
            framed = self._frame(data)
            sent = self._wire.send_nowait(framed)
            if sent < len(framed):
                self._rest = memoryview(framed)[sent:]
                self._flush()  # until the kernel takes nothing: only then it tells when there is room
        except ClientGone:
            self._end(gone=True)
            raise
        return len(data)

    async def wait_gone(self, on_room: Callable[[], None] | None = None) -> None:
        """Until the client has gone, `stop` was called, or the server stops; the handler then ends as it likes.

        While it runs, what `send_nowait` could not send is sent on, and `on_room` is called when a piece can be
        taken again. What the client sends is thrown away; its end of input counts as gone.
        """
        try:
            while not (self.gone or self._stopped):
                if self._rest and self._flush() and on_room is not None:
                    on_room()
                elif self._wire.discard(_discarded, MAX_DISCARDED_BYTES):
                    await self._wire.wait()
                else:
                    self.gone = True
        except ClientGone:
            self._end(gone=True)

    def stop(self) -> None:
        """Have `wait_gone` return."""
        self._end(gone=False)

    def _end(self, *, gone: bool) -> None:
        self.gone = self.gone or gone
        self._stopped = True
        self._wire.wake()

    def _frame(self, data: bytes) -> bytes:
        if not self._chunked:
            return data
        last, framed = Stream._framed
        if last is not data:
            framed = b"%x\r\n%b\r\n" % (len(data), data)
            Stream._framed = data, framed
        return framed

    def _flush(self) -> bool:
        while self._rest:
            sent = self._wire.send_nowait(self._rest)
            if sent == 0:
                return False
            self._rest = self._rest[sent:]
        return True

    async def _send(self, framed: bytes) -> None:
        if self.gone:
            raise ClientGone
        try:
            if self._rest:
                rest, self._rest = self._rest, b""
                await self._wire.send(rest)
            await self._wire.send(framed)
        except ClientGone:
            self._end(gone=True)
            raise
