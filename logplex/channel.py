"""The reading side of a channel: a ring in memory, behind it the spool, and who follows.

Rules:

* Positions from `oldest` to `head` (exclusive) can be read; nobody sees a position before its commit.
* The ring holds what followers have not heard long ago, and what the spool lacks; where nobody follows, nothing else.
* A reader is a cursor. Behind the ring it reads the spool; what neither holds is *lost*: `Reading.lost`, exact,
  told once to the reader whose cursor it was.
* Followers are told of every committed batch, synchronously and in order; they never block and never raise.
* Ids given to clients hold the epoch: positions of another epoch mean nothing in this one. A reader that comes from
  an older one goes on where the next begins, however many there have been since.
"""

import hashlib
import math
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from .batch import Batch, Form, Layout
from .ledger import Page
from .ring import Ring

BEHIND_SECONDS = 0.5  # after its last reading from the spool, a reader may be there again any moment


class Follower(Protocol):
    """Who wants to hear of new lines: a drain, or the fan-out of a channel's tails."""

    def notify(self, batch: Batch) -> None:
        """A batch was committed. Must neither block nor raise."""


class Reading(NamedTuple):
    """What a cursor gets: `lost` positions are gone for good, then `batches` go on at `cursor + lost`."""

    lost: int
    batches: list[Batch]


class Place(NamedTuple):
    """What the spool knows of a channel when it becomes active."""

    oldest: int
    head: int
    epoch: str
    epoch_first: int
    page: Page
    past: tuple[tuple[str, int], ...] = ()  # older epochs and where they begin, oldest first


