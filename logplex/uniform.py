"""The quickest way, for bodies whose lines all come from one host and token: such a body is rendered as a whole.

Rules (tests/test_fastpath.py: all ways agree on every input):

* As fastpath.py, it takes only what it recognises to the last byte; of any other body it takes nothing.
* Every frame ends with its only LF. So the text splits there, and each count is compared with what came out.
* ` HOST APP ` becomes one byte that must not occur else; then one linear expression sees to all heads at once, and the
  byte becomes what is sent. Where the form that is kept ends a head in another way than the sender, the process and
  the end of the head belong to what is replaced, and all lines must be of one process.
* Lines are ASCII, so what comes out is clean (batch.py).
"""

import re
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import re2

from .batch import Form
from .fastpath import TIME

LEAST_BYTES = 3000  # of a body: less is not worth the overhead
MOST_BYTES = 112 * 1024  # of a body: what comes out is about a batch (group.MAX_BATCH_BYTES)
_LONGEST = 2048  # bytes of a line; longer ones are few, and take the next way
_MARK = b"\1"

_FIRST = re.compile(
    rb"[1-9][0-9]{0,7} <[0-9]{1,3}>1 [!-~]{1,35} ([!-~]{1,255}) ([!-~]{1,255}) ([!-~]{1,128})( - (?:- )?)"
)
_MORE = 1024  # than what is replaced in a line, and than what comes in its place
_COUNTS = (b"no count", *(b"%d " % count for count in range(1, _LONGEST + 2 * _MORE)))
_BY_LENGTH = {len(b"%d" % count) + count: count for count in range(1, _LONGEST + _MORE)}  # of a line without its LF
_STANDARD, _DIALECT = b" - - ", b" - "  # as in fastpath.py
_KEPT = {Form.HTTP: _DIALECT, Form.SYSLOG: _STANDARD}  # how heads end in a form (batch.py)
_TEXT = rb"[^\n\x01]+"
_DIALECT_TEXT = rb"[^\n\x01\[-][^\n\x01]*"  # `[` and `-` could be SD
_PRIORITY = rb"<(?:[0-9]|[1-9][0-9]|1[0-8][0-9]|19[01])>1 "
_PROCESS = rb"[!-~]{1,128}"  # as message.PROCESS_BYTES


def _all(line: bytes) -> Any:
    return re2.compile(rb"(?:[0-9]+ " + _PRIORITY + TIME + _MARK + line + rb"\n)*")


# By how heads end, and whether that is kept.
_MARKED = {
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


def first_head(body: bytes) -> Head | None:
    """The head of the first line; None when nothing is known of its kind here, or the body is not worth a look."""
    if not LEAST_BYTES <= len(body) <= MOST_BYTES or _MARK in body or not body.isascii():
        return None
    match = _FIRST.match(body)
    return None if match is None else Head(*match.groups())


def render(body: bytes, head: Head, rendered: str, form: Form) -> tuple[int, bytes] | None:
    """All lines of a body without CR and NUL in a form, and their number, if all have the head's host and app.

    `rendered` is what the entry of the head's middle says (fastpath.Entry).
    """
    kept = _KEPT[form]
    sent, shown = b" %b %b %b%b" % head, rendered.encode()
    if head.end == kept:  # what is the same stays, and may differ from line to line
        same = len(head.process) + len(kept)
        sent, shown = sent[:-same], shown[:-same]
    marked = body.replace(sent, _MARK)
    if _MARKED[head.end, head.end == kept].fullmatch(marked) is None:
        return None
    lines = marked.split(b"\n")
    lines.pop()
    lengths = list(map(len, lines))
    if max(lengths) >= _LONGEST:
        return None
    counts, new_counts = _counts(len(sent), len(shown))
    old = list(map(counts.__getitem__, lengths))
    if not all(map(bytes.startswith, lines, old)):
        return None
    lines = list(map(bytes.replace, lines, old, map(new_counts.__getitem__, lengths), repeat(1)))
    lines.append(b"")
    return len(lengths), b"\n".join(lines).replace(_MARK, shown)


@lru_cache(maxsize=128)
def _counts(sent: int, shown: int) -> tuple[list[bytes], list[bytes]]:
    """By the length of a marked line without its LF: the count that it must begin with, and the one that it gets."""
    counts = [_BY_LENGTH.get(length + sent - 1, 0) for length in range(_LONGEST)]
    return [_COUNTS[count] for count in counts], [_COUNTS[count + shown - sent] if count else b"" for count in counts]
