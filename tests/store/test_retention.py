"""What the spool keeps and what it forgets."""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from logplex import trouble
from logplex.config import MIB
from logplex.store import checkpoints, forget, segments, writer
from logplex.store.retention import JUMP_SECONDS, Retention, SteadyClock

from .spools import Faults, Node, balances, opened, texts

DAY = 86400.0


class Clock:
    """Wall and monotonic time, moved by hand."""

    def __init__(self, node: Node) -> None:
        self.wall = 0.0
        self.monotonic = 1000.0
        self.steady = SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def retention(node: Node, passed: int | None = None, clock: SteadyClock | None = None, **bounds: Any) -> Retention:
    given = type(node.settings)(data_dir=node.settings.data_dir, **bounds)
    return Retention(
        node.spool,
        node.channels,
        node.committer,
        given,
        lambda channel: channel.head if passed is None else passed,
        clock=clock,
    )


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with opened(tmp_path, ring_lines=10) as node:
        yield node


async def held(node: Node, number: int) -> int:
    """How many lines a reader still gets; the rest must be told as lost, exactly."""
    channel = await node.channel(number)
    found, lost = await texts(channel)
    assert len(found) + lost == channel.head
    assert sorted(found) == list(range(lost, channel.head))
    return len(found)


async def test_a_quiet_channel_keeps_its_history_whatever_others_write(tmp_path: Path) -> None:
    async with opened(tmp_path, ring_lines=10, spool_bytes=2 * MIB) as node:
        for _ in range(15):
            await node.write(1, *[b"quiet"] * 10)
        for _ in range(150):
            await node.write(2, *[b"loud"] * 20, size=1000)
            await retention(node, history_lines=150).look()
        assert await held(node, 1) == 150
        assert 150 <= await held(node, 2) < 3000
        assert (await node.spool.thread.run(forget.used, node.spool.segments)).held <= 2 * MIB
        assert all(balances(channel) for channel in node.channels)


async def test_over_the_total_the_biggest_excess_goes_first(tmp_path: Path) -> None:
    async with opened(tmp_path, ring_lines=10, spool_bytes=2 * MIB) as node:
        for _ in range(20):
            await node.write(1, *[b"small"] * 20, size=500)
        for _ in range(90):
            await node.write(2, *[b"big"] * 20, size=1000)
        await retention(node, history_lines=100).look()
        assert await held(node, 1) == 400
        assert await held(node, 2) < 1800


async def test_when_histories_alone_are_too_much_the_oldest_lines_of_all_go(tmp_path: Path) -> None:
    async with opened(tmp_path, ring_lines=10, spool_bytes=1 * MIB) as node:
        for number in (1, 2, 3):
            for _ in range(30):
                await node.write(number, *[b"line"] * 10, size=1500)
        await retention(node, history_lines=1500).look()
        assert await held(node, 1) < await held(node, 3)
        assert await held(node, 3) == 300


async def test_a_channel_holds_no_more_than_its_bytes_and_at_least_its_newest_row(node: Node) -> None:
    for _ in range(50):
        await node.write(1, *[b"line"] * 10, size=1000)
    await retention(node, channel_bytes=100_000).look()
    assert 80 <= await held(node, 1) <= 110
    await retention(node, channel_bytes=1).look()  # nothing was written since: nothing is looked at
    assert await held(node, 1) >= 80
    await node.write(1, *[b"line"] * 20, size=1000)
    await retention(node, channel_bytes=1).look()
    assert await held(node, 1) == 20


async def test_lines_ids_and_closed_pages_go_by_age(node: Node) -> None:
    await node.write(1, b"old")
    node.committer.close_page({"of": None, "channel": "gone"})
    await node.write(1, b"also old")
    channel = await node.channel(1)
    channel.release_ring()
    clock = Clock(node)
    clock.wall = (channel_time := await _time_of_newest(node)) + 6 * DAY
    clock = _moved(clock)
    await retention(node, clock=clock.steady).look()
    assert await held(node, 1) == 2
    assert len(node.committer.writes.closed) == 1
    clock.pass_(1.5 * DAY)
    clock = _moved(clock)  # the steps of a real clock are small: a jump would pause
    await retention(node, clock=clock.steady).look()
    assert await held(node, 1) == 0
    assert not node.committer.writes.closed
    assert await node.spool.closed() == []
    assert (channel.head, channel.oldest) == (2, 2)
    assert channel_time > 0


def _moved(clock: Clock) -> Clock:
    """The same time, without memory of a jump."""
    new = Clock.__new__(Clock)
    new.wall, new.monotonic = clock.wall, clock.monotonic
    new.steady = SteadyClock(lambda: new.wall, lambda: new.monotonic)
    return new


async def _time_of_newest(node: Node) -> float:
    def newest(connection: sqlite3.Connection) -> float:
        return float(connection.execute("SELECT max(at) FROM lines").fetchone()[0]) / 1000

    await node.spool.settle()
    return await node.spool.thread.run(newest)


async def test_positions_and_counters_go_on_when_all_lines_of_a_channel_are_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        await node.write(1, b"one", b"two")
        clock = Clock(node)
        clock.wall = await _time_of_newest(node) + 30 * DAY
        await retention(node, clock=_moved(clock).steady).look()
        await node.write(2, b"ids of rows begin again here, if SQLite chooses them")
        await node.finish()
    async with opened(tmp_path) as node:
        channel = await node.channel(1)
        assert (channel.head, channel.oldest, channel.page.stored) == (2, 2, 2)
        await node.write(1, b"three")
        await node.finish()
    async with opened(tmp_path) as node:
        channel = await node.channel(1)
        assert (channel.head, channel.page.stored, channel.page.received) == (3, 3, 3)
        assert await held(node, 1) == 1


