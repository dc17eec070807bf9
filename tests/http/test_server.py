import errno
import socket
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from logplex.errors import Forbidden, TooManyFailures, Unauthorized
from logplex.http import Request, Server

from .client import HOST, Client, Running, echo, no_content, serving

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"


def post(body: bytes, path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path, HOST, len(body), body)


def chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n" + framed


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        for body in (b"one", b"", b"three" * 10_000):
            await client.send(post(body))
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, body)
            assert "connection" not in answer.headers
            assert answer.headers["date"].endswith("GMT")


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        for request in (post(b"hello"), chunked(b"he", b"llo")):
            for byte in request:
                await client.send(bytes([byte]))
            assert (await client.answer()).body == b"hello"


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    bodies = [b"%d" % number for number in range(200)]
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(b"".join(post(body) if int(body) % 3 else chunked(body, body) for body in bodies))
        for body in bodies:
            assert (await client.answer()).body == (body if int(body) % 3 else body * 2)


async def test_a_request_behind_a_body_that_came_late_is_served() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(post(b"hello")[:-3])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(b"llo" + GET)
        assert (await client.answer()).body == b"hello"
        assert (await client.answer()).status == 200


async def test_chunked_and_counted_bodies_read_the_same() -> None:
    body = bytes(range(256)) * 300
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(post(body) + chunked(body[:10], body[10:70_000], body[70_000:]))
        assert (await client.answer()).body == (await client.answer()).body == body


async def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    async def handler(request: Request) -> None:
        await request.respond(200, (), b"hello")

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(GET.replace(b"GET", b"HEAD") + GET)
        assert (await client.answer("HEAD")).headers["content-length"] == "5"
        assert (await client.answer()).body == b"hello"


async def test_a_client_of_http_1_0_gets_its_answer_and_the_end() -> None:
    async with serving({b"/": echo}) as running:
        answer = await running.exchange(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nhi")


async def test_connection_close_is_heeded_and_what_follows_is_not_served() -> None:
    async with serving({b"/": echo}) as running:
        answer = await running.exchange(LAST + post(b"not served"))
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in answer


async def test_a_half_closed_client_is_answered() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(post(b"one") + chunked(b"two"))
        await client.end()
        assert (await client.answer()).body == b"one"
        assert (await client.answer()).body == b"two"
        assert await client.ended()


async def test_a_client_that_ends_inside_a_request_is_left_without_an_answer() -> None:
    async with serving({b"/": echo}) as running:
        for request in (post(b"hello"), chunked(b"hello")):
            for cut in (1, len(request) // 2, len(request) - 1):
                async with running.client() as client:
                    await client.send(request[:cut])
                    await client.end()
                    assert await client.ended()
        assert running.ledger.requests_refused == {}


async def test_continue_is_sent_before_a_body_that_is_wanted() -> None:
    request = post(b"hello").replace(b"Content-Length", b"Expect: 100-Continue\r\nContent-Length")
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(request[:-5])
        assert (await client.head()).status == 100
        await client.send(b"hello")
        assert (await client.answer()).body == b"hello"
        await client.send(request)  # with its body at once: nothing to ask for
        assert (await client.answer()).status == 200


async def test_an_early_answer_spares_the_body_and_closes() -> None:
    async def handler(request: Request) -> None:
        raise Forbidden("no")

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + HOST + b"\r\n")
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (403, b"no", "close")
        await client.end()
        assert await client.ended()
        assert running.ledger.requests_refused == {"forbidden": 1}


async def test_an_early_answer_reaches_a_client_that_sends_all_before_it_reads() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(post(b"x" * 5_000_000))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("request_", [post(b"x" * 100_001), chunked(b"x" * 50_000, b"x" * 50_001)])
async def test_a_body_over_the_limit_is_413(request_: bytes) -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(request_)
        assert (await client.answer()).status == 413
        assert running.ledger.requests_refused == {"too_large": 1}


async def test_a_body_that_nobody_asked_for_is_passed_over_when_it_is_there() -> None:
    async def handler(request: Request) -> None:
        await request.respond(204)

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(post(b"hello") + chunked(b"hello") + GET)
        for _ in range(3):
            assert (await client.answer()).status == 204


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "http_malformed"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "http_malformed"),
        (post(b"x").replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"), 400, "http_malformed"),
        (chunked(b"x").replace(b"1\r\nx", b"1\r\nxyz"), 400, "http_malformed"),
        (b"\x16\x03\x01\x02\x00", 501, "http_method"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431, "header_too_large"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "http_method"),
    ],
)
async def test_a_request_that_breaks_http_is_answered_counted_and_closed(
    data: bytes, status: int, reason: str
) -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(GET + data + GET)
        assert (await client.answer()).status == 200
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        await client.end()
        assert await client.ended()
        assert running.ledger.requests_refused == {reason: 1}


async def test_a_header_line_of_10_mb_is_refused_in_a_way_that_its_sender_sees() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000_000)
        assert (await client.answer()).status == 431


async def busy(running: Running) -> None:
    """Until the server has seen the first byte of a request."""
    await running.until(lambda: any(connection.busy for connection in running.server._connections))


