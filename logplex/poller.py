"""One task for the sockets of many connections, and for calls into the loop that cost no switch of tasks.

trio's own `wait_readable` changes the kernel's registration on every wait, and each wait and each wake-up passes
through several coroutines. Here a socket is registered once and is told what has happened to it; one task waits for
all of them through trio, and only when there is nothing to do.

Rules (tests/test_poller.py):

* A *turn*: everything that is ready is told so, then everything is called that was asked for by `call_soon`, also in
  this turn. Turns follow each other as long as something happens; every `SLICE_SECONDS` all other tasks have theirs.
* Where the kernel takes longer to wake a task than a line takes here, `busy_seconds` of looking for something to do
  come before each sleep (HAProxy's `busy-polling`). They are told as rest, and other tasks have their turns meanwhile.
* `call_soon` is for any thread. What it was given is called once, in order, in trio's thread, and before the task
  waits: a bell is rung only where it waits already.
* What is told or called must neither wait nor raise; what it raises ends `run`, and with it the server.
"""

import os
import select
from collections import deque
from collections.abc import Callable
from time import perf_counter

import trio

EVENTS_AT_ONCE = 256
SLICE_SECONDS = 0.001
LOOK_SECONDS = 0.00005  # looking for something to do: so short that it hardly holds up other tasks
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
"""Told once a change, so it is kept until a call on the socket would block."""
INPUT = select.EPOLLIN | select.EPOLLRDHUP
"""Told as long as there is something to read, or an end."""

Told = Callable[[int], object]
"""Called with what has happened to a socket, as in epoll_ctl(2)."""
CallSoon = Callable[[Callable[[], object]], None]
"""Has something called in trio's thread, for any thread, in order: `Poller.call_soon`, or what trio has for it."""


class Poller:
    """Sockets and calls of one server; `run` is its task, and `close` follows it."""

    def __init__(self, *, busy_seconds: float = 0.0, rested: Callable[[float], object] = lambda seconds: None) -> None:
        self._busy_seconds = busy_seconds
        self._rested = rested
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)  # never read: each ring is a change
        self._told: dict[int, Told] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._trio_soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._wake: Callable[[], object] | None = self._wake_trio  # None: the task is at work, and looks itself

    def add(self, descriptor: int, told: Told, events: int = EDGES) -> None:
        """Have `told` called from now on, at first for what is so already. Raises OSError."""
        self._epoll.register(descriptor, events)
        self._told[descriptor] = told

    def watch(self, descriptor: int, told: Told) -> None:
        """Have `told` called as long as there is something to read, or an end; nothing where that is so already."""
        if descriptor not in self._told:
            self.add(descriptor, told, INPUT)

    def remove(self, descriptor: int) -> None:
        """Forget a socket before it is closed; also one that is not watched."""
        if self._told.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Have `fn` called in trio's thread, at the end of the turn that is under way; for any thread.

        Raises trio.RunFinishedError.
        """
        self._calls.append(fn)
        wake = self._wake
        if wake is not None:
            wake()

    def _wake_trio(self) -> None:
        self._trio_soon(self._call)

    def _ring(self) -> None:
        self._wake = None
        os.eventfd_write(self._bell, 1)

    def _call(self) -> None:
        """Call what is there, and what is asked for meanwhile."""
        calls = self._calls
        while calls:
            calls.popleft()()

    async def run(self) -> None:
        """Tell and call, until cancelled; then trio is asked for each call."""
        self._wake = None
        try:
            await self._turn_forever()
        finally:
            self._wake = self._wake_trio
            if self._calls:
                self._wake_trio()

    async def _turn_forever(self) -> None:
        epoll, told, calls = self._epoll, self._told, self._calls
        until = perf_counter() + SLICE_SECONDS
        while True:
            ready = epoll.poll(0, EVENTS_AT_ONCE)
            if self._busy_seconds and not ready and not calls:
                ready = await self._look()
                until = perf_counter() + SLICE_SECONDS
            for descriptor, events in ready:
                if perf_counter() > until:
                    # A number may now be another socket's: told what is not so, that reads and finds nothing.
                    await trio.lowlevel.checkpoint()
                    until = perf_counter() + SLICE_SECONDS
                tell = told.get(descriptor)
                if tell is not None:
                    tell(events)
            if ready or calls:
                self._call()
                if perf_counter() > until:
                    await trio.lowlevel.checkpoint()
                    until = perf_counter() + SLICE_SECONDS
                continue
            self._wake = self._ring
            if not calls:
                await trio.lowlevel.wait_readable(epoll.fileno())
                until = perf_counter() + SLICE_SECONDS
            self._wake = None

    async def _look(self) -> list[tuple[int, int]]:
        """What is ready within `busy_seconds`, without sleeping; nothing where that is over or a call came first."""
        epoll, calls = self._epoll, self._calls
        end = perf_counter() + self._busy_seconds
        while (since := perf_counter()) < end:
            ready: list[tuple[int, int]] = []
            now = since
            while now - since < LOOK_SECONDS and not ready and not calls:
                ready = epoll.poll(0, EVENTS_AT_ONCE)
                now = perf_counter()
            self._rested(now - since)
            if ready or calls:
                return ready
            await trio.lowlevel.checkpoint()
        return []

    def close(self) -> None:
        """After `run`."""
        self._epoll.close()
        os.close(self._bell)
