"""Syslog over UDP: one message a datagram, no count (RFC 5426).

* Delivered means sent: nobody acknowledges a datagram. When the receiver's host answers that nobody listens, the
  drain fails and goes on from the datagram that met that answer.
* A datagram that the network cannot carry is lost(permanent).
"""

import errno

import trio

from logplex.batch import Batch
from logplex.channel import Channel

from .delivery import L10_PRI, Delivery, l10_text
from .link import Link
from .rendering import Frame, own_line, renderer, wanted
from .site import Site
from .spec import DrainSpec
from .state import DrainState
from .status import Failure

_BATCH_BYTES = 65536  # between two checkpoints: some hundred datagrams


class UdpDelivery(Delivery):
    """A drain over UDP."""

    def __init__(
        self, spec: DrainSpec, channel: Channel, state: DrainState, site: Site, *, until: int | None = None
    ) -> None:
        super().__init__(spec, channel, state, site, until=until)
        self._render = renderer(spec, channel.name)
        self._ready = False

    def notify(self, batch: Batch) -> None:
        if not self._ready or batch.first != self.sent or batch.size > _BATCH_BYTES:
            self.wake()
            return
        try:
            if self.link is None or not self._send(self.link, batch):
                self.wake()
        except Exception as exc:  # noqa: BLE001 - the commit goes on, whatever happens in one drain
            self.fail_with(exc)

    async def converse(self, link: Link) -> None:
        life_end = self.connected_at + self.site.limits.life_seconds
        while trio.current_time() < life_end:
            await self.go_on()
            if self.sent < self.head:
                await self._catch_up(link)
            elif self.until is not None or not await self._idle():
                return

    def readable(self) -> None:
        if self.link is not None:
            self.link.recv()  # nothing is expected; an error of the network is raised here

    async def _idle(self) -> bool:
        before = self.sent
        self.idle()
        self._ready = self.state.epoch == self.channel.epoch and self.until is None
        try:
            woken = await self.park(trio.current_time() + self.site.limits.idle_seconds)
        finally:
            self._ready = False
        self.busy()
        return woken or self.sent != before

    async def _catch_up(self, link: Link) -> None:
        batches = await self.take(_BATCH_BYTES)
        await self.go_on()
        untold = self.state.untold
        if untold is not None:
            frame = self._render(own_line(L10_PRI, untold.noticed, l10_text(untold)), untold.noticed, None)
            if link.send(frame):
                self.state.told(untold)
        for batch in batches:
            while not self._send(link, batch.cut(self.sent, batch.end)):
                await link.wait_writable()
        await trio.lowlevel.checkpoint()

    def _send(self, link: Link, batch: Batch) -> bool:
        """Send a batch that begins at the cursor; False when the kernel would block on the way."""
        for frame in wanted(self.spec, self._render, batch):
            if not self._send_frame(link, frame):
                return False
        if self.sent < batch.end:
            self.state.deliver(batch.end, filtered=batch.end - self.sent)
        self.sent = self.state.cursor
        self.site.dirty.add(self)
        return True

    def _send_frame(self, link: Link, frame: Frame) -> bool:
        state = self.state
        skipped = frame.end - self.sent - 1
        try:
            if not link.send(frame.data):
                return False
        except OSError as exc:
            if exc.errno != errno.EMSGSIZE:
                raise
            self.health.report(Failure("size", "a message is too large for a datagram"))
            state.deliver(frame.end, filtered=skipped, refused=1)
            self.health.lost(1, "permanent")
        else:
            state.deliver(frame.end, filtered=skipped, size=len(frame.data))
            state.delivered_at = frame.at
            state.succeeded_at = self.site.now_ms()
        self.sent = frame.end
        self.site.dirty.add(self)
        if self.health.failing or not self.served:
            self.succeeded()
        return True
