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
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog
import trio

from ..api.application import create_api
from ..api.page import page_routes
from ..api.platform import platform_routes
from ..api.services import Services
from ..api.sessions import SessionPages
from ..config import Settings
from ..errors import SetupError, StoreError
from ..http.asgi import Asgi
from ..http.routes import Handler, Routes, not_found
from ..http.server import Listener, Server
from ..idle import sleeps
from ..inputs.listening import Connections
from ..inputs.logs import Logs
from ..inputs.syslog import serve_tcp
from ..inputs.tls import server_context
from ..inputs.udp import serve_udp
from ..poller import Poller
from ..sessions import Sessions
from ..store.directory import DataDirectory
from ..store.retention import Retention
from .garbage import collect_in_steps, collected_by_hand
from .listeners import Listeners
from .node import Node, open_node
from .pages import Pages

log = structlog.get_logger()

# A commit gives the interpreter away at each statement: at 5 ms a busy server took 28 ms for one.
SWITCH_SECONDS = 0.0005


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
            node = await stack.enter_async_context(open_node(settings, directory, admin, listeners, poller, idle))
            await _run(node, settings, directory, listeners, signals, task_status)
    log.info("stopped")


async def _run(
    node: Node,
    settings: Settings,
    directory: DataDirectory,
    listeners: Listeners,
    signals: AsyncIterator[int],
    task_status: trio.TaskStatus[Listeners],
) -> None:
    states = await node.load()
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
            node.registry.subscribe(node.changes())
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


def _http_listeners(node: Node, settings: Settings, listeners: Listeners) -> list[Listener]:
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
    node: Node,
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


async def _wait_for_stop(node: Node, settings: Settings, signals: AsyncIterator[int]) -> None:
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


async def _finish(node: Node, settings: Settings, directory: DataDirectory) -> None:
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


def _raise_file_limit() -> None:
    """Use all the open files that we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as exc:
            raise SetupError(f"cannot raise the limit of open files to {hard}: {exc}") from exc