async def test_a_jump_of_the_clock_stops_forgetting_by_age_for_an_hour(node: Node) -> None:
    await node.write(1, b"line")
    (await node.channel(1)).release_ring()
    clock = Clock(node)
    clock.wall = await _time_of_newest(node)
    clock = _moved(clock)
    clock.wall += 30 * DAY  # without as much monotonic time
    await retention(node, clock=clock.steady).look()
    assert await held(node, 1) == 1
    clock.pass_(JUMP_SECONDS - 1)
    await retention(node, clock=clock.steady).look()
    assert await held(node, 1) == 1
    clock.pass_(2)
    await retention(node, clock=clock.steady).look()
    assert await held(node, 1) == 0


async def test_without_history_only_what_a_drain_has_not_passed_is_kept(node: Node) -> None:
    channel = await node.channel(1)
    channel.no_history = True
    for _ in range(5):
        await node.write(1, b"a", b"b")
    channel.release_ring()
    await retention(node, passed=4).look()
    assert await held(node, 1) == 6
    await retention(node, passed=10).look()  # nothing was written, but a drain moved
    assert await held(node, 1) == 0


async def test_a_removed_channel_leaves_nothing_behind_but_its_closed_page(node: Node) -> None:
    await node.write(1, *[b"line"] * 10)
    await node.write(2, b"other")
    node.channels.remove(1)
    node.spool.remove_channel(1, "shop")
    await retention(node).look()
    assert (await node.spool.places([1]))[1].head == 0
    assert await held(node, 2) == 1
    assert [row["channel"] for _, row in node.committer.writes.closed] == ["shop"]


async def test_channels_that_the_config_does_not_know_are_removed(node: Node) -> None:
    for number in (1, 2, 3):
        await node.write(number, b"line")

    async def known(numbers: list[int]) -> set[int]:
        return set(numbers) & {2}

    await node.spool.remove_unknown(known)
    assert sorted(node.spool.removed) == [1, 3]


async def test_each_step_is_a_small_transaction_so_that_no_commit_waits_long(tmp_path: Path) -> None:
    faults = Faults()
    async with opened(tmp_path, faults=faults, ring_lines=10) as node:
        for _ in range(3 * forget.STEP_ROWS):
            await node.write(1, b"line", size=9000)
        await node.spool.settle()
        before = faults.transactions
        await retention(node, channel_bytes=100_000).look()
        assert faults.transactions - before >= 3


async def test_a_full_spool_takes_lines_again_once_old_ones_were_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path, ring_lines=1000, spool_bytes=2 * MIB, slack_bytes=0) as node:
        keep = retention(node, history_lines=10)
        for _ in range(300):  # nobody forgets: SQLite's own bound is reached
            await node.write(1, *[b"line"] * 10, size=1000)
            if node.committer.degraded_since is not None:
                break
        assert node.committer.degraded_since is not None
        assert "full" in node.committer.trouble.reason
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep.run)
                while node.committer.degraded_since is not None:  # noqa: ASYNC110 - real time
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        channel = await node.channel(1)
        assert channel.page.memory == 0
        assert balances(channel)
        await held(node, 1)


async def test_a_full_disk_makes_room_though_lines_go_on_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk, not the bound, is what is reached: no byte more goes into segments than it has."""
    folder = tmp_path / "spool"
    original = os.pwritev

    def write(descriptor: int, buffers: list[bytes], at: int) -> int:
        if sum(entry.stat().st_size for entry in os.scandir(folder)) + sum(map(len, buffers)) > 4 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, buffers, at)

    monkeypatch.setattr(os, "pwritev", write)
    monkeypatch.setattr(trouble, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(segments, "MAX_SEGMENT_BYTES", 128 * 1024)
    was_degraded = False
    since_healed = 0
    async with opened(tmp_path, ring_lines=200) as node, trio.open_nursery() as nursery:
        nursery.start_soon(retention(node, history_lines=100).run)
        with trio.fail_after(30):
            while since_healed < 100:
                await node.write(1, *[b"line"] * 20, size=1000)
                await node.write(2, b"other", size=1500)
                is_degraded = node.committer.degraded_since is not None
                was_degraded = was_degraded or is_degraded
                since_healed = 0 if is_degraded or not was_degraded else since_healed + 1
        assert all(balances(channel) for channel in node.channels)
        nursery.cancel_scope.cancel()
        channel = await node.channel(1)
        found, lost = await texts(channel)
        assert len(found) + lost == channel.head, "gaps included"
        assert set(range(channel.head - 100, channel.head)) <= set(found)


async def test_the_log_of_the_spool_begins_again_under_steady_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def checkpoint(connection: sqlite3.Connection) -> int:
        lengths.append(original(connection))
        return lengths[-1]

    original = checkpoints.checkpoint
    monkeypatch.setattr(checkpoints, "checkpoint", checkpoint)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_BYTES", MIB // 4)
    monkeypatch.setattr(checkpoints, "LOG_BYTES", MIB // 2)
    monkeypatch.setattr(writer, "ROUND_SECONDS", 0.0)
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.spool.checkpoints.run)
        for turn in range(12):
            for _ in range(20):
                await node.write(1, *[b"line"] * 10, size=5000)
            with trio.fail_after(20):
                while len(lengths) <= turn:  # noqa: ASYNC110 - a thread of its own, and a real disk
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert min(lengths[2:]) < min(MIB // 2, max(lengths)), "it has begun again"
