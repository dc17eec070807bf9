"""The delivery loop: one for every kind of drain.

A delivery is a cursor on a channel. It connects when there is something to deliver, sends what follows its cursor,
and advances when the receiver has taken it. Rules:

* `notify` is called in the commit: what a caught-up drain can send at once goes out there, without a task switch.
  Everything that may wait (connect, catch up, back off) happens in the delivery's own task.
* Nothing is kept but the cursor: ring and spool are the queue, and what is sent again is rendered again.
* Positions that left the spool are lost(overrun) and told to the drain (L10) before what follows them.
* Failures back off exponentially with full jitter; a connection that worked before and broke is dialled again at
  once, first. Healthy → failing → healthy is told in the app's own stream, once each, and rarely.
* To tell of a failure, and to try again after one, takes a turn of a pace that all failing drains share: however many
  fail at the same moment, the others hardly notice. Drains that worked just before have one of their own.
* Delivery is at least once: after a break it goes on with the first line that is not known to have arrived.
"""

from datetime import UTC, datetime

import trio

from logplex.batch import Batch
from logplex.channel import Channel

from .dial import translate
from .health import Health
from .limits import Pace
from .link import Link
from .site import Site
from .spec import DrainSpec
from .state import DrainState, Untold
from .status import DrainStatus, Failure, State

L10_PRI = 172
_SHORT_LIFE_SECONDS = 1.0  # a connection that breaks sooner is a failure, whatever it took
_RECENT_SECONDS = 10.0  # a drain that took something is shown as delivering for so long


