import socket
from typing import Any

import trio
import trio.testing
from structlog.testing import capture_logs

from logplex.http import Request, Stream

from .client import DEADLINE_SECONDS, HOST, Running, serving

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
TEXT = ((b"Content-Type", b"text/plain"),)


async def three_lines(request: Request) -> None:
    async with request.stream(200, TEXT) as out:
        for line in (b"one\n", b"", b"two\n", b"three\n"):
            await out.send(line)


async def test_a_stream_is_chunked_and_the_connection_goes_on() -> None:
    async with serving({b"/": three_lines}) as running, running.client() as client:
        for _ in range(2):
            await client.send(GET)
            answer = await client.answer()
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "content-length" not in answer.headers
            assert answer.body == b"one\ntwo\nthree\n"


async def test_a_stream_may_be_the_last_answer() -> None:
    async def handler(request: Request) -> None:
        async with request.stream(200, ((b"connection", b"Close"),)) as out:
            await out.send(b"x")

    async with serving({b"/": handler}) as running:
        answer = await running.exchange(GET + GET)
    assert answer.count(b"Connection: close\r\n") == answer.lower().count(b"connection:") == 1
    assert answer.endswith(b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")


async def test_http_1_0_gets_no_chunks_but_the_end() -> None:
    async with serving({b"/": three_lines}) as running:
        answer = await running.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\none\ntwo\nthree\n")


async def test_the_answer_to_head_has_no_body() -> None:
    async with serving({b"/": three_lines}) as running, running.client() as client:
        await client.send(GET.replace(b"GET", b"HEAD") + GET)
        assert (await client.answer("HEAD")).status == 200
        assert (await client.answer()).body == b"one\ntwo\nthree\n"


async def test_a_stream_that_breaks_has_no_last_chunk() -> None:
    async def handler(request: Request) -> None:
        async with request.stream(200) as out:
            await out.send(b"x")
            raise ValueError("a bug")

    async with serving({b"/": handler}) as running:
        with capture_logs() as logs:
            assert (await running.exchange(GET)).endswith(b"1\r\nx\r\n")
    assert len(logs) == 1
    assert running.ledger.requests_refused == {"crash": 1}


class Held:
    """A handler that hands its stream to the test."""

    def __init__(self) -> None:
        self.out: Stream | None = None
        self.opened = trio.Event()
        self.ended = trio.Event()
        self.room = trio.Event()

    async def __call__(self, request: Request) -> None:
        try:
            async with request.stream(200) as out:
                self.out = out
                self.opened.set()
                await out.wait_gone(self._on_room)
        finally:
            self.ended.set()

    def _on_room(self) -> None:
        self.room.set()

    async def stream(self) -> Stream:
        with trio.fail_after(DEADLINE_SECONDS):
            await self.opened.wait()
        assert self.out is not None
        return self.out

    async def end(self) -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await self.ended.wait()


async def fill(out: Stream, piece: bytes) -> int:
    """Send until the reader is behind; returns how many pieces were taken."""
    taken = 0
    while out.send_nowait(piece) == len(piece):
        taken += 1
        await trio.lowlevel.checkpoint()
        assert taken < 100_000
    return taken


async def test_send_nowait_takes_nothing_while_the_reader_is_behind_and_loses_nothing() -> None:
    held = Held()
    async with serving({b"/": held}) as running, running.client() as client:
        await client.send(GET)
        out = await held.stream()
        taken = await fill(out, b"x" * 50_000)
        assert out.send_nowait(b"y") == 0
        await client.head()
        for _ in range(taken):
            assert await client.chunk() == b"x" * 50_000
        with trio.fail_after(DEADLINE_SECONDS):
            await held.room.wait()
        assert out.send_nowait(b"z") == 1
        assert await client.chunk() == b"z"
        out.stop()
        assert await client.chunk() == b""
        await client.send(GET)


async def test_what_the_kernel_holds_for_a_slow_reader_is_bounded() -> None:
    held = Held()
    async with serving({b"/": held}) as running, running.client() as client:
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.send(GET)
        taken = await fill(await held.stream(), b"x" * 10_000)
        assert taken * 10_000 < 8_000_000  # what loopback takes in its largest receive buffer, and 128 KiB


async def test_the_client_s_end_is_noticed_without_sending() -> None:
    for leave in (lambda client: client.stream.aclose(), lambda client: client.end()):
        held = Held()
        async with serving({b"/": held}) as running, running.client() as client:
            await client.send(GET)
            out = await held.stream()
            await leave(client)
            await held.end()
            assert out.gone
        assert running.ledger.requests_refused == {}


async def test_a_reset_is_noticed_by_a_reader_that_is_behind() -> None:
    held = Held()
    async with serving({b"/": held}) as running, running.client() as client:
        await client.send(GET)
        out = await held.stream()
        await fill(out, b"x" * 50_000)
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await client.stream.aclose()
        await held.end()
        assert out.gone


async def test_a_thousand_readers_share_the_framed_bytes() -> None:
    helds: list[Held] = []

    async def handler(request: Request) -> None:
        helds.append(Held())
        await helds[-1](request)

    async with serving({b"/": handler}) as running, running.client() as first, running.client() as second:
        await first.send(GET)
        await second.send(GET)
        await running.until(lambda: len(helds) == 2)
        piece = bytes(1_000_000)
        outs = [await held.stream() for held in helds]
        for out in outs:
            assert out.send_nowait(piece) == len(piece)
        rests: list[Any] = [out._rest for out in outs]
        assert all(isinstance(rest, memoryview) for rest in rests)
        assert rests[0].obj is rests[1].obj


async def test_what_a_client_sends_while_it_reads_a_stream_is_thrown_away() -> None:
    held = Held()
    async with serving({b"/": held}) as running, running.client() as client:
        await client.send(GET)
        out = await held.stream()
        await client.send(b"anything" * 1000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert out.send_nowait(b"x") == 1
        await client.head()
        assert await client.chunk() == b"x"
        assert not out.gone


async def test_the_server_s_stop_ends_streams_in_order() -> None:
    held = Held()
    async with serving({b"/": held}) as running, running.client() as client:
        await client.send(GET)
        await held.stream()
        running.server.stop()
        assert (await client.answer()).body == b""
        assert await client.ended()


async def test_send_waits_for_a_slow_reader() -> None:
    sent: list[int] = []

    async def handler(request: Request) -> None:
        async with request.stream(200) as out:
            for number in range(200):
                await out.send(b"x" * 100_000)
                sent.append(number)

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(GET)
        await client.head()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(sent) < 200
        total = 0
        while chunk := await client.chunk():
            total += len(chunk)
        assert total == 20_000_000
        await settled(running)


async def settled(running: Running) -> None:
    await running.until(lambda: not any(connection.busy for connection in running.server._connections))
