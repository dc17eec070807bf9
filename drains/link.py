"""A drain's connection: a non-blocking socket, plain or with TLS, watched by the poller of the server.

Rules:

* `send` never waits: it returns what was taken, 0 when the kernel would block. `recv` returns None when there is
  nothing, b"" at the end. Both raise OSError (ssl.SSLError is one) when the connection is broken.
* A link is watched for reading as long as it lives; its `on_readable` is called by the poller, which all connections
  of the server share, and must not block or raise.
* A link that says little and often is looked away from for a while (`rest`), which costs no task either.
* With TLS, `locked` bytes of what was not taken must be offered again unchanged: OpenSSL has begun their record.
* Whoever dialled closes; closing twice is fine.
"""

import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import trio

from .alarms import Alarms

RECEIVE_BYTES = 65536
_RECORD_BYTES = 16384  # of TLS (RFC 8446 section 5.1)
_NO_BYTES = b"\0\0\0\0"

Buffer = bytes | memoryview


def _nothing() -> None:
    """What happens when nobody listens."""


class Link(Protocol):
    """What a delivery needs of a connection; tests have one in memory."""

    on_readable: Callable[[], None]

    @property
    def locked(self) -> int:
        """Bytes that must be offered again as they were."""

    @property
    def accepted(self) -> bool:
        """Whether the peer is known to want us: with TLS 1.3 it may refuse our certificate after we began to send."""

    def send(self, data: Buffer) -> int:
        """Offer bytes; how many were taken."""

    def send_parts(self, parts: Sequence[bytes]) -> int:
        """As `send`, for the parts one after the other."""

    def recv(self) -> bytes | None:
        """What arrived: None for nothing yet, b"" at the end."""

    def unacknowledged(self) -> int:
        """Bytes sent that the peer's kernel has not acknowledged."""

    def pause(self) -> None:
        """Stop watching."""

    def watch(self) -> None:
        """Call `on_readable` when there is something to read, or an end."""

    def rest(self, seconds: float) -> None:
        """Stop watching for so long; to be called from `on_readable`."""

    async def wait_writable(self) -> None:
        """Until `send` may take something."""

    def close(self) -> None:
        """Give the socket back."""


class Poller(Protocol):
    """Watches sockets (logplex/poller.py)."""

    def watch(self, descriptor: int, told: Callable[[int], object]) -> None:
        """Have `told` called as long as there is something to read; a socket that is watched already stays so."""

    def remove(self, descriptor: int) -> None:
        """Forget a socket before it is closed; also one that is not watched."""


class Watch(NamedTuple):
    """Who looks at the links: at those that are watched, and, when they have rested, at the others again."""

    poller: Poller
    alarms: Alarms


class SocketLink:
    """A TCP (or connected UDP) socket."""

    __slots__ = ("_number", "_resting", "_sock", "_watch", "on_readable")

    locked = 0
    accepted = True

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        self._sock = sock
        self._number = sock.fileno()
        self._watch = watch
        self.on_readable: Callable[[], None] = _nothing
        self._resting = False

    def send(self, data: Buffer) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def send_parts(self, parts: Sequence[bytes]) -> int:
        try:
            return self._sock.sendmsg(parts)
        except BlockingIOError:
            return 0

    def recv(self) -> bytes | None:
        try:
            return self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def unacknowledged(self) -> int:
        try:
            answer = fcntl.ioctl(self._number, termios.TIOCOUTQ, _NO_BYTES)
        except OSError:
            return 1 << 62  # nothing is known: nothing counts as arrived
        return int(struct.unpack("i", answer)[0])

    def look(self, _events: int) -> None:
        """Called by the poller."""
        self.on_readable()

    def pause(self) -> None:
        self._resting = False
        self._watch.poller.remove(self._number)

    def watch(self) -> None:
        self._resting = False
        self._watch.poller.watch(self._number, self.look)

    def rest(self, seconds: float) -> None:
        self.pause()
        self._resting = True
        self._watch.alarms.add(trio.current_time() + seconds, self._rested)

    def _rested(self) -> None:
        if self._resting:
            self.watch()

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._number)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self.pause()
            trio.lowlevel.notify_closing(self._number)
            self._sock.close()


class TlsLink(SocketLink):
    """A socket after its TLS handshake."""

    __slots__ = ("_tls", "locked", "version")

    def __init__(self, sock: ssl.SSLSocket, watch: Watch) -> None:
        super().__init__(sock, watch)
        self._tls = sock
        self.version = sock.version() or ""  # what was agreed on: after an alert the socket itself knows none
        self.locked = 0

    @property
    def accepted(self) -> bool:  # type: ignore[override] # a plain socket has no second thoughts
        session = self._tls.session
        return self.version != "TLSv1.3" or (session is not None and session.has_ticket)

    def send(self, data: Buffer) -> int:
        view = memoryview(data)
        taken = 0
        while taken < len(view):
            record = view[taken : taken + _RECORD_BYTES]
            try:
                taken += self._tls.send(record)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self.locked = len(record)
                return taken
            self.locked = 0
        return taken

    def send_parts(self, parts: Sequence[bytes]) -> int:
        return self.send(b"".join(parts))

    def recv(self) -> bytes | None:
        try:
            return self._tls.recv(RECEIVE_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def close(self) -> None:
        if self._sock.fileno() >= 0 and not self.locked:
            with suppress(OSError, ValueError):
                self._tls.unwrap()  # says goodbye; does not wait for the peer's
        super().close()
