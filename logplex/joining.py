"""The lines of one channel joined into batches, none much larger than a delivery.

* Lines come as a string each, as the quick path leaves them (fastpath.py), or joined already, in pieces.
* All functions number the lines from `first` on, and give them the receive time `at` (unix ms).
"""

from typing import NamedTuple

from .batch import Batch, Form

MAX_BATCH_BYTES = 96 * 1024  # a delivery's usual size: a batch that fits is never cut
FEW_LINES = 64  # that usually fit into a batch
SAMPLE_LINES = 256  # of the first batch of a channel: how many lines fit into the next ones follows from it


class Piece(NamedTuple):
    """Lines that are joined already."""

    lines: int
    data: bytes
    clean: bool = False  # batch.py


def from_pieces(pieces: list[Piece], first: int, at: int, form: Form) -> list[Batch]:
    """Pieces put together up to about MAX_BATCH_BYTES; one that is larger stays as it is."""
    if len(pieces) == 1:
        return [Batch(first, pieces[0].lines, at, form, pieces[0].data, clean=pieces[0].clean)]
    batches = []
    parts: list[bytes] = []
    count = size = 0
    clean = True
    for piece in pieces:
        if parts and size + len(piece.data) > MAX_BATCH_BYTES:
            batches.append(Batch(first, count, at, form, b"".join(parts), clean=clean))
            first += count
            parts = []
            count = size = 0
            clean = True
        parts.append(piece.data)
        count += piece.lines
        size += len(piece.data)
        clean = clean and piece.clean
    batches.append(Batch(first, count, at, form, b"".join(parts), clean=clean))
    return batches


def from_lines(lines: list[str], first: int, at: int, form: Form, *, tails_only: bool = False) -> list[Batch]:
    """One batch, or several of about MAX_BATCH_BYTES, so that none is cut on its way to a drain.

    Joined piece by piece: a piece stays in the processor's cache, all lines of a busy channel would not.
    """
    if len(lines) <= FEW_LINES:
        data = "".join(lines).encode("latin-1")
        if len(data) <= MAX_BATCH_BYTES:
            return [Batch(first, len(lines), at, form, data, tails_only=tails_only)] if lines else []
    batches = []
    start = 0
    step = SAMPLE_LINES
    while start < len(lines):
        part = lines[start : start + step] if start or step < len(lines) else lines
        count = len(part)
        data = "".join(part).encode("latin-1")
        size = len(data)
        step = max(1, count * MAX_BATCH_BYTES // size)
        if size > 2 * MAX_BATCH_BYTES and count > 1:
            continue
        batches.append(Batch(first, count, at, form, data, tails_only=tails_only))
        first += count
        start += len(part)
    return batches


def from_mixed(lines: list[str], odd: dict[int, bool], first: int, at: int, form: Form) -> list[Batch]:
    """Runs of lines of one kind: the channel's form, RAW, RAW for tails only."""
    batches: list[Batch] = []
    count = len(lines)
    start = 0
    kind = odd.get(0)
    for index in range(1, count + 1):
        if index < count and odd.get(index) is kind:
            continue
        run_form = form if kind is None else Form.RAW
        run = lines[start:index]
        batches += from_lines(run, first + start, at, run_form, tails_only=bool(kind))
        start = index
        kind = odd.get(index)
    return batches
