"""Where groups are committed, and how they come into the tables: first the journal, later all of a round at once.

Rules (a Hypothesis state machine in tests/store/test_spool_model.py; tests/store/test_writer.py):

* A group is committed when its record is in the journal; batches over `INLINE_BYTES` are in a segment before that.
* The tables take in a round, in one transaction, when a commit has made it older than `ROUND_SECONDS` or larger than
  `ROUND_BYTES` or `ROUND_ROWS` (`is_due`), and when somebody asks for it (`settle`). Who reads the tables before asks
  for it, or reads what is `late` too.
* A round that the tables could not take in is tried again before anything else is committed: nothing is acknowledged
  on top of a disk that takes no more.
* After a crash the journal's records are taken in before anything else happens.

All of it runs in the thread that writes, but `is_due`, `lags_for` and `late`, which one other thread may ask.
"""

import sqlite3
import time
from collections.abc import Iterable

import msgpack

from . import journal as journals
from . import tables
from .journal import Journal
from .rows import Line, Record, Rows
from .segments import INLINE_BYTES, Segments, damaged

ROUND_SECONDS = 1.0
ROUND_BYTES = 16 * 1024 * 1024
ROUND_ROWS = 50_000


class _Round:
    """What was committed and the tables do not have: the thread that writes adds, another one looks."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.rows = 0
        self.began = 0.0  # monotonic; when it got its first record
        self._by_channel: dict[int, list[Line]] = {}
        self._seen = 0  # records that are in it

    def add(self, record: Record) -> None:
        if not self.records:
            self.began = time.monotonic()
        self.rows += len(record.lines)
        self.records.append(record)

    def by_channel(self) -> dict[int, list[Line]]:
        """The rows of each channel in it, in their order; sorted out when somebody asks, which is seldom."""
        found = self._by_channel
        for record in self.records[self._seen :]:
            self._seen += 1
            for line in record.lines:
                found.setdefault(line[1], []).append(line)
            for place in record.places:
                found.setdefault(place[0], [])
        return found


class Writer:
    """The journal, the segments and the tables of one spool; `open` comes first."""

    def __init__(self, segments: Segments, journal: Journal) -> None:
        self.segments = segments
        self.journal = journal
        self._round = _Round()
        self._failed = False

    def open(self, connection: sqlite3.Connection) -> None:
        """Take in what the last server committed and the tables do not have.

        Raises OSError, and sqlite3.DatabaseError (SQLITE_CORRUPT) when there is no journal where one has to be.
        """
        self.segments.folder.mkdir(mode=0o700, exist_ok=True)
        key = tables.round_key(connection)
        if key is not None and not self.journal.exists:
            raise damaged(f"{self.journal.path.name} is missing")
        self.journal.open()
        if key is None:
            key = journals.new_key()
            tables.note_round(connection, key)
        self.journal.begin(key)
        for payload in self.journal.payloads():
            self._round.add(_unpacked(payload))
        self.settle(connection)

    def close(self) -> None:
        """Close the files; what they hold stays committed."""
        self.journal.close()
        self.segments.close()

    def append(self, connection: sqlite3.Connection, rows: Rows) -> int:
        """Commit one group, all of it or nothing; how many rows the tables took in on the way.

        Raises OSError, and sqlite3.Error from taking in a round.
        """
        taken_in = self.settle(connection) if self._failed else 0
        try:
            record = self._stored(rows)
            self.journal.write(msgpack.packb(record))
        except BaseException:
            self._failed = True
            raise
        if record.lines is not rows.lines:
            self.segments.committed()
        self._round.add(record)
        return taken_in

    def settle(self, connection: sqlite3.Connection) -> int:
        """Have the tables take in all that was committed; how many rows that made. Raises sqlite3.Error."""
        self._failed = False
        records = self._round.records
        if not records:
            return 0
        key = journals.new_key()
        try:
            count = tables.take_in(connection, self.segments, records, key)
        except BaseException:
            self._failed = True
            raise
        self.journal.begin(key)
        self._round = _Round()
        return count

    @property
    def is_due(self) -> bool:
        """Whether the tables should take in the round now."""
        late = self._round
        if not late.records:
            return False
        old = time.monotonic() - late.began > ROUND_SECONDS
        return old or self.journal.end > ROUND_BYTES or late.rows > ROUND_ROWS

    def lags_for(self, channels: Iterable[int]) -> bool:
        """Whether the tables lack something of one of these channels."""
        late = self._round.by_channel()
        return any(channel_id in late for channel_id in channels)

    def late(self, channel_id: int) -> list[Line]:
        """What the tables lack of a channel's lines, in their order."""
        return list(self._round.by_channel().get(channel_id, ()))

    def _stored(self, rows: Rows) -> Record:
        """The group with its larger batches in a segment."""
        lines = rows.lines
        large = [line[11] for line in lines if line[10] > INLINE_BYTES and line[11] is not None]
        if large:
            number, starts = self.segments.write(large)
            at = iter(starts)
            lines = [
                line if line[10] <= INLINE_BYTES else (*line[:8], number, next(at), line[10], None) for line in lines
            ]
        return Record(lines, rows.places, rows.state, rows.forgotten, rows.ids, time.time())


def _unpacked(payload: bytes) -> Record:
    lines, places, state, forgotten, ids, at = msgpack.unpackb(payload)
    return Record([tuple(line) for line in lines], places, [tuple(each) for each in state], forgotten, ids, at)
