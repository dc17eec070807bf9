"""Syslog over TCP and TLS: listeners whose connections bring bytes to the router.

Rules:

* What a connection does is in connection.py; TLS shakes hands first, in its own task and little time.
* Whatever goes wrong with a connection ends that connection only, is counted in `Connections.ended`, and logged now
  and then.
* Cancelling the server drops what the kernel holds; what was read was taken before.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Any

import trio

from ..poller import Poller
from ..registry.records import Token
from .connection import Connection, Router, Shared, reason
from .listening import Connections, accept_all
from .tls import TlsReceiver

HANDSHAKE_SECONDS = 10.0  # as much as a request's header section may take


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
                nursery.start_soon(accept_all, listener, serve, connections, serve.shared.notices)
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
        self.shared = Shared(router, poller)
        self._bound = bound
        self._tls = tls
        self._handshake_seconds = handshake_seconds

    async def __call__(self, connection: socket.socket, peer: Any) -> str:
        """Receive all that a connection sends; why it ended."""
        shared = self.shared
        if self._tls is None:
            return await Connection(shared, connection, peer, self._bound).run()
        receiver = TlsReceiver(connection, self._tls)
        try:
            with trio.fail_after(self._handshake_seconds):
                await receiver.handshake()
        except trio.TooSlowError:
            shared.notices.warn("tls_handshake_too_slow", peer=peer[0])
            return "handshake"
        except OSError as exc:
            shared.notices.warn("tls_handshake_failed", peer=peer[0], reason=reason(exc))
            return "handshake"
        ended = await Connection(shared, connection, peer, self._bound, receiver).run()
        receiver.close()
        return ended
