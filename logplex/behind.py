"""What readers have been shown before it was written (`--durability none`), in the order of its positions.

Rules (tests/test_behind.py):

* One `Behind` gathers what the next transaction takes; that transaction keeps it until it has ended.
* Its batches are held here, not only in the rings: as long as the store takes what it is given, nothing is missing in
  the spool, however small the rings are. When the store fails, they are due as all is that it lacks (catchup.py).
"""

from collections.abc import Iterable

from .batch import Batch, Form, host_of
from .channel import Channel
from .dedupe import First
from .group import MAX_BATCH_BYTES, Group, Sealed


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
        return any(channel.id == channel_id and batches[0].first < end for channel, batches in self.sealed)

    def batches(self) -> list[tuple[Channel, Batch]]:
        """All of them, by channel; small ones that are alike and adjoin are one, as of one group."""
        runs: dict[Channel, list[Batch]] = {}
        for channel, batches in self.sealed:
            if channel in runs:
                runs[channel] += batches
            else:
                runs[channel] = list(batches)
        return [(channel, batch) for channel, run in runs.items() for batch in joined(run)]


def joined(run: list[Batch]) -> list[Batch]:
    """Batches that follow one another, put together up to MAX_BATCH_BYTES where their lines are laid out alike.

    Those with a sender's own text for a time stay: it may have to be replaced by the time at which they came.
    """
    found: list[Batch] = []
    start = 0
    while start < len(run):
        first = run[start]
        kind = _kind(first)
        end, size = start + 1, first.size
        while end < len(run) and kind and size + run[end].size <= MAX_BATCH_BYTES and _kind(run[end]) == kind:
            size += run[end].size
            end += 1
        found.append(_one(run[start:end]) if end > start + 1 else first)
        start = end
    return found


def _kind(batch: Batch) -> tuple[object, ...]:
    """What batches have in common that may be one; nothing when this one stays as it is."""
    if batch.form is Form.RAW:
        return ()
    return (batch.form, batch.tails_only, host_of(batch.data) if batch.form is Form.SYSLOG else b"")


def _one(run: list[Batch]) -> Batch:
    first, last = run[0], run[-1]
    data = b"".join([batch.data for batch in run])
    return Batch(first.first, last.end - first.first, first.at, first.form, data, tails_only=first.tails_only)
