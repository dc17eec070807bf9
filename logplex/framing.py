"""Framing: from the bytes of a stream or of a `/logs` body to frames, without I/O.

Rules (protocol sections 2 and 11; RFC 6587 sections 3.4.1 and 3.4.2):

* On a stream each frame says by its first byte how it is framed: `1`-`9` opens an octet count (`LEN SP MSG`),
  `<` opens a message that ends at LF or NUL (NUL: Python's SysLogHandler). One connection may mix them.
* LF, CR and NUL between frames belong to the message before them; those at the end of a message are cut off.
* A count that is no number and a count above the limit are malformed: everything up to and including the next LF is
  given up and told once, as one `Malformed`. So is a line that begins with neither, and an uncounted message above the
  limit, up to its own LF or NUL: SysLogHandler's tracebacks hold LFs, and the message behind their NUL is a good one.
* At the end of a stream an unterminated uncounted message is a message; a counted frame cut off is malformed.
* In a body only counted frames are framing, and they must fill it exactly; one fault refuses all of it.
* Whatever is fed, in pieces of whatever size, costs time linear in its bytes, and memory of one frame at most.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .errors import MalformedBody

Frame = bytes

TRAILING = b"\n\r\0"
"""Bytes that end a message and are never part of it."""

RESYNC_FRAMES = 16
"""Bytes given up without an LF before the stream is called broken, in frame limits: room for any overlong line of a
sender that means well (a megabyte), and an end to a peer that speaks another protocol."""

_BETWEEN_FRAMES = re.compile(rb"[\n\r\0]+")


class Malformed(NamedTuple):
    """What was given up: why, and how many bytes with all their framing."""

    reason: str
    bytes: int


NO_FRAMING = "no framing"
BAD_COUNT = "octet count is no number"
COUNT_ABOVE_LIMIT = "octet count above the limit"
LINE_ABOVE_LIMIT = "line above the limit"
CUT_OFF = "counted frame cut off by the end"


class StreamDecoder:
    """The frames of one connection; feed it what was received and take what became complete.

    `broken` is None until the stream has gone on for RESYNC_FRAMES frame limits without an LF to go on from; then it
    is the reason, everything further is ignored, and the connection should be closed.
    """

    __slots__ = ("_counted", "_ends", "_given_up", "_max", "_max_digits", "_pending", "_reason", "_wanted", "broken")

    def __init__(self, max_frame_bytes: int) -> None:
        self.broken: str | None = None
        self._max = max_frame_bytes
        self._max_digits = len(str(max_frame_bytes))
        self._pending = bytearray()  # the incomplete frame, from its first byte
        self._counted = False  # how it is framed
        self._wanted = 0  # counted: bytes that it needs before another look is worth while
        self._reason = ""  # set while bytes are given up; then _pending is empty
        self._ends = b""  # the bytes that end the giving up
        self._given_up = 0

    def feed(self, data: bytes) -> list[Frame | Malformed]:
        """Frames and faults that `data` completes, in order; the rest is kept for the next call."""
        found: list[Frame | Malformed] = []
        if self.broken is not None:
            return found
        start = 0
        if self._reason:
            start = self._give_up(data, 0, found)
        elif self._pending:
            if self._is_still_incomplete(data):
                self._pending += data
                return found
            data = b"".join((self._pending, data))
            self._pending = bytearray()
        self._scan(data, start, found)
        return found

    def take_rest(self, max_bytes: int) -> bytes | None:
        """Hand out the incomplete counted frame that is held, to be fed again; None in the midst of anything else.

        One of more than `max_bytes` stays here, where waiting for the rest of it costs nothing.
        """
        if self._reason or self.broken is not None or (self._pending and not self._counted):
            return None
        if len(self._pending) > max_bytes:
            return None
        rest, self._pending = bytes(self._pending), bytearray()
        return rest

    def end(self) -> list[Frame | Malformed]:
        """What is left when the stream has ended; nothing is kept."""
        pending, self._pending = bytes(self._pending), bytearray()
        if self._reason and self.broken is None:
            reason, self._reason = self._reason, ""
            return [Malformed(reason, self._given_up)]
        if not pending:
            return []
        return [Malformed(CUT_OFF, len(pending))] if self._counted else [pending.rstrip(TRAILING)]

    def _is_still_incomplete(self, data: bytes) -> bool:
        size = len(self._pending) + len(data)
        if self._counted:
            return size < self._wanted
        return size <= self._max and b"\n" not in data and b"\0" not in data

    def _scan(self, data: bytes, position: int, found: list[Frame | Malformed]) -> None:
        size, longest, digits = len(data), self._max, self._max_digits
        next_lf = next_nul = -1  # found once and used until passed: a search a frame would be quadratic
        while position < size:
            first = data[position]
            if 0x31 <= first <= 0x39:
                space = data.find(b" ", position, position + digits + 1)
                count = data[position : space if space >= 0 else position + digits + 1]
                if not count.isdigit():
                    position = self._start_giving_up(data, position, BAD_COUNT, found)
                elif len(count) > digits or (space >= 0 and int(count) > longest):
                    position = self._start_giving_up(data, position, COUNT_ABOVE_LIMIT, found)
                else:
                    stop = space + 1 + int(count)
                    if space < 0 or stop > size:
                        self._keep(data, position, counted=True, wanted=stop - position if space >= 0 else 0)
                        return
                    found.append(data[space + 1 : stop].rstrip(TRAILING))
                    position = stop
            elif first in TRAILING:
                position = _BETWEEN_FRAMES.match(data, position).end()  # type: ignore[union-attr] # it matches
            else:
                if next_lf < position:
                    next_lf = data.find(b"\n", position)
                    next_lf = size if next_lf < 0 else next_lf
                if next_nul < position:
                    next_nul = data.find(b"\0", position)
                    next_nul = size if next_nul < 0 else next_nul
                stop = min(next_lf, next_nul)
                if first == 0x3C and stop - position <= longest:  # <
                    if stop == size:
                        self._keep(data, position, counted=False, wanted=0)
                        return
                    found.append(data[position:stop].rstrip(TRAILING))
                    position = stop + 1
                    continue
                reason = LINE_ABOVE_LIMIT if first == 0x3C else NO_FRAMING
                if stop < size:  # as below, but quick, for floods of short rubbish
                    found.append(Malformed(reason, stop + 1 - position))
                    position = stop + 1
                else:
                    position = self._start_giving_up(data, position, reason, found, ends=b"\n\0")

    def _keep(self, data: bytes, position: int, *, counted: bool, wanted: int) -> None:
        self._pending += data[position:]
        self._counted = counted
        self._wanted = wanted

    def _start_giving_up(
        self, data: bytes, position: int, reason: str, found: list[Frame | Malformed], ends: bytes = b"\n"
    ) -> int:
        self._reason, self._ends, self._given_up = reason, ends, 0
        return self._give_up(data, position, found)

    def _give_up(self, data: bytes, position: int, found: list[Frame | Malformed]) -> int:
        """Give up bytes to the next end, and return where to go on."""
        stops = [stop for end in self._ends if (stop := data.find(end, position)) >= 0]
        past = min(stops) + 1 if stops else len(data)
        self._given_up += past - position
        if stops:
            found.append(Malformed(self._reason, self._given_up))
            self._reason = ""
        elif self._given_up > RESYNC_FRAMES * self._max:
            found.append(Malformed(self._reason, self._given_up))
            self.broken = f"{self._reason}, and no line end in {self._given_up} bytes"
        return past


def split_body(body: bytes, max_frame_bytes: int) -> list[Frame]:
    """The counted frames of a whole body, without their trailing bytes; raises MalformedBody."""
    return list(body_frames(body, max_frame_bytes))


def body_frames(body: bytes, max_frame_bytes: int) -> Iterator[Frame]:
    """As `split_body`, one frame at a time, for a caller that has to pause within a large body.

    Nothing may be accepted before the iterator has ended: MalformedBody may come with the last frame.
    """
    for start, stop in _counted(body, max_frame_bytes):
        yield body[start:stop].rstrip(TRAILING)


def is_whole(data: bytes, max_frame_bytes: int) -> bool:
    """Whether these are counted frames from the first byte to the last, as in a body."""
    try:
        for _ in _counted(data, max_frame_bytes):
            pass
    except MalformedBody:
        return False
    return True


def _counted(data: bytes, max_frame_bytes: int) -> Iterator[tuple[int, int]]:
    """Where the counted frames of `data` begin and end, without their counts; raises MalformedBody."""
    digits = len(str(max_frame_bytes))
    position, size = 0, len(data)
    while position < size:
        space = data.find(b" ", position, position + digits + 1)
        count = data[position : max(space, 0)]
        if not count.isdigit() or count[0] == 0x30:
            raise MalformedBody
        length = int(count)
        position = space + 1 + length
        if length > max_frame_bytes or position > size:
            raise MalformedBody
        yield space + 1, position
