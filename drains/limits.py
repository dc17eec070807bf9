"""What drains may use, in all and per app, so that none of them slows another.

* `Limits` holds the numbers: sizes in bytes, times in seconds. The original's are named.
* A `Share` is a bounded amount (connections, look-ups, rendered bytes), with a bound for each app beside the bound
  for all; who has to wait is served app by app in turn, so that an app with many waiters delays only itself.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number of the drains; the settings of the server fill it in."""

    batch_bytes: int = 102_400  # the original's number
    max_batch_bytes: int = 1024 * 1024  # target of a drain that is behind
    connect_seconds: float = 3.0  # the original's number; TLS included
    request_seconds: float = 30.0
    idle_seconds: float = 144.0  # the original's number
    life_seconds: float = 5 * 3600.0  # the original's number
    backoff_seconds: float = 1.0
    max_backoff_seconds: float = 300.0
    answer_bytes: int = 64 * 1024  # protocol section 7
    look_ups: int = 64
    look_ups_per_app: int = 2
    look_up_seconds: float = 5.0
    look_up_cache_seconds: float = 60.0
    connections: int = 12_000
    connections_per_app: int = 64  # six drains, their replays and tests many times over
    rendered_bytes: int = 128 * 1024 * 1024
    rendered_share: int = 64  # an app may hold 1/64 of the rendered bytes
    cursor_seconds: float = 0.1  # between two looks at what has arrived, for the cursors that are saved
    tests_per_minute: int = 10  # of one app: a test is no port scanner
    told_lines: int = 2  # about transitions of a drain, in told_seconds
    told_seconds: float = 600.0


class Share:
    """A bounded amount of something, shared fairly by apps."""

    def __init__(self, total: int, per_app: int) -> None:
        self.total = total
        self.per_app = per_app
        self.used = 0
        self._apps: dict[int, int] = {}
        self._waiting: OrderedDict[int, deque[tuple[int, trio.Event]]] = OrderedDict()

    def fits(self, app: int, amount: int) -> bool:
        """Whether `amount` could be had now. An app that uses nothing gets any amount that others leave."""
        held = self._apps.get(app, 0)
        return self.used + amount <= self.total and (held == 0 or held + amount <= self.per_app)

    def try_take(self, app: int, amount: int) -> bool:
        """Take `amount` if it is free and nobody of this app waits for some."""
        if app in self._waiting or not self.fits(app, amount):
            return False
        self._add(app, amount)
        return True

    async def take(self, app: int, amount: int) -> int:
        """Take `amount` (or all there is), waiting for it: what was taken. Nothing when cancelled."""
        amount = min(amount, self.total)
        if self.try_take(app, amount):
            return amount
        event = trio.Event()
        waiter = (amount, event)
        self._waiting.setdefault(app, deque()).append(waiter)
        try:
            await event.wait()
        except trio.Cancelled:
            if event.is_set():
                self.give_back(app, amount)
            else:
                self._forget(app, waiter)
                self._serve()
            raise
        return amount

    def force(self, app: int, amount: int) -> None:
        """Take `amount` that `fits` has just allowed, whoever waits."""
        self._add(app, amount)

    def give_back(self, app: int, amount: int) -> None:
        """What was taken is free again."""
        self._add(app, -amount)
        if self._waiting:
            self._serve()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def _add(self, app: int, amount: int) -> None:
        self.used += amount
        held = self._apps.get(app, 0) + amount
        if held:
            self._apps[app] = held
        else:
            self._apps.pop(app, None)

    def _serve(self) -> None:
        """One waiter of each app in turn, until a whole round got nothing."""
        served = True
        while served and self._waiting:
            served = False
            for app in list(self._waiting):
                waiter = self._waiting[app][0]
                if self.used >= self.total:
                    return
                if self.fits(app, waiter[0]):
                    self._forget(app, waiter)
                    self._add(app, waiter[0])
                    waiter[1].set()
                    if app in self._waiting:
                        self._waiting.move_to_end(app)
                    served = True

    def _forget(self, app: int, waiter: tuple[int, trio.Event]) -> None:
        queue = self._waiting[app]
        queue.remove(waiter)
        if not queue:
            del self._waiting[app]
