"""Links and how they are watched, over real sockets."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from drains.alarms import Alarms
from drains.link import SocketLink, Watch

from ..polling import polling


class Called:
    """A link that counts how often there was something to read, and tells when."""

    def __init__(self, watch: Watch) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.link = SocketLink(ours, watch)
        self.link.on_readable = self.called
        self.times = 0
        self.event = trio.Event()

    def called(self) -> None:
        self.times += 1
        self.event.set()
        self.event = trio.Event()

    async def until(self, times: int) -> None:
        with trio.fail_after(5):
            while self.times < times:
                await self.event.wait()

    def close(self) -> None:
        self.link.close()
        self.peer.close()


@asynccontextmanager
async def polled(count: int) -> AsyncIterator[list[Called]]:
    async with polling() as poller, trio.open_nursery() as nursery:
        watch = Watch(poller, Alarms())
        links = [Called(watch) for _ in range(count)]
        nursery.start_soon(watch.alarms.run)
        yield links
        nursery.cancel_scope.cancel()
        for link in links:
            link.close()


async def test_a_link_that_rests_is_looked_at_again_later() -> None:
    async with polled(1) as (one,):
        real = one.called

        def called() -> None:  # does not read, so that there is always something to read
            if one.times < 5:
                one.link.rest(0.01)
            else:
                one.link.pause()
            real()

        one.link.on_readable = called
        one.link.watch()
        one.peer.send(b"x")
        start = trio.current_time()
        await one.until(6)
        assert trio.current_time() - start >= 0.05
        assert one.link.recv() == b"x"


@pytest.mark.parametrize("end", ["pause", "close"])
async def test_a_link_that_is_no_longer_wanted_does_not_come_back_from_its_rest(end: str) -> None:
    async with polled(2) as (one, other):
        one.link.on_readable = lambda: (one.called(), one.link.rest(0.01))[0]  # type: ignore[func-returns-value]
        other.link.on_readable = lambda: (other.called(), other.link.rest(0.03))[0]  # type: ignore[func-returns-value]
        for called in (one, other):
            called.link.watch()
            called.peer.send(b"x")
        await one.until(1)
        getattr(one.link, end)()
        seen = one.times
        await other.until(other.times + 2)
        assert one.times == seen


async def test_a_link_that_is_watched_again_in_its_rest_is_looked_at_at_once() -> None:
    async with polled(1) as (one,):
        one.link.on_readable = lambda: (one.called(), one.link.rest(3600))[0]  # type: ignore[func-returns-value]
        one.link.watch()
        one.peer.send(b"x")
        for times in (1, 2, 3):
            await one.until(times)
            one.link.watch()
