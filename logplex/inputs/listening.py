"""Listening sockets, and the loop that accepts connections from them.

Rules:

* Sockets are bound before anything else starts, so that a wrong address is an error of the start.
* Connections are bounded. At the bound nothing is accepted: clients wait in the kernel's backlog, unharmed.
* Descriptors are left for the rest of the server (spool, config, drains): a new socket whose number shows that only
  `SPARE_DESCRIPTORS` are left is closed, and accepting pauses. It also pauses when the kernel has none (EMFILE), as
  trio's serve_listeners does.
* Peers that vanished are found by TCP keep-alive: a silent connection is kept, a dead one is not.
* A crash while one connection is served is logged and counted, and ends that connection only.
"""

import errno
import resource
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from ..errors import SetupError
from .notices import Notices

BACKLOG = 4096  # clients that wait while 10,000 come at once; the kernel cuts it to net.core.somaxconn
SPARE_DESCRIPTORS = 50
PAUSE_SECONDS = 0.1  # trio's _serve_listeners.SLEEP_TIME: descriptors come back only with time
ACCEPTS_PER_TURN = 64
KEEPALIVE_SECONDS = 120  # of silence before the first probe
KEEPALIVE_PROBES = 4
DATAGRAM_BUFFER_BYTES = 8 * 1024 * 1024  # a second of 40,000 datagrams of 200 bytes, without root as much as allowed

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_SO_RCVBUFFORCE = 33  # Linux, socket(7); Python has no name for it

_log = structlog.get_logger()

Serve = Callable[[socket.socket, Any], Awaitable[str]]
"""Serves one accepted, non-blocking connection from (socket, peer) to its end, and says why it ended, in a word."""


class Connections:
    """How many connections are open, of all listeners that share the bound, and why the others ended."""

    __slots__ = ("_waiting", "accepted", "ended", "limit", "max_descriptor", "open")

    def __init__(self, limit: int = 0) -> None:
        """`limit` 0: only descriptors bound them. Raise the soft limit of open files before."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = limit
        self.max_descriptor = soft - SPARE_DESCRIPTORS
        self.open = 0
        self.accepted = 0
        self.ended: Counter[str] = Counter()
        self._waiting = trio.lowlevel.ParkingLot()

    async def room(self) -> None:
        """Wait while as many are open as may be."""
        while 0 < self.limit <= self.open:
            await self._waiting.park()

    def begin(self) -> None:
        """One more is open."""
        self.open += 1
        self.accepted += 1

    def end(self, reason: str) -> None:
        """One has ended."""
        self.open -= 1
        self.ended[reason] += 1
        self._waiting.unpark()


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Listening, non-blocking sockets on every address of `host` ("": all), on one port for all of them.

    Raises SetupError. Whoever serves them closes them.
    """
    return _bind(host, port, socket.SOCK_STREAM)


def listen_udp(host: str, port: int) -> list[socket.socket]:
    """As `listen_tcp`, for datagrams, with a large receive buffer."""
    return _bind(host, port, socket.SOCK_DGRAM)


def _bind(host: str, port: int, kind: socket.SocketKind) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, _, protocol, _, address in socket.getaddrinfo(
            host or None, port, type=kind, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            if sockets[0] is not listener and port == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])  # noqa: PLW2901 - port 0 was chosen
            _configure(listener)
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen(BACKLOG)
            listener.setblocking(False)
    except OSError as exc:
        for listener in sockets:
            listener.close()
        raise SetupError(f"cannot listen on {host or '*'}:{port}: {exc.strerror or exc}") from exc
    return sockets


def _configure(listener: socket.socket) -> None:
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if listener.type == socket.SOCK_STREAM:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit these: four system calls less a connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS // KEEPALIVE_PROBES)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        return
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, DATAGRAM_BUFFER_BYTES)
    except OSError:  # not root: the kernel cuts what is asked for to net.core.rmem_max
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER_BYTES)


async def accept_all(listener: socket.socket, serve: Serve, connections: Connections, notices: Notices) -> None:
    """Accept connections and serve each in a task of its own, until cancelled; that ends all of them."""
    async with trio.open_nursery() as nursery:
        while True:
            await connections.room()
            for _ in range(ACCEPTS_PER_TURN):
                try:
                    connection, peer = listener.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(listener)
                    break
                except OSError as exc:
                    if exc.errno in _EXHAUSTED:
                        notices.warn("accept_paused", reason=exc.strerror)
                        await trio.sleep(PAUSE_SECONDS)
                    break  # anything else has happened to that one connection before it was accepted: accept(2)
                connections.begin()
                if connection.fileno() >= connections.max_descriptor:
                    connection.close()
                    connections.end("no descriptors")
                    notices.warn("connection_refused", reason="too few file descriptors are left")
                    await trio.sleep(PAUSE_SECONDS)
                    break
                connection.setblocking(False)
                nursery.start_soon(_supervise, serve, connection, peer, connections, name=serve)
                if 0 < connections.limit <= connections.open:
                    notices.warn("accept_paused", reason="as many connections as may be", open=connections.open)
                    break
            else:
                await trio.lowlevel.checkpoint()


async def _supervise(serve: Serve, connection: socket.socket, peer: Any, connections: Connections) -> None:
    reason = "cancelled"
    try:
        reason = await serve(connection, peer)
    except Exception:  # noqa: BLE001 - the supervisor: a bug costs one connection
        reason = "crash"
        _log.exception("connection_crashed", peer=peer[0])
    finally:
        connection.close()
        connections.end(reason)
