"""One server from start to stop.

* Listeners are bound first: who connects while we load is held, not refused.
* The outermost nursery dies last: store ⊃ drains and tails ⊃ inputs. A bug outside a connection or a drain ends the
  process loudly.
* SIGTERM (or SIGINT): inputs go on and acknowledge while drains deliver up to the head of that moment, at most
  `drain_grace_seconds`; a second signal ends that at once. Then listeners close, held requests are answered, what is
  uncommitted is committed with the cursors, and the process ends.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
import trio

from drains.deliveries import Deliveries
from drains.limits import Limits
from drains.policy import Policy
from drains.resolver import SystemResolver
from drains.state import DrainState

from .. import __version__
from ..api.application import create_api
from ..api.page import page_routes
from ..api.platform import platform_routes
from ..api.services import Health, Services
from ..api.sessions import SessionPages
from ..api.sign_ins import SignIns
from ..channel import Channel, Channels, History, NoHistory
from ..commit import Committer
from ..config import Settings
from ..dedupe import Window
from ..errors import SetupError, StoreError
from ..fanout import Tails
from ..http.asgi import Asgi
from ..http.routes import Handler, Routes, not_found
from ..http.server import Listener, Server
from ..idle import Idle, sleeps
from ..inputs.listening import Connections
from ..inputs.logs import Logs
from ..inputs.syslog import serve_tcp
from ..inputs.tls import server_context
from ..inputs.udp import serve_udp
from ..ledger import Ledger
from ..poller import Poller
from ..registry import Registry
from ..router import Router
from ..sessions import Sessions
from ..store.config import ConfigStore
from ..store.directory import DataDirectory
from ..store.opening import open_spool
from ..store.retention import Retention
from ..store.spool import Spool
from .admin import ensure_admin
from .garbage import collect_in_steps, collected_by_hand
from .listeners import Listeners
from .notes import DegradedNotes
from .pages import Pages
from .wiring import ActiveChannels, Changes, RunningDrains

log = structlog.get_logger()

SWITCH_SECONDS = (
    0.0005  # a commit gives the interpreter away at each statement: at 5 ms a busy server took 28 ms for one
)


async def serve(
    settings: Settings,
    *,
    admin: tuple[str, str] | None = None,
    task_status: trio.TaskStatus[Listeners] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a server until SIGTERM or SIGINT; started when everything listens. Raises SetupError.

    `admin` is an id and password to use instead of the credential made on the first start.
    """
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_SECONDS)
    _raise_file_limit()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncExitStack() as stack:
            stack.enter_context(collected_by_hand())
            directory = DataDirectory(Path(settings.data_dir))
            stack.callback(directory.close)
            listeners = Listeners.bind(settings)
            stack.callback(listeners.close)
            idle = stack.enter_context(sleeps())
            poller = Poller(busy_seconds=settings.busy_poll_seconds, rested=idle.rested)
            stack.callback(poller.close)
            node = await stack.enter_async_context(_node(settings, directory, admin, listeners, poller, idle))
            await _run(node, settings, directory, listeners, signals, task_status)
    log.info("stopped")


class _Node:
    """Everything that was built for one run."""

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

    def _channel_came(self, channel: Channel) -> None:
        self.drains.came(channel)
        if channel.no_history and self.spool is not None:
            self.spool.written.add(channel.id)  # what the last server kept for drains


@asynccontextmanager
async def _node(
    settings: Settings,
    directory: DataDirectory,
    admin: tuple[str, str] | None,
    listeners: Listeners,
    poller: Poller,
    idle: Idle,
) -> AsyncIterator[_Node]:
    """Open the stores and build the node on them."""
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
        yield _Node(settings, registry, spool, policy, directory, poller, idle)


async def _run(
    node: _Node,
    settings: Settings,
    directory: DataDirectory,
    listeners: Listeners,
    signals: AsyncIterator[int],
    task_status: trio.TaskStatus[Listeners],
) -> None:
    states = await _load(node, settings)
    async with trio.open_nursery() as keeping:  # the store's tasks: they end last
        keeping.start_soon(node.poller.run)
        keeping.start_soon(lambda: collect_in_steps(in_flight=lambda: node.committer.is_committing))
        keeping.start_soon(node.registry.run)
        await keeping.start(node.committer.run)
        if node.spool is not None:
            keeping.start_soon(node.notes.run)
            keeping.start_soon(node.spool.checkpoints.run)
            keeping.start_soon(Retention(node.spool, node.channels, node.committer, settings, node.drains.passed).run)
            keeping.start_soon(node.spool.remove_unknown, node.registry.known_channel_ids)
        async with trio.open_nursery() as delivering:
            await delivering.start(node.deliveries.run)
            await delivering.start(node.tails.run)
            await node.drains.start(states, delivering)
            node.registry.subscribe(_changes(node))
            async with trio.open_nursery() as intake:
                http = Server(settings, node.ledger, node.poller)
                await intake.start(http.serve, _http_listeners(node, settings, listeners))
                syslog_scope = trio.CancelScope()
                await intake.start(_serve_syslog, node, settings, listeners, syslog_scope)
                node.routing = True
                directory.write("http", listeners.base_url(settings.public_url) + "\n")
                log.info("ready", **listeners.names(), data_dir=settings.data_dir, durability=settings.durability)
                task_status.started(listeners)
                await _wait_for_stop(node, settings, signals)
                http.stop()
                syslog_scope.cancel()
                node.tails.end_all()
            delivering.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await _finish(node, settings, directory)
        keeping.cancel_scope.cancel()


