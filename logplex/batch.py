"""A run of lines of one channel, rendered once, in the form that its readers want.

Invariants (tests/test_batch.py holds them):

* `count` frames stand in `data` one after the other, each `LEN SP … LF` with LEN counting everything behind
  the space; their positions are `first`, `first + 1`, … without a gap.
* `Form.SYSLOG`: `<PRI>1 T HOST SOURCE PROC - - MSG LF` where T is RFC 3339 and HOST is the same in all lines of a
  batch, and as long as a drain token: that of one of the channel's drains, which takes the batch as it is, or `HOLE`.
  For another drain it is replaced; a batch in which it occurs in a message too is parsed for that.
* `Form.HTTP`: `<PRI>1 T host SOURCE PROC - MSG LF` where T is RFC 3339. An HTTP drain takes it as it is when the
  text holds no CR, no inner LF and no invalid UTF-8, which is asked once a batch.
* `Form.RAW`: laid out as SYSLOG, but T is the sender's text and MSG may hold anything, HOLE too: always parsed.
* MSG is the sender's bytes in every form; what an output forbids is replaced on the way out.

Which form a batch is born with is a matter of cost (what the channel's drains want); every reader gets the same
bytes from each.
"""

from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

from .message import http_text, rfc3339

HOLE = b"d.00000000-0000-4000-8000-000000000000"
"""Stands where a drain token will stand; as long as one (`d.` and a uuid)."""
TOKEN_BYTES = len(HOLE)


class Form(IntEnum):
    """How the frames of a batch are laid out; stored in the spool, so the numbers stay."""

    RAW = 0
    SYSLOG = 1
    HTTP = 2


class Layout(NamedTuple):
    """How a channel's lines are rendered: in which form, and what stands for HOST in `Form.SYSLOG`."""

    form: Form
    host: str = HOLE.decode()


class Line(NamedTuple):
    """One line as a reader sees it; `process` is `-` when there is none, `time` the sender's own text."""

    pri: bytes
    time: bytes
    source: bytes
    process: bytes
    text: bytes


class Batch:
    """Lines `first` to `end` (exclusive) of one channel, received at `at` (unix ms); immutable.

    `clean` says that the text is known to hold no CR, no inner LF and no invalid UTF-8.
    A `tails_only` batch is for tails and history: drains pass over it (protocol section 9, L14).
    """

    __slots__ = ("_http", "_pieces", "at", "count", "data", "end", "first", "form", "tails_only")

    def __init__(
        self,
        first: int,
        count: int,
        at: int,
        form: Form,
        data: bytes,
        *,
        tails_only: bool = False,
        clean: bool = False,
    ) -> None:
        self.first = first
        self.count = count
        self.end = first + count
        self.at = at
        self.form = form
        self.data = data
        self.tails_only = tails_only
        self._http = data if clean and form is Form.HTTP else None
        self._pieces: list[bytes] | None = None

    @property
    def size(self) -> int:
        """Bytes of the stored form."""
        return len(self.data)

    def lines(self) -> list[Line]:
        """The lines, parsed: about 1 µs each."""
        data = self.data
        fields = 6 if self.form is Form.HTTP else 7
        lines = []
        at = 0
        while at < len(data):
            space = data.index(b" ", at)
            at = space + 1 + int(data[at:space])
            parts = data[space + 1 : at - 1].split(b" ", fields)
            lines.append(Line(parts[0][1:-2], parts[1], parts[3], parts[4], parts[fields]))
        return lines

    def http(self) -> bytes:
        """A body of `count` frames as protocol section 7 wants them; rendered once, then shared."""
        if self._http is None:
            if self.form is Form.HTTP and self._text_is_clean():
                self._http = self.data
            else:
                self._http = b"".join([http_frame(line, self.at) for line in self.lines()])
        return self._http

    def syslog(self, token: bytes) -> bytes:
        """Octet-counted frames as protocol section 8 wants them, with `token` (38 bytes) as HOSTNAME."""
        host = host_of(self.data) if self.form is Form.SYSLOG and self.count else None
        if host == token:
            return self.data
        if self._pieces is None:
            pieces = self.data.split(host) if host is not None else []
            self._pieces = pieces if len(pieces) == self.count + 1 else _syslog_pieces(self.lines(), self.at)
        return token.join(self._pieces)

    def cut(self, first: int, end: int) -> "Batch":
        """The part from position `first` to `end` (exclusive); costs a look at each frame's length."""
        first, end = max(first, self.first), min(end, self.end)
        if first == self.first and end == self.end:
            return self
        data = self.data
        at = start = 0
        for position in range(self.first, end):
            if position == first:
                start = at
            space = data.index(b" ", at)
            at = space + 1 + int(data[at:space])
        part = data[start:at] if end > first else b""
        return Batch(first, max(0, end - first), self.at, self.form, part, tails_only=self.tails_only)

    def forget_rendered(self) -> None:
        """Give back what `http` and `syslog` remember; they render again when asked.

        That the data is what `http` wants takes no memory to remember, and time to find out.
        """
        if self._http is not self.data:
            self._http = None
        self._pieces = None

    def _text_is_clean(self) -> bool:
        data = self.data
        if b"\r" in data or data.count(b"\n") != self.count:
            return False
        if data.isascii():
            return True
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True


def host_of(data: bytes) -> bytes:
    """What stands for HOST in frames of `Form.SYSLOG`."""
    at = data.index(b" ", data.index(b" ", data.index(b" ") + 1) + 1) + 1
    return data[at : at + TOKEN_BYTES]


def raw_frame(pri: int, time: bytes, source: bytes, process: bytes, text: bytes) -> bytes:
    """One frame of a `Form.RAW` batch."""
    frame = b"<%d>1 %b %b %b %b - - %b\n" % (pri, time, HOLE, source, process, text)
    return b"%d %b" % (len(frame), frame)


def http_frame(line: Line, at: int) -> bytes:
    """One frame of a logplex-1 body (protocol section 7)."""
    time = rfc3339(line.time) or timestamp(at)
    frame = b"<%b>1 %b host %b %b - %b\n" % (line.pri, time, line.source, line.process, http_text(line.text))
    return b"%d %b" % (len(frame), frame)


def timestamp(at: int) -> bytes:
    """Unix ms as the RFC 3339 text that stands for a missing or odd timestamp."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").encode()


def _syslog_pieces(lines: list[Line], at: int) -> list[bytes]:
    """Frames of protocol section 8 split where the drain token goes: `token.join` makes the stream."""
    pieces = []
    before = b""
    for pri, time, source, process, text in lines:
        head = b"<%b>1 %b " % (pri, rfc3339(time) or timestamp(at))
        tail = b" %b %b - - %b\n" % (source, process, text)
        pieces.append(b"%b%d %b" % (before, len(head) + TOKEN_BYTES + len(tail), head))
        before = tail
    pieces.append(before)
    return pieces
