"""Brings the spool's log (spool.db-wal) into spool.db, beside the commits.

* SQLite's own checkpoint happens inside a commit, and that commit waits for two syncs; here a second connection in a
  thread of its own does it (PASSIVE: it never makes a writer wait).
* The log begins again at its start once all of it is in the database and nobody reads it. Under steady writing that
  moment never comes by itself: above `LOG_BYTES` the writing thread does the last, small part.
* So the log, which a start after a crash has to read, stays within about twice `LOG_BYTES`.
"""

import sqlite3
from pathlib import Path

import structlog
import trio

from ..errors import StoreError
from .sqlite import DatabaseThread
from .tables import LOCK_SECONDS, PAGE_BYTES

log = structlog.get_logger()

CHECKPOINT_BYTES = 8 * 1024 * 1024  # written since the last
LOG_BYTES = 32 * 1024 * 1024


class Checkpoints:
    """`wrote` after each commit, `run` beside them."""

    def __init__(self, path: Path, writer: DatabaseThread) -> None:
        self._path = path
        self._writer = writer
        self._written = 0
        self._due = trio.Event()

    def wrote(self, size: int) -> None:
        """About so many bytes were committed."""
        self._written += size
        if self._written >= CHECKPOINT_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Checkpoint whenever enough was written, until cancelled."""
        async with DatabaseThread(lambda: _connect(self._path), "checkpoints") as thread:
            while True:
                await self._due.wait()
                self._due = trio.Event()
                self._written = 0
                try:
                    if await thread.run(checkpoint) > LOG_BYTES:
                        await self._writer.run(checkpoint)
                except StoreError as exc:
                    log.warning("checkpoint_failed", reason=str(exc))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=LOCK_SECONDS)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def checkpoint(connection: sqlite3.Connection) -> int:
    """Copy what can be copied; how long the log was."""
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(frames) * PAGE_BYTES
