"""Groups go to the spool one after the other; what has been committed is shown.

Invariants (tests/test_commit.py, and the state machine in tests/store/test_spool_model.py):

* Groups commit in the order in which they were filled; one is being written while the next fills.
* Nobody sees a line, and no request is answered, before the commit of its group has returned. With `durability none`
  a flush shows at once what is in the group; it is written behind (behind.py), within `group_seconds` or when
  `BEHIND_BYTES` have gathered. Without a spool it is not written at all.
* A group that somebody waits for is written as soon as the one before is on disk; others after `QUICK_SECONDS`, those
  of many channels later (a row costs as much as many lines), all within `group_seconds`. Cursors and counters that
  change without lines are written within `SAVE_SECONDS`.
* While all goes well no task stands between a group and its commit: `flush` begins one, and the store's answer shows
  it and begins the next. So groups stay small when the loop is busy. `run` does what has to wait, and all trouble.
* *Degraded* begins with a write error or a commit that is not back in time, is noted before anything is shown from
  memory, and ends without a restart. `accept` shows groups from memory; what the rings still hold is written on
  healing, the rest is a gap in the spool that readers count as lost. `refuse` shows nothing and tries the same group
  again; who waits for longer than `hold_seconds` gives up (the router tells him `HELD`).
* Uncommitted bytes are bounded: above the bound `room` waits, inputs stop reading, replies are held.
"""

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from .behind import Behind
from .catchup import CatchUp, ClosedPage, Work
from .dedupe import First
from .errors import StoreError
from .group import Group, Outcome, Sealed

log = structlog.get_logger()

QUICK_SECONDS = 0.005  # what fills in it is still in the processor's cache when it is written
CHANNEL_SECONDS = 0.0002  # of waiting that each channel of a group is worth
RETRY_SECONDS = 1.0  # between tries of a failing store
SAVE_SECONDS = 0.25  # what a crash may repeat of deliveries that no line followed
NOTE_SECONDS = 0.5  # a disk that hangs may hang the note too
CLOSED_PAGES = 1000  # that are shown
BEHIND_BYTES = 1024 * 1024  # shown before they are written: no more than caches hold
INLINE_BYTES = 4 * 1024 * 1024  # what is missing in the spool when the last step of healing may hold a group


