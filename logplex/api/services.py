"""What the management APIs need of the rest of the server; the app fills it in.

* Protocols are small, so that a test can stand in for each; only the registry is always the real one.
* What a service raises as `ClientError` becomes the answer: its status, its text, its `retry_after`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..channel import Channel
from ..config import Settings
from ..registry import DrainRecord, Registry


class Channels(Protocol):
    """The reading sides of channels."""

    async def get(self, channel_id: int) -> Channel:
        """The channel with this internal id, made active when it is not. Raises NotFound when it was deleted."""


class Drains(Protocol):
    """What delivers to drains."""

    def status(self, drain_id: int) -> Mapping[str, Any] | None:
        """State, last error, delivered, lost, pending, …; None while it is not running."""

    async def test(self, drain: DrainRecord) -> Mapping[str, Any]:
        """Send one marked line, and say how far it came. Raises ClientError (429) when tested too often."""

    async def replay(self, drain: DrainRecord, start: object) -> Mapping[str, Any]:
        """Send history again from `start` (oldest, a position, a time). Raises Unprocessable."""


class Pages(Protocol):
    """The ledger's pages, for people and programs."""

    def node(self) -> Mapping[str, Any]:
        """What came into this node, and what became of it."""

    async def channel(self, channel_id: int) -> Mapping[str, Any]:
        """What came into a channel, what became of it, and the pages of its drains."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the server is: `routing` once everything listens, `stopping` from SIGTERM on."""

    routing: bool
    stopping: bool = False
    state: Literal["normal", "degraded"] = "normal"
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValidDrain:
    """A destination that may be stored."""

    url: str = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that the APIs call."""

    registry: Registry
    channels: Channels
    drains: Drains
    ledger: Pages
    settings: Settings
    health: Callable[[], Health]
    validate_drain: Callable[[str, Mapping[str, Any]], ValidDrain]
    """Raises Unprocessable for a URL or an option that cannot be; the URL comes back as its owner wrote it."""
    show_options: Callable[[DrainRecord], Mapping[str, Any]]
    """A drain's options without secrets: `***` where one is."""
