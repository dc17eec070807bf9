"""Syslog over TCP and TLS, with real sockets on loopback, a router that remembers, and the real one."""

import errno
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import trio
import trio.testing
import trustme

from logplex import small_reads
from logplex.errors import SetupError
from logplex.fastpath import recognisable
from logplex.framing import CUT_OFF, NO_FRAMING, RESYNC_FRAMES, Malformed
from logplex.inputs import connection, listening
from logplex.inputs.connection import READ_BYTES, READ_BYTES_BEHIND, READS_PER_TURN
from logplex.inputs.listening import Connections, listen_tcp
from logplex.inputs.syslog import serve_tcp
from logplex.inputs.tls import server_context
from logplex.registry.records import ChannelRecord, Token
from tests.core import Core
from tests.polling import polling, until

from .fake import DEADLINE_SECONDS, MAX_FRAME_BYTES, FakeRouter


class Served:
    """A server on a port of the kernel's choice, its router and the count of its connections."""

    def __init__(self, router: Any, **options: Any) -> None:
        self.router = router
        self.connections: Connections = options.pop("connections", None) or Connections()
        self.options = options
        self.listeners: list[socket.socket] = options.pop("listeners", None) or listen_tcp("127.0.0.1", 0)
        self.clients: list[trio.SocketStream] = []  # a stream that nobody holds is closed
        self.address: tuple[str, int] = self.listeners[0].getsockname()

    async def client(self, data: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream(*self.address)
        self.clients.append(stream)
        if data:
            await stream.send_all(data)
        return stream

    async def all_ended(self) -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            while self.connections.open or not self.connections.accepted:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def served(router: Any = None, **options: Any) -> AsyncIterator[Served]:
    server = Served(router or FakeRouter(), **options)
    async with polling() as poller, trio.open_nursery() as nursery:
        serve = serve_tcp
        await nursery.start(
            lambda task_status: serve(
                server.listeners,
                server.router,
                poller=poller,
                connections=server.connections,
                task_status=task_status,
                **server.options,
            )
        )
        yield server
        nursery.cancel_scope.cancel()
    assert server.connections.open == 0


async def closed_by_server(client: trio.abc.ReceiveStream) -> bool:
    with trio.fail_after(DEADLINE_SECONDS):
        try:
            return await client.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


async def test_every_framing_is_received_on_one_connection() -> None:
    async with served() as server:
        await server.client(b"5 <1>1\n<1>a\n<1>b\x00")
        assert await server.router.flushed_frames(3) == [b"<1>1", b"<1>a", b"<1>b"]


async def test_a_line_is_flushed_without_waiting_for_more() -> None:
    async with served() as server:
        client = await server.client()
        for number in range(1, 4):
            await client.send_all(b"<1>%d\n" % number)
            assert len(await server.router.flushed_frames(number)) == number


async def test_connections_do_not_mix_their_bytes() -> None:
    async with served() as server:
        one, other = await server.client(b"<1>o"), await server.client(b"<2>oth")
        await server.router.until(lambda: sum(bool(stream.fed) for stream in server.router.streams) == 2)
        await one.send_all(b"ne\n")
        await other.send_all(b"er\n")
        assert sorted(await server.router.flushed_frames(2)) == [b"<1>one", b"<2>other"]


async def test_an_unterminated_line_at_the_end_is_a_message_and_a_cut_off_count_is_malformed() -> None:
    async with served() as server:
        await (await server.client(b"<1>last")).aclose()
        await server.router.flushed_frames(1)
        await (await server.client(b"9 <1>")).aclose()
        await server.all_ended()
        assert server.router.frames == [b"<1>last", Malformed(CUT_OFF, 5)]
        assert server.connections.ended == {"end": 2}


async def test_a_half_closed_connection_is_read_to_its_end_and_then_closed() -> None:
    async with served() as server:
        client = await server.client(b"<1>x\n" * 100_000)
        await client.send_eof()
        assert await closed_by_server(client)
        assert len(await server.router.flushed_frames(100_000)) == 100_000
        assert server.router.streams[0].ended


async def test_what_came_before_a_reset_was_received() -> None:
    async with served() as server:
        client = await server.client(b"<1>a\n<1>b")
        await server.router.flushed_frames(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        assert await server.router.flushed_frames(2) == [b"<1>a", b"<1>b"]
        await server.all_ended()
        assert server.connections.ended == {"broken": 1}


async def test_a_stream_without_line_ends_is_closed() -> None:
    async with served() as server:
        client = await server.client()
        with suppress(trio.BrokenResourceError):
            for _ in range(1000):
                await client.send_all(b"x" * MAX_FRAME_BYTES)
        await server.all_ended()
        (fault,) = server.router.frames
        assert fault.reason == NO_FRAMING
        assert fault.bytes > RESYNC_FRAMES * MAX_FRAME_BYTES
        assert server.connections.ended == {"malformed": 1}


async def test_a_crash_ends_its_own_connection_only() -> None:
    async with served() as server:
        with structlog.testing.capture_logs() as events:
            neighbour = await server.client(b"<1>a\n")
            await server.router.flushed_frames(1)
            assert await closed_by_server(await server.client(b"<1>crash\n"))
            await neighbour.send_all(b"<1>b\n")
            assert await server.router.flushed_frames(2) == [b"<1>a", b"<1>b"]
        assert [event["event"] for event in events] == ["connection_crashed"]
        assert server.connections.ended == {"crash": 1}


async def test_while_memory_is_full_the_socket_is_not_read() -> None:
    async with served() as server:
        client = await server.client(b"<1>a\n")
        await server.router.flushed_frames(1)
        server.router.room = trio.Event()
        raw: Any = client.socket
        sent = 0
        with suppress(BlockingIOError):
            while sent < 1 << 30:
                sent += raw._sock.send(b"<1>x\n" * 10_000)
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.router.streams[0].fed) <= 2
        server.router.room.set()
        await server.router.flushed_frames(1 + sent // 5)


@pytest.mark.parametrize(("behind", "turn"), [(False, READS_PER_TURN * READ_BYTES), (True, READ_BYTES_BEHIND)])
async def test_a_busy_connection_flushes_and_gives_others_their_turn(behind: bool, turn: int) -> None:
    """The busy one is never empty: its sender runs in this very loop, and only when the server gives it its turn."""
    async with served() as server:
        server.router.readers_behind = behind
        busy = await server.client()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def flood() -> None:
                while True:
                    await busy.send_all(b"<1>x\n" * READ_BYTES)

            await server.router.flushed_frames(1)
            await server.client(b"<2>other\n")
            await server.router.until(lambda: b"<2>other" in server.router.frames)
            nursery.cancel_scope.cancel()
        fed = sum(len(data) for data in server.router.streams[0].fed)
        assert server.router.flushes >= fed // turn


async def test_a_listener_may_be_bound_to_one_token() -> None:
    token = Token("t.1", "app", ChannelRecord(1, "shop"))
    async with served(bound=token) as server:
        await server.client(b"<1>x\n")
        await server.router.flushed_frames(1)
        assert server.router.streams[0].bound is token


async def test_cancelling_closes_listeners_and_connections() -> None:
    async with served() as server:
        client = await server.client(b"<1>a\n<1>b")
        await server.router.flushed_frames(1)
    assert await closed_by_server(client)
    assert server.router.frames == [b"<1>a"]
    assert [listener.fileno() for listener in server.listeners] == [-1]
    assert server.connections.ended == {"cancelled": 1}


async def test_at_the_bound_of_connections_clients_wait_until_one_ends() -> None:
    async with served(connections=Connections(limit=2)) as server:
        clients = [await server.client(b"<1>%d\n" % number) for number in range(3)]
        assert len(await server.router.flushed_frames(2)) == 2
        assert server.connections.open == 2
        await clients[0].aclose()
        assert sorted(await server.router.flushed_frames(3)) == [b"<1>0", b"<1>1", b"<1>2"]
        assert server.connections.open <= 2


async def test_the_last_descriptors_are_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PAUSE_SECONDS", 0)
    connections = Connections()
    connections.max_descriptor, normal = 0, connections.max_descriptor
    async with served(connections=connections) as server:
        assert await closed_by_server(await server.client())
        connections.max_descriptor = normal
        await server.client(b"<1>a\n")
        assert await server.router.flushed_frames(1) == [b"<1>a"]
        assert connections.ended == {"no descriptors": 1}


class ExhaustedListener(socket.socket):
    """A listener whose `accept` fails as often as there are `failures`."""

    failures: list[int]

    def accept(self) -> Any:
        if self.failures:
            raise OSError(self.failures.pop(0), "planted")
        return super().accept()


async def test_accepting_goes_on_after_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PAUSE_SECONDS", 0)
    (listener,) = listen_tcp("127.0.0.1", 0)
    exhausted = ExhaustedListener(fileno=listener.detach())
    exhausted.setblocking(False)
    exhausted.failures = [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EMFILE]
    with structlog.testing.capture_logs() as events:
        async with served(listeners=[exhausted]) as server:
            await server.client(b"<1>a\n")
            assert await server.router.flushed_frames(1) == [b"<1>a"]
    assert [event["event"] for event in events] == ["accept_paused"], "three times in a moment is one line"


async def test_hundreds_of_silent_connections_are_kept_and_nothing_is_read_for_them() -> None:
    async with served() as server:
        clients = [await server.client() for _ in range(300)]
        await server.router.until(lambda: len(server.router.streams) == 300)
        await clients[150].send_all(b"<1>a\n")
        assert await server.router.flushed_frames(1) == [b"<1>a"]
        assert server.connections.open == 300


def test_a_port_that_is_taken_is_an_error_of_the_start() -> None:
    (listener,) = listen_tcp("127.0.0.1", 0)
    with listener, pytest.raises(SetupError, match=r"cannot listen on 127\.0\.0\.1:[0-9]+: Address already in use"):
        listen_tcp(*listener.getsockname())


def test_all_addresses_of_a_host_share_one_port() -> None:
    listeners = listen_tcp("localhost", 0)
    assert listeners
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


async def test_what_the_real_router_gets_is_shown() -> None:
    core = Core()
    token = core.add_token(1)
    async with served(core.router) as server:
        client = await server.client()
        for number in range(100):
            frame = counted(token, b"%d" % number)
            await client.send_all(frame if number % 2 else frame.partition(b" ")[2] + b"\n")
        await client.send_eof()
        assert await closed_by_server(client)
    assert [line.text.strip() for line in core.lines(1)] == [b"%d" % number for number in range(100)]


async def test_what_many_connections_bring_line_by_line_is_shown_in_the_order_of_each() -> None:
    core = Core()
    token = core.add_token(1)
    async with served(core.router) as server:
        clients = [await server.client() for _ in range(50)]
        for number in range(10):
            for place, client in enumerate(clients):
                await client.send_all(counted(token, b"%d %d" % (place, number)))
        for client in clients:
            await client.send_eof()
        await server.all_ended()
        assert server.connections.ended == {"end": 50}
    texts = [line.text.split() for line in core.lines(1)]
    assert len(texts) == 500
    for place in range(50):
        assert [int(number) for of, number in texts if int(of) == place] == list(range(10))
    assert core.balanced()


async def test_a_bug_where_many_are_scanned_together_ends_only_those_whose_bytes_were_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(data: bytes) -> bool:
        if b"crash" in data:
            raise RuntimeError("a bug")
        return recognisable(data)

    monkeypatch.setattr(small_reads, "recognisable", broken)
    core = Core()
    token = core.add_token(1)
    async with served(core.router) as server:
        neighbour = await server.client(counted(token, b"one"))
        await until(lambda: core.lines(1))
        with structlog.testing.capture_logs() as events:
            assert await closed_by_server(await server.client(counted(token, b"crash")))
        await neighbour.send_all(counted(token, b"two"))
        await neighbour.send_eof()
        await server.all_ended()
        assert [event["event"] for event in events] == ["connection_crashed"]
        assert server.connections.ended == {"crash": 1, "end": 1}
    assert [line.text.strip() for line in core.lines(1)] == [b"one", b"two"]


def counted(token: Token, text: bytes) -> bytes:
    frame = b"<13>1 2026-11-22T03:00:00Z h %s web.1 - - %b" % (token.id.encode(), text)
    return b"%d %s" % (len(frame), frame)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA, tmp_path: Any) -> ssl.SSLContext:
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    return server_context(str(tmp_path / "both.pem"), "")


@pytest.fixture
def connect(authority: trustme.CA) -> Callable[[Served], Any]:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def connect(server: Served) -> trio.SSLStream[trio.SocketStream]:
        return trio.SSLStream(await server.client(), trusting, server_hostname="localhost")

    return connect


async def test_tls_is_received_in_order(context: ssl.SSLContext, connect: Any) -> None:
    async with served(tls=context) as server:
        client = await connect(server)
        for number in range(2000):
            await client.send_all(b"<1>%d\n" % number)
        await client.send_all(b"<2>" + b"x" * 60_000 + b"\n")  # several records
        frames = await server.router.flushed_frames(2001)
        assert frames == [b"<1>%d" % number for number in range(2000)] + [b"<2>" + b"x" * 60_000]
        await client.aclose()
        await server.all_ended()
        assert server.connections.ended == {"end": 1}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_tls_peer_that_leaves_without_goodbye_has_ended(
    context: ssl.SSLContext, connect: Any, version: ssl.TLSVersion
) -> None:
    context.maximum_version = version
    async with served(tls=context) as server:
        client = await connect(server)
        await client.send_all(b"<1>a\n<1>b")
        await client.transport_stream.send_eof()
        assert await server.router.flushed_frames(2) == [b"<1>a", b"<1>b"]
        await server.all_ended()
        assert server.connections.ended == {"end": 1}


@pytest.mark.parametrize("reads", [READS_PER_TURN, 1])
async def test_goodbye_is_answered(
    reads: int, context: ssl.SSLContext, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a turn ends with the read in which it came: the socket has nothing more to tell."""
    monkeypatch.setattr(connection, "READS_PER_TURN", reads)
    async with served(tls=context) as server:
        client = await connect(server)
        await client.send_all(b"<1>a")
        with trio.fail_after(DEADLINE_SECONDS):
            await client.unwrap()  # waits for the server's close_notify
        assert await server.router.flushed_frames(1) == [b"<1>a"]


async def test_nothing_waits_unread_for_a_tls_client_that_only_sends(context: ssl.SSLContext, connect: Any) -> None:
    """A session ticket would: closing a socket with unread bytes resets it, and throws away what it has to send."""
    async with served(tls=context) as server:
        client = await connect(server)
        await client.send_all(b"<1>a\n")
        await server.router.flushed_frames(1)
        client.transport_stream.socket._sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.transport_stream.socket._sock.recv(1, socket.MSG_PEEK)


@pytest.mark.parametrize(
    "sent", [b"<1>plain text\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_a_handshake_that_fails_ends_its_own_connection_only(
    context: ssl.SSLContext, connect: Any, sent: bytes
) -> None:
    async with served(tls=context) as server:
        neighbour = await connect(server)
        await neighbour.send_all(b"<1>a\n")
        client = await server.client(sent)
        with trio.fail_after(DEADLINE_SECONDS):
            try:
                while await client.receive_some(1000):
                    pass  # the alert
            except trio.BrokenResourceError:
                pass
        await neighbour.send_all(b"<1>b\n")
        assert await server.router.flushed_frames(2) == [b"<1>a", b"<1>b"]
        assert server.connections.ended == {"handshake": 1}


async def test_a_handshake_has_little_time(context: ssl.SSLContext) -> None:
    async with served(tls=context, handshake_seconds=0.01) as server:
        assert await closed_by_server(await server.client(b"\x16\x03\x01"))
        assert server.router.streams == []
        assert server.connections.ended == {"handshake": 1}


async def test_a_client_that_vanishes_in_the_handshake_ends_it(context: ssl.SSLContext) -> None:
    async with served(tls=context) as server:
        await (await server.client(b"\x16")).aclose()
        await server.all_ended()
        assert server.connections.ended == {"handshake": 1}


async def test_a_damaged_record_ends_the_connection_after_what_was_good(context: ssl.SSLContext, connect: Any) -> None:
    async with served(tls=context) as server:
        client = await connect(server)
        await client.send_all(b"<1>a\n<1>b")
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert await server.router.flushed_frames(2) == [b"<1>a", b"<1>b"]
        await server.all_ended()
        assert server.connections.ended == {"broken": 1}


def test_a_certificate_that_cannot_be_used_is_an_error_of_the_start(tmp_path: Any) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for name in ("no.pem", "missing.pem"):
        with pytest.raises(SetupError, match="cannot use the certificate"):
            server_context(str(tmp_path / name), "")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_line_that_comes_with_the_end_of_the_handshake_does_not_wait(
    context: ssl.SSLContext, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """A sender's last flight and its first line often come in one read of the socket."""
    context.maximum_version = version
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with served(tls=context) as server:
        client = await server.client()
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await client.send_all(outgoing.read())
                incoming.write(await client.receive_some(65536))
        tls.write(b"<1>first\n")
        await client.send_all(outgoing.read())  # TLS 1.3: Finished and the line, one segment
        with trio.fail_after(2):
            assert await server.router.flushed_frames(1) == [b"<1>first"]
