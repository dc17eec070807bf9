"""The quickest way, for bodies whose lines all come from one host and token: such a body is rendered as a whole.

Rules (tests/test_fastpath.py: all ways agree on every input):

* As fastpath.py, it takes only what it recognises to the last byte; of any other body it takes nothing.
* Every frame ends with its only LF. So the text splits there, and the length of a line says with which count it has to
  begin. Priority and time are as long as the first line's in all lines; so ` HOST APP ` is at one place in all of
  them, and is compared there.
* One linear expression sees to what is before that, and one to the start of what is behind it, unless that was seen
  before: a shipper has few processes. The rest of a message may be anything.
* Where the form that is kept ends a head in another way than the sender, the process and the end of the head belong
  to what is replaced, and all lines must be of one process.
* Lines are ASCII, so what comes out is clean (batch.py).
"""

import re
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

import re2

from .batch import Form
from .fastpath import TIME

LEAST_BYTES = 3000  # of a body: less is not worth the overhead
MOST_BYTES = 112 * 1024  # of a body: what comes out is about a batch (joining.MAX_BATCH_BYTES)
_LONGEST = 2048  # bytes of a line; longer ones are few, and take the next way
_FIRST = re.compile(
    rb"[1-9][0-9]{0,7} (<[0-9]{1,3}>1 [!-~]{1,35}) ([!-~]{1,255} [!-~]{1,255} [!-~]{1,128})( - (?:- )?)"
)
_BY_LENGTH = {len(b"%d" % count) + count: count for count in range(1, _LONGEST)}  # of a line without its LF
_STANDARD, _DIALECT = b" - - ", b" - "  # as in fastpath.py
_KEPT = {Form.HTTP: _DIALECT, Form.SYSLOG: _STANDARD}  # how heads end in a form (batch.py)
_MORE_PROCESS = 12  # bytes by which a process may be longer than the first line's
_MOST_KNOWN = 10_000  # starts of lines: 2 MB, if all are as long as they may be
_PROCESS = rb"[!-~]{1,128}"  # as message.PROCESS_BYTES
_TEXT = rb"[^\n]+"
_DIALECT_TEXT = rb"[^\n\[-][^\n]*"  # `[` and `-` could be SD


_STAMPS = re2.compile(rb"(?:<(?:[0-9]|[1-9][0-9]|1[0-8][0-9]|19[01])>1 " + TIME + rb"\n)*")


class _Starts:
    """How lines of one kind go on behind what is replaced: the expression, and what it is known to take."""

    def __init__(self, expression: bytes) -> None:
        self._one = re2.compile(expression)
        self._all = re2.compile(rb"(?:" + expression + rb"\n)*")
        self._known: set[bytes] = set()

    def take(self, rests: list[bytes], size: int) -> bool:
        """Whether all go on so; in most of them `size` bytes tell, in the others some more."""
        known, start = self._known, itemgetter(slice(size))
        if known.issuperset(map(start, rests)):
            return True
        longer = map(itemgetter(slice(size + _MORE_PROCESS)), rests)
        if self._all.fullmatch(b"\n".join([*longer, b""])) is None:
            return False
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known.update(filter(self._one.fullmatch, set(map(start, rests)) - known))
        return True


_STARTS = {  # by how heads end, and whether that is kept
    (_STANDARD, True): _Starts(_PROCESS + _STANDARD + _TEXT),
    (_STANDARD, False): _Starts(_TEXT),
    (_DIALECT, True): _Starts(_PROCESS + _DIALECT + _DIALECT_TEXT),
    (_DIALECT, False): _Starts(_DIALECT_TEXT),
}


class Head(NamedTuple):
    """What the first head of a body says: priority and time, `HOST APP PROC`, and how it ends."""

    stamp: bytes
    middle: bytes
    end: bytes

    @property
    def app(self) -> bytes:
        """The APP-NAME, where a shipper puts the token."""
        return self.middle.split(b" ")[1]

    @property
    def process(self) -> bytes:
        """The PROCID."""
        return self.middle.split(b" ")[2]


def is_worth_it(body: bytes) -> bool:
    """Whether a body may be rendered as a whole, and gains by it."""
    return LEAST_BYTES <= len(body) <= MOST_BYTES and body.isascii()


def first_head(body: bytes) -> Head | None:
    """The head of the first line; None when nothing is known of its kind here."""
    match = _FIRST.match(body)
    return None if match is None else Head(*match.groups())


def render(body: bytes, head: Head, rendered: str, form: Form) -> tuple[int, bytes] | None:
    """All lines of a body in a form, and their number, if all have the head's host and app.

    The body `is_worth_it`, and has neither CR nor NUL.

    `rendered` is what the entry of the head's middle says (fastpath.Entry).
    """
    lines = body.split(b"\n")
    if lines.pop():
        return None
    stamp, middle, end = head
    sent, shown = b" %b%b" % (middle, end), rendered.encode()
    kept = end == _KEPT[form]
    same = 0  # bytes that stay, and may differ from line to line
    if kept:
        same = len(sent) - sent.rindex(b" ", 0, -len(end)) - 1
        sent, shown = sent[:-same], shown[:-same]
    counts, new_counts = _counts(len(shown) - len(sent))
    lengths = list(map(len, lines))
    try:
        sent_counts = list(map(counts.__getitem__, lengths))
    except IndexError:
        return None
    # A line that does not begin with its count keeps what it begins with, and no priority begins so.
    lines = list(map(bytes.removeprefix, lines, sent_counts))
    at, behind = len(stamp), len(stamp) + len(sent)
    if list(map(itemgetter(slice(at, behind)), lines)).count(sent) != len(lines):
        return None
    stamps = list(map(itemgetter(slice(at)), lines))
    rests = list(map(itemgetter(slice(behind, None)), lines))
    if not _STARTS[end, kept].take(rests, same + 1) or _STAMPS.fullmatch(b"\n".join([*stamps, b""])) is None:
        return None
    parts = [shown] * (4 * len(lines))
    parts[::4] = map(new_counts.__getitem__, lengths)
    parts[1::4] = stamps
    parts[3::4] = rests
    parts[0] = parts[0][1:]  # an LF stands before each other line, and behind the last
    parts.append(b"\n")
    return len(lines), b"".join(parts)


@lru_cache(maxsize=128)
def _counts(more: int) -> tuple[list[bytes], list[bytes]]:
    """By the length of a line without its LF: the count that it must begin with, and what comes in its place, behind
    the LF of the line before, when it is `more` bytes longer.

    For a length that no line can have: what no line begins with.
    """
    counts = [_BY_LENGTH.get(length) for length in range(_LONGEST)]
    old = [b"\n" if count is None else b"%d " % count for count in counts]
    return old, [b"\n%d " % (count + more) if count is not None else b"" for count in counts]
