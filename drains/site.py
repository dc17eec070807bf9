"""What all deliveries share: limits, the door out, the app's own stream, and who changed."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logplex.channel import Channel

from .alarms import Alarms
from .limits import Limits, Pace, Share, Wakeups
from .link import Link
from .rendered import Rendered
from .spec import DrainSpec

if TYPE_CHECKING:
    from .delivery import Delivery

Tell = Callable[[Channel, int, bytes, bool], None]
"""(channel, pri, text, tails_only): a line of our own into the app's stream."""


@dataclass(slots=True, kw_only=True)
class Site:
    """One for all deliveries of a server; `wall` is unix seconds."""

    limits: Limits
    dial: Callable[[DrainSpec, int], Awaitable[Link]]
    tell: Tell
    version: str
    rendered: Rendered
    connections: Share
    retries: Pace
    redials: Pace
    dials: Wakeups
    alarms: Alarms
    dirty: "set[Delivery]" = field(default_factory=set)
    make_room: Callable[[], object] = lambda: None
    wall: Callable[[], float] = time.time

    def now_ms(self) -> int:
        """Wall time as lines and states hold it."""
        return int(self.wall() * 1000)
