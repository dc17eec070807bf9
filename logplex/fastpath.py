"""The quick way from a read of counted RFC 5424 frames to rendered lines.

Rules (tests/test_fastpath.py: both paths agree on every input):

* It takes only what it recognises to the last byte, and stops at the first frame that it does not: what it returns
  goes to the strict path (framing.py, message.py). It never guesses.
* Text is latin-1: one decode of a whole read, and every byte stays what it is.
* A head is `COUNT <PRI>1 TIME HOST APP PROC`. Count and priority are looked up; the middle `HOST APP PROC` is looked
  up whole in the entries of the open group, which are learned from the strict rules and bounded (entries.py).
* Times are checked together after the scan, by one linear expression; an odd one undoes the scan.
* A line is rendered at once, into one string of its channel's list, while what it is made of is in the processor's
  cache; all lines of a channel are joined later.
"""

import re
from collections.abc import Callable

import re2

MAX_TEXT_BYTES = 10_000  # longer messages are split by the strict path (protocol section 2)

_COUNTS = tuple(f"{count} " for count in range(MAX_TEXT_BYTES + 1024))
_DIALECT_COUNTS = _COUNTS[2:]
_PRIORITIES = {f"<{priority}>1": f"<{priority}>1 " for priority in range(192)}  # RFC 5424 section 6.2.1, version 1


class _Lengths:
    """What follows from the length of a frame, for all lengths up to `most`."""

    def __init__(self, most: int) -> None:
        self.by_count = {str(length): (length, length + len(str(length)) + 1) for length in range(1, most + 1)}
        """The text of a count → the bytes of its frame, without the count and with it."""
        self.by_line = [("\n", 0)] * (most + len(str(most)) + 1)
        """The bytes of a frame with its count but without its LF → the text of its count, its bytes without that; of
        a line that no frame can be: what is no line's count."""
        for count, (length, whole) in self.by_count.items():
            self.by_line[whole - 1] = count, length


