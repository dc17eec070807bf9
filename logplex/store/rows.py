"""A group as rows: as it is handed over, as the journal holds it, and as the tables take it in.

Small batches of a channel and layout that adjoin each other become one row (`joined`), of a group as of the groups of
a round: a row costs more than what is in it.
"""

from operator import itemgetter
from typing import NamedTuple

from ..batch import Batch, Form, host_of

TAILS_ONLY = 16  # beside the form

Line = tuple[int, int, int, int, int, int, int, bytes | None, int, int, int, bytes | None]
"""A row of `lines`, in the order of its columns."""


class Rows(NamedTuple):
    """One group, ready to be written."""

    lines: list[Line]  # with their batches in them
    places: list[tuple[int, int, int, int, bytes]]
    state: list[tuple[int, int, bytes]]
    forgotten: list[int]  # drains whose cursor goes
    ids: bytes


class Record(NamedTuple):
    """A group as the journal holds it: its larger batches are in segments."""

    lines: list[Line]
    places: list[tuple[int, int, int, int, bytes]]
    state: list[tuple[int, int, bytes]]
    forgotten: list[int]
    ids: bytes
    at: float  # wall clock


def as_line(row_id: int, channel_id: int, batch: Batch, total: int, page: bytes | None) -> Line:
    """The row of a batch that is in it; `total` bytes were written of its channel ever, `page` is the ledger's."""
    form = batch.form | TAILS_ONLY if batch.tails_only else int(batch.form)
    data = batch.data
    return (row_id, channel_id, batch.first, batch.count, batch.at, form, total, page, 0, 0, len(data), data)


def joined(lines: list[Line], most: int) -> list[Line]:
    """Lines in the order of their ids; batches of one channel and layout that adjoin made one, within `most` bytes.

    Those with a sender's own text for a time stay: it may have to be replaced by the time at which they came.
    """
    found = [line for line in lines if line[11] is None]
    if len(found) == len(lines):
        return found
    runs: dict[int, _Run] = {}  # by channel
    for line in lines:
        data = line[11]
        if data is None:
            continue
        run = runs.get(line[1])
        if run is not None:
            if run.takes(line, data, most):
                continue
            found.append(run.line())
        if (line[5] & ~TAILS_ONLY) == Form.RAW:
            runs.pop(line[1], None)
            found.append(line)
        else:
            runs[line[1]] = _Run(line, data)
    found += [run.line() for run in runs.values()]
    found.sort(key=itemgetter(0))
    return found


class _Run:
    """Batches that will be one row."""

    __slots__ = ("_end", "_first", "_form", "_host", "_last", "_parts", "_size")

    def __init__(self, line: Line, data: bytes) -> None:
        self._first = self._last = line
        self._end = line[2] + line[3]
        self._form = line[5]
        self._host = host_of(data) if (self._form & ~TAILS_ONLY) == Form.SYSLOG else b""
        self._parts = [data]
        self._size = line[10]

    def takes(self, line: Line, data: bytes, most: int) -> bool:
        """Add a batch, if it goes on where the others end and is like them."""
        if line[2] != self._end or line[5] != self._form or self._size + line[10] > most:
            return False
        if self._host and host_of(data) != self._host:
            return False
        self._last = line
        self._end += line[3]
        self._parts.append(data)
        self._size += line[10]
        return True

    def line(self) -> Line:
        """All of them as a row."""
        if len(self._parts) == 1:
            return self._first
        last, first = self._last, self._first[2]
        return (*last[:2], first, self._end - first, *last[4:10], self._size, b"".join(self._parts))
