"""Groups go to the spool one after the other; what has been committed is shown.

Invariants (tests/test_commit.py, and the state machine in tests/store/test_spool_model.py):

* Groups commit in the order in which they were filled; one is being written while the next fills.
* Nobody sees a line, and no request is answered, before the commit of its group has returned. With `durability none`
  a flush shows what is in the group; it is written behind (behind.py), within `BEHIND_SECONDS` or when
  `BEHIND_BYTES` have gathered. Without a spool it is not written at all.
* A flush takes effect when the other inputs that are ready have been taken too: it costs as much as a few lines.
* A group that somebody waits for is written as soon as the one before is on disk; others within `group_seconds`, or
  later at full load (filling.py). Cursors and counters that change without lines are written within `SAVE_SECONDS`.
* While all goes well no task stands between a group and its commit: a flush begins one, and the store's answer shows
  it and begins the next. So groups stay small when the loop is busy. `run` does what has to wait, and all trouble.
* While the store fails, groups are shown from memory, or held and then given up (trouble.py). Who waits for a held
  one for longer than `hold_seconds` is told `HELD` by the router.
* Uncommitted bytes are bounded: above the bound `room` waits, inputs stop reading, replies are held.
"""

import math
import time
from collections.abc import Callable

import trio

from .behind import Behind
from .catchup import Work
from .filling import Filling
from .group import Group, Outcome
from .idle import Idle
from .poller import CallSoon
from .trouble import Trouble
from .writes import Spool, Write, Writes

