"""Syslog over TCP and TLS: a stream of octet-counted frames (RFC 6587 3.4.1, RFC 5425).

Rules:

* A line is delivered when the peer's kernel has acknowledged it: bytes sent less what the kernel still holds
  (`SIOCOUTQ`). That is asked only when somebody wants to know, or when the connection ends; then the cursor stands at
  the first frame that is not covered. With TLS the kernel counts more bytes than we sent, so the cursor errs on the
  side of sending again.
* A caught-up drain's batch goes out in `notify`: one `replace`, one `send`. What the kernel does not take is kept
  while the app's share of rendered bytes lasts; beyond it, and when others need the memory, only the frame that was
  begun is kept, and the rest is rendered again.
* Nothing is expected from the receiver: what it says is thrown away, and its end ends the connection.
* An idle connection is closed after a while; so is one that is very old, to follow changes of the name's addresses.
"""

from itertools import islice

import trio

from logplex.batch import Batch
from logplex.channel import Channel

from .delivery import L10_PRI, Delivery, l10_text
from .link import Link
from .marks import MOST, Mark, Marks, frame_ends
from .rendering import own_line, pieces, renderer, wanted
from .site import Site
from .spec import DrainSpec
from .state import DrainState, Untold
from .status import Failure
from .unsent import Unsent

_TURN_BYTES = 4 * 1024 * 1024  # of ring or spool in a turn: as much as all inputs may take in one
_SETTLE_SECONDS = 0.05  # first look at whether a connection after a failure works
_LAST_SECONDS = 10.0  # for the last bytes before an idle connection is closed
_DOUBT_SECONDS = 1.0  # TLS 1.3 without a session ticket: an alert would have come by then
_UNEXPECTED_BYTES = 65536  # a receiver that talks that much is no syslog receiver


_mark = tuple.__new__  # a third of the cost of Mark(…); one for each batch and drain


