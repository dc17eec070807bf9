"""What the spool keeps, and how it forgets the rest.

Rules (design section 3; tests/store/test_retention.py):

* A channel keeps its newest `history_lines` for `history_seconds`, whatever others write, within the total.
* More than that is kept while there is room: `channel_bytes` for a channel, `max_bytes` for all. Over the total goes
  first what exceeds `history_lines`, of the biggest channel; then the oldest rows of all.
* A channel without history keeps what a drain has not passed yet, and no more.
* Drains never hold deletion: what they have not read is theirs to tell as lost.
* Every step is a small transaction (forget.py), so that a commit waits for one at most.
* Its files may hold what no row refers to any more; over the bound the emptiest are cleaned (cleaning.py).
* When the disk is full the bound becomes less than what is held, until there is space again; then the reserve is
  made again.
* A jump of the wall clock stops forgetting by age until it has agreed with itself for an hour.
"""

import sqlite3
import time
from collections.abc import Callable
from heapq import heapify, heappop, heapreplace
from typing import Concatenate, ParamSpec

import structlog
import trio

from ..channel import Channel, Channels
from ..commit import Committer
from ..config import Settings
from ..errors import StoreError
from . import cleaning, forget, tables
from .reserve import SPARE_BYTES, free_bytes
from .segments import Segments
from .spool import Spool

log = structlog.get_logger()

LOOK_SECONDS = 2.0  # between two looks at the bounds
CLOSED_SECONDS = 7 * 86400  # closed pages are kept for a week, as lines are
JUMP_SECONDS = 3600.0  # of the wall clock: more than any daylight saving that a wrong zone makes


P = ParamSpec("P")


