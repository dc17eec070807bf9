"""Calls at given times, for all drains: one task and one timer, however many wait.

Rules:

* A call is made once, at its time or up to a tick later, so that those that are due together share a wake-up; in the
  order of their times.
* A few are made in each turn of the event loop: many that are due together leave turns to the others.
"""

import heapq
import math
from collections.abc import Callable

import trio

TICK_SECONDS = 0.01
CALLS_IN_A_TURN = 16  # about half a millisecond of work


class Alarms:
    """What is to be called, and when; `run` is its one task."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int, Callable[[], object]]] = []  # a heap: when, in which order, what
        self._added = 0
        self._sooner = trio.Event()  # something is to be called before all else

    def add(self, at: float, call: Callable[[], object]) -> None:
        """Have `call` called at a time of trio's clock. It must neither wait nor raise."""
        if not self._calls or at < self._calls[0][0]:
            self._sooner.set()
        self._added += 1
        heapq.heappush(self._calls, (at, self._added, call))

    async def run(self) -> None:
        """Call, until cancelled."""
        calls = self._calls
        while True:
            with trio.move_on_at(calls[0][0] + TICK_SECONDS if calls else math.inf):
                await self._sooner.wait()
            self._sooner = trio.Event()
            now = trio.current_time()
            made = 0
            while calls and calls[0][0] <= now:
                heapq.heappop(calls)[2]()
                made += 1
                if made % CALLS_IN_A_TURN == 0:
                    await trio.lowlevel.checkpoint()