SAVE_SECONDS = 0.25  # what a crash may repeat of deliveries that no line followed
BEHIND_SECONDS = 0.25  # until what was shown is written: nobody waits for it, and each write disturbs some line
BEHIND_BYTES = 1024 * 1024  # shown before they are written: no more than caches hold


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
        call_soon: CallSoon | None = None,
        idle: Idle | None = None,
    ) -> None:
        refuse = refuse_when_degraded and not show_at_once  # where nothing is promised there is nothing to refuse
        self.current = Group()
        self.max_uncommitted_bytes = max_uncommitted_bytes
        self.hold_seconds = timeout_seconds if refuse else math.inf
        """How long a request is held at most; then it is `HELD`, which no shipper takes for an answer."""
        self.writes = Writes(spool, show_first=show_at_once or spool is None)
        self.trouble = Trouble(self.writes, timeout_seconds=timeout_seconds, refuse=refuse)
        self._spool = spool
        self._filling = Filling(group_seconds, busy_bytes=max_uncommitted_bytes // 2)
        self._timeout_seconds = timeout_seconds
        self._show_first = self.writes.show_first
        self._behind = Behind()  # what the next transaction writes of it
        self._on_its_way = Behind()  # and what this one does
        self._committing = False
        self._committing_bytes = 0
        self._finishing = False
        self._idle = idle
        self._soon = call_soon or _call
        self._looks_soon = False
        self._hurried = False
        self._has_begun = False  # the current group has its first lines, since `_began`
        self._news = trio.Event()  # for `run`
        self._room = trio.Event()
        self._flight: Write | None = None  # a group on its way, as long as nothing is wrong
        self._failure: Exception | None = None  # a bug that `run` is to raise
        self._began = 0.0

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes of lines that no commit has confirmed yet."""
        return self.current.bytes + self._behind.bytes + self._committing_bytes

    @property
    def is_committing(self) -> bool:
        """Whether a group is on its way to the store."""
        return self._committing

    @property
    def degraded_since(self) -> float | None:
        """Since when (wall clock) the store does not take what it is given; None: it does."""
        return self.trouble.since

    @property
    def in_memory(self) -> bool:
        """Whether lines that were acknowledged are less durable than was promised."""
        return self.degraded_since is not None and not self.trouble.refuse and not self._show_first

    def flush(self) -> None:
        """What is in the group may go, when the other inputs that are ready have had their turn."""
        if not self._looks_soon and self.current:
            self._looks_soon = True
            self._soon(self._look)

    def _look(self) -> None:
        """Show the group, or begin its commit, or have `run` do that in time."""
        self._looks_soon = False
        try:
            self._let_go()
        except Exception as exc:  # noqa: BLE001 - raised in the committer's own task
            self._fail(exc)

    def _let_go(self) -> None:
        group = self.current
        if not group:
            return
        if self._show_first:
            self._show_at_once(group)
        if self._spool is None:
            return
        begins, waiting = not self._has_begun, self.current.waiting
        if begins:
            self._has_begun = True
            self._began = trio.current_time()
        if self._committing:
            if not waiting:
                self.writes.poll()
        elif self._is_ripe():
            self._begin()
        elif begins or waiting:
            self._news.set()

    def _fail(self, exc: Exception) -> None:
        self._failure = exc
        self._news.set()

    def _show_at_once(self, group: Group) -> None:
        sealed = group.seal(_now_ms())
        self.current = group.follow()
        self.writes.show(sealed, stored=False)
        if self._spool is not None:
            self._behind.add(group, sealed)
        self.writes.settle(group, Outcome.DONE)

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
        self.writes.close_page(row, drain_id)
        self._hurry()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit groups until cancelled; `finish` first, or what was not committed is lost."""
        task_status.started()
        while True:
            if self._failure is not None:
                raise self._failure
            if self._spool is None:
                await self._news.wait()
                self._news = trio.Event()
                continue
            write = self._flight
            if write is not None and (write.done.is_set() or trio.current_time() >= self._overdue_at(write)):
                await self._see_to(write)
                continue
            with trio.move_on_at(self._look_again_at()) as tick:
                await self._news.wait()
            self._news = trio.Event()
            if self._committing or self._finishing:
                continue
            if self._is_filled:
                due = trio.current_time() >= self._due_at()
            else:
                due = (tick.cancelled_caught or self._hurried) and self.writes.has_news()
            if self.degraded_since is not None and (due or tick.cancelled_caught):
                try:
                    await self.trouble.commit(self._seal)
                finally:
                    self._end_commit()
            elif due:
                self._begin()

    def _look_again_at(self) -> float:
        """When there may be something to do though nobody says so."""
        at = trio.current_time() + min(SAVE_SECONDS, self._timeout_seconds)
        if self._flight is not None:
            return min(at, self._overdue_at(self._flight))
        return min(at, self._due_at()) if self._is_filled else at

    def _overdue_at(self, write: Write) -> float:
        return write.began + self._timeout_seconds

    @property
    def _is_filled(self) -> bool:
        return bool(self._behind if self._show_first else self.current)

    def _due_at(self) -> float:
        """When the current group is worth its commit: at once where somebody waits for it."""
        if self.current.waiting or self._hurried:
            return 0.0
        return self._began + self._fill_seconds()

    def _fill_seconds(self) -> float:
        if self._behind:
            return 0.0 if self._behind.bytes >= BEHIND_BYTES else BEHIND_SECONDS
        group = self.current
        return self._filling.seconds(len(group), group.bytes)

    def _is_ripe(self) -> bool:
        """Whether the current group may begin its commit now."""
        if self._committing or self._finishing or self.degraded_since is not None:
            return False
        return trio.current_time() >= self._due_at()

    def _hurry(self) -> None:
        """Commit what is there, and what has no lines, now."""
        self._hurried = True
        self._news.set()

    def _begin(self) -> None:
        """Seal the current group, and send it to the store."""
        write = self._flight = self._seal()
        write.began = trio.current_time()
        write.work = self.writes.compose(write)
        self.writes.start(write, self._ended)

    def _seal(self) -> Write:
        """What is to be written next; its transaction is still empty."""
        self._has_begun = self._hurried = False
        self._committing = True
        if self._show_first:
            behind = self._on_its_way = self._behind
            self._behind = Behind()
            self._committing_bytes = behind.bytes
            return Write(Work(), behind, behind.sealed)
        if self._idle is not None and (share := self._idle.share()) is not None:
            self._filling.adapt(share)
        group = self.current
        sealed = group.seal(_now_ms())
        self.current = group.follow()
        self._committing_bytes = group.bytes
        return Write(Work(), group, sealed)

    def _ended(self, write: Write) -> None:
        """A group is on disk: show it if it is in time, and begin the one that has filled meanwhile."""
        if self._flight is not write:
            return
        if write.error is not None:
            self._news.set()
            return
        self._flight = None
        self.writes.stored(write)
        self._end_commit()
        if not self._is_filled:
            return
        if self._is_ripe():
            self._begin()
        else:
            self._news.set()

    def _end_commit(self) -> None:
        self._committing = False
        self._committing_bytes = 0
        self._on_its_way = Behind()
        room, self._room = self._room, trio.Event()
        room.set()

    async def _see_to(self, write: Write) -> None:
        """See to a group that has failed or is late."""
        self._flight = None
        try:
            await self.trouble.see_to(write)
        finally:
            self._end_commit()

    async def finish(self) -> None:
        """Commit what is there, then cursors and counters as they are now; for a clean stop, with inputs closed.

        Raises StoreError when the store does not take it.
        """
        if self._spool is None:
            self._let_go()
            return
        while self.current or self._behind or self._committing:
            if self._show_first:
                self._let_go()
            if not self._committing:
                self._hurry()
            await self._room.wait()
        self._finishing = True  # what is begun from here on would not be waited for
        try:
            await self.trouble.finish()
        finally:
            self._finishing = False


def _call(fn: Callable[[], object]) -> None:
    fn()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
