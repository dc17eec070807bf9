"""What one server is made of: stores, channels, committer, router, tails and drains, and how each finds the others.

Nothing runs here: server.py starts and stops it.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog

from drains.deliveries import Deliveries
from drains.limits import Limits
from drains.policy import Policy
from drains.resolver import SystemResolver
from drains.state import DrainState

from .. import __version__
from ..api.services import Health
from ..api.sign_ins import SignIns
from ..channel import Channel, Channels, History, NoHistory
from ..commit import Committer
from ..config import Settings
from ..dedupe import Window
from ..fanout import Tails
from ..idle import Idle
from ..ledger import Ledger
from ..poller import Poller
from ..registry import Registry
from ..router import Router
from ..store.config import ConfigStore
from ..store.directory import DataDirectory
from ..store.opening import open_spool
from ..store.spool import Spool
from .admin import ensure_admin
from .listeners import Listeners
from .notes import DegradedNotes
from .wiring import ActiveChannels, Changes, RunningDrains

log = structlog.get_logger()


class Node:
    """Everything that was built for one run; `open_node` makes and closes it."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        spool: Spool | None,
        policy: Policy,
        directory: DataDirectory,
        poller: Poller,
        idle: Idle,
    ) -> None:
        self.poller = poller
        history: History = spool or NoHistory()
        self.registry = registry
        self._settings = settings
        self.sign_ins = SignIns(registry, directory.read("sign-ins"), partial(directory.write, "sign-ins"))
        self.spool = spool
        self.ledger = Ledger()
        self.stopping = False
        self.routing = False
        self.channels = Channels(
            history,
            ring_lines=settings.ring_lines,
            ring_bytes=settings.ring_bytes,
            rings_bytes=settings.rings_bytes,
        )
        self.committer = Committer(
            spool,
            group_seconds=settings.group_seconds,
            timeout_seconds=settings.commit_timeout_seconds,
            max_uncommitted_bytes=settings.uncommitted_bytes,
            refuse_when_degraded=settings.when_degraded == "refuse",
            show_at_once=settings.durability == "none",
            call_soon=poller.call_soon,
            idle=idle,
        )
        if spool is not None:
            spool.written_up_to = self.committer.written
        self.window = Window(settings.duplicate_seconds, settings.duplicate_ids, on_shortened=_window_shortened)
        self.router = Router(
            tokens=registry,
            channels=self.channels,
            committer=self.committer,
            ledger=self.ledger,
            window=self.window,
            max_frame_bytes=settings.max_frame_bytes,
        )
        self.tails = Tails(heartbeat_seconds=settings.heartbeat_seconds)
        self.active = ActiveChannels(registry, self.channels)
        limits = _limits(settings)
        self.deliveries = Deliveries(
            limits=limits,
            policy=policy,
            resolver=SystemResolver(limits),
            poller=poller,
            tell=lambda channel, pri, text, tails_only: self.router.own(channel, pri, text, tails_only=tails_only),
            version=__version__,
            ca_file=settings.drain_ca_file,
        )
        self.drains = RunningDrains(self.deliveries, self.active, registry, policy, self.committer.close_page)
        self.notes = DegradedNotes(directory)
        self.committer.trouble.note = self.notes.note
        self.committer.writes.keep = self.window.keep
        self.committer.writes.cursors = lambda: [state.to_row() for state in self.deliveries.dirty()]
        self.committer.writes.node_row = self.ledger.to_row
        self.channels.on_new = self._channel_came
        registry.use_channels(lambda channel_id: self.channels.get(channel_id) is not None)

    def health(self) -> Health:
        """For `GET /v3/healthcheck` and `logplex status`."""
        degraded = self.committer.degraded_since
        detail: dict[str, object] = {"channels": len(self.channels), "tails": len(self.tails)}
        detail |= {"drains": len(self.deliveries), "uncommitted_bytes": self.committer.uncommitted_bytes}
        if degraded is not None:
            detail |= {"degraded_since": degraded, "degraded_reason": self.committer.trouble.reason}
        if self.spool is not None and self.spool.unknown_since is not None:
            detail["lines_may_be_lost_since"] = self.spool.unknown_since  # the last server crashed without proof
        return Health(
            routing=self.routing,
            stopping=self.stopping,
            state="normal" if degraded is None else "degraded",
            detail=detail,
        )

    async def load(self) -> dict[int, DrainState]:
        """Take counters, request ids and closed pages over from the spool; returns where each drain was, by its id."""
        if self.spool is None:
            return {}
        self.ledger.load(await self.spool.node())
        wall = time.time()
        self.window.load(
            await self.spool.ids(wall - self._settings.duplicate_seconds, self._settings.duplicate_ids), wall=wall
        )
        self.committer.writes.closed.extend(await self.spool.closed())
        rows = await self.spool.cursors()
        gone = [drain_id for drain_id in rows if drain_id not in self.registry.drains]
        if gone:
            await self.spool.forget_cursors(gone)
        return {drain_id: DrainState.from_row(row) for drain_id, row in rows.items() if drain_id not in gone}

    def changes(self) -> Changes:
        """What follows the registry."""
        return Changes(
            channels=self.channels,
            committer=self.committer,
            router=self.router,
            tails=self.tails,
            drains=self.drains,
            spool=self.spool,
        )

    def _channel_came(self, channel: Channel) -> None:
        self.drains.came(channel)
        if channel.no_history and self.spool is not None:
            self.spool.written.add(channel.id)  # what the last server kept for drains


@asynccontextmanager
async def open_node(
    settings: Settings,
    directory: DataDirectory,
    admin: tuple[str, str] | None,
    listeners: Listeners,
    poller: Poller,
    idle: Idle,
) -> AsyncIterator[Node]:
    """Open the stores and build the node on them. Raises SetupError."""
    policy = Policy(settings.drain_allow, listeners.addresses(), ports=settings.drain_ports)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(ConfigStore(directory.path))
        registry = Registry(store, settings)
        await registry.load()
        await ensure_admin(registry, directory, admin)
        spool: Spool | None = None
        if settings.spool_bytes:
            spool = await stack.enter_async_context(open_spool(directory, settings, call_soon=poller.call_soon))
        directory.begin_run(settings.durability, keeps=spool is not None)
        yield Node(settings, registry, spool, policy, directory, poller, idle)


def _limits(settings: Settings) -> Limits:
    return Limits(
        batch_bytes=settings.drain_batch_bytes,
        max_batch_bytes=settings.drain_max_batch_bytes,
        connect_seconds=settings.drain_connect_seconds,
        request_seconds=settings.drain_request_seconds,
        idle_seconds=settings.drain_idle_seconds,
        life_seconds=settings.drain_life_seconds,
        backoff_seconds=settings.drain_backoff_seconds,
        max_backoff_seconds=settings.drain_max_backoff_seconds,
        rendered_bytes=settings.drain_rendered_bytes,
    )


def _window_shortened(seconds: float) -> None:
    log.warning("duplicate_window_shortened", seconds=round(seconds, 1))
