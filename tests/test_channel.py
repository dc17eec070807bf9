"""The reading side of a channel: ring, spool behind it, and what neither holds any more."""

import time
from collections.abc import Iterable

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given

from logplex.batch import Batch, Form
from logplex.channel import BEHIND_SECONDS, Channel, Channels, NoHistory, Place, channel_epoch
from logplex.ledger import Page

from .readers import Source


def texts(batches: Iterable[Batch]) -> list[int]:
    return [int(line.text) for batch in batches for line in batch.lines()]


async def everything(channel: Channel, cursor: int) -> tuple[list[int], int]:
    """What a reader at `cursor` gets until the head, and how many positions it is told are lost."""
    found, lost = [], 0
    while cursor < channel.head:
        reading = await channel.read(cursor, 10_000)
        lost += reading.lost
        found += texts(reading.batches)
        cursor += reading.lost + sum(batch.count for batch in reading.batches)
    return found, lost


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    forgotten=st.integers(0, 30),
    cursor=st.integers(0, 30),
    given_back=st.booleans(),
)
def test_a_reader_gets_all_that_is_held_and_is_told_the_exact_rest(
    counts: list[int], forgotten: int, cursor: int, given_back: bool
) -> None:
    source = Source(ring_lines=4)
    for count in counts:
        source.number(count)
    channel = source.channel
    cursor, forgotten = min(cursor, channel.head), min(forgotten, channel.head)
    source.forget(forgotten)
    if given_back:
        channel.release_ring()
    found, lost = trio.run(everything, channel, cursor)
    first = max(cursor, min(forgotten, channel.ring_oldest))
    assert found == list(range(first, channel.head))
    assert lost == first - cursor
    assert channel.oldest == min(forgotten, channel.ring_oldest)


async def test_lines_that_left_the_ring_while_a_reader_asked_the_spool_are_not_lost() -> None:
    source = Source(ring_lines=4)
    for _ in range(3):
        source.number(3)
    source.forget(source.channel.ring_oldest)  # the spool has nothing before the ring
    read = source.spool.read

    async def read_slowly(*args: int) -> list[Batch]:
        source.spool.read = read  # type: ignore[method-assign]
        found = await read(*args)
        for _ in range(5):
            source.number(3)  # what the ring held is in the spool only now
        return found

    before = source.channel.ring_oldest
    source.spool.read = read_slowly  # type: ignore[assignment, method-assign]
    found, lost = await everything(source.channel, 0)
    assert lost == before
    assert found == list(range(before, source.channel.head))


class Follower:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def notify(self, batch: Batch) -> None:
        self.heard += texts([batch])


def test_followers_hear_of_every_batch_in_order_until_they_leave() -> None:
    source = Source()
    one, other = Follower(), Follower()
    source.channel.follow(one)
    source.number(2)
    source.channel.follow(other)
    source.number(1)
    source.channel.unfollow(one)
    source.channel.unfollow(one)
    source.number(1)
    assert (one.heard, other.heard) == ([0, 1, 2], [2, 3])


class Places(NoHistory):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        self.asked.append(list(channel_ids))
        await trio.lowlevel.checkpoint()
        return {number: Place(0, 0, "e", 0, Page()) for number in self.asked[-1]}


async def test_channels_are_made_once_and_by_the_batch() -> None:
    places = Places()
    channels = Channels(places, ring_lines=10, ring_bytes=1000, rings_bytes=1000)
    wanted = {number: (f"app-{number}", frozenset({"no_tail"})) for number in (1, 2, 3)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channels.load, wanted)
        nursery.start_soon(channels.load, wanted)
    made = [channels.get(number) for number in wanted]
    await channels.load(wanted)
    assert [channels.get(number) for number in wanted] == made
    assert all(len(asked) == 3 for asked in places.asked)
    assert len(channels) == 3
    assert made[0] is not None
    assert (made[0].no_tail, made[0].no_history) == (True, False)


async def test_all_rings_together_stay_within_their_bound_and_the_quiet_ones_are_given_back_first() -> None:
    channels = Channels(NoHistory(), ring_lines=1000, ring_bytes=10_000, rings_bytes=10_000)
    await channels.load({number: (f"app-{number}", frozenset()) for number in (1, 2, 3)})
    made = list(channels)
    source = Source(ring_lines=1000)
    source.write(b"x" * 3_000)
    data = source.spool.batches[0]
    for turn in range(6):
        for channel in made[: 1 if turn < 2 else 3]:
            channel.append(Batch(channel.head, 1, 0, data.form, data.data))
            assert sum(each.ring_bytes for each in made) <= 10_000
    assert made[2].ring_bytes > 0, "the one that was written last keeps its ring"
    assert made[0].head == 6


def test_two_channels_and_two_epochs_of_a_node_never_share_an_epoch() -> None:
    keys = (bytes(16), bytes([1]) * 16)
    epochs = {channel_epoch(key, number) for key in keys for number in range(100)}
    assert len(epochs) == 200
    assert all(len(epoch) == 16 and int(epoch, 16) >= 0 for epoch in epochs)


async def test_readers_are_behind_from_a_reading_of_the_spool_on_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    channels = Channels(NoHistory(), ring_lines=4, ring_bytes=1 << 30, rings_bytes=1 << 30)
    await channels.load({1: ("shop", frozenset())})
    channel = channels.get(1)
    assert channel is not None
    for first in range(0, 9, 3):
        channel.append(Batch(first, 3, 0, Form.SYSLOG, b"12 <13>1 T - a b - - x\n" * 3))
    await channel.read(channel.ring_oldest, 1000)
    assert not channels.readers_behind
    await channel.read(0, 1000)
    assert not channels.readers_behind, "nobody follows"
    channel.follow(Follower())
    await channel.read(0, 1000)
    assert channels.readers_behind
    now[0] += BEHIND_SECONDS
    assert not channels.readers_behind
