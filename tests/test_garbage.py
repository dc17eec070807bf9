"""Collections: none by itself, the young ones often, a full one when the server has grown."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from logplex.app.garbage import (
    GROWTH,
    GROWTH_AT_REST,
    LOOKS_BETWEEN,
    LOOKS_IF_FEW,
    LOOKS_IN_FLIGHT,
    YOUNG_OBJECTS,
    YOUNG_SECONDS,
    collect_in_steps,
    collected_by_hand,
)

from .test_app import running

LOOK_SECONDS = YOUNG_SECONDS * LOOKS_BETWEEN


class Knot:
    """Refers to itself, so that only a collection frees it."""

    alive = 0

    def __init__(self) -> None:
        self.itself = self
        Knot.alive += 1

    def __del__(self) -> None:
        Knot.alive -= 1


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that were collected, one after the other."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            seen.append(info["generation"])

    gc.collect()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.collect()


def test_python_collects_nothing_by_itself_in_the_block(collections: list[int]) -> None:
    with collected_by_hand():
        for _ in range(100_000):
            Knot()
        assert collections == []
        assert Knot.alive == 100_000
    for _ in range(1000):
        Knot()
    assert collections != []


async def test_what_is_young_is_collected_many_times_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery, collections: list[int]
) -> None:
    with collected_by_hand():
        nursery.start_soon(lambda: collect_in_steps(live=lambda: 1))
        await trio.sleep(YOUNG_SECONDS / 2)
        for count in range(1, 30):
            knots = [Knot() for _ in range(YOUNG_OBJECTS)]
            knots.clear()
            await trio.sleep(YOUNG_SECONDS)
            assert Knot.alive == 0
            assert collections == [1] * count


async def test_a_few_young_ones_are_collected_once_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery, collections: list[int]
) -> None:
    with collected_by_hand():
        nursery.start_soon(lambda: collect_in_steps(live=lambda: 1, young=lambda: YOUNG_OBJECTS - 1))
        await trio.sleep(YOUNG_SECONDS / 2)
        for count in range(1, 4):
            Knot()
            await trio.sleep((LOOKS_IF_FEW - 1) * YOUNG_SECONDS)
            assert len(collections) == count - 1
            await trio.sleep(YOUNG_SECONDS)
            assert collections == [1] * count
            assert Knot.alive == 0


async def test_while_lines_are_in_flight_the_young_wait_but_not_for_long(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    in_flight = False
    seen: list[int] = []

    async def run() -> None:
        await collect_in_steps(
            live=lambda: 1, young=lambda: YOUNG_OBJECTS, in_flight=lambda: in_flight, collect=seen.append
        )

    nursery.start_soon(run)
    await trio.sleep(YOUNG_SECONDS * 2.5)
    assert len(seen) == 2
    in_flight = True
    await trio.sleep(YOUNG_SECONDS * 2)
    assert len(seen) == 2
    in_flight = False
    await trio.sleep(YOUNG_SECONDS)
    assert len(seen) == 3
    in_flight = True
    await trio.sleep(YOUNG_SECONDS * LOOKS_IN_FLIGHT * 2)
    assert len(seen) == 5


@pytest.mark.parametrize(("share", "growth"), [(0.1, GROWTH_AT_REST), (0.9, GROWTH)])
async def test_a_full_collection_comes_when_the_server_has_grown_sooner_when_it_rests(
    share: float, growth: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    live = [1000.0]
    full: list[float] = []

    def collect(generation: int) -> None:
        if generation == 2:
            full.append(live[0])
            live[0] *= 0.5

    async def run() -> None:
        await collect_in_steps(live=lambda: int(live[0]), spent=lambda: share * trio.current_time(), collect=collect)

    nursery.start_soon(run)
    await trio.sleep(LOOK_SECONDS / 2)  # between two looks
    large = 1000 * growth
    for blocks in (1000, large - 1, 1200, large, large / 2 * growth - 2, 500, large / 2 * growth):
        live[0] = blocks
        await trio.sleep(LOOK_SECONDS)
    assert full == [large, large / 2 * growth]  # the second one by what the first one left


async def test_a_server_runs_so(tmp_path: Path) -> None:
    assert gc.isenabled()
    async with running(tmp_path):
        assert not gc.isenabled()
        Knot()
        with trio.fail_after(10):
            while Knot.alive:  # noqa: ASYNC110 - the collector tells nobody
                await trio.sleep(YOUNG_SECONDS)
    assert gc.isenabled()
