"""Numbered lines: what shippers send, and what is recognised of it on every output.

A line is a function of its producer and its number, so whatever comes out can be held against what must have gone in,
byte by byte. A producer is one connection of a shipper: its numbers are in the order in which it sent them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

POISON_EVERY = 61  # of the lines of a producer whose name says so, one is refused by a picky receiver
_EPOCH_SECONDS = 10**6


class Line(NamedTuple):
    """What every output shows of a line."""

    time: bytes
    source: bytes
    process: bytes
    text: bytes


class Name(NamedTuple):
    """Who sent a line, and as which."""

    producer: str
    number: int


_TEXT = re.compile(rb"([a-z0-9.]+) #([0-9]+) ")
_TOLD = re.compile(rb"Error L10 \(output buffer overflow\): ([0-9]+) messages dropped since ")
_TAIL_LINE = re.compile(rb"(\S+) ([^\s\[\]]+)(?:\[(\S+)\])?: (.*)", re.DOTALL)


def line(name: Name) -> Line:
    """The line with this name."""
    producer, number = name
    seconds = number % _EPOCH_SECONDS
    time = b"2026-01-%02dT%02d:%02d:%02d.%06d+00:00" % (
        1 + seconds // 86400 % 28,
        seconds // 3600 % 24,
        seconds // 60 % 60,
        seconds % 60,
        number * 7919 % 10**6,
    )
    poison = b"poison " if "poison" in producer and number % POISON_EVERY == POISON_EVERY - 1 else b""
    text = b"%b #%d %b%b" % (producer.encode(), number, poison, b"x" * (number * 31 % 90))
    return Line(time, b"app", b"web.%d" % (number % 3), text)


def name_of(found: Line) -> Name | None:
    """Which line it says it is; None for a line that no shipper writes."""
    match = _TEXT.match(found.text)
    return Name(match[1].decode(), int(match[2])) if match and found.source != b"heroku" else None


def is_own(found: Line) -> bool:
    """Whether the server wrote it."""
    return found.source == b"heroku" and found.process == b"logplex"


def told(found: Line) -> int:
    """How many lines an L10 says are lost; 0 when it is none."""
    match = _TOLD.match(found.text)
    return int(match[1]) if match and is_own(found) else 0


def frame(name: Name, token: str, *, counted: bool = True) -> bytes:
    """As a shipper sends it."""
    time, _, process, text = line(name)
    message = b"<190>1 %b host %b %b - %b" % (time, token.encode(), process, text)
    return b"%d %b" % (len(message), message) if counted else message + b"\n"


def frames(body: bytes) -> Iterator[bytes]:
    """The messages of a body of counted frames; raises ValueError when it is none."""
    at = 0
    while at < len(body):
        space = body.index(b" ", at)
        end = space + 1 + int(body[at:space])
        if end > len(body):
            raise ValueError("a frame is cut off")
        yield body[space + 1 : end]
        at = end


def from_http(message: bytes) -> Line:
    """A message of an HTTP drain, or of `/v3/channels/<ch>/logs`."""
    _, time, _, source, process, _, text = message.removesuffix(b"\n").split(b" ", 6)
    return Line(time, source, process, text)


def from_syslog(message: bytes) -> Line:
    """A message of a syslog drain."""
    _, time, _, source, process, _, _, text = message.removesuffix(b"\n").split(b" ", 7)
    return Line(time, source, process, text)


def from_tail(shown: bytes) -> Line:
    """A line of a session; raises ValueError when it is none."""
    match = _TAIL_LINE.fullmatch(shown)
    if match is None:
        raise ValueError(f"no line: {shown!r}")
    return Line(match[1], match[2], match[3] or b"-", match[4])
