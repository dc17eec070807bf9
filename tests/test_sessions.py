"""Sessions over a registry that is a dict: what they ask for, and where their readings start."""

import time
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing

from logplex.errors import NotFound, Unprocessable
from logplex.fanout import Tails
from logplex.filters import Filter
from logplex.registry import Registry, SessionRecord
from logplex.rendering import Id
from logplex.sessions import SCANS, Session, Sessions, parse_since
from tests.readers import AT, EPOCH, Socket, Source


class Records:
    """What the registry knows of sessions, and which of them are being read."""

    def __init__(self) -> None:
        self.records: dict[str, SessionRecord] = {}
        self.reading: list[str] = []
        self.read: list[str] = []

    def add(self, uuid: str, **options: Any) -> None:
        stored = {"num": 100, "tail": False} | options
        self.records[uuid] = SessionRecord(uuid, 1, stored, AT / 1000, AT / 1000 + 360)

    async def session(self, uuid: str) -> SessionRecord | None:
        return self.records.get(uuid)

    def stream_started(self, uuid: str) -> None:
        self.reading.append(uuid)

    def stream_ended(self, uuid: str) -> None:
        self.reading.remove(uuid)
        self.read.append(uuid)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def sessions(records: Records) -> Sessions:
    return Sessions(cast(Registry, records), Tails(heartbeat_seconds=10))


async def test_a_session_asks_for_what_was_stored(records: Records, sessions: Sessions) -> None:
    wanted = Filter.parse({"ps": "web", "fields": ["status>=500"], "since": AT / 1000})
    records.add("one", num=7, tail=True, **wanted.to_mapping())
    assert await sessions.find("one") == Session("one", 1, 7, True, wanted, AT)
    with pytest.raises(NotFound):
        await sessions.find("two")


def test_since_is_an_id_or_a_time() -> None:
    assert parse_since(f"{EPOCH}.17") == Id(EPOCH, 17)
    assert parse_since("1700000000") == AT
    ago = parse_since("10m")
    assert isinstance(ago, int)
    assert abs(time.time() * 1000 - 600_000 - ago) < 5000
    for rubbish in ("", " ", "x", "17.x", f"{EPOCH}.-2"):
        with pytest.raises(Unprocessable, match=r"^since: "):
            parse_since(rubbish)


async def test_a_reading_starts_after_an_id_at_a_time_or_at_its_backlog(records: Records, sessions: Sessions) -> None:
    source = Source(ring_lines=1000)
    for second in range(10):
        source.write(b"a", b"b", at=AT + second * 1000)
    records.add("one", num=4, text="b")
    session = await sessions.find("one")

    async def starts(after: Id | int | None) -> int:
        opened = await sessions.open(session, source.channel, sse=False, after=after)
        assert opened.last_id == b"%b.19" % EPOCH.encode()
        return opened.start.cursor

    assert await starts(None) == 13  # four lines that match
    assert await starts(Id(EPOCH, 5)) == 6
    assert await starts(Id(EPOCH, 100)) == 13
    assert await starts(AT + 7000) == 14


async def test_a_session_is_read_until_its_stream_ends_however_it_ends(records: Records, sessions: Sessions) -> None:
    source = Source()
    source.number(3)
    records.add("one")
    session = await sessions.find("one")
    opened = await sessions.open(session, source.channel, sse=False, after=None)
    whole, gone = Socket(), Socket()
    await sessions.show(opened, whole)
    assert whole.taken == b"T app[web.1]: 0\nT app[web.1]: 1\nT app[web.1]: 2\n"
    gone.hang_up()
    with pytest.raises(trio.BrokenResourceError):
        await sessions.show(opened, gone)
    assert (records.reading, records.read) == ([], ["one", "one"])


async def test_only_so_many_look_for_their_backlog_at_once(
    records: Records, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(ring_lines=1)
    source.number(1)
    source.number(1)
    at_once = most = 0
    go_on = trio.Event()
    read_back = source.spool.read_back

    async def slow(*arguments: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await go_on.wait()
        at_once -= 1
        return await read_back(*arguments)

    monkeypatch.setattr(source.spool, "read_back", slow)
    records.add("one", text="nothing like it")
    session = await sessions.find("one")
    async with trio.open_nursery() as nursery:
        for _ in range(3 * SCANS):
            nursery.start_soon(lambda: sessions.open(session, source.channel, sse=False, after=None))
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert most == SCANS


async def test_scans_of_one_app_do_not_keep_a_reader_without_a_filter_waiting() -> None:
    noisy, quiet = Source(), Source()
    noisy.number(3)
    quiet.number(3)
    noisy.channel.release_ring()  # its backlog is asked of the spool
    noisy.spool._wait = trio.sleep_forever  # type: ignore[method-assign]
    records = Records()
    records.add("noisy", text="x")
    records.add("quiet")
    sessions = Sessions(cast("Registry", records), Tails(heartbeat_seconds=10))
    async with trio.open_nursery() as nursery:
        session = await sessions.find("noisy")
        for _ in range(SCANS):
            nursery.start_soon(partial(sessions.open, session, noisy.channel, sse=False, after=None))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(2):
            opened = await sessions.open(await sessions.find("quiet"), quiet.channel, sse=False, after=None)
        assert opened.start.cursor == 0
        nursery.cancel_scope.cancel()
