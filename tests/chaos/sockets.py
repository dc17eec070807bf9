"""Listening sockets that can be closed and opened again at the same port, and connections cut in all manners."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from ..ports import free_port


def reset(connection: socket.socket) -> None:
    """Close with RST: what was not read is thrown away."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close(connection)


def close(connection: socket.socket) -> None:
    """Close, also when another thread is reading."""
    connection.close()


def shut(connection: socket.socket) -> None:
    """Send FIN; the other side may go on."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


class Door:
    """A port that is open (every connection served in a thread) or closed (connections are refused)."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.port = free_port()
        self._serve = serve
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Listen, if it does not."""
        with self._lock:
            if self._listener is not None:
                return
            listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse from now on; connections that are open stay."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
