"""The tables of spool.db, and what is asked of them; every function takes the connection and waits for nothing else.

* `lines`: one row a channel and batch. `id` ascends with time and is never given twice (the spool counts it itself:
  SQLite would begin again once the newest rows are deleted). The batch is in the row, or in a segment (segments.py):
  then `data` is NULL. The last row that a group writes for a channel also holds the channel's page of the ledger.
* `places`: where a channel stands that its rows do not tell (head, bytes ever written, page), valid up to row `after`.
* `state`: small values by kind and number: the node's counters, each drain's cursor, closed pages.
* `ids`: request ids, a row a group.

What is committed comes from the journal, a round at once (`take_in`); until then it is not here (writer.py).

Pages of 4 KiB: a transaction writes each page that it changes, and rows are small.
"""

import secrets
import sqlite3
import time
from collections.abc import Sequence
from enum import IntEnum
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgpack

from . import segments as files
from .rows import Record, joined
from .segments import Segments

PAGE_BYTES = 4096
VERSION = 3  # of the tables; 1 had every batch in its row, 2 no journal
HASH_BYTES = 16
KEPT_EPOCHS = 8  # a drain that was away for more of them goes on at the oldest
LOCK_SECONDS = 10.0  # a second connection checkpoints; whoever meets it waits
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lines (
    id INTEGER PRIMARY KEY, channel INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
    at INTEGER NOT NULL, form INTEGER NOT NULL, total INTEGER NOT NULL, page BLOB,
    segment INTEGER NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL, data BLOB);
CREATE INDEX IF NOT EXISTS lines_by_place ON lines (channel, first);
CREATE INDEX IF NOT EXISTS lines_kept ON lines (segment) WHERE segment < 0;
CREATE TABLE IF NOT EXISTS places (
    channel INTEGER PRIMARY KEY, after INTEGER NOT NULL, head INTEGER NOT NULL, total INTEGER NOT NULL, page BLOB);
