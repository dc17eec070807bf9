"""Receivers of drains that misbehave on command, and write down what they got.

A receiver keeps what it answers with 2xx; whether the sender can know is written down too. Modes change between two
requests (HTTP) or at once (syslog).
"""

import contextlib
import itertools
import random
import select
import socket
import threading
import time

from . import lines
from .journal import Answer, Connection, Delivery, End, Journal
from .sockets import Door, close, reset, shut

HTTP_MODES = ("ok", "refuse", "hang", "500", "503", "429", "cut head", "cut body", "no answer", "reset", "slow")
SYSLOG_MODES = ("ok", "refuse", "hang", "stuck", "shut", "reset")  # stuck: hangs, and then resets
_SURE_SECONDS = 1.0  # an answer within it comes in time for the sender
_HANG_SECONDS = 30.0


class HttpReceiver:
    """An HTTP drain's receiver."""

    def __init__(self, name: str, journal: Journal, *, seed: int, picky: bool = False) -> None:
        self.name = name
        self.mode = "ok"
        self._journal = journal
        self._chance = random.Random(seed)
        self._picky = picky  # refuses poisoned lines for good
        self._door = Door(self._serve)
        self._changed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._door.port}/{self.name}"

    def become(self, mode: str) -> None:
        """Behave so from the next request on."""
        self.mode = mode
        changed, self._changed = self._changed, threading.Event()
        changed.set()
        if mode == "refuse":
            self._door.close()
        else:
            self._door.open()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while self.mode != "refuse" and self._request(connection, reader):  # type: ignore[arg-type]
                pass
        except (OSError, ValueError):
            pass  # the server went away in the midst of it
        finally:
            with contextlib.suppress(OSError):
                reader.close()
            close(connection)

    def _request(self, connection: socket.socket, reader: socket.SocketIO) -> bool:
        """One request; whether the connection stays open."""
        begun = reader.readline()
        if not begun:
            return False
        started = time.monotonic()
        headers: dict[str, str] = {}
        while (header := reader.readline().strip()) != b"":
            name, _, value = header.decode().partition(": ")
            headers[name.lower()] = value
        body = reader.read(int(headers["content-length"])) or b""
        if len(body) < int(headers["content-length"]):
            return False
        return self._answer(connection, self._delivery(headers, body), started)

    def _delivery(self, headers: dict[str, str], body: bytes) -> Delivery:
        found = [lines.from_http(message) for message in lines.frames(body)]
        epoch, _, span = headers["logplex-range"].partition("/")
        first, _, last = span.partition("-")
        told = lines.told(found[0]) if found else 0
        return Delivery(
            drain=self.name,
            at=time.monotonic(),
            epoch=epoch,
            first=int(first),
            last=int(last),
            frame_id=headers["logplex-frame-id"],
            count=int(headers["logplex-msg-count"]),
            lines=found[1:] if told else found,
            told=told,
            answer=Answer.REFUSED,
        )

    def _answer(self, connection: socket.socket, delivery: Delivery, started: float) -> bool:
        mode = self.mode
        journal = self._journal
        journal.count(f"{self.name} {mode}")
        changed = self._changed
        keep = self._chance.random() < 0.5  # what it does with a request that it does not answer
        unsure = Answer.UNSURE if keep else Answer.REFUSED
        if self._picky and any(b" poison " in found.text for found in delivery.lines):
            delivery.status = 400
            journal.deliveries.append(delivery)
            return _say(connection, b"400 Bad Request", b"poison")
        match mode:
            case "hang" | "no answer" | "reset" | "cut head" | "refuse":
                delivery.answer = unsure
                journal.deliveries.append(delivery)
                if mode == "hang":
                    _wait(connection, changed)
                elif mode == "reset":
                    reset(connection)
                elif mode == "cut head":
                    connection.sendall(b"HTTP/1.1 20")
                return False
            case "500" | "503" | "429":
                delivery.status = int(mode)
                journal.deliveries.append(delivery)
                after = b"" if mode == "500" else b"Retry-After: %d\r\n" % (mode == "429")
                return _say(connection, b"%d No" % delivery.status, b"no", after)
            case "cut body":
                delivery.answer = Answer.UNSURE
                journal.deliveries.append(delivery)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                return False
            case "slow":
                changed.wait(0.2)
        delivery.answer = Answer.TAKEN if time.monotonic() - started < _SURE_SECONDS else Answer.UNSURE
        delivery.status = 204
        journal.deliveries.append(delivery)
        try:
            _say(connection, b"204 No Content", None)
        except OSError:
            delivery.answer = Answer.UNSURE
            return False
        return True


def _say(connection: socket.socket, status: bytes, text: bytes | None, headers: bytes = b"") -> bool:
    length = b"" if text is None else b"Content-Length: %d\r\n" % len(text)
    connection.sendall(b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (status, length, headers, text or b""))
    return True


def _wait(connection: socket.socket, changed: threading.Event) -> None:
    """Until the sender gives up, or the mode changes."""
    deadline = time.monotonic() + _HANG_SECONDS
    while time.monotonic() < deadline and not changed.wait(0.05):
        if select.select([connection], [], [], 0)[0]:
            return


class SyslogReceiver:
    """A TCP syslog drain's receiver."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.mode = "ok"
        self._journal = journal
        self._door = Door(self._serve)
        self._numbers = itertools.count()
        self._open: dict[int, tuple[socket.socket, Connection]] = {}
        self._lock = threading.Lock()
        self._reading = threading.Event()  # cleared while it hangs
        self._reading.set()

    @property
    def url(self) -> str:
        return f"syslog://127.0.0.1:{self._door.port}"

    def become(self, mode: str) -> None:
        """Behave so at once."""
        was_stuck = self.mode == "stuck"
        self.mode = mode
        self._journal.count(f"{self.name} {mode}")
        if mode == "refuse":
            self._door.close()
        else:
            self._door.open()
        with self._lock:
            connections = list(self._open.values())
        for connection, record in connections:
            if mode in ("refuse", "shut"):
                record.end = End.SHUT
                shut(connection)
            elif mode == "reset" or was_stuck:
                record.end = End.RESET
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)  # wakes the reader, which closes with RST
        if mode in ("hang", "stuck"):
            self._reading.clear()
        else:
            self._reading.set()

    def _serve(self, connection: socket.socket) -> None:
        record = Connection(self.name, time.monotonic())
        number = next(self._numbers)
        with self._lock:
            self._open[number] = (connection, record)
        self._journal.connections.append(record)
        if self.mode == "refuse":  # it came while the door closed
            shut(connection)
        connection.settimeout(_HANG_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        rest = b""
        try:
            while True:
                self._reading.wait()
                if record.end is End.RESET:
                    break
                data = connection.recv(65536)
                if not data:
                    break
                rest = self._take(rest + data, record)
        except OSError:
            pass
        record.ended = time.monotonic()
        with self._lock:
            del self._open[number]
        if record.end is End.RESET:
            reset(connection)
        else:
            close(connection)

    def _take(self, data: bytes, record: Connection) -> bytes:
        """Write down whole frames; returns what is left."""
        at, now = 0, time.monotonic()
        while True:
            space = data.find(b" ", at, at + 8)
            if space < 0 or len(data) < space + 1 + int(data[at:space]):
                return data[at:]
            end = space + 1 + int(data[at:space])
            record.lines.append((now, lines.from_syslog(data[space + 1 : end])))
            at = end
