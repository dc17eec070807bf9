"""Drain targets that hurt: one refuses, one takes all and never answers, one answers a byte a second, and names that
nobody answers for.

* They run in a thread of the benchmark's own process, on the generator's core but behind it, and end with the block.
* What is refused is a port that is bound and not listened on, so that nobody else can get it meanwhile.
* The name server is a bound port as well: questions reach it, and nobody reads them.
* Bytes of slow answers are spread over each second, so that the generator never waits for a thousand of them.
"""

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from .programs import LOAD_CORE, allow_files, pin_to
from .silent_names import DOMAIN

TRICKLE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Patience: " + b"please" * 100
TICKS = 50  # of a second
RECEIVE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BadPeers:
    """Where the targets are: HOST:PORT of one of each kind, `*` being anything; and the name server's port."""

    places: tuple[str, ...]
    name_server: int


@contextmanager
def bad_peers() -> Iterator[BadPeers]:
    """One target of each kind."""
    allow_files()
    refusing, hanging, trickling = socket.socket(), socket.socket(), socket.socket()
    name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(refusing), closing(hanging), closing(trickling), closing(name_server):
        for sock in (refusing, hanging, trickling, name_server):
            sock.bind(("127.0.0.1", 0))
        for listener in (hanging, trickling):
            listener.listen(4096)
            listener.setblocking(False)
        over = threading.Event()
        thread = threading.Thread(target=_serve, args=(hanging, trickling, over), daemon=True)
        thread.start()
        ports = [sock.getsockname()[1] for sock in (refusing, hanging, trickling, name_server)]
        places = [f"127.0.0.1:{port}" for port in ports[:3]] + [f"*.{DOMAIN}:9"]
        try:
            yield BadPeers(tuple(places), ports[3])
        finally:
            over.set()
            thread.join()


def _serve(hanging: socket.socket, trickling: socket.socket, over: threading.Event) -> None:
    pin_to(LOAD_CORE)
    os.nice(10)  # of this thread alone, on Linux
    slow: list[dict[socket.socket, int]] = [{} for _ in range(TICKS)]  # by when in a second; bytes that were sent
    with selectors.DefaultSelector() as selector:
        selector.register(hanging, selectors.EVENT_READ)
        selector.register(trickling, selectors.EVENT_READ)
        tick, due = 0, time.monotonic()
        while not over.is_set():
            for key, _ in selector.select(max(0.0, due - time.monotonic())):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is hanging:
                    selector.register(_accept(sock), selectors.EVENT_READ)
                elif sock is trickling:
                    slow[tick % TICKS][_accept(sock)] = 0
                elif _take(sock) == b"":
                    selector.unregister(sock)
                    sock.close()
            if time.monotonic() >= due:
                due += 1 / TICKS
                tick += 1
                now = slow[tick % TICKS]
                slow[tick % TICKS] = {sock: sent + 1 for sock, sent in now.items() if _drip(sock, sent)}
        for key in list(selector.get_map().values()):
            if key.fileobj not in (hanging, trickling):
                key.fileobj.close()  # type: ignore[union-attr]
    for some in slow:
        for sock in some:
            sock.close()


def _accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.setblocking(False)
    return connection


def _take(connection: socket.socket) -> bytes | None:
    """What has come: b"" at the end, None for nothing."""
    try:
        return connection.recv(RECEIVE_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _drip(connection: socket.socket, sent: int) -> bool:
    """Read what is there, answer one byte; False when the other side is gone."""
    try:
        if _take(connection) != b"":
            connection.send(TRICKLE[sent % len(TRICKLE) : sent % len(TRICKLE) + 1])
            return True
    except OSError:
        pass
    connection.close()
    return False
