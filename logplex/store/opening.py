"""Opens the spool of a data directory: takes in what the last server committed, and sets a damaged spool aside."""

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from ..config import Settings
from ..errors import StoreError
from ..poller import CallSoon
from . import forget, tables
from .directory import DataDirectory
from .disk import write_all
from .journal import Journal, Write
from .reserve import free_bytes
from .segments import Segments
from .spool import Spool, is_damaged
from .sqlite import DatabaseThread
from .writer import Writer

log = structlog.get_logger()

SLACK_BYTES = 64 * 1024 * 1024  # between the bound that retention keeps and the one that SQLite enforces

Connect = Callable[[Path, bool, int], sqlite3.Connection]
"""(path, fsync, max_bytes) → the writing connection; tests hand in one that fails, and a `Write` that does."""


def _connect(path: Path, fsync: bool, max_bytes: int) -> sqlite3.Connection:
    return tables.connect(path, fsync=fsync, max_bytes=max_bytes)


@asynccontextmanager
async def open_spool(
    directory: DataDirectory,
    settings: Settings,
    *,
    connect: Connect = _connect,
    write: Write = write_all,
    call_soon: CallSoon | None = None,
    slack_bytes: int = SLACK_BYTES,
) -> AsyncIterator[Spool]:
    """The spool of a data directory; a damaged one is set aside, and a new one begun. Raises StoreError."""
    path = directory.path / "spool.db"
    folder = directory.path / "spool"
    max_bytes = min(settings.spool_bytes, (free_bytes(directory.path) + _held(path, folder)) // 2)
    fsync = settings.durability == "fsync"
    lost_power = directory.lost_power()

    def begin() -> tuple[Writer, DatabaseThread]:
        segments = Segments(folder, max_bytes=max_bytes + slack_bytes, fsync=fsync)
        writer = Writer(segments, Journal(folder, fsync=fsync, write=write))

        def open_() -> sqlite3.Connection:
            connection = connect(path, fsync, max_bytes + slack_bytes)
            try:
                writer.open(connection)
                synced_id = tables.synced(connection)
                segments.open(connection, synced_id=synced_id, lost_power=lost_power)
                if lost_power:
                    forget.forget_unsynced(connection, segments, synced_id)
            except BaseException:
                writer.close()
                connection.close()
                raise
            return connection

        return writer, DatabaseThread(open_, "spool", call_soon=call_soon)

    writer, thread = begin()
    last = directory.last_run()
    try:
        if last.get("damaged"):
            raise StoreError("the last server found it damaged")
        await thread.__aenter__()
    except StoreError as exc:
        if not (last.get("damaged") or is_damaged(exc)):
            raise
        log.error("spool_damaged", reason=str(exc), set_aside=str(_set_aside(path, folder)))
        writer, thread = begin()
        await thread.__aenter__()
    try:
        proven = directory.is_proven()
        epoch = await thread.run(tables.begin_epoch, proven)
        async with DatabaseThread(lambda: tables.connect_reader(path), "spool-reads", call_soon=call_soon) as reader:
            spool = Spool(thread, reader, epoch, directory, writer, max_bytes=max_bytes)
            spool.next_id = await thread.run(tables.last_id) + 1
            if not proven:
                spool.unknown_since = last.get("degraded_since") or last.get("started")
                log.error("lines_may_be_lost", since=_shown(spool.unknown_since), number="unknown")
            yield spool
    finally:
        await thread.__aexit__()
        writer.close()


def _held(path: Path, folder: Path) -> int:
    """Bytes that the spool takes of the disk."""
    files = [path, *(folder.iterdir() if folder.exists() else ())]
    return sum(file.stat().st_size for file in files if file.exists())


def _set_aside(path: Path, folder: Path) -> Path:
    """Move the database, its log and the segments away, so that a new one can begin."""
    aside = path.with_name(f"spool.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            os.rename(part, aside.with_name(aside.name + suffix))
    if folder.exists():
        os.rename(folder, aside.with_name(aside.name + "-segments"))
    return aside


def _shown(since: float | None) -> str | None:
    return None if since is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
