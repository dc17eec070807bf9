"""Deleting from the spool in small steps, each a transaction of its own, so that a commit waits for one at most.

* A step deletes up to `STEP_ROWS` rows, the oldest of what it was asked for, and says what is left. Segments that
  no row refers to any more are deleted with it.
* The last row of a channel leaves its head, bytes and page behind: positions and counters go on.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from .segments import Segments
from .tables import Transaction

STEP_ROWS = 128
STEP_CHANNELS = 200  # looked at between two commits

Forgotten = dict[int, int]
"""Channels of which rows were deleted → the oldest position that is left (the head, where none is)."""

_SAVE_LAST = (
    "INSERT INTO places SELECT channel, id, first + count, total, page FROM lines WHERE channel = ?1 "
    "ORDER BY first DESC LIMIT 1 ON CONFLICT (channel) DO UPDATE SET "
    "head = max(head, excluded.head), total = max(total, excluded.total), "
    "page = CASE WHEN after >= excluded.after THEN page ELSE excluded.page END, after = max(after, excluded.after)"
)
_OLDEST = "SELECT id, channel, segment, size FROM lines WHERE channel = ? ORDER BY first LIMIT ?"


class Excess(NamedTuple):
    """What a channel holds beyond its history: bytes, and where its history begins."""

    bytes: int
    channel_id: int
    position: int


class Used(NamedTuple):
    """Bytes: what rows and pages refer to, and what the files of that take."""

    live: int
    held: int


def used(connection: sqlite3.Connection, segments: Segments) -> Used:
    """What the spool holds; the free pages of the database count as free space."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    rows = int((pages - free) * size)
    live = connection.execute("SELECT coalesce(sum(live), 0) FROM segments").fetchone()[0]
    return Used(rows + live, rows + segments.total)


def forget_rows(connection: sqlite3.Connection, segments: Segments, ids: list[int]) -> Forgotten:
    """Delete these rows, however many: what they hold cannot be read."""
    rows = [
        connection.execute("SELECT id, channel, segment, size FROM lines WHERE id = ?", (row_id,)).fetchone()
        for row_id in ids
    ]
    return _forget(connection, segments, rows)


def forget_unsynced(connection: sqlite3.Connection, segments: Segments, after: int) -> None:
    """After a loss of power: forget the rows behind `after` whose bytes are in segments, and may not be there."""
    while rows := connection.execute(
        "SELECT id, channel, segment, size FROM lines WHERE id > ? AND segment > 0 LIMIT ?", (after, STEP_ROWS)
    ).fetchall():
        _forget(connection, segments, rows)


def forget_channel(connection: sqlite3.Connection, segments: Segments, channel_id: int) -> bool:
    """Delete a step of a channel that is gone for good; True when nothing of it is left."""
    rows = connection.execute(_OLDEST, (channel_id, STEP_ROWS)).fetchall()
    with Transaction(connection):
        _delete(connection, segments, rows)
        if len(rows) < STEP_ROWS:
            connection.execute("DELETE FROM places WHERE channel = ?", (channel_id,))
    segments.sweep(connection)
    return len(rows) < STEP_ROWS


def forget_old(connection: sqlite3.Connection, segments: Segments, before_ms: int) -> Forgotten:
    """Delete a step of the rows that were received before a time (unix ms); rows are in the order of time."""
    rows = connection.execute("SELECT id, channel, segment, size, at FROM lines ORDER BY id LIMIT ?", (STEP_ROWS,))
    return _forget(connection, segments, [row[:4] for row in rows.fetchall() if row[4] < before_ms])


def forget_beyond_bytes(
    connection: sqlite3.Connection, segments: Segments, channel_id: int, max_bytes: int
) -> Forgotten:
    """Delete a step of what a channel holds beyond `max_bytes`; its newest row always stays."""
    newest = _newest(connection, channel_id)
    if newest is None:
        return {}
    rows = connection.execute(
        "SELECT id, channel, segment, size, total FROM lines WHERE channel = ? ORDER BY first LIMIT ?",
        (channel_id, STEP_ROWS),
    )
    return _forget(connection, segments, [row[:4] for row in rows.fetchall() if row[4] <= newest[1] - max_bytes])


def forget_before(
    connection: sqlite3.Connection, segments: Segments, channel_id: int, position: int, max_bytes: int | None = None
) -> Forgotten:
    """Delete a step of a channel's rows that end at `position` or before."""
    rows = connection.execute(
        "SELECT id, channel, segment, size, first + count FROM lines WHERE channel = ? ORDER BY first LIMIT ?",
        (channel_id, STEP_ROWS),
    )
    return _forget(connection, segments, [row[:4] for row in rows.fetchall() if row[4] <= position], max_bytes)


