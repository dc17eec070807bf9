"""Requests that are taken without the connection's task (`routes.Immediate`)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from logplex.errors import Forbidden
from logplex.http import Handler, Reply, Request

from .client import HOST, Client, Running, no_content, serving

POST = b"POST /now HTTP/1.1\r\n" + HOST
ONE = POST + b"Content-Length: 3\r\n\r\none"
TWO = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"


class Immediate:
    """Takes what it is told to take, and keeps the replies until the test calls them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.replies: list[Reply] = []
        self.take: Callable[[Request, Reply], Handler | None] = self.keep

    async def __call__(self, request: Request) -> None:
        await request.respond(200, (), b"task: " + await request.body(100))

    def at_once(self, request: Request, reply: Reply) -> Handler | None:
        return self.take(request, reply)

    def keep(self, request: Request, reply: Reply) -> Handler | None:
        self.bodies.append(request.whole_body(100))
        self.replies.append(reply)
        return None


@asynccontextmanager
async def immediate() -> AsyncIterator[tuple[Immediate, Running]]:
    handler = Immediate()
    async with serving({b"/now": handler, b"/": no_content}) as running:
        yield handler, running


async def test_what_came_whole_is_taken_at_once_and_answered_by_its_reply() -> None:
    async with immediate() as (handler, running), running.client() as first, running.client() as second:
        for _ in range(3):
            await first.send(ONE)
            await second.send(TWO)
            await running.until(lambda: len(handler.replies) == 2)
            for reply in handler.replies:
                reply(204)
            assert (await first.answer()).status == (await second.answer()).status == 204
            assert sorted(handler.bodies) == [b"one", b"two"]
            handler.bodies.clear()
            handler.replies.clear()


async def test_a_reply_may_come_before_the_request_was_taken() -> None:
    async with immediate() as (handler, running), running.client() as client:

        def take(_request: Request, reply: Reply) -> None:
            reply(204, ((b"X", b"y"),))

        handler.take = take
        for _ in range(3):
            await client.send(ONE)
            assert (await client.answer()).headers["x"] == "y"


async def test_what_comes_in_pieces_or_ahead_is_answered_in_its_order_all_the_same() -> None:
    async with immediate() as (handler, running), running.client() as client:
        for cut in (1, 20, len(ONE) - 1):
            await client.send(ONE[:cut])
            await trio.testing.wait_all_tasks_blocked(0.01)
            await client.send(ONE[cut:] + TWO)
            assert (await client.answer()).body == b"task: one"
            assert (await client.answer()).body == b"task: two"
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        await client.send(TWO)  # is not read before the first has its answer
        await trio.testing.wait_all_tasks_blocked(0.01)
        handler.replies.pop()(204)
        assert (await client.answer()).status == 204
        assert (await client.answer()).body == b"task: two"
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        handler.replies.pop()(204)
        assert (await client.answer()).status == 204


async def test_what_is_not_taken_goes_on_in_the_task() -> None:
    async with immediate() as (handler, running), running.client() as client:

        async def later(request: Request) -> None:
            await trio.lowlevel.checkpoint()
            await request.respond(200, (), b"later")

        handler.take = lambda request, reply: later
        for _ in range(2):
            await client.send(ONE)
            assert (await client.answer()).body == b"later"
        handler.take = lambda request, reply: handler
        await client.send(ONE)
        assert (await client.answer()).body == b"task: one"


async def test_what_it_raises_is_answered_as_of_any_handler() -> None:
    async with immediate() as (handler, running), running.client() as client:
        errors: list[Exception] = [Forbidden("no"), ValueError("a bug")]

        def take(_request: Request, _reply: Reply) -> None:
            raise errors.pop(0)

        handler.take = take
        await client.send(ONE)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers.get("connection")) == (403, b"no", None)
        with capture_logs() as logs:
            await client.send(ONE)
            answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert await client.ended()
        assert [entry["event"] for entry in logs] == ["request_crashed"]
        assert running.ledger.requests_refused == {"forbidden": 1, "crash": 1}


