"""A router that remembers what it was given, and lets a test wait for it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from logplex.framing import StreamDecoder
from logplex.ledger import Ledger
from logplex.registry.records import Token

MAX_FRAME_BYTES = 64 * 1024
DEADLINE_SECONDS = 20.0  # of a test that waits for what never comes


class FakeStream:
    def __init__(self, router: "FakeRouter", bound: Token | None) -> None:
        self.bound = bound
        self.fed: list[bytes] = []
        self.ended = False
        self._router = router
        self._decoder = StreamDecoder(MAX_FRAME_BYTES)

    @property
    def broken(self) -> str | None:
        return self._decoder.broken

    def take(self, data: bytes) -> Callable[[], Awaitable[None]] | None:
        self.fed.append(data)
        if b"crash" in data:
            raise RuntimeError("a bug")
        self._router.take(self._decoder.feed(data))
        return None if self._router.room.is_set() else self._router.room.wait

    async def end(self) -> None:
        self.ended = True
        self._router.take(self._decoder.end())


class FakeSmallReads:
    """Leaves every read to its stream."""

    def add(self, stream: Any, data: bytes, reader: Any) -> bool:
        return False

    def take(self) -> None:
        """Nothing is here."""


class FakeRouter:
    """`frames` holds frames and faults in the order of their arrival, over all streams."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.frames: list[object] = []
        self.streams: list[FakeStream] = []
        self.flushed = 0  # frames that were there at the last flush
        self.flushes = 0
        self.readers_behind = False
        self.room = trio.Event()
        self.room.set()
        self._changed = trio.lowlevel.ParkingLot()

    def stream(self, *, bound: Token | None = None) -> FakeStream:
        self.streams.append(FakeStream(self, bound))
        self._changed.unpark_all()
        return self.streams[-1]

    def small_reads(self) -> FakeSmallReads:
        return FakeSmallReads()

    def flush(self) -> None:
        self.flushes += 1
        self.flushed = len(self.frames)
        self._changed.unpark_all()

    def take(self, frames: Sequence[object]) -> None:
        self.frames += frames

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when the condition holds; it is looked at after each flush and each new stream."""
        with trio.fail_after(DEADLINE_SECONDS):
            while not condition():
                await self._changed.park()

    async def flushed_frames(self, count: int) -> list[object]:
        """All frames, once so many have been flushed."""
        await self.until(lambda: self.flushed >= count)
        return self.frames
