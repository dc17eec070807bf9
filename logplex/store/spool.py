"""Lines, cursors, counters and request ids on disk: SQLite, one row a channel and group, one transaction a group.

Rules (a Hypothesis state machine in tests/store/test_spool_model.py; power loss in tests/store/test_power_loss.py):

* A transaction holds the lines of a group and everything that changes with them, or nothing of it.
* Positions in the spool ascend by channel; a hole between two rows is a gap that readers count as lost.
* Rows go in at the end of the table (`id` ascends with time); an index finds a channel's positions.
* Every step of deletion is a small transaction of its own, so that appends never wait for one; the last row of a
  channel leaves its head and page behind.
* An epoch is random, made with the file and at each start that has no proof that the file is whole (`Proof`).
"""

import secrets
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack

from ..batch import Batch, Form
from ..channel import Place, channel_epoch
from ..commit import Work
from ..ledger import Page
from .sqlite import DatabaseThread

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


class Spool:
    """The spool of one server; every call but `append` and the reads is for the app at start and stop."""

    def __init__(self, thread: DatabaseThread, epoch: bytes, generation: int) -> None:
        self.epoch = epoch
        self._thread = thread
        self._generation = generation  # rows up to this id belong to older epochs
        self._totals: dict[int, int] = {}  # channel → bytes ever written

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
