"""What is read out of the spool, in the thread that reads: batches by position, and where channels stand.

* Rows are asked for first, in steps of about what was asked for; then their bytes, in few reads, in the order in which
  they lie in their segments.
* A segment may be deleted between the two: then the rows have gone too, or lie elsewhere, and are asked for again.
* What cannot be read is a hole, as if its row were not there: readers count it as lost.
* `late` rows are committed, and not in the tables, or only since they were looked at: then they are passed over.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..batch import Batch, Form
from .rows import TAILS_ONLY, Line
from .segments import Files, Spot

_COLUMNS = "first, count, at, form, segment, start, size, data"
_FROM = f"SELECT {_COLUMNS} FROM lines WHERE channel = ? AND first >= ? AND first < ? ORDER BY first"  # noqa: S608
_BEFORE = f"SELECT {_COLUMNS} FROM lines WHERE channel = ? AND first < ? ORDER BY first DESC"  # noqa: S608
_TRIES = 5  # a reader meets a deleted segment once; more is damage

_Row = tuple[int, int, int, int, int, int, int, bytes | None]


class Found(NamedTuple):
    """What the tables say of a channel."""

    oldest: int
    head: int
    total: int
    epochs: list[tuple[bytes, int]]  # key and first position, oldest first
    page: bytes | None


class Reader:
    """Reads batches; for one thread and its connection."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder)

    def read(
        self,
        connection: sqlite3.Connection,
        channel_id: int,
        cursor: int,
        end: int,
        max_bytes: int,
        late: Sequence[Line] = (),
    ) -> list[Batch]:
        """Batches from `cursor`, or the first that is held behind it, up to `end`; ascending, without a gap."""
        row = connection.execute(
            "SELECT first FROM lines WHERE channel = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            (channel_id, cursor),
        ).fetchone()
        at = row[0] if row is not None else cursor
        while True:

            def rows(at: int = at) -> list[_Row]:
                found = _with_late(connection.execute(_FROM, (channel_id, at, end)), late, end)
                return _adjoining((row for row in found if row[0] + row[1] > cursor), max_bytes)

            wanted, batches = self._load(rows)
            if batches or not wanted:
                return [batch.cut(cursor, end) for batch in _first_run(batches)]
            at = wanted[-1][0] + wanted[-1][1]  # nothing of it can be read

    def read_back(
        self, connection: sqlite3.Connection, channel_id: int, end: int, max_bytes: int, late: Sequence[Line] = ()
    ) -> list[Batch]:
        """The newest batches before `end`, ascending, without a gap between them."""
        while True:

            def rows(end: int = end) -> list[_Row]:
                return _adjoining(_before_late(connection.execute(_BEFORE, (channel_id, end)), late, end), max_bytes)

            wanted, batches = self._load(rows)
            if batches or not wanted:
                run = _first_run(batches)
                run.reverse()
                return [batch.cut(batch.first, end) for batch in run]
            end = wanted[-1][0]

    def _load(self, ask: Callable[[], list[_Row]]) -> tuple[list[_Row], list[Batch]]:
        """The rows that `ask` finds, and the batches of those that can be read, in their order."""
        for tries_left in reversed(range(_TRIES)):
            rows = ask()
            spots = [Spot(*row[4:7]) for row in rows if row[7] is None]
            try:
                data = self._files.load(spots, missing_ok=not tries_left)
            except FileNotFoundError:
                continue
            break
        batches = []
        for first, count, at, form, segment, start, size, inline in rows:
            found = inline if inline is not None else data.get(Spot(segment, start, size))
            if found is not None:
                tails_only = bool(form & TAILS_ONLY)
                batches.append(Batch(first, count, at, Form(form & ~TAILS_ONLY), found, tails_only=tails_only))
        return rows, batches


def places(
    connection: sqlite3.Connection, channel_ids: Iterable[int], past: list[tuple[bytes, int]]
) -> dict[int, Found]:
    """Where channels stand; those that nothing is known of begin at 0. `past` is what tables.Epoch says."""
    return {number: _place(connection, number, past) for number in channel_ids}


def _with_late(rows: Iterable[_Row], late: Sequence[Line], end: int) -> Iterator[_Row]:
    """Ascending rows, and the late ones behind them."""
    behind = 0
    for row in rows:
        behind = row[0] + row[1]
        yield row
    for line in late:
        if behind <= line[2] < end:
            yield _as_row(line)


def _before_late(rows: Iterable[_Row], late: Sequence[Line], end: int) -> Iterator[_Row]:
    """Descending rows, and the late ones before them."""
    rows = iter(rows)
    newest = next(rows, None)
    behind = 0 if newest is None else newest[0] + newest[1]
    for line in reversed(late):
        if behind <= line[2] < end:
            yield _as_row(line)
    if newest is not None:
        yield newest
        yield from rows


def _as_row(line: Line) -> _Row:
    return (*line[2:6], *line[8:])


def _adjoining(rows: Iterable[_Row], max_bytes: int) -> list[_Row]:
    """The first rows that adjoin each other (in either direction), up to `max_bytes` of them but at least one."""
    found: list[_Row] = []
    size = 0
    for row in rows:
        size += row[6]
        if found and (size > max_bytes or not _adjoin(found[-1][0], found[-1][1], row[0], row[1])):
            break
        found.append(row)
    return found


def _first_run(batches: list[Batch]) -> list[Batch]:
    """Batches up to the first hole between two of them."""
    for index in range(1, len(batches)):
        before, batch = batches[index - 1 : index + 1]
        if not _adjoin(before.first, before.count, batch.first, batch.count):
            return batches[:index]
    return batches


def _adjoin(first: int, count: int, other_first: int, other_count: int) -> bool:
    return first + count == other_first or other_first + other_count == first


def _place(connection: sqlite3.Connection, channel_id: int, past: list[tuple[bytes, int]]) -> Found:
    newest = connection.execute(
        "SELECT id, first + count, total, page FROM lines WHERE channel = ? ORDER BY first DESC LIMIT 1", (channel_id,)
    ).fetchone()
    saved = connection.execute(
        "SELECT after, head, total, page FROM places WHERE channel = ?", (channel_id,)
    ).fetchone()
    if newest is None and saved is None:
        return Found(0, 0, 0, [(past[-1][0], 0)], None)
    if newest is None:
        return Found(saved[1], saved[1], saved[2], [(past[-1][0], saved[1])], saved[3])
    row_id, head, total, page = newest
    if saved is not None:
        head = max(head, saved[1])
        if saved[0] >= row_id:
            total, page = saved[2:]
    oldest = connection.execute(
        "SELECT first FROM lines WHERE channel = ? ORDER BY first LIMIT 1", (channel_id,)
    ).fetchone()[0]
    return Found(oldest, head, total, _epochs(connection, channel_id, past, oldest, head), page)


def _epochs(
    connection: sqlite3.Connection, channel_id: int, past: list[tuple[bytes, int]], oldest: int, head: int
) -> list[tuple[bytes, int]]:
    """Where each epoch of a channel begins, back to the one in which `oldest` lies."""
    epochs: list[tuple[bytes, int]] = []
    for key, generation in reversed(past):
        first = _epoch_first(connection, channel_id, generation, head) if generation else 0
        epochs.append((key, first))
        if first <= oldest:
            break
    epochs.reverse()
    return epochs


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
