"""Lines, cursors, counters and request ids on disk: a journal that takes each group, SQLite that takes them all later.

The bytes of larger batches lie in files of their own beside it (segments.py). A row is a channel and batch.

Rules (a Hypothesis state machine in tests/store/test_spool_model.py; power loss in tests/store/test_power_loss.py):

* A commit holds the lines of a group and everything that changes with them, or nothing of it (writer.py).
* The tables lag behind by up to a second: what they lack is read beside them, or settled first.
* Positions in the spool ascend by channel; a hole between two rows is a gap that readers count as lost.
* Reads have a connection of their own, so that no commit waits for one.
* An epoch is random, made with the file and at each start that has no proof that the file is whole (directory.py).
* A full disk costs the reserve first, then the oldest lines (retention.py); a damaged file is set aside at a start.
"""

import errno
import sqlite3
from collections.abc import Awaitable, Callable, Container, Iterable
from functools import partial
from typing import Any

import msgpack
import outcome
import structlog
import trio

from ..batch import Batch
from ..catchup import Work
from ..channel import Channel, Place, channel_epoch
from ..errors import StoreError
from ..joining import MAX_BATCH_BYTES
from ..ledger import Page, closed_page
from . import forget, reading, tables
from .checkpoints import Checkpoints, checkpoint, sync_all
from .directory import DataDirectory
from .reserve import Reserve
from .rows import Rows, as_line, joined
from .sqlite import DatabaseThread
from .writer import Writer

log = structlog.get_logger()

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_pack = msgpack.Packer().pack  # in the event loop's thread only; msgpack.packb makes one anew each time


async def _all_is_written(_channel_id: int, _end: int) -> None:
    return


def error_code(exc: StoreError) -> int:
    """SQLite's code of what failed, 0 where it was something else."""
    code = getattr(exc.__cause__, "sqlite_errorcode", 0)
    return int(code) & 0xFF


def is_damaged(exc: StoreError) -> bool:
    """Whether the files are not what they were."""
    return error_code(exc) in _DAMAGED


def is_full(exc: StoreError) -> bool:
    """Whether there was no room."""
    if isinstance(exc.__cause__, OSError):
        return exc.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
    return error_code(exc) == sqlite3.SQLITE_FULL