class Spool(Protocol):
    """Where groups are written (store/spool.py)."""

    def start(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        """Commit one transaction; `arrived` is told in the loop what came of it. Never waits."""

    def poll(self) -> None:
        """Tell of what has ended now: a busy loop would come to it late."""


class _Write:
    """One transaction on its way; with a group or what was shown before, unless it only catches up."""

    def __init__(self, work: Work, source: Group | Behind | None = None, sealed: list[Sealed] | None = None) -> None:
        self.work = work
        self.source = source
        self.sealed = sealed or []
        self.done = trio.Event()
        self.error: StoreError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it is known to be on disk."""
        return self.done.is_set() and self.error is None


async def _note_nothing(_since: float | None) -> None:
    return


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
        show_at_once: bool = False,
    ) -> None:
        refuse = refuse_when_degraded and not show_at_once
        self.current = Group()
        self.max_uncommitted_bytes = max_uncommitted_bytes
        self.hold_seconds = timeout_seconds if refuse else math.inf
        """How long a request is held at most; then it is `HELD`, which no shipper takes for an answer."""
        self.cursors: Callable[[], list[tuple[object, ...]]] = list
        self.node_row: Callable[[], dict[str, object]] = dict
        self.keep: Callable[[First], None] = lambda first: None
        self.note_degraded: Callable[[float | None], Awaitable[None]] = _note_nothing
        self.degraded_since: float | None = None  # wall clock
        self.degraded_reason = ""
        self._spool = spool
        self._group_seconds = group_seconds
        self._timeout_seconds = timeout_seconds
        self._refuse = refuse
        self._show_first = show_at_once or spool is None
        self._behind = Behind()  # what the next transaction writes of it
        self._on_its_way = Behind()  # and what this one does
        self._committing = False
        self._committing_bytes = 0
        self._finishing = False
        self._filled = trio.Event()
        self._urgent = trio.Event()
        self._room = trio.Event()
        self._due = CatchUp()
        self._flight: _Write | None = None  # a group on its way, as long as nothing is wrong
        self._failure: Exception | None = None  # a bug that `run` is to raise
        self._began = 0.0  # when the current group got its first lines
        self._write: _Write | None = None  # on its way while degraded: hanging, or catching up
        self._next_try = 0.0
        self._closed_number = 0
        self.closed: deque[tuple[int, dict[str, object]]] = deque(maxlen=CLOSED_PAGES)
        """Closed pages, the newest of a week, by the time (unix ns) at which they were closed."""
        self._saved_node: dict[str, object] = {}

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of lines that no commit has confirmed yet."""
        return self.current.bytes + self._behind.bytes + self._committing_bytes

    @property
    def in_memory(self) -> bool:
        """Whether lines that were acknowledged are less durable than was promised."""
        return self.degraded_since is not None and not self._refuse and not self._show_first

    def flush(self) -> None:
        """The inputs have nothing more for the moment: what is in the group may go."""
        group = self.current
        if not group:
            return
        if self._show_first:
            self._show_at_once(group)
        if self._spool is None:
            return
        if not self._filled.is_set():
            self._began = trio.current_time()
            self._filled.set()
        if self.current.waiting:
            self._urgent.set()
            return
        try:
            if self._committing:
                self._spool.poll()
            elif self._is_ripe():
                self._begin()
        except Exception as exc:  # noqa: BLE001 - not the fault of the input that has called
            self._failure = exc

    def _show_at_once(self, group: Group) -> None:
        self.current = Group()
        sealed = group.seal(_now_ms())
        self._show(sealed, stored=False)
        if self._spool is not None:
            self._behind.add(group, sealed)
        self._settle(group, Outcome.DONE)

    async def written(self, channel_id: int, end: int) -> None:
        """Wait for what was shown of a channel before `end`, and not written yet, unless the store fails."""
        while self.degraded_since is None and (
            self._on_its_way.reaches(channel_id, end) or self._behind.reaches(channel_id, end)
        ):
            await self._room.wait()

    async def room(self) -> None:
        """Wait while too much is uncommitted; the input that waits is not read."""
        while self.uncommitted_bytes > self.max_uncommitted_bytes:
            self.flush()
            await self._room.wait()

    def close_page(self, row: dict[str, object], drain_id: int | None = None) -> None:
        """A channel or a drain was deleted: save its page with the next transaction."""
        self._closed_number = max(time.time_ns(), self._closed_number + 1)
        page = ClosedPage(self._closed_number, row, drain_id)
        self.closed.append((page.number, row))
        if self._spool is not None:
            self._due.close(page)
            self._filled.set()
            self._urgent.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit groups until cancelled; `finish` first, or what was not committed is lost."""
        task_status.started()
        if self._spool is None:
            await trio.sleep_forever()
        while True:
            if self._failure is not None:
                raise self._failure
            if self._flight is not None:
                await self._watch(self._flight)
                continue
            with trio.move_on_after(SAVE_SECONDS):
                await self._filled.wait()
            if self._is_filled and not self.current.waiting and self._flight is None:
                await self._fill()
            if self._flight is None and not self._finishing and (self._is_filled or self._has_something_due()):
                if self.degraded_since is None:
                    self._begin()
                else:
                    await self._commit_degraded()

    async def _fill(self) -> None:
        """Wait while more lines come into the group, until it is worth its commit or somebody waits for it."""
        for _ in range(2):  # more channels may have come meanwhile
            with trio.move_on_at(self._began + self._fill_seconds()):
                await self._urgent.wait()

    @property
    def _is_filled(self) -> bool:
        return bool(self._behind if self._show_first else self.current)

    def _fill_seconds(self) -> float:
        if self._behind:
            return 0.0 if self._behind.bytes >= BEHIND_BYTES else self._group_seconds
        return min(max(QUICK_SECONDS, CHANNEL_SECONDS * len(self.current)), self._group_seconds)

    def _is_ripe(self) -> bool:
        """Whether the current group may begin its commit now."""
        if self._committing or self._flight is not None or self._finishing or self.degraded_since is not None:
            return False
        return self.current.waiting or trio.current_time() >= self._began + self._fill_seconds()

    def _begin(self) -> None:
        """Seal the current group, and send it to the store."""
        write = self._flight = self._seal()
        write.work = self._work(write)
        self._start(write)

    def _seal(self) -> _Write:
        """What is to be written next; its transaction is still empty."""
        self._filled = trio.Event()
        self._urgent = trio.Event()
        self._committing = True
        if self._show_first:
            behind = self._on_its_way = self._behind
            self._behind = Behind()
            self._committing_bytes = behind.bytes
            return _Write(Work(), behind, behind.sealed)
        group = self.current
        self.current = Group()
        self._committing_bytes = group.bytes
        return _Write(Work(), group, group.seal(_now_ms()))

    def _start(self, write: _Write) -> None:
        assert self._spool is not None

        def arrived(error: StoreError | None) -> None:
            write.error = error
            if error is None:
                self._saved_node = write.work.node
                if self._flight is write:
                    self._land(write)
            write.done.set()

        self._spool.start(write.work, arrived)

    def _land(self, write: _Write) -> None:
        """A group is on disk, in time: show it, and begin the one that has filled meanwhile."""
        self._flight = None
        self._shown_and_stored(write)
        self._end_commit()
        if self._is_filled and self._is_ripe():
            self._begin()

    def _shown_and_stored(self, write: _Write) -> None:
        self._due.stored(write.work)
        self._count_stored(write.work, write.work.healed)
        if isinstance(write.source, Group):
            self._show(write.sealed, stored=True)
            self._settle(write.source, Outcome.DONE)

    def _end_commit(self) -> None:
        self._committing = False
        self._committing_bytes = 0
        self._on_its_way = Behind()
        room, self._room = self._room, trio.Event()
        room.set()

    async def _watch(self, write: _Write) -> None:
        """Wait until a group has landed; see to it when it does not."""
        with trio.move_on_after(self._timeout_seconds):
            await write.done.wait()
        if self._flight is write:
            self._flight = None
            try:
                await self._store(write)
            finally:
                self._end_commit()

    async def finish(self) -> None:
        """Commit what is there, then cursors and counters as they are now; for a clean stop, with inputs closed.

        Raises StoreError when the store does not take it.
        """
        if self._spool is None:
            self.flush()
            return
        while self.current or self._behind or self._committing:
            if self._show_first:
                self.flush()
            if not self._committing:
                self._filled.set()
                self._urgent.set()
            await self._room.wait()
        self._finishing = True  # what is begun from here on would not be waited for
        try:
            if self._write is not None:
                await self._write.done.wait()
                await self._settle_late_write()
            while self._due.missing_bytes() > INLINE_BYTES:
                await self._append(self._work(max_bytes=INLINE_BYTES))
            await self._append(self._work())
            await self._healed()
        finally:
            self._finishing = False

    async def _append(self, work: Work) -> None:
        write = _Write(work)
        self._start(write)
        await write.done.wait()
        if write.error is not None:
            raise write.error
        self._due.stored(work)
        self._count_stored(work, work.healed)

    async def _commit_degraded(self) -> None:
        write = self._seal()
        try:
            heals = self._refuse or await self._can_heal()
            if self._show_first:  # the rings have it, also what came while we waited: write no line twice
                for shown in (write, self._seal()):
                    self._lacks(shown, self._work(shown, take=False))
                write = _Write(Work())
            if heals:
                write.work = self._work(write)
                await self._try(write)
                await self._store(write)
            else:
                self._lacks(write, self._work(write, take=False))
                self._catch_up()
        finally:
            self._end_commit()

    async def _try(self, write: _Write) -> None:
        self._start(write)
        with trio.move_on_after(self._timeout_seconds):
            await write.done.wait()

    async def _store(self, write: _Write) -> None:
        """Show a group whose write is late or has failed: when it is on disk, or as the degraded state has it."""
        while True:
            if not write.done.is_set():
                await self._degrade(f"a commit takes longer than {self._timeout_seconds:g} s")
            elif write.error is not None:
                await self._degrade(str(write.error))
            if self.degraded_since is not None and not self._refuse and not write.succeeded:
                self._write = write
                self._lacks(write, None)
                return
            await write.done.wait()  # a hanging commit may still succeed: no line must be written twice
            if write.error is None:
                self._shown_and_stored(write)
                await self._healed()
                return
            await trio.sleep(RETRY_SECONDS)
            write = _Write(write.work, write.source, write.sealed)
            await self._try(write)

    def _lacks(self, write: _Write, work: Work | None) -> None:
        """Show lines that the spool lacks; `work` is what would have gone with them, if it is not on its way."""
        if work is not None:
            self._due.put_back(work)
        self._due.shown(write.sealed)
        if isinstance(write.source, Group):
            self._show(write.sealed, stored=False)
            self._settle(write.source, Outcome.MEMORY)

    def _settle(self, group: Group, outcome: Outcome) -> None:
        """Tell who waits, and the input window, also for requests whose client is gone."""
        for first in group.ids:
            self.keep(first)
        group.settle(outcome)

    def _work(self, write: _Write | None = None, *, take: bool = True, max_bytes: int = -1) -> Work:
        """The transaction of a write, with what is due unless `take` is false."""
        work = Work(node=self.node_row())
        if write is not None and write.source is not None:
            source = write.source
            if isinstance(source, Behind):
                work.batches = source.batches()
            else:
                work.batches = [(channel, batch) for channel, batches in write.sealed for batch in batches]
            if source.ids:
                wall = time.time()
                work.ids = [first.row(wall) for first in source.ids]
            work.pages = source.touched
        self._due.moved(self.cursors())
        if take:
            self._due.take(work, max_bytes if max_bytes >= 0 else None)
        if self._show_first:
            work.healed = len(work.batches)  # all of them have been shown
        return work

    def _has_something_due(self) -> bool:
        self._due.moved(self.cursors())
        return bool(self._due) or self.degraded_since is not None or self.node_row() != self._saved_node

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

    async def _degrade(self, reason: str) -> None:
        self.degraded_reason = reason
        self._next_try = trio.current_time() + RETRY_SECONDS
        if self.degraded_since is None:
            self.degraded_since = time.time()
            log.error("degraded", reason=reason, shown="nothing" if self._refuse else "from memory")
            with trio.move_on_after(NOTE_SECONDS):
                await self.note_degraded(self.degraded_since)

    async def _healed(self) -> None:
        """The store took a transaction that brought it up to date."""
        if self.degraded_since is None:
            return
        seconds = time.time() - self.degraded_since
        self.degraded_since = None
        self.degraded_reason = ""
        self._due.positions.clear()
        log.info("healed", degraded_seconds=round(seconds, 3))
        with trio.move_on_after(NOTE_SECONDS):
            await self.note_degraded(None)

    async def _can_heal(self) -> bool:
        """Whether so little is missing that it may go into the transaction of the current group."""
        if await self._settle_late_write() or trio.current_time() < self._next_try:
            return False
        return self._due.missing_bytes() <= INLINE_BYTES

    def _catch_up(self) -> None:
        """Write a part of what is missing, beside the groups that go on being shown."""
        if self._write is None and trio.current_time() >= self._next_try:
            self._write = _Write(self._work(max_bytes=INLINE_BYTES))
            self._start(self._write)

    async def _settle_late_write(self) -> bool:
        """Count what a write that went on beside the groups has stored; True while it is not back."""
        write = self._write
        if write is None:
            return False
        if not write.done.is_set():
            return True
        self._write = None
        if write.error is not None:
            self._due.put_back(write.work)
            await self._degrade(str(write.error))
            return False
        self._due.stored(write.work)
        self._count_stored(write.work, len(write.work.batches))
        return False

    def _count_stored(self, work: Work, batches: int) -> None:
        """The first `batches` were shown from memory, and are in the spool now."""
        for channel, batch in work.batches[:batches]:
            channel.page.memory -= batch.count
            channel.page.stored += batch.count


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
