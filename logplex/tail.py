"""One reader of a channel: backlog, then live, at its own speed.

A tail is one integer, its cursor; backlog is only where that cursor starts.

Rules:

* The backlog is the newest `num` lines *after* filtering: positions are walked back in bounded steps and nothing of
  them is kept, then everything from there on is read forwards. So backlog and live join without gap or repeat, in
  bounded memory.
* A tail reads on by itself (ring, then spool) until its cursor meets that of the channel's fan-out; there it joins
  it, without a step in between, and its own task sleeps. When its socket is full it leaves the fan-out with what the
  kernel did not take, and reads on by itself again.
* Positions that nobody holds any more are told once, exactly, as L11, whatever the filter; but not those that were
  backlog, which the reader was never promised.
* A spool that cannot be read (StoreError) ends no tail: backlog is what the ring holds, and a reader who is behind
  it goes on there, told by L11 what it misses.
* The tail ends when the peer goes, when it takes no byte for `STALL_SECONDS`, when it is told to end, and when the
  time has come up to which its filter lets lines pass.
"""

import math
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import trio

from .batch import Batch
from .channel import Channel, Reading
from .errors import StoreError
from .filters import Filter
from .rendering import SLICE_SECONDS, Id, View, id_block, notice, overflow, render

STEP_BYTES = 64 * 1024  # read and rendered at once: about a millisecond of work, and what a stalled reader can hold
STALL_SECONDS = 600.0  # a terminal that was stopped with Ctrl-S for a break may come back; a dead peer does not
END_SECONDS = 5.0  # for the last bytes of a stream that is to end


class Sink(Protocol):
    """A reader's socket. All methods raise trio.BrokenResourceError once the peer is gone."""

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write as far as there is room; how many bytes that were, 0 when there is none."""

    async def wait_writable(self) -> None:
        """Return when there is room again."""

    async def wait_end(self) -> None:
        """Return when the stream is to end, in an orderly way, for a reason of the socket's own."""


class Start(NamedTuple):
    """Where a reader begins; what is gone is a loss to it only from `promised` on, after `since` (unix ms)."""

    cursor: int
    promised: int
    since: int


class Fans(Protocol):
    """What a tail needs of the channel's fan-out (fanout.py)."""

    cursor: int
    heartbeat_seconds: float

    def join(self, tail: "Tail") -> None:
        """Take over a tail whose cursor is the fan-out's."""

    def leave(self, tail: "Tail") -> None:
        """Forget the tail; harmless when it has left."""

    async def reach(self, cursor: int) -> None:
        """Wait until the fan-out is at `cursor` or further."""


async def read_on(channel: Channel, cursor: int) -> Reading:
    """What is held from `cursor` on; where the spool fails, what the ring holds."""
    try:
        return await channel.read(cursor, STEP_BYTES)
    except StoreError:
        oldest = channel.ring_oldest
        return Reading(max(0, oldest - cursor), channel.recent(oldest, STEP_BYTES) or [])


async def start_at_backlog(channel: Channel, filter: Filter, num: int) -> Start:
    """Where the newest `num` lines that match begin; walks back as far as it must, a bounded step at a time."""
    head = end = channel.head
    now = time.time_ns() // 1_000_000
    if num <= 0 or channel.no_history:
        return Start(head, head, now)
    if filter.trivial:
        return Start(max(0, min(head, channel.oldest), head - num), head, now)
    found, position = 0, head
    while batches := await _read_back(channel, end):
        for batch in reversed(batches):
            if filter.since is not None and batch.at < filter.since:
                return Start(position, head, now)
            if not filter.covers(batch.at):
                continue
            started = time.perf_counter()
            for index, line in reversed(list(enumerate(batch.lines()))):
                if filter.match(line, batch.at):
                    found, position = found + 1, batch.first + index
                    if found == num:
                        return Start(position, head, now)
                if time.perf_counter() - started > SLICE_SECONDS:
                    await trio.lowlevel.checkpoint()
                    started = time.perf_counter()
        end = batches[0].first
        await trio.lowlevel.checkpoint()
    return Start(position, head, now)


async def start_at_time(channel: Channel, since: int) -> Start:
    """Where the lines received at `since` (unix ms) or later begin."""
    head = end = position = channel.head
    if not channel.no_history:
        while batches := await _read_back(channel, end):
            for batch in reversed(batches):
                if batch.at < since:
                    return Start(position, head, since)
                position = batch.first
            end = position
            await trio.lowlevel.checkpoint()
    return Start(position, head, since)


def start_after(channel: Channel, place: Id, created_at: int) -> Start | None:
    """Resume after an id that was given out; None when it cannot be one of this channel.

    An id of an older epoch resumes at the first position of the next (design section 1). `created_at` (unix ms) is
    when the reader's session was made: the earliest that what it now misses can have come.
    """
    first = channel.after_epoch(place.epoch)
    if first is not None:
        return Start(first, first, created_at)
    if place.position >= channel.head:
        return None
    return Start(place.position + 1, place.position + 1, created_at)


async def _read_back(channel: Channel, end: int) -> list[Batch]:
    try:
        return await channel.read_back(end, STEP_BYTES)
    except StoreError:
        return []


