"""The lines that will be committed together.

Invariants (a model test in tests/test_group.py):

* The lines of one channel stay in the order in which they were taken; positions are given at `seal`, without gaps,
  and groups are sealed in the order in which they commit.
* A line is counted `received` (or `own`) when it is sealed, and `writing` from then until its group is settled.
* A line is a string of its channel's list (fastpath.py), `odd` ones too.
* Lines are joined into pieces while they are still in the processor's cache (`compact`); a list stays the same object.
* Lines of one channel have the layout that the channel had at the first of them; the `odd` ones are RAW.
* What is known for a group (entries.py, and the lists that entries fill) goes over to the next one, where this one had
  lines for most of its channels, and all still have their layout; empty lists count for nothing.
* Whoever waits for the group's commit waits on `settled`, or is called by it; both also say how it ended.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import trio

from .batch import Batch, Form, Layout, raw_frame
from .channel import Channel
from .dedupe import First
from .entries import Known, Lists, Way
from .joining import SAMPLE_LINES, Piece, from_lines, from_mixed, from_pieces

COMPACT_BYTES = 512 * 1024  # of new lines; what a core's cache holds beside the rest
COMPACT_CHANNELS = 512  # of more, each has too few of them: joining costs more than it saves
MAX_KEPT = 50_000  # entries, from one group to the next: a sender that makes up processes has it all learned again


class Outcome(Enum):
    """How a group ended; what a held request may be told."""

    DONE = "done"  # as durable as was promised
    MEMORY = "memory"  # shown, but only in memory: 204 carries `Logplex-Durability: memory`
    HELD = "held"  # still not committed, and nobody can say when: close, so that shippers retry


class Sealed(NamedTuple):
    """A numbered batch of a channel in a group; those of one channel follow each other."""

    channel: Channel
    batch: Batch


_sealed = tuple.__new__  # a third of the cost of Sealed(…); one for each channel


class Group:
    """Lines in the order of their arrival, by channel; filled by the router, sealed by the committer."""

    __slots__ = (
        "_compact_at",
        "_filled",
        "_lists",
        "_odd",
        "_own",
        "_pieces",
        "_told",
        "bytes",
        "ids",
        "known",
        "outcome",
        "touched",
        "waiting",
    )

    def __init__(self) -> None:
        self.bytes = 0  # rendered bytes, roughly
        self.waiting = False  # somebody is held until the commit
        self.known: dict[Way, Known] = {}  # of principals
        self.ids: list[First] = []  # request ids to store with the lines
        self.touched: set[Channel] = set()  # channels whose page changed though they may get no line
        self.outcome: Outcome | None = None
        self._lists = Lists()
        self._pieces: dict[Channel, list[Piece]] = {}  # joined lines, before those in the lists
        self._compact_at = COMPACT_BYTES
        self._filled = 0  # channels that had lines when it was sealed
        self._odd: dict[Channel, dict[int, bool]] = {}  # index → tails only
        self._own: dict[Channel, int] = {}
        self._told: list[Callable[[Outcome], None]] = []

    def __bool__(self) -> bool:
        return bool(self.bytes or self.ids or self.touched)

    def __len__(self) -> int:
        """For how many channels there may be lines in it."""
        return len(self._lists.lines)

    def known_of(self, way: Way) -> Known:
        """What is known of a principal."""
        known = self.known.get(way)
        if known is None:
            known = self.known[way] = Known(way, self._lists)
            self._lists.learned += 1
        return known

    def open(self, channel: Channel) -> tuple[Layout, list[str]]:
        """The layout in which the channel's lines are to be rendered, and where they go."""
        return self._lists.open(channel)

    def open_joined(self, channel: Channel) -> Layout | None:
        """As `open`, for lines that are joined already; None when there are odd ones before them."""
        return None if channel in self._odd else self.open(channel)[0]

    def append_joined(self, channel: Channel, piece: Piece) -> None:
        """Add lines of the layout that `open_joined` gave."""
        self._join(channel, self._lists.lines[channel])
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
        return joined + len(self._lists.lines.get(channel, ()))

    def compact(self) -> None:
        """Join what has gathered, when it is worth it; to be called now and then while the group fills."""
        if self.bytes < self._compact_at or len(self._lists.lines) > COMPACT_CHANNELS:
            return
        self._compact_at = self.bytes + COMPACT_BYTES
        for channel, lines in self._lists.lines.items():
            if channel not in self._odd:
                self._join(channel, lines)

    def _join(self, channel: Channel, lines: list[str]) -> None:
        if lines:
            pieces = self._pieces.get(channel)
            if pieces is None:
                pieces = self._pieces[channel] = []
            if len(lines) <= SAMPLE_LINES:
                pieces.append(Piece(len(lines), "".join(lines).encode("latin-1")))
            else:
                pieces += [Piece(each.count, each.data) for each in from_lines(lines, 0, 0, Form.RAW)]
            lines.clear()

    def open_own(self, channel: Channel) -> int:
        """How many of them are ours."""
        return self._own.get(channel, 0)

    def forget(self, channel: Channel) -> int:
        """The channel was deleted: give up its lines and return their number."""
        self._odd.pop(channel, None)
        self._own.pop(channel, None)
        self.touched.discard(channel)
        self.known.clear()
        lines = self.open_lines(channel)
        self._lists.lines.pop(channel, None)
        self._lists.layouts.pop(channel, None)
        self._pieces.pop(channel, None)
        return lines

    def seal(self, at: int) -> list[Sealed]:
        """Number all lines, received at `at` (unix ms), and render them into batches; then comes `follow`."""
        sealed: list[Sealed] = []
        self._filled = 0
        layouts = self._lists.layouts
        for channel, lines in self._lists.lines.items():
            pieces = self._pieces.get(channel)
            if not lines and not pieces:  # of the group before, or of a scan that was undone
                continue
            form = layouts[channel].form
            first = channel.numbered
            batches = []
            if pieces is not None:
                batches = from_pieces(pieces, first, at, form)
                first = batches[-1].end
            if lines:
                odd = self._odd.get(channel)
                batches += from_mixed(lines, odd, first, at, form) if odd else from_lines(lines, first, at, form)
            count = batches[-1].end - channel.numbered
            own = self._own.get(channel, 0)
            channel.numbered += count
            page = channel.page
            page.received += count - own
            page.own += own
            page.writing += count
            for batch in batches:
                sealed.append(_sealed(Sealed, (channel, batch)))
            self._filled += 1
            lines.clear()
        self._pieces = {}
        return sealed

    def follow(self) -> "Group":
        """The group that fills after this one, which was sealed just now."""
        group = Group()
        if (
            2 * self._filled >= len(self._lists.lines)
            and self._lists.learned <= MAX_KEPT
            and [channel.layout for channel in self._lists.layouts] == list(self._lists.layouts.values())
        ):
            group._lists, group.known = self._lists, self.known
        self._lists, self.known = Lists(), {}
        return group

    def absorb(self, other: "Group") -> None:
        """Take over all lines of `other` (of one request), behind those that are here."""
        for channel, lines in other._lists.lines.items():
            mine = self.open(channel)[1]
            odd = other._odd.get(channel, {})
            layout = other._lists.layouts[channel]
            if self._lists.layouts[channel] == layout:
                if odd:
                    shift = len(mine)
                    self._odd.setdefault(channel, {}).update({shift + index: tails for index, tails in odd.items()})
                mine += lines
                continue
            for index in range(len(lines)):  # a drain came or went within the request
                data = lines[index].encode("latin-1")
                line = Batch(0, 1, 0, Form.RAW if index in odd else layout.form, data).lines()[0]
                self.append_raw(channel, int(line.pri), line.time, line.source, line.process, line.text)
        if other._lists.lines:
            self.bytes += other.bytes
        self.touched |= other.touched

    def counts(self) -> list[tuple[Channel, int]]:
        """Lines by channel, while the group fills."""
        return [(channel, len(lines)) for channel, lines in self._lists.lines.items()]

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

    def _append_odd(self, channel: Channel, frame: bytes, *, tails_only: bool) -> None:
        lines = self.open(channel)[1]
        self._odd.setdefault(channel, {})[len(lines)] = tails_only
        lines.append(frame.decode("latin-1"))
        self.bytes += len(frame)
