import gzip
import io
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logplex.errors import CountMismatch, MalformedBody, TooLarge, TooManyFailures, Unauthorized
from logplex.group import Outcome
from logplex.http import Handler
from logplex.inputs.logs import INFLATED_SLICE_BYTES, MAX_GZIP_MEMBERS, Inflation, Logs
from logplex.registry.records import Principal

from ..http.client import DEADLINE_SECONDS, HOST, Answer, Client, Running, serving

LIMIT = 100_000
FRAME = b"36 <13>1 2026-01-01T00:00:00Z h t p - x"
TOKEN = Principal("token", "t.1", channel_ids=frozenset({1}))
WRITER = Principal("credential", "any", may_write_any=True)
READER = Principal("credential", "reader", permissions=frozenset({"app:shop"}), app_ids=frozenset({1}))
DRAIN_TOKEN = "d.00000000-0000-4000-8000-000000000000"


class FakeRouter:
    """Remembers what it was given, and ends each request as the test says."""

    immediate = False  # whether it takes bodies at once

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Principal]] = []
        self.options: list[dict[str, Any]] = []
        self.outcome = Outcome.DONE
        self.error: Exception | None = None
        self.done: list[Callable[[Outcome], None]] = []
        self.held = trio.Event()
        self.held.set()

    async def take_body(self, body: bytes, principal: Principal, **options: Any) -> Outcome:
        self.taken.append((body, principal))
        self.options.append(options)
        await self.held.wait()
        if self.error is not None:
            raise self.error
        return self.outcome

    def take_body_at_once(
        self, body: bytes, principal: Principal, done: Callable[[Outcome], None], **options: Any
    ) -> Callable[[], Awaitable[Outcome]] | None:
        if not self.immediate or self.outcome is Outcome.HELD:
            return partial(self.take_body, body, principal, **options)
        self.taken.append((body, principal))
        self.options.append(options)
        if self.error is not None:
            raise self.error
        self.done.append(done)
        if self.held.is_set():
            self.let_go()
        return None

    def let_go(self) -> None:
        """The commit returns."""
        self.held.set()
        done, self.done = self.done, []
        for callback in done:
            callback(self.outcome)


class FakeRegistry:
    """Knows log-ins by the whole header: `quick` ones from memory, `slow` ones after asking."""

    def __init__(self) -> None:
        self.quick = {b"Basic token": TOKEN, b"Bearer t.1": TOKEN}
        self.slow = {b"Basic writer": WRITER, b"Basic reader": READER}

    def authenticate(self, authorization: bytes, address: str) -> Principal | None:
        assert address == "127.0.0.1"
        return self.quick.get(authorization)

    async def authenticate_slow(self, authorization: bytes | None, address: str) -> Principal:
        await trio.lowlevel.checkpoint()
        if authorization == b"Basic limited":
            raise TooManyFailures(30)
        if authorization not in self.slow:
            raise Unauthorized("Not Authorized")
        return self.slow[authorization]

    def is_drain_token(self, token: str) -> bool:
        return token == DRAIN_TOKEN


