"""HTTP(S) drains: POST batches over one keep-alive connection, one request at a time (protocol section 7).

Rules:

* A request was taken once the whole body is with the kernel and the answer's status is known; what that means is in
  outcomes.py.
* A caught-up drain's batch goes out in `notify`; its answer is read by the poller, which sends what has come in the
  meantime. The drain's own task runs only to connect, to read the spool, to wait for the kernel, and for time-outs.
* A request that follows another closely waits for a moment (pause.py).
* While a drain is behind, its batches grow to 1 MiB; the bytes are the channel's own, shared by its drains, and only
  what the kernel did not take counts against the app's share of rendered bytes.
* An answer that dribbles in is read ever less often: it must not cost more than a whole one.
* The time of a request differs a little from drain to drain: those of one receiver that hangs do not end together.
* A connection that was used before and ended without a byte of an answer was closed while idle: the request is sent
  once more on a fresh one, at once.
"""

import trio

from logplex.batch import Batch
from logplex.channel import Channel

from .answer import Answer
from .backoff import spread
from .composer import Composer
from .delivery import Delivery
from .link import Link
from .outcomes import Outcomes
from .pause import Pause
from .request import Request
from .site import Site
from .sizes import Sizes
from .spec import DrainSpec
from .state import DrainState
from .status import Failure
from .unsent import Unsent

_ANSWER_GRACE_SECONDS = 5.0  # for the rest of an answer whose status is known
_DRIBBLE_READS = 4  # an ordinary answer comes in fewer pieces
_BODY_READS = 64  # of one whose status is known
_DRIBBLE_SECONDS = 0.25  # until the next look, twice as long each time
_DRIBBLE_DOUBLINGS = 5


