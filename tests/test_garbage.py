"""Full collections: none by itself, one each time that the server has doubled."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from logplex.app.garbage import GROWTH, LOOK_SECONDS, collect_when_grown, only_young

from .test_app import running


class Knot:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def full_collections() -> Iterator[list[int]]:
    """Grows by one for each full collection."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            seen.append(info["collected"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def outlive_the_young(count: int) -> list[Knot]:
    """So many that CPython by itself would have looked through everything again and again."""
    made = []
    for _ in range(20):
        made += [Knot() for _ in range(count // 20)]
        gc.collect(1)
    return made


def test_however_much_outlives_the_young_generations_nothing_is_collected_in_full(full_collections: list[int]) -> None:
    gc.collect()
    before = gc.get_threshold()
    with only_young():
        made = outlive_the_young(2 * len(gc.get_objects()))
        assert len(full_collections) == 1
    assert gc.get_threshold() == before
    del made
    gc.collect()
    assert full_collections[-1] > 1000  # such collections do find them


def test_the_young_generations_are_collected_as_ever() -> None:
    found = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            found.append(info["collected"])

    gc.callbacks.append(note)
    try:
        with only_young():
            for _ in range(10_000):
                Knot()
    finally:
        gc.callbacks.remove(note)
    assert sum(found) > 5000


async def test_a_full_collection_comes_when_the_server_has_doubled(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    live = [1000.0]
    collected: list[float] = []

    def collect() -> None:
        collected.append(live[0])
        live[0] *= 0.75

    nursery.start_soon(lambda: collect_when_grown(live=lambda: int(live[0]), collect=collect))
    await trio.sleep(LOOK_SECONDS / 2)  # between two looks
    for blocks in (1000, 1999, 1500, 1000 * GROWTH, 2999, 500, 1500 * GROWTH):
        live[0] = blocks
        await trio.sleep(LOOK_SECONDS)
    assert collected == [2000, 3000]  # the second one at twice of what the first one left


async def test_a_server_runs_so(tmp_path: Path) -> None:
    before = gc.get_threshold()
    async with running(tmp_path):
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 1_000_000
    assert gc.get_threshold() == before