async def _load(node: _Node, settings: Settings) -> dict[int, DrainState]:
    """What the spool remembers: cursors, counters, request ids."""
    if node.spool is None:
        return {}
    node.ledger.load(await node.spool.node())
    wall = time.time()
    node.window.load(await node.spool.ids(wall - settings.duplicate_seconds, settings.duplicate_ids), wall=wall)
    node.committer.writes.closed.extend(await node.spool.closed())
    rows = await node.spool.cursors()
    gone = [drain_id for drain_id in rows if drain_id not in node.registry.drains]
    if gone:
        await node.spool.forget_cursors(gone)
    return {drain_id: DrainState.from_row(row) for drain_id, row in rows.items() if drain_id not in gone}


def _changes(node: _Node) -> Changes:
    return Changes(
        channels=node.channels,
        committer=node.committer,
        router=node.router,
        tails=node.tails,
        drains=node.drains,
        spool=node.spool,
    )


def _http_listeners(node: _Node, settings: Settings, listeners: Listeners) -> list[Listener]:
    """Everything on --http and --https; /logs, /sessions and health on --logs."""
    services = Services(
        registry=node.registry,
        channels=node.active,
        drains=node.drains,
        ledger=Pages(node.ledger, node.committer, node.active, node.drains, node.spool),
        settings=settings,
        health=node.health,
        validate_drain=node.drains.validate,
        show_options=node.drains.show_options,
    )
    page = page_routes(services, node.sign_ins, node.channels.get)
    api = Asgi(create_api(services, [*platform_routes(services), *page]), settings.max_json_bytes)
    logs = Logs(
        node.router,
        node.registry,
        max_body_bytes=settings.max_body_bytes,
        lenient=settings.count_mismatch == "lenient",
        is_open=lambda: node.registry.state.ingress,
    )
    sessions = SessionPages(Sessions(node.registry, node.tails), node.active)
    raw: dict[bytes, Handler] = {b"/logs": logs, b"/logs/": logs, b"/sessions/*": sessions}
    everything = Routes(raw, api)
    health: dict[bytes, Handler] = {b"/healthcheck": api, b"/v3/healthcheck": api}
    logs_only = Routes({**raw, **health}, not_found)
    found = [Listener(sock, everything) for sock in listeners.http]
    found += [Listener(sock, logs_only) for sock in listeners.logs]
    if listeners.https:
        context = server_context(settings.tls_cert, settings.tls_key)
        found += [Listener(sock, everything, context) for sock in listeners.https]
    return found


async def _serve_syslog(
    node: _Node,
    settings: Settings,
    listeners: Listeners,
    scope: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    connections = Connections(settings.connections)
    router = node.router
    tcp = partial(serve_tcp, router=router, poller=node.poller, connections=connections)
    with scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(tcp, listeners.syslog)
            if listeners.syslog_tls:
                context = server_context(settings.tls_cert, settings.tls_key)
                await nursery.start(partial(tcp, tls=context), listeners.syslog_tls)
            if listeners.syslog_udp:
                udp = partial(serve_udp, router=router, max_frame_bytes=settings.max_frame_bytes)
                await nursery.start(udp, listeners.syslog_udp)
            task_status.started()
    router.flush()


async def _wait_for_stop(node: _Node, settings: Settings, signals: AsyncIterator[int]) -> None:
    """Return when a stop was asked for and the drains have had their grace."""
    await anext(aiter(signals))
    node.stopping = True
    log.info("stopping", grace_seconds=settings.drain_grace_seconds)
    async with trio.open_nursery() as nursery:

        async def second_signal() -> None:
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()

        nursery.start_soon(second_signal)
        await node.deliveries.finish(trio.current_time() + settings.drain_grace_seconds)
        nursery.cancel_scope.cancel()


async def _finish(node: _Node, settings: Settings, directory: DataDirectory) -> None:
    """Commit what is left, and say that it is all there."""
    try:
        with trio.fail_after(settings.commit_timeout_seconds * 2):
            await node.committer.finish()
            if node.spool is not None:
                await node.spool.sync()
    except (StoreError, trio.TooSlowError) as exc:
        log.error("stopped_with_lines_in_memory", reason=str(exc) or "the store does not answer")
        return
    directory.end_run()


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


def _raise_file_limit() -> None:
    """Use all the open files that we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as exc:
            raise SetupError(f"cannot raise the limit of open files to {hard}: {exc}") from exc
