"""The pause between the requests of a busy HTTP drain.

Rules:

* A request that would follow another closely waits until `seconds` after that one began, and carries all that comes
  meanwhile: a busy channel's drain gets few requests with much in them, a quiet one's every line at once.
* Half of what the largest request carries never waits, and nothing does once the server stops.
* One alarm at most is set for a drain; one that comes before its time, because a request went out meanwhile, is set
  again.
"""

import math
from collections.abc import Callable

import trio

from .alarms import Alarms
from .sizes import Sizes


class Pause:
    """One drain's; `end` is called when it is over and something has gathered. It must neither wait nor raise."""

    __slots__ = ("_alarms", "_due", "_end", "_seconds", "_sizes", "_skips", "gathered", "since")

    def __init__(self, sizes: Sizes, alarms: Alarms, seconds: float, end: Callable[[], object]) -> None:
        self._sizes = sizes
        self._alarms = alarms
        self._seconds = seconds
        self._end = end
        self._due: float | None = None  # when an alarm comes, if one is set
        self._skips = False
        self.since = -math.inf
        """When the last request began (trio's clock)."""
        self.gathered = 0
        """Bytes that wait now."""

    @property
    def ends(self) -> float:
        """From when on a request may carry as little as it likes."""
        return self.since + self._seconds

    def holds(self, size: int, until: float) -> bool:
        """Whether `size` bytes are too few for a request before that time."""
        return size < self._sizes.enough and trio.current_time() < until and not self._skips

    def gather(self, size: int) -> bool:
        """Whether `size` bytes wait for the end, which is then told."""
        if not self.holds(size, self.ends):
            return False
        self.gathered = size
        self._set()
        return True

    def add(self, size: int) -> bool:
        """`size` bytes more wait; whether it is enough."""
        self.gathered += size
        return self.gathered >= self._sizes.enough

    def drop(self) -> None:
        """Nothing waits any more."""
        self.gathered = 0

    def begin(self) -> None:
        """A request begins."""
        self.since = trio.current_time()
        self.gathered = 0

    def skip(self) -> None:
        """From now on nothing waits."""
        self._skips = True

    def _set(self) -> None:
        if self._due is None:
            self._due = self.ends
            self._alarms.add(self._due, self._ring)

    def _ring(self) -> None:
        due, self._due = self._due, None
        if self.gathered and due != self.ends:
            self._set()
        elif self.gathered:
            self._end()
