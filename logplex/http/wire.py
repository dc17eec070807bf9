"""One client's socket, plain or TLS: non-blocking calls first, trio only when the kernel would block.

* A read or a write that the kernel takes at once costs a system call and no task switch; whoever loops over it has
  to pass a checkpoint now and then.
* There is no timer per call. A wire has a `deadline` that a sweep over all wires compares with the clock; a wire
  that is overdue is shut down for reading (and writing, when that is what stalls), which wakes its task.
* `ClientGone` is every way in which the other end can vanish; where a read meets the orderly end it returns 0.
"""

import math
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import trio
from trio.lowlevel import wait_readable, wait_writable

from .refusal import ClientGone

SEND_STALL_SECONDS = 60.0  # nginx' send_timeout: a client that takes nothing for so long has gone
PACE_SECONDS = 10.0  # over which the least speed of a body is measured
UNSENT_BYTES = 128 * 1024  # of a stream in the kernel: a thousand slow tails must not take gigabytes

# What a call on a non-blocking socket raises instead of waiting; SSLError is an OSError, so the order matters.
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """A connected socket; it owns it and closes it.

    `received` counts bytes. `overdue` says that the deadline has passed: nothing more is read.
    """

    __slots__ = ("__weakref__", "_clock", "_mark", "_pace", "_sending", "_socket", "deadline", "overdue", "received")

    def __init__(self, connected: socket.socket, clock: Callable[[], float]) -> None:
        self._socket = connected
        self._clock = clock
        self.deadline = math.inf
        self.overdue = False
        self.received = 0
        self._mark = 0
        self._pace = 0  # bytes in PACE_SECONDS; 0: the deadline is final
        self._sending = False

    async def shake_hands(self, context: ssl.SSLContext, seconds: float) -> None:
        """Become the server's side of a TLS connection. Raises ClientGone."""
        try:
            self._socket = secured = context.wrap_socket(
                self._socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
        except OSError as exc:
            raise ClientGone from exc
        self.due_in(seconds)
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                await self._wait(wait_readable)
            except ssl.SSLWantWriteError:
                await self._wait(wait_writable)
            except OSError as exc:
                raise ClientGone from exc
            else:
                return

    def due_in(self, seconds: float, *, pace: int = 0) -> None:
        """Have the wire overdue after `seconds`; with `pace`, unless so many bytes a PACE_SECONDS go on coming."""
        self.deadline = self._clock() + seconds
        self._pace = pace
        self._mark = self.received

    def not_due(self) -> None:
        """Lift the deadline."""
        self.deadline = math.inf

    def sweep(self, now: float) -> None:
        """Called when the deadline has passed."""
        if self._pace and self.received - self._mark >= self._pace:
            self._mark = self.received
            self.deadline = now + PACE_SECONDS
            return
        self.expire()

    def expire(self) -> None:
        """Wake the reading task for the last time: from now on `receive` returns 0."""
        self.overdue = True
        self.deadline = math.inf
        # Only the end of both directions wakes a task that waits to write.
        self.shut_down(socket.SHUT_RDWR if self._sending else socket.SHUT_RD)

    async def receive(self, buffer: bytearray, *, wait_first: bool = False) -> int:
        """Read into the start of `buffer`; returns the number of bytes, 0 at the end of input or when overdue.

        `wait_first` spares a call that is known to find nothing. Raises ClientGone when the connection is broken.
        """
        if wait_first and type(self._socket) is socket.socket:  # TLS may hold read data that the kernel knows not of
            await self._wait(wait_readable)
        while not self.overdue:
            try:
                count = self._socket.recv_into(buffer)
            except ssl.SSLWantWriteError:
                await self._wait(wait_writable)
            except _WOULD_BLOCK:
                await self._wait(wait_readable)
            except OSError as exc:
                raise ClientGone from exc
            else:
                self.received += count
                return count
        return 0

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write what the kernel takes; returns the number of bytes. Raises ClientGone.

        With TLS, data of which 0 bytes were taken have to be given again as they are.
        """
        try:
            return self._socket.send(data)
        except _WOULD_BLOCK:
            return 0
        except OSError as exc:
            raise ClientGone from exc

    async def send(self, data: bytes | memoryview) -> None:
        """Write all, waiting for the client to take it; a checkpoint only when it has to wait. Raises ClientGone."""
        sent = self.send_nowait(data)
        if sent == len(data):
            return
        rest = memoryview(data)
        self._sending = True
        while sent < len(rest):
            rest = rest[sent:]
            self.due_in(SEND_STALL_SECONDS)
            await self._wait(wait_writable)
            sent = self.send_nowait(rest)
        self._sending = False
        self.not_due()

    async def wait_readable(self) -> None:
        """Until a read may find something."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            await trio.lowlevel.checkpoint()
            return
        await self._wait(wait_readable)

    async def wait_writable(self) -> None:
        """Until a write may be taken."""
        await self._wait(wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], object]) -> None:
        try:
            await wait(self._socket)  # type: ignore[misc]
        except trio.ClosedResourceError as exc:
            raise ClientGone from exc
        if self.overdue and self._sending:
            raise ClientGone

    def prepare_stream(self) -> None:
        """Bound what the kernel holds for a reader that is too slow."""
        with suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def shut_down(self, how: int) -> None:
        """`socket.shutdown`, on the TCP connection itself; a connection that is broken already is none of ours."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, how)

    def say_goodbye(self) -> None:
        """Tell the client that nothing more comes; with TLS, by its own close too."""
        if isinstance(self._socket, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # what it says is sent; the client's own goodbye is not waited for
                self._socket.unwrap()
        self.shut_down(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; what the kernel took is still sent."""
        self._socket.close()
