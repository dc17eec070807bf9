"""Channels in memory and readers' sockets with a bounded kernel buffer, for the tests of tails."""

from collections.abc import Iterable

import trio

from logplex.batch import Batch, Form, raw_frame
from logplex.channel import Budget, Channel, Place
from logplex.errors import StoreError
from logplex.filters import Filter
from logplex.ledger import Page
from logplex.rendering import View
from logplex.ring import Ring

EPOCH = "00000000000000aa"
AT = 1_700_000_000_000


class Spool:
    """Committed batches behind the ring, until `forget` is called."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.oldest = 0
        self.fails = False

    async def read(self, channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        await self._wait()
        cursor = max(cursor, self.oldest)
        found = [batch.cut(cursor, end) for batch in self.batches if batch.end > cursor and batch.first < end]
        return found[:2]

    async def read_back(self, channel_id: int, end: int, max_bytes: int) -> list[Batch]:
        await self._wait()
        held = [batch for batch in self.batches if batch.end > self.oldest and batch.first < end]
        found = [batch.cut(self.oldest, end) for batch in held if end > self.oldest]
        return found[-2:]

    async def _wait(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise StoreError("disk I/O error")

    async def places(self, channel_ids: Iterable[int]) -> dict[int, Place]:
        return {channel_id: Place(0, 0, EPOCH, 0, Page()) for channel_id in channel_ids}


class Source:
    """A channel with its spool, and the hand that writes into it; message n of a run says `n`."""

    def __init__(self, *, ring_lines: int = 4, first: int = 0, epoch: str = EPOCH) -> None:
        self.spool = Spool()
        ring = Ring(first, max_lines=ring_lines, max_bytes=1 << 20)
        place = Place(first, first, epoch, first, Page())
        self.channel = Channel(1, "shop", place, ring=ring, history=self.spool, budget=Budget(1 << 30))

    def write(
        self, *texts: bytes, source: bytes = b"app", process: bytes = b"web.1", pri: int = 190, at: int = AT
    ) -> None:
        """Commit one batch."""
        data = b"".join([raw_frame(pri, b"T", source, process, text) for text in texts])
        batch = Batch(self.channel.head, len(texts), at, Form.RAW, data)
        self.spool.batches.append(batch)
        self.channel.append(batch)

    def number(self, count: int) -> None:
        """Commit one batch whose lines say their positions."""
        head = self.channel.head
        self.write(*[b"%d" % position for position in range(head, head + count)])

    def forget(self, position: int) -> None:
        """The spool gives up everything before `position`."""
        self.spool.oldest = position
        self.channel.forget_before(position)


class Socket:
    """A reader's socket: takes `room` bytes (None: any number) until the reader reads."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.taken = b""
        self.gone = False
        self.sends = 0
        self._lot = trio.lowlevel.ParkingLot()

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self.gone:
            raise trio.BrokenResourceError
        self.sends += 1
        count = len(data) if self.room is None else min(self.room, len(data))
        self.taken += bytes(data[:count])
        if self.room is not None:
            self.room -= count
        return count

    async def wait_writable(self) -> None:
        while self.room == 0:
            if self.gone:
                raise trio.BrokenResourceError
            await self._lot.park()

    async def wait_end(self) -> None:
        while not self.gone:
            await self._lot.park()
        raise trio.BrokenResourceError

    def read(self, count: int | None) -> None:
        """Make room for `count` more bytes (None: any number)."""
        self.room = None if count is None else (self.room or 0) + count
        self._lot.unpark_all()

    def hang_up(self) -> None:
        self.gone = True
        self._lot.unpark_all()


def plain(**given: object) -> View:
    return View(Filter.parse(given))


def events(**given: object) -> View:
    return View(Filter.parse(given), sse=True)
