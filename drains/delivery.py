"""The delivery loop: one for every kind of drain.

A delivery is a cursor on a channel. It connects when there is something to deliver, sends what follows its cursor,
and advances when the receiver has taken it. Rules:

* `notify` is called in the commit: what a caught-up drain can send at once goes out there, without a task switch.
  Everything that may wait (connect, catch up, back off) happens in the delivery's own task.
* Nothing is kept but the cursor: ring and spool are the queue, and what is sent again is rendered again.
* Positions that left the spool are lost(overrun) and told to the drain (L10) before what follows them.
* Failures back off exponentially with full jitter; a connection that worked before and broke is dialled again at
  once, first. Healthy → failing → healthy is told in the app's own stream, once each, and rarely.
* Delivery is at least once: after a break it goes on with the first line that is not known to have arrived.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
import trio

from logplex.batch import Batch
from logplex.channel import Channel

from .backoff import Backoff
from .dial import translate
from .limits import Limits, Share
from .link import Link
from .spec import DrainSpec
from .state import DrainState, Untold
from .status import DrainStatus, Failure, LastError, State, Told

Tell = Callable[[Channel, int, bytes, bool], None]
"""(channel, pri, text, tails_only): a line of our own into the app's stream."""

L10_PRI = 172
L14_PRI = 188
RECOVERED_PRI = 174
_SHORT_LIFE_SECONDS = 1.0  # a connection that breaks sooner is a failure, whatever it took

_RECENT_SECONDS = 10.0  # a drain that took something is shown as delivering for so long

_log = structlog.get_logger("drains")


