"""Syslog over TCP and TLS: connections in, bytes to the router.

Rules:

* The poller tells when a socket is readable: a switch of tasks, and a registration anew for each wait, cost more than
  a line. It is read until it has given less than was asked for, `READS_PER_TURN` times, or for `TURN_SECONDS`; then
  the router flushes and others have their turn; after one read of `READ_BYTES_BEHIND` while a drain or a tail has to
  catch up. No timer waits for more: under load reads are large, and idle every line goes at once (design section 2).
* Raw non-blocking sockets: a `SocketStream` costs three to ten times as much a read. Nothing is allocated for a
  connection that is silent but its task.
* What has to be awaited, tokens to load or room in memory, is left to the connection's task; then the socket is not
  watched, and the peer's kernel holds what it sends.
* A half-closed connection is read to its end and then closed (protocol section 11). A reset is an end too: what came
  before it was received.
* Whatever goes wrong with a connection ends that connection only, is counted in `Connections.ended`, and logged now
  and then.
* Cancelling the server drops what the kernel holds; what was read was taken before.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Protocol

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ..poller import Poller
from ..registry.records import Token
from .listening import Connections, accept_all
from .notices import Notices
from .tls import TlsReceiver

READ_BYTES = 64 * 1024  # larger ones are slower: the memory of each has to come from the kernel
READS_PER_TURN = 8  # design section 2: 4 to 16 make sends of 75 to 290 messages
READ_BYTES_BEHIND = 16 * 1024  # a reader that gets a piece of the spool every few turns has to gain on all inputs
TURN_SECONDS = 0.003  # what eight full reads of ordinary messages take; rubbish and odd ones take longer
HANDSHAKE_SECONDS = 10.0  # as much as a request's header section may take


class Stream(Protocol):
    """What the router keeps of one connection (logplex.router.Stream)."""

    @property
    def broken(self) -> str | None:
        """Why the connection should be closed."""

    def take(self, data: bytes) -> Callable[[], Awaitable[None]] | None:
        """Take what was received; returns what has to be awaited before more is."""

    async def end(self) -> None:
        """The peer has sent all."""


class Router(Protocol):
    """What the inputs need of the router (logplex.router.Router)."""

    def stream(self, *, bound: Token | None = None) -> Stream:
        """The state of a new connection."""

    def flush(self) -> None:
        """A turn has ended: what was taken may go."""

    @property
    def readers_behind(self) -> bool:
        """Whether drains or tails have to catch up with what the inputs take."""


async def serve_tcp(
    listeners: Sequence[socket.socket],
    router: Router,
    *,
    poller: Poller,
    connections: Connections,
    tls: ssl.SSLContext | None = None,
    bound: Token | None = None,
    handshake_seconds: float = HANDSHAKE_SECONDS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve listening, non-blocking sockets (listening.listen_tcp) until cancelled, and close them.

    Connections are accepted from `task_status.started()` on. `tls` makes them TLS; `bound` takes everything that
    comes to that token: a listener for RFC 3164 senders, whose tag cannot hold one.
    """
    serve = _Server(router, poller, bound, tls, handshake_seconds)
    try:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept_all, listener, serve, connections, serve.notices)
            task_status.started()
    finally:
        for listener in listeners:
            listener.close()


class _Server:
    """Serves each connection of some listeners in the same way."""

    def __init__(
        self,
        router: Router,
        poller: Poller,
        bound: Token | None,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self.notices = Notices()
        self.router = router
        self.poller = poller
        self._bound = bound
        self._tls = tls
        self._handshake_seconds = handshake_seconds

    async def __call__(self, connection: socket.socket, peer: Any) -> str:
        """Receive all that a connection sends; why it ended."""
        if self._tls is None:
            return await _Connection(self, connection, peer, self._stream(), connection.recv).run()
        receiver = TlsReceiver(connection, self._tls)
        try:
            with trio.fail_after(self._handshake_seconds):
                await receiver.handshake()
        except trio.TooSlowError:
            self.notices.warn("tls_handshake_too_slow", peer=peer[0])
            return "handshake"
        except OSError as exc:
            self.notices.warn("tls_handshake_failed", peer=peer[0], reason=_reason(exc))
            return "handshake"
        ended = await _Connection(self, connection, peer, self._stream(), receiver.receive, receiver).run()
        receiver.close()
        return ended

    def _stream(self) -> Stream:
        return self.router.stream(bound=self._bound)


class _Connection:
    """One connection: the poller has it read while its task waits; the task does what has to be awaited."""

    __slots__ = (
        "_crash",
        "_ended",
        "_further",
        "_number",
        "_peer",
        "_receive",
        "_server",
        "_stream",
        "_task",
        "_tls",
    )

    def __init__(
        self,
        server: _Server,
        connection: socket.socket,
        peer: Any,
        stream: Stream,
        receive: Callable[[int], bytes],
        tls: TlsReceiver | None = None,
    ) -> None:
        self._server = server
        self._number = connection.fileno()
        self._peer = peer
        self._stream = stream
        self._receive = receive
        self._tls = tls
        self._task: Task | None = None
        self._further: Callable[[], Awaitable[None]] | None = None
        self._crash: Exception | None = None
        self._ended = ""

    async def run(self) -> str:
        """Receive all that comes; why it ended, in a word."""
        while not self._ended:
            self._task = current_task()
            self._server.poller.watch(self._number, self._ready)
            await wait_task_rescheduled(self._abort)
            if self._crash is not None:
                raise self._crash
            further, self._further = self._further, None
            if further is not None:
                await further()
        if self._ended != "malformed":
            await self._stream.end()
            self._server.router.flush()
        return self._ended

    def _abort(self, _raise_cancel: Any) -> Abort:
        self._server.poller.remove(self._number)
        return Abort.SUCCEEDED

    def _ready(self, _events: int) -> None:
        """Called by the poller: take a turn, and wake the task if there is something for it."""
        try:
            self._take_turn()
        except Exception as exc:  # noqa: BLE001 - the bug of one connection must not end the poller of all
            self._crash = exc
        if self._ended or self._further is not None or self._crash is not None:
            self._server.poller.remove(self._number)
            assert self._task is not None
            reschedule(self._task)

    def _take_turn(self) -> None:
        router, stream, receive, tls = self._server.router, self._stream, self._receive, self._tls
        size, reads = (READ_BYTES_BEHIND, 1) if router.readers_behind else (READ_BYTES, READS_PER_TURN)
        due = monotonic() + TURN_SECONDS
        while True:
            try:
                data = receive(size)
            except BlockingIOError:
                break
            except OSError as exc:
                self._server.notices.warn("connection_broken", peer=self._peer[0], reason=_reason(exc))
                self._ended = "broken"
                return
            if not data:
                self._ended = "end"
                return
            self._further = stream.take(data)
            if stream.broken is not None:
                self._server.notices.warn("connection_closed", peer=self._peer[0], reason=stream.broken)
                self._ended = "malformed"
                break
            if self._further is not None:
                break
            if tls is not None and tls.over:  # no byte more will tell of it
                continue
            reads -= 1
            if not reads or (tls is None and len(data) < size) or monotonic() >= due:
                break
        router.flush()


def _reason(error: OSError) -> str:
    """What OpenSSL or the kernel says, without file and line."""
    return getattr(error, "reason", None) or error.strerror or str(error)
