"""Senders of numbered lines: over HTTP as log-shuttle does (frame ids, retries), and over TCP.

An HTTP shipper sends one batch at a time and tries it again, the same bytes under the same id, until it is answered
204; so its lines are in order, and once. After a failure the batch before is sent once more, as if its acknowledgement
had been lost too. A TCP shipper never sends a line twice: each connection is a producer.
"""

import base64
import contextlib
import http.client
import random
import socket
import threading
import time
import uuid
from dataclasses import dataclass

from .journal import Journal, Sent
from .lines import Name, frame

REQUEST_SECONDS = 5.0  # log-shuttle's time-out
_STREAM_END_SECONDS = 5.0
_SETTLED_SECONDS = 1.0  # after the end of a stream: then its last lines are committed


@dataclass(slots=True)
class Gate:
    """What the conductor says to all shippers."""

    running: threading.Event
    stopping: threading.Event  # no new lines
    given_up: threading.Event  # no more tries either


class HttpShipper:
    """One connection of an HTTP shipper; writes into several channels when it has several tokens.

    `authorization` is a credential's that routes each message by its token, or None: the one token is the password.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        tokens: dict[str, str],
        journal: Journal,
        *,
        seed: int,
        lines_per_second: float,
        most: int,
        authorization: str | None = None,
        chunked: bool = False,
    ) -> None:
        self.name = name
        self._address = address
        self._tokens = tokens
        self._journal = journal
        self._chance = random.Random(seed)
        self._seconds_per_line = 1 / lines_per_second
        self._most = most
        self._chunked = chunked
        self._numbers = dict.fromkeys(tokens, 0)
        token = next(iter(tokens.values()))
        basic = "Basic " + base64.b64encode(f"token:{token}".encode()).decode()
        self._authorization = authorization or basic
        self._connection: http.client.HTTPConnection | None = None
        self._last: tuple[bytes, dict[str, str]] | None = None

    def run(self, gate: Gate) -> None:
        """Send until told to stop."""
        while not gate.stopping.is_set():
            gate.running.wait()
            count = self._chance.randint(1, self._most)
            started = time.monotonic()
            self._ship(count, gate)
            gate.stopping.wait(max(0.0, started + count * self._seconds_per_line - time.monotonic()))
        self._close()

    def _ship(self, count: int, gate: Gate) -> None:
        frames, parts = [], []
        for channel, token in self._tokens.items():
            producer = f"{self.name}.{channel}"
            first = self._numbers[channel]
            self._numbers[channel] = first + count
            frames += [frame(Name(producer, number), token) for number in range(first, first + count)]
            parts.append(Sent(producer, channel, first, first + count))
        self._journal.sent.extend(parts)
        headers = {
            "Content-Type": "application/logplex-1",
            "Authorization": self._authorization,
            "Logplex-Msg-Count": str(len(frames)),
            "Logplex-Frame-Id": str(uuid.UUID(int=self._chance.getrandbits(128))),
        }
        body = b"".join(frames)
        again = self._chance.random() < 0.1  # sent once more though it was acknowledged, as if that had been lost
        failed = False
        while not gate.given_up.is_set():
            if failed and (self._last is None or self._try(*self._last) is not None):
                failed = False  # the batch before was sent once more too: the window holds over a restart
            durable = None if failed else self._try(body, headers)
            if durable is None:
                failed = True
                self._journal.count("tries that failed")
                time.sleep(self._chance.uniform(0.05, 0.3))
                continue
            for sent in parts:
                sent.durable = durable
                sent.acknowledged = time.monotonic()
            self._journal.count("requests acknowledged")
            if not again:
                break
            again = False
        self._last = body, headers

    def _try(self, body: bytes, headers: dict[str, str]) -> bool | None:
        """Whether more than memory has it; None when the request failed."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=REQUEST_SECONDS)
        try:
            if self._chunked:
                pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
                self._connection.request("POST", "/logs", iter(pieces), headers, encode_chunked=True)
            else:
                self._connection.request("POST", "/logs", body, headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._close()
            return None
        if answer.will_close:
            self._close()
        if answer.status != 204:
            self._journal.trouble(f"{self.name}: answered {answer.status} to a sound request")
            return None
        return answer.headers.get("Logplex-Durability") != "memory"

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class TcpShipper:
    """A sender of syslog over TCP that makes a new connection now and then, and whenever one breaks."""

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        channel: str,
        token: str,
        journal: Journal,
        *,
        seed: int,
        lines_per_second: float,
    ) -> None:
        self.name = name
        self._address = address
        self._channel = channel
        self._token = token
        self._journal = journal
        self._chance = random.Random(seed)
        self._seconds_per_line = 1 / lines_per_second
        self._connections = 0

    def run(self, gate: Gate) -> None:
        """Send until told to stop."""
        while not gate.stopping.is_set():
            with contextlib.suppress(OSError), socket.create_connection(self._address, REQUEST_SECONDS) as connection:
                self._converse(connection, gate)
            gate.stopping.wait(0.1)

    def _converse(self, connection: socket.socket, gate: Gate) -> None:
        self._connections += 1
        sent = Sent(f"{self.name}.{self._connections}", self._channel, 0, 0, stream=True)
        self._journal.sent.append(sent)
        counted = self._chance.random() < 0.5
        life_end = time.monotonic() + self._chance.uniform(1.0, 6.0)
        while time.monotonic() < life_end and not gate.stopping.is_set():
            gate.running.wait()
            count = self._chance.randint(1, 30)
            names = [Name(sent.producer, sent.end + index) for index in range(count)]
            sent.end += count
            connection.sendall(b"".join([frame(name, self._token, counted=counted) for name in names]))
            gate.stopping.wait(count * self._seconds_per_line)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_STREAM_END_SECONDS)
        if connection.recv(1) == b"":
            sent.acknowledged = time.monotonic() + _SETTLED_SECONDS
            sent.durable = False  # nobody says that it is on disk
