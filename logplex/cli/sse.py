"""Server-sent events as logplex sends them, without I/O: feed bytes, take events.

Lines end with LF or CR LF; `id`, `data` and comments are understood, other fields skipped (the HTML standard,
section 9.2.6). Several `data` lines are one text with LF between. A block with an `id` alone is a heartbeat.
"""

from typing import NamedTuple

MAX_EVENT_BYTES = 1024 * 1024  # a line has 10,000 bytes; more is no logplex


class Event(NamedTuple):
    """A line and its place; `data` is None for a heartbeat."""

    data: bytes | None
    id: str | None


class Decoder:
    """One stream of events; `last_id` is where the next stream goes on."""

    def __init__(self) -> None:
        self.last_id: str | None = None
        self._rest = b""
        self._data: list[bytes] = []
        self._id: str | None = None

    def feed(self, received: bytes) -> list[Event]:
        """The events that are complete now. Raises ValueError for an event that has no end."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        events = []
        for line in (ended.removesuffix(b"\r") for ended in lines):
            if not line:
                events += self._dispatch()
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self._data.append(value)
            elif name == b"id" and b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise ValueError("an event without end")
        return events

    def _dispatch(self) -> list[Event]:
        if not self._data and self._id is None:
            return []  # a comment, or a blank line more
        event = Event(b"\n".join(self._data) if self._data else None, self._id)
        if self._id is not None:
            self.last_id = self._id
        self._data, self._id = [], None
        return [event]
