"""What the spool does not have yet though others have seen it, or though it changed: for a later transaction.

Rules (tests/test_commit.py):

* `take` moves what is due into a transaction; `stored` or `put_back` says what became of that transaction.
* Lines that were shown from memory stay in the rings; of each channel only the first position that the spool lacks is
  kept. What a ring no longer has then, is a gap: the channel's head is saved without lines below it.
* Of a drain only the newest state is kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .batch import Batch
from .channel import Channel
from .group import Sealed

MAX_IDS = 100_000  # request ids of groups that were shown from memory; the window itself has them too


@dataclass(slots=True)
class Work:
    """One transaction: numbered batches and everything that must change together with them."""

    batches: list[Sealed] = field(default_factory=list)
    healed: int = 0  # so many of the first batches were shown from memory before
    pages: set[Channel] = field(default_factory=set)  # to save, though there may be no line
    ids: list[tuple[bytes, float]] = field(default_factory=list)
    cursors: dict[int, tuple[object, ...]] = field(default_factory=dict)  # by drain
    closed: list["ClosedPage"] = field(default_factory=list)
    node: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class ClosedPage:
    """The page of a channel or drain that was deleted."""

    number: int  # unix ns; ascending
    row: dict[str, object]
    drain_id: int | None


class CatchUp:
    """What is due; one for the committer."""

    def __init__(self) -> None:
        self.positions: dict[Channel, int] = {}  # the first position that the spool lacks
        self.cursors: dict[int, tuple[object, ...]] = {}
        self.pages: set[Channel] = set()
        self.closed: list[ClosedPage] = []
        self._ids: list[tuple[bytes, float]] = []

    def __bool__(self) -> bool:
        return bool(self.positions or self.cursors or self.pages or self.closed)

    def shown(self, sealed: Iterable[Sealed]) -> None:
        """These lines are seen by readers, and not in the spool."""
        for channel, batch in sealed:
            self.positions.setdefault(channel, batch.first)

    def moved(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Drains have new states (the first field is the drain)."""
        for row in rows:
            assert isinstance(row[0], int)
            self.cursors[row[0]] = row

    def close(self, page: ClosedPage) -> None:
        """Save a page for the last time."""
        self.closed.append(page)
        if page.drain_id is not None:
            self.cursors.pop(page.drain_id, None)

    def missing_bytes(self) -> int:
        """How much of what the spool lacks the rings still have."""
        return sum(batch.size for channel in self.positions for batch in self._held(channel))

    def take(self, work: Work, max_bytes: int | None = None) -> None:
        """Put what is due before the work's own: all of it, or the first `max_bytes` of lines."""
        size = 0
        held: list[Sealed] = []
        for channel in self.positions:
            for batch in self._held(channel):
                if max_bytes is not None and size >= max_bytes:
                    break
                held.append(Sealed(channel, batch))
                size += batch.size
        work.batches[:0] = held
        work.healed = len(held)
        work.pages |= self.pages
        if max_bytes is None:
            work.pages |= {channel for channel in self.positions if not channel.removed}  # heads behind gaps
        work.ids[:0] = self._ids
        work.cursors |= self.cursors
        work.closed += self.closed
        self.pages, self._ids, self.cursors, self.closed = set(), [], {}, []

    def stored(self, work: Work) -> None:
        """The transaction was committed: its lines are no longer due."""
        positions = self.positions
        if not positions:
            return
        for channel, batch in work.batches:
            if positions.get(channel, batch.end) < batch.end:
                positions[channel] = batch.end

    def put_back(self, work: Work) -> None:
        """The transaction failed: what it took is due again (lines are, until they are stored)."""
        self.pages |= work.pages
        self._ids = (work.ids + self._ids)[-MAX_IDS:]
        self.cursors = work.cursors | self.cursors
        self.closed = work.closed + self.closed

    def _held(self, channel: Channel) -> Iterable[Batch]:
        if channel.removed:
            return ()
        return channel.recent(max(self.positions[channel], channel.ring_oldest), 1 << 40) or ()
