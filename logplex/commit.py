"""Groups go to the spool one after the other; what has been committed is shown.

Invariants (tests/test_commit.py, and the state machine in tests/test_spool_model.py):

* Groups commit in the order in which they were filled; one is being written while the next fills.
* Nobody sees a line, and no request is answered, before the commit of its group has returned; `durability none` has
  no spool and shows at once.
* A group that somebody waits for is written as soon as the one before is on disk; others within `group_seconds`.
* *Degraded* begins with a write error or a commit that is not back in time, and ends without a restart. `accept`
  shows groups from memory; what the rings still hold is written on healing, the rest is a gap in the spool that
  readers count as lost. `refuse` holds everything and tries the same group again; who waits is told `HELD`.
* Uncommitted bytes are bounded: above the bound `room` waits, inputs stop reading, replies are held.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from .batch import Batch
from .channel import Channel
from .dedupe import First
from .errors import StoreError
from .group import Group, Outcome, Sealed

log = structlog.get_logger()

RETRY_SECONDS = 1.0  # between tries of a failing store
INLINE_BYTES = 4 * 1024 * 1024  # what is missing in the spool when the last step of healing may hold a group


@dataclass(slots=True)
class Work:
    """One transaction: numbered batches and everything that must change together with them."""

    batches: list[tuple[Channel, Batch]] = field(default_factory=list)
    pages: set[Channel] = field(default_factory=set)
    ids: list[tuple[bytes, float]] = field(default_factory=list)
    cursors: list[tuple[object, ...]] = field(default_factory=list)
    node: dict[str, object] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all batches."""
        return sum(batch.size for _, batch in self.batches)


class Spool(Protocol):
    """Where groups are written (store/spool.py)."""

    async def append(self, work: Work) -> None:
        """Commit one transaction; raises StoreError."""


class _Write:
    """One transaction on its way."""

    def __init__(self, work: Work, sealed: list[Sealed]) -> None:
        self.work = work
        self.sealed = sealed
        self.done = trio.Event()
        self.error: StoreError | None = None