class History(Protocol):
    """Committed lines that may have left the rings (store/spool.py, or nothing at all)."""

    async def read(self, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        """Batches from `cursor` up to `end`, ascending, contiguous, the first cut at the cursor or later than it."""

    async def read_back(self, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
        """The newest batches before `end`, ascending and contiguous."""

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        """Where each channel stands; new ones begin at 0."""


class NoHistory:
    """What stands behind the rings when nothing is kept (`--spool-bytes 0`): every start is a new epoch."""

    def __init__(self) -> None:
        self._epoch = secrets.token_bytes(16)

    async def read(self, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        """Nothing is held behind the ring."""
        return []

    async def read_back(self, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
        """Nothing is held behind the ring."""
        return []

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        """All begin at 0; only the ring says what is the oldest."""
        return {number: Place(sys.maxsize, 0, channel_epoch(self._epoch, number), 0, Page()) for number in channel_ids}


def channel_epoch(epoch: bytes, channel_id: int) -> str:
    """The epoch of one channel: 64 bits that no other channel, and no other epoch of the node, has."""
    return hashlib.blake2b(b"%d" % channel_id, key=epoch, digest_size=8).hexdigest()


class Channel:
    """One active channel; made by `Channels`, never by hand."""

    __slots__ = (
        "_budget",
        "_history",
        "_oldest",
        "_ring",
        "epoch",
        "epoch_first",
        "followers",
        "id",
        "layout",
        "name",
        "no_history",
        "no_tail",
        "numbered",
        "page",
        "past",
        "removed",
    )

    def __init__(self, id: int, name: str, place: Place, *, ring: Ring, history: History, budget: "Budget") -> None:
        self.id = id
        self.name = name
        self.epoch = place.epoch
        self.epoch_first = place.epoch_first
        self.past = place.past
        self.no_tail = False
        self.no_history = False
        self.removed = False
        self.numbered = place.head  # the next position to give out; behind it up to `head` a group is committing
        self.page = place.page
        self.layout = Layout(Form.HTTP)
        self.followers: list[Follower] = []
        self._oldest = place.oldest
        self._ring = ring
        self._history = history
        self._budget = budget

    @property
    def head(self) -> int:
        """The first position that is not committed yet."""
        return self._ring.head

    @property
    def oldest(self) -> int:
        """The oldest position that ring or spool still hold."""
        return min(self._oldest, self._ring.oldest)

    def epoch_at(self, position: int) -> tuple[str | None, int | None]:
        """The epoch of a position, None when it is older than all that are known, and where the next one begins."""
        next_first = None
        for epoch, first in ((self.epoch, self.epoch_first), *reversed(self.past)):
            if position >= first:
                return epoch, next_first
            next_first = first
        return None, next_first

    def after_epoch(self, epoch: str) -> int | None:
        """Where the epoch behind this one begins: None for the present one, the oldest known for one not known."""
        if epoch == self.epoch:
            return None
        next_first = self.epoch_first
        for older, first in reversed(self.past):
            if older == epoch:
                return next_first
            next_first = first
        return next_first

    def forget_before(self, position: int) -> None:
        """The spool no longer holds what lies before `position`; the ring may."""
        self._oldest = max(self._oldest, position)

    def append(self, batch: Batch) -> None:
        """Show a committed batch to everyone who reads this channel."""
        ring = self._ring
        before = ring.bytes
        ring.append(batch)
        self._budget.changed(self, ring.bytes - before)
        for follower in self.followers:
            follower.notify(batch)

    def pass_over(self, end: int) -> None:
        """Lines up to `end` are committed, the spool has them, and nobody follows: they are not held in memory."""
        freed = self._ring.pass_over(end)
        if freed:
            self._budget.changed(self, -freed)

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of every batch from now on."""
        self.followers = [*self.followers, follower]

    def unfollow(self, follower: Follower) -> None:
        """Stop telling it; unknown followers are ignored."""
        self.followers = [other for other in self.followers if other is not follower]

    def recent(self, cursor: int, max_bytes: int) -> list[Batch] | None:
        """What the ring holds from `cursor` on; [] at the head, None behind the ring. Never waits."""
        return self._ring.since(cursor, max_bytes)

    async def read(self, cursor: int, max_bytes: int) -> Reading:
        """What ring or spool hold from `cursor` on; nothing only at the head."""
        at = cursor
        while (batches := self._ring.since(at, max_bytes)) is None:
            end = self._ring.oldest
            if self.followers:
                self._budget.missed_at = time.monotonic()
            batches = await self._history.read(self.id, at, end, max_bytes)
            if batches:
                return Reading(batches[0].first - cursor, batches)
            at = end  # nothing is left before it; the ring may have moved on while we waited
        return Reading(at - cursor, batches)

    async def read_back(self, end: int, max_bytes: int) -> list[Batch]:
        """The newest batches before `end`, ascending; [] when nothing older is held."""
        return self._ring.before(end, max_bytes) or await self._history.read_back(self.id, end, max_bytes)

    def release_ring(self) -> None:
        """Give the memory back; the lines stay in the spool."""
        self._budget.changed(self, -self._ring.clear())

    @property
    def ring_oldest(self) -> int:
        """The oldest position that the ring holds; the head when it holds none."""
        return self._ring.oldest

    @property
    def ring_bytes(self) -> int:
        """Bytes that the ring holds."""
        return self._ring.bytes


class Budget:
    """One bound on all rings together: the rings that were quiet longest are given back first."""

    def __init__(self, max_bytes: int) -> None:
        self.missed_at = -math.inf  # when a ring that is followed last did not have any more what a reader wanted
        self._max_bytes = max_bytes
        self._bytes = 0
        self._active: OrderedDict[Channel, None] = OrderedDict()

    def changed(self, channel: Channel, difference: int) -> None:
        """`channel` was written to, and holds `difference` more (or fewer) bytes."""
        self._bytes += difference
        if difference < 0 and not channel.ring_bytes:
            self._active.pop(channel, None)
            return
        active = self._active
        active[channel] = None
        active.move_to_end(channel)
        while self._bytes > self._max_bytes and len(active) > 1:
            next(iter(active)).release_ring()


class Channels:
    """The active channels by internal id; they come when a line or a reader needs them, and go when quiet."""

    def __init__(self, history: History, *, ring_lines: int, ring_bytes: int, rings_bytes: int) -> None:
        self._history = history
        self._ring_lines = ring_lines
        self._ring_bytes = ring_bytes
        self._budget = Budget(rings_bytes)
        self._channels: dict[int, Channel] = {}
        self.on_new: Callable[[Channel], None] = lambda channel: None

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels.values())

    @property
    def readers_behind(self) -> bool:
        """Whether readers have to catch up: they read, or did a moment ago, what rings no longer hold.

        History of a channel that nobody follows is in no ring: who reads that is not behind.
        """
        return time.monotonic() - self._budget.missed_at < BEHIND_SECONDS

    def get(self, channel_id: int) -> Channel | None:
        """The channel if it is active."""
        return self._channels.get(channel_id)

    async def load(self, names: dict[int, tuple[str, frozenset[str]]]) -> None:
        """Make channels active: internal id → (name, flags). One question to the spool for all of them."""
        missing = [channel_id for channel_id in names if channel_id not in self._channels]
        if not missing:
            return
        places = await self._history.places(missing)
        for channel_id, place in places.items():
            if channel_id not in self._channels:  # somebody else may have loaded it while we waited
                name, flags = names[channel_id]
                self._make(channel_id, name, flags, place)

    def remove(self, channel_id: int) -> Channel | None:
        """The channel was deleted: its readers see the end of it."""
        channel = self._channels.pop(channel_id, None)
        if channel is not None:
            channel.removed = True
            channel.release_ring()
        return channel

    def _make(self, channel_id: int, name: str, flags: frozenset[str], place: Place) -> None:
        ring = Ring(place.head, max_lines=self._ring_lines, max_bytes=self._ring_bytes)
        channel = Channel(channel_id, name, place, ring=ring, history=self._history, budget=self._budget)
        channel.no_tail = "no_tail" in flags
        channel.no_history = "no_history" in flags
        self._channels[channel_id] = channel
        self.on_new(channel)
