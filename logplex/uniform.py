"""The quickest way, for bodies whose lines all come from one host and token: such a body is rendered as a whole.

Rules (tests/test_fastpath.py: all ways agree on every input):

* As fastpath.py, it takes only what it recognises to the last byte; of any other body it takes nothing.
* Every frame ends with its only LF. So the text splits there, and each count is compared with what came out.
* ` HOST APP ` becomes one byte that must not occur else, once in each line. One linear expression then sees to what
  is before that byte and to the start of what is behind it (the rest of a message may be anything), and the byte
  becomes what is sent.
* Where the form that is kept ends a head in another way than the sender, the process and the end of the head belong
  to what is replaced, and all lines must be of one process.
* Lines are ASCII, so what comes out is clean (batch.py).
"""

import re
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import re2

from .batch import Form
from .fastpath import TIME

LEAST_BYTES = 3000  # of a body: less is not worth the overhead
MOST_BYTES = 112 * 1024  # of a body: what comes out is about a batch (joining.MAX_BATCH_BYTES)
_LONGEST = 2048  # bytes of a line; longer ones are few, and take the next way
_MARK = b"\1"
_BEFORE = 8 + 32 + 1  # bytes of the longest priority, time and mark
_MORE_PROCESS = 20  # bytes by which a process may be longer than the first line's
_FIRST = re.compile(
    rb"[1-9][0-9]{0,7} <[0-9]{1,3}>1 [!-~]{1,35} ([!-~]{1,255}) ([!-~]{1,255}) ([!-~]{1,128})( - (?:- )?)"
)
_MORE = 1024  # than what is replaced in a line: what comes in its place
_COUNTS = (b"\n", *(b"%d " % count for count in range(1, _LONGEST + _MORE)))
_BY_LENGTH = {len(b"%d" % count) + count: count for count in range(1, _LONGEST)}  # of a line without its LF
_STANDARD, _DIALECT = b" - - ", b" - "  # as in fastpath.py
_KEPT = {Form.HTTP: _DIALECT, Form.SYSLOG: _STANDARD}  # how heads end in a form (batch.py)
_TEXT = rb"[^\n]+"
_DIALECT_TEXT = rb"[^\n\[-][^\n]*"  # `[` and `-` could be SD
_PRIORITY = rb"<(?:[0-9]|[1-9][0-9]|1[0-8][0-9]|19[01])>1 "
_PROCESS = rb"[!-~]{1,128}"  # as message.PROCESS_BYTES


def _all(start: bytes) -> Any:
    return re2.compile(rb"(?:" + _PRIORITY + TIME + _MARK + start + rb"\n)*")


# By how heads end, and whether that is kept: for the starts of all lines, without counts.
_STARTS = {
    (_STANDARD, True): _all(_PROCESS + _STANDARD + _TEXT),
    (_STANDARD, False): _all(_TEXT),
    (_DIALECT, True): _all(_PROCESS + _DIALECT + _DIALECT_TEXT),
    (_DIALECT, False): _all(_DIALECT_TEXT),
}


class Head(NamedTuple):
    """What the first head of a body says: host, app and process, and how it ends."""

    host: bytes
    app: bytes
    process: bytes
    end: bytes

    @property
    def middle(self) -> str:
        """`HOST APP PROC`, as fastpath.py learns it."""
        return f"{self.host.decode()} {self.app.decode()} {self.process.decode()}"


def is_worth_it(body: bytes) -> bool:
    """Whether a body may be rendered as a whole, and gains by it."""
    return LEAST_BYTES <= len(body) <= MOST_BYTES and _MARK not in body and body.isascii()


def first_head(body: bytes) -> Head | None:
    """The head of the first line; None when nothing is known of its kind here."""
    match = _FIRST.match(body)
    return None if match is None else Head(*match.groups())


def render(body: bytes, head: Head, rendered: str, form: Form) -> tuple[int, bytes] | None:
    """All lines of a body in a form, and their number, if all have the head's host and app.

    The body `is_worth_it`, and has neither CR nor NUL.

    `rendered` is what the entry of the head's middle says (fastpath.Entry).
    """
    kept = _KEPT[form]
    sent, shown = b" %b %b %b%b" % head, rendered.encode()
    behind = 1  # bytes behind what is replaced that say something
    if head.end == kept:  # what is the same stays, and may differ from line to line
        same = len(head.process) + len(kept)
        sent, shown = sent[:-same], shown[:-same]
        behind += same + _MORE_PROCESS
    pieces = body.split(sent)  # and joined again: half of what replacing costs, line by line or all
    lines = _MARK.join(pieces).split(b"\n")
    if lines.pop() or len(pieces) != len(lines) + 1:  # some line says it twice, or another not at all
        return None
    counts, new_counts = _counts(len(sent) - 1, len(shown) - len(sent))
    lengths = list(map(len, lines))
    try:
        old = list(map(counts.__getitem__, lengths))
    except IndexError:
        return None
    # A line that does not begin with its count keeps what it begins with, and the expression does not know that.
    lines = list(map(bytes.removeprefix, lines, old))
    starts = list(map(itemgetter(slice(_BEFORE + behind)), lines))
    starts.append(b"")
    if _STARTS[head.end, head.end == kept].fullmatch(b"\n".join(starts)) is None:
        return None
    parts = [b"\n"] * (3 * len(lines))
    parts[::3] = map(new_counts.__getitem__, lengths)
    parts[1::3] = lines
    return len(lines), b"".join(parts).replace(_MARK, shown)


@lru_cache(maxsize=128)
def _counts(less: int, more: int) -> tuple[list[bytes], list[bytes]]:
    """By the length of a line without its LF, which is `less` than it was: the count that it must begin with, and
    what comes in its place when it is `more` than it was.
    """
    counts = [_BY_LENGTH.get(length, 0) for length in range(less, _LONGEST)]
    return [_COUNTS[count] for count in counts], [_COUNTS[max(0, count + more)] for count in counts]
