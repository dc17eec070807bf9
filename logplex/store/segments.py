"""Files beside the database that hold the larger batches: written once, from front to back, and deleted whole.

Rules (the state machine in tests/store/test_spool_model.py; tests/store/test_segments.py):

* A batch of up to `INLINE_BYTES` stays in its row: a file would be kept for the sake of a quiet channel's line.
* Bytes are written before the record of the journal, or the transaction, that refers to them; what nothing refers to
  is written over.
* Segments with positive numbers take new lines, those with negative ones what cleaning.py has moved. Table `segments`
  says of each how long it is, how much of that rows still refer to, and which rows those may be.
* A segment that no row refers to is deleted, unless the journal may. Files that the table does not know at the start,
  when it has taken in the journal, are deleted.
* Unless every commit is synced, `unsynced` names what a loss of power may take; checkpoints.py syncs and notes it.
* The kernel is to keep the newest `CACHED_SEGMENTS` in its memory, where a drain that fell behind reads them, and no
  more: a log that runs through all the memory of a machine takes it from others, and pays for each new page.

All of `Segments` runs in the thread that writes; `Files` reads in any.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import accumulate, groupby
from operator import add, itemgetter
from pathlib import Path
from typing import NamedTuple

import structlog

from . import disk, journal

log = structlog.get_logger()

INLINE_BYTES = 1024
MAX_SEGMENT_BYTES = 16 * 1024 * 1024
MIN_SEGMENT_BYTES = 64 * 1024
CACHED_SEGMENTS = 4
_NONE = 1 << 62
SHARE = 64  # of the whole spool, at most, in one segment: as much as may be waiting to be cleaned
_SPAN_BYTES = 1024 * 1024  # of one read
_GAP_BYTES = 32 * 1024  # that are cheaper to read than to leave out

SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, live INTEGER NOT NULL,
    first_id INTEGER NOT NULL, last_id INTEGER NOT NULL);
"""
_RECORD = (
    "INSERT INTO segments VALUES (?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
    "bytes = max(bytes, excluded.bytes), live = live + excluded.live, "
    "first_id = min(first_id, excluded.first_id), last_id = max(last_id, excluded.last_id)"
)


class Spot(NamedTuple):
    """Where a batch lies; segment 0 is its row."""

    segment: int
    start: int
    size: int


class _Open:
    """The segment that is being filled: `end` is where the next bytes go, `written` how many wait for their commit."""

    __slots__ = ("descriptor", "end", "number", "written")

    def __init__(self) -> None:
        self.number = 0
        self.end = 0
        self.written = 0
        self.descriptor = -1

    def begin(self, path: Path, number: int, end: int = 0) -> None:
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | (0 if end else os.O_TRUNC)
        self.descriptor = os.open(path, flags, 0o600)
        self.number = number
        self.end = end

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


