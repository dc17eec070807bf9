"""What readers have been shown before it was written (`--durability none`), in the order of its positions.

Rules (tests/test_behind.py):

* One `Behind` gathers what the next transaction takes; that transaction keeps it until it has ended.
* Its batches are held here, not only in the rings: as long as the store takes what it is given, nothing is missing in
  the spool, however small the rings are. When the store fails, they are due as all is that it lacks (catchup.py).
"""

from collections.abc import Iterable

from .channel import Channel
from .dedupe import First
from .group import Group, Sealed


class Behind:
    """Groups that were shown, and that the store has not confirmed."""

    __slots__ = ("bytes", "ids", "sealed", "touched")

    def __init__(self) -> None:
        self.bytes = 0
        self.sealed: list[Sealed] = []
        self.ids: list[First] = []
        self.touched: set[Channel] = set()

    def __bool__(self) -> bool:
        return bool(self.sealed or self.ids or self.touched)

    def add(self, group: Group, sealed: Iterable[Sealed]) -> None:
        """A group was sealed and shown."""
        self.sealed += sealed
        self.ids += group.ids
        self.touched |= group.touched
        self.bytes += group.bytes

    def reaches(self, channel_id: int, end: int) -> bool:
        """Whether lines of the channel before `end` are among it."""
        return any(channel.id == channel_id and batch.first < end for channel, batch in self.sealed)