class Delivery:
    """One drain on its way through its channel; subclasses know how to speak.

    `until` bounds a replay; a delivery without it never ends by itself.
    """

    def __init__(
        self, spec: DrainSpec, channel: Channel, state: DrainState, site: Site, *, until: int | None = None
    ) -> None:
        self.spec = spec
        self.channel = channel
        self.state = state
        self.site = site
        self.until = until
        self.sent = state.cursor  # positions before it are with the transport; the cursor follows
        self.link: Link | None = None
        self.health = Health(spec, channel, site)
        self.stopped = False
        self.crash: Exception | None = None
        self.retrying = False  # the last try failed
        self.connected_at = 0.0
        self.served = False  # whether this connection delivered something already
        self.scope = trio.CancelScope()
        self.hurried = False
        self.fresh = False  # its start may still have to be found
        self._event: trio.Event | None = None
        self._parked = trio.CancelScope()

    # What subclasses do.

    def notify(self, batch: Batch) -> None:
        """A batch was committed: send it at once if nothing stands before it."""
        self.wake()

    async def converse(self, link: Link) -> None:
        """Deliver over this link until it is not needed any more; raises Failure or OSError when it breaks."""
        raise NotImplementedError

    def readable(self) -> None:
        """The link has something to read, or ended."""

    def settle(self) -> None:
        """Bring the cursor up to what is known to have arrived; must not wait."""

    def disconnected(self) -> None:
        """The link is closed: forget what belonged to it."""

    def give_up_rendered(self) -> None:
        """Others need the memory of what the kernel does not take: give it back now."""

    # The loop.

    async def run(self) -> None:
        """Deliver until stopped (or until the end of a replay)."""
        if not self.stopped:
            self.channel.follow(self)
        try:
            while not self.stopped and not self.done:
                if self.sent >= self.head:
                    self.health.enter(State.IDLE)
                    await self.park(float("inf"))
                    continue
                await self._try()
        finally:
            self.channel.unfollow(self)
            self._close()

    @property
    def head(self) -> int:
        """Where this delivery ends for now."""
        return self.channel.head if self.until is None else min(self.until, self.channel.head)

    @property
    def done(self) -> bool:
        """Whether a replay has arrived at its end."""
        return self.until is not None and self.state.cursor >= self.until

    @property
    def sending(self) -> bool:
        """Whether something was sent that has not arrived yet."""
        return self.sent > self.state.cursor

    async def _try(self) -> None:
        """One connection, from dialling to its end, and the wait after a failure."""
        if self.retrying:
            await self._pace.take(self.channel.id)
            self.retrying = False
        failure: Failure | None = None
        taken = False
        try:
            self.health.enter(State.CONNECTING)
            connections = self.site.connections
            if not connections.try_take(self.channel.id, 1):
                if connections.used >= connections.total:
                    self.site.make_room()
                await connections.take(self.channel.id, 1)
            taken = True
            self.served = False
            self.crash = None
            self.link = link = await self.site.dial(self.spec, self.channel.id)
            self.connected_at = trio.current_time()
            link.on_readable = self._on_readable
            link.watch()
            self.health.enter(State.DELIVERING)
            await self.converse(link)
        except Failure as exc:
            failure = exc
        except OSError as exc:
            failure = translate(exc)
        finally:
            self._close()
            if taken:
                self.site.connections.give_back(self.channel.id, 1)
        if failure is None or self.stopped:
            return
        if failure.kind in ("closed", "reset") and self.served and self.state.cursor >= self.head:
            return  # the receiver no longer wanted an idle connection
        self.retrying = True
        self.state.retried += 1
        if not self.worth_redial(failure):
            await self._back_off(failure)

    def worth_redial(self, failure: Failure) -> bool:
        """Whether the connection worked before it broke, so that the next one is dialled at once."""
        lived = trio.current_time() - self.connected_at
        return failure.kind in ("closed", "reset") and self.served and lived >= _SHORT_LIFE_SECONDS

    @property
    def _pace(self) -> Pace:
        """Whose turns it takes: who worked just before does not wait behind those who fail again and again."""
        worked = self.state.succeeded_at and self.health.failures < 2
        return self.site.redials if worked else self.site.retries

    async def _back_off(self, failure: Failure) -> None:
        deadline = trio.current_time() + self.health.failed(failure)
        self.site.dirty.add(self)
        if self.health.has_news:
            await self._pace.take(self.channel.id)
            self.health.tell()
        with trio.CancelScope(deadline=deadline) as scope:  # new lines do not shorten it
            self._parked = scope
            await trio.sleep_forever()
        self.health.retry_at = None

    def succeeded(self) -> None:
        """The receiver took something."""
        self.served = True
        self.health.succeeded(self.channel.head - self.state.cursor)

    # Waiting.

    async def park(self, deadline: float) -> bool:
        """Wait for `wake`, at most until `deadline` (trio's clock): whether it came."""
        event = self._event = trio.Event()
        with trio.CancelScope(deadline=deadline) as scope:
            self._parked = scope
            await event.wait()
        self._event = None
        self.check()
        return not scope.cancelled_caught

    async def go_on(self) -> None:
        """After a wait: nothing more happens once the delivery was stopped; raises what `notify` ran into."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.check()

    def check(self) -> None:
        """Raise what `notify` or `readable` ran into."""
        crash, self.crash = self.crash, None
        if crash is not None:
            raise crash

    def wake(self) -> None:
        """End a `park`, in turn where a dial follows; nothing when the task is busy, which looks for itself."""
        if self._event is None:
            return
        if self.link is None:
            self.site.dials.add(self._event)
        else:
            self._event.set()

    def hasten(self, deadline: float) -> None:
        """A `park` under way ends at `deadline` at the latest."""
        scope = self._parked
        if deadline >= scope.deadline:
            return
        scope.deadline = deadline

    # Lines.

    async def take(self, max_bytes: int, *, ring_bytes: int = 0) -> list[Batch]:
        """Batches from `sent` on, up to about `max_bytes`, or `ring_bytes` of the ring, where they cost nothing.

        Accounts for what is lost before them.
        """
        batches = self.channel.recent(self.sent, ring_bytes or max_bytes)
        if batches is None:
            reading = await self.channel.read(self.sent, max_bytes)
            if reading.lost:
                self.overrun(reading.lost)
            batches = reading.batches
        return self.bounded(batches)

    def bounded(self, batches: list[Batch]) -> list[Batch]:
        """Without what lies behind a replay's end, and never over the border of two epochs."""
        end = self.until
        if self.state.epoch != self.channel.epoch:
            self.settle()
            self.reach_epoch()
            if self.state.epoch != self.channel.epoch:
                _, border = self.channel.epoch_at(self.state.cursor)
                end = border if end is None or border is None else min(end, border)
        if end is None or not batches or batches[-1].end <= end:
            return batches
        return [batch.cut(batch.first, end) for batch in batches if batch.first < end]

    def overrun(self, count: int) -> None:
        """`count` positions from `sent` on are gone."""
        self.state.overrun(count, self.site.now_ms())
        self.reach_epoch()
        self.sent = self.state.cursor
        self.site.dirty.add(self)
        self.health.lost(count, "overrun")

    def reach_epoch(self) -> None:
        """Enter the epoch in which the cursor stands; a loss may carry it far over the border."""
        self.state.epoch = self.channel.epoch_at(self.state.cursor)[0] or self.state.epoch

    def hurry(self) -> None:
        """The server stops: do not wait for more lines."""
        self.hurried = True

    # What others ask.

    def stop(self) -> None:
        """Settle, close, and leave the channel; the task ends by itself."""
        if not self.stopped:
            self.stopped = True
            self.settle()
            self.channel.unfollow(self)
            self._close()
            self.scope.cancel()

    def drop_idle_link(self) -> bool:
        """Close the link if nothing is under way on it; it is dialled again when it is needed."""
        if self.link is None or self.health.doing is not State.IDLE:
            return False
        self.parked_too_long()
        return True

    def parked_too_long(self) -> None:
        """End a `park` as if its deadline had come."""
        self._parked.cancel()

    def crashed(self) -> float:
        """Our own code failed: how long to wait before the next try."""
        self.retrying = True
        self.sent = self.state.cursor
        return self.health.crashed()

    @property
    def finding_start(self) -> bool:
        """Whether its cursor is not worth remembering yet."""
        return self.fresh and self.spec.options.start not in ("now", "oldest")

    def waits_beyond(self, wall: float) -> bool:
        """Whether it backs off until after that time (unix seconds)."""
        return self.health.retry_at is not None and self.health.retry_at > wall

    def status(self, replay: "Delivery | None" = None) -> DrainStatus:
        """How it is now."""
        self.settle()
        state = self.state
        head = self.channel.head
        health = self.health
        doing = health.doing
        recent = self.site.wall() - state.succeeded_at / 1000 < _RECENT_SECONDS
        if doing is State.IDLE and (state.cursor < head or recent):
            doing = State.DELIVERING
        return DrainStatus(
            state=doing,
            since=health.since,
            until=health.retry_at if doing in (State.BACKING_OFF, State.REFUSED) else None,
            error=health.error,
            last_success=state.succeeded_at / 1000 if state.succeeded_at else None,
            start=state.start,
            cursor=state.cursor,
            head=head,
            delivered=state.delivered,
            filtered=state.filtered,
            lost=dict(state.lost),
            retried=state.retried,
            replayed=state.replayed + (replay.state.delivered if replay is not None else 0),
            replaying=replay.head - replay.state.cursor if replay is not None else None,
            bytes=state.bytes,
            oldest_pending_seconds=self._oldest_pending_seconds(head),
        )

    def _oldest_pending_seconds(self, head: int) -> float | None:
        if self.state.cursor >= head:
            return None
        held = self.channel.recent(self.state.cursor, 1)
        at = held[0].at if held else self.state.delivered_at  # older than the ring: at most this old
        return round(max(0.0, self.site.wall() - at / 1000), 3) if at else None

    def idle(self) -> None:
        """Nothing to do, for the status."""
        self.health.enter(State.IDLE)

    def busy(self) -> None:
        """Something is under way, for the status."""
        self.health.enter(State.DELIVERING)

    def _close(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            self.settle_broken(link)
            link.close()
        self.disconnected()
        self.sent = self.state.cursor

    def settle_broken(self, link: Link) -> None:
        """The last look at a link before it is closed."""

    def _on_readable(self) -> None:
        try:
            self.readable()
        except Exception as exc:  # noqa: BLE001 - one drain's bug must not end the poller of all
            self.fail_with(exc)

    def fail_with(self, exc: Exception) -> None:
        """Raise `exc` in the delivery's own task."""
        self.crash = exc
        if self.link is not None:
            self.link.pause()
        self.wake()


def l10_text(untold: Untold) -> bytes:
    """What a drain hears of a loss (protocol section 9)."""
    since = datetime.fromtimestamp(untold.since / 1000, UTC).isoformat(timespec="seconds").encode()
    return b"Error L10 (output buffer overflow): %d messages dropped since %b." % (untold.lines, since)
