"""All drains of this server: started, changed, stopped and asked here.

Rules:

* A drain's task lives in the nursery of `run`. A crash in one drain's code is logged, counted, and the drain starts
  again after a back-off; the others never notice.
* A change takes effect at once: the new delivery goes on at the cursor of the old one.
* `dirty` hands out every state that changed since it was called last, after asking the kernels what has arrived.
"""

from collections.abc import Iterator

import structlog
import trio

from logplex.channel import Channel

from .alarms import Alarms
from .delivery import Delivery
from .dial import Connect, Dialler, open_socket
from .http import HttpDelivery
from .limits import Limits, Pace, Share, Wakeups
from .link import Poller, Watch
from .policy import Policy
from .probe import Probe, TestReport
from .rendered import Rendered
from .resolver import Resolver
from .site import Site, Tell
from .spec import DrainSpec
from .start import find_start, known_start
from .state import DrainState
from .status import DrainStatus
from .syslog import SyslogDelivery
from .tls import Contexts
from .udp import UdpDelivery
from .url import Kind

_LOOK_SECONDS = 0.02  # between two looks at what has arrived, while the server stops
_ROOM_SECONDS = 0.25  # between two looks for what could be given to those who wait

_log = structlog.get_logger("drains")


class Deliveries:
    """The drains that have a URL."""

    def __init__(
        self,
        *,
        limits: Limits,
        policy: Policy,
        resolver: Resolver,
        poller: Poller,
        tell: Tell,
        version: str,
        ca_file: str = "",
        connect: Connect = open_socket,
    ) -> None:
        """`version` is for User-Agent; `ca_file` is trusted beside the system's certificates."""
        self.limits = limits
        self.policy = policy
        self.crashes = 0
        alarms = Alarms()
        watch = Watch(poller, alarms)
        self._dialler = Dialler(limits, policy, resolver, Contexts(ca_file=ca_file), watch, connect=connect)
        self._site = Site(
            limits=limits,
            dial=self._dialler.dial,
            tell=tell,
            version=version,
            rendered=Rendered(limits.rendered_bytes, limits.rendered_bytes // limits.rendered_share),
            connections=Share(limits.connections, limits.connections_per_app),
            retries=Pace(limits.retries_per_second, limits.retries_at_once, limits.retries_at_once_per_app),
            redials=Pace(limits.redials_per_second, limits.retries_at_once, limits.retries_at_once_per_app),
            dials=Wakeups(limits.dials_in_a_turn),
            alarms=alarms,
            make_room=self._drop_idle,
        )
        self._probe = Probe(self._dialler, limits, version, self._site.now_ms)
        self._drains: dict[int, Delivery] = {}
        self._replays: dict[int, Delivery] = {}
        self._replay_count = 0
        self._looked_at = float("-inf")
        self._unlooked: Iterator[Delivery] = iter(())  # whether their connections are idle
        self._all_busy_until = float("-inf")
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all drains until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._site.alarms.run)
                nursery.start_soon(self._site.retries.run)
                nursery.start_soon(self._site.redials.run)
                nursery.start_soon(self._site.dials.run)
                nursery.start_soon(self._keep_room)
                for delivery in self._drains.values():
                    nursery.start_soon(self._supervise, delivery)
                task_status.started()
        finally:
            self._nursery = None

    # What the owner does.

    def add(self, spec: DrainSpec, channel: Channel, state: DrainState | None) -> None:
        """Start a drain; without a state it is new and starts where its options say, at the head as a rule."""
        if spec.id in self._drains:
            raise ValueError(f"drain {spec.id} is there already")
        fresh = state is None
        if state is None:
            state = DrainState(spec.id, channel.id, channel.epoch, known_start(spec, channel))
        first = channel.after_epoch(state.epoch)
        if first is not None:
            state.leave_epoch(first)
            state.epoch = channel.epoch_at(state.cursor)[0] or state.epoch
        if state.cursor > channel.head:
            state.go_back(channel.head)
        delivery = self._start(spec, channel, state)
        delivery.fresh = fresh
        self._site.dirty.add(delivery)

    def change(self, spec: DrainSpec) -> None:
        """A new URL or new options; the cursor stays."""
        self._end_replay(spec.id)  # it would go on to the old place
        old = self._drains.pop(spec.id)
        old.stop()
        new = self._start(spec, old.channel, old.state)
        new.fresh = old.fresh
        self._site.dirty.add(new)

    def remove(self, drain_id: int) -> DrainState | None:
        """Stop a drain and close its page: what is pending is lost(deleted)."""
        self._end_replay(drain_id)
        delivery = self._drains.pop(drain_id, None)
        if delivery is None:
            return None
        delivery.stop()
        self._site.dirty.discard(delivery)
        state = delivery.state
        state.lose(max(0, delivery.channel.head - state.cursor), "deleted")
        return state

    def replay(self, drain_id: int, from_position: int) -> int:
        """Send what lies between a position and the cursor again; how many lines that are (or were, before losses).

        A replay that is under way ends. It is counted apart, and forgotten when the server stops.
        """
        self._end_replay(drain_id)
        delivery = self._drains[drain_id]
        delivery.settle()
        channel = delivery.channel
        start = max(from_position, channel.oldest)
        end = delivery.state.cursor
        if start >= end:
            return 0
        self._replay_count += 1
        state = DrainState(drain_id, channel.id, channel.epoch, start)
        replay = self._make(delivery.spec, channel, state, until=end, replay=self._replay_count)
        self._replays[drain_id] = replay
        if self._nursery is not None:
            self._nursery.start_soon(self._supervise_replay, drain_id, replay)
        return end - start

    async def test(self, spec: DrainSpec, channel: Channel) -> TestReport:
        """Try a drain out, added or not. Raises TooManyTests."""
        return await self._probe.test(spec, channel.id, channel.name)

    # What others ask.

    def __len__(self) -> int:
        return len(self._drains)

    def __contains__(self, drain_id: int) -> bool:
        return drain_id in self._drains

    def __iter__(self) -> Iterator[int]:
        return iter(self._drains)

    def status(self, drain_id: int) -> DrainStatus | None:
        """How a drain is now; None when there is none."""
        delivery = self._drains.get(drain_id)
        if delivery is None:
            return None
        replay = self._replays.get(drain_id)
        return delivery.status(replay)

    def dirty(self) -> list[DrainState]:
        """States that changed since the last call. They go on changing: take `to_row` at once.

        While drains run, this looks ten times a second at most: a group may be committed far more often, and what
        was delivered since the last look is sent again after a crash, as is what was in flight.
        """
        dirty = self._site.dirty
        if not dirty:
            return []
        if self._nursery is not None:
            now = trio.current_time()
            if now - self._looked_at < self.limits.cursor_seconds:
                return []
            self._looked_at = now
        changed, still = [], set()
        for delivery in dirty:
            delivery.settle()
            if self._drains.get(delivery.spec.id) is delivery and not delivery.finding_start:
                changed.append(delivery.state)
            if delivery.sending and not delivery.stopped:
                still.add(delivery)
        dirty.clear()
        dirty.update(still)
        return changed

    async def finish(self, deadline: float) -> None:
        """Deliver up to each head of now, until trio's clock reaches `deadline`.

        Ends as soon as nothing more can arrive: a drain that backs off beyond the deadline is not waited for.
        """
        goals = [(delivery, delivery.channel.head) for delivery in self._drains.values()]
        for delivery, _ in goals:
            delivery.hurry()
        while trio.current_time() < deadline:
            for delivery, _ in goals:
                delivery.settle()
            now = self._site.wall()
            left = deadline - trio.current_time()
            goals = [
                (delivery, head)
                for delivery, head in goals
                if delivery.state.cursor < head and not delivery.stopped and not delivery.waits_beyond(now + left)
            ]
            if not goals:
                return
            await trio.sleep(min(_LOOK_SECONDS, left))

    # The tasks.

    def _start(self, spec: DrainSpec, channel: Channel, state: DrainState) -> Delivery:
        delivery = self._make(spec, channel, state)
        self._drains[spec.id] = delivery
        if self._nursery is not None:
            self._nursery.start_soon(self._supervise, delivery)
        return delivery

    def _make(
        self, spec: DrainSpec, channel: Channel, state: DrainState, until: int | None = None, replay: int = 0
    ) -> Delivery:
        match spec.url.kind:
            case Kind.HTTP:
                return HttpDelivery(spec, channel, state, self._site, until=until, replay=replay)
            case Kind.SYSLOG:
                return SyslogDelivery(spec, channel, state, self._site, until=until)
            case Kind.UDP:
                return UdpDelivery(spec, channel, state, self._site, until=until)

    async def _supervise(self, delivery: Delivery) -> None:
        with delivery.scope:
            while not delivery.stopped:
                try:
                    if delivery.fresh:
                        await find_start(delivery)
                    await delivery.run()
                    return
                except Exception:  # noqa: BLE001 - this is the supervisor
                    self.crashes += 1
                    _log.exception("drain_crashed", drain=delivery.spec.id, app=delivery.channel.name)
                await trio.sleep(delivery.crashed())

    async def _supervise_replay(self, drain_id: int, replay: Delivery) -> None:
        try:
            await self._supervise(replay)
        finally:
            if self._replays.get(drain_id) is replay:
                self._end_replay(drain_id)

    def _end_replay(self, drain_id: int) -> None:
        replay = self._replays.pop(drain_id, None)
        if replay is None:
            return
        replay.stop()
        delivery = self._drains.get(drain_id)
        if delivery is not None:
            delivery.state.replayed += replay.state.delivered
            self._site.dirty.add(delivery)

    async def _keep_room(self) -> None:
        """Who waits for memory or a connection gets what others have no use for now."""
        connections = self._site.connections
        while True:
            await trio.sleep(_ROOM_SECONDS)
            self._site.rendered.make_room()
            for _ in range(connections.short()):
                if not self._drop_idle():
                    break

    def _drop_idle(self) -> bool:
        """All connections are taken: close one that is idle; whether there was one.

        Goes on where the last look ended, and looks at nobody for a while when all were busy.
        """
        now = trio.current_time()
        if now < self._all_busy_until:
            return False
        for delivery in self._unlooked:
            if delivery.drop_idle_link():
                return True
        self._unlooked = iter(list(self._drains.values()))
        for delivery in self._unlooked:
            if delivery.drop_idle_link():
                return True
        self._all_busy_until = now + _ROOM_SECONDS
        return False
