"""Rendered bytes that the kernels have not taken yet: what drains hold of the server's memory.

Rules:

* They are a `Share`: bounded in all and per app.
* When most of it is used, those whose kernels have taken nothing for a while give theirs up, the longest wait first,
  until there is room again. So receivers that hang, however many, never keep another drain from sending. One that is
  slow but takes something is left alone.
"""

from typing import Protocol

import trio

from .limits import Share

STALLED_SECONDS = 1.0  # without a byte taken
_FULL = 7 / 8
_ROOMY = 3 / 4


class Holder(Protocol):
    """Who holds rendered bytes."""

    def give_up_rendered(self) -> None:
        """Give them back now; what was not sent is rendered again later."""


class Rendered(Share):
    """The share; its owner calls `make_room` every now and then."""

    def __init__(self, total: int, per_app: int) -> None:
        super().__init__(total, per_app)
        self._holders: dict[Holder, float] = {}  # since when they wait, the longest first

    def hold(self, holder: Holder) -> None:
        """`holder` has bytes that its kernel does not take now. To be called again whenever it took some."""
        self._holders.pop(holder, None)
        self._holders[holder] = trio.current_time()

    def let_go(self, holder: Holder) -> None:
        """`holder` has none left; also when it had none."""
        self._holders.pop(holder, None)

    def make_room(self) -> None:
        """Take back from those who wait longest, if little is left."""
        if self.used <= self.total * _FULL:
            return
        stalled = trio.current_time() - STALLED_SECONDS
        for holder, since in list(self._holders.items()):
            if since > stalled or self.used <= self.total * _ROOMY:
                return
            del self._holders[holder]
            holder.give_up_rendered()
