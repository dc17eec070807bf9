"""Syslog over TCP and TLS: connections in, bytes to the router.

Rules:

* A readable socket is read until it would block, `READS_PER_TURN` times, or for `TURN_SECONDS`; then the router
  flushes and others have their turn; after one read of `READ_BYTES_BEHIND` while a drain or a tail has to catch up. No
  timer waits for more: under load reads are large, and idle every line goes at once (design section 2).
* Raw non-blocking sockets: a `SocketStream` costs three to ten times as much a read. Nothing is allocated for a
  connection that is silent but its task.
* `feed` waits while memory is full; then the socket is not read, and the peer's kernel holds what it sends.
* A half-closed connection is read to its end and then closed (protocol section 11). A reset is an end too: what came
  before it was received.
* Whatever goes wrong with a connection ends that connection only, is counted in `Connections.ended`, and logged now
  and then.
* Cancelling the server drops what the kernel holds; what was read was fed before.
"""

import socket
import ssl
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

import trio

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

    async def feed(self, data: bytes) -> None:
        """Take what was received."""

    async def end(self) -> None:
        """The peer has sent all."""


class Router(Protocol):
    """What the inputs need of the router (logplex.router.Router)."""

    def stream(self, *, bound: Token | None = None) -> Stream:
        """The state of a new connection."""

    def flush(self, *, more: bool = False) -> None:
        """Nothing more is readable for the moment, or there is `more` than a turn allows to take."""

    @property
    def readers_behind(self) -> bool:
        """Whether drains or tails have to catch up with what the inputs take."""


async def serve_tcp(
    listeners: Sequence[socket.socket],
    router: Router,
    *,
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
    serve = _Server(router, bound, tls, handshake_seconds)
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
        self, router: Router, bound: Token | None, tls: ssl.SSLContext | None, handshake_seconds: float
    ) -> None:
        self.notices = Notices()
        self._router = router
        self._bound = bound
        self._tls = tls
        self._handshake_seconds = handshake_seconds

    async def __call__(self, connection: socket.socket, peer: Any) -> str:
        """Receive all that a connection sends; why it ended."""
        if self._tls is None:
            return await self._receive(connection, connection.recv, peer)
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
        ended = await self._receive(connection, receiver.receive, peer)
        receiver.close()
        return ended

    async def _receive(self, connection: socket.socket, receive: Callable[[int], bytes], peer: Any) -> str:
        router = self._router
        stream = router.stream(bound=self._bound)
        feed = stream.feed
        while True:
            size, reads = (READ_BYTES_BEHIND, 1) if router.readers_behind else (READ_BYTES, READS_PER_TURN)
            due = monotonic() + TURN_SECONDS
            while reads:
                try:
                    data = receive(size)
                except BlockingIOError:
                    router.flush()
                    await trio.lowlevel.wait_readable(connection)
                    break
                except OSError as exc:
                    self.notices.warn("connection_broken", peer=peer[0], reason=_reason(exc))
                    await stream.end()
                    router.flush()
                    return "broken"
                if not data:
                    await stream.end()
                    router.flush()
                    return "end"
                await feed(data)
                if stream.broken is not None:
                    router.flush()
                    self.notices.warn("connection_closed", peer=peer[0], reason=stream.broken)
                    return "malformed"
                reads = reads - 1 if monotonic() < due else 0
            else:
                router.flush(more=True)
                await trio.lowlevel.checkpoint()


def _reason(error: OSError) -> str:
    """What OpenSSL or the kernel says, without file and line."""
    return getattr(error, "reason", None) or error.strerror or str(error)
