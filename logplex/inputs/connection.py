"""One connection with syslog: read when the poller tells, taken by the router.

Rules (tests/inputs/test_syslog.py):

* A switch of tasks, and a registration anew for each wait, cost more than a line: the poller calls, and the task does
  only what has to be awaited, tokens to load or room in memory. Meanwhile the socket is not watched, and the peer's
  kernel holds what it sends.
* A socket is read until it has given less than was asked for, `READS_PER_TURN` times, or for `TURN_SECONDS`; then the
  router flushes and others have their turn; after one read of `READ_BYTES_BEHIND` while a drain or a tail has to catch
  up. No timer waits for more: under load reads are large, and idle every line goes at once (design section 2).
* Less than `SMALL_BYTES`, from a connection that brings little, is taken at the end of the poller's turn together with
  what others brought (small_reads.py).
* Raw non-blocking sockets: a `SocketStream` costs three to ten times as much a read. Nothing is allocated for a
  connection that is silent but its task.
* A half-closed connection is read to its end and then closed (protocol section 11). A reset is an end too: what came
  before it was received.
"""

import socket
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ..poller import Poller
from ..registry.records import Token
from .notices import Notices
from .tls import TlsReceiver

READ_BYTES = 64 * 1024  # larger ones are slower: the memory of each has to come from the kernel
READS_PER_TURN = 8  # design section 2: 4 to 16 make sends of 75 to 290 messages
SMALL_BYTES = 4096
READ_BYTES_BEHIND = 16 * 1024  # a reader that gets a piece of the spool every few turns has to gain on all inputs
TURN_SECONDS = 0.003  # what eight full reads of ordinary messages take; rubbish and odd ones take longer


class Stream(Protocol):
    """What the router keeps of one connection (logplex.router.Stream)."""

    @property
    def broken(self) -> str | None:
        """Why the connection should be closed."""

    def take(self, data: bytes) -> Callable[[], Awaitable[None]] | None:
        """Take what was received; returns what has to be awaited before more is."""

    async def end(self) -> None:
        """The peer has sent all."""


class SmallReads(Protocol):
    """Small reads of many connections, taken together (logplex.small_reads)."""

    def add(self, stream: Any, data: bytes, reader: "Connection") -> bool:
        """Keep a read for `take`; False: it is for the stream itself."""

    def take(self) -> None:
        """Take all of them."""


class Router(Protocol):
    """What the inputs need of the router (logplex.router.Router)."""

    def stream(self, *, bound: Token | None = None) -> Stream:
        """The state of a new connection."""

    def small_reads(self) -> SmallReads:
        """What takes the small reads of these connections."""

    def flush(self) -> None:
        """A turn has ended: what was taken may go."""

    @property
    def readers_behind(self) -> bool:
        """Whether drains or tails have to catch up with what the inputs take."""


class Shared:
    """What the connections of some listeners have in common; `notices` bounds what is logged of them."""

    def __init__(self, router: Router, poller: Poller) -> None:
        self.router = router
        self.poller = poller
        self.notices = Notices()
        self._small_reads = router.small_reads()
        self._takes_soon = False

    def gather(self, connection: "Connection", stream: Stream, data: bytes) -> bool:
        """Have a small read taken with others at the end of the turn; False where that may not be."""
        if not self._small_reads.add(stream, data, connection):
            return False
        if not self._takes_soon:
            self._takes_soon = True
            self.poller.call_soon(self.take_gathered)
        return True

    def take_gathered(self) -> None:
        """Take what was gathered."""
        self._takes_soon = False
        self._small_reads.take()
        self.router.flush()


