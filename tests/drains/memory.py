"""A link in memory, for tests on a mock clock: what was sent is a list, what arrives is put in by the test."""

from collections.abc import Callable, Sequence

import trio

from drains.link import Buffer
from drains.spec import DrainSpec


class MemoryLink:
    """Takes everything; acknowledges what the test says (all of it, at first)."""

    locked = 0
    accepted = True

    def __init__(self) -> None:
        self.sent = bytearray()
        self.unread: list[bytes] = []
        self.closed = False
        self.held = 0
        self.on_readable: Callable[[], None] = lambda: None

    def send(self, data: Buffer) -> int:
        self.sent += data
        return len(data)

    def send_parts(self, parts: Sequence[bytes]) -> int:
        return self.send(b"".join(parts))

    def recv(self) -> bytes | None:
        return self.unread.pop(0) if self.unread else None

    def unacknowledged(self) -> int:
        return self.held

    def pause(self) -> None:
        """Nothing watches a link in memory."""

    def watch(self) -> None:
        """Nothing watches a link in memory."""

    def rest(self, seconds: float) -> None:
        """Nothing watches a link in memory."""

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.closed = True

    def answer(self, data: bytes) -> None:
        """What the receiver says."""
        self.unread.append(data)
        self.on_readable()


class TightLink(MemoryLink):
    """A kernel that takes `room` more bytes."""

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self.room = room
        self.more = trio.Event()

    def send(self, data: Buffer) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.sent += data[:taken]
        return taken

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.room and not self.closed:
            await self.more.wait()

    def take(self, room: int) -> None:
        self.room += room
        self.more.set()
        self.more = trio.Event()


class Door:
    """Dials links in memory, or fails as the test says."""

    def __init__(self) -> None:
        self.links: list[MemoryLink] = []
        self.dialled_at: list[float] = []
        self.failures: list[Exception] = []
        self.make: Callable[[], MemoryLink] = MemoryLink

    async def dial(self, spec: DrainSpec, app: int) -> MemoryLink:
        await trio.lowlevel.checkpoint()
        self.dialled_at.append(trio.current_time())
        if self.failures:
            raise self.failures.pop(0)
        self.links.append(self.make())
        return self.links[-1]

    @property
    def link(self) -> MemoryLink:
        return self.links[-1]
