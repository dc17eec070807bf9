"""When Python looks for cycles: in small steps at a time of our choice, because everything stands still meanwhile.

CPython walks all containers of a generation at once, and decides when by what was made less what was freed. Where
thousands of drains replace what they hold, that says little: the youngest generation grows to hundreds of thousands
of objects, and no line moves while it is walked. The oldest is walked whenever a quarter has come to it, which busy
rings reach again and again. Both find next to nothing: what lives here is freed by its reference count.

Rules:

* What was made since the last look is looked through many times a second, so that it is never much; where it is very
  little, once a second. That finds what a request or a connection leaves behind. While lines are on their way to the
  store there is much that will be gone in a moment: then it waits, for two
  seconds at most.
* A full collection comes when the server's live blocks of memory have grown by half since the last one and it has
  little to do, or when they have become three times as many. So cycles that only it finds are bounded, and a server
  that does not grow never stops.
* Python itself collects nothing while the server runs.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

YOUNG_SECONDS = 0.1
YOUNG_OBJECTS = 700  # less is not worth a look of its own (what Python itself takes for the youngest generation)
LOOKS_IF_FEW = 10  # after so many the young are collected though they are few,
LOOKS_IN_FLIGHT = 20  # after so many though lines are in flight: full of many channels, a server always has some
LOOKS_BETWEEN = 50  # between two counts of all blocks, which cost milliseconds where there are many
GROWTH_AT_REST, GROWTH = 1.5, 3.0
REST_SHARE = 0.2  # of a processor's time, at most
_YOUNG, _ALL = 1, 2  # generations


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Python collects nothing by itself while the block runs."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def collect_in_steps(
    *,
    live: Callable[[], int] = sys.getallocatedblocks,
    spent: Callable[[], float] = time.process_time,
    young: Callable[[], int] = lambda: gc.get_count()[0],
    in_flight: Callable[[], bool] = lambda: False,
    collect: Callable[[int], object] = gc.collect,
) -> None:
    """Collect the young again and again, and all when the `live` blocks have grown, until cancelled.

    `spent` is the processor time so far, in seconds; `young` how many containers are new since the last collection;
    `in_flight` says whether lines are on their way to the store.
    """
    last = live()
    looks = 0  # since the last collection
    while True:
        before = spent()
        for _ in range(LOOKS_BETWEEN):
            await trio.sleep(YOUNG_SECONDS)
            looks += 1
            needed = LOOKS_IF_FEW if young() < YOUNG_OBJECTS else LOOKS_IN_FLIGHT if in_flight() else 1
            if looks >= needed:
                collect(_YOUNG)
                looks = 0
        rests = spent() - before < REST_SHARE * LOOKS_BETWEEN * YOUNG_SECONDS
        if live() >= (GROWTH_AT_REST if rests else GROWTH) * last:
            collect(_ALL)
            last = live()
