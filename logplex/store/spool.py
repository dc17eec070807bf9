"""Lines, cursors, counters and request ids on disk: SQLite, one row a channel and group, one transaction a group.

Rules (a Hypothesis state machine in tests/store/test_spool_model.py; power loss in tests/store/test_power_loss.py):

* A transaction holds the lines of a group and everything that changes with them, or nothing of it.
* Positions in the spool ascend by channel; a hole between two rows is a gap that readers count as lost.
* Rows go in at the end of the table (`id` ascends with time); an index finds a channel's positions.
* Every step of deletion is a small transaction of its own, so that appends never wait for one; the last row of a
  channel leaves its head and page behind.
* An epoch is random, made with the file and at each start that has no proof that the file is whole (`Proof`).
"""

import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import structlog
import trio

from ..batch import Batch, Form
from ..channel import Channel, Channels, Place, channel_epoch
from ..commit import Work
from ..config import Settings
from ..errors import StoreError
from ..ledger import Page
from . import retention
from .directory import DataDirectory
from .sqlite import DatabaseThread

log = structlog.get_logger()

RETENTION_SECONDS = 2.0  # between two looks at the bounds
JUMP_SECONDS = 3600.0  # of the wall clock: more than any daylight saving that a wrong zone makes
SLACK_BYTES = 64 * 1024 * 1024  # between the bound that retention keeps and the one that SQLite enforces
_CHANNELS_AT_ONCE = 500
PAGE_BYTES = 65536  # large rows: fewer pages to link and to log
_TAILS_ONLY = 16  # beside the form
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lines (
    id INTEGER PRIMARY KEY, channel INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
    at INTEGER NOT NULL, form INTEGER NOT NULL, total INTEGER NOT NULL, page BLOB, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS lines_by_place ON lines (channel, first);
CREATE TABLE IF NOT EXISTS pages (
    channel INTEGER PRIMARY KEY, after INTEGER NOT NULL, head INTEGER NOT NULL, total INTEGER NOT NULL, page BLOB);
CREATE TABLE IF NOT EXISTS cursors (drain INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ids (id INTEGER PRIMARY KEY, at REAL NOT NULL, hashes BLOB NOT NULL);
"""
_INSERT = "INSERT INTO lines (channel, first, count, at, form, total, page, data) VALUES "
_ROWS_AT_ONCE = 64
_INSERT_ONE = _INSERT + "(?,?,?,?,?,?,?,?)"
_INSERT_MANY = _INSERT + ",".join(["(?,?,?,?,?,?,?,?)"] * _ROWS_AT_ONCE)
_SAVE_PAGE = (
    "INSERT INTO pages VALUES (?1, (SELECT coalesce(max(id), 0) FROM lines), ?2, ?3, ?4) "
    "ON CONFLICT (channel) DO UPDATE SET after = excluded.after, head = excluded.head, "
    "total = excluded.total, page = excluded.page"
)
_HASH_BYTES = 16


@asynccontextmanager
async def open_spool(directory: DataDirectory, settings: Settings) -> AsyncIterator["Spool"]:
    """The spool of a data directory; a damaged one is set aside, and a new one begun."""
    path = directory.path / "spool.db"
    space = os.statvfs(directory.path)
    max_bytes = min(settings.spool_bytes, space.f_bavail * space.f_frsize // 2 + _size(path))
    proven = directory.is_proven()
    fsync = settings.durability == "fsync"
    thread = DatabaseThread(lambda: connect(path, fsync=fsync, max_bytes=max_bytes + SLACK_BYTES), "spool")
    try:
        await thread.__aenter__()
    except StoreError as exc:
        log.error("spool_damaged", reason=str(exc), set_aside=str(_set_aside(path)))
        thread = DatabaseThread(lambda: connect(path, fsync=fsync, max_bytes=max_bytes + SLACK_BYTES), "spool")
        await thread.__aenter__()
    try:
        if not proven:
            log.error("lines_may_be_lost", since=directory.last_run().get("degraded_since"))
        epoch, generation = await thread.run(begin_epoch, proven=proven)
        yield Spool(thread, epoch, generation, bounds=retention.Bounds.of(settings, max_bytes))
    finally:
        await thread.__aexit__()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _set_aside(path: Path) -> Path:
    """Move the database and its log away, so that a new one can begin."""
    aside = path.with_name(f"spool.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


class Spool:
    """The spool of one server; every call but `append` and the reads is for the app at start and stop."""

    def __init__(self, thread: DatabaseThread, epoch: bytes, generation: int, *, bounds: retention.Bounds) -> None:
        self.epoch = epoch
        self.bounds = bounds
        self._thread = thread
        self._generation = generation  # rows up to this id belong to older epochs
        self._totals: dict[int, int] = {}  # channel → bytes ever written
        self._written: set[int] = set()  # channels that grew since their bounds were looked at
        self._removed: list[int] = []  # channels that were deleted

    async def append(self, work: Work) -> None:
        """Commit one group with its cursors, counters and ids; raises StoreError."""
        rows = self._rows(work)
        pages = [
            (channel.id, channel.head, self._totals.get(channel.id, 0), msgpack.packb(channel.page.to_row()))
            for channel in work.pages
        ]
        cursors = [(row[0], msgpack.packb(row)) for row in work.cursors]
        ids = b"".join([digest for digest, _ in work.ids])
        node = msgpack.packb(work.node)
        await self._thread.run(_append, rows, pages, cursors, ids, node)
        for row in rows:
            self._totals[row[0]] = row[5]
            self._written.add(row[0])

    async def read(self, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        """Batches from `cursor` (or the first that is held behind it) up to `end`, ascending, without a gap."""
        return await self._thread.run(_read, channel_id, cursor, end, max_bytes)

    async def read_back(self, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
        """The newest batches before `end`, ascending, without a gap."""
        return await self._thread.run(_read_back, channel_id, end, max_bytes)

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        """Where channels stand; one that the spool does not know begins at 0."""
        found = await self._thread.run(_places, list(channel_ids), self._generation)
        places = {}
        for channel_id, (oldest, head, total, epoch_first, page_row) in found.items():
            page = Page()
            if page_row is not None:
                page.load(msgpack.unpackb(page_row))
            self._totals[channel_id] = total
            places[channel_id] = Place(oldest, head, channel_epoch(self.epoch, channel_id), epoch_first, page)
        return places

    async def cursors(self) -> dict[int, tuple[Any, ...]]:
        """The saved state of every drain, by drain id."""
        return await self._thread.run(_cursors)

    async def forget_cursors(self, drain_ids: Iterable[int]) -> None:
        """Drop the state of drains that are gone for good."""
        await self._thread.run(_forget_cursors, list(drain_ids))

    async def node(self) -> dict[str, object]:
        """The counters of this node as they were saved last."""
        return await self._thread.run(_node)

    async def ids(self, since: float) -> list[tuple[bytes, float]]:
        """Request ids stored since then (wall clock), oldest first."""
        return await self._thread.run(_ids, since)

    def remove_channel(self, channel_id: int) -> None:
        """The channel was deleted: forget all of it, soon."""
        self._totals.pop(channel_id, None)
        self._removed.append(channel_id)

    async def remove_unknown(self, known: Callable[[list[int]], Awaitable[set[int]]]) -> None:
        """Forget what belongs to channels that the config does not know (a crash may have come between)."""
        found = await self._thread.run(retention.channel_ids)
        for start in range(0, len(found), _CHANNELS_AT_ONCE):
            part = found[start : start + _CHANNELS_AT_ONCE]
            self._removed += set(part) - await known(part)

    async def keep_bounds(self, channels: Channels, passed: Callable[[Channel], int]) -> None:
        """Forget what is beyond the bounds, again and again, until cancelled.

        `passed` says up to where all drains of a channel without history have read. While the store fails, nothing
        is forgotten. A jump of the wall clock stops forgetting by age until it has agreed with itself for an hour.
        """
        clock = _SteadyClock()
        while True:
            await trio.sleep(RETENTION_SECONDS)
            try:
                await self._forget(channels, passed, clock)
            except StoreError as exc:
                log.warning("retention_failed", reason=str(exc))

    async def _forget(self, channels: Channels, passed: Callable[[Channel], int], clock: "_SteadyClock") -> None:
        bounds = self.bounds
        while self._removed:
            if await self._thread.run(retention.forget_channel, self._removed[-1]):
                self._removed.pop()
        wall = clock.wall()
        if wall is not None:
            before_ms = int((wall - bounds.history_seconds) * 1000)
            while self._forgotten(await self._thread.run(retention.forget_old, before_ms), channels):
                pass
            await self._thread.run(retention.forget_ids, wall - bounds.duplicate_seconds)
        written, self._written = self._written, set()
        for channel_id in written:
            channel = channels.get(channel_id)
            if channel is not None and channel.no_history:
                while self._forgotten(
                    await self._thread.run(retention.forget_before, channel_id, passed(channel)), channels
                ):
                    pass
            while self._forgotten(
                await self._thread.run(retention.forget_beyond_bytes, channel_id, bounds.channel_bytes), channels
            ):
                pass
        while await self._thread.run(retention.used_bytes) > bounds.spool_bytes * 9 // 10:
            if not self._forgotten(await self._thread.run(retention.forget_for_room, bounds.history_lines), channels):
                break

    def _forgotten(self, oldest: retention.Forgotten, channels: Channels) -> bool:
        """Tell the readers of these channels; whether there were any."""
        for channel_id, position in oldest.items():
            channel = channels.get(channel_id)
            if channel is not None:
                channel.forget_before(position)
        return bool(oldest)

    def _rows(self, work: Work) -> list[tuple[Any, ...]]:
        counts: dict[int, int] = {}
        last: dict[int, Batch] = {}
        for channel, batch in work.batches:
            counts[channel.id] = counts.get(channel.id, 0) + batch.count
            last[channel.id] = batch
        rows = []
        totals: dict[int, int] = {}
        for channel, batch in work.batches:
            number = channel.id
            total = totals.get(number) or self._totals.get(number, 0)
            totals[number] = total = total + len(batch.data)
            page = None
            if last[number] is batch:
                page = msgpack.packb(channel.page.to_row(committed=counts[number]))
            form = batch.form | _TAILS_ONLY if batch.tails_only else batch.form
            rows.append((number, batch.first, batch.count, batch.at, int(form), total, page, batch.data))
        return rows


class _SteadyClock:
    """Wall time for age, as long as it runs as the monotonic clock does."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._paused_until = 0.0

    def wall(self) -> float | None:
        """Now; None for an hour after a jump of more than an hour."""
        now = time.monotonic()
        offset = time.time() - now
        if abs(offset - self._offset) > JUMP_SECONDS:
            log.warning("clock_jumped", seconds=round(offset - self._offset), paused="forgetting by age")
            self._paused_until = now + JUMP_SECONDS
        self._offset = offset
        return None if now < self._paused_until else now + offset


def connect(path: Path, *, fsync: bool, max_bytes: int) -> sqlite3.Connection:
    """Open or make the spool; raises sqlite3.DatabaseError when it is damaged."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-32768")
        connection.execute(f"PRAGMA max_page_count={max(64, max_bytes // PAGE_BYTES)}")
        connection.executescript(_SCHEMA)
        connection.execute("SELECT count(*), max(id) FROM (SELECT id FROM lines ORDER BY id DESC LIMIT 8)").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def begin_epoch(connection: sqlite3.Connection, *, proven: bool) -> tuple[bytes, int]:
    """The epoch to go on with, and the last row of the ones before; a new one without proof that all is there."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    if row is not None and proven:
        epoch, generation = msgpack.unpackb(row[0])
        return epoch, generation
    epoch = secrets.token_bytes(16)
    generation = connection.execute("SELECT coalesce(max(id), 0) FROM lines").fetchone()[0]
    with _transaction(connection):
        connection.execute("REPLACE INTO meta VALUES ('epoch', ?)", (msgpack.packb((epoch, generation)),))
    return epoch, generation


class _transaction:  # noqa: N801 - used like a function
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
                return
            except BaseException:
                self._rollback()
                raise
        self._rollback()

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _append(
    connection: sqlite3.Connection,
    rows: list[tuple[Any, ...]],
    pages: list[tuple[int, int, int, bytes]],
    cursors: list[tuple[object, bytes]],
    ids: bytes,
    node: bytes,
) -> None:
    with _transaction(connection):
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        for start in range(0, whole, _ROWS_AT_ONCE):
            values = [value for row in rows[start : start + _ROWS_AT_ONCE] for value in row]
            connection.execute(_INSERT_MANY, values)
        for row in rows[whole:]:
            connection.execute(_INSERT_ONE, row)
        for page in pages:
            connection.execute(_SAVE_PAGE, page)
        for cursor in cursors:
            connection.execute("REPLACE INTO cursors VALUES (?, ?)", cursor)
        if ids:
            connection.execute("INSERT INTO ids (at, hashes) VALUES (?, ?)", (time.time(), ids))
        connection.execute("REPLACE INTO meta VALUES ('node', ?)", (node,))


def _read(connection: sqlite3.Connection, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
    row = connection.execute(
        "SELECT first FROM lines WHERE channel = ? AND first <= ? ORDER BY first DESC LIMIT 1", (channel_id, cursor)
    ).fetchone()
    start = row[0] if row is not None else cursor
    batches: list[Batch] = []
    size = 0
    for found in connection.execute(
        "SELECT first, count, at, form, data FROM lines WHERE channel = ? AND first >= ? AND first < ? ORDER BY first",
        (channel_id, start, end),
    ):
        batch = _batch(found)
        if batch.end <= cursor:
            continue
        if batches and (batch.first != batches[-1].end or size + batch.size > max_bytes):
            break
        batch = batch.cut(cursor, end)
        size += batch.size
        batches.append(batch)
    return batches


def _read_back(connection: sqlite3.Connection, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
    batches: list[Batch] = []
    size = 0
    for found in connection.execute(
        "SELECT first, count, at, form, data FROM lines WHERE channel = ? AND first < ? ORDER BY first DESC",
        (channel_id, end),
    ):
        batch = _batch(found)
        if batches and (batch.end != batches[-1].first or size + batch.size > max_bytes):
            break
        batch = batch.cut(batch.first, end)
        size += batch.size
        batches.append(batch)
    batches.reverse()
    return batches


def _batch(row: tuple[int, int, int, int, bytes]) -> Batch:
    first, count, at, form, data = row
    return Batch(first, count, at, Form(form & ~_TAILS_ONLY), data, tails_only=bool(form & _TAILS_ONLY))


def _places(
    connection: sqlite3.Connection, channel_ids: list[int], generation: int
) -> dict[int, tuple[int, int, int, int, bytes | None]]:
    return {number: _place(connection, number, generation) for number in channel_ids}


def _place(
    connection: sqlite3.Connection, channel_id: int, generation: int
) -> tuple[int, int, int, int, bytes | None]:
    newest = connection.execute(
        "SELECT id, first + count, total, page FROM lines WHERE channel = ? ORDER BY first DESC LIMIT 1", (channel_id,)
    ).fetchone()
    saved = connection.execute(
        "SELECT after, head, total, page FROM pages WHERE channel = ?", (channel_id,)
    ).fetchone()
    if newest is None and saved is None:
        return 0, 0, 0, 0, None
    if newest is None:
        return saved[1], saved[1], saved[2], saved[1], saved[3]
    row_id, head, total, page = newest
    if saved is not None:
        head = max(head, saved[1])
        if saved[0] >= row_id:
            page = saved[3]
    oldest = connection.execute("SELECT min(first) FROM lines WHERE channel = ?", (channel_id,)).fetchone()[0]
    epoch_first = 0
    if generation:
        row = connection.execute(
            "SELECT first FROM lines WHERE channel = ? AND id > ? ORDER BY first LIMIT 1", (channel_id, generation)
        ).fetchone()
        epoch_first = row[0] if row is not None else head
    return oldest, head, total, epoch_first, page


def _cursors(connection: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    return {drain: tuple(msgpack.unpackb(state)) for drain, state in connection.execute("SELECT * FROM cursors")}


def _forget_cursors(connection: sqlite3.Connection, drain_ids: list[int]) -> None:
    with _transaction(connection):
        connection.executemany("DELETE FROM cursors WHERE drain = ?", [(drain_id,) for drain_id in drain_ids])


def _node(connection: sqlite3.Connection) -> dict[str, object]:
    row = connection.execute("SELECT value FROM meta WHERE key = 'node'").fetchone()
    found: dict[str, object] = msgpack.unpackb(row[0]) if row is not None else {}
    return found


def _ids(connection: sqlite3.Connection, since: float) -> list[tuple[bytes, float]]:
    found = []
    for at, hashes in connection.execute("SELECT at, hashes FROM ids WHERE at >= ? ORDER BY id", (since,)):
        found += [(hashes[start : start + _HASH_BYTES], at) for start in range(0, len(hashes), _HASH_BYTES)]
    return found
