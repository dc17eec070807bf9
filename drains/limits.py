"""What drains may use, in all and per app, so that none of them slows another.

* `Limits` holds the numbers: sizes in bytes, times in seconds. The original's are named.
* A `Share` is a bounded amount (connections, look-ups, rendered bytes), with a bound for each app beside the bound
  for all; who has to wait is served app by app in turn, so that an app with many waiters delays only itself.
* A `Pace` is a bounded number of turns in a second, given in the same way.
* `Wakeups` wakes a bounded number of tasks in each turn of the loop.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import islice

import trio

_TICK_SECONDS = 0.05  # a few turns at a time wake the loop less often than one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number of the drains; the settings of the server fill it in."""

    batch_bytes: int = 102_400  # the original's number
    max_batch_bytes: int = 1024 * 1024  # target of a drain that is behind
    connect_seconds: float = 3.0  # the original's number; TLS included
    request_seconds: float = 30.0
    pause_seconds: float = 0.25  # from one HTTP request to the next that is not full; as long as log-shuttle waits
    idle_seconds: float = 144.0  # the original's number
    life_seconds: float = 5 * 3600.0  # the original's number
    backoff_seconds: float = 1.0
    max_backoff_seconds: float = 300.0
    retries_per_second: int = 50  # of all failing drains: as many as 7,500 make in the longest back-off
    redials_per_second: int = 100  # of drains that worked just before
    retries_at_once: int = 5  # a millisecond or two of work
    retries_at_once_per_app: int = 2
    answer_bytes: int = 64 * 1024  # protocol section 7
    look_ups: int = 64
    look_ups_per_app: int = 2
    look_up_seconds: float = 5.0
    look_up_cache_seconds: float = 60.0
    dials_in_a_turn: int = 32  # of the event loop: a few milliseconds of work
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
        return self.used + amount <= self.total and self._may(app, amount)

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

    def short(self) -> int:
        """How many apps wait only because others have all there is."""
        return sum(
            self.used + waiters[0][0] > self.total and self._may(app, waiters[0][0])
            for app, waiters in self._waiting.items()
        )

    def _may(self, app: int, amount: int) -> bool:
        held = self._apps.get(app, 0)
        return held == 0 or held + amount <= self.per_app

    def _add(self, app: int, amount: int) -> None:
        self.used += amount
        held = self._apps.get(app, 0) + amount
        if held:
            self._apps[app] = held
        else:
            self._apps.pop(app, None)

    def _serve(self) -> None:
        """One waiter of each app in turn, as long as one gets something."""
        while self.used < self.total:
            for app, waiters in self._waiting.items():
                if self.fits(app, waiters[0][0]):
                    break
            else:
                return
            waiter = waiters[0]
            self._forget(app, waiter)
            self._add(app, waiter[0])
            waiter[1].set()
            if app in self._waiting:
                self._waiting.move_to_end(app)

    def _forget(self, app: int, waiter: tuple[int, trio.Event]) -> None:
        queue = self._waiting[app]
        queue.remove(waiter)
        if not queue:
            del self._waiting[app]


class Pace:
    """A bounded number of turns in a second, shared fairly by apps; `run` is its one task.

    Turns that nobody took are saved up to `at_once`.
    """

    def __init__(self, per_second: float, at_once: int, per_app: int) -> None:
        self._places_a_tick = max(1, round(per_second * _TICK_SECONDS))
        self._seconds = self._places_a_tick / per_second
        self._places = Share(at_once, per_app)
        self._taken: deque[int] = deque()  # apps, in the order in which their places come back
        self._came = trio.Event()

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return self._places.waiting

    async def take(self, app: int) -> None:
        """Wait for a turn. Who is cancelled takes none."""
        await self._places.take(app, 1)
        self._taken.append(app)
        self._came.set()

    async def run(self) -> None:
        """Give the places back as time passes, until cancelled."""
        while True:
            if not self._taken:
                self._came = trio.Event()
                await self._came.wait()
            await trio.sleep(self._seconds)
            for _ in range(min(self._places_a_tick, len(self._taken))):
                self._places.give_back(self._taken.popleft(), 1)


class Wakeups:
    """Sets events, a few in each turn of the event loop: tasks that start by the thousand leave turns to the others.

    `run` is its one task.
    """

    def __init__(self, in_a_turn: int) -> None:
        self._in_a_turn = in_a_turn
        self._events: dict[trio.Event, None] = {}
        self._came = trio.Event()

    def add(self, event: trio.Event) -> None:
        """Set `event` soon; once, however often it is added until then."""
        self._events[event] = None
        self._came.set()

    async def run(self) -> None:
        """Set the events, first come, first served, until cancelled."""
        while True:
            await self._came.wait()
            while self._events:
                for event in list(islice(self._events, self._in_a_turn)):
                    del self._events[event]
                    event.set()
                await trio.lowlevel.checkpoint()
            self._came = trio.Event()