class Spool:
    """The spool of one server."""

    def __init__(
        self,
        thread: DatabaseThread,
        reader: DatabaseThread,
        epoch: tables.Epoch,
        directory: DataDirectory,
        writer: Writer,
        *,
        max_bytes: int,
    ) -> None:
        self.since = epoch.since
        self.unknown_since: float | None = None  # lines of the last run may be missing from then on
        self.max_bytes = max_bytes
        self.thread = thread
        self.next_id = 1
        self.removed: list[int] = []  # channels that were deleted, still to be forgotten
        self.written: set[int] = set()  # channels whose bounds are to be looked at
        self.full = trio.Event()  # set when there was no room: retention makes some
        self.reserve = Reserve(directory.path)
        self.segments = writer.segments
        self.checkpoints = Checkpoints(directory.path / "spool.db", thread, writer)
        self.written_up_to: Callable[[int, int], Awaitable[None]] = _all_is_written
        """(channel id, position): returns when all before it that is on its way to the spool has come to an end."""
        self._writer = writer
        self._files = reading.Reader(writer.segments.folder)
        self._reader = reader
        self._epoch = epoch
        self._directory = directory
        self._totals: dict[int, int] = {}  # channel → bytes ever written
        self._to_close: dict[int, str] = {}  # removed channels whose page is only here

    def start(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        """Commit one group with its cursors, counters and ids; tell `arrived` in the loop when it has ended."""
        rows, totals = self._rows(work)
        size = sum([line[10] for line in rows.lines])

        def written(result: outcome.Outcome[int]) -> None:
            error = _store_error(result)
            if error is not None:
                self.thread.submit(self._help, partial(helped, error), error)
                return
            self._took_in(result)
            self._totals.update(totals)
            self.written.update(totals)
            self.checkpoints.wrote_beside(size)
            self.removed += {channel.id for channel, _ in work.batches if channel.removed}
            arrived(None)
            if self._writer.is_due:
                self.thread.submit(self._writer.settle, self._took_in)

        def helped(error: StoreError, result: outcome.Outcome[None]) -> None:
            if _store_error(result) is None:
                result.unwrap()  # only a disk that is no better may go unmentioned
            if is_full(error):
                self.full.set()
            arrived(error)

        self.thread.submit(self._writer.append, written, rows)

    def poll(self) -> None:
        """Tell of commits that have ended, if the loop has not come to it yet."""
        self.thread.poll()

    async def settle(self) -> None:
        """Have the tables take in all that was committed; raises StoreError."""
        self.checkpoints.wrote(await self.thread.run(self._writer.settle))

    def _took_in(self, result: outcome.Outcome[int]) -> None:
        """The tables took in so many rows; what they could not, the next commit runs into."""
        if _store_error(result) is None:
            self.checkpoints.wrote(result.unwrap())

    async def read(self, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        """Batches from `cursor` (or the first that is held behind it) up to `end`, ascending, without a gap."""
        await self.written_up_to(channel_id, end)
        late = self._writer.late(channel_id)
        return await self._reader.run(self._files.read, channel_id, cursor, end, max_bytes, late)

    async def read_back(self, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
        """The newest batches before `end`, ascending, without a gap."""
        await self.written_up_to(channel_id, end)
        late = self._writer.late(channel_id)
        return await self._reader.run(self._files.read_back, channel_id, end, max_bytes, late)

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        """Where channels stand; one that the spool does not know begins at 0."""
        wanted = list(channel_ids)
        if self._writer.lags_for(wanted):
            await self.settle()
        found = await self._reader.run(reading.places, wanted, self._epoch.past)
        places = {}
        for channel_id, (oldest, head, total, begun, page_row) in found.items():
            page = Page()
            if page_row is not None:
                page.load(msgpack.unpackb(page_row))
            self._totals.setdefault(channel_id, total)
            epochs = tuple((channel_epoch(key, channel_id), first) for key, first in begun)
            places[channel_id] = Place(oldest, head, *epochs[-1], page, epochs[:-1])
        return places

    async def cursors(self) -> dict[int, tuple[Any, ...]]:
        """The saved state of every drain, by drain id."""
        await self.settle()
        return await self._reader.run(tables.cursors)

    async def closed(self) -> list[tuple[int, dict[str, Any]]]:
        """Closed pages and when they were closed (unix ns), oldest first."""
        await self.settle()
        return [(number, msgpack.unpackb(row)) for number, row in await self._reader.run(tables.closed)]

    async def forget_cursors(self, drain_ids: Iterable[int]) -> None:
        """Drop the state of drains that are gone for good."""
        await self.settle()
        await self.thread.run(tables.forget_state, tables.Kind.CURSOR, list(drain_ids))

    async def node(self) -> dict[str, Any]:
        """The counters of this node as they were saved last."""
        await self.settle()
        return await self._reader.run(tables.node)

    async def ids(self, since: float, most: int) -> list[tuple[bytes, float]]:
        """The newest `most` request ids stored since then (wall clock), a group a row, oldest first."""
        await self.settle()
        return await self._reader.run(tables.ids, since, most)

    async def sync(self) -> None:
        """Bring all that is committed to the disk, for a clean stop; raises StoreError."""
        await sync_all(self.thread, self._writer)

    def remove_channel(self, channel_id: int, name: str | None) -> None:
        """The channel was deleted: forget all of it, soon. With a name its page is closed first, as it is saved."""
        self._totals.pop(channel_id, None)
        if name is not None:
            self._to_close[channel_id] = name
        self.removed.append(channel_id)

    async def saved_page(self, channel_id: int) -> dict[str, Any] | None:
        """The page to be closed of a channel that was not active when it was deleted."""
        name = self._to_close.pop(channel_id, None)
        if name is None:
            return None
        place = (await self.places([channel_id]))[channel_id]
        self._totals.pop(channel_id, None)
        return closed_page(name, place.page) if place.page.received else None

    async def remove_unknown(self, known: Callable[[list[int]], Awaitable[set[int]]]) -> None:
        """Forget what belongs to channels that the config does not know (a crash may have come between)."""
        await self.settle()
        found = [-1]
        while found:
            found = await self._reader.run(forget.channel_ids, found[-1])
            if found:
                self.removed += set(found) - await known(found)

    def _rows(self, work: Work) -> tuple[Rows, dict[int, int]]:
        """The work as rows, and the bytes ever written of the channels in it once it is committed."""
        healed, written = _counts(work.batches[: work.healed]), _counts(work.batches[work.healed :])
        last = dict(work.batches)
        lines = []
        totals: dict[int, int] = {}
        row_id = self.next_id
        for channel, batch in work.batches:
            if channel.removed:
                continue
            number = channel.id
            total = totals[number] = totals.get(number, self._totals.get(number, 0)) + len(batch.data)
            page = None
            if last[channel] is batch:
                page = _pack(channel.page.to_row(written=written.get(channel, 0), healed=healed.get(channel, 0)))
            lines.append(as_line(row_id, number, batch, total, page))
            row_id += 1
        self.next_id = row_id
        if len(lines) > len(totals):  # channels have several batches: of groups that were shown one by one
            lines = joined(lines, MAX_BATCH_BYTES)
        return Rows(lines, self._place_rows(work, last), *self._state_rows(work)), totals

    def _place_rows(self, work: Work, written: Container[Channel]) -> list[tuple[int, int, int, int, bytes]]:
        return [
            (channel.id, self.next_id - 1, channel.head, self._totals.get(channel.id, 0), _pack(page))
            for channel in work.pages
            if channel not in written and not channel.removed
            for page in [channel.page.to_row()]
        ]

    def _state_rows(self, work: Work) -> tuple[list[tuple[int, int, bytes]], list[int], bytes]:
        gone = [page.drain_id for page in work.closed if page.drain_id is not None]
        state = [(int(tables.Kind.META), int(tables.Meta.NODE), _pack(work.node))]
        state += [
            (int(tables.Kind.CURSOR), drain_id, _pack(row))
            for drain_id, row in work.cursors.items()
            if drain_id not in gone
        ]
        state += [(int(tables.Kind.CLOSED), page.number, _pack(page.row)) for page in work.closed]
        return state, gone, b"".join([digest for digest, _ in work.ids])

    def _help(self, connection: sqlite3.Connection, error: StoreError) -> None:
        """In the thread: a write failed; do what helps the next one."""
        if is_damaged(error):
            self._directory.note_damaged()
            log.error("spool_damaged", reason=str(error), then="it is set aside at the next start")
        # What the log holds gets the room of the reserve first, so that the log can begin again for deleting.
        if is_full(error) and self.reserve.give_up():
            log.error("disk_full", given_up=str(self.reserve.path))
            checkpoint(connection)


def _counts(batches: Iterable[tuple[Channel, Batch]]) -> dict[Channel, int]:
    """Lines by channel."""
    counts: dict[Channel, int] = {}
    for channel, batch in batches:
        counts[channel] = counts.get(channel, 0) + batch.count
    return counts


def _store_error(result: outcome.Outcome[Any]) -> StoreError | None:
    """What the store could not do, if that is what came of it."""
    return result.error if isinstance(result, outcome.Error) and isinstance(result.error, StoreError) else None
