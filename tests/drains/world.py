"""What the tests of drains stand on: a channel without a server, receivers on loopback, and a link in memory.

* `World` is a real channel with its ring, and a spool that is a list; `write` commits lines as the router would.
* Receivers are real sockets. They tell by a memory channel what they got, so that no test sleeps.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from drains.deliveries import Deliveries
from drains.limits import Limits
from drains.policy import Policy
from drains.spec import DrainSpec
from logplex.batch import Batch, Form, raw_frame
from logplex.channel import Budget, Channel, Place
from logplex.ledger import Page
from logplex.ring import Ring

from ..polling import polling

TOKEN = "d.12345678-1234-4234-8234-123456789012"
TIME = b"2026-01-31T12:00:00.123456+00:00"


class Spool:
    """Lines that left the ring: a list that tests may cut."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.oldest = 0

    async def read(self, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        await trio.lowlevel.checkpoint()
        found: list[Batch] = []
        size = 0
        for batch in self.batches:
            first = max(cursor, self.oldest, batch.first)
            if first < min(batch.end, end):
                found.append(batch.cut(first, min(batch.end, end)))
                size += found[-1].size
                if size > max_bytes:
                    break
        return found

    async def read_back(self, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
        return []

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        return {}


class World:
    """A channel that tests write to."""

    def __init__(self, *, ring_lines: int = 10_000, channel_id: int = 1, head: int = 0) -> None:
        self.spool = Spool()
        self.now = 1_770_000_000_000
        place = Place(head, head, "0123456789abcdef", 0, Page())
        ring = Ring(head, max_lines=ring_lines, max_bytes=1 << 24)
        self.channel = Channel(
            channel_id, f"app-{channel_id}", place, ring=ring, history=self.spool, budget=Budget(1 << 30)
        )
        self.told: list[tuple[int, bytes, bool]] = []

    def tell(self, channel: Channel, pri: int, text: bytes, tails_only: bool) -> None:
        self.told.append((pri, text, tails_only))

    def write(self, *texts: bytes, form: Form = Form.RAW, tails_only: bool = False) -> None:
        """Commit one batch of lines."""
        first = self.channel.head
        data = b"".join([raw_frame(190, TIME, b"app", b"web.1", text) for text in texts])
        batch = Batch(first, len(texts), self.now, form, data, tails_only=tails_only)
        self.spool.batches.append(batch)
        self.channel.append(batch)

    def numbers(self, count: int, batch: int = 100) -> list[bytes]:
        """Commit `count` numbered lines in batches; their texts."""
        head = self.channel.head
        texts = [b"line %d" % number for number in range(head, head + count)]
        for at in range(0, count, batch):
            self.write(*texts[at : at + batch])
        return texts


class NoResolver:
    """Names that mean loopback, and others that do not exist."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {"localhost": ["127.0.0.1"], **names}
        self.asked: list[str] = []

    async def resolve(self, host: str, app: int) -> list[str]:
        from drains.status import Failure

        self.asked.append(host)
        if host not in self.names:
            raise Failure("dns", "the name does not exist")
        return self.names[host]


@asynccontextmanager
async def running(world: World, **given: object) -> AsyncIterator[Deliveries]:
    """Deliveries at work, allowed to dial loopback."""
    limits = given.pop("limits", None) or Limits(backoff_seconds=0.1)
    policy = given.pop("policy", None) or Policy(["127.0.0.0/8"])
    resolver = given.pop("resolver", None) or NoResolver()
    async with polling() as poller, trio.open_nursery() as nursery:
        deliveries = Deliveries(
            limits=limits,  # type: ignore[arg-type]
            policy=policy,  # type: ignore[arg-type]
            resolver=resolver,  # type: ignore[arg-type]
            poller=poller,
            tell=world.tell,
            version="0.0",
            **given,  # type: ignore[arg-type]
        )
        await nursery.start(deliveries.run)
        yield deliveries
        nursery.cancel_scope.cancel()


def spec(url: str, **options: object) -> DrainSpec:
    return DrainSpec.parse(7, TOKEN, url, options)


def frames(data: bytes) -> list[bytes]:
    """The octet-counted frames of a stream; the last may be cut off."""
    found = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at)
        if space < 0:
            break
        end = space + 1 + int(data[at:space])
        if end > len(data):
            break
        found.append(data[space + 1 : end])
        at = end
    return found


def texts(data: bytes) -> list[bytes]:
    """The texts of the frames of a syslog stream."""
    return [frame[:-1].split(b" ", 7)[7] for frame in frames(data)]


@dataclass
class Post:
    """One request that a receiver read."""

    target: bytes
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def count(self) -> int:
        return int(self.headers[b"logplex-msg-count"])

    @property
    def id(self) -> bytes:
        return self.headers[b"logplex-frame-id"]

    @property
    def range(self) -> tuple[int, int]:
        first, last = self.headers[b"logplex-range"].partition(b"/")[2].split(b"-")
        return int(first), int(last)

    @property
    def texts(self) -> list[bytes]:
        return [frame[:-1].split(b" ", 6)[6] for frame in frames(self.body)]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Reply = Callable[[Post, trio.SocketStream], Awaitable[bytes | None]]


@dataclass
class Receiver:
    """A listening socket on loopback, and what came in."""

    port: int
    listener: trio.SocketListener
    posts: trio.MemoryReceiveChannel[Post] | None = None
    received: bytearray = field(default_factory=bytearray)
    connections: int = 0
    more: trio.Event = field(default_factory=trio.Event)
    scopes: list[trio.CancelScope] = field(default_factory=list)

    async def until(self, count: int) -> list[bytes]:
        """Texts, as soon as `count` frames are there."""
        while len(frames(bytes(self.received))) < count:
            await self.more.wait()
        return texts(bytes(self.received))

    async def post(self) -> Post:
        assert self.posts is not None
        return await self.posts.receive()


def answers(*replies: bytes | Reply) -> Reply:
    """Each reply once, then OK for ever."""
    left = list(replies)

    async def reply(post: Post, stream: trio.SocketStream) -> bytes | None:
        next_ = left.pop(0) if left else OK
        return next_ if isinstance(next_, bytes) else await next_(post, stream)

    return reply


async def read_request(stream: trio.abc.Stream, buffer: bytearray) -> Post | None:
    """One request; None at the end of the stream."""
    while b"\r\n\r\n" not in buffer:
        data = await stream.receive_some(65536)
        if not data:
            return None
        buffer += data
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        headers[name.lower()] = value
    size = int(headers[b"content-length"])
    body = bytearray(rest)
    while len(body) < size:
        data = await stream.receive_some(65536)
        if not data:
            return None
        body += data
    buffer[:] = body[size:]
    return Post(first.split(b" ")[1], headers, bytes(body[:size]))


@asynccontextmanager
async def http_receiver(
    reply: Reply | None = None, *, context: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Answers each POST with what `reply` gives: bytes, or None to close the connection."""
    send, receive = trio.open_memory_channel[Post](1000)
    reply = reply or answers()

    async def handle(stream: trio.SocketStream) -> None:
        receiver.connections += 1
        buffer = bytearray()
        transport: trio.abc.Stream = stream
        if context is not None:
            transport = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        with trio.CancelScope() as scope:
            receiver.scopes.append(scope)
            try:
                while (post := await read_request(transport, buffer)) is not None:
                    send.send_nowait(post)
                    answer = await reply(post, stream)
                    if answer is None:
                        return
                    await transport.send_all(answer)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve, handle)
        receiver = Receiver(listeners[0].socket.getsockname()[1], listeners[0], receive)
        yield receiver
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def syslog_receiver(*, context: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Receiver]:
    """Keeps what it gets."""

    async def handle(stream: trio.SocketStream) -> None:
        receiver.connections += 1
        transport: trio.abc.Stream = stream
        if context is not None:
            transport = trio.SSLStream(stream, context, server_side=True)
        with trio.CancelScope() as scope:
            receiver.scopes.append(scope)
            try:
                async for data in transport:  # type: ignore[attr-defined]
                    receiver.received += data
                    receiver.more.set()
                    receiver.more = trio.Event()
            except trio.BrokenResourceError:
                receiver.more.set()
                receiver.more = trio.Event()
            finally:
                stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve, handle, port)
        receiver = Receiver(listeners[0].socket.getsockname()[1], listeners[0])
        yield receiver
        nursery.cancel_scope.cancel()


async def serve(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    port: int = 0,
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    await trio.serve_tcp(handle, port, host="127.0.0.1", task_status=task_status)


async def settled(deliveries: Deliveries, drain_id: int = 7) -> None:
    """Until everything written has arrived."""
    await deliveries.finish(trio.current_time() + 10)