async def test_a_request_that_breaks_http_is_refused_as_ever() -> None:
    async with immediate() as (handler, running), running.client() as client:
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        handler.replies.pop()(204)
        assert (await client.answer()).status == 204
        await client.send(b"POST /now HTTP/1.1\r\n\r\n")
        assert (await client.answer()).status == 400
        await client.end()
        assert await client.ended()
        assert running.ledger.requests_refused == {"http_malformed": 1}


async def test_a_reply_that_the_kernel_does_not_take_at_once_is_sent_whole() -> None:
    value = b"v" * 20_000_000
    async with immediate() as (handler, running), running.client() as client:
        for _ in range(2):
            await client.send(ONE)
            await running.until(lambda: handler.replies)
            handler.replies.pop()(204, ((b"X", value),))
            await client.read_until(b"X: ")
            assert await client.read(len(value)) == value
            await client.read_until(b"\r\n\r\n")


async def test_a_reply_that_cannot_be_sent_is_500() -> None:
    async with immediate() as (handler, running), running.client() as client:
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        with capture_logs():
            handler.replies.pop()(204, ((b"X", b"a\r\nb"),))
            assert (await client.answer()).status == 500


async def test_the_last_request_of_a_connection_is_answered_and_the_connection_closed() -> None:
    async with immediate() as (handler, running), running.client() as client:
        await client.send(ONE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await running.until(lambda: handler.replies)
        handler.replies.pop()(204)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.ended()


async def test_a_half_closed_client_is_answered() -> None:
    async with immediate() as (handler, running), running.client() as client:
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        await client.end()
        await trio.testing.wait_all_tasks_blocked(0.01)
        handler.replies.pop()(204)
        assert (await client.answer()).status == 204
        assert await client.ended()


async def test_stopping_waits_for_replies() -> None:
    async with immediate() as (handler, running), running.client() as client:
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        running.server.stop()
        handler.replies.pop()(204)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.ended()
        await running.until(lambda: len(running.nursery.child_tasks) == 0)


async def test_a_reply_may_take_its_time_and_an_idle_connection_may_not() -> None:
    async with immediate() as (handler, running), running.client() as client:
        await client.send(ONE)
        await running.until(lambda: handler.replies)
        running.later(100_000.0)
        handler.replies.pop()(204)
        assert (await client.answer()).status == 204
        running.later(100_000.0)
        assert await client.ended()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_reply_to_a_client_that_has_gone_hurts_nobody(cancelled: bool) -> None:
    async with immediate() as (handler, running):
        async with running.client() as client:
            await client.send(ONE)
            await running.until(lambda: handler.replies)
            if cancelled:
                running.nursery.cancel_scope.cancel()
                assert await Client(client.stream).ended()
            else:
                assert isinstance(client.stream, trio.SocketStream)
                client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await running.until(lambda: cancelled or any(c.wire.readable for c in running.server._connections))
        handler.replies.pop()(204)
        await running.until(lambda: running.server.connections == 0)
        assert running.ledger.requests_refused == {}


async def test_what_is_taken_at_once_gives_other_tasks_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logplex.poller.SLICE_SECONDS", -1.0)
    async with immediate() as (handler, running), running.client() as first, running.client() as second:
        turns: list[str] = []

        def take(_request: Request, reply: Reply) -> None:
            turns.append("request")
            running.nursery.start_soon(other)
            reply(204)

        async def other() -> None:
            turns.append("other")

        handler.take = take
        async with running.client() as third:
            for client in (first, second, third):
                await client.send(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
                await client.answer()
            for client in (first, second, third):
                assert isinstance(client.stream, trio.SocketStream)
                client.stream.socket._sock.send(ONE)  # without a task switch, so that the server sees all together
            for client in (first, second, third):
                assert (await client.answer()).status == 204
        # What runs in one turn of the loop has no order: the first other comes before or behind the second request.
        assert turns.index("other") < [at for at, turn in enumerate(turns) if turn == "request"][2]
