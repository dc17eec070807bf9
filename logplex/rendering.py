"""What a tail writes: plain lines or server-sent events, and the ids with which a reader resumes.

Rules:

* Plain (protocol section 6): `TIMESTAMP SOURCE[PROCESS]: MSG LF`; no process, no brackets; MSG as it was sent.
* SSE (WHATWG HTML section 9.2): `id: ID LF data: LINE LF LF`. CR, LF and CR LF end a line for its parsers, so each
  begins another `data:` line; every other byte, NUL too, is data. An id-only block moves the reader's last id.
* Lines do not show their severity (protocol section 6). A reader of events may ask for it: each event is then named
  by the keyword of RFC 5424 section 6.2.1 (`event: err`; never `error`, which is EventSource's own).
* An id is `EPOCH.POSITION`: everything up to the position was shown or filtered. Clients give it back as it is;
  before the first line of all the position is -1.
* Readers of equal views get the same bytes, so a line is formatted once for all of them.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import trio

from .batch import Batch, Line, timestamp
from .filters import Filter

SLICE_SECONDS = 0.002  # run of work on lines before other tasks get their turn; one line is never cut (filters.py)

_BREAK = re.compile(rb"\r\n|\r|\n")
_ID = re.compile(r"([0-9a-f]{16})\.(-1|[0-9]{1,18})")

_KEYWORDS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_NAMES = {b"%d" % pri: b"event: %b\n" % _KEYWORDS[pri & 7].encode() for pri in range(192)}

L20 = b"Error L20 (Tail sessions forbidden) Tail sessions for this app are forbidden due to log volume."


class Id(NamedTuple):
    """A reader's place, as given to it."""

    epoch: str
    position: int


@dataclass(frozen=True, slots=True)
class View:
    """How a reader sees lines: filtered, as events (named by severity, if so wanted) or plain."""

    filter: Filter
    sse: bool = False
    named: bool = False


def parse_id(text: str) -> Id | None:
    """None when it is no id of ours."""
    match = _ID.fullmatch(text)
    return Id(match[1], int(match[2])) if match else None


def format_id(epoch: str, position: int) -> bytes:
    """`EPOCH.POSITION`."""
    return b"%b.%d" % (epoch.encode(), position)


def id_block(epoch: str, position: int) -> bytes:
    """A heartbeat: an event without data, which moves the reader's last id (protocol section 6)."""
    return b"id: %b\n\n" % format_id(epoch, position)


def notice(text: bytes, *, sse: bool, epoch: str, position: int) -> bytes:
    """A line of our own that is in no ring (L11, L20), as of now."""
    line = b"%b heroku[logplex]: %b" % (timestamp(time.time_ns() // 1_000_000), text)
    return b"id: %b\ndata: %b\n\n" % (format_id(epoch, position), line) if sse else line + b"\n"


def overflow(count: int, since: int) -> bytes:
    """The text of L11: `count` messages received after `since` (unix ms) are gone for this reader."""
    shown = timestamp(since)
    return b"Error L11 (Tail buffer overflow) -> This tail session dropped %d messages since %b." % (count, shown)


async def render(view: View, batches: Sequence[tuple[Batch, list[Line]]], epoch: str) -> bytes:
    """What the reader sees of parsed batches; other tasks run between slices of costly filters."""
    write = (_named_event if view.named else _event) if view.sse else _plain
    mark = b"id: %b." % epoch.encode()
    if view.filter.trivial:
        return b"".join(
            [
                write(line, mark, position)
                for batch, lines in batches
                for position, line in enumerate(lines, batch.first)
            ]
        )
    match = view.filter.match
    shown = []
    started = time.perf_counter()
    for batch, lines in batches:
        at = batch.at
        for position, line in enumerate(lines, batch.first):
            if match(line, at):
                shown.append(write(line, mark, position))
            if time.perf_counter() - started > SLICE_SECONDS:
                await trio.lowlevel.checkpoint()
                started = time.perf_counter()
    return b"".join(shown)


def _plain(line: Line, mark: bytes, position: int) -> bytes:
    _, moment, source, process, text = line
    if process == b"-":
        return b"%b %b: %b\n" % (moment, source, text)
    return b"%b %b[%b]: %b\n" % (moment, source, process, text)


def _event(line: Line, mark: bytes, position: int) -> bytes:
    _, moment, source, process, text = line
    if b"\n" in text or b"\r" in text:
        text = _BREAK.sub(b"\ndata: ", text)
    if process == b"-":
        return b"%b%d\ndata: %b %b: %b\n\n" % (mark, position, moment, source, text)
    return b"%b%d\ndata: %b %b[%b]: %b\n\n" % (mark, position, moment, source, process, text)


def _named_event(line: Line, mark: bytes, position: int) -> bytes:
    return _NAMES.get(line.pri, b"") + _event(line, mark, position)
