"""`/logs` over the real router."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from logplex.catchup import Work
from logplex.errors import StoreError, Unauthorized
from logplex.inputs.logs import Logs
from logplex.registry.records import Principal, Token
from logplex.writes import Spool

from ..core import EVERYONE, Core
from ..http.client import HOST, Answer, Client, Running, serving

TIME = b"2026-01-01T00:00:00+00:00"


class Registry:
    """Knows the core's tokens by `Bearer`, and everyone by `Basic everyone`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def authenticate(self, authorization: bytes, address: str) -> Principal | None:
        if authorization == b"Basic everyone":
            return EVERYONE
        token = self._core.tokens.stored.get(authorization.removeprefix(b"Bearer ").decode())
        return self._core.principal(token) if token else None

    async def authenticate_slow(self, authorization: bytes | None, address: str) -> Principal:
        raise Unauthorized("Not Authorized")

    def is_drain_token(self, token: str) -> bool:
        return token in self._core.tokens.drain_tokens


def frames(*texts: bytes, app: bytes = b"app", framed: bytes = b"%d %b") -> bytes:
    messages = [b"<13>1 %b host %b web.1 - - %b" % (TIME, app, text) for text in texts]
    return b"".join(framed % (len(message), message) for message in messages)


class Shipper:
    def __init__(self, core: Core, client: Client, running: Running) -> None:
        self.running = running
        self.core = core
        self.token: Token = core.add_token(1)
        self.client = client

    async def post(self, body: bytes, authorization: bytes | None = None, **headers: str) -> Answer:
        lines = [f"{name.replace('_', '-')}: {value}\r\n".encode() for name, value in headers.items()]
        await self.client.send(
            b"POST /logs HTTP/1.1\r\nContent-Type: application/logplex-1\r\n%bAuthorization: %b\r\n%b"
            b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n"
            % (
                HOST,
                authorization or b"Bearer " + self.token.id.encode(),
                b"".join(lines),
                b"%x\r\n%b\r\n" % (len(body), body) if body else b"",
            )
        )
        return await self.client.answer()

    def texts(self) -> list[bytes]:
        return [line.text for line in self.core.lines(1)]


@asynccontextmanager
async def shipping(*, lenient: bool = False, spool: Spool | None = None) -> AsyncIterator[Shipper]:
    core = Core(spool=spool)
    logs = Logs(core.router, Registry(core), max_body_bytes=1_000_000, lenient=lenient, is_open=lambda: True)
    async with trio.open_nursery() as nursery:
        await nursery.start(core.committer.run)
        async with serving({b"/logs": logs}) as running, running.client() as client:
            yield Shipper(core, client, running)
        assert core.balanced()
        nursery.cancel_scope.cancel()


