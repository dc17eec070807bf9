"""The pages of the ledger for people and programs (api.services.Pages), closed ones too.

Each balances as logplex/ledger.py says; the page of a drain, also when it is closed:
`head - start = delivered + filtered + sum(lost) + pending`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from drains.state import DrainState
from drains.status import DrainStatus

from ..commit import Committer
from ..ledger import Ledger
from ..store.spool import Spool

if TYPE_CHECKING:
    from .wiring import ActiveChannels, RunningDrains

CLOSED_SHOWN = 20  # of the node's page


class Pages:
    """Reads them where they are kept."""

    def __init__(
        self,
        ledger: Ledger,
        committer: Committer,
        channels: "ActiveChannels",
        drains: "RunningDrains",
        spool: Spool | None,
    ) -> None:
        self._ledger = ledger
        self._committer = committer
        self._channels = channels
        self._drains = drains
        self._spool = spool

    def node(self) -> Mapping[str, Any]:
        """This node's counters, since when they count, and the channels that were deleted last."""
        page: dict[str, Any] = self._ledger.to_row()
        if self._spool is not None:
            page["since"] = _time(self._spool.since)
        page["closed"] = self._closed(None)[-CLOSED_SHOWN:]
        return page

    async def channel(self, channel_id: int) -> Mapping[str, Any]:
        """A channel's counters and the pages of its drains, deleted ones last."""
        channel = await self._channels.get(channel_id)
        group = self._committer.current
        page = channel.page.to_dict(open_lines=group.open_lines(channel), open_own=group.open_own(channel))
        return {
            **page,
            "epoch": channel.epoch,
            "oldest": channel.oldest,
            "head": channel.head,
            "drains": [*self._drains.pages(channel_id), *self._closed(channel_id)],
        }

    def _closed(self, channel_id: int | None) -> list[dict[str, Any]]:
        """Of drains of a channel that were deleted, or of channels that were."""
        return [
            {**{name: value for name, value in row.items() if name != "of"}, "closed_at": _time(number / 1e9)}
            for number, row in self._committer.writes.closed
            if row["of"] == channel_id
        ]


def drain_page(status: DrainStatus) -> dict[str, Any]:
    """The page of a drain that runs."""
    return {
        "start": status.start,
        "head": status.head,
        "delivered": status.delivered,
        "filtered": status.filtered,
        "lost": dict(status.lost),
        "pending": status.pending,
        "retried": status.retried,
        "replayed": status.replayed,
    }


def closed_drain(state: DrainState) -> dict[str, Any]:
    """The page of a drain that was stopped: nothing is pending, what was is lost(deleted)."""
    return {
        "of": state.channel_id,
        "id": state.drain_id,
        "start": state.start,
        "head": state.cursor,
        "delivered": state.delivered,
        "filtered": state.filtered,
        "lost": dict(state.lost),
        "pending": 0,
        "retried": state.retried,
        "replayed": state.replayed,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
