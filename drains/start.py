"""Where a new drain starts: now, at the oldest line that is held, at a position, or at a time."""

from datetime import datetime

import trio

from logplex.channel import Channel

from .delivery import Delivery
from .spec import DrainSpec

_READ_BYTES = 1024 * 1024


def known_start(spec: DrainSpec, channel: Channel) -> int:
    """The position, as far as it is known without reading; a time is searched from the oldest line on."""
    start = spec.options.start
    if start == "now":
        return channel.head
    if isinstance(start, int):
        return min(max(start, channel.oldest), channel.head)
    return channel.oldest


async def find_start(delivery: Delivery) -> None:
    """Move a fresh drain that starts at a time to the first batch that was received then or later."""
    start = delivery.spec.options.start
    if isinstance(start, int) or start in ("now", "oldest"):
        delivery.fresh = False
        return
    wanted = datetime.fromisoformat(start).timestamp() * 1000
    channel, state = delivery.channel, delivery.state
    while state.cursor < channel.head:
        reading = await channel.read(state.cursor, _READ_BYTES)
        later = [batch for batch in reading.batches if batch.at >= wanted]
        end = reading.batches[-1].end if reading.batches else state.cursor + reading.lost
        state.start = state.cursor = later[0].first if later else end
        if later:
            break
        await trio.lowlevel.checkpoint()
    delivery.sent = state.cursor
    delivery.fresh = False
