"""What the spool keeps, and how it forgets the rest in small steps.

Rules (design section 3; tests/store/test_retention.py):

* A channel keeps its newest `history_lines` for `history_seconds`, whatever others write, within the total.
* More than that is kept while there is room: `channel_bytes` for a channel, `spool_bytes` for all. Over the total goes
  first what exceeds `history_lines`, of the biggest channel; then the oldest rows of all.
* Drains never hold deletion: what they have not read is theirs to tell as lost.
* A step deletes a few rows in a transaction of its own, so that a commit waits for one step at most.
* The last row of a channel leaves head and page behind: positions go on.
"""

import sqlite3
from typing import NamedTuple

from ..config import Settings

STEP_ROWS = 128

_SAVE_LAST = (
    "INSERT INTO pages SELECT channel, id, first + count, total, page FROM lines WHERE channel = ?1 "
    "ORDER BY first DESC LIMIT 1 ON CONFLICT (channel) DO UPDATE SET "
    "after = max(after, excluded.after), head = max(head, excluded.head), total = max(total, excluded.total), "
    "page = CASE WHEN after >= excluded.after THEN page ELSE excluded.page END"
)


class Bounds(NamedTuple):
    """How much is kept."""

    history_lines: int
    history_seconds: float
    channel_bytes: int
    spool_bytes: int
    duplicate_seconds: float

    @classmethod
    def of(cls, settings: Settings, spool_bytes: int) -> "Bounds":
        """From the settings; `spool_bytes` is what the disk allows of them."""
        return cls(
            settings.history_lines,
            settings.history_seconds,
            settings.channel_bytes,
            spool_bytes,
            settings.duplicate_seconds,
        )


Forgotten = dict[int, int]
"""Channels of which rows were deleted → the oldest position that is left."""


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def forget_channel(connection: sqlite3.Connection, channel_id: int) -> bool:
    """Delete a step of a channel that is gone for good; True when nothing of it is left."""
    with connection:
        ids = [row[0] for row in connection.execute(_OLDEST, (channel_id, STEP_ROWS))]
        _delete(connection, ids)
        if len(ids) == STEP_ROWS:
            return False
        connection.execute("DELETE FROM pages WHERE channel = ?", (channel_id,))
    return True


def forget_old(connection: sqlite3.Connection, before_ms: int) -> Forgotten:
    """Delete a step of the rows that were received before a time (unix ms); rows are in the order of time."""
    rows = connection.execute("SELECT id, channel, at FROM lines ORDER BY id LIMIT ?", (STEP_ROWS,)).fetchall()
    return _forget(connection, [(row[0], row[1]) for row in rows if row[2] < before_ms])


def forget_beyond_bytes(connection: sqlite3.Connection, channel_id: int, max_bytes: int) -> Forgotten:
    """Delete a step of what a channel holds beyond `max_bytes`; its newest row always stays."""
    newest = _newest(connection, channel_id)
    if newest is None:
        return {}
    rows = connection.execute(
        "SELECT id, total FROM lines WHERE channel = ? ORDER BY first LIMIT ?", (channel_id, STEP_ROWS)
    ).fetchall()
    return _forget(connection, [(row[0], channel_id) for row in rows if row[1] <= newest[1] - max_bytes])


def forget_before(connection: sqlite3.Connection, channel_id: int, position: int) -> Forgotten:
    """Delete a step of a channel's rows that end at `position` or before."""
    rows = connection.execute(
        "SELECT id, first + count FROM lines WHERE channel = ? ORDER BY first LIMIT ?", (channel_id, STEP_ROWS)
    ).fetchall()
    return _forget(connection, [(row[0], channel_id) for row in rows if row[1] <= position])


def forget_for_room(connection: sqlite3.Connection, history_lines: int) -> Forgotten:
    """Delete a step of what there is too much of: of the biggest channel that has more than its history."""
    biggest = max(_excesses(connection, history_lines), default=None)
    if biggest is not None:
        _, channel_id, position = biggest
        return forget_before(connection, channel_id, position)
    rows = connection.execute("SELECT id, channel FROM lines ORDER BY id LIMIT ?", (STEP_ROWS,)).fetchall()
    return _forget(connection, rows)


def forget_ids(connection: sqlite3.Connection, before: float) -> None:
    """Delete the request ids that were stored before a time (unix seconds)."""
    with connection:
        connection.execute(
            "DELETE FROM ids WHERE id IN (SELECT id FROM ids WHERE at < ? ORDER BY id LIMIT ?)",
            (before, 8 * STEP_ROWS),
        )


def channel_ids(connection: sqlite3.Connection) -> list[int]:
    """Every channel that the spool knows: one look-up a channel, however many rows it has."""
    found = []
    number = -1
    while True:
        row = connection.execute(
            "SELECT channel FROM lines WHERE channel > ? ORDER BY channel LIMIT 1", (number,)
        ).fetchone()
        if row is None:
            break
        number = row[0]
        found.append(number)
    return sorted({*found, *(row[0] for row in connection.execute("SELECT channel FROM pages"))})


_OLDEST = "SELECT id FROM lines WHERE channel = ? ORDER BY first LIMIT ?"


def _excesses(connection: sqlite3.Connection, history_lines: int) -> list[tuple[int, int, int]]:
    """(bytes, channel, first position of its history) of channels with whole rows before their history."""
    found = []
    for channel_id in channel_ids(connection):
        newest = _newest(connection, channel_id)
        if newest is None:
            continue
        position = newest[0] - history_lines
        first, count, total, size = connection.execute(
            "SELECT first, count, total, length(data) FROM lines WHERE channel = ? ORDER BY first LIMIT 1",
            (channel_id,),
        ).fetchone()
        if first + count <= position:
            found.append((newest[1] - total + size, channel_id, position))
    return found


def _newest(connection: sqlite3.Connection, channel_id: int) -> tuple[int, int] | None:
    """Head and total of a channel's newest row."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT first + count, total FROM lines WHERE channel = ? ORDER BY first DESC LIMIT 1", (channel_id,)
    ).fetchone()
    return row


def _forget(connection: sqlite3.Connection, rows: list[tuple[int, int]]) -> Forgotten:
    """Delete rows (id, channel) and say what is left of their channels."""
    if not rows:
        return {}
    forgotten: Forgotten = {}
    channels = {channel_id for _, channel_id in rows}
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_SAVE_LAST, [(channel_id,) for channel_id in channels])
        _delete(connection, [row[0] for row in rows])
        for channel_id in channels:
            oldest, head = connection.execute(
                "SELECT (SELECT min(first) FROM lines WHERE channel = ?1), "
                "(SELECT head FROM pages WHERE channel = ?1)",
                (channel_id,),
            ).fetchone()
            forgotten[channel_id] = head if oldest is None else oldest
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return forgotten


def _delete(connection: sqlite3.Connection, ids: list[int]) -> None:
    connection.executemany("DELETE FROM lines WHERE id = ?", [(number,) for number in ids])