async def test_a_slow_header_is_408() -> None:
    async with serving({b"/": echo}, header_seconds=10.0) as running, running.client() as client:
        await client.send(GET[:10])
        await busy(running)
        running.later(9.0)
        await client.send(GET[10:20])
        await trio.testing.wait_all_tasks_blocked(0.01)
        running.later(1.5)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert running.ledger.requests_refused == {"http_slow_header": 1}


async def test_a_slow_header_behind_another_request_is_408_too() -> None:
    async with serving({b"/": echo}, header_seconds=10.0) as running, running.client() as client:
        await client.send(GET + GET[:10])
        assert (await client.answer()).status == 200
        running.later(11.0)
        assert (await client.answer()).status == 408


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving({b"/": echo}, header_seconds=10.0, idle_connection_seconds=300.0) as running:
        async with running.client() as silent, running.client() as idle:
            await idle.send(GET)
            assert (await idle.answer()).status == 200
            running.later(11.0)
            assert await silent.ended()
            await idle.send(GET)
            assert (await idle.answer()).status == 200
            running.later(301.0)
            assert await idle.ended()
        assert running.ledger.requests_refused == {}


async def test_what_is_overdue_is_looked_for_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logplex.http.server.SWEEP_SECONDS", 0.01)
    async with serving({b"/": echo}) as running, running.client() as client:
        await client.send(GET[:10])
        await busy(running)
        running.clock.now += 11.0
        assert (await client.answer()).status == 408


async def test_a_slow_body_is_408() -> None:
    async with serving({b"/": echo}, body_bytes_per_second=100) as running, running.client() as client:
        await client.send(post(b"x" * 5000)[:-5000])
        await busy(running)
        for _ in range(3):  # 1,000 bytes in 10 s are enough
            await client.send(b"x" * 1000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            running.later(10.5)
        await client.send(b"x" * 900)
        await trio.testing.wait_all_tasks_blocked(0.01)
        running.later(10.5)
        assert (await client.answer()).status == 408
        assert running.ledger.requests_refused == {"http_slow_body": 1}


async def test_a_handler_may_take_its_time() -> None:
    go_on = trio.Event()

    async def handler(request: Request) -> None:
        await go_on.wait()
        await request.respond(204)

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(GET)
        await busy(running)
        running.later(100_000.0)
        go_on.set()
        assert (await client.answer()).status == 204


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    ended = trio.Event()

    async def handler(request: Request) -> None:
        try:
            await request.respond(200, (), bytes(50_000_000))
        finally:
            ended.set()

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(GET)
        await client.read(1000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not ended.is_set()
        running.later(61.0)
        with trio.fail_after(10):
            await ended.wait()


async def test_a_crash_is_logged_counted_answered_500_and_ends_its_connection_only() -> None:
    async def crash(request: Request) -> None:
        raise ValueError("a bug")

    routes = {b"/crash": crash, b"/": echo}
    async with serving(routes) as running, running.client() as bystander, running.client() as client:
        with capture_logs() as logs:
            await client.send(GET.replace(b"/ ", b"/crash ") + GET)
            answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (500, "close")
        assert b"bug" not in answer.body
        await client.end()
        assert await client.ended()
        assert [(entry["event"], entry["path"]) for entry in logs] == [("request_crashed", b"/crash")]
        assert running.ledger.requests_refused == {"crash": 1}
        await bystander.send(GET)
        assert (await bystander.answer()).status == 200


async def test_a_handler_that_forgets_to_answer_is_a_crash() -> None:
    async def handler(request: Request) -> None:
        await request.body(10)

    async with serving({b"/": handler}) as running, running.client() as client:
        with capture_logs():
            await client.send(GET)
            assert (await client.answer()).status == 500


@pytest.mark.parametrize("header", [(b"X", b"a\r\nSet-Cookie: b"), (b"X\r\nY", b"a"), (b"", b"a"), (b"X", b"\n")])
async def test_a_header_that_would_split_the_answer_is_never_sent(header: tuple[bytes, bytes]) -> None:
    async def handler(request: Request) -> None:
        await request.respond(200, (header,))

    async with serving({b"/": handler}) as running, running.client() as client:
        with capture_logs():
            await client.send(GET)
            answer = await client.answer()
        assert answer.status == 500
        assert set(answer.headers) == {"date", "content-type", "content-length", "connection"}


async def test_errors_of_the_client_are_answered_as_text() -> None:
    async def unauthorized(request: Request) -> None:
        raise Unauthorized("Not Authorized")

    async def limited(request: Request) -> None:
        raise TooManyFailures(30)

    async with serving({b"/u": unauthorized, b"/l": limited}) as running, running.client() as client:
        await client.send(GET.replace(b"/ ", b"/u ") + GET.replace(b"/ ", b"/l "))
        answer = await client.answer()
        assert (answer.status, answer.body) == (401, b"Not Authorized")
        assert answer.headers["www-authenticate"] == "Basic realm=Logplex"
        answer = await client.answer()
        assert (answer.status, answer.headers["retry-after"]) == (429, "30")


async def test_routes_are_exact_then_the_longest_beginning_then_the_fallback() -> None:
    def named(name: bytes):  # type: ignore[no-untyped-def]
        async def handler(request: Request) -> None:
            await request.respond(200, (), name)

        return handler

    routes = {b"/a": named(b"a"), b"/a/*": named(b"a/*"), b"/a/b/*": named(b"a/b/*")}
    async with serving(routes, fallback=named(b"else")) as running, running.client() as client:
        for path, name in {b"/a": b"a", b"/a/": b"a/*", b"/a/b/c": b"a/b/*", b"/a/b": b"a/*", b"/ab": b"else"}.items():
            await client.send(GET.replace(b"/ ", path + b"?q "))
            assert (await client.answer()).body == name


async def test_stopping_answers_what_has_begun_and_closes_what_is_idle() -> None:
    go_on = trio.Event()

    async def handler(request: Request) -> None:
        await go_on.wait()
        await request.respond(200, (), b"done")

    async with serving({b"/slow": handler, b"/": echo}) as running:
        async with running.client() as idle, running.client() as slow:
            await idle.send(GET)
            await idle.answer()
            await slow.send(GET.replace(b"/ ", b"/slow "))
            await busy(running)
            running.server.stop()
            assert await idle.ended()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", running.port)
            go_on.set()
            answer = await slow.answer()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
            assert await slow.ended()
        await running.until(lambda: len(running.nursery.child_tasks) == 0)


async def test_stopping_does_not_wait_for_ever() -> None:
    async def handler(request: Request) -> None:
        await trio.sleep_forever()

    async with serving({b"/": handler}) as running, running.client() as client:
        await client.send(GET)
        await busy(running)
        running.server.stop(0)
        assert await client.ended()
        await running.until(lambda: len(running.nursery.child_tasks) == 0)


async def test_bodies_that_find_no_room_are_closed_without_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logplex.http.bodies.WAIT_SECONDS", 0.05)
    async with serving({b"/": echo}, unfinished_body_bytes=160_000) as running:  # 20,000 for one address
        async with running.client() as first, running.client() as second:
            await first.send(post(b"x" * 50_000)[:-1])
            await running.until(lambda: running.server._shared.bodies.held > 40_000)
            await second.send(post(b"x" * 50_000)[:-1])
            assert await second.ended()
            await first.send(b"x")
            assert len((await first.answer()).body) == 50_000
        assert running.ledger.requests_refused == {"unfinished_bodies": 1}
        assert running.server._shared.bodies.held == 0


async def test_at_the_bound_of_connections_the_longest_idle_makes_room() -> None:
    async with serving({b"/": no_content}, connections=3) as running, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running.client()) for _ in range(3)]
        first, second, third = clients
        for client in (third, first, second):
            await client.send(GET)
            await client.answer()
            running.clock.now += 1
        assert running.server.connections == 3
        with capture_logs():
            fourth = await stack.enter_async_context(running.client())
            await fourth.send(GET)
            assert (await fourth.answer()).status == 204
            assert await third.ended()
        for client in (first, second):
            await client.send(GET)
            assert (await client.answer()).status == 204


