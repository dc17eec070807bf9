"""Small reads of many connections, scanned together.

A platform's thousand connections bring a line or two at a time, and to scan a read by itself costs as much as ten
lines.

Rules (tests/test_small_reads.py):

* Only whole counted frames come together, from connections that are in the midst of nothing: what one of them sends
  says nothing about the bytes of another.
* The lines of a connection stay in order: its reader calls `take` before it takes anything else from that connection.
* Where the quick path stops, the rest of that read goes back to its reader, and so do the reads behind it. A
  connection whose lines needed the strict path goes alone for a while (streams.Stream.goes_alone).
* A bug in it ends the connections whose reads are here, and nothing else.
"""

from typing import NamedTuple, Protocol

from .commit import Committer
from .fastpath import recognisable
from .framing import is_whole
from .routing import Part, Routing
from .streams import Stream, scan_into

MOST_BYTES = 64 * 1024  # together: what is scanned at once stays in the processor's cache


class Reader(Protocol):
    """Who has read for one connection."""

    def take_alone(self, data: bytes) -> None:
        """Have the connection take what is not taken here. Must neither wait nor raise."""

    def crashed(self, error: Exception) -> None:
        """End the connection. Must neither wait nor raise."""


class _Read(NamedTuple):
    reader: Reader
    data: bytes


class SmallReads:
    """What was read since the last `take`, which follows within a turn of the loop."""

    def __init__(self, routing: Routing, committer: Committer, *, max_frame_bytes: int) -> None:
        self._routing = routing
        self._committer = committer
        self._max_frame_bytes = max_frame_bytes
        self._part = Part(routing.open_way, committer.current)
        self._reads: list[_Read] = []
        self._bytes = 0

    def add(self, stream: Stream, data: bytes, reader: Reader) -> bool:
        """Keep a read for `take`; False: it is for the stream itself."""
        committer = self._committer
        if stream.goes_alone or committer.uncommitted_bytes > committer.max_uncommitted_bytes:
            return False
        if not is_whole(data, self._max_frame_bytes):
            return False
        self._reads.append(_Read(reader, data))
        self._bytes += len(data)
        if self._bytes >= MOST_BYTES:
            self.take()
        return True

    def take(self) -> None:
        """Take all lines to the open group."""
        reads, self._reads = self._reads, []
        self._bytes = 0
        if not reads:
            return
        try:
            self._scan(reads)
        except Exception as exc:  # noqa: BLE001 - whose bytes it were cannot be told
            for read in reads:
                read.reader.crashed(exc)

    def _scan(self, reads: list[_Read]) -> None:
        data = b"".join([read.data for read in reads])
        taken = 0
        if recognisable(data):
            self._part.group = self._committer.current
            taken = len(data) - len(scan_into(self._part, data, self._routing))
        if taken == len(data):
            return
        for reader, read in reads:
            if taken < len(read):
                reader.take_alone(read[taken:] if taken else read)
            taken = max(0, taken - len(read))
