"""The quickest way, for bodies whose lines all come from one host and token: such a body is rendered as a whole.

Rules (tests/test_fastpath.py: all ways agree on every input):

* As fastpath.py, it takes only what it recognises to the last byte; of any other body it takes nothing.
* Every frame ends with its only LF. So the text splits there, and the length of a line says with which count it has to
  begin. Priority and time are as long as the first line's in all lines; so ` HOST APP ` is at one place in all of
  them, and is compared there.
* One linear expression sees to what is before that and to the start of what is behind it; the rest of a message may be
  anything.
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
_FIRST = re.compile(
    rb"[1-9][0-9]{0,7} (<[0-9]{1,3}>1 [!-~]{1,35}) ([!-~]{1,255}) ([!-~]{1,255}) ([!-~]{1,128})( - (?:- )?)"
)
_BY_LENGTH = {len(b"%d" % count) + count: count for count in range(1, _LONGEST)}  # of a line without its LF
_STANDARD, _DIALECT = b" - - ", b" - "  # as in fastpath.py
_KEPT = {Form.HTTP: _DIALECT, Form.SYSLOG: _STANDARD}  # how heads end in a form (batch.py)
_MORE_PROCESS = 12  # bytes by which a process may be longer than the first line's
_PROCESS = rb"[!-~]{1,128}"  # as message.PROCESS_BYTES
_TEXT = rb"[^\n]+"
_DIALECT_TEXT = rb"[^\n\[-][^\n]*"  # `[` and `-` could be SD


def _all(start: bytes) -> Any:
    """For what is before what is replaced in all lines, an empty line, and the starts of what is behind it in all."""
    priority = rb"<(?:[0-9]|[1-9][0-9]|1[0-8][0-9]|19[01])>1 "
    return re2.compile(rb"(?:" + priority + TIME + rb"\n)*\n(?:" + start + rb"\n)*")


_EXPRESSIONS = {  # by how heads end, and whether that is kept
    (_STANDARD, True): _all(_PROCESS + _STANDARD + _TEXT),
    (_STANDARD, False): _all(_TEXT),
    (_DIALECT, True): _all(_PROCESS + _DIALECT + _DIALECT_TEXT),
    (_DIALECT, False): _all(_DIALECT_TEXT),
}


class Head(NamedTuple):
    """What the first head of a body says: priority and time, host, app and process, and how it ends."""

    stamp: bytes
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
    stamp, host, app, process, end = head
    sent, shown = b" %b %b %b%b" % (host, app, process, end), rendered.encode()
    kept = end == _KEPT[form]
    checked = 1  # bytes behind what is replaced
    if kept:  # what is the same stays, and may differ from line to line
        same = len(process) + len(end)
        sent, shown = sent[:-same], shown[:-same]
        checked += same + _MORE_PROCESS
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
    starts = map(itemgetter(slice(behind, behind + checked)), lines)
    if _EXPRESSIONS[end, kept].fullmatch(b"\n".join([*stamps, b"", *starts, b""])) is None:
        return None
    parts = [shown] * (4 * len(lines))
    parts[::4] = map(new_counts.__getitem__, lengths)
    parts[1::4] = stamps
    parts[3::4] = map(itemgetter(slice(behind, None)), lines)
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
