"""How a drain is doing: what it shows, when it may try again, and what its app hears of that.

Healthy → failing → healthy is told in the app's own stream, once each, and at most twice in ten minutes; a certificate
that does not verify is L14, for tails and history only (protocol section 9). Told is what our own log says, too.
"""

import structlog
import trio

from logplex.channel import Channel

from .backoff import Backoff
from .site import Site
from .spec import DrainSpec
from .status import Failure, LastError, State, Told

FAILING_PRI = 172
RECOVERED_PRI = 174
L14_PRI = 188

_log = structlog.get_logger("drains")


class Health:
    """State, last error and back-off of one drain."""

    __slots__ = (
        "_backoff",
        "_channel",
        "_news",
        "_site",
        "_spec",
        "_told",
        "_told_certificate",
        "doing",
        "error",
        "failing",
        "retry_at",
        "since",
    )

    def __init__(self, spec: DrainSpec, channel: Channel, site: Site) -> None:
        limits = site.limits
        self._spec = spec
        self._channel = channel
        self._site = site
        self._backoff = Backoff(limits.backoff_seconds, limits.max_backoff_seconds)
        self._told = Told(limits.told_lines, limits.told_seconds)
        self._told_certificate = Told(1, limits.told_seconds)
        self.doing = State.IDLE
        self.since = site.wall()
        self.retry_at: float | None = None  # unix seconds, while it backs off
        self.failing = False
        self.error: LastError | None = None
        self._news: Failure | None = None  # what the app has not heard of yet

    @property
    def failures(self) -> int:
        """Back-offs since the last success."""
        return self._backoff.failures

    def enter(self, doing: State) -> None:
        """It does something else now."""
        if doing is not self.doing:
            self.doing = doing
            self.since = self._site.wall()

    def report(self, failure: Failure) -> None:
        """Remember a failure as the last one."""
        self.error = LastError(failure.kind, failure.text, failure.status, self._site.wall())

    def failed(self, failure: Failure) -> float:
        """A try failed: seconds until the next."""
        self.report(failure)
        seconds = self._backoff.failed(failure.retry_after)
        self.retry_at = self._site.wall() + seconds
        self.enter(State.REFUSED if failure.kind == "policy" else State.BACKING_OFF)
        if self._is_news(failure):
            self._news = failure
        self.failing = True
        return seconds

    @property
    def has_news(self) -> bool:
        """Whether `tell` would tell something."""
        return self._news is not None

    def tell(self) -> None:
        """Tell the app, and our own log, of the last failure that is news."""
        failure, self._news = self._news, None
        if failure is None:
            return
        spec = self._spec
        if failure.kind == "certificate":
            _log.warning("drain_certificate", drain=spec.id, app=self._channel.name, why=failure.text)
            text = f'Error L14 (certificate validation): error="{failure.text}" uri="{spec.url.shown}"'
            self._site.tell(self._channel, L14_PRI, text.encode("utf-8", "replace"), True)
        else:
            _log.warning("drain_failing", drain=spec.id, app=self._channel.name, why=failure.text)
            text = f"Drain {spec.id} ({spec.url.shown}) fails: {failure.text}. Lines are kept and retried."
            self._site.tell(self._channel, FAILING_PRI, text.encode("utf-8", "replace"), False)

    def crashed(self) -> float:
        """Our own code failed: seconds until the next try."""
        self.report(Failure("crash", "an error of this server, see its log"))
        seconds = self._backoff.failed()
        self.retry_at = self._site.wall() + seconds
        self.enter(State.BACKING_OFF)
        self.failing = True
        return seconds

    def succeeded(self, pending: int) -> None:
        """The receiver took something, and `pending` lines are left."""
        self._backoff.succeeded()
        if not self.failing:
            return
        self.failing = False
        if self._told.may(trio.current_time()):
            spec = self._spec
            _log.info("drain_recovered", drain=spec.id, app=self._channel.name)
            text = f"Drain {spec.id} ({spec.url.shown}) delivers again, {pending} lines behind."
            self._site.tell(self._channel, RECOVERED_PRI, text.encode(), False)

    def lost(self, count: int, reason: str) -> None:
        """Say so in the server's log."""
        _log.error("drain_lost", drain=self._spec.id, app=self._channel.name, lines=count, reason=reason)

    def _is_news(self, failure: Failure) -> bool:
        now = trio.current_time()
        if failure.kind == "certificate":
            return self._told_certificate.may(now)
        return not self.failing and self._told.may(now)