class Segments:
    """The segments of one spool, in the thread that writes; `close` when the connection is closed."""

    def __init__(self, folder: Path, *, max_bytes: int, fsync: bool) -> None:
        self.folder = folder
        self.total = 0  # bytes of all segments, dead ones too
        self.unsynced: set[int] = set()
        self._cached: set[int] = set()
        self.last_id = 0  # of the newest row in the tables
        self._oldest_unrecorded = _NONE  # the tables do not know yet of all that lies in it and in those behind it
        self._max_bytes = max_bytes
        self._segment_bytes = min(MAX_SEGMENT_BYTES, max(MIN_SEGMENT_BYTES, max_bytes // SHARE))
        self._fsync = fsync
        self._new = _Open()
        self._kept = _Open()

    def open(self, connection: sqlite3.Connection, *, synced_id: int = 0, lost_power: bool) -> None:
        """Compare table and files, and go on where the last server stopped; `synced_id` is the row it noted.

        Raises sqlite3.DatabaseError (SQLITE_CORRUPT) when a file is missing or too short, but after a loss of power,
        when that is what is to be expected: then the table follows the files (cleaning.py forgets the rows).
        """
        self.total = 0
        lengths = {file.name: file.stat().st_size for file in self.folder.iterdir() if file.name != journal.FILE_NAME}
        known = connection.execute("SELECT number, bytes FROM segments").fetchall()
        rows = connection.execute("SELECT number, last_id FROM segments WHERE last_id > ?", (synced_id,)).fetchall()
        self.unsynced = {number for number, _ in rows}
        self.last_id = max([synced_id, *(last_id for _, last_id in rows)])
        for number, size in known:
            held = lengths.pop(_name(number), 0)
            if held < size:
                if not lost_power:
                    raise damaged(f"{self.path(number).name} has {held} bytes of {size}")
                connection.execute("UPDATE segments SET bytes = ? WHERE number = ?", (held, number))
            self.total += min(size, held)
        for name in lengths:
            (self.folder / name).unlink()
        self._new.number = max([0, *(number for number, _ in known)])
        self._kept.number = min([0, *(number for number, _ in known)])
        ends = {} if lost_power else dict(known)  # what is not sure to be there is not gone on with
        for opened in (self._new, self._kept):
            if opened.number in ends:
                opened.begin(self.path(opened.number), opened.number, ends[opened.number])

    def close(self) -> None:
        """Close the files."""
        self._new.close()
        self._kept.close()

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.folder / _name(number)

    def write(self, data: list[bytes], *, keep: bool = False) -> tuple[int, list[int]]:
        """Write batches, one or more, behind each other; in which segment, and where each of them starts.

        They count once `committed` was called, and are written over if it was not. Raises OSError; ENOSPC also where
        all segments would have more than they may.
        """
        opened = self._kept if keep else self._new
        sizes = [len(each) for each in data]
        size = sum(sizes)
        if self.total + size > self._max_bytes and not keep:  # what cleaning adds, it takes away
            raise OSError(errno.ENOSPC, "the spool is full")
        if opened.descriptor < 0 or opened.end >= self._segment_bytes:
            number = opened.number + (-1 if keep else 1)
            opened.begin(self.path(number), number)
            if self._fsync or keep:
                disk.sync(self.folder)
        disk.write_all(opened.descriptor, data, opened.end)
        if self._fsync or keep:
            os.fdatasync(opened.descriptor)
        opened.written = size
        return opened.number, list(accumulate(sizes[:-1], initial=opened.end))

    def committed(self, *, keep: bool = False) -> None:
        """What was written is to stay: the journal has its record, or a transaction its rows."""
        opened = self._kept if keep else self._new
        opened.end += opened.written
        self.total += opened.written
        opened.written = 0
        if not keep:
            self.unsynced.add(opened.number)
            self._oldest_unrecorded = min(self._oldest_unrecorded, opened.number)

    def record(self, connection: sqlite3.Connection, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Within the transaction that inserts rows: their ids, segments, starts and sizes."""
        for number, found in groupby(rows, itemgetter(1)):
            ids, _, starts, sizes = zip(*found, strict=True)
            end = max(map(add, starts, sizes))
            connection.execute(_RECORD, (number, end, sum(sizes), min(ids), max(ids)))

    def recorded(self, last_id: int) -> None:
        """The tables have all that was committed, up to this row."""
        self.last_id = max(self.last_id, last_id)
        self._oldest_unrecorded = _NONE

    def forgot(self, connection: sqlite3.Connection, spots: Iterable[tuple[int, int]]) -> None:
        """Within the transaction that deletes rows: (segment, bytes) of each."""
        dead: dict[int, int] = {}
        for segment, size in spots:
            if segment:
                dead[segment] = dead.get(segment, 0) + size
        for segment, size in dead.items():
            connection.execute("UPDATE segments SET live = live - ? WHERE number = ?", (size, segment))

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Delete the files that no row refers to, outside of a transaction.

        No number is used again: a reader that still looks for what has gone must not find something else.
        """
        dead = connection.execute(
            "DELETE FROM segments WHERE live <= 0 AND number < ? RETURNING number, bytes", (self._oldest_unrecorded,)
        ).fetchall()
        for number, size in dead:
            for opened in (self._new, self._kept):
                if opened.number == number:
                    opened.close()
            self.path(number).unlink(missing_ok=True)
            self.total -= size
            self.unsynced.discard(number)

    def live(self, connection: sqlite3.Connection, number: int) -> int:
        """Bytes of a segment that rows refer to."""
        row = connection.execute("SELECT live FROM segments WHERE number = ?", (number,)).fetchone()
        return int(row[0]) if row is not None else 0

    def emptiest(self, connection: sqlite3.Connection) -> int | None:
        """The segment of whose bytes the least part is referred to; None when none has anything to give."""
        row = connection.execute(
            "SELECT number FROM segments WHERE live < bytes AND number NOT IN (?, ?) "
            "ORDER BY CAST(live AS REAL) / bytes LIMIT 1",
            (self._new.number, self._kept.number),
        ).fetchone()
        return row[0] if row is not None else None

    def take_unsynced(self) -> tuple[set[int], int]:
        """What is to be synced now, and the last row that is safe once it is."""
        numbers, self.unsynced = self.unsynced, set()
        return numbers, self.last_id

    def sync(self, numbers: Iterable[int]) -> None:
        """Sync these segments and the folder, and let the kernel forget the older ones; raises OSError.

        In one other thread than the rest.
        """
        for number in numbers:
            self._with_file(number, os.fdatasync)
        disk.sync(self.folder)
        self._cached.update(numbers)
        newest = self._new.number
        for number in [number for number in self._cached if number <= newest - CACHED_SEGMENTS]:
            self._cached.discard(number)
            self._with_file(number, lambda file: os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED))

    def _with_file(self, number: int, do: Callable[[int], None]) -> None:
        with suppress(FileNotFoundError), disk.opened(self.path(number)) as file:  # no row may refer to it any more
            do(file)


class Files:
    """Reads batches out of segments, in one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: set[int] = set()

    def load(self, spots: list[Spot], *, missing_ok: bool = False) -> dict[Spot, bytes]:
        """What lies there; a spot that cannot be read is left out.

        Raises FileNotFoundError for a segment that was deleted, unless those may be missing too.
        """
        found: dict[Spot, bytes] = {}
        spots = sorted(spots)
        first = 0
        while first < len(spots):
            segment, start, size = spots[first]
            end = start + size
            last = first + 1
            while last < len(spots) and spots[last].segment == segment:
                following = spots[last]
                if following.start > end + _GAP_BYTES or following.start + following.size > start + _SPAN_BYTES:
                    break
                end = following.start + following.size
                last += 1
            try:
                data = self._read(segment, start, end - start)
            except FileNotFoundError:
                if not missing_ok:
                    raise
                data = b""
            for spot in spots[first:last]:
                part = data[spot.start - start : spot.start - start + spot.size]
                if len(part) == spot.size and part.endswith(b"\n") and part[:1].isdigit():
                    found[spot] = part
                else:
                    self._tell(spot)
            first = last
        return found

    def _read(self, segment: int, start: int, size: int) -> bytes:
        with disk.opened(self._folder / _name(segment)) as file:
            return os.pread(file, size, start)

    def _tell(self, spot: Spot) -> None:
        if spot.segment not in self._told:
            self._told.add(spot.segment)
            log.error("segment_damaged", file=str(self._folder / _name(spot.segment)), at=spot.start)


def _name(number: int) -> str:
    return f"{number:08d}" if number > 0 else f"kept-{-number:08d}"


def damaged(text: str, code: int = sqlite3.SQLITE_CORRUPT) -> sqlite3.DatabaseError:
    """An error of ours with a code of SQLite's: the spool is set aside for it."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = code
    return error