class Committer:
    """Fills, numbers, commits and shows groups; `run` is its one task."""

    def __init__(
        self,
        spool: Spool | None,
        *,
        group_seconds: float,
        timeout_seconds: float,
        max_uncommitted_bytes: int,
        refuse_when_degraded: bool = False,
    ) -> None:
        self.current = Group()
        self.cursors: Callable[[], list[tuple[object, ...]]] = list
        self.node_row: Callable[[], dict[str, object]] = dict
        self.keep: Callable[[First], None] = lambda first: None
        self.on_degraded: Callable[[str | None], None] = lambda reason: None
        self.degraded_since: float | None = None  # wall clock
        self.degraded_reason = ""
        self._spool = spool
        self._group_seconds = group_seconds
        self._timeout_seconds = timeout_seconds
        self.max_uncommitted_bytes = max_uncommitted_bytes
        self._refuse = refuse_when_degraded
        self._committing = False
        self._committing_bytes = 0
        self._filled = trio.Event()
        self._urgent = trio.Event()
        self._room = trio.Event()
        self._behind: dict[Channel, int] = {}  # the first position that the spool lacks, while degraded
        self._write: _Write | None = None  # on its way while degraded: hanging, or catching up
        self._next_try = 0.0
        self._nursery: trio.Nursery

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of lines that no commit has confirmed yet."""
        return self.current.bytes + self._committing_bytes

    def flush(self) -> None:
        """The inputs have nothing more for the moment: what is in the group may go."""
        group = self.current
        if not group:
            return
        if self._spool is None:
            self.current = Group()
            self._show(group.seal(_now_ms()), stored=False)
            self._settle(group, Outcome.DONE)
            return
        self._filled.set()
        if group.waiting:
            self._urgent.set()

    async def room(self) -> None:
        """Wait while too much is uncommitted; the input that waits is not read."""
        while self.uncommitted_bytes > self.max_uncommitted_bytes:
            self.flush()
            await self._room.wait()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit groups until cancelled; `finish` first, or what was not committed is lost."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                with trio.move_on_after(RETRY_SECONDS if self.degraded_since else math.inf):
                    await self._filled.wait()
                if not self.current.waiting:
                    with trio.move_on_after(self._group_seconds):
                        await self._urgent.wait()
                self._filled = trio.Event()
                self._urgent = trio.Event()
                await self._commit()

    async def finish(self) -> None:
        """Commit what is there, then cursors and counters as they are now; for a clean stop, with inputs closed.

        Raises StoreError when the store does not take it.
        """
        if self._spool is None:
            self.flush()
            return
        while self.current or self._committing:
            self._filled.set()
            self._urgent.set()
            await self._room.wait()
        work = self._work([])
        missing = self._add_behind(work)
        await self._spool.append(work)
        self._count_stored(work.batches[:missing])

    async def _commit(self) -> None:
        group = self.current
        self.current = Group()
        self._committing = True
        self._committing_bytes = group.bytes
        try:
            sealed = group.seal(_now_ms())
            work = self._work(sealed, group)
            if self.degraded_since is None or self._refuse or self._can_heal():
                await self._store(group, sealed, work)
            else:
                self._show(sealed, stored=False)
                self._settle(group, Outcome.MEMORY)
                self._catch_up()
        finally:
            self._committing = False
            self._committing_bytes = 0
            room, self._room = self._room, trio.Event()
            room.set()

    async def _store(self, group: Group, sealed: list[Sealed], work: Work) -> None:
        """Write the group; show it when it is on disk, or as the degraded state has it."""
        missing = self._add_behind(work)
        while True:
            write = self._start(work, sealed)
            with trio.move_on_after(self._timeout_seconds):
                await write.done.wait()
            if write.done.is_set() and write.error is None:
                self._count_stored(work.batches[:missing])
                self._healed()
                self._show(sealed, stored=True)
                self._settle(group, Outcome.DONE)
                return
            self._degrade(str(write.error) if write.error else f"a commit took over {self._timeout_seconds:g} s")
            if not self._refuse:
                self._show(sealed, stored=False)
                for channel, batches in sealed:
                    self._behind.setdefault(channel, batches[0].first)
                self._write = write
                self._settle(group, Outcome.MEMORY)
                return
            group.settle(Outcome.HELD)
            await write.done.wait()  # a hanging commit may still succeed: the same lines must not be written twice
            if write.error is None:
                self._healed()
                self._show(sealed, stored=True)
                self._settle(group, Outcome.DONE)
                return
            await trio.sleep(RETRY_SECONDS)

    def _settle(self, group: Group, outcome: Outcome) -> None:
        """Tell who waits, and the input window, also for requests whose client is gone."""
        for first in group.ids:
            self.keep(first)
        group.settle(outcome)

    def _work(self, sealed: list[Sealed], group: Group | None = None) -> Work:
        work = Work()
        for channel, batches in sealed:
            work.batches += [(channel, batch) for batch in batches]
        if group is not None:
            wall = time.time()
            work.ids = [first.row(wall) for first in group.ids]
            work.pages = group.touched
        work.cursors = self.cursors()
        work.node = self.node_row()
        return work

    def _start(self, work: Work, sealed: list[Sealed]) -> _Write:
        write = _Write(work, sealed)
        self._nursery.start_soon(self._run_write, write)
        return write

    async def _run_write(self, write: _Write) -> None:
        assert self._spool is not None
        try:
            await self._spool.append(write.work)
        except StoreError as exc:
            write.error = exc
        write.done.set()

    def _show(self, sealed: list[Sealed], *, stored: bool) -> None:
        for channel, batches in sealed:
            count = batches[-1].end - batches[0].first
            page = channel.page
            page.writing -= count
            if stored:
                page.stored += count
            else:
                page.memory += count
            if not channel.removed:
                for batch in batches:
                    channel.append(batch)

    def _degrade(self, reason: str) -> None:
        self.degraded_reason = reason
        if self.degraded_since is None:
            self.degraded_since = time.time()
            log.error("degraded", reason=reason, shown="no" if self._refuse else "from memory")
            self.on_degraded(reason)
        self._next_try = trio.current_time() + RETRY_SECONDS

    def _healed(self) -> None:
        """The store took a transaction that brought it up to date."""
        if self.degraded_since is None:
            return
        seconds = time.time() - self.degraded_since
        self.degraded_since = None
        self.degraded_reason = ""
        self._behind.clear()
        log.info("healed", degraded_seconds=round(seconds, 3))
        self.on_degraded(None)

    def _can_heal(self) -> bool:
        """Whether so little is missing that it may go into the transaction of the current group."""
        if self._settle_late_write() or trio.current_time() < self._next_try:
            return False
        missing = sum(
            batch.size
            for channel, position in self._behind.items()
            for batch in channel.recent(max(position, channel.ring_oldest), INLINE_BYTES) or ()
        )
        return missing <= INLINE_BYTES

    def _catch_up(self) -> None:
        """Write a part of what is missing, beside the groups that go on being shown."""
        if self._write is not None or trio.current_time() < self._next_try:
            return
        work = self._work([])
        self._add_behind(work, INLINE_BYTES)
        self._write = self._start(work, [])

    def _settle_late_write(self) -> bool:
        """Count what a write that went on beside the groups has stored; True while it is not back."""
        write = self._write
        if write is None:
            return False
        if not write.done.is_set():
            return True
        self._write = None
        if write.error is not None:
            self._degrade(str(write.error))
            return False
        self._count_stored(write.work.batches)
        for channel, batch in write.work.batches:
            if self._behind.get(channel, batch.end) < batch.end:
                self._behind[channel] = batch.end
        return False

    def _add_behind(self, work: Work, max_bytes: int | None = None) -> int:
        """Put what the spool lacks and the rings still have before the work's own batches; return their number."""
        if not self._behind:
            return 0
        missing: list[tuple[Channel, Batch]] = []
        size = 0
        for channel, position in self._behind.items():
            at = max(position, channel.ring_oldest)
            for batch in channel.recent(at, 1 << 40) or ():
                if max_bytes is not None and size > max_bytes:
                    break
                missing.append((channel, batch))
                size += batch.size
        work.batches[:0] = missing
        return len(missing)

    def _count_stored(self, batches: list[tuple[Channel, Batch]]) -> None:
        """What was shown from memory is in the spool now."""
        for channel, batch in batches:
            channel.page.memory -= batch.count
            channel.page.stored += batch.count


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