_ASCII = _Lengths(MAX_TEXT_BYTES)
# An invalid byte becomes three (U+FFFD), so text that is not ASCII is quick only where even that fits.
_OTHER = _Lengths(MAX_TEXT_BYTES // 3 - 1)
# RFC 3339 with a fraction of at most 6 digits, a second of at most 59 and no 29 February (the strict path knows leap
# years): what every output takes as it is (protocol section 7). Bytes, because the library takes text apart again to
# count its characters.
TIME = (
    rb"[0-9]{4}-"
    rb"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    rb"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_CONFORMING = rb"(?:" + TIME + rb"\n)*"
_TIMES = re2.compile(_CONFORMING)
_ONE = re.compile(TIME.decode())
_FEW = re.compile(_CONFORMING)  # no part of it can match in two ways, so it is linear too
FEW_TIMES = 16  # where the overhead of the other begins to pay

_STANDARD = " - - "  # MSGID `-`, SD `-`
_DIALECT = " - "  # MSGID `-` and no SD: the Logplex dialect
_FIRST_HEAD = 250  # characters in which the first frame's separator is, with a usual host


Entry = tuple[str, int, list[str]]
"""Where the lines of one middle go: ` HOST SOURCE PROC …` as rendered, its extra length, and the list of lines."""

Entries = dict[str, Entry]
Learn = Callable[[str], Entry | None]
"""Makes the entry of a middle (and puts it into the entries), or says None: the strict path must look.

Entries that did that themselves, where one is missing, would cost each line 20 ns: a plain dict is quicker.
"""


def recognisable(data: bytes) -> bool:
    """No byte in a read speaks against the quick way: CR and NUL need the strict rules."""
    return b"\r" not in data and b"\0" not in data


def scan(data: bytes, entries: Entries, learn: Learn) -> tuple[int, str]:
    """Add every line that is recognised to its list; return their number and the text that is left.

    The text that is left begins at a frame: incomplete, or for the strict path.
    """
    text = data.decode("latin-1")
    lengths = _ASCII if text.isascii() else _OTHER
    times: list[str] = []
    # Which kind the first frame is says which all probably are; a frame of another kind ends a run unharmed.
    dialect = text.find(_STANDARD, 0, _FIRST_HEAD) < 0
    separator = _DIALECT if dialect else _STANDARD
    rest = _scan_lines(text, separator, lengths, entries, learn, times) if _begins_with_line(text, lengths) else text
    if rest:
        rest = _scan_runs(rest, separator, lengths, entries, learn, times)
    if rest:
        rest = _scan_runs(rest, _STANDARD if dialect else _DIALECT, lengths, entries, learn, times)
    if rest:
        rest = _scan_mixed(rest, lengths, entries, learn, times)
    if times and not _conform(times):
        undo(text, len(times), entries)
        return 0, text
    return len(times), rest


def _conform(times: list[str]) -> bool:
    """Whether every TIME is one; one that holds an LF would look like two."""
    if len(times) == 1:
        return _ONE.fullmatch(times[0]) is not None
    joined = ("\n".join(times) + "\n").encode("latin-1")
    if len(times) <= FEW_TIMES:
        return _FEW.fullmatch(joined) is not None and joined.count(b"\n") == len(times)
    return _TIMES.fullmatch(joined) is not None and joined.count(b"\n") == len(times)


def undo(text: str, count: int, entries: Entries) -> None:
    """Take back the first `count` lines of `text` that `scan` has just added."""
    at = 0
    for _ in range(count):
        space = text.index(" ", at)
        at = space + 1 + int(text[at:space])
        entry = _entry_of(text[space + 1 : at], entries)
        del entry[2][-1]


def _entry_of(frame: str, entries: Entries) -> Entry:
    """The entry by which one of the scans took a frame; only one of them can have."""
    for separator in (_STANDARD, _DIALECT):
        middle = frame.partition(separator)[0].split(" ", 2)[-1]
        if (entry := entries.get(middle)) is not None:
            return entry
    _, _, host, app, process, *_ = frame.split(" ", 6)
    return entries[f"{host} {app} {process}"]


def _begins_with_line(text: str, lengths: _Lengths) -> bool:
    """Whether the first frame ends with its only LF."""
    by_line = lengths.by_line
    end = text.find("\n", 0, len(by_line))
    return end > 0 and text.startswith(by_line[end][0] + " ")


def _scan_lines(text: str, separator: str, lengths: _Lengths, entries: Entries, learn: Learn, times: list[str]) -> str:
    """Frames that end with their only LF, and whose heads end in `separator`; returns what is left."""
    lines = text.split("\n")
    rest = lines.pop()
    by_line = lengths.by_line
    priorities = _PRIORITIES
    add_time = times.append
    counts = _COUNTS if separator is _STANDARD else _DIALECT_COUNTS
    odd_starts = "" if separator is _STANDARD else "-["
    for line in lines:
        try:
            count, priority, time, tail = line.split(" ", 3)
            expected, length = by_line[len(line)]
            priority = priorities[priority]
        except (IndexError, KeyError, ValueError):
            break
        middle, _, message = tail.partition(separator)
        if count != expected or (odd_starts and (not message or message[0] in odd_starts)):
            break
        try:
            rendered, extra, out = entries[middle]
        except KeyError:
            entry = learn(middle)
            if entry is None:
                break
            rendered, extra, out = entry
        out.append(f"{counts[length + extra]}{priority}{time}{rendered}{message}\n")
        add_time(time)
    else:
        return rest
    return text[sum(map(len, lines[: len(times)])) + len(times) :]


def _scan_runs(text: str, separator: str, lengths: _Lengths, entries: Entries, learn: Learn, times: list[str]) -> str:
    """Frames whose heads end in `separator`: one split of all text there; returns what is left.

    Each piece is one message and the head of the next: the count says where the message ends.
    """
    pieces = text.split(separator)
    priorities = _PRIORITIES
    add_time = times.append
    by_count = lengths.by_count
    width = len(separator)
    counts = _COUNTS if separator is _STANDARD else _DIALECT_COUNTS  # an entry's extra length counts on the standard
    odd_starts = "" if separator is _STANDARD else "-[\n"  # where the dialect's MSG could be SD, or is empty
    before = len(times)
    head = pieces[0]
    for piece in pieces[1:]:
        try:
            count, priority, time, middle = head.split(" ", 3)
            length, whole = by_count[count]
            priority = priorities[priority]
        except (KeyError, ValueError):
            break
        size = whole - len(head) - width
        if not 0 < size <= len(piece) or (odd_starts and piece[0] in odd_starts):
            break
        try:
            rendered, extra, out = entries[middle]
        except KeyError:
            entry = learn(middle)
            if entry is None:
                break
            rendered, extra, out = entry
        if piece[size - 1] == "\n":
            if piece[size - 2] == "\n":  # more than one LF at the end: none of them belongs to the message
                break
            out.append(f"{counts[length + extra]}{priority}{time}{rendered}{piece[:size]}")
        else:
            out.append(f"{counts[length + extra + 1]}{priority}{time}{rendered}{piece[:size]}\n")
        add_time(time)
        head = piece[size:]
    else:
        return head
    return separator.join([head, *pieces[len(times) - before + 1 :]])


def _scan_mixed(text: str, lengths: _Lengths, entries: Entries, learn: Learn, times: list[str]) -> str:
    """Frames of both kinds, one by one, and messages that hold a separator; returns what is left."""
    at = 0
    try:
        while at < len(text):
            space = text.index(" ", at, at + 6)
            length, whole = lengths.by_count[text[at:space]]
            end = at + whole
            if end > len(text):
                break
            priority, time, host, app, process, msgid, message = text[space + 1 : end].split(" ", 6)
            if msgid != "-" or not message or message[-2:] == "\n\n":
                break
            if message[0] in "[-\n":
                if message[:2] != "- " or len(message) == 2:
                    break
                message = message[2:]
                length -= 2
            middle = f"{host} {app} {process}"
            priority = _PRIORITIES[priority]
            entry = entries.get(middle) or learn(middle)
            if entry is None:
                break
            # The entry counts on ` - - ` behind the middle; the frame had ` - `, two characters less.
            rendered, extra, out = entry
            if message[-1] == "\n":
                out.append(f"{_DIALECT_COUNTS[length + extra]}{priority}{time}{rendered}{message}")
            else:
                out.append(f"{_DIALECT_COUNTS[length + extra + 1]}{priority}{time}{rendered}{message}\n")
            times.append(time)
            at = end
    except (KeyError, ValueError):
        pass
    return text[at:]