class SyslogDelivery(Delivery):
    """A drain over TCP or TLS."""

    def __init__(
        self, spec: DrainSpec, channel: Channel, state: DrainState, site: Site, *, until: int | None = None
    ) -> None:
        super().__init__(spec, channel, state, site, until=until)
        self._token = spec.token.encode()
        self._dirty = site.dirty
        self._render = renderer(spec, channel.name)
        self._plain = spec.options.plain
        self._ready = False  # connected, caught up, nothing waits: `notify` may send
        self._marks = Marks(self)
        self._unsent = Unsent(site.rendered, self, channel.id)
        self._piece_bytes = site.limits.max_batch_bytes  # of the spool; more while the kernel takes all of them
        self._untold = 0  # lines of a loss that this connection has not told yet
        self._unexpected = 0
        self._closed_by_peer = False

    def notify(self, batch: Batch) -> None:
        link = self.link
        if not self._ready or link is None or batch.first != self.sent or batch.tails_only:
            self._ready = False
            self.wake()
            return
        try:
            data = batch.syslog(self._token)
            size = len(data)
            marks = self._marks
            marks.bytes = total = marks.bytes + size
            marks.waiting.append(_mark(Mark, (total, batch.end, 0, batch.at, 0, None)))
            self.sent = batch.end
            self._dirty.add(self)
            taken = link.send(data)
            if taken < size:
                self._ready = False
                self._keep(data, taken)
                self.wake()
            elif len(marks.waiting) > MOST:
                self.settle()
                marks.thin_out()
        except Exception as exc:  # noqa: BLE001 - the commit goes on, whatever happens in one drain
            self._ready = False
            self.fail_with(exc)

    async def converse(self, link: Link) -> None:
        self._untold = self.state.untold.lines if self.state.untold else 0
        life_end = self.connected_at + self.site.limits.life_seconds
        while True:
            await self.go_on()
            if self._closed_by_peer:
                raise Failure("closed", "the receiver closed the connection")
            if self._unsent:
                await self._flush(link)
            elif self._untold or self.sent < self.head:
                await self._catch_up(link)
            elif self._ends() or trio.current_time() >= life_end or not await self._idle(life_end):
                await self._last_bytes()
                return

    def settle(self) -> None:
        link = self.link
        if link is None or not self._marks.waiting or not self._counts(link):
            return
        if self._marks.settle(self._arrived(link)):
            self.state.succeeded_at = self.site.now_ms()
            if self.health.failing or not self.served:
                self.succeeded()

    def settle_broken(self, link: Link) -> None:
        """Go back to the first frame that the peer's kernel has not acknowledged."""
        arrived = self._arrived(link)
        self.link = link
        self.settle()
        self.link = None
        if self._plain and self._counts(link):
            self._marks.settle_frames(arrived, self._token)

    def _arrived(self, link: Link) -> int:
        """Bytes of this connection that the peer's kernel has."""
        return self._marks.bytes - len(self._unsent) - link.unacknowledged()

    def disconnected(self) -> None:
        self._ready = False
        self._marks.clear()
        self._unsent.let_go()
        self._unexpected = 0
        self._closed_by_peer = False

    def readable(self) -> None:
        data = self.link.recv() if self.link is not None else None
        if data is None:
            return
        self._unexpected += len(data)
        if not data or self._unexpected > _UNEXPECTED_BYTES:
            self._closed_by_peer = True
            self._ready = False
            if self.link is not None:
                self.link.pause()
            self.wake()

    def overrun(self, count: int) -> None:
        self.sent += count
        self._marks.lose(count, self.sent)
        self._untold += count

    def _counts(self, link: Link) -> bool:
        """Whether what the peer's kernel has acknowledged has arrived: not while its TLS may still turn us away."""
        return link.accepted or trio.current_time() - self.connected_at >= _DOUBT_SECONDS

    def _ends(self) -> bool:
        return self.until is not None and self.sent >= self.until

    async def _idle(self, life_end: float) -> bool:
        """Caught up: `notify` sends from here on. False when nothing was sent for a while."""
        if self.health.failing and self.sending:
            waited = trio.current_time() - self.connected_at
            await trio.sleep(min(_SETTLE_SECONDS + waited / 4, 1.0))  # nobody tells us whether it arrives, so look
            self.settle()
            return True
        before = self._marks.bytes
        self.idle()
        self._ready = self._plain and self.state.epoch == self.channel.epoch
        try:
            woken = await self.park(min(trio.current_time() + self.site.limits.idle_seconds, life_end))
        finally:
            self._ready = False
        self.busy()
        return woken or self._marks.bytes != before

    async def _last_bytes(self) -> None:
        """Before a close: what was sent last may still be on its way."""
        with trio.move_on_after(_LAST_SECONDS):
            self.settle()
            while self.sending and not self._closed_by_peer:
                await trio.sleep(_SETTLE_SECONDS)
                self.settle()

    async def _catch_up(self, link: Link) -> None:
        """Send what follows: all that the kernel takes of the ring, or a piece of the spool."""
        limits = self.site.limits
        size = limits.batch_bytes
        if self._plain and not self._untold:
            if self._send_recent(link):
                await trio.lowlevel.checkpoint()
                return
            size = self._piece_bytes
        rendered, app = self.site.rendered, self.channel.id
        held = await rendered.take(app, size)
        try:
            batches = await self.take(held)
            await self.go_on()
            if not self._plain:
                batches = list(islice(pieces(batches), 1))
            data = b"".join([self._loss(), *map(self._rendered, batches)])
        finally:
            rendered.give_back(app, held)
        taken = link.send(data) if data else 0
        all_taken = taken == len(data)
        self._piece_bytes = min(2 * self._piece_bytes, _TURN_BYTES) if all_taken else limits.max_batch_bytes
        self._keep(data, taken)
        await trio.lowlevel.checkpoint()

    def _send_recent(self, link: Link) -> bool:
        """Send what the ring holds while the kernel takes it, a turn's worth; False when the ring does not hold it.

        An input takes megabytes in a turn, so a drain that took a batch a turn would never catch up with it.
        """
        marks = self._marks
        begin = marks.bytes
        while marks.bytes - begin < _TURN_BYTES and not self._unsent:
            batches = self.channel.recent(self.sent, self.site.limits.batch_bytes)
            if batches is None:
                return marks.bytes > begin
            batches = self.bounded(batches)
            if not batches:
                break
            for batch in batches:
                data = self._rendered(batch)
                taken = link.send(data) if data else 0
                if taken < len(data):
                    self._keep(data, taken)
                    break
        return True

    def _loss(self) -> bytes:
        """L10, if there is a loss that this connection has not told."""
        if not self._untold:
            return b""
        now = self.site.now_ms()
        known = self.state.untold or Untold(0, self.state.delivered_at or now, now)
        untold = known._replace(lines=self._untold)
        self._untold = 0
        frame = self._render(own_line(L10_PRI, untold.noticed, l10_text(untold)), untold.noticed, None)
        self._marks.tell(len(frame), self.sent, untold)
        return frame

    def _rendered(self, batch: Batch) -> bytes:
        """A batch's frames, with the marks that say which bytes are which positions."""
        if self._plain and not batch.tails_only:
            data = batch.syslog(self._token)
            self._marks.add(len(data), batch.end, 0, batch.at)
            self.sent = batch.end
            return data
        frames = wanted(self.spec, self._render, batch)
        for frame in frames:
            self._marks.add(len(frame.data), frame.end, frame.end - self.sent - 1, frame.at)
            self.sent = frame.end
        if self.sent < batch.end:
            self._marks.add(0, batch.end, batch.end - self.sent, batch.at)
            self.sent = batch.end
        return b"".join([frame.data for frame in frames])

    def _keep(self, data: bytes, taken: int) -> None:
        """What the kernel did not take waits here, as much as a batch may hold, or only the frame that was begun."""
        most = taken + self.site.limits.max_batch_bytes
        if len(data) > most:
            data = self._cut(data, most)
        left = len(data) - taken
        if not left:
            return
        if self.site.rendered.try_take(self.channel.id, left):
            self._unsent.keep(data, taken)
        else:
            self._keep_begun(data, taken)

    def give_up_rendered(self) -> None:
        rest = self._unsent.rest
        if rest is None or not self._unsent.counts:
            return
        data = rest.obj
        assert isinstance(data, bytes)
        self._unsent.let_go()
        self._keep_begun(data, len(data) - len(rest))

    def _keep_begun(self, data: bytes, taken: int) -> None:
        """Keep the rest of the frame that was begun; what follows is rendered again."""
        locked = self.link.locked if self.link is not None else 0
        self._unsent.keep_uncounted(self._cut(data, taken + locked)[taken:])

    def _cut(self, data: bytes, least: int) -> bytes:
        """The frames of `data` that hold its first `least` bytes; what follows is rendered again later."""
        kept = next(end for end in frame_ends(data) if end >= least)
        self._untold += self._marks.forget_after(data, kept)
        return data[:kept]

    async def _flush(self, link: Link) -> None:
        await link.wait_writable()
        await self.go_on()
        rest = self._unsent.rest
        if rest is not None:
            self._unsent.took(link.send(rest))