class Connection:
    """One connection: the poller has it read while its task waits; the task does what has to be awaited."""

    __slots__ = (
        "_crash",
        "_ended",
        "_further",
        "_is_quiet",
        "_number",
        "_peer",
        "_receive",
        "_shared",
        "_stream",
        "_task",
        "_tls",
    )

    def __init__(
        self,
        shared: Shared,
        connection: socket.socket,
        peer: Any,
        bound: Token | None = None,
        tls: TlsReceiver | None = None,
    ) -> None:
        self._shared = shared
        self._number = connection.fileno()
        self._peer = peer
        self._stream = shared.router.stream(bound=bound)
        self._receive = connection.recv if tls is None else tls.receive
        self._tls = tls
        self._is_quiet = True  # its last turn brought little
        self._task: Task | None = None
        self._further: Callable[[], Awaitable[None]] | None = None
        self._crash: Exception | None = None
        self._ended = ""

    async def run(self) -> str:
        """Receive all that comes; why it ended, in a word."""
        while not self._ended:
            try:
                if self._holds_more:
                    self._take_turn()
                else:
                    await self._wait()
            finally:
                further, self._further = self._further, None
                if further is not None:
                    await further()  # also when cancelled: then it counts what it gives up
                    self._shared.router.flush()
            if self._crash is not None:
                raise self._crash
        if self._ended != "malformed":
            await self._stream.end()
            self._shared.router.flush()
        return self._ended

    @property
    def _holds_more(self) -> bool:
        """Whether there is something of which the socket may tell no more: TLS keeps it with what came before."""
        return self._tls is not None and self._tls.holds_more

    async def _wait(self) -> None:
        """Until there is something for the task."""
        self._task = current_task()
        self._shared.poller.watch(self._number, self._ready)
        await wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: Any) -> Abort:
        self._shared.poller.remove(self._number)
        self._task = None
        self._shared.take_gathered()
        return Abort.SUCCEEDED

    def _ready(self, _events: int) -> None:
        """Called by the poller: take a turn."""
        try:
            self._take_turn()
        except Exception as exc:  # noqa: BLE001 - the bug of one connection must not end the poller of all
            self._crash = exc
        self._see_to_it()

    def take_alone(self, data: bytes) -> None:
        """Take what was not taken together with others."""
        try:
            self._take(data)
        except Exception as exc:  # noqa: BLE001 - as above
            self._crash = exc
        self._see_to_it()

    def crashed(self, error: Exception) -> None:
        """End with an error of ours."""
        self._crash = error
        self._see_to_it()

    def _see_to_it(self) -> None:
        """Wake the task if there is something for it."""
        if self._task is None:
            return
        if self._ended or self._further is not None or self._crash is not None or self._holds_more:
            self._shared.poller.remove(self._number)
            reschedule(self._task)
            self._task = None

    def _take_turn(self) -> None:
        if not self._is_quiet:
            self._take_much()
        else:
            data = self._read(SMALL_BYTES)
            if data is None:
                return
            drained = self._is_drained(data, SMALL_BYTES)
            self._is_quiet = len(data) < SMALL_BYTES  # a TLS record may bring more
            if drained and self._is_quiet and not self._holds_more and self._shared.gather(self, self._stream, data):
                return
            if self._take(data) and not drained:
                self._take_much()
        self._shared.router.flush()

    def _take_much(self) -> None:
        size, reads = (READ_BYTES_BEHIND, 1) if self._shared.router.readers_behind else (READ_BYTES, READS_PER_TURN)
        due = monotonic() + TURN_SECONDS
        self._is_quiet = False
        while (data := self._read(size)) is not None and self._take(data):
            if self._is_drained(data, size):
                self._is_quiet = len(data) < SMALL_BYTES
                break
            reads -= 1
            if not reads or monotonic() >= due:
                break

    def _is_drained(self, data: bytes, size: int) -> bool:
        """Whether a read of `size` that gave this took all that was there: the poller tells of more."""
        return len(data) < size if self._tls is None else self._tls.drained

    def _read(self, size: int) -> bytes | None:
        """What is there; None when nothing is, or nothing will be."""
        try:
            data = self._receive(size)
        except BlockingIOError:
            return None
        except OSError as exc:
            self._shared.notices.warn("connection_broken", peer=self._peer[0], reason=reason(exc))
            self._ended = "broken"
            return None
        if not data:
            self._ended = "end"
            return None
        return data

    def _take(self, data: bytes) -> bool:
        """Take what was read; whether more may be."""
        stream = self._stream
        self._further = stream.take(data)
        if stream.broken is not None:
            self._shared.notices.warn("connection_closed", peer=self._peer[0], reason=stream.broken)
            self._ended = "malformed"
        return self._further is None and not self._ended


def reason(error: OSError) -> str:
    """What OpenSSL or the kernel says, without file and line."""
    return getattr(error, "reason", None) or error.strerror or str(error)
