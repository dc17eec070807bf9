"""Brings the spool's log (spool.db-wal) into spool.db, and its segments to the disk, beside the commits.

* SQLite's own checkpoint happens inside a commit, and that commit waits for two syncs; here a second connection in a
  thread of its own does it (PASSIVE: it never makes a writer wait).
* The log begins again at its start once all of it is in the database and nobody reads it. Under steady writing that
  moment never comes by itself: above `LOG_BYTES` the writing thread does the last, small part.
* So the log, which a start after a crash has to read, stays within about twice `LOG_BYTES`.
* While anything is written it is all synced every `SYNC_SECONDS`: the tables take in what the journal has, segments
  are synced, the database notes up to which row, a checkpoint syncs that. A loss of power takes what is behind it.
* Segments are also synced when `SYNC_BYTES` have gathered, so that there is never much to be synced at once.
"""

import sqlite3
from pathlib import Path

import structlog
import trio

from ..errors import StoreError
from .segments import Segments
from .sqlite import DatabaseThread
from .tables import LOCK_SECONDS, PAGE_BYTES, note_synced, synced
from .writer import Writer

log = structlog.get_logger()

CHECKPOINT_BYTES = 8 * 1024 * 1024  # written since the last
SYNC_BYTES = 16 * 1024 * 1024  # written to segments since the last
LOG_BYTES = 32 * 1024 * 1024
SYNC_SECONDS = 5.0
_TRANSACTION_BYTES = 5 * PAGE_BYTES  # pages that every transaction changes
_ROW_BYTES = PAGE_BYTES  # a channel's place in the index


class Checkpoints:
    """`wrote` when the tables took something in, `wrote_beside` after each commit, `run` beside them."""

    def __init__(self, path: Path, thread: DatabaseThread, writer: Writer) -> None:
        self._path = path
        self._thread = thread
        self._writer = writer
        self._written = 0
        self._beside = 0
        self._due = trio.Event()

    def wrote(self, rows: int) -> None:
        """The tables took in so many rows, perhaps none."""
        if rows:
            self._written += rows * _ROW_BYTES + _TRANSACTION_BYTES
        if self._written >= CHECKPOINT_BYTES:
            self._due.set()

    def wrote_beside(self, size: int) -> None:
        """So many bytes were committed."""
        self._beside += size
        if self._beside >= SYNC_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Sync and checkpoint when enough was written, and every SYNC_SECONDS if anything was, until cancelled."""
        async with DatabaseThread(lambda: _connect(self._path), "checkpoints") as thread:
            next_sync = trio.current_time() + SYNC_SECONDS
            while True:
                with trio.move_on_at(next_sync):
                    await self._due.wait()
                self._due = trio.Event()
                overdue = trio.current_time() >= next_sync
                try:
                    if overdue or self._beside >= SYNC_BYTES:
                        if overdue:
                            next_sync = trio.current_time() + SYNC_SECONDS
                            self.wrote(await self._thread.run(self._writer.settle))
                        await self._sync(thread)
                    if self._written >= CHECKPOINT_BYTES or (overdue and self._written):
                        await self._checkpoint(thread)
                except StoreError as exc:
                    log.warning("checkpoint_failed", reason=str(exc))

    async def _checkpoint(self, thread: DatabaseThread) -> None:
        self._written = 0
        if await thread.run(checkpoint) > LOG_BYTES:
            await self._thread.run(checkpoint)

    async def _sync(self, thread: DatabaseThread) -> None:
        self._beside = 0
        segments = self._writer.segments
        unsynced = await self._thread.run(lambda connection: _take_unsynced(connection, segments))
        if unsynced is None:
            return
        numbers, last_id = unsynced
        try:
            await thread.run(lambda _: segments.sync(numbers))
        except StoreError:
            await self._thread.run(lambda _: segments.unsynced.update(numbers))
            raise
        await self._thread.run(note_synced, last_id)


async def sync_all(thread: DatabaseThread, writer: Writer) -> None:
    """Sync what a loss of power would take, for a clean stop; raises StoreError."""

    def sync(connection: sqlite3.Connection) -> None:
        writer.settle(connection)
        unsynced = _take_unsynced(connection, writer.segments)
        if unsynced is not None:
            numbers, last_id = unsynced
            writer.segments.sync(numbers)
            note_synced(connection, last_id)
        checkpoint(connection)

    await thread.run(sync)


def _take_unsynced(connection: sqlite3.Connection, segments: Segments) -> tuple[set[int], int] | None:
    """The segments to be synced and the last row that is safe then; None when the mark stands there already."""
    numbers, last_id = segments.take_unsynced()
    return (numbers, last_id) if numbers or last_id > synced(connection) else None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=LOCK_SECONDS)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def checkpoint(connection: sqlite3.Connection) -> int:
    """Copy what can be copied; how long the log was."""
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(frames) * PAGE_BYTES
