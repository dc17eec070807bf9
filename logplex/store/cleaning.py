"""Takes the last live batches out of segments that are mostly dead, so that their files can be deleted.

* One step moves up to `STEP_BYTES` out of the segment that has least to keep, in a transaction of its own.
* Moved batches are synced before rows refer to them, and the database's log before the old file goes: a loss of power
  finds them in one place or the other.
* What cannot be read any more is given up, as if it had been forgotten.
"""

import sqlite3

from .checkpoints import checkpoint
from .forget import forget_rows
from .segments import Files, Segments, Spot
from .tables import Transaction

STEP_ROWS = 512
STEP_BYTES = 4 * 1024 * 1024

_NEW = (
    "SELECT id, lines.start, size FROM lines, segments WHERE segments.number = ?1 AND segment = ?1 "
    "AND id BETWEEN first_id AND last_id ORDER BY id LIMIT ?2"
)
_KEPT = "SELECT id, start, size FROM lines WHERE segment = ?1 AND segment < 0 LIMIT ?2"


def clean(connection: sqlite3.Connection, segments: Segments) -> bool:
    """Do one step; False when no segment has anything to give. Raises OSError."""
    number = segments.emptiest(connection)
    if number is None:
        return False
    rows = _rows(connection, number)
    data = Files(segments.folder).load([spot for _, spot in rows], missing_ok=True)
    lost = [row_id for row_id, spot in rows if spot not in data]
    if lost:
        forget_rows(connection, segments, lost)
    moved = [(row_id, spot) for row_id, spot in rows if spot in data]
    if moved:
        _move(connection, segments, moved, [data[spot] for _, spot in moved])
    if segments.live(connection, number) <= 0:
        checkpoint(connection)
        segments.sweep(connection)
    return True


def _rows(connection: sqlite3.Connection, number: int) -> list[tuple[int, Spot]]:
    found: list[tuple[int, Spot]] = []
    size = 0
    for row_id, start, row_size in connection.execute(_NEW if number > 0 else _KEPT, (number, STEP_ROWS)):
        size += row_size
        if found and size > STEP_BYTES:
            break
        found.append((row_id, Spot(number, start, row_size)))
    return found


def _move(connection: sqlite3.Connection, segments: Segments, rows: list[tuple[int, Spot]], data: list[bytes]) -> None:
    number, starts = segments.write(data, keep=True)
    moved = [(row_id, number, start, spot.size) for (row_id, spot), start in zip(rows, starts, strict=True)]
    with Transaction(connection):
        connection.executemany(
            "UPDATE lines SET segment = ?, start = ? WHERE id = ?",
            [(segment, start, row_id) for row_id, segment, start, _ in moved],
        )
        segments.record(connection, moved)
        segments.forgot(connection, [(spot.segment, spot.size) for _, spot in rows])
    segments.committed(keep=True)
