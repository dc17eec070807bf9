"""The real server seen from outside: its five inputs, readers of its sessions, and receivers for its drains.

Everything here is plain blocking sockets with deadlines, and knows nothing of the server but its wire.
"""

import base64
import gzip
import http.client
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import trustme

from .conftest import Server

WAIT_SECONDS = 20.0  # of a test that waits for what never comes
T = b"2026-01-02T03:04:05.678901+00:00"


class Authority:
    """A certificate authority of the tests, with the files that the server reads."""

    def __init__(self, path: Path) -> None:
        self.ca = trustme.CA()
        own = self.ca.issue_cert("127.0.0.1", "localhost")
        self.cert, self.key, self.root = path / "cert.pem", path / "key.pem", path / "ca.pem"
        own.private_key_pem.write_to_path(self.key)
        for number, blob in enumerate(own.cert_chain_pems):
            blob.write_to_path(self.cert, append=number > 0)
        self.ca.cert_pem.write_to_path(self.root)

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def server(self, name: str = "127.0.0.1") -> ssl.SSLContext:
        """For a receiver whose certificate holds `name`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name).configure_cert(context)
        return context


@contextmanager
def running(path: Path, *options: str) -> Iterator[tuple[Server, Authority]]:
    """A server with all its listeners, whose drains may dial loopback and trust the authority."""
    authority = Authority(path)
    more = ["--https", "127.0.0.1:0", "--syslog-tls", "127.0.0.1:0", "--syslog-udp", "127.0.0.1:0"]
    more += ["--tls-cert", str(authority.cert), "--tls-key", str(authority.key)]
    more += ["--drain-allow", "127.0.0.0/8", "--drain-ca-file", str(authority.root), "--drain-backoff-seconds", "0.1"]
    with Server(path / "data", *more, *options).start() as server:
        yield server, authority


def counted(*messages: bytes) -> bytes:
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


def frames(data: bytes) -> list[bytes]:
    """What was counted; fails on anything else."""
    found = []
    while data:
        count, _, data = data.partition(b" ")
        assert count.isdigit(), data[:80]
        assert len(data) >= int(count), data[:80]
        found.append(data[: int(count)])
        data = data[int(count) :]
    return found


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Inputs:
    """The ways into one server."""

    def __init__(self, server: Server, authority: Authority) -> None:
        self._server = server
        self._context = authority.client()

    def post(
        self, body: bytes, authorization: str, *, tls: bool = False, chunked: bool = False, **headers: Any
    ) -> Answer:
        """One `/logs` request; headers are given with `_` for `-`."""
        connection: http.client.HTTPConnection
        if tls:
            address = self._server.address("https")
            connection = http.client.HTTPSConnection(*address, timeout=WAIT_SECONDS, context=self._context)
        else:
            connection = http.client.HTTPConnection(*self._server.http, timeout=WAIT_SECONDS)
        sent = {"Content-Type": "application/logplex-1", "Authorization": authorization}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if sent.get("Content-Encoding") == "gzip":
            body = gzip.compress(body)
        pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
        try:
            connection.request(
                "POST",
                "/logs",
                pieces if chunked else body,
                {k: v for k, v in sent.items() if v},
                encode_chunked=chunked,
            )
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def connect(self, listener: str) -> socket.socket:
        """A connection to `syslog` or `syslog_tls`."""
        plain = socket.create_connection(self._server.address(listener), WAIT_SECONDS)
        if listener != "syslog_tls":
            return plain
        return self._context.wrap_socket(plain, server_hostname="localhost")

    def stream(self, listener: str, *pieces: bytes) -> None:
        """Send all on one connection, end it, and wait until the server has seen that and ended it too."""
        with self.connect(listener) as connection:
            for piece in pieces:
                connection.sendall(piece)
            if isinstance(connection, ssl.SSLSocket):
                connection.unwrap()
            else:
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""

    def datagrams(self, *messages: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for message in messages:
                sender.sendto(message, self._server.address("syslog_udp"))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Tail:
    """A session that follows, from its making on (`num` 0); its lines as they come."""

    def __init__(self, server: Server, app: str, *, headers: Mapping[str, str] | None = None, **given: Any) -> None:
        session = {"channel_id": app, "num": 0, "tail": True} | given
        self.path = urlsplit(server.json("POST", "/v3/sessions", session)["url"]).path
        self._connection = http.client.HTTPConnection(*server.http, timeout=WAIT_SECONDS)
        self._connection.request("GET", self.path, headers=dict(headers or {}))
        self.answer = self._connection.getresponse()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self._connection.close()

    def read(self, count: int) -> list[bytes]:
        """The next lines."""
        return [self.answer.readline() for _ in range(count)]

    def until(self, text: bytes) -> list[bytes]:
        """All lines before the one that ends with `text`."""
        found: list[bytes] = []
        while not (line := self.answer.readline()).endswith(text + b"\n"):
            assert line, found
            found.append(line)
        return found


@dataclass(frozen=True)
class Delivery:
    """One request to a drain."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class HttpReceiver:
    """A place for HTTP drains; answers the statuses that it was given, then 200."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.refuses: Callable[[Delivery], int] = lambda delivery: 0
        self.taken: queue.Queue[tuple[int, Delivery]] = queue.Queue()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                delivery = Delivery(self.command, self.path, headers, body)
                status, more = outer.answers.pop(0) if outer.answers else (outer.refuses(delivery) or 200, {})
                outer.taken.put((status, delivery))
                self.send_response(status)
                for name, value in {"Content-Length": "0", **more}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next(self) -> tuple[int, Delivery]:
        """The next request and how it was answered."""
        return self.taken.get(timeout=WAIT_SECONDS)

    def lines(self, count: int) -> list[bytes]:
        """So many frames that were answered 200, of one or more requests."""
        found: list[bytes] = []
        while len(found) < count:
            status, delivery = self.next()
            if status == 200:
                found += frames(delivery.body)
        return found


class SyslogReceiver:
    """A place for TCP and TLS drains: takes one connection after the other."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_SECONDS)
        self._connection: socket.socket | None = None
        self._held = b""
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(WAIT_SECONDS)
        return connection if self._context is None else self._context.wrap_socket(connection, server_side=True)

    def lines(self, count: int) -> list[bytes]:
        """So many counted frames."""
        if self._connection is None:
            self._connection = self.accept()
        found: list[bytes] = []
        while len(found) < count:
            length, space, rest = self._held.partition(b" ")
            if space and len(rest) >= int(length):
                found.append(rest[: int(length)])
                self._held = rest[int(length) :]
                continue
            data = self._connection.recv(65536)
            assert data, found
            self._held += data
        return found


class UdpReceiver:
    """A place for UDP drains."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(WAIT_SECONDS)
        self.port = int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def lines(self, count: int) -> list[bytes]:
        return [self._socket.recv(65536) for _ in range(count)]


def drain(server: Server, app: str, url: str) -> dict[str, Any]:
    made: dict[str, Any] = server.json("POST", f"/v3/channels/{app}/drains", {"url": url})
    return made


def status(server: Server, app: str, id_: int) -> dict[str, Any]:
    found: dict[str, Any] = server.json("GET", f"/v3/channels/{app}/drains/{id_}")["status"]
    return found


def page(server: Server, app: str) -> dict[str, Any]:
    found: dict[str, Any] = server.json("GET", f"/v3/channels/{app}/ledger")
    return found


def ledger(server: Server) -> dict[str, Any]:
    """The counters of the node."""
    found: dict[str, Any] = server.json("GET", "/v3/status")["ledger"]
    return found
