"""What the parts of the server need of each other, small adapters between their protocols.

* A change of the config takes effect before the API answers it: tokens die, channels end, drains start and stop.
* The lines of a channel are rendered in the form that its drains want: HTTP when all its drains are, else syslog.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import trio

from drains.deliveries import Deliveries
from drains.policy import Policy
from drains.spec import DrainSpec
from drains.state import DrainState
from drains.status import DrainStatus
from drains.url import Kind, parse

from ..api.services import ValidDrain
from ..batch import Form
from ..channel import Channel, Channels
from ..commit import Committer
from ..errors import NotFound, Unprocessable
from ..fanout import Tails
from ..filters import parse_time
from ..ledger import Ledger
from ..registry import Change, ChannelRecord, DrainRecord, Registry
from ..router import Router
from ..tail import start_at_time


class ActiveChannels:
    """Channels on demand (api.services.Channels): made active when somebody asks for them."""

    def __init__(self, registry: Registry, channels: Channels) -> None:
        self._registry = registry
        self._channels = channels

    async def get(self, channel_id: int) -> Channel:
        """The channel with this internal id; raises NotFound when it was deleted."""
        channel = self._channels.get(channel_id)
        if channel is not None:
            return channel
        record = await self._registry.channel_by_id(channel_id)
        if record is None:
            raise NotFound("Not found")
        await self._channels.load({channel_id: (record.name, record.flags)})
        channel = self._channels.get(channel_id)
        if channel is None:
            raise NotFound("Not found")
        return channel


class Pages:
    """The ledger for people and programs (api.services.Pages)."""

    def __init__(
        self, ledger: Ledger, committer: Committer, channels: ActiveChannels, drains: "RunningDrains"
    ) -> None:
        self._ledger = ledger
        self._committer = committer
        self._channels = channels
        self._drains = drains

    def node(self) -> Mapping[str, Any]:
        return self._ledger.to_row()

    async def channel(self, channel_id: int) -> Mapping[str, Any]:
        channel = await self._channels.get(channel_id)
        page = channel.page.to_dict(open_lines=self._committer.current.open_lines(channel))
        return {
            **page,
            "epoch": channel.epoch,
            "oldest": channel.oldest,
            "head": channel.head,
            "drains": self._drains.pages(channel_id),
        }


class RunningDrains:
    """The drains as the API sees them (api.services.Drains), kept in step with the config."""

    def __init__(self, deliveries: Deliveries, channels: ActiveChannels, registry: Registry, policy: Policy) -> None:
        self._deliveries = deliveries
        self._channels = channels
        self._registry = registry
        self._policy = policy
        self._of_channel: dict[int, dict[int, Kind]] = {}
        self._nursery: trio.Nursery | None = None

    async def start(self, states: Mapping[int, DrainState], nursery: trio.Nursery) -> None:
        """Start every drain that the config knows; `nursery` takes those that are added while their channel sleeps."""
        self._nursery = nursery
        for record in list(self._registry.drains.values()):
            self._note(record)
        for record in list(self._registry.drains.values()):
            await self._add(record, states.get(record.id))

    def validate(self, url: str, options: Mapping[str, Any]) -> ValidDrain:
        """What may be stored; raises Unprocessable."""
        spec = DrainSpec.parse(0, "", url, options)
        self._policy.check(spec.url)
        return ValidDrain(url, spec.options.to_dict())

    def show_options(self, record: DrainRecord) -> Mapping[str, Any]:
        """A drain's options without secrets."""
        return self._spec(record).options.shown()

    def status(self, drain_id: int) -> Mapping[str, Any] | None:
        """What the drain does; None while it does not run."""
        status = self._deliveries.status(drain_id)
        return status.to_dict() if status is not None else None

    async def test(self, drain: DrainRecord) -> Mapping[str, Any]:
        """Send one marked line; how far it came."""
        channel = await self._channels.get(drain.channel_id)
        report = await self._deliveries.test(self._spec(drain), channel)
        return report.to_dict()

    async def replay(self, drain: DrainRecord, start: object) -> Mapping[str, Any]:
        """Send history again from `start`: `oldest`, a position, or a time; raises Unprocessable."""
        channel = await self._channels.get(drain.channel_id)
        if drain.id not in self._deliveries:
            raise Unprocessable("the drain has no URL yet")
        position = await _position(channel, start)
        return {"from": position, "lines": self._deliveries.replay(drain.id, position)}

    def pages(self, channel_id: int) -> list[Mapping[str, Any]]:
        """The pages of a channel's drains."""
        return [
            {"id": drain_id, **_drain_page(status)}
            for drain_id in self._of_channel.get(channel_id, ())
            if (status := self._deliveries.status(drain_id)) is not None
        ]

    def passed(self, channel: Channel) -> int:
        """Up to where all drains of a channel have read."""
        statuses = [self._deliveries.status(drain_id) for drain_id in self._of_channel.get(channel.id, ())]
        return min((status.cursor for status in statuses if status is not None), default=channel.head)

    def form(self, channel: Channel) -> Form:
        """The form that makes the channel's drains cheapest."""
        kinds = set(self._of_channel.get(channel.id, {}).values())
        return Form.HTTP if kinds == {Kind.HTTP} else Form.SYSLOG

    def added(self, record: DrainRecord, channel: Channel | None) -> None:
        """A drain got its URL."""
        self._note(record)
        if channel is not None:
            channel.form = self.form(channel)
            self._deliveries.add(self._spec(record), channel, None)
        elif self._nursery is not None:
            self._nursery.start_soon(self._add, record, None)

    def changed(self, record: DrainRecord, channel: Channel | None) -> None:
        """A drain got another URL or other options."""
        self._note(record)
        if channel is not None:
            channel.form = self.form(channel)
        if record.id in self._deliveries:
            self._deliveries.change(self._spec(record))

    def removed(self, record: DrainRecord, channel: Channel | None) -> None:
        """A drain was deleted."""
        self._of_channel.get(record.channel_id, {}).pop(record.id, None)
        self._deliveries.remove(record.id)
        if channel is not None:
            channel.form = self.form(channel)

    async def _add(self, record: DrainRecord, state: DrainState | None) -> None:
        try:
            channel = await self._channels.get(record.channel_id)
        except NotFound:
            return  # deleted meanwhile
        if record.id in self._registry.drains and record.id not in self._deliveries:
            channel.form = self.form(channel)
            self._deliveries.add(self._spec(record), channel, state)

    def _note(self, record: DrainRecord) -> None:
        if record.url is not None:
            self._of_channel.setdefault(record.channel_id, {})[record.id] = parse(record.url).kind

    def _spec(self, record: DrainRecord) -> DrainSpec:
        if record.url is None:
            raise Unprocessable("the drain has no URL yet")
        return DrainSpec.parse(record.id, record.token, record.url, record.options)