CREATE TABLE IF NOT EXISTS state (
    kind INTEGER NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ids (id INTEGER PRIMARY KEY, at REAL NOT NULL, hashes BLOB NOT NULL);
"""
_LINE = "(?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT = "INSERT INTO lines (id, channel, first, count, at, form, total, page, segment, start, size, data) VALUES "
_SAVE = "REPLACE INTO state VALUES "
_VALUE = "(?,?,?)"
JOINED_BYTES = 3500  # a row that fits into a page
_AT_ONCE = 256  # rows of one statement: a step gives the interpreter away, and waits to get it back
_SAVE_PLACE = "REPLACE INTO places VALUES (?, ?, ?, ?, ?)"


class Kind(IntEnum):
    """What a row of `state` is."""

    META = 0
    CURSOR = 1  # by drain
    CLOSED = 2  # the page of a channel or a drain that was deleted; by time


class Meta(IntEnum):
    """The numbers of `Kind.META`."""

    EPOCHS = 0
    NODE = 1
    SINCE = 2
    SYNCED = 3  # the last row whose bytes in a segment a loss of power leaves there
    ROUND = 4  # the key of the journal's records that the tables do not have yet


class Epoch(NamedTuple):
    """The epochs of the spool."""

    past: list[tuple[bytes, int]]  # (key, last row of the ones before), oldest first; the last is the present one
    since: float  # when this spool was begun

    @property
    def key(self) -> bytes:
        """Of the present one."""
        return self.past[-1][0]


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
        _check_version(connection)
        connection.executescript(_SCHEMA + files.SCHEMA + f"PRAGMA user_version={VERSION};")
        connection.execute("SELECT count(*), max(at) FROM (SELECT at FROM lines ORDER BY id DESC LIMIT 8)").fetchone()
        connection.execute("SELECT count(*) FROM state").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
        text = f"its tables are of version {version}; this server knows {VERSION}"
        raise files.damaged(text, sqlite3.SQLITE_NOTADB)


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
        _note(connection, Meta.SINCE, since)
    past = _past(connection)
    if not past or not proven:
        past = [*past, (secrets.token_bytes(16), last_id(connection))][-KEPT_EPOCHS:]
        _note(connection, Meta.EPOCHS, msgpack.packb(past))
    return Epoch(past, msgpack.unpackb(since))


def _past(connection: sqlite3.Connection) -> list[tuple[bytes, int]]:
    saved = _meta(connection, Meta.EPOCHS)
    return [] if saved is None else [(key, generation) for key, generation in msgpack.unpackb(saved)]


def last_id(connection: sqlite3.Connection) -> int:
    """The highest id that was ever given to a row of lines."""
    past = _past(connection)
    generation = past[-1][1] if past else 0
    highest: int = connection.execute(
        "SELECT max((SELECT coalesce(max(id), 0) FROM lines), (SELECT coalesce(max(after), 0) FROM places))"
    ).fetchone()[0]
    return max(highest, generation)


def take_in(connection: sqlite3.Connection, segments: Segments, records: Sequence[Record], next_round: bytes) -> int:
    """Write what the records of a round hold, all of it or nothing; how many rows that made."""
    lines = joined([line for record in records for line in record.lines], JOINED_BYTES)
    state: dict[tuple[int, int], bytes] = {}
    forgotten = {(int(Kind.CURSOR), drain_id) for record in records for drain_id in record.forgotten}
    for record in records:
        state.update(((kind, number), value) for kind, number, value in record.state)
        for drain_id in record.forgotten:
            state.pop((int(Kind.CURSOR), drain_id), None)
    state[int(Kind.META), int(Meta.ROUND)] = next_round
    places = {place[0]: place for record in records for place in record.places}
    with Transaction(connection):
        _insert(connection, _INSERT, _LINE, lines)
        segments.record(connection, ((line[0], *line[8:11]) for line in lines if line[11] is None))
        if forgotten:
            connection.executemany("DELETE FROM state WHERE kind = ? AND number = ?", list(forgotten))
        _insert(connection, _SAVE, _VALUE, [(*key, value) for key, value in state.items()])
        if places:
            connection.executemany(_SAVE_PLACE, list(places.values()))
        ids = [(record.at, record.ids) for record in records if record.ids]
        if ids:
            connection.executemany("INSERT INTO ids (at, hashes) VALUES (?, ?)", ids)
    if lines:
        segments.recorded(lines[-1][0])
    return len(lines) + len(places) + len(state)


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


def synced(connection: sqlite3.Connection) -> int:
    """The last row whose bytes in a segment a loss of power has left there, or 0."""
    saved = _meta(connection, Meta.SYNCED)
    return int(msgpack.unpackb(saved)) if saved is not None else 0


def round_key(connection: sqlite3.Connection) -> bytes | None:
    """The key of the journal's present round; None in a new file."""
    return _meta(connection, Meta.ROUND)


def note_round(connection: sqlite3.Connection, key: bytes) -> None:
    """The first round of a new file."""
    _note(connection, Meta.ROUND, key)


def note_synced(connection: sqlite3.Connection, row_id: int) -> None:
    """Rows up to this one have their bytes on disk."""
    _note(connection, Meta.SYNCED, msgpack.packb(row_id))


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


def _insert(connection: sqlite3.Connection, statement: str, row: str, rows: list[Any]) -> None:
    """Insert many rows in few statements of few different lengths, which stay prepared."""
    start = 0
    while start < len(rows):
        count = _AT_ONCE if len(rows) - start >= _AT_ONCE else min(len(rows) - start, 4)
        part = rows[start : start + count]
        start += count
        connection.execute(statement + ",".join([row] * count), list(chain.from_iterable(part)))


def _meta(connection: sqlite3.Connection, number: Meta) -> bytes | None:
    row = connection.execute("SELECT value FROM state WHERE kind = ? AND number = ?", (Kind.META, number)).fetchone()
    return row[0] if row is not None else None


def _note(connection: sqlite3.Connection, number: Meta, value: bytes) -> None:
    with Transaction(connection):
        connection.execute(_SAVE + _VALUE, (Kind.META, number, value))
