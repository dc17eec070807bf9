"""How much of its time the event loop sleeps, because there is nothing to do.

It is what is left for more load, whatever takes the rest: a system's load says nothing of one task, and processor
time nothing of waiting for other processes or for the interpreter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from trio.abc import Instrument
from trio.lowlevel import add_instrument, remove_instrument

LEAST_SECONDS = 0.005  # a shorter time says nothing


class Idle(Instrument):
    """Sees each sleep of the loop that it was added to (`sleeps`)."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._asked_at = clock()
        self._slept = 0.0  # since then
        self._sleeps_since = 0.0

    def before_io_wait(self, timeout: float) -> None:
        """The loop may sleep for so long: not at all, where tasks are ready to run."""
        self._sleeps_since = self._clock() if timeout > 0 else 0.0

    def after_io_wait(self, timeout: float) -> None:
        """It goes on."""
        if self._sleeps_since:
            self._slept += self._clock() - self._sleeps_since

    def rested(self, seconds: float) -> None:
        """The loop only looked for something to do for so long: it would have slept."""
        self._slept += seconds

    def share(self) -> float | None:
        """Which part of the time the loop has slept since the last answer; None when that was just before."""
        now = self._clock()
        passed = now - self._asked_at
        if passed < LEAST_SECONDS:
            return None
        slept, self._slept = self._slept, 0.0
        self._asked_at = now
        return slept / passed


@contextmanager
def sleeps() -> Iterator[Idle]:
    """The sleeps of the running loop, as long as the block runs."""
    idle = Idle()
    add_instrument(idle)
    try:
        yield idle
    finally:
        remove_instrument(idle)
