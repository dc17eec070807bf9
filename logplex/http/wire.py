"""One client's socket, plain or TLS: non-blocking calls, and a wait only when the kernel would block.

* A read or a write that the kernel takes at once costs a system call and no task switch; whoever loops over it has
  to pass a checkpoint now and then.
* There is no timer per call. A wire has a `deadline` that a sweep over all wires compares with the clock; one that
  is overdue is woken, and reads no more.
* One task at a time waits for a wire; any task may write to it.
* `ClientGone` is every way in which the other end can vanish; where a read meets the orderly end it returns 0.
"""

import math
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ..poller import Poller
from .refusal import ClientGone

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
SEND_SECONDS = 60.0  # nginx' send_timeout; in it a client takes at least
SEND_BYTES = 64 * 1024  # or has gone: a trickle would hold an answer's memory for hours
PACE_SECONDS = 10.0  # over which the least speed of a body is measured
UNSENT_BYTES = 128 * 1024  # of a stream in the kernel: a thousand slow tails must not take gigabytes

# What a call on a non-blocking socket raises instead of waiting; the last two are OSErrors of their own.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """A connected socket; it owns it and closes it.

    `received` counts bytes. `overdue` says that the deadline has passed: nothing more is read.
    """

    __slots__ = (
        "_at_once",
        "_clock",
        "_ended",
        "_mark",
        "_pace",
        "_poller",
        "_readable",
        "_secure",
        "_socket",
        "_task",
        "deadline",
        "overdue",
        "received",
    )

    def __init__(self, connected: socket.socket, poller: Poller, clock: Callable[[], float]) -> None:
        self._socket = connected
        self._secure = False
        self._poller = poller
        self._clock = clock
        self._task: Task | None = None
        self._at_once: Callable[[], bool] | None = None
        self._readable = False  # a read may find something
        self._ended = False  # the client has sent its last
        self.deadline = math.inf
        self.overdue = False
        self.received = 0
        self._mark = 0
        self._pace = 0  # bytes in PACE_SECONDS; 0: the deadline is final
        poller.add(connected.fileno(), self.ready)

    # Readiness.

    def ready(self, events: int) -> None:
        """Called by the poller."""
        if events & READABLE:
            self._readable = True
            if events & ENDED:
                self._ended = True
        if self._task is None:
            return
        at_once = self._at_once
        if at_once is None or (self._readable and not at_once()):
            self.wake()

    def wake(self) -> None:
        """Have `wait` return."""
        if self._task is not None:
            reschedule(self._task)
            self._task = None

    async def wait(self) -> None:
        """Until something has changed: readable, writable, broken, overdue, or `wake` was called. A checkpoint."""
        assert self._task is None, "one task at a time waits for a wire"
        self._task = current_task()
        await wait_task_rescheduled(self._abort)

    async def wait_for_input(self, at_once: Callable[[], bool]) -> None:
        """Until there is something to read, or nothing ever will be; but `at_once` is called first, and what it sees
        to (True) ends no wait. It may end it with `wake`."""
        if self._readable or self.overdue:
            return
        self._at_once = at_once
        try:
            await self.wait()
        finally:
            self._at_once = None

    def _abort(self, _raise_cancel: Any) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    # Deadlines.

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
        """From now on `receive` returns 0, and a `send` that has to wait raises ClientGone."""
        self.overdue = True
        self.deadline = math.inf
        self.wake()

    # Bytes.

    @property
    def readable(self) -> bool:
        """Whether a read may find something without a wait."""
        return self._readable

    async def shake_hands(self, context: ssl.SSLContext, seconds: float) -> None:
        """Become the server's side of a TLS connection. Raises ClientGone."""
        try:
            self._socket = secured = context.wrap_socket(
                self._socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            self._secure = True
            self.due_in(seconds)
            while True:
                try:
                    secured.do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    await self.wait()
                    if self.overdue:
                        raise ClientGone from None
                else:
                    return
        except (OSError, ValueError) as exc:  # ValueError: the client has gone before it was wrapped
            raise ClientGone from exc

    async def receive(self, buffer: bytearray) -> int:
        """Read into the start of `buffer`; returns the number of bytes, 0 at the end of input or when overdue.

        Raises ClientGone when the connection is broken.
        """
        while not self.overdue:
            if not self._readable:
                self._task = current_task()
                await wait_task_rescheduled(self._abort)
                continue
            count = self.receive_nowait(buffer)
            if count is not None:
                return count
        return 0

    def receive_nowait(self, buffer: bytearray) -> int | None:
        """As `receive`, without a wait: None when there is nothing to read."""
        try:
            count = self._socket.recv_into(buffer)
        except WOULD_BLOCK:
            self._readable = False
            return None
        except OSError as exc:
            raise ClientGone from exc
        # A read that does not fill the buffer has emptied the kernel's (epoll(7), question 9), but not OpenSSL's.
        if 0 < count < len(buffer) and not self._secure and not self._ended:
            self._readable = False
        self.received += count
        return count

    def discard(self, buffer: bytearray, most: int) -> bool:
        """Read and throw away what is there; False at the end of input. Raises ClientGone, also over `most` bytes."""
        until = self.received + most
        while self._readable and self.received < until:
            try:
                count = self._socket.recv_into(buffer)
            except WOULD_BLOCK:
                self._readable = False
                return True
            except OSError as exc:
                raise ClientGone from exc
            self.received += count
            if count == 0:
                return False
        if self._readable:
            raise ClientGone
        return True

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write what the kernel takes; returns the number of bytes. Raises ClientGone.

        With TLS, data of which 0 bytes were taken have to be given again as they are.
        """
        try:
            return self._socket.send(data)
        except WOULD_BLOCK:
            return 0
        except OSError as exc:
            raise ClientGone from exc

    async def send(self, data: bytes | memoryview) -> None:
        """Write all, waiting for the client to take it; a checkpoint only when it has to wait. Raises ClientGone."""
        sent = self.send_nowait(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        self.due_in(SEND_SECONDS)
        due_left = len(rest)  # how much was left when the deadline was set
        while rest:
            sent = self.send_nowait(rest)
            rest = rest[sent:]
            if due_left - len(rest) >= SEND_BYTES:
                self.due_in(SEND_SECONDS)
                due_left = len(rest)
            if sent == 0:  # only after a write that takes nothing the kernel tells when there is room
                await self.wait()
                if self.overdue:
                    raise ClientGone
        self.not_due()

    def prepare_stream(self) -> None:
        """Bound what the kernel holds for a reader that is too slow."""
        with suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def say_goodbye(self) -> None:
        """Tell the client that nothing more comes; with TLS, by its own close too, whose answer is not waited for."""
        if isinstance(self._socket, ssl.SSLSocket):
            with suppress(OSError, ValueError):
                self._socket.unwrap()
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)  # of TCP: that of SSLSocket would end TLS unsaid

    def close(self) -> None:
        """Close the socket; what the kernel took is still sent."""
        self._poller.remove(self._socket.fileno())
        self._socket.close()
