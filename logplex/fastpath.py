"""The quick way from a read of counted RFC 5424 frames to rendered lines.

Rules (tests/test_fastpath.py: both paths agree on every input):

* It takes only what it recognises to the last byte, and stops at the first frame that it does not: what it returns
  goes to the strict path (framing.py, message.py). It never guesses.
* Text is latin-1: one decode of a whole read, and every byte stays what it is.
* A head is `COUNT <PRI>1 TIME HOST APP PROC`. Count and priority are looked up; the middle `HOST APP PROC` is
  looked up whole in the entries of the open group, which are learned from the strict rules and bounded.
* Times are checked together after the scan, by one linear expression; if one is odd, the scan is undone.
* Nothing here allocates per message but the line itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import re2

MAX_TEXT_BYTES = 10_000  # longer messages are split by the strict path (protocol section 2)

_COUNTS = tuple(f"{count} " for count in range(MAX_TEXT_BYTES + 1024))
_ASCII_LENGTHS = {str(length): length for length in range(1, MAX_TEXT_BYTES + 1)}
# An invalid byte becomes three (U+FFFD), so text that is not ASCII is quick only where even that fits.
_OTHER_LENGTHS = {str(length): length for length in range(1, MAX_TEXT_BYTES // 3)}
_PRIORITIES = frozenset(f"<{priority}>1" for priority in range(192))

# RFC 3339 with a fraction of at most 6 digits, a second of at most 59 and no 29 February (the strict path knows
# leap years): what every output takes as it is (protocol section 7).
_TIMES = re2.compile(
    r"(?:[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\n)*"
)


class Entry(NamedTuple):
    """Where the lines of one middle go: `HOST SOURCE PROC …` as rendered, its extra length, the list's append."""

    rendered: str
    extra: int
    append: Callable[[str], None]


Entries = dict[str, Entry]
Learn = Callable[[str], Entry | None]
"""Makes the entry of a middle (and puts it into the entries), or says None: the strict path must look."""


def recognisable(data: bytes) -> bool:
    """No byte in a read speaks against the quick way: CR, NUL and a blank line need the strict rules."""
    return b"\r" not in data and b"\0" not in data and b"\n\n" not in data


def scan(data: bytes, entries: Entries, learn: Learn) -> tuple[int, str]:
    """Append every line that is recognised to its list; return their number and the text that is left.

    The text that is left begins at a frame: incomplete, or for the strict path.
    """
    text = data.decode("latin-1")
    lengths = _ASCII_LENGTHS if text.isascii() else _OTHER_LENGTHS
    times: list[str] = []
    rest = _scan_standard(text, lengths, entries, learn, times)
    if rest:
        rest = _scan_dialect(rest, lengths, entries, learn, times)
    if times and not _conform(times):
        undo(text, len(times), entries)
        return 0, text
    return len(times), rest


def _conform(times: list[str]) -> bool:
    joined = "\n".join(times) + "\n"
    return joined.count("\n") == len(times) and _TIMES.fullmatch(joined) is not None


def undo(text: str, count: int, entries: Entries) -> None:
    """Take back the first `count` lines of `text` that `scan` has just appended."""
    at = 0
    for _ in range(count):
        space = text.index(" ", at)
        middle = " ".join(text[space + 1 :].split(" ", 5)[2:5])
        entries[middle].append.__self__.pop()  # type: ignore[attr-defined]
        at = space + 1 + int(text[at:space])


def _scan_standard(text: str, lengths: dict[str, int], entries: Entries, learn: Learn, times: list[str]) -> str:
    """Frames with MSGID `-` and SD `-`: one split of all text at what ends a head; returns what is left.

    Each piece is one message and the head of the next: the count says where the message ends.
    """
    pieces = text.split(" - - ")
    counts = _COUNTS
    priorities = _PRIORITIES
    stamp = times.append
    head = pieces[0]
    taken = 1
    for piece in pieces[1:]:
        try:
            count, priority, time, middle = head.split(" ", 3)
            length = lengths[count]
        except (KeyError, ValueError):
            break
        size = length + len(count) - len(head) - 4
        if size < 1 or size > len(piece) or priority not in priorities:
            break
        try:
            rendered, extra, append = entries[middle]
        except KeyError:
            entry = learn(middle)
            if entry is None:
                break
            rendered, extra, append = entry
        if piece[size - 1] == "\n":
            append(f"{counts[length + extra]}{priority} {time} {rendered}{piece[:size]}")
        else:
            append(f"{counts[length + extra + 1]}{priority} {time} {rendered}{piece[:size]}\n")
        stamp(time)
        head = piece[size:]
        taken += 1
    if taken == len(pieces):
        return head
    return " - - ".join([head, *pieces[taken:]])


def _scan_dialect(text: str, lengths: dict[str, int], entries: Entries, learn: Learn, times: list[str]) -> str:
    """Frames with or without SD `-`, one by one (`PROC - MSG`, the Logplex dialect); returns what is left."""
    at = 0
    try:
        while at < len(text):
            space = text.index(" ", at, at + 6)
            length = lengths[text[at:space]]
            end = space + 1 + length
            if end > len(text):
                break
            priority, time, host, app, process, msgid, message = text[space + 1 : end].split(" ", 6)
            if msgid != "-" or priority not in _PRIORITIES or not message or message[0] in "[-\n":
                if message[:2] != "- " or msgid != "-" or len(message) == 2 or priority not in _PRIORITIES:
                    break
                message = message[2:]
                length -= 2
            middle = f"{host} {app} {process}"
            entry = entries.get(middle) or learn(middle)
            if entry is None:
                break
            # What `learn` renders ends in ` - - `; the frame had ` - `, two characters less.
            if message[-1] == "\n":
                entry.append(f"{_COUNTS[length + 2 + entry.extra]}{priority} {time} {entry.rendered}{message}")
            else:
                entry.append(f"{_COUNTS[length + 3 + entry.extra]}{priority} {time} {entry.rendered}{message}\n")
            times.append(time)
            at = end
    except (KeyError, ValueError):
        pass
    return text[at:]