@pytest.fixture(autouse=True, params=["task", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test, with a router that has to wait, and with one that takes bodies at once."""
    monkeypatch.setattr(FakeRouter, "immediate", request.param == "at once")


class Input:
    """A running server with `/logs` and a connection to it."""

    def __init__(self, router: FakeRouter, running: Running, client: Client) -> None:
        self.router = router
        self.running = running
        self.client = client
        self.open = True

    async def post(
        self, body: bytes = FRAME, path: bytes = b"/logs", *, chunked: bool = False, **given: bytes | None
    ) -> Answer:
        headers: dict[str, bytes | None] = {
            "authorization": b"Basic token",
            "content_type": b"application/logplex-1",
            **given,
        }
        lines = [b"POST %b HTTP/1.1\r\n" % path, HOST]
        for name, value in headers.items():
            if value is not None:
                lines.append(b"%b: %b\r\n" % (name.replace("_", "-").encode(), value))
        if chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            lines.append(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await self.client.send(b"".join(lines))
        return await self.client.answer()


@asynccontextmanager
async def listening(*, lenient: bool = False) -> AsyncIterator[Input]:
    router = FakeRouter()
    given: list[Input] = []
    logs = Logs(router, FakeRegistry(), max_body_bytes=LIMIT, lenient=lenient, is_open=lambda: given[0].open)
    routes: dict[bytes, Handler] = {b"/logs": logs, b"/logs/": logs}
    async with serving(routes) as running, running.client() as client:
        given.append(Input(router, running, client))
        yield given[0]


@pytest.mark.parametrize("path", [b"/logs", b"/logs/", b"/logs?x=y"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_batch_is_answered_204_with_nothing_else(path: bytes, chunked: bool) -> None:
    async with listening() as logs:
        for _ in range(2):
            answer = await logs.post(path=path, chunked=chunked)
            assert answer.status == 204
            assert set(answer.headers) == {"date"}
        assert logs.router.taken == [(FRAME, TOKEN)] * 2


async def test_an_empty_request_is_204() -> None:
    async with listening() as logs:
        assert (await logs.post(b"")).status == 204
        assert (await logs.post(b"", content_encoding=b"gzip")).status == 204
        assert [body for body, _ in logs.router.taken] == [b"", b""]


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/logplex-1",
        b"application/x-logplex-1",
        b"Application/Logplex-1; charset=utf-8",
        b"application/logplex-1 ;x=y;z",
    ],
)
async def test_the_content_types_of_shippers_are_known(content_type: bytes) -> None:
    async with listening() as logs:
        assert (await logs.post(content_type=content_type)).status == 204


@pytest.mark.parametrize(
    "content_type", [None, b"", b"text/plain", b"application/logplex-10", b"x;application/logplex-1"]
)
async def test_other_content_types_are_415(content_type: bytes | None) -> None:
    async with listening() as logs:
        assert (await logs.post(content_type=content_type)).status == 415
        assert logs.running.ledger.requests_refused == {"unsupported_media": 1}
        assert logs.router.taken == []


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip", b"zstd"])
async def test_other_content_encodings_are_415(encoding: bytes) -> None:
    async with listening() as logs:
        assert (await logs.post(content_encoding=encoding)).status == 415


@pytest.mark.parametrize(
    ("authorization", "principal"),
    [(b"Basic token", TOKEN), (b"Bearer t.1", TOKEN), (b"Basic writer", WRITER)],
)
async def test_tokens_and_writing_credentials_may_log(authorization: bytes, principal: Principal) -> None:
    async with listening() as logs:
        assert (await logs.post(authorization=authorization)).status == 204
        assert logs.router.taken == [(FRAME, principal)]


@pytest.mark.parametrize("authorization", [None, b"", b"Basic unknown"])
async def test_without_a_log_in_the_answer_is_401_and_says_which(authorization: bytes | None) -> None:
    async with listening() as logs:
        answer = await logs.post(authorization=authorization)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Basic realm=Logplex")
        assert logs.running.ledger.requests_refused == {"unauthorized": 1}
        assert logs.router.taken == []


async def test_a_credential_without_the_permission_to_write_is_403() -> None:
    async with listening() as logs:
        assert (await logs.post(authorization=b"Basic reader")).status == 403
        assert logs.router.taken == []


async def test_limited_log_ins_are_429() -> None:
    async with listening() as logs:
        answer = await logs.post(authorization=b"Basic limited")
        assert (answer.status, answer.headers["retry-after"]) == (429, "30")


async def test_a_batch_from_a_drain_of_ours_is_a_loop() -> None:
    async with listening() as logs:
        answer = await logs.post(logplex_drain_token=DRAIN_TOKEN.encode())
        assert (answer.status, answer.body) == (403, b"loop")
        assert logs.running.ledger.requests_refused == {"loop": 1}
        assert (await logs.post(logplex_drain_token=b"d.somebody-else-s")).status == 204


async def test_while_ingress_is_denied_the_answer_is_503() -> None:
    async with listening() as logs:
        logs.open = False
        assert (await logs.post()).status == 503
        logs.open = True
        assert (await logs.post()).status == 204


async def test_other_methods_are_405() -> None:
    async with listening() as logs:
        for method in (b"GET", b"PUT", b"DELETE"):
            await logs.client.send(method + b" /logs HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n")
            answer = await logs.client.answer()
            assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413(chunked: bool) -> None:
    async with listening() as logs:
        assert (await logs.post(b"x" * LIMIT, chunked=chunked)).status == 204
        assert (await logs.post(b"x" * (LIMIT + 1), chunked=chunked)).status == 413
        assert logs.running.ledger.requests_refused == {"too_large": 1}


@pytest.mark.parametrize("error", [MalformedBody(), CountMismatch()])
async def test_what_the_router_refuses_is_400_with_its_reason(error: Exception) -> None:
    async with listening() as logs:
        logs.router.error = error
        answer = await logs.post()
        assert (answer.status, answer.body) == (400, str(error).encode())
        logs.router.error = None
        assert (await logs.post()).status == 204  # the body was read, so the connection goes on


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"logplex_msg_count": b"3"}, 3),
        ({"logplex_msg_count": b"003"}, 3),
        ({"logplex_msg_count": b"three"}, -1),
        ({"logplex_msg_count": b""}, -1),
        ({"logplex_msg_count": b"-1"}, -1),
        ({"logplex_msg_count": "²".encode()}, -1),
        ({"logplex_msg_count": b"9" * 5000}, -1),
    ],
)
async def test_a_count_that_is_no_number_fits_no_body(given: dict[str, bytes], expected: int | None) -> None:
    async with listening() as logs:
        await logs.post(**given)
        assert logs.router.options[0]["expected"] == expected


async def test_the_count_is_checked_as_the_setting_says() -> None:
    for lenient in (False, True):
        async with listening(lenient=lenient) as logs:
            await logs.post()
            assert logs.router.options[0]["lenient"] is lenient


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"logplex_frame_id": b"F", "x_request_id": b"R"}, "F"),
        ({"logplex_frame_id": b"", "x_request_id": b"R"}, "R"),
        ({"x_request_id": b"R\xff"}, "R\xff"),
        ({"x_request_id": b""}, None),
    ],
)
async def test_the_frame_id_is_the_request_s_id_else_the_request_id(
    given: dict[str, bytes], expected: str | None
) -> None:
    async with listening() as logs:
        await logs.post(**given)
        assert logs.router.options[0]["request_id"] == expected


async def test_losses_that_the_shipper_tells_are_passed_on_and_bounded() -> None:
    async with listening() as logs:
        await logs.post(logplex_drop_count=b"8", logplex_lost_count=b"5")
        await logs.post(logplex_drop_count=b"9" * 18, logplex_lost_count=b"many")
        assert [(given["dropped"], given["lost"]) for given in logs.router.options] == [(8, 5), (10**9, 0)]


async def test_an_acknowledgement_from_memory_says_so() -> None:
    async with listening() as logs:
        logs.router.outcome = Outcome.MEMORY
        answer = await logs.post()
        assert (answer.status, answer.headers["logplex-durability"]) == (204, "memory")


async def test_a_group_that_cannot_be_committed_closes_without_a_reply() -> None:
    async with listening() as logs:
        logs.router.outcome = Outcome.HELD
        with pytest.raises(AssertionError, match="the server ended"):
            await logs.post()


async def test_the_reply_is_held_while_the_router_holds() -> None:
    async with listening() as logs:
        logs.router.held = trio.Event()
        async with trio.open_nursery() as nursery:

            async def let_go() -> None:
                await logs.running.until(lambda: logs.router.taken)
                logs.running.later(1000.0)
                logs.router.let_go()

            nursery.start_soon(let_go)
            assert (await logs.post()).status == 204


# gzip


async def test_gzip_is_inflated_also_in_several_members() -> None:
    big = os.urandom(30_000) + bytes(60_000)
    async with listening() as logs:
        for body in (gzip.compress(FRAME), gzip.compress(FRAME) + gzip.compress(b"") + gzip.compress(FRAME)):
            for chunked in (False, True):
                assert (await logs.post(body, content_encoding=b"gzip", chunked=chunked)).status == 204
        assert (await logs.post(gzip.compress(big), content_encoding=b"X-Gzip")).status == 204
        assert [body for body, _ in logs.router.taken] == [FRAME, FRAME, FRAME * 2, FRAME * 2, big]


@pytest.mark.parametrize(
    "body",
    [
        FRAME,
        gzip.compress(FRAME) + b"x",
        gzip.compress(FRAME) + b"\0" * 8,
        gzip.compress(FRAME)[:-1],
        gzip.compress(FRAME)[:5],
        gzip.compress(FRAME) + gzip.compress(FRAME)[:-3],
        zlib.compress(FRAME),
        gzip.compress(FRAME)[:-8] + b"\0" * 8,
        gzip.compress(b"") * (MAX_GZIP_MEMBERS + 1),
    ],
)
async def test_what_is_no_gzip_to_its_last_byte_is_400(body: bytes) -> None:
    async with listening() as logs:
        answer = await logs.post(body, content_encoding=b"gzip")
        assert (answer.status, answer.body) == (400, b"Malformed log messages")
        assert logs.router.taken == []


async def test_a_bomb_is_cut_off_at_the_limit() -> None:
    async with listening() as logs:
        assert (await logs.post(gzip.compress(bytes(LIMIT)), content_encoding=b"gzip")).status == 204
        assert (await logs.post(gzip.compress(bytes(LIMIT + 1)), content_encoding=b"gzip")).status == 413
        bomb = gzip.compress(bytes(20_000_000))
        assert (await logs.post(bomb, content_encoding=b"gzip")).status == 413
        assert (await logs.post(gzip.compress(bytes(60_000)) * 2, content_encoding=b"gzip")).status == 413
        assert len(logs.router.taken) == 1


def test_a_bomb_is_not_inflated_beyond_its_limit() -> None:
    inflation = Inflation(1_000_000)
    rest = gzip.compress(bytes(20_000_000))
    for _ in range(1_000_000 // INFLATED_SLICE_BYTES):
        rest = inflation.feed(rest)
    with pytest.raises(TooLarge):
        inflation.feed(rest)
    assert inflation.bytes == 1_000_001


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 500), st.integers(0, 9))
def test_slices_of_any_size_inflate_to_the_same(members: list[bytes], step: int, level: int) -> None:
    deflated = b"".join(gzip.compress(member, level) for member in members)
    inflation = Inflation(10_000)
    for start in range(0, len(deflated), step):
        rest = deflated[start : start + step]
        while rest:
            rest = inflation.feed(rest)
    assert inflation.end() == gzip.GzipFile(fileobj=io.BytesIO(deflated)).read()


async def test_inflating_gives_others_their_turn() -> None:
    turns = 0

    async with listening() as logs:
        large = Logs(logs.router, FakeRegistry(), max_body_bytes=10_000_000, lenient=False, is_open=lambda: True)
        async with serving({b"/logs": large}) as running, running.client() as client, trio.open_nursery() as nursery:

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            body = gzip.compress(bytes(10_000_000))
            await client.send(
                b"POST /logs HTTP/1.1\r\nAuthorization: Basic token\r\nContent-Type: application/logplex-1\r\n"
                b"Content-Encoding: gzip\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), HOST, body[:-1])
            )
            await running.until(lambda: any(connection.busy for connection in running.server._connections))
            nursery.start_soon(others)
            before = turns
            await client.send(body[-1:])
            with trio.fail_after(DEADLINE_SECONDS):
                assert (await client.answer()).status == 204
            assert turns - before > 10_000_000 // INFLATED_SLICE_BYTES
            nursery.cancel_scope.cancel()
    assert len(logs.router.taken[0][0]) == 10_000_000