class Retention:
    """Keeps one spool within its bounds; `run` is its task.

    `passed` says up to where all drains of a channel without history have read.
    """

    def __init__(
        self,
        spool: Spool,
        channels: Channels,
        committer: Committer,
        settings: Settings,
        passed: Callable[[Channel], int],
        *,
        clock: "SteadyClock | None" = None,
    ) -> None:
        self._spool = spool
        self._channels = channels
        self._committer = committer
        self._settings = settings
        self._passed = passed
        self._clock = clock or SteadyClock()
        self._max_bytes = spool.max_bytes  # less while the disk is full
        self._reserved = False
        self._limiter = trio.CapacityLimiter(1)  # not trio's own threads: look-ups of names may hang in all of those

    async def run(self) -> None:
        """Look at the bounds again and again, until cancelled."""
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self._spool.full.wait()
            try:
                await self.look()
            except StoreError as exc:
                log.warning("retention_failed", reason=str(exc))
                await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Forget everything that is beyond the bounds now; raises StoreError."""
        settled = await self._settle()
        await self._look_at_the_disk()
        if settled:  # nothing of them may come into the tables later
            await self._forget_removed()
        await self._forget_by_age()
        for channel_id in tuple(self._spool.written):
            self._spool.written.discard(channel_id)
            await self._forget_of(channel_id)
        if (await self._used()).held > self._max_bytes * 9 // 10:
            await self._make_room()

    async def _settle(self) -> bool:
        """Have the tables take in what was committed, if there is room."""
        try:
            await self._spool.settle()
        except StoreError:
            return False
        return True

    async def _look_at_the_disk(self) -> None:
        spool = self._spool
        if spool.full.is_set():
            spool.full = trio.Event()
            self._reserved = False
            self._max_bytes = min(self._max_bytes, (await self._used()).held)
            log.warning("forgetting_for_room", bytes=self._max_bytes // 10)
        elif not self._reserved or self._max_bytes < spool.max_bytes:
            self._reserved = await trio.to_thread.run_sync(spool.reserve.make, limiter=self._limiter)
            free = await trio.to_thread.run_sync(free_bytes, spool.reserve.path.parent, limiter=self._limiter)
            if self._reserved and free >= SPARE_BYTES:
                self._max_bytes = spool.max_bytes

    async def _forget_removed(self) -> None:
        spool = self._spool
        while spool.removed:
            channel_id = spool.removed[0]
            page = await spool.saved_page(channel_id)
            if page is not None:
                self._committer.close_page(page)
            if await spool.thread.run(forget.forget_channel, spool.segments, channel_id):
                spool.removed.remove(channel_id)

    async def _forget_by_age(self) -> None:
        run = self._spool.thread.run
        wall = self._clock.wall()
        if wall is None:
            return
        before_ms = int((wall - self._settings.history_seconds) * 1000)
        while self._forgotten(await self._forget(forget.forget_old, before_ms)):
            pass
        while await run(forget.forget_ids, wall - self._settings.duplicate_seconds):
            pass
        closed, old = self._committer.writes.closed, []
        while closed and closed[0][0] < (wall - CLOSED_SECONDS) * 1e9:
            old.append(closed.popleft()[0])
        if old:
            await run(tables.forget_state, tables.Kind.CLOSED, old)

    async def _forget_of(self, channel_id: int) -> None:
        channel = self._channels.get(channel_id)
        if channel is not None and channel.no_history:
            passed = self._passed(channel)
            while self._forgotten(await self._forget(forget.forget_before, channel_id, passed)):
                pass
            if passed < channel.head:
                self._spool.written.add(channel_id)
        while self._forgotten(
            await self._forget(forget.forget_beyond_bytes, channel_id, self._settings.channel_bytes)
        ):
            pass

    async def _make_room(self) -> None:
        """Forget until what is kept is three quarters of the bound, and clean until its files are within it."""
        goal = self._max_bytes * 3 // 4
        await self._forget_until(goal)
        while (used := await self._used()).held > self._max_bytes * 9 // 10:
            try:
                cleaned = await self._spool.thread.run(cleaning.clean, self._spool.segments)
            except StoreError as exc:  # there may be no room to move anything to
                log.warning("cleaning_failed", reason=str(exc))
                cleaned = False
            if not cleaned:
                goal = min(goal, used.live) - self._max_bytes // 16
                if goal < 0:
                    return
                await self._forget_until(goal)

    async def _forget_until(self, goal: int) -> None:
        """Biggest channel first; the list of them is made once, in small steps too."""
        used = (await self._used()).live
        if used <= goal:
            return
        biggest = await self._biggest()
        while used > goal:
            if biggest:
                negative, channel_id, position = biggest[0]
                forgotten = await self._forget(forget.forget_before, channel_id, position, used - goal)
            else:
                forgotten = await self._forget(forget.forget_oldest, used - goal)
                if not forgotten:
                    return
            self._forgotten(forgotten)
            before, used = used, (await self._used()).live
            if biggest and not forgotten:
                heappop(biggest)
            elif biggest:
                heapreplace(biggest, (negative + max(0, before - used), channel_id, position))

    async def _biggest(self) -> list[tuple[int, int, int]]:
        """A heap of what channels hold beyond their history: bytes (negative), channel, where the history begins."""
        run = self._spool.thread.run
        biggest: list[tuple[int, int, int]] = []
        found = [-1]
        while found:
            found = await run(forget.channel_ids, found[-1])
            for excess in await run(forget.excesses, found, self._settings.history_lines):
                biggest.append((-excess.bytes, excess.channel_id, excess.position))
        heapify(biggest)
        return biggest

    async def _used(self) -> forget.Used:
        return await self._spool.thread.run(forget.used, self._spool.segments)

    async def _forget(
        self,
        step: Callable[Concatenate[sqlite3.Connection, Segments, P], forget.Forgotten],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> forget.Forgotten:
        return await self._spool.thread.run(step, self._spool.segments, *args, **kwargs)

    def _forgotten(self, oldest: forget.Forgotten) -> bool:
        """Tell the readers of these channels; whether there were any."""
        for channel_id, position in oldest.items():
            channel = self._channels.get(channel_id)
            if channel is not None:
                channel.forget_before(position)
        return bool(oldest)


class SteadyClock:
    """Wall time for age, as long as it runs as the monotonic clock does."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._paused_until = -1.0

    def wall(self) -> float | None:
        """Now; None for an hour after a jump of more than an hour."""
        now = self._monotonic()
        offset = self._wall() - now
        if abs(offset - self._offset) > JUMP_SECONDS:
            log.warning("clock_jumped", seconds=round(offset - self._offset), paused="forgetting by age")
            self._paused_until = now + JUMP_SECONDS
        self._offset = offset
        return None if now < self._paused_until else now + offset
