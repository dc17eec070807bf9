"""What the parts of the server need of each other, small adapters between their protocols.

* A change of the config takes effect before the API answers it: tokens die, channels end, drains start and stop.
* The lines of a channel are rendered in the form that its drains want: HTTP when all its drains are, else syslog.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from drains.deliveries import Deliveries
from drains.policy import Policy
from drains.spec import DrainSpec
from drains.state import DrainState
from drains.url import Kind, parse

from ..api.services import ValidDrain
from ..batch import TOKEN_BYTES, Form, Layout
from ..channel import Channel, Channels
from ..commit import Committer
from ..errors import NotFound, Unprocessable
from ..fanout import Tails
from ..filters import parse_time
from ..ledger import closed_page
from ..registry import Change, ChannelRecord, DrainRecord, Registry
from ..router import Router
from ..store.spool import Spool
from ..tail import start_at_time
from .pages import closed_drain, drain_page

AT_START = 500  # drains that are started before the server is ready, even if their cursors are known
LOADED_TOGETHER = 500


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

    async def load(self, channel_ids: Iterable[int]) -> None:
        """Make many active with one question to each store; those that were deleted are left out."""
        missing = {number for number in channel_ids if self._channels.get(number) is None}
        records = await self._registry.channels_by_id(missing) if missing else []
        await self._channels.load({record.id: (record.name, record.flags) for record in records})

    def active(self, channel_id: int) -> Channel | None:
        """The channel if it is active."""
        return self._channels.get(channel_id)


class RunningDrains:
    """The drains as the API sees them (api.services.Drains), kept in step with the config."""

    def __init__(
        self,
        deliveries: Deliveries,
        channels: ActiveChannels,
        registry: Registry,
        policy: Policy,
        close_page: Callable[[dict[str, Any], int], None],
    ) -> None:
        self._deliveries = deliveries
        self._channels = channels
        self._registry = registry
        self._policy = policy
        self._close_page = close_page
        self._of_channel: dict[int, dict[int, Kind]] = {}
        self._states: dict[int, DrainState] = {}  # of the drains that have not started yet
        self._nursery: trio.Nursery | None = None

    async def start(self, states: Mapping[int, DrainState], nursery: trio.Nursery) -> None:
        """Start every drain that the config knows; `nursery` takes those that are added while their channel sleeps.

        Drains without a state begin at the head, so they have to be there before the next line. Of the others a
        server with very many starts the rest when it is ready: their cursors wait.
        """
        self._nursery = nursery
        self._states = dict(states)
        records = sorted(self._registry.drains.values(), key=lambda record: record.id in states)
        for record in records:
            self._note(record)
        at_once = max(AT_START, len(records) - len(states))
        await self._add(records[:at_once])
        if records[at_once:]:
            nursery.start_soon(self._add, records[at_once:])

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
            {"id": drain_id, **drain_page(status)}
            for drain_id in self._of_channel.get(channel_id, ())
            if (status := self._deliveries.status(drain_id)) is not None
        ]

    def passed(self, channel: Channel) -> int:
        """Up to where all drains of a channel have read; a drain that does not run yet has read nothing."""
        statuses = [self._deliveries.status(drain_id) for drain_id in self._of_channel.get(channel.id, ())]
        return min((0 if status is None else status.cursor for status in statuses), default=channel.head)

    def layout(self, channel: Channel) -> Layout:
        """The layout that makes the channel's drains cheapest: that of its only kind, and of one syslog drain.

        Without a drain it is that of HTTP, which is shorter, and nearer to what shippers send.
        """
        kinds = self._of_channel.get(channel.id, {})
        if set(kinds.values()) <= {Kind.HTTP}:
            return Layout(Form.HTTP)
        for drain_id, kind in kinds.items():
            record = self._registry.drains.get(drain_id)
            if kind is not Kind.HTTP and record is not None and len(record.token) == TOKEN_BYTES:
                return Layout(Form.SYSLOG, record.token)
        return Layout(Form.SYSLOG)

    def _lay_out(self, channel: Channel) -> None:
        layout = self.layout(channel)
        if layout != channel.layout:  # the same object says that nothing has changed
            channel.layout = layout

    def came(self, channel: Channel) -> None:
        """A channel became active and has taken no line yet: its drains start here, before the line that comes."""
        self._lay_out(channel)
        for drain_id in self._of_channel.get(channel.id, ()):
            record = self._registry.drains.get(drain_id)
            if record is not None and drain_id not in self._deliveries:
                self._deliveries.add(self._spec(record), channel, self._states.pop(drain_id, None))

    def added(self, record: DrainRecord, channel: Channel | None) -> None:
        """A drain got its URL."""
        self._note(record)
        if channel is not None:
            self._lay_out(channel)
            self._deliveries.add(self._spec(record), channel, None)
        elif self._nursery is not None:
            self._nursery.start_soon(self._add, [record])

    def changed(self, record: DrainRecord, channel: Channel | None) -> None:
        """A drain got another URL or other options."""
        self._note(record)
        if channel is not None:
            self._lay_out(channel)
        if record.id in self._deliveries:
            self._deliveries.change(self._spec(record))

    def removed(self, record: DrainRecord, channel: Channel | None) -> None:
        """A drain was deleted."""
        kinds = self._of_channel.get(record.channel_id, {})
        kinds.pop(record.id, None)
        if not kinds:
            self._of_channel.pop(record.channel_id, None)
        self._states.pop(record.id, None)
        state = self._deliveries.remove(record.id)
        if state is not None:
            self._close_page(closed_drain(state), record.id)
        if channel is not None:
            self._lay_out(channel)

    async def _add(self, records: Sequence[DrainRecord]) -> None:
        for start in range(0, len(records), LOADED_TOGETHER):
            channel_ids = {record.channel_id for record in records[start : start + LOADED_TOGETHER]}
            await self._channels.load(channel_ids)
            for channel_id in channel_ids:
                channel = self._channels.active(channel_id)
                if channel is not None:  # it may have gone while we waited
                    self.came(channel)

    def _note(self, record: DrainRecord) -> None:
        if record.url is not None:
            self._of_channel.setdefault(record.channel_id, {})[record.id] = parse(record.url).kind

    def _spec(self, record: DrainRecord) -> DrainSpec:
        if record.url is None:
            raise Unprocessable("the drain has no URL yet")
        return DrainSpec.parse(record.id, record.token, record.url, record.options)


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
        spool: Spool | None,
    ) -> None:
        self._channels = channels
        self._committer = committer
        self._router = router
        self._tails = tails
        self._drains = drains
        self._spool = spool

    def __call__(self, change: Change) -> None:
        """One change, in the order of the commits."""
        record = change.record
        match change.kind:
            case "token_removed" | "credential_removed":
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
            channel.page.drop("deleted", self._committer.current.forget(channel))
            self._committer.close_page(closed_page(channel.name, channel.page))
        self._tails.end_channel(record.id)
        if self._spool is not None:
            self._spool.remove_channel(record.id, None if channel is not None else record.name)

    def _flags_changed(self, record: ChannelRecord) -> None:
        channel = self._channels.get(record.id)
        if channel is not None:
            channel.no_tail = "no_tail" in record.flags
            channel.no_history = "no_history" in record.flags
            if self._spool is not None:
                self._spool.written.add(channel.id)
        self._tails.flags_changed(record.id)