class HttpDelivery(Delivery):
    """A drain over HTTP or HTTPS."""

    def __init__(
        self,
        spec: DrainSpec,
        channel: Channel,
        state: DrainState,
        site: Site,
        *,
        until: int | None = None,
        replay: int = 0,
    ) -> None:
        super().__init__(spec, channel, state, site, until=until)
        self._linger_seconds = spec.options.linger_seconds if until is None else 0.0  # a replay has all its lines
        self._inline = spec.options.plain and not self._linger_seconds and until is None
        chosen = spec.options.batch_bytes
        self._sizes = Sizes(state, chosen or site.limits.batch_bytes, chosen or site.limits.max_batch_bytes)
        self._composer = Composer(self, self._sizes, replay=replay)
        self._outcomes = Outcomes(self, self._sizes)
        self._pause = Pause(self._sizes, site.alarms, site.limits.pause_seconds, self._end_pause)
        self._ready = False  # connected, nothing in flight: `notify` may send
        self._answer: Answer | None = None
        self._request: Request | None = None
        self._patience = spread(site.limits.request_seconds)
        self._deadline = 0.0
        self._life_end = 0.0
        self._unsent = Unsent(site.rendered, self, channel.id)
        self._reads = 0
        self._lingered = -1  # before a request that begins here
        self._failure: Failure | None = None

    def notify(self, batch: Batch) -> None:
        pause = self._pause
        if not self._ready:
            if pause.gathered:
                if pause.add(batch.size):
                    self._parked.cancel()
            elif self._request is None:
                self.wake()
        elif pause.gathered:
            if pause.add(batch.size):
                self._end_pause()
        elif not pause.gather(batch.size):
            self._send_now([batch] if batch.first == self.sent else None)

    def _end_pause(self) -> None:
        """Send what has gathered, unless it is the task that waits."""
        if self._ready:
            self._sizes.gathered(self._pause.gathered)
            self._pause.drop()
            self._send_now(self.channel.recent(self.sent, 2 * self._sizes.target))

    def _send_now(self, batches: list[Batch] | None) -> None:
        """Send what follows, or have the task do it; None: that is not in the ring."""
        self._ready = False
        try:
            if not batches or not self._send_recent(batches):
                self.wake()
        except Exception as exc:  # noqa: BLE001 - commit and poller go on, whatever happens in one drain
            self.fail_with(exc)

    async def converse(self, link: Link) -> None:
        self._answer = Answer(self.site.limits.answer_bytes, keeps=self._composer.is_document)
        self._life_end = self.connected_at + self.site.limits.life_seconds
        while True:
            await self.go_on()
            if self._failure is not None:
                raise self._failure
            if self._unsent:
                await self._flush(link)
            elif self._request is not None:
                await self._wait_for_answer(link)
            elif not self._answer.reusable or trio.current_time() >= self._life_end:
                return
            elif self.sent < self.head:
                await self._send_next(link)
            elif self.until is not None or not await self._idle():
                return

    def drop_idle_link(self) -> bool:
        return self._request is None and not self._pause.gathered and super().drop_idle_link()

    def parked_too_long(self) -> None:
        self._life_end = 0.0  # the task may still be parked for an answer that has come
        self.wake()

    def disconnected(self) -> None:
        self._ready = False
        self._pause.drop()
        self._unsent.let_go()
        self._failure = None
        request, self._request = self._request, None
        if request is not None and self.state.cursor == request.first:
            self._sizes.failed(request)
            self.site.dirty.add(self)
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def readable(self) -> None:
        link, answer = self.link, self._answer
        if link is None or answer is None:
            return
        data = link.recv()
        if data is None:
            return
        if not data:
            self._ended(answer)
            return
        if self._request is None:
            answer.reusable = False  # nobody asked
            self._to_task(link)
            return
        self._reads += 1
        if not answer.feed(data):
            self._failure = Failure("protocol", "what came back is no HTTP answer, or one without end")
            self._to_task(link)
        elif answer.known and not self._unsent:
            self._known(answer, link)
        elif answer.known and not 200 <= answer.status < 300:
            self._parked.cancel()  # refused before it was sent whole
        usual = _BODY_READS if answer.known else _DRIBBLE_READS
        if self._reads > usual and self._request is not None and self._failure is None and not answer.complete:
            link.rest(_DRIBBLE_SECONDS * 2 ** min(self._reads - usual - 1, _DRIBBLE_DOUBLINGS))

    def _known(self, answer: Answer, link: Link) -> None:
        """The status is there, and the whole request is out."""
        request = self._request
        if request is None:
            return
        if request.first == self.state.cursor:
            if not 200 <= answer.status < 300:
                self._refused(request, answer)
                self.wake()
                return
            self._outcomes.delivered(request)
            if not answer.complete and (answer.reusable or answer.speaking):
                self._deadline = min(self._deadline, trio.current_time() + _ANSWER_GRACE_SECONDS)
                self.hasten(self._deadline)
                return
        if not answer.complete and (answer.reusable or answer.speaking):
            return
        self._request = None
        if self._composer.is_document:
            self._outcomes.count_rejected(request, answer)
        if not answer.reusable or not self._inline or self._pause.since >= self._life_end:
            self.wake()
            return
        # Not all that waits is counted: a request that goes on waiting for a moment carries more.
        batches = self.channel.recent(self.sent, 2 * self._sizes.target)
        if batches == [] or (batches and self._pause.gather(sum(batch.size for batch in batches))):
            self._ready = True
            self.idle()
        else:
            self._send_now(batches)

    def _ended(self, answer: Answer) -> None:
        """The receiver closed the connection."""
        answer.reusable = False
        request = self._request
        if request is None or (answer.known and request.first != self.state.cursor):
            if request is not None and self._composer.is_document:
                self._outcomes.count_rejected(request, answer)
            self._request = None
        elif answer.known and not 200 <= answer.status < 300:
            self._refused(request, answer)
        elif not self.served or self._reads:
            self._failure = Failure("closed", "the receiver closed the connection without an answer")
        else:
            self._failure = Failure("stale", "the receiver closed an idle connection")
        if self.link is not None:
            self._to_task(self.link)

    def _to_task(self, link: Link) -> None:
        """Let the task see to it; what is unread must not call us again and again."""
        self._ready = False
        link.pause()
        self.wake()
        if self._unsent:
            self._parked.cancel()

    # Sending.

    def _send_recent(self, batches: list[Batch]) -> bool:
        """Send from the ring, without waiting; False when the task has to do it."""
        state, link = self.state, self.link
        if link is None or state.cut is not None or state.epoch != self.channel.epoch or self._unsent:
            return False
        if not self.site.rendered.fits(self.channel.id, self._sizes.target):
            return False
        request = self._composer.compose(batches, self._sizes.target)
        if not request.lines:
            return False
        self._post(request, link)
        return True

    async def _send_next(self, link: Link) -> None:
        """Send what follows the cursor, from ring or spool."""
        if self.state.cut is None:
            await self._gather()
        rendered, app, target = self.site.rendered, self.channel.id, self._sizes.target
        if self._sizes.cut(self.sent) is not None:
            target = self._sizes.most
        taken = await rendered.take(app, target)
        try:
            request = await self._composer.next(target)
            if request is None:
                return
            if not request.lines:
                self._outcomes.passed_over(request)
            elif self._failure is None and self._answer is not None and self._answer.reusable:
                self._post(request, link)
        finally:
            rendered.give_back(app, taken)

    async def _gather(self) -> None:
        """Let more lines come before a request, as the options say, and where the last one began just before."""
        pause, linger = self._pause, self._linger_seconds
        until = pause.ends
        if linger and self._lingered != self.sent:
            self._lingered = self.sent
            until = max(until, trio.current_time() + linger)
        waiting = self._waiting()
        if not pause.holds(waiting, until):
            return
        pause.gathered = waiting
        with trio.CancelScope(deadline=until) as scope:
            self._parked = scope
            await trio.sleep_forever()
        self._sizes.gathered(2 * pause.gathered)  # JSON of short lines is up to twice as long
        pause.drop()

    def _waiting(self) -> int:
        """Bytes that the next request might carry, counted in the ring: enough where that lacks them."""
        recent = self.channel.recent(self.sent, 2 * self._sizes.enough)
        return self._sizes.enough if recent is None else sum(batch.size for batch in recent)

    def hurry(self) -> None:
        super().hurry()
        self._pause.skip()
        if self._pause.gathered and not self._ready:
            self._parked.cancel()
        elif self._pause.gathered:
            self._end_pause()

    def _post(self, request: Request, link: Link) -> None:
        first = self._composer.head(request)
        parts = [first, *request.body]
        self._request = request
        self._reads = 0
        if self._answer is not None:
            self._answer.next()
        self._pause.begin()
        self._deadline = self._pause.since + self._patience
        self.hasten(self._deadline)
        taken = link.send_parts(parts)
        left = len(first) + request.size - taken
        if left:
            self.site.rendered.force(self.channel.id, left)
            self._unsent.keep(b"".join(parts), taken)
            self.wake()
        request.body = []

    async def _flush(self, link: Link) -> None:
        """Send more of a request that the kernel did not take at once."""
        with trio.CancelScope(deadline=self._deadline) as scope:
            self._parked = scope
            await link.wait_writable()
        await self.go_on()
        rest, answer, request = self._unsent.rest, self._answer, self._request
        if self._failure is not None or rest is None or answer is None or request is None:
            return
        refused = answer.known and not 200 <= answer.status < 300
        if not refused and trio.current_time() >= self._deadline:
            raise Failure("timeout", f"the receiver did not take the request within {self._seconds} s")
        try:
            taken = 0 if refused else link.send(rest)
        except OSError:
            self.readable()  # it may have said why
            if not answer.known or 200 <= answer.status < 300:
                raise
            refused = True
        if refused:
            if request is self._request:
                self._refused(request, answer)
            answer.reusable = False
            return
        self._unsent.took(taken)
        if answer.known and not self._unsent:
            self._known(answer, link)

    def give_up_rendered(self) -> None:
        if self._unsent and self._failure is None:
            text = "the receiver does not take the request, and others need the memory"
            self._failure = Failure("timeout", text)
            self._unsent.let_go()
            self._parked.cancel()

    # Answers.

    def worth_redial(self, failure: Failure) -> bool:
        return failure.kind in ("stale", "reset") and self.served and not self._reads

    async def _wait_for_answer(self, link: Link) -> None:
        self.busy()
        if await self.park(self._deadline) or trio.current_time() < self._deadline:
            return
        answer, request = self._answer, self._request
        if request is None or answer is None:
            return
        if answer.known and request.first != self.state.cursor:
            answer.reusable = False  # delivered, but the answer has no end
            self._request = None
            return
        raise Failure("timeout", f"no answer within {self._seconds} s")

    def _refused(self, request: Request, answer: Answer) -> None:
        """Any status but 2xx."""
        self._unsent.let_go()
        failure = self._outcomes.refused(request, answer)
        if failure is not None:
            self._failure = failure
            return
        self._request = None
        if not answer.complete:
            answer.reusable = False

    async def _idle(self) -> bool:
        """Caught up: `notify` sends from here on. False when nothing was sent for a while."""
        deadline = min(max(self._pause.since, self.connected_at) + self.site.limits.idle_seconds, self._life_end)
        if trio.current_time() >= deadline:
            return False
        self._ready = self._inline and self.state.cut is None
        self._pause.drop()
        self.idle()
        try:
            await self.park(deadline)
        finally:
            self._ready = False
        self.busy()
        return True

    @property
    def _seconds(self) -> str:
        return f"{self.site.limits.request_seconds:g}"