class Tail:
    """One open stream; its task is whoever awaits `backlog` or `follow`."""

    __slots__ = (
        "_ending",
        "_promised",
        "_scope",
        "_spoke_at",
        "at",
        "channel",
        "cursor",
        "joined",
        "pending",
        "sink",
        "view",
    )

    def __init__(self, channel: Channel, sink: Sink, view: View, start: Start) -> None:
        self.channel = channel
        self.sink = sink
        self.view = view
        self.cursor = start.cursor
        self.joined = False  # the fan-out serves it
        self._promised = start.promised
        self.at = start.since  # unix ms of the newest line that this reader got to: what is lost came later
        self.pending: bytes | memoryview | None = None  # bytes that the socket did not take yet
        self._ending: bytes | None = None  # set: end, with this last notice if it is not empty
        self._scope: trio.CancelScope | None = None  # a wait that others may cut short
        self._spoke_at = trio.current_time()

    async def backlog(self, end: int) -> None:
        """Show everything up to position `end`, and return; raises as `follow`."""
        while self.cursor < end and self._ending is None:
            await self._step(end, math.inf)
        self.cursor = min(self.cursor, end)

    async def follow(self, fans: Fans) -> None:
        """Show everything from the cursor on, until somebody ends it.

        Raises trio.BrokenResourceError when the peer went away or takes nothing any more.
        """
        try:
            while self._ending is None:
                if self._seconds_left() <= 0:
                    await self.backlog(self.channel.head)
                    return
                await fans.reach(self.cursor)
                if self.channel.removed:
                    return  # whoever ends the tails of a channel does not know those that open meanwhile
                if self.cursor < fans.cursor:
                    await self._step(fans.cursor, fans.heartbeat_seconds)
                    continue
                if self.view.sse:
                    await self.say(id_block(self.channel.epoch, self.cursor - 1))
                if self.cursor == fans.cursor and self._ending is None:
                    fans.join(self)
                    # The fan-out serves us now, until it or somebody else wakes us.
                    if await self._wait(self.sink.wait_end, self._seconds_left()) and self.pending is None:
                        self.end()
                    fans.leave(self)
                    await self._flush()
            if self._ending:
                epoch, position = self.channel.epoch, self.cursor - 1
                await self.say(notice(self._ending, sse=self.view.sse, epoch=epoch, position=position))
        finally:
            fans.leave(self)

    def end(self, text: bytes = b"") -> None:
        """Make it end, after a last notice if there is one; at once when its peer does not read."""
        if self._ending is None:
            self._ending = text
            self.wake()

    def wake(self) -> None:
        """Give its task the turn: there is something to send, or it is to end."""
        if self._scope is not None:
            self._scope.cancel()

    def deliver(self, data: bytes, end: int, at: int) -> bool:
        """Send what the fan-out shows, which reach up to position `end`; False when it has left therefore.

        Never blocks, never raises.
        """
        self.cursor = end
        self.at = at
        try:
            sent = self.sink.send_nowait(data)
        except trio.BrokenResourceError:
            sent = 0  # its own task meets the same error and ends
        if sent == len(data):
            return True
        self.pending = memoryview(data)[sent:] if sent else data
        self.wake()
        return False

    async def say(self, data: bytes) -> None:
        """Send some bytes; raises as `follow`."""
        self._spoke_at = trio.current_time()
        self.pending = data
        await self._flush()

    async def _step(self, end: int, heartbeat_seconds: float) -> None:
        """Read, render and send the next lines, not beyond position `end`; only a loss may reach beyond it."""
        channel, sse = self.channel, self.view.sse
        lost, batches = await read_on(channel, self.cursor)
        if channel.removed:
            self.end()
            return
        first = self.cursor + lost
        gone = first - max(self.cursor, self._promised)
        data = b""
        if gone > 0:
            data = notice(overflow(gone, self.at), sse=sse, epoch=channel.epoch, position=first - 1)
        self.cursor = first
        parsed = []
        for batch in batches:
            if batch.first < end:
                part = batch.cut(batch.first, end)
                parsed.append((part, part.lines()))
                self.cursor, self.at = part.end, part.at
        data += await render(self.view, parsed, channel.epoch)
        if sse and not data and trio.current_time() - self._spoke_at > heartbeat_seconds:
            data = id_block(channel.epoch, self.cursor - 1)
        if data:
            await self.say(data)
        await trio.lowlevel.checkpoint()

    async def _flush(self) -> None:
        while self.pending is not None:
            sent = self.sink.send_nowait(self.pending)
            if sent:
                self.pending = memoryview(self.pending)[sent:] if sent < len(self.pending) else None
            if self.pending is not None:
                ending = self._ending
                seconds = STALL_SECONDS if ending is None else END_SECONDS
                if not await self._wait(self.sink.wait_writable, seconds) and self._ending is ending:
                    raise trio.BrokenResourceError("the peer reads nothing")

    async def _wait(self, wait: Callable[[], Awaitable[None]], seconds: float) -> bool:
        """Whether the wait came to its own end, and was not cut short."""
        with trio.move_on_after(seconds) as self._scope:
            await wait()
        cut_short = self._scope.cancelled_caught
        self._scope = None
        return not cut_short

    def _seconds_left(self) -> float:
        until = self.view.filter.until
        return math.inf if until is None else max(0.0, until / 1000 - time.time())
