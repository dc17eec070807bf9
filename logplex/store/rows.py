"""A group as rows: as it is handed over, as the journal holds it, and as the tables take it in.

Small batches of a channel and layout that adjoin each other become one row (`joined`): with many channels a row costs
more than what is in it.
"""

from operator import itemgetter
from typing import NamedTuple

from ..batch import Batch, Form, host_of

TAILS_ONLY = 16  # beside the form
JOINED_BYTES = 3500  # a row that fits into a page

Line = tuple[int, int, int, int, int, int, int, bytes | None, int, int, int, bytes | None]
"""A row of `lines`, in the order of its columns."""


class Rows(NamedTuple):
    """One group, ready to be written."""

    lines: list[tuple[int, int, int, int, int, int, int, bytes | None, bytes]]  # id … page, and the batch
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


def form_number(batch: Batch) -> int:
    """How `lines.form` holds a batch's form and audience."""
    return batch.form | TAILS_ONLY if batch.tails_only else int(batch.form)


def joined(lines: list[Line]) -> list[Line]:
    """Lines in the order of their ids, small batches of one channel and layout that adjoin each other made one.

    Those with a sender's own text for a time stay: it may have to be replaced by the time at which they came.
    """
    found: list[Line] = []
    open_: dict[int, list[Line]] = {}  # channel → batches that will be one
    for line in lines:
        run = open_.get(line[1])
        if run is not None and not _goes_on(run, line):
            found.append(_one(run))
            run = None
        if line[11] is None or (line[5] & ~TAILS_ONLY) == Form.RAW:
            open_.pop(line[1], None)
            found.append(line)
        elif run is not None:
            run.append(line)
        else:
            open_[line[1]] = [line]
    found += [_one(run) for run in open_.values()]
    found.sort(key=itemgetter(0))
    return found


def _goes_on(run: list[Line], line: Line) -> bool:
    """Whether the line's batch can be joined to those before it."""
    last = run[-1]
    if line[11] is None or last[11] is None or last[5] != line[5] or last[2] + last[3] != line[2]:
        return False
    if (line[5] & ~TAILS_ONLY) == Form.SYSLOG and host_of(line[11]) != host_of(last[11]):
        return False
    return sum(each[10] for each in run) + line[10] <= JOINED_BYTES


def _one(run: list[Line]) -> Line:
    if len(run) == 1:
        return run[0]
    last = run[-1]
    first, end = run[0][2], last[2] + last[3]
    data = b"".join([each[11] for each in run if each[11] is not None])
    return (last[0], last[1], first, end - first, *last[4:10], len(data), data)
