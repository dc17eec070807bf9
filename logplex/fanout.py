"""The fan-out of a channel: formats each line once and writes it to all tails that are caught up.

Rules:

* One task a channel that has followers, none for others. A tail that is caught up has no task that runs: a round
  costs one non-blocking write a reader (1,000 readers: 7.7 µs a line and reader, against 47 with an event each).
* All tails that have joined stand at the fan-out's cursor. A round first formats for every view, then moves the
  cursor and takes the readers as they are at that moment, then writes: whoever joins later begins behind the round.
* A tail whose socket is full leaves within the round (tail.py) and costs the others nothing.
* Events streams that were silent for `heartbeat_seconds` get a heartbeat, one text for all readers of a view.
* With few readers there is no lingering: a round begins as soon as there is something to show. With many, a pause
  follows each round, so that the next shows more lines a write and other channels get their turn: most of the cost
  is the kernel's, by the write, however short.
"""

import math
import time

import trio

from .batch import Batch
from .channel import Channel
from .rendering import L20, SLICE_SECONDS, View, id_block, notice, overflow, render
from .tail import Tail, read_on

PAUSE_SECONDS_PER_WRITE = 5e-6  # about what a write takes: the fan-out of a channel has at most half of the core
MIN_PAUSE_SECONDS = 0.001  # shorter ones are not worth a timer
MAX_PAUSE_SECONDS = 0.05
_SLICE_READERS = 64  # writes between two looks at the clock


class _Readers:
    """The joined tails of one view."""

    __slots__ = ("spoke_at", "tails")

    def __init__(self) -> None:
        self.tails: dict[Tail, None] = {}
        self.spoke_at = trio.current_time()


class Fanout:
    """The live end of one channel's tails; a Follower of the channel."""

    def __init__(self, channel: Channel, *, heartbeat_seconds: float) -> None:
        self.channel = channel
        self.cursor = channel.head
        self.heartbeat_seconds = heartbeat_seconds
        self.tails: set[Tail] = set()  # all that follow, joined or behind
        self.scope = trio.CancelScope()
        self._at = time.time_ns() // 1_000_000  # unix ms of the newest line shown
        self._views: dict[View, _Readers] = {}
        self._news = trio.Event()
        self._moved = trio.lowlevel.ParkingLot()

    def notify(self, batch: Batch) -> None:
        """There is something to show."""
        self._news.set()

    def join(self, tail: Tail) -> None:
        """Take over a tail whose cursor is ours."""
        readers = self._views.get(tail.view)
        if readers is None:
            readers = self._views[tail.view] = _Readers()
            self._news.set()  # the next heartbeat may be due earlier now
        readers.tails[tail] = None
        tail.joined = True

    def leave(self, tail: Tail) -> None:
        """Forget the tail; harmless when it has left."""
        if not tail.joined:
            return
        tail.joined = False
        readers = self._views[tail.view]
        del readers.tails[tail]
        if not readers.tails:
            del self._views[tail.view]

    async def reach(self, cursor: int) -> None:
        """Wait until the fan-out is at `cursor` or further, or its channel has gone."""
        while self.cursor < cursor and not self.channel.removed:
            await self._moved.park()

    async def run(self) -> None:
        """Serve the channel's tails until `scope` is cancelled."""
        with self.scope:
            self.channel.follow(self)
            try:
                while True:
                    if self.cursor < self.channel.head:
                        pause = min(await self._round() * PAUSE_SECONDS_PER_WRITE, MAX_PAUSE_SECONDS)
                        if pause >= MIN_PAUSE_SECONDS:
                            await trio.sleep(pause)
                    else:
                        with trio.move_on_at(self._next_heartbeat()):
                            await self._news.wait()
                    self._news = trio.Event()
                    await self._heartbeat()
                    await trio.lowlevel.checkpoint()
            finally:
                self.channel.unfollow(self)

    async def _round(self) -> int:
        """Show what is next; the number of writes."""
        channel, cursor = self.channel, self.cursor
        lost, batches = await read_on(channel, cursor)
        if channel.removed:
            for tail in self.tails:
                tail.end()
            self._moved.unpark_all()
            await trio.sleep_forever()  # until the last tail has gone
        parsed = [(batch, batch.lines()) for batch in batches] if self._views else []
        rendered: dict[View, bytes] = {}
        while missing := [view for view in self._views if view not in rendered]:  # some join while we render
            for view in missing:
                data = await render(view, parsed, channel.epoch)
                if lost:
                    told = overflow(lost, self._at)
                    data = notice(told, sse=view.sse, epoch=channel.epoch, position=cursor + lost - 1) + data
                rendered[view] = data
        self.cursor = batches[-1].end if batches else cursor + lost
        self._at = batches[-1].at if batches else self._at
        self._moved.unpark_all()
        return await self._write({view: data for view, data in rendered.items() if data})

    def _next_heartbeat(self) -> float:
        spoken = [readers.spoke_at for view, readers in self._views.items() if view.sse]
        return min(spoken, default=math.inf) + self.heartbeat_seconds

    async def _heartbeat(self) -> None:
        latest = trio.current_time() - self.heartbeat_seconds
        silent = [view for view, readers in self._views.items() if view.sse and readers.spoke_at <= latest]
        if silent:
            block = id_block(self.channel.epoch, self.cursor - 1)
            await self._write(dict.fromkeys(silent, block))

    async def _write(self, rendered: dict[View, bytes]) -> int:
        """Write to all readers as they are now; other tasks run between slices. The number of writes."""
        now = trio.current_time()
        turns = []
        for view, data in rendered.items():
            readers = self._views.get(view)
            if readers is not None:
                readers.spoke_at = now
                turns.append((data, list(readers.tails)))
        end, at = self.cursor, self._at
        started = time.perf_counter()
        for data, tails in turns:
            for start in range(0, len(tails), _SLICE_READERS):
                for tail in tails[start : start + _SLICE_READERS]:
                    if tail.joined and not tail.deliver(data, end, at):
                        self.leave(tail)
                if time.perf_counter() - started > SLICE_SECONDS:
                    await trio.lowlevel.checkpoint()
                    started = time.perf_counter()
        return sum(len(tails) for _, tails in turns)


