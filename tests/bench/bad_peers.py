"""Drain targets that hurt: one refuses, one takes all and never answers, one answers a byte a second.

They run in a thread of the benchmark's own process and end with the block. What is refused is a port that is bound
and not listened on, so that nobody else can get it meanwhile.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

TRICKLE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Patience: " + b"please" * 100


@contextmanager
def bad_peers() -> Iterator[tuple[int, ...]]:
    """The ports of one target of each kind."""
    refusing, hanging, trickling = socket.socket(), socket.socket(), socket.socket()
    with closing(refusing), closing(hanging), closing(trickling):
        for listener in (refusing, hanging, trickling):
            listener.bind(("127.0.0.1", 0))
        for listener in (hanging, trickling):
            listener.listen(4096)
            listener.setblocking(False)
        over = threading.Event()
        thread = threading.Thread(target=_serve, args=(hanging, trickling, over), daemon=True)
        thread.start()
        try:
            yield tuple(listener.getsockname()[1] for listener in (refusing, hanging, trickling))
        finally:
            over.set()
            thread.join()


def _serve(hanging: socket.socket, trickling: socket.socket, over: threading.Event) -> None:
    held: list[socket.socket] = []
    slow: dict[socket.socket, int] = {}  # bytes of the answer that were sent
    with selectors.DefaultSelector() as selector:
        selector.register(hanging, selectors.EVENT_READ)
        selector.register(trickling, selectors.EVENT_READ)
        due = time.monotonic()
        while not over.is_set():
            for key, _ in selector.select(0.2):
                listener = key.fileobj
                assert isinstance(listener, socket.socket)
                connection, _ = listener.accept()
                connection.setblocking(False)
                if listener is hanging:
                    held.append(connection)
                else:
                    slow[connection] = 0
            if time.monotonic() >= due:
                due += 1
                slow = {connection: sent + 1 for connection, sent in slow.items() if _drip(connection, sent)}
    for connection in [*held, *slow]:
        connection.close()


def _drip(connection: socket.socket, sent: int) -> bool:
    """Read what is there, answer one byte; False when the other side is gone."""
    try:
        connection.recv(1 << 20)
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        return False
    try:
        connection.send(TRICKLE[sent % len(TRICKLE) : sent % len(TRICKLE) + 1])
    except OSError:
        connection.close()
        return False
    return True
