"""The newest lines of one channel, in memory.

Invariants (a Hypothesis model in tests/test_ring.py, against a list that never forgets):

* Batches are contiguous: each begins where the one before ends; the ring covers `oldest` to `head` (exclusive).
* The bounds in lines and bytes hold after every append, but for the newest batch, which always stays.
* What is evicted is evicted in whole batches, oldest first.
"""

from bisect import bisect_right
from operator import attrgetter

from .batch import Batch

_first = attrgetter("first")
_FORGET_AFTER = 8  # batches: readers that keep up have rendered a batch long before; the others render again


class Ring:
    """A bounded run of batches up to `head`; `append` and reads at the newest end cost O(1)."""

    __slots__ = ("_batches", "_max_bytes", "_max_lines", "bytes", "head", "oldest")

    def __init__(self, head: int, *, max_lines: int, max_bytes: int) -> None:
        self.head = head
        self.oldest = head
        self.bytes = 0
        self._batches: list[Batch] = []
        self._max_lines = max_lines
        self._max_bytes = max_bytes

    def append(self, batch: Batch) -> None:
        """Add the batch that begins at `head`; evict what the bounds no longer allow."""
        if batch.first != self.head:
            raise ValueError(f"a batch at {batch.first} cannot follow {self.head}")
        batches = self._batches
        batches.append(batch)
        self.head = batch.end
        self.bytes += len(batch.data)
        if len(batches) > _FORGET_AFTER:
            batches[-1 - _FORGET_AFTER].forget_rendered()
        if self.bytes > self._max_bytes or self.head - self.oldest > self._max_lines:
            self._evict()

    def since(self, cursor: int, max_bytes: int) -> list[Batch] | None:
        """Batches from `cursor` on, the first cut there, up to about `max_bytes` and at least one.

        An empty list at the head; None when the cursor is behind the ring.
        """
        if cursor >= self.head:
            return []
        if cursor < self.oldest:
            return None
        batches = self._batches
        newest = batches[-1]
        if cursor == newest.first:
            return [newest]
        index = bisect_right(batches, cursor, key=_first) - 1
        first = batches[index].cut(cursor, batches[index].end)
        found = [first]
        size = first.size
        for batch in batches[index + 1 :]:
            size += len(batch.data)
            if size > max_bytes:
                break
            found.append(batch)
        return found

    def before(self, end: int, max_bytes: int) -> list[Batch]:
        """Batches that end at `end` (cut there), ascending, up to about `max_bytes`, at least one if one is held."""
        if end <= self.oldest:
            return []
        batches = self._batches
        index = bisect_right(batches, end - 1, key=_first) - 1
        last = batches[index]
        found = [last.cut(last.first, end)]
        size = found[0].size
        while index > 0:
            index -= 1
            size += len(batches[index].data)
            if size > max_bytes:
                break
            found.append(batches[index])
        found.reverse()
        return found

    def pass_over(self, end: int) -> int:
        """Lines up to `end` are not held here, nor what was before them: as `clear`, with the head at `end`."""
        self.head = self.oldest = end
        return self.clear() if self.bytes else 0

    def clear(self) -> int:
        """Give all lines back; `head` stays. Returns the number of bytes that were held."""
        freed = self.bytes
        self._batches = []
        self.bytes = 0
        self.oldest = self.head
        return freed

    def _evict(self) -> None:
        batches = self._batches
        max_bytes = self._max_bytes * 7 // 8  # a little more than needed, so that it is not done at each append
        max_lines = self._max_lines * 7 // 8
        last = len(batches) - 1
        evicted = 0
        while evicted < last and (self.bytes > max_bytes or self.head - batches[evicted].first > max_lines):
            self.bytes -= len(batches[evicted].data)
            evicted += 1
        del batches[:evicted]
        self.oldest = batches[0].first