class Tails:
    """All open tails of the node; a fan-out for each channel that has some."""

    def __init__(self, *, heartbeat_seconds: float) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._fanouts: dict[Channel, Fanout] = {}
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return sum(len(fanout.tails) for fanout in self._fanouts.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fan-outs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def follow(self, tail: Tail) -> None:
        """Show everything from the tail's cursor on until it ends; raises as `Tail.follow`."""
        channel = tail.channel
        fanout = self._fanouts.get(channel)
        if fanout is None:
            assert self._nursery is not None, "run comes first"
            fanout = self._fanouts[channel] = Fanout(channel, heartbeat_seconds=self._heartbeat_seconds)
            self._nursery.start_soon(fanout.run, name=f"tails of {channel.name}")
        fanout.tails.add(tail)
        try:
            await tail.follow(fanout)
        finally:
            fanout.tails.discard(tail)
            if not fanout.tails:
                fanout.scope.cancel()
                del self._fanouts[channel]

    def flags_changed(self, channel_id: int) -> None:
        """End the tails of a channel that no longer allows any, with L20."""
        for tail in self._of(channel_id):
            if tail.channel.no_tail:
                tail.end(L20)

    def end_channel(self, channel_id: int) -> None:
        """The channel was deleted: its streams end."""
        for tail in self._of(channel_id):
            tail.end()

    def end_all(self) -> None:
        """The server stops: streams end in an orderly way, so that readers come back."""
        for fanout in self._fanouts.values():
            for tail in fanout.tails:
                tail.end()

    def _of(self, channel_id: int) -> list[Tail]:
        return [tail for channel, fanout in self._fanouts.items() if channel.id == channel_id for tail in fanout.tails]
