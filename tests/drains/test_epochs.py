"""Drains over the border of two epochs: what was lost in a crash is told, and what follows is delivered once."""

import pytest
import trio

from drains.deliveries import Deliveries
from drains.state import DrainState

from .world import World, http_receiver, running, settled, spec, syslog_receiver

BEFORE = "00000000000000ff"
BETWEEN = "0000000000000fff"
BORDER = 50


def world_behind_a_crash(oldest: int) -> World:
    """100 lines, from BORDER on in another epoch; those before `oldest` are no longer held."""
    world = World(ring_lines=10)
    world.numbers(100, batch=5)
    world.channel.epoch_first = BORDER
    world.spool.oldest = oldest
    world.channel.forget_before(oldest)
    return world


def behind(cursor: int) -> DrainState:
    """A drain that was last heard of in the epoch before."""
    return DrainState(7, 1, BEFORE, cursor)


def line_texts(start: int) -> list[bytes]:
    return [b"line %d" % number for number in range(start, 100)]


def told_and_counted(got: list[bytes], deliveries: Deliveries, world: World) -> None:
    """Drain 7 came from line 20, and lost 50 lines over the border."""
    assert got[0].startswith(b"Error L10 (output buffer overflow): 50 messages dropped since ")
    assert got[1:] == line_texts(70)
    seen = deliveries.status(7)
    assert seen is not None
    assert (seen.start, seen.delivered, seen.lost, seen.pending) == (20, 30, {"overrun": 50}, 0)
    assert deliveries.dirty()[0].epoch == world.channel.epoch


async def test_a_range_never_reaches_over_the_border() -> None:
    world = world_behind_a_crash(oldest=0)
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}/"), world.channel, behind(20))
        with trio.fail_after(5):
            first, second = await receiver.post(), await receiver.post()
        assert first.headers[b"logplex-range"] == b"%b/20-49" % BEFORE.encode()
        assert second.headers[b"logplex-range"].startswith(b"%b/50-" % world.channel.epoch.encode())


async def test_a_loss_over_the_border_is_told_and_counted_by_an_http_drain() -> None:
    world = world_behind_a_crash(oldest=70)
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}/"), world.channel, behind(20))
        got: list[bytes] = []
        with trio.fail_after(5):
            while len(got) < 31:
                got += (await receiver.post()).texts
            await settled(deliveries)
        told_and_counted(got, deliveries, world)


async def test_a_loss_over_the_border_is_told_and_counted_by_a_syslog_drain() -> None:
    world = world_behind_a_crash(oldest=70)
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, behind(20))
        with trio.fail_after(5):
            got = await receiver.until(31)
            await settled(deliveries)
        told_and_counted(got, deliveries, world)


def world_behind_two_crashes() -> World:
    """100 lines: 30 of `BEFORE`, 20 of the epoch between, and 50 of the present one."""
    world = world_behind_a_crash(oldest=0)
    world.channel.past = ((BEFORE, 0), (BETWEEN, 30))
    return world


@pytest.mark.parametrize("cursor", [20, 30, 40, 60, 100])
async def test_a_drain_that_was_away_for_more_than_one_epoch_gets_each_under_its_name(cursor: int) -> None:
    world = world_behind_two_crashes()
    start = min(cursor, 30)  # what it has had behind that were other lines
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}/"), world.channel, behind(cursor))
        got: list[bytes] = []
        ranges: dict[bytes, list[int]] = {}
        with trio.fail_after(5):
            while len(got) < 100 - start:
                post = await receiver.post()
                got += post.texts
                epoch, _, positions = post.headers[b"logplex-range"].partition(b"/")
                ranges.setdefault(epoch, []).extend(map(int, positions.split(b"-")))
            await settled(deliveries)
        assert got == line_texts(start)
        expected = {BEFORE: (start, 29), BETWEEN: (30, 49), world.channel.epoch: (50, 99)}
        if start == 30:
            del expected[BEFORE]
        assert {epoch.decode(): (min(at), max(at)) for epoch, at in ranges.items()} == expected
        assert deliveries.dirty()[0].epoch == world.channel.epoch


@pytest.mark.parametrize("cursor", [20, 40, 100])
async def test_a_syslog_drain_crosses_several_borders(cursor: int) -> None:
    world = world_behind_two_crashes()
    start = min(cursor, 30)
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, behind(cursor))
        with trio.fail_after(5):
            assert await receiver.until(100 - start) == line_texts(start)
            await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.head - seen.start == seen.delivered == 100 - start
