"""The HTTP server: listening sockets in, connections of their own tasks out.

* One task a connection; one sweep a second over all of them for whatever is too slow, instead of timers.
* Accepting pauses when files run out (EMFILE and its like), and 50 descriptors stay spare for the spool, drains and
  look-ups. At the bound of connections the longest idle ones make room; where none is idle, clients wait in the
  kernel's queue.
* `stop` is graceful: listeners close, idle connections close, requests that have begun are answered with
  `Connection: close`.
"""

import errno
import resource
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
import trio

from ..config import Settings
from ..ledger import Ledger
from ..poller import Poller
from .bodies import Bodies
from .connection import Connection
from .request import Shared
from .routes import Routes
from .wire import Wire

SPARE_FILES = 50
SWEEP_SECONDS = 1.0
PAUSE_SECONDS = 0.1  # of accepting without files; trio's serve_listeners has the same
ACCEPTS_IN_A_ROW = 64
STOP_SECONDS = 5.0  # more than a commit may take; what holds a reply for longer will not give one
LEAST_IDLE_SECONDS = 1.0  # who has just connected, or been answered, is about to ask
_OUT_OF_FILES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket and what is served there; with a context, over TLS. The server closes it."""

    socket: socket.socket
    routes: Routes
    context: ssl.SSLContext | None = None


class Server:
    """Serves listeners until `stop`. `clock` is for deadlines, in seconds."""

    def __init__(
        self, settings: Settings, ledger: Ledger, poller: Poller, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._poller = poller
        self._clock = clock
        self._connections: set[Connection] = set()
        self._listeners: Sequence[Listener] = ()
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        self._bound = settings.connections or self._files
        self._shared = Shared(
            settings=settings, ledger=ledger, clock=clock, bodies=Bodies(settings.unfinished_body_bytes)
        )
        self._pausing = False
        self._scope: trio.CancelScope

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def serve(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` was called and the last request answered. Cancelled, it closes everything at once."""
        self._listeners = listeners
        self._shared.set_date(time.time())
        try:
            async with trio.open_nursery() as helpers:
                helpers.start_soon(self._sweep_forever)
                async with trio.open_nursery() as connections:
                    self._scope = connections.cancel_scope
                    for listener in listeners:
                        listener.socket.setblocking(False)
                        connections.start_soon(self._accept, listener, connections)
                    task_status.started()
                helpers.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Accept nothing more; `serve` returns when what has begun is answered, after `seconds` in any case."""
        self._shared.stopping = True
        self._scope.deadline = trio.current_time() + seconds
        for listener in self._listeners:
            trio.lowlevel.notify_closing(listener.socket)
            listener.socket.close()
        for stream in list(self._shared.streams):
            stream.stop()
        for connection in self._connections:
            if not connection.busy:
                connection.wire.expire()

    def sweep(self) -> None:
        """Look for what is overdue; called every second while `serve` runs."""
        self._shared.set_date(time.time())
        now = self._clock()
        for connection in self._connections:
            if connection.wire.deadline <= now:
                connection.wire.sweep(now)

    async def _sweep_forever(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            self.sweep()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        in_a_row = 0
        while not self._shared.stopping:
            try:
                if len(self._connections) >= self._bound:
                    await trio.lowlevel.wait_readable(listener.socket)  # nobody has to go before somebody comes
                    if len(self._connections) >= self._bound:
                        await self._make_room("connections")
                        continue
                client, address = listener.socket.accept()
            except BlockingIOError:
                in_a_row = 0
                self._pausing = False
                with suppress(trio.ClosedResourceError, ValueError):  # closed by `stop`
                    await trio.lowlevel.wait_readable(listener.socket)
                continue
            except (trio.ClosedResourceError, ValueError):
                continue
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    await self._make_room(errno.errorcode[error.errno])
                else:  # the client left while it waited (ECONNABORTED and many more, see accept(2))
                    await trio.lowlevel.checkpoint()
                continue
            if client.fileno() >= self._files:  # the kernel gives the lowest free number
                client.close()
                self._shared.ledger.refuse("no_files")
                await self._make_room("spare files")
                continue
            self._connect(client, str(address[0]), listener, nursery)
            in_a_row += 1
            if in_a_row % ACCEPTS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()

    def _connect(self, client: socket.socket, peer: str, listener: Listener, nursery: trio.Nursery) -> None:
        client.setblocking(False)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(client, self._poller, self._clock)
        except OSError:  # reset already, or no memory of the kernel's for one more (epoll_ctl(2): ENOMEM, ENOSPC)
            client.close()
            return
        connection = Connection(wire, self._shared, peer.removeprefix("::ffff:"), self._connections)
        nursery.start_soon(connection.run, listener.routes, listener.context, name="http connection")

    async def _make_room(self, missing: str) -> None:
        now = self._clock()
        idle = sorted(
            (connection for connection in self._connections if connection.idle_seconds(now) >= LEAST_IDLE_SECONDS),
            key=lambda connection: -connection.idle_seconds(now),
        )
        for connection in idle[: max(1, len(self._connections) // 100)]:
            connection.wire.expire()
        if not self._pausing:
            self._pausing = True
            log.warning("accept_paused", missing=missing, connections=len(self._connections), idle=len(idle))
        await trio.sleep(PAUSE_SECONDS if not idle else 0)
