"""The bytes of one connection, routed as they come.

Rules (protocol sections 2 and 11):

* The quick path (fastpath.py) takes what it recognises, the strict path the rest of that read; both give the same.
* A complete message never waits for the next read; an incomplete counted frame does, in bounded memory, and a large
  one costs time linear in its bytes however small the pieces are in which it comes.
"""

from collections.abc import Awaitable, Callable

from .commit import Committer
from .fastpath import recognisable, scan
from .framing import Frame, Malformed, StreamDecoder
from .routing import Part, Routing, Way

ODD_READS = 16  # for which a connection goes alone, after one that needed the strict path
REST_BYTES = 4096  # of an incomplete frame that are put before the next read; a larger one waits in the decoder


class Stream:
    """One connection: `take` what was read, `end` it when the peer has sent all.

    Not for two tasks at once. `broken` says why the connection should be closed, when it should.
    """

    __slots__ = ("_committer", "_decoder", "_max_frame_bytes", "_odd", "_part", "_rest", "_routing", "_strict")

    def __init__(self, routing: Routing, committer: Committer, way: Way, *, max_frame_bytes: int) -> None:
        self._routing = routing
        self._committer = committer
        self._max_frame_bytes = max_frame_bytes
        self._part = Part(way, committer.current)
        self._decoder: StreamDecoder | None = None  # made when it is needed first: idle connections stay small
        self._rest = b""  # an incomplete counted frame
        self._strict = False  # the decoder is in the midst of something
        self._odd = 0  # so many reads it goes alone

    @property
    def goes_alone(self) -> bool:
        """Whether its next read must not be scanned with those of others (small_reads.py)."""
        return self._odd > 0 or self._strict or bool(self._rest) or self._part.way is not self._routing.open_way

    @property
    def broken(self) -> str | None:
        """Why nothing more can be understood here."""
        return self._decoder.broken if self._decoder is not None else None

    def take(self, data: bytes) -> Callable[[], Awaitable[None]] | None:
        """Take what was read; returns what has to be awaited before more is read, if anything has.

        That loads tokens, and puts lines that waited for them in their place, or waits for room.
        """
        if not self._strict:
            data = self._take_quickly(data)
        if data:
            if self._decoder is None:
                self._decoder = StreamDecoder(self._max_frame_bytes)
            unknown = self._take_strictly(self._decoder.feed(data))
            rest = self._decoder.take_rest(REST_BYTES)
            self._strict = rest is None
            self._rest = rest or b""
            self._odd = ODD_READS
            if unknown:
                return self._load
        elif self._odd:
            self._odd -= 1
        committer = self._committer
        return committer.room if committer.uncommitted_bytes > committer.max_uncommitted_bytes else None

    async def end(self) -> None:
        """The peer has sent all: an unterminated line is a message, a counted frame cut off is malformed."""
        decoder = self._decoder or StreamDecoder(self._max_frame_bytes)
        found = decoder.feed(self._rest) + decoder.end()
        self._rest = b""
        if self._take_strictly(found):
            await self._load()
        self._committer.flush()

    def _take_quickly(self, data: bytes) -> bytes:
        """Take all that the quick path recognises, and keep an incomplete frame; what is left is for the decoder."""
        self._part.group = self._committer.current
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if recognisable(data):
            data = scan_into(self._part, data, self._routing)
        if data and len(data) <= REST_BYTES and is_incomplete(data, self._max_frame_bytes):
            self._rest = data
            return b""
        return data

    def _take_strictly(self, found: list[Frame | Malformed]) -> bool:
        """Route frames by the strict rules; whether some wait for tokens that have to be loaded."""
        routing = self._routing
        part = self._part
        part.group = self._committer.current
        frames = [frame for frame in found if isinstance(frame, bytes)]
        part.malformed += len(found) - len(frames)
        part.frames += len(found) - len(frames)
        routing.take_frames(frames, part)
        routing.count(part)
        return bool(part.unknown)

    async def _load(self) -> None:
        routing = self._routing
        part = self._part
        try:
            await routing.load(part.unknown)
        finally:  # what cannot be loaded counts as unknown
            part.group = self._committer.current  # another group may have begun while we waited
            routing.take_waiting(part)
            routing.count(part)
        await self._committer.room()


def scan_into(part: Part, data: bytes, routing: Routing) -> bytes:
    """Take all that the quick path recognises of `recognisable` data; returns what is left."""
    group = part.group
    known = part.known()
    taken, text = scan(data, known.entries, known)
    part.fast += taken
    part.frames += taken
    group.bytes += len(data) - len(text) + 40 * taken
    group.compact()
    routing.count(part)
    return text.encode("latin-1") if text else b""


def is_incomplete(data: bytes, max_frame_bytes: int) -> bool:
    """Whether `data` begins with a sound count and does not hold all of its frame."""
    digits = len(str(max_frame_bytes))
    space = data.find(b" ", 0, digits + 1)
    count = data[:space] if space >= 0 else data[: digits + 1]
    if not count.isdigit() or count[0] == 0x30 or len(count) > digits or int(count) > max_frame_bytes:
        return False
    return space < 0 or len(data) <= space + int(count)