class FailingSpool:
    """A disk that takes nothing."""

    def start(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(arrived, StoreError("disk I/O error"))


class SlowSpool:
    """A disk that takes its time."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = trio.Event()

    def start(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        self.asked += 1
        trio.lowlevel.spawn_system_task(self._write, arrived)

    async def _write(self, arrived: Callable[[StoreError | None], None]) -> None:
        await self.go_on.wait()
        arrived(None)


async def test_what_is_acknowledged_is_there_for_readers() -> None:
    async with shipping() as shipper:
        assert (await shipper.post(frames(b"one", b"two"))).status == 204
        assert shipper.texts() == [b"one", b"two"]
        assert (await shipper.post(b"")).status == 204
        assert shipper.texts() == [b"one", b"two"]


@pytest.mark.parametrize("broken", [frames(b"one")[:-1], frames(b"one") + b"\n", b"<13>1 x", b"x" + frames(b"one")])
async def test_of_a_broken_body_nothing_is_stored(broken: bytes) -> None:
    async with shipping() as shipper:
        answer = await shipper.post(frames(b"good") + broken, Logplex_Msg_Count="9", X_Request_Id="1")
        assert (answer.status, answer.body) == (400, b"Malformed log messages")
        assert shipper.texts() == []
        assert (await shipper.post(frames(b"good"), X_Request_Id="1")).status == 204
        assert shipper.texts() == [b"good"]


async def test_a_wrong_count_is_refused_or_counted() -> None:
    for lenient in (False, True):
        async with shipping(lenient=lenient) as shipper:
            for count in ("1", "3", "many"):
                answer = await shipper.post(frames(b"one", b"two"), Logplex_Msg_Count=count)
                assert answer.status == (204 if lenient else 400)
                assert lenient or answer.body == b"Message count mismatch"
            assert (await shipper.post(frames(b"one", b"two"), Logplex_Msg_Count="2")).status == 204
            assert len(shipper.texts()) == (8 if lenient else 2)
            assert shipper.core.ledger.count_mismatches == (3 if lenient else 0)


async def test_a_retry_is_acknowledged_and_not_stored_again() -> None:
    async with shipping() as shipper:
        for _ in range(3):
            assert (await shipper.post(frames(b"one"), Logplex_Frame_Id="A")).status == 204
        assert (await shipper.post(frames(b"two"), Logplex_Frame_Id="A")).status == 204
        assert shipper.texts() == [b"one", b"two"]
        assert shipper.core.ledger.duplicates == 2


async def test_a_credential_s_messages_go_by_their_own_tokens_and_unknown_ones_are_dropped() -> None:
    async with shipping() as shipper:
        other = shipper.core.add_token(2, "heroku")
        body = frames(b"mine", app=shipper.token.id.encode()) + frames(b"theirs", app=other.id.encode())
        body += frames(b"nobody's", app=b"t.00000000-0000-4000-8000-ffffffffffff")
        assert (await shipper.post(body, b"Basic everyone", Logplex_Msg_Count="3")).status == 204
        assert shipper.texts() == [b"mine"]
        [line] = shipper.core.lines(2)
        assert (line.source, line.text) == (b"heroku", b"theirs")
        assert shipper.core.ledger.unknown_token == 1


async def test_losses_of_the_shipper_are_on_the_channel_s_page() -> None:
    async with shipping() as shipper:
        await shipper.post(frames(b"one"), Logplex_Drop_Count="8", Logplex_Lost_Count="5")
        page = shipper.core.channel(1).page
        assert (page.shipper_dropped, page.shipper_lost) == (8, 5)


async def test_a_repetition_of_what_is_in_memory_only_is_promised_no_more() -> None:
    async with shipping(spool=FailingSpool()) as shipper:
        for _ in range(2):
            answer = await shipper.post(frames(b"one"), X_Request_Id="1")
            assert (answer.status, answer.headers.get("logplex-durability")) == (204, "memory")
        assert shipper.texts() == [b"one"]
        assert shipper.core.ledger.duplicates == 1


async def test_a_retry_while_the_first_try_is_open_shares_its_outcome() -> None:
    spool = SlowSpool()
    async with shipping(spool=spool) as shipper, shipper.running.client() as client, trio.open_nursery() as nursery:
        retry = Shipper(shipper.core, client, shipper.running)
        retry.token = shipper.token
        answers: list[int] = []

        async def post(by: Shipper) -> None:
            answers.append((await by.post(frames(b"one"), X_Request_Id="1")).status)

        nursery.start_soon(post, shipper)
        await shipper.running.until(lambda: spool.asked)
        nursery.start_soon(post, retry)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert answers == []
        spool.go_on.set()
        await shipper.running.until(lambda: len(answers) == 2)
        assert answers == [204, 204]
        assert shipper.texts() == [b"one"]
        assert shipper.core.ledger.duplicates == 1


async def test_above_the_bound_of_what_is_not_committed_requests_wait_for_room() -> None:
    spool = SlowSpool()
    async with shipping(spool=spool) as shipper, shipper.running.client() as client, trio.open_nursery() as nursery:
        other = Shipper(shipper.core, client, shipper.running)
        other.token = shipper.token
        nursery.start_soon(shipper.post, frames(b"one"))
        await shipper.running.until(lambda: spool.asked)
        shipper.core.committer.max_uncommitted_bytes = 0
        nursery.start_soon(other.post, frames(b"two"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not shipper.core.committer.current
        spool.go_on.set()
        await shipper.running.until(lambda: shipper.texts() == [b"one", b"two"])


async def test_a_token_that_is_deleted_while_a_body_comes_is_dead() -> None:
    async with shipping() as shipper:
        assert (await shipper.post(frames(b"one"))).status == 204
        body = frames(b"two")
        await shipper.client.send(
            b"POST /logs HTTP/1.1\r\nContent-Type: application/logplex-1\r\n%bAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (HOST, shipper.token.id.encode(), len(body), body[:10])
        )
        await trio.testing.wait_all_tasks_blocked(0.05)
        del shipper.core.tokens.stored[shipper.token.id]
        del shipper.core.tokens.loaded[shipper.token.id]
        shipper.core.router.forget_routes()
        await shipper.client.send(body[10:])
        assert (await shipper.client.answer()).status == 401
        assert shipper.texts() == [b"one"]
