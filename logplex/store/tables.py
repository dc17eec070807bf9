"""The tables of spool.db, and what is asked of them; every function takes the connection and waits for nothing else.

* `lines`: one row a channel and batch. `id` ascends with time and is never given twice (the spool counts it itself:
  SQLite would begin again once the newest rows are deleted). The last row that a group writes for a channel also
  holds the channel's page of the ledger.
* `places`: where a channel stands that its rows do not tell (head, bytes ever written, page), valid up to row `after`.
* `state`: small values by kind and number: the node's counters, each drain's cursor, closed pages.
* `ids`: request ids, a row a group.

Pages of 16 KiB: rows of 300 bytes to 90 KB cost 0.06 to 0.4 ms of CPU; 64 KiB wrote two to four times as much.
"""

import secrets
import sqlite3
import time
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgpack

from ..batch import Batch, Form

PAGE_BYTES = 16384
HASH_BYTES = 16
LOCK_SECONDS = 10.0  # a second connection checkpoints; whoever meets it waits
_TAILS_ONLY = 16  # beside the form
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lines (
    id INTEGER PRIMARY KEY, channel INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
    at INTEGER NOT NULL, form INTEGER NOT NULL, total INTEGER NOT NULL, page BLOB, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS lines_by_place ON lines (channel, first);
CREATE TABLE IF NOT EXISTS places (
    channel INTEGER PRIMARY KEY, after INTEGER NOT NULL, head INTEGER NOT NULL, total INTEGER NOT NULL, page BLOB);
CREATE TABLE IF NOT EXISTS state (
    kind INTEGER NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ids (id INTEGER PRIMARY KEY, at REAL NOT NULL, hashes BLOB NOT NULL);
"""
_LINE = "(?,?,?,?,?,?,?,?,?)"
_INSERT = "INSERT INTO lines (id, channel, first, count, at, form, total, page, data) VALUES "
_SAVE = "REPLACE INTO state VALUES "
_VALUE = "(?,?,?)"
_AT_ONCE = 64  # rows of one statement: a step gives the interpreter away, and waits to get it back
_SAVE_PLACE = "REPLACE INTO places VALUES (?, ?, ?, ?, ?)"
_COLUMNS = "first, count, at, form, data"


class Kind(IntEnum):
    """What a row of `state` is."""

    META = 0
    CURSOR = 1  # by drain
    CLOSED = 2  # the page of a channel or a drain that was deleted; by time


class Meta(IntEnum):
    """The numbers of `Kind.META`."""

    EPOCH = 0
    NODE = 1
    SINCE = 2


class Rows(NamedTuple):
    """One transaction, ready to be written."""

    lines: list[tuple[int, int, int, int, int, int, int, bytes | None, bytes]]
    places: list[tuple[int, int, int, int, bytes]]
    state: list[tuple[int, int, bytes]]
    forgotten: list[int]  # drains whose cursor goes
    ids: bytes


class Epoch(NamedTuple):
    """The epoch of the spool, and the last row of the ones before."""

    key: bytes
    generation: int
    since: float  # when this spool was begun


class Found(NamedTuple):
    """What the tables say of a channel."""

    oldest: int
    head: int
    total: int
    epoch_first: int
    page: bytes | None


class Transaction:
    """`with Transaction(connection):` BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when something is raised."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def connect(path: Path, *, fsync: bool, max_bytes: int) -> sqlite3.Connection:
    """Open or make the spool; raises sqlite3.DatabaseError when it is damaged."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=LOCK_SECONDS)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # checkpoints.py does it, beside the commits
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-32768")
        connection.execute(f"PRAGMA max_page_count={max(64, max_bytes // PAGE_BYTES)}")
        connection.executescript(_SCHEMA)
        connection.execute("SELECT count(*), max(at) FROM (SELECT at FROM lines ORDER BY id DESC LIMIT 8)").fetchone()
        connection.execute("SELECT count(*) FROM state").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=LOCK_SECONDS
    )
    connection.execute("PRAGMA cache_size=-8192")
    return connection


def begin_epoch(connection: sqlite3.Connection, proven: bool) -> Epoch:
    """The epoch to go on with; a new one without proof that all is there."""
    since = _meta(connection, Meta.SINCE)
    if since is None:
        since = msgpack.packb(time.time())
        with Transaction(connection):
            connection.execute(_SAVE + _VALUE, (Kind.META, Meta.SINCE, since))
    saved = _meta(connection, Meta.EPOCH)
    if saved is not None and proven:
        key, generation = msgpack.unpackb(saved)
        return Epoch(key, generation, msgpack.unpackb(since))
    key, generation = secrets.token_bytes(16), last_id(connection)
    with Transaction(connection):
        connection.execute(_SAVE + _VALUE, (Kind.META, Meta.EPOCH, msgpack.packb((key, generation))))
    return Epoch(key, generation, msgpack.unpackb(since))


def last_id(connection: sqlite3.Connection) -> int:
    """The highest id that was ever given to a row of lines."""
    saved = _meta(connection, Meta.EPOCH)
    generation = msgpack.unpackb(saved)[1] if saved is not None else 0
    highest: int = connection.execute(
        "SELECT max((SELECT coalesce(max(id), 0) FROM lines), (SELECT coalesce(max(after), 0) FROM places))"
    ).fetchone()[0]
    return max(highest, generation)


def append(connection: sqlite3.Connection, rows: Rows) -> None:
    """Write one group, all of it or nothing."""
    with Transaction(connection):
        _insert(connection, _INSERT, _LINE, rows.lines)
        _insert(connection, _SAVE, _VALUE, rows.state)
        if rows.places:
            connection.executemany(_SAVE_PLACE, rows.places)
        if rows.forgotten:
            gone = [(Kind.CURSOR, drain_id) for drain_id in rows.forgotten]
            connection.executemany("DELETE FROM state WHERE kind = ? AND number = ?", gone)
        if rows.ids:
            connection.execute("INSERT INTO ids (at, hashes) VALUES (?, ?)", (time.time(), rows.ids))


def read(connection: sqlite3.Connection, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
    """Batches from `cursor`, or the first that is held behind it, up to `end`; ascending, without a gap."""
    row = connection.execute(
        "SELECT first FROM lines WHERE channel = ? AND first <= ? ORDER BY first DESC LIMIT 1", (channel_id, cursor)
    ).fetchone()
    start = row[0] if row is not None else cursor
    batches: list[Batch] = []
    size = 0
    for found in connection.execute(
        f"SELECT {_COLUMNS} FROM lines WHERE channel = ? AND first >= ? AND first < ? ORDER BY first",  # noqa: S608
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


def read_back(connection: sqlite3.Connection, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
    """The newest batches before `end`, ascending, without a gap between them."""
    batches: list[Batch] = []
    size = 0
    for found in connection.execute(
        f"SELECT {_COLUMNS} FROM lines WHERE channel = ? AND first < ? ORDER BY first DESC",  # noqa: S608
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


def places(connection: sqlite3.Connection, channel_ids: Iterable[int], generation: int) -> dict[int, Found]:
    """Where channels stand; those that nothing is known of begin at 0."""
    return {number: _place(connection, number, generation) for number in channel_ids}


def cursors(connection: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    """The saved state of every drain, by drain id."""
    found = connection.execute("SELECT number, value FROM state WHERE kind = ?", (Kind.CURSOR,))
    return {drain_id: tuple(msgpack.unpackb(value)) for drain_id, value in found}


def closed(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
    """Closed pages with their numbers, oldest first."""
    return connection.execute(
        "SELECT number, value FROM state WHERE kind = ? ORDER BY number", (Kind.CLOSED,)
    ).fetchall()


def node(connection: sqlite3.Connection) -> dict[str, Any]:
    """The counters of this node as they were saved last."""
    saved = _meta(connection, Meta.NODE)
    found: dict[str, Any] = msgpack.unpackb(saved) if saved is not None else {}
    return found


def forget_state(connection: sqlite3.Connection, kind: Kind, numbers: list[int]) -> None:
    """Delete rows of `state`."""
    with Transaction(connection):
        connection.executemany(
            "DELETE FROM state WHERE kind = ? AND number = ?", [(kind, number) for number in numbers]
        )


def ids(connection: sqlite3.Connection, since: float, most: int) -> list[tuple[bytes, float]]:
    """The newest request ids stored since then (wall clock), about `most` of them, a group a row, oldest first."""
    found: list[tuple[bytes, float]] = []
    count = 0
    for at, hashes in connection.execute("SELECT at, hashes FROM ids ORDER BY id DESC"):
        if at < since or count >= most:
            break
        found.append((hashes, at))
        count += len(hashes) // HASH_BYTES
    found.reverse()
    return found


def form_number(batch: Batch) -> int:
    """How `lines.form` holds a batch's form and audience."""
    return batch.form | _TAILS_ONLY if batch.tails_only else int(batch.form)


def _insert(connection: sqlite3.Connection, statement: str, row: str, rows: list[Any]) -> None:
    """Insert many rows in few statements of few different lengths, which stay prepared."""
    start = 0
    while start < len(rows):
        count = _AT_ONCE if len(rows) - start >= _AT_ONCE else min(len(rows) - start, 4)
        part = rows[start : start + count]
        start += count
        connection.execute(statement + ",".join([row] * count), [value for each in part for value in each])


def _batch(row: tuple[int, int, int, int, bytes]) -> Batch:
    first, count, at, form, data = row
    return Batch(first, count, at, Form(form & ~_TAILS_ONLY), data, tails_only=bool(form & _TAILS_ONLY))


def _place(connection: sqlite3.Connection, channel_id: int, generation: int) -> Found:
    newest = connection.execute(
        "SELECT id, first + count, total, page FROM lines WHERE channel = ? ORDER BY first DESC LIMIT 1", (channel_id,)
    ).fetchone()
    saved = connection.execute(
        "SELECT after, head, total, page FROM places WHERE channel = ?", (channel_id,)
    ).fetchone()
    if newest is None and saved is None:
        return Found(0, 0, 0, 0, None)
    if newest is None:
        return Found(saved[1], saved[1], saved[2], saved[1], saved[3])
    row_id, head, total, page = newest
    if saved is not None:
        head = max(head, saved[1])
        if saved[0] >= row_id:
            total, page = saved[2:]
    oldest = connection.execute(
        "SELECT first FROM lines WHERE channel = ? ORDER BY first LIMIT 1", (channel_id,)
    ).fetchone()[0]
    epoch_first = 0
    if generation:
        epoch_first = _epoch_first(connection, channel_id, generation, head)
    return Found(oldest, head, total, epoch_first, page)


def _epoch_first(connection: sqlite3.Connection, channel_id: int, generation: int, head: int) -> int:
    """The channel's first position whose row is of this epoch: rows ascend by id as they do by position."""
    low, high = 0, head  # the answer lies between
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT id, first, first + count FROM lines WHERE channel = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            (channel_id, middle),
        ).fetchone()
        if row is None or row[0] <= generation:
            low = max(middle + 1, row[2] if row is not None else 0)
        else:
            high = row[1]
    return min(low, head)


def _meta(connection: sqlite3.Connection, number: Meta) -> bytes | None:
    row = connection.execute("SELECT value FROM state WHERE kind = ? AND number = ?", (Kind.META, number)).fetchone()
    return row[0] if row is not None else None
