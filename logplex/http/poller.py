"""Waiting for many sockets with one registration each.

trio's own `wait_readable` changes the kernel's registration on every wait, and passes through several coroutines,
each of which an idle connection would keep. Here a socket is registered once, edge-triggered, and its task is woken
by `reschedule`, or does at once what needs no task; one task waits for all of them through trio.
"""

import select
from time import perf_counter
from typing import Protocol

import trio

EVENTS_AT_ONCE = 1024
SLICE_SECONDS = 0.002  # of what members do at once, before other tasks get their turn
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_ALL = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Pollable(Protocol):
    """What has a socket here."""

    def ready(self, events: int) -> None:
        """Something has changed; called once a change, so it is kept until a call on the socket would block."""


class Poller:
    """All sockets of a server; `run` is its task."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._members: dict[int, Pollable] = {}

    def add(self, descriptor: int, member: Pollable) -> None:
        """Have `member.ready` called from now on, at first for what is so already. Raises OSError."""
        self._epoll.register(descriptor, _ALL)
        self._members[descriptor] = member

    def remove(self, descriptor: int) -> None:
        """Forget a socket, just before it is closed (the kernel then forgets it too)."""
        self._members.pop(descriptor, None)

    async def run(self) -> None:
        """Wait and tell, until cancelled."""
        members, epoll = self._members, self._epoll
        descriptor = epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            until = perf_counter() + SLICE_SECONDS
            for ready, events in epoll.poll(0, EVENTS_AT_ONCE):
                if perf_counter() > until:
                    # A number may now be another socket's: told what is not so, that reads and finds nothing.
                    await trio.lowlevel.checkpoint()
                    until = perf_counter() + SLICE_SECONDS
                member = members.get(ready)
                if member is not None:
                    member.ready(events)

    def close(self) -> None:
        """After `run` and after the last `add`."""
        self._epoll.close()
