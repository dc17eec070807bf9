"""The degraded state: what happens to groups while the store fails or hangs, and how it heals.

Rules (tests/test_commit.py, tests/test_behind.py, the state machine in tests/store/test_spool_model.py):

* *Degraded* begins with a write error or a commit that is not back in time, is noted before anything is shown from
  memory, and ends without a restart.
* `accept` shows groups from memory; what the rings still hold is written on healing, the rest is a gap in the spool
  that readers count as lost. `refuse` shows nothing and tries the same group again.
* No line is written twice: a commit that hangs may still succeed, so nothing else is written until it has ended.
* What is missing is written in parts, beside the groups, until so little is left that it goes with one of them.
"""

import time
from collections.abc import Awaitable, Callable

import structlog
import trio

from .catchup import Work
from .writes import Write, Writes

log = structlog.get_logger()

RETRY_SECONDS = 1.0  # between tries of a failing store
NOTE_SECONDS = 0.5  # a disk that hangs may hang the note too
INLINE_BYTES = 4 * 1024 * 1024  # what is missing in the spool when the last step of healing may hold a group


async def _note_nothing(_since: float | None) -> None:
    return


class Trouble:
    """Sees to writes that are late or have failed; one for the committer, and called by its one task only."""

    def __init__(self, writes: Writes, *, timeout_seconds: float, refuse: bool) -> None:
        self.since: float | None = None  # wall clock
        self.reason = ""
        self.refuse = refuse
        self.note: Callable[[float | None], Awaitable[None]] = _note_nothing
        self._writes = writes
        self._timeout_seconds = timeout_seconds
        self._late: Write | None = None  # on its way beside the groups: hanging, or catching up
        self._next_try = 0.0

    async def see_to(self, write: Write) -> None:
        """Show a group whose write is late or has failed: when it is on disk, or as the degraded state has it."""
        while True:
            if not write.done.is_set():
                await self._degrade(f"a commit takes longer than {self._timeout_seconds:g} s")
            elif write.error is not None:
                await self._degrade(str(write.error))
            if self.since is not None and not self.refuse and not write.succeeded:
                self._late = write
                self._writes.lacks(write, None)
                return
            await write.done.wait()
            if write.error is None:
                self._writes.stored(write)
                await self._healed()
                return
            await trio.sleep(RETRY_SECONDS)
            write = write.again()
            await self._try(write)

    async def commit(self, seal: Callable[[], Write]) -> None:
        """Store what `seal` gives, if that heals; else show it, and write what is missing beside it."""
        writes = self._writes
        write = seal()
        heals = self.refuse or await self._can_heal()
        if writes.show_first:  # the rings have it, also what came while we waited: write no line twice
            for shown in (write, seal()):
                writes.lacks(shown, writes.compose(shown, take=False))
            write = Write(Work())
        if heals:
            write.work = writes.compose(write)
            await self._try(write)
            await self.see_to(write)
        else:
            writes.lacks(write, writes.compose(write, take=False))
            self._catch_up()

    async def finish(self) -> None:
        """Write all that is due; raises StoreError when the store does not take it."""
        if self._late is not None:
            await self._late.done.wait()
            await self._is_late()
        while self._writes.due.missing_bytes() > INLINE_BYTES:
            await self._append(self._writes.compose(max_bytes=INLINE_BYTES))
        await self._append(self._writes.compose())
        await self._healed()

    async def _append(self, work: Work) -> None:
        write = Write(work)
        self._writes.start(write)
        await write.done.wait()
        if write.error is not None:
            raise write.error
        self._writes.stored(write)

    async def _try(self, write: Write) -> None:
        self._writes.start(write)
        with trio.move_on_after(self._timeout_seconds):
            await write.done.wait()

    async def _degrade(self, reason: str) -> None:
        self.reason = reason
        self._next_try = trio.current_time() + RETRY_SECONDS
        if self.since is None:
            self.since = time.time()
            log.error("degraded", reason=reason, shown="nothing" if self.refuse else "from memory")
            with trio.move_on_after(NOTE_SECONDS):
                await self.note(self.since)

    async def _healed(self) -> None:
        """The store took a transaction that brought it up to date."""
        if self.since is None:
            return
        seconds = time.time() - self.since
        self.since = None
        self.reason = ""
        self._writes.due.positions.clear()
        log.info("healed", degraded_seconds=round(seconds, 3))
        with trio.move_on_after(NOTE_SECONDS):
            await self.note(None)

    async def _can_heal(self) -> bool:
        """Whether so little is missing that it may go into the transaction of the current group."""
        if await self._is_late() or trio.current_time() < self._next_try:
            return False
        return self._writes.due.missing_bytes() <= INLINE_BYTES

    def _catch_up(self) -> None:
        """Write a part of what is missing, beside the groups that go on being shown."""
        if self._late is None and trio.current_time() >= self._next_try:
            self._late = Write(self._writes.compose(max_bytes=INLINE_BYTES))
            self._writes.start(self._late)

    async def _is_late(self) -> bool:
        """Whether a write beside the groups is not back; one that is back is counted, or due again."""
        write = self._late
        if write is None:
            return False
        if not write.done.is_set():
            return True
        self._late = None
        if write.error is not None:
            self._writes.due.put_back(write.work)
            await self._degrade(str(write.error))
            return False
        self._writes.count_stored(write.work, len(write.work.batches))
        return False