async def test_where_nobody_is_idle_clients_wait_to_be_accepted() -> None:
    go_on = trio.Event()

    async def handler(request: Request) -> None:
        await go_on.wait()
        await request.respond(204)

    async with serving({b"/": handler}, connections=1) as running:
        with capture_logs() as logs:
            async with running.client() as first, running.client() as second:
                await first.send(LAST)
                await busy(running)
                await second.send(LAST)
                await running.until(lambda: logs)
                go_on.set()
                assert (await first.answer()).status == (await second.answer()).status == 204
    assert [entry["event"] for entry in logs] == ["accept_paused"]


async def test_accepting_goes_on_when_files_are_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]
    accept = socket.socket.accept

    def failing(self: socket.socket) -> tuple[socket.socket, object]:
        client = accept(self)
        if failures:
            client[0].close()
            raise OSError(failures.pop(), "injected")
        return client

    async with serving({b"/": no_content}) as running:
        monkeypatch.setattr(socket.socket, "accept", failing)
        with capture_logs():
            while failures:
                async with running.client() as client:
                    assert await client.ended()
            async with running.client() as client:
                await client.send(GET)
                assert (await client.answer()).status == 204


async def test_a_file_number_that_should_stay_spare_is_given_back() -> None:
    async with serving({b"/": no_content}) as running, running.client() as served:
        await served.send(GET)
        await served.answer()
        running.server._files = 3
        running.clock.now += 1
        with capture_logs():
            async with running.client() as client:
                assert await client.ended()
        assert running.ledger.requests_refused == {"no_files": 1}
        assert await served.ended()  # it was idle, and made room


async def test_a_server_may_be_made_before_trio_runs_and_cancelled_at_any_time() -> None:
    async with serving({b"/": echo}) as running, running.client() as client:
        assert isinstance(running.server, Server)
        await client.send(GET[:10])
        await busy(running)
        running.nursery.cancel_scope.cancel()
        assert await Client(client.stream).ended()