@dataclass(slots=True, kw_only=True)
class Site:
    """What all deliveries share."""

    limits: Limits
    dial: Callable[[DrainSpec, int], Awaitable[Link]]
    tell: Tell
    version: str
    rendered: Share
    connections: Share
    dirty: "set[Delivery]" = field(default_factory=set)
    make_room: Callable[[], None] = lambda: None
    wall: Callable[[], float] = time.time

    def now_ms(self) -> int:
        return int(self.wall() * 1000)


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
        self.failing = False
        self.error: LastError | None = None
        self.stopped = False
        self.crash: Exception | None = None
        self.connected_at = 0.0
        self.served = False  # whether this connection delivered something already
        self.scope = trio.CancelScope()
        self.hurried = False
        self.fresh = False  # its start may still have to be found
        self._backoff = Backoff(site.limits.backoff_seconds, site.limits.max_backoff_seconds)
        self._doing = State.IDLE
        self._since = site.wall()
        self._retry_at: float | None = None  # wall time
        self._event: trio.Event | None = None
        self._parked = trio.CancelScope()
        self._told = Told(site.limits.told_lines, site.limits.told_seconds)
        self._told_certificate = Told(1, site.limits.told_seconds)

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

    # The loop.

    async def run(self) -> None:
        """Deliver until stopped (or until the end of a replay)."""
        if not self.stopped:
            self.channel.follow(self)
        try:
            while not self.stopped and not self.done:
                if self.sent >= self.head:
                    self._enter(State.IDLE)
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
        failure: Failure | None = None
        taken = False
        try:
            self._enter(State.CONNECTING)
            if not self.site.connections.try_take(self.channel.id, 1):
                self.site.make_room()
                await self.site.connections.take(self.channel.id, 1)
            taken = True
            self.served = False
            self.crash = None
            self.link = link = await self.site.dial(self.spec, self.channel.id)
            self.connected_at = trio.current_time()
            link.on_readable = self._on_readable
            link.watch()
            self._enter(State.DELIVERING)
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
        self.state.retried += 1
        if not self.worth_redial(failure):
            await self._back_off(failure)

    def worth_redial(self, failure: Failure) -> bool:
        """Whether the connection worked before it broke, so that the next one is dialled at once."""
        lived = trio.current_time() - self.connected_at
        return failure.kind in ("closed", "reset") and self.served and lived >= _SHORT_LIFE_SECONDS

    async def _back_off(self, failure: Failure) -> None:
        self.report(failure)
        seconds = self._backoff.failed(failure.retry_after)
        self._retry_at = self.site.wall() + seconds
        self._enter(State.REFUSED if failure.kind == "policy" else State.BACKING_OFF)
        self._tell_failure(failure)
        self.failing = True
        self.site.dirty.add(self)
        with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:  # new lines do not shorten it
            self._parked = scope
            await trio.sleep_forever()
        self._retry_at = None

    def report(self, failure: Failure) -> None:
        """Remember a failure as the last one."""
        self.error = LastError(failure.kind, failure.text, failure.status, self.site.wall())

    def succeeded(self) -> None:
        """The receiver took something."""
        self.served = True
        self._backoff.succeeded()
        if self.failing:
            self.failing = False
            if self._told.may(trio.current_time()):
                _log.info("drain_recovered", drain=self.spec.id, app=self.channel.name)
                text = f"Drain {self.spec.id} ({self.spec.url.shown}) delivers again, {self._pending()} lines behind."
                self.site.tell(self.channel, RECOVERED_PRI, text.encode(), False)

    def _tell_failure(self, failure: Failure) -> None:
        if failure.kind == "certificate" and self._told_certificate.may(trio.current_time()):
            text = f'Error L14 (certificate validation): error="{failure.text}" uri="{self.spec.url.shown}"'
            self.site.tell(self.channel, L14_PRI, text.encode("utf-8", "replace"), True)
            _log.warning("drain_certificate", drain=self.spec.id, app=self.channel.name, why=failure.text)
        elif not self.failing and failure.kind != "certificate" and self._told.may(trio.current_time()):
            _log.warning("drain_failing", drain=self.spec.id, app=self.channel.name, why=failure.text)
            text = f"Drain {self.spec.id} ({self.spec.url.shown}) fails: {failure.text}. Lines are kept and retried."
            self.site.tell(self.channel, L10_PRI, text.encode("utf-8", "replace"), False)

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
        """End a `park`; nothing when the task is busy, which looks for itself."""
        if self._event is not None:
            self._event.set()

    def hasten(self, deadline: float) -> None:
        """A `park` under way ends at `deadline` at the latest."""
        scope = self._parked
        scope.deadline = min(scope.deadline, deadline)

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
            self.state.enter_epoch(self.channel.epoch, self.channel.epoch_first)
            if self.state.epoch != self.channel.epoch:
                end = self.channel.epoch_first
        if end is None or not batches or batches[-1].end <= end:
            return batches
        return [batch.cut(batch.first, end) for batch in batches if batch.first < end]

    def overrun(self, count: int) -> None:
        """`count` positions from `sent` on are gone."""
        self.state.overrun(count, self.site.now_ms())
        self.sent = self.state.cursor
        self.site.dirty.add(self)
        self.lost(count)

    def lost(self, count: int, reason: str = "overrun") -> None:
        """Say so in the server's log."""
        _log.error("drain_lost", drain=self.spec.id, app=self.channel.name, lines=count, reason=reason)

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
        if self.link is None or self._doing is not State.IDLE:
            return False
        self.parked_too_long()
        return True

    def parked_too_long(self) -> None:
        """End a `park` as if its deadline had come."""
        self._parked.cancel()

    def crashed(self) -> float:
        """Our own code failed: remember it as an error, and say how long to wait before the next try."""
        self.error = LastError("crash", "an error of this server, see its log", None, self.site.wall())
        self._enter(State.BACKING_OFF)
        self.failing = True
        self.sent = self.state.cursor
        wait = self._backoff.failed()
        self._retry_at = self.error.at + wait
        return wait

    @property
    def finding_start(self) -> bool:
        """Whether its cursor is not worth remembering yet."""
        return self.fresh and self.spec.options.start not in ("now", "oldest")

    def waits_beyond(self, wall: float) -> bool:
        """Whether it backs off until after that time."""
        return self._retry_at is not None and self._retry_at > wall

    def status(self, replay: "Delivery | None" = None) -> DrainStatus:
        """How it is now."""
        self.settle()
        state = self.state
        head = self.channel.head
        doing = self._doing
        recent = self.site.wall() - state.succeeded_at / 1000 < _RECENT_SECONDS
        if doing is State.IDLE and (state.cursor < head or recent):
            doing = State.DELIVERING
        return DrainStatus(
            state=doing,
            since=self._since,
            until=self._retry_at if self._doing in (State.BACKING_OFF, State.REFUSED) else None,
            error=self.error,
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

    def _pending(self) -> int:
        return self.channel.head - self.state.cursor

    def _enter(self, doing: State) -> None:
        if doing is not self._doing:
            self._doing = doing
            self._since = self.site.wall()

    def idle(self) -> None:
        """Nothing to do, for the status."""
        self._enter(State.IDLE)

    def busy(self) -> None:
        """Something is under way, for the status."""
        self._enter(State.DELIVERING)

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
