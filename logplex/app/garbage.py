"""When Python looks for cycles among all objects: seldom, because everything stands still meanwhile.

A full collection of CPython walks every container that lives. With thousands of drains no line moves for as long as
several commits take, and it finds next to nothing: what lives long here is freed by its reference count. By itself
CPython does it whenever what outlived the young generations is a quarter of all, and busy rings soon are.

Rules:

* The young generations are collected as ever: that is quick, and finds what a request or a connection leaves behind.
* A full collection comes when the server's live blocks of memory have doubled since the last one. So cycles that only
  it finds never take more memory than everything else, and a server that does not grow never stops.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

LOOK_SECONDS = 1.0
GROWTH = 2.0
_NEVER = 2**31 - 1  # collections of the middle generation before one of the oldest


@contextmanager
def only_young() -> Iterator[None]:
    """Python does no full collection by itself while the block runs."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


async def collect_when_grown(
    *, live: Callable[[], int] = sys.getallocatedblocks, collect: Callable[[], object] = gc.collect
) -> None:
    """Collect all generations each time that `live` blocks have doubled, until cancelled."""
    last = live()
    while True:
        await trio.sleep(LOOK_SECONDS)
        if live() >= GROWTH * last:
            collect()
            last = live()
