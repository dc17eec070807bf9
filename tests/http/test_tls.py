import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing
import trustme

from .client import HOST, echo, serving
from .test_stream import Held, fill

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_https_serves_requests_of_every_size(contexts: Contexts) -> None:
    async with serving({b"/": echo}, context=contexts[0]) as running, running.client(contexts[1]) as client:
        for size in (0, 1, 16_384, 16_385, 100_000):
            body = b"x" * size
            await client.send(b"POST / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HOST, size, body))
            assert (await client.answer()).body == body
        await client.send(b"".join(b"POST / HTTP/1.1\r\n%bContent-Length: 1\r\n\r\n%d" % (HOST, n) for n in range(9)))
        assert [(await client.answer()).body for n in range(9)] == [b"%d" % n for n in range(9)]


async def test_the_end_of_an_https_connection_is_said(contexts: Contexts) -> None:
    async with serving({b"/": echo}, context=contexts[0]) as running:
        stream = trio.SSLStream(
            await trio.open_tcp_stream("127.0.0.1", running.port), contexts[1], server_hostname="localhost"
        )
        await stream.send_all(GET.replace(b"Host", b"Connection: close\r\nHost"))
        received = b""
        while data := await stream.receive_some():  # raises BrokenResourceError for an end that TLS was not told of
            received += data
        assert received.startswith(b"HTTP/1.1 200")


async def test_a_stream_over_https_keeps_what_a_slow_reader_does_not_take(contexts: Contexts) -> None:
    held = Held()
    async with serving({b"/": held}, context=contexts[0]) as running, running.client(contexts[1]) as client:
        await client.send(GET)
        out = await held.stream()
        taken = await fill(out, b"x" * 50_000)
        assert out.send_nowait(b"y") == 0
        await client.head()
        for _ in range(taken):
            assert await client.chunk() == b"x" * 50_000
        with trio.fail_after(10):
            await held.room.wait()
        assert out.send_nowait(b"z") == 1
        assert await client.chunk() == b"z"


async def test_an_unfinished_handshake_ends_at_the_header_s_deadline(contexts: Contexts) -> None:
    async with serving({b"/": echo}, context=contexts[0]) as running, running.client() as client:
        await client.send(b"\x16\x03\x01")
        await running.until(lambda: running.server.connections == 1)
        running.later(9.0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert running.server.connections == 1
        running.later(2.0)
        assert await client.ended()
        assert running.ledger.requests_refused == {"tls_handshake": 1}


async def test_plain_http_on_a_tls_port_ends_its_connection_only(contexts: Contexts) -> None:
    async with serving({b"/": echo}, context=contexts[0]) as running:
        async with running.client() as client:
            await client.send(GET)
            with suppress(trio.BrokenResourceError):
                await client.rest()  # an alert of TLS
        async with running.client() as client:
            pass  # gone before it has said anything
        async with running.client(contexts[1]) as client:
            await client.send(GET)
            assert (await client.answer()).status == 200
        assert running.ledger.requests_refused["tls_handshake"] >= 1
