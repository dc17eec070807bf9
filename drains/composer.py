"""The requests of an HTTP drain, made of what follows its cursor (protocol section 7).

Rules:

* What a plain drain gets are the channel's own batches, rendered once for all its drains near the head. Far
  behind it they would only fill the memory, and are forgotten again.
* What is in the ring is composed at once; the spool, options and compression wait, and give others their turn.
* A batch that was cut before carries the same positions again (sizes.py).
* A loss is told in the first frame of the next request (L10), unless the receiver refused just that.
"""

from collections.abc import Sequence

import trio

from logplex.batch import Batch

from . import otlp
from .delivery import Delivery
from .rendering import renderer
from .request import Request, add_loss, compose, compose_lines, compress, enclose, fixed_head, head
from .sizes import Sizes
from .spec import Format


class Composer:
    """Makes the requests of one delivery; `replay` tells those of its replays apart."""

    __slots__ = ("_delivery", "_envelope", "_fixed_head", "_render", "_replay", "_sizes", "_token", "is_document")

    def __init__(self, delivery: Delivery, sizes: Sizes, *, replay: int) -> None:
        spec, channel, version = delivery.spec, delivery.channel, delivery.site.version
        self._delivery = delivery
        self._sizes = sizes
        self._replay = replay
        self._token = spec.token.encode()
        self._fixed_head = fixed_head(spec, version)
        self._render = renderer(spec, channel.name)
        self.is_document = spec.options.format is Format.OTLP
        self._envelope = otlp.envelope(channel.name, version) if self.is_document else None

    def head(self, request: Request) -> bytes:
        """What goes before the body of a request."""
        return head(self._fixed_head, request, self._token, self._delivery.state.epoch, self._replay)

    def compose(self, batches: Sequence[Batch], target: int) -> Request:
        """For a plain drain: what fits `target` bytes of batches that begin at the cursor."""
        request = compose(batches, target)
        if batches[-1].end < self._delivery.channel.head:
            for batch in batches:
                batch.forget_rendered()
        self._add_loss(request)
        return request

    async def next(self, target: int) -> Request | None:
        """What follows the cursor, in about `target` bytes; None at the head.

        Where there is nothing for the receiver in it, it has no lines, and the cursor goes on behind it.
        """
        delivery, options = self._delivery, self._delivery.spec.options
        batches = await self._take_whole(target)
        await delivery.go_on()
        if not batches:
            return None
        cut = self._sizes.cut(delivery.sent)
        if cut is not None:
            batches = [batch.cut(batch.first, cut) for batch in batches if batch.first < cut]
        if options.plain:
            for batch in batches[:-1]:
                if batch.http() is not batch.data:  # it took time, and is remembered: `compose` finds it rendered
                    await trio.lowlevel.checkpoint()
            request = self.compose(batches, target)
        else:
            request = await compose_lines(batches, target, delivery.spec, self._render)
            self._add_loss(request)
        if request.lines:
            if self._envelope is not None:
                enclose(request, self._envelope)
            if options.compress:
                await compress(request)
            await delivery.go_on()
        return request

    async def _take_whole(self, target: int) -> list[Batch]:
        """What follows the cursor; all of a batch that was cut before, though the ring may hold only its end now."""
        delivery = self._delivery
        batches = await delivery.take(target, ring_bytes=2 * target)
        cut = self._sizes.cut(delivery.sent)
        while cut is not None and batches and batches[-1].end < cut:
            lost, more = await delivery.channel.read(batches[-1].end, target)
            more = delivery.bounded(more)
            if lost or not more:
                break
            batches = batches + more
        return batches

    def _add_loss(self, request: Request) -> None:
        untold = self._delivery.state.untold
        if untold is not None and request.lines and not self._sizes.mute:
            add_loss(request, untold, self._render)
