"""What the sink reads of a connection, without I/O: the marks of its messages, and where its requests end.

Nothing else is parsed. What drains write has its own tests; here every instruction would slow the load down.
"""

import re

from .frames import MARK_BYTES, MARK_DIGITS, TIME_AT

_CONTENT_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)\r\n", re.IGNORECASE)


class Marks:
    """Finds the marks in a stream, in pieces of whatever size."""

    def __init__(self) -> None:
        self._rest = b""  # a mark that is not whole yet

    def feed(self, data: bytes) -> list[bytes]:
        """The marks that `data` completes, each with whatever follows it."""
        _, *found = (self._rest + data if self._rest else data).split(b"#")
        self._rest = b"#" + found.pop() if found and len(found[-1]) < MARK_BYTES else b""
        return found


def numbers(marks: list[bytes]) -> list[int]:
    """Their streams and numbers (see frames.NUMBERS)."""
    return [int(mark[:MARK_DIGITS]) for mark in marks]


def times(marks: list[bytes]) -> list[int]:
    """When they were sent, microseconds."""
    return [int(mark[TIME_AT:MARK_BYTES]) for mark in marks]


class Requests:
    """Counts the requests of an HTTP connection; their bodies have a Content-Length, as drains send them."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0

    def feed(self, data: bytes) -> int:
        """How many requests `data` completes; raises ValueError for one without Content-Length."""
        complete = 0
        while data:
            if not self._body_left:
                head, blank, data = (self._head + data).partition(b"\r\n\r\n")
                self._head = b"" if blank else head
                if not blank:
                    break
                length = _CONTENT_LENGTH.search(head + b"\r\n")
                if length is None:
                    raise ValueError(f"a request without Content-Length: {head[:200]!r}")
                self._body_left = int(length[1])
            elif self._body_left > len(data):
                self._body_left -= len(data)
                break
            else:
                data = data[self._body_left :]
                self._body_left = 0
            complete += not self._body_left
        return complete