def _drain_page(status: DrainStatus) -> dict[str, Any]:
    """A drain's page of the ledger: `head - start = delivered + filtered + sum(lost) + pending`."""
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


async def _position(channel: Channel, start: object) -> int:
    """Where a replay begins."""
    if start == "oldest":
        return channel.oldest
    if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        return start
    at = parse_time("from", start, time.time()) if isinstance(start, str) else None
    if at is None:
        raise Unprocessable("from: must be oldest, a position, or a time")
    return (await start_at_time(channel, at)).cursor


class Changes:
    """Takes every committed change of the config to the parts that run."""

    def __init__(
        self,
        *,
        channels: Channels,
        committer: Committer,
        router: Router,
        tails: Tails,
        drains: RunningDrains,
        on_removed: Callable[[int], None],
    ) -> None:
        self._channels = channels
        self._committer = committer
        self._router = router
        self._tails = tails
        self._drains = drains
        self._on_removed = on_removed

    def __call__(self, change: Change) -> None:
        """One change, in the order of the commits."""
        record = change.record
        match change.kind:
            case "token_removed" | "credential_changed":
                self._router.forget_routes()
            case "channel_removed" if isinstance(record, ChannelRecord):
                self._channel_removed(record)
            case "channel_flags" if isinstance(record, ChannelRecord):
                self._flags_changed(record)
            case "drain_added" if isinstance(record, DrainRecord):
                self._drains.added(record, self._channels.get(record.channel_id))
            case "drain_changed" if isinstance(record, DrainRecord):
                self._drains.changed(record, self._channels.get(record.channel_id))
            case "drain_removed" if isinstance(record, DrainRecord):
                self._drains.removed(record, self._channels.get(record.channel_id))

    def _channel_removed(self, record: ChannelRecord) -> None:
        channel = self._channels.remove(record.id)
        self._router.forget_routes()
        if channel is not None:
            self._committer.current.forget(channel)
        self._tails.end_channel(record.id)
        self._on_removed(record.id)

    def _flags_changed(self, record: ChannelRecord) -> None:
        channel = self._channels.get(record.id)
        if channel is not None:
            channel.no_tail = "no_tail" in record.flags
            channel.no_history = "no_history" in record.flags
        self._tails.flags_changed(record.id)