def forget_oldest(connection: sqlite3.Connection, segments: Segments, max_bytes: int | None = None) -> Forgotten:
    """Delete a step of the oldest rows of all channels."""
    rows = connection.execute("SELECT id, channel, segment, size FROM lines ORDER BY id LIMIT ?", (STEP_ROWS,))
    return _forget(connection, segments, rows.fetchall(), max_bytes)


def forget_ids(connection: sqlite3.Connection, before: float) -> bool:
    """Delete a step of the request ids that were stored before a time (unix seconds); False when there were none."""
    rows = connection.execute("SELECT id, at FROM ids ORDER BY id LIMIT ?", (STEP_ROWS,)).fetchall()
    old = [(row[0],) for row in rows if row[1] < before]
    if old:
        with Transaction(connection):
            connection.executemany("DELETE FROM ids WHERE id = ?", old)
    return bool(old)


def channel_ids(connection: sqlite3.Connection, after: int) -> list[int]:
    """The next channels that the spool knows, ascending: one look-up a channel, however many rows it has."""
    found: list[int] = []
    while len(found) < STEP_CHANNELS:
        row = connection.execute(
            "SELECT min(coalesce((SELECT channel FROM lines WHERE channel > ?1 ORDER BY channel LIMIT 1), ?2), "
            "coalesce((SELECT channel FROM places WHERE channel > ?1 ORDER BY channel LIMIT 1), ?2))",
            (after, _NO_CHANNEL),
        ).fetchone()
        if row[0] == _NO_CHANNEL:
            break
        after = row[0]
        found.append(after)
    return found


def excesses(connection: sqlite3.Connection, channels: Iterable[int], history_lines: int) -> list[Excess]:
    """What each of these channels holds in whole rows before its newest `history_lines`."""
    found = []
    for channel_id in channels:
        newest = _newest(connection, channel_id)
        if newest is None:
            continue
        position = newest[0] - history_lines
        first, count, total, size = connection.execute(
            "SELECT first, count, total, size FROM lines WHERE channel = ? ORDER BY first LIMIT 1",
            (channel_id,),
        ).fetchone()
        if first + count <= position:
            kept = connection.execute(
                "SELECT total - size FROM lines WHERE channel = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (channel_id, position),
            ).fetchone()
            found.append(Excess(kept[0] - total + size, channel_id, position))
    return found


_NO_CHANNEL = (1 << 63) - 1


def _newest(connection: sqlite3.Connection, channel_id: int) -> tuple[int, int] | None:
    """Head and total of a channel's newest row."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT first + count, total FROM lines WHERE channel = ? ORDER BY first DESC LIMIT 1", (channel_id,)
    ).fetchone()
    return row


_Row = tuple[int, int, int, int]  # id, channel, segment, bytes


def _forget(
    connection: sqlite3.Connection, segments: Segments, rows: list[_Row], max_bytes: int | None = None
) -> Forgotten:
    """Delete rows, at least one, up to `max_bytes`; say what is left of their channels."""
    if max_bytes is not None:
        rows = _up_to(rows, max_bytes)
    if not rows:
        return {}
    channels = {row[1] for row in rows}
    forgotten: Forgotten = {}
    with Transaction(connection):
        connection.executemany(_SAVE_LAST, [(channel_id,) for channel_id in channels])
        _delete(connection, segments, rows)
        for channel_id in channels:
            oldest = connection.execute(
                "SELECT first FROM lines WHERE channel = ? ORDER BY first LIMIT 1", (channel_id,)
            ).fetchone()
            if oldest is None:
                oldest = connection.execute("SELECT head FROM places WHERE channel = ?", (channel_id,)).fetchone()
            forgotten[channel_id] = oldest[0]
    segments.sweep(connection)
    return forgotten


def _up_to(rows: list[_Row], max_bytes: int) -> list[_Row]:
    size = 0
    for index, row in enumerate(rows):
        size += row[3]
        if index and size > max_bytes:
            return rows[:index]
    return rows


def _delete(connection: sqlite3.Connection, segments: Segments, rows: list[_Row]) -> None:
    connection.executemany("DELETE FROM lines WHERE id = ?", [row[:1] for row in rows])
    segments.forgot(connection, [row[2:] for row in rows])
