"""The lines that will be committed together.

Invariants (a model test in tests/test_group.py):

* The lines of one channel stay in the order in which they were taken; positions are given at `seal`, without gaps,
  and groups are sealed in the order in which they commit.
* A line is counted `received` (or `own`) when it is sealed, and `writing` from then until its group is settled.
* A line is PARTS strings of its channel's list (fastpath.py); an `odd` one is its frame and empty strings.
* Lines are joined into pieces while they are still in the processor's cache (`compact`); a list stays the same object.
* Lines of one channel have the layout that the channel had at the first of them; the `odd` ones are RAW.
* Whoever waits for the group's commit waits on `settled`, or is called by it; both also say how it ended.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

import trio

from .batch import Batch, Form, Layout, raw_frame
from .channel import Channel
from .dedupe import First
from .fastpath import PARTS, Entries

MAX_BATCH_BYTES = 96 * 1024  # a delivery's usual size: a batch that fits is never cut
COMPACT_BYTES = 256 * 1024  # of new lines; what a core's cache holds beside the rest
COMPACT_CHANNEL_BYTES = 1024  # of new lines a channel, or joining costs more than it saves
COMPACT_CHANNELS = 4096  # of more, so many lines are in no cache
SMALL_LINES = 9  # that fit into a batch whatever their length
SAMPLE_LINES = 256  # of the first batch of a channel: how many lines fit into the next ones follows from it


_NO_PARTS = ("",) * (PARTS - 1)


class Outcome(Enum):
    """How a group ended; what a held request may be told."""

    DONE = "done"  # as durable as was promised
    MEMORY = "memory"  # shown, but only in memory: 204 carries `Logplex-Durability: memory`
    HELD = "held"  # still not committed, and nobody can say when: close, so that shippers retry


class Piece(NamedTuple):
    """Lines that are joined already."""

    lines: int
    data: bytes
    clean: bool = False  # batch.py


class Sealed(NamedTuple):
    """The numbered batches of one channel in one group."""

    channel: Channel
    batches: list[Batch]


class Group:
    """Lines in the order of their arrival, by channel; filled by the router, sealed by the committer."""

    __slots__ = (
        "_compact_at",
        "_layouts",
        "_lines",
        "_odd",
        "_own",
        "_pieces",
        "_told",
        "bytes",
        "entries",
        "ids",
        "outcome",
        "touched",
        "waiting",
    )

    def __init__(self) -> None:
        self.bytes = 0  # rendered bytes, roughly
        self.waiting = False  # somebody is held until the commit
        self.entries: dict[object, Entries] = {}  # by principal; see fastpath
        self.ids: list[First] = []  # request ids to store with the lines
        self.touched: set[Channel] = set()  # channels whose page changed though they may get no line
        self.outcome: Outcome | None = None
        self._lines: dict[Channel, list[str]] = {}  # PARTS strings a line
        self._pieces: dict[Channel, list[Piece]] = {}  # joined lines, before those in `_lines`
        self._compact_at = COMPACT_BYTES
        self._layouts: dict[Channel, Layout] = {}
        self._odd: dict[Channel, dict[int, bool]] = {}  # index → tails only
        self._own: dict[Channel, int] = {}
        self._told: list[Callable[[Outcome], None]] = []

    def __bool__(self) -> bool:
        return bool(self._lines or self.ids or self.touched)

    def __len__(self) -> int:
        """How many channels have lines in it."""
        return len(self._lines)

    def open(self, channel: Channel) -> tuple[Layout, Callable[[Iterable[str]], None]]:
        """The layout in which the channel's lines are to be rendered, and where their parts go."""
        lines = self._lines.get(channel)
        if lines is None:
            lines = self._lines[channel] = []
            layout = self._layouts[channel] = channel.layout
            return layout, lines.extend
        return self._layouts[channel], lines.extend

    def open_joined(self, channel: Channel) -> Layout | None:
        """As `open`, for lines that are joined already; None when there are odd ones before them."""
        return None if channel in self._odd else self.open(channel)[0]

    def append_joined(self, channel: Channel, piece: Piece) -> None:
        """Add lines of the layout that `open_joined` gave."""
        self._join(channel, self._lines[channel])
        self._pieces.setdefault(channel, []).append(piece)

    def append_raw(self, channel: Channel, pri: int, time: bytes, source: bytes, process: bytes, text: bytes) -> None:
        """Add a line that does not have the channel's form."""
        self._append_odd(channel, raw_frame(pri, time, source, process, text), tails_only=False)

    def append_own(self, channel: Channel, pri: int, time: bytes, text: bytes, *, tails_only: bool) -> None:
        """Add a line of ours (source `heroku`, process `logplex`)."""
        self._own[channel] = self._own.get(channel, 0) + 1
        self._append_odd(channel, raw_frame(pri, time, b"heroku", b"logplex", text), tails_only=tails_only)

    def open_lines(self, channel: Channel) -> int:
        """Lines of the channel that are not sealed yet."""
        joined = sum(piece.lines for piece in self._pieces.get(channel, ()))
        return joined + len(self._lines.get(channel, ())) // PARTS

    def compact(self) -> None:
        """Join what has gathered, when it is worth it; to be called now and then while the group fills."""
        if self.bytes < self._compact_at or len(self._lines) > COMPACT_CHANNELS:
            return
        if self.bytes - self._compact_at + COMPACT_BYTES < COMPACT_CHANNEL_BYTES * len(self._lines):
            return
        self._compact_at = self.bytes + COMPACT_BYTES
        for channel, lines in self._lines.items():
            if channel not in self._odd:
                self._join(channel, lines)

    def _join(self, channel: Channel, lines: list[str]) -> None:
        if lines:
            pieces = self._pieces.get(channel)
            if pieces is None:
                pieces = self._pieces[channel] = []
            if len(lines) <= SAMPLE_LINES * PARTS:
                pieces.append(Piece(len(lines) // PARTS, "".join(lines).encode("latin-1")))
            else:
                pieces += [Piece(each.count, each.data) for each in _batches(lines, 0, 0, Form.RAW, tails_only=False)]
            lines.clear()

    def open_own(self, channel: Channel) -> int:
        """How many of them are ours."""
        return self._own.get(channel, 0)

    def forget(self, channel: Channel) -> int:
        """The channel was deleted: give up its lines and return their number."""
        self._odd.pop(channel, None)
        self._own.pop(channel, None)
        self.touched.discard(channel)
        self.entries.clear()
        lines = self.open_lines(channel)
        self._lines.pop(channel, None)
        self._pieces.pop(channel, None)
        return lines

    def seal(self, at: int) -> list[Sealed]:
        """Number all lines, received at `at` (unix ms), and render them into batches."""
        sealed = []
        for channel, lines in self._lines.items():
            pieces = self._pieces.get(channel)
            if not lines and not pieces:  # a scan that was undone
                continue
            form = self._layouts[channel].form
            first = channel.numbered
            batches: list[Batch] = []
            if pieces is not None:
                batches = _joined_batches(pieces, first, at, form)
                first = batches[-1].end
            if odd := self._odd.get(channel):
                batches += _mixed_batches(lines, odd, first, at, form)
            else:
                batches += _batches(lines, first, at, form, tails_only=False)
            count = batches[-1].end - channel.numbered
            own = self._own.get(channel, 0)
            channel.numbered += count
            page = channel.page
            page.received += count - own
            page.own += own
            page.writing += count
            sealed.append(Sealed(channel, batches))
        self._lines = {}
        self._pieces = {}
        self.entries = {}
        return sealed

    def absorb(self, other: "Group") -> None:
        """Take over all lines of `other` (of one request), behind those that are here."""
        for channel, lines in other._lines.items():
            mine = self._list(channel)
            odd = other._odd.get(channel, {})
            layout = other._layouts[channel]
            if self._layouts[channel] == layout:
                if odd:
                    shift = len(mine) // PARTS
                    self._odd.setdefault(channel, {}).update({shift + index: tails for index, tails in odd.items()})
                mine += lines
                continue
            for index in range(len(lines) // PARTS):  # a drain came or went within the request
                data = "".join(lines[index * PARTS : (index + 1) * PARTS]).encode("latin-1")
                line = Batch(0, 1, 0, Form.RAW if index in odd else layout.form, data).lines()[0]
                self.append_raw(channel, int(line.pri), line.time, line.source, line.process, line.text)
        self.bytes += other.bytes
        self.touched |= other.touched

    def counts(self) -> list[tuple[Channel, int]]:
        """Lines by channel, while the group fills."""
        return [(channel, len(lines) // PARTS) for channel, lines in self._lines.items()]

    async def settled(self) -> Outcome:
        """Wait until the group has ended, one way or another."""
        if self.outcome is None:
            settled = trio.Event()
            self.when_settled(lambda outcome: settled.set())
            await settled.wait()
        assert self.outcome is not None
        return self.outcome

    def when_settled(self, callback: Callable[[Outcome], None]) -> None:
        """Have `callback` called when the group has ended, at once if it has; it must neither wait nor raise."""
        if self.outcome is None:
            self._told.append(callback)
        else:
            callback(self.outcome)

    def settle(self, outcome: Outcome) -> None:
        """Tell everybody who is held; only the first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            told, self._told = self._told, []
            for callback in told:
                callback(outcome)

    def _list(self, channel: Channel) -> list[str]:
        lines = self._lines.get(channel)
        if lines is None:
            self.open(channel)
            lines = self._lines[channel]
        return lines

    def _append_odd(self, channel: Channel, frame: bytes, *, tails_only: bool) -> None:
        lines = self._list(channel)
        self._odd.setdefault(channel, {})[len(lines) // PARTS] = tails_only
        lines += (frame.decode("latin-1"), *_NO_PARTS)
        self.bytes += len(frame)


def _joined_batches(pieces: list[Piece], first: int, at: int, form: Form) -> list[Batch]:
    """Pieces put together up to about MAX_BATCH_BYTES; one that is larger stays as it is."""
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


def _batches(lines: list[str], first: int, at: int, form: Form, *, tails_only: bool) -> list[Batch]:
    """One batch, or several of about MAX_BATCH_BYTES, so that none is cut on its way to a drain.

    Joined piece by piece: a piece stays in the processor's cache, all lines of a busy channel would not.
    """
    if len(lines) <= PARTS * SMALL_LINES:
        data = "".join(lines).encode("latin-1")
        return [Batch(first, len(lines) // PARTS, at, form, data, tails_only=tails_only)] if lines else []
    batches = []
    start = 0
    step = SAMPLE_LINES * PARTS
    while start < len(lines):
        part = lines[start : start + step] if start or step < len(lines) else lines
        count = len(part) // PARTS
        data = "".join(part).encode("latin-1")
        size = len(data)
        step = max(1, count * MAX_BATCH_BYTES // size) * PARTS
        if size > 2 * MAX_BATCH_BYTES and count > 1:
            continue
        batches.append(Batch(first, count, at, form, data, tails_only=tails_only))
        first += count
        start += len(part)
    return batches


def _mixed_batches(lines: list[str], odd: dict[int, bool], first: int, at: int, form: Form) -> list[Batch]:
    """Runs of lines of one kind: the channel's form, RAW, RAW for tails only."""
    batches: list[Batch] = []
    count = len(lines) // PARTS
    start = 0
    kind = odd.get(0)
    for index in range(1, count + 1):
        if index < count and odd.get(index) is kind:
            continue
        run_form = form if kind is None else Form.RAW
        run = lines[start * PARTS : index * PARTS]
        batches += _batches(run, first + start, at, run_form, tails_only=bool(kind))
        start = index
        kind = odd.get(index)
    return batches
