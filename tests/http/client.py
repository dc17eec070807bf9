"""A server on a loopback port, and a client that sends exactly the bytes it is told."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from logplex.config import Settings
from logplex.http import Handler, Listener, Request, Routes, Server, not_found
from logplex.ledger import Ledger

from ..polling import polling

DEADLINE_SECONDS = 20.0  # of a test that waits for what never comes
HOST = b"Host: test\r\n"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    """A server that runs."""

    server: Server
    ledger: Ledger
    clock: Clock
    port: int
    nursery: trio.Nursery

    def later(self, seconds: float) -> None:
        """Let time pass and what is overdue be found."""
        self.clock.now += seconds
        self.server.sweep()

    @asynccontextmanager
    async def client(self, context: ssl.SSLContext | None = None) -> AsyncIterator["Client"]:
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if context is not None:
            stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
        async with stream:
            yield Client(stream)

    async def exchange(self, data: bytes) -> bytes:
        """Send, and read to the server's end."""
        async with self.client() as client:
            await client.send(data)
            return await client.rest()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when the condition holds."""
        with trio.fail_after(DEADLINE_SECONDS):
            while not condition():  # noqa: ASYNC110 - what arrives in the server's kernel has no event here
                await trio.sleep(0.001)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    stream: trio.abc.Stream
    buffer: bytes = b""
    seen: list[Answer] = field(default_factory=list)

    async def send(self, data: bytes) -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await self.stream.send_all(data)

    async def end(self) -> None:
        assert isinstance(self.stream, trio.SocketStream)
        await self.stream.send_eof()

    async def _more(self) -> bytes:
        with trio.fail_after(DEADLINE_SECONDS):
            return bytes(await self.stream.receive_some(65536))

    async def rest(self) -> bytes:
        """Everything up to the server's end."""
        while data := await self._more():
            self.buffer += data
        rest, self.buffer = self.buffer, b""
        return rest

    async def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            data = await self._more()
            assert data, f"the server ended after {self.buffer!r}"
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    async def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = await self._more()
            assert data, f"the server ended after {self.buffer!r}"
            self.buffer += data
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    async def head(self) -> Answer:
        status, *lines = (await self.read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[:-2]:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        return Answer(int(status.split(" ")[1]), headers, b"")

    async def chunk(self) -> bytes:
        size = int(await self.read_until(b"\r\n"), 16)
        return (await self.read(size + 2))[:-2]

    async def answer(self, method: str = "GET") -> Answer:
        answer = await self.head()
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                answer.body += chunk
        else:
            answer.body = await self.read(int(answer.headers["content-length"]))
        return answer

    async def ended(self) -> bool:
        """Whether the server ends the connection and says nothing more."""
        return await self.rest() == b""


async def echo(request: Request) -> None:
    """Answer with the body."""
    await request.respond(200, ((b"Content-Type", b"text/plain"),), await request.body(100_000))


async def no_content(request: Request) -> None:
    await request.body(100_000)
    await request.respond(204)


@asynccontextmanager
async def serving(
    routes: Mapping[bytes, Handler],
    *,
    context: ssl.SSLContext | None = None,
    fallback: Handler = not_found,
    **settings: Any,
) -> AsyncIterator[Running]:
    """A server, cancelled at the end; its clock stands still."""
    ledger, clock = Ledger(), Clock()
    async with polling() as poller, trio.open_nursery() as nursery:
        server = Server(Settings(**settings), ledger, poller, clock=clock)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        await nursery.start(server.serve, [Listener(listening, Routes(routes, fallback), context)])
        yield Running(server, ledger, clock, port, nursery)
        nursery.cancel_scope.cancel()
