"""What many bad drains may take of what all share: time, memory, connections. In memory, on a mock clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drains.deliveries import Deliveries
from drains.limits import Limits
from drains.link import Buffer
from drains.rendered import STALLED_SECONDS, Rendered
from drains.spec import DrainSpec
from drains.status import Failure, State

from .memory import MemoryLink, TightLink
from .world import OK, TOKEN, World, running

IN_A_SECOND = Limits().retries_per_second + Limits().retries_at_once


class GoodLink(MemoryLink):
    """A receiver that takes every request at once."""

    def send(self, data: Buffer) -> int:
        trio.lowlevel.current_trio_token().run_sync_soon(self.answer, OK)
        return super().send(data)


class Street:
    """Drains of many apps; the host of the URL says who lives there."""

    def __init__(self, deliveries: Deliveries, told: list[tuple[int, bytes, bool]]) -> None:
        self.deliveries = deliveries
        self.told = told  # in all apps
        self.worlds: dict[int, World] = {}
        self.links: dict[int, list[MemoryLink]] = {}
        self.dialled: list[tuple[float, int]] = []
        self.refuses = True
        deliveries._site.dial = self.dial

    async def dial(self, spec: DrainSpec, app: int) -> MemoryLink:
        await trio.lowlevel.checkpoint()
        self.dialled.append((trio.current_time(), spec.id))
        kinds: dict[str, type[MemoryLink]] = {"tight.example": TightLink, "hangs.example": MemoryLink}
        if spec.url.host == "refuses.example" and self.refuses:
            raise Failure("refused", "connection refused")
        link = kinds.get(spec.url.host, GoodLink)()
        self.links.setdefault(spec.id, []).append(link)
        return link

    def add(self, number: int, host: str, *, app: int = 0, scheme: str = "http") -> None:
        """Drain `number`; each of an app of its own, if nothing else is said."""
        world = self.worlds.setdefault(app or number, World(channel_id=app or number))
        spec = DrainSpec.parse(number, TOKEN, f"{scheme}://{host}/" if scheme == "http" else f"{scheme}://{host}", {})
        self.deliveries.add(spec, world.channel, None)

    def write(self, number: int, text: bytes = b"x") -> None:
        self.worlds[number].write(text)

    def status(self, number: int) -> Any:
        return self.deliveries.status(number)


@asynccontextmanager
async def street_of(**limits: Any) -> AsyncIterator[Street]:
    world = World()
    async with running(world, limits=Limits(**limits)) as deliveries:
        yield Street(deliveries, world.told)


async def test_drains_that_wake_together_do_not_dial_in_one_turn_of_the_loop(autojump_clock: MockClock) -> None:
    async with street_of() as street:
        for number in range(1, 501):
            street.add(number, "good.example")
        await wait_all_tasks_blocked()
        turns = 0
        dialled: list[int] = []
        dial = street.dial

        async def counted(spec: DrainSpec, app: int) -> MemoryLink:
            dialled.append(turns)
            return await dial(spec, app)

        street.deliveries._site.dial = counted
        for number in range(1, 501):
            street.write(number)
        while len(dialled) < 500:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns > 10
        assert max(dialled.count(turn) for turn in dialled) <= 2 * Limits().dials_in_a_turn
        await trio.sleep(1)
        assert all(street.status(number).pending == 0 for number in range(1, 501))


async def test_however_many_drains_fail_at_once_few_are_tried_again_in_a_second(autojump_clock: MockClock) -> None:
    async with street_of() as street:
        for number in range(1, 1001):
            street.add(number, "refuses.example")
            street.write(number)
        await trio.sleep(0.01)
        assert len(street.dialled) == 1000  # the first try needs no turn
        street.dialled.clear()
        street.add(2000, "good.example")
        for second in range(90):
            street.write(2000)
            await wait_all_tasks_blocked()
            assert street.status(2000).pending == 0
            await trio.sleep(1)
            assert sum(second <= at - street.dialled[0][0] < second + 1 for at, _ in street.dialled) <= IN_A_SECOND
        retried = [number for _, number in street.dialled if number != 2000]
        assert len(retried) > 1000
        assert len(set(retried)) > 900  # all come by turns


async def test_connections_that_break_together_are_dialled_again_by_turns(autojump_clock: MockClock) -> None:
    async with street_of() as street:
        for number in range(1, 301):
            street.add(number, "refuses.example", scheme="syslog")
        street.refuses = False
        for number in range(1, 301):
            street.write(number)
        await trio.sleep(5)
        assert all(street.status(number).pending == 0 for number in range(1, 301))
        street.dialled.clear()
        for number in range(1, 301):
            street.worlds[number].write(b"on its way")
            street.links[number][0].held = 1000  # not acknowledged
        for number in range(1, 301):
            street.links[number][0].answer(b"")
        await wait_all_tasks_blocked()
        assert len(street.dialled) == Limits().retries_at_once
        await trio.sleep(1)
        assert 80 < len(street.dialled) < 120
        await trio.sleep(3)
        assert len(street.dialled) == 300
        assert all(street.status(number).pending == 0 for number in range(1, 301))


async def test_a_drain_that_worked_does_not_wait_behind_those_that_never_did(autojump_clock: MockClock) -> None:
    async with street_of() as street:
        street.add(2000, "good.example", scheme="syslog")
        street.write(2000)
        for number in range(1, 1001):
            street.add(number, "refuses.example")
            street.write(number)
        await trio.sleep(5)
        assert street.deliveries._site.retries.waiting > 500
        for _ in range(10):
            assert street.status(2000).pending == 0
            street.write(2000)
            link = street.links[2000][-1]
            link.held = 1000  # nothing of it is acknowledged
            link.answer(b"")  # and the connection ends
            await trio.sleep(0.1)
            assert street.links[2000][-1] is not link
            await trio.sleep(2)
        assert street.deliveries._site.retries.waiting > 500


async def test_a_failure_is_told_by_turns_and_shown_at_once(autojump_clock: MockClock) -> None:
    async with street_of() as street:
        for number in range(1, 501):
            street.add(number, "refuses.example")
            street.write(number)
        await trio.sleep(0.01)
        assert {street.status(number).state for number in range(1, 501)} == {State.BACKING_OFF}
        assert all(street.status(number).error.kind == "refused" for number in range(1, 501))
        assert len(street.told) == Limits().retries_at_once
        await trio.sleep(1)
        assert len(street.told) <= IN_A_SECOND
        await trio.sleep(60)
        assert len(street.told) == 500


async def test_requests_that_began_together_do_not_time_out_together(autojump_clock: MockClock) -> None:
    async with street_of() as street:
        for number in range(1, 301):
            street.add(number, "hangs.example")
            street.write(number)
        ended: list[int] = []
        for _ in range(31):
            await trio.sleep(1)
            ended.append(sum(street.status(number).retried for number in range(1, 301)))
        assert ended[26] == 0
        assert ended[30] == 300
        steps = [later - earlier for earlier, later in pairwise(ended)]
        assert max(steps) < 200


def test_room_is_made_by_those_whose_kernels_took_nothing_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(trio, "current_time", lambda: now[0])
    rendered = Rendered(1000, 1000)
    gave: list[str] = []

    class Holder:
        def __init__(self, name: str, app: int, amount: int) -> None:
            self.name, self.app, self.amount = name, app, amount
            rendered.force(app, amount)
            rendered.hold(self)

        def give_up_rendered(self) -> None:
            gave.append(self.name)
            rendered.give_back(self.app, self.amount)

    first = Holder("first", 1, 200)
    for number in range(2, 5):
        Holder(str(number), number, 200)
    now[0] = 0.5
    rendered.hold(first)  # its kernel took some
    Holder("young", 9, 75)
    now[0] = STALLED_SECONDS + 0.1
    rendered.make_room()
    assert gave == []  # there is room
    rendered.force(10, 1)
    rendered.make_room()
    assert gave == ["2"]  # three quarters are left
    rendered.force(11, 900)
    rendered.make_room()
    assert gave == ["2", "3", "4"]  # nobody else waits for a second
    now[0] = 10.0
    rendered.let_go(first)
    rendered.make_room()
    assert gave == ["2", "3", "4", "young"]
    assert rendered.used == 1101


@pytest.mark.parametrize("scheme", ["http", "syslog"])
async def test_receivers_that_take_nothing_do_not_keep_others_from_sending(
    scheme: str, autojump_clock: MockClock
) -> None:
    async with street_of(batch_bytes=10_000, rendered_bytes=100_000, rendered_share=4, pause_seconds=0) as street:
        for number in range(1, 31):
            street.add(number, "tight.example", scheme=scheme)
        street.add(100, "good.example")
        street.write(100)
        await trio.sleep(1)
        assert street.status(100).pending == 0
        for number in range(1, 31):
            street.write(number, b"x" * 9000)
        most = 0
        for _ in range(600):
            await trio.sleep(0.1)
            used = street.deliveries._site.rendered.used
            assert used <= 100_000
            most = max(most, used)
            if not street.status(100).pending:
                street.write(100)
            written = street.worlds[100].channel.head
        assert most > 90_000  # it was short of memory
        assert written > 550  # a line each time, but for the first second
        for number in range(1, 31):
            assert street.status(number).pending == 1
            for link in street.links[number]:
                if isinstance(link, TightLink):
                    link.take(1_000_000)
        # What was given up is rendered again.
        for _ in range(400):
            await trio.sleep(1)
            for number in range(1, 31):
                link = street.links[number][-1]
                if isinstance(link, TightLink) and not link.closed and not link.room:
                    link.take(1_000_000)
                if scheme == "http" and street.status(number).pending and link.sent and not link.closed:
                    link.answer(OK)
        assert all(street.status(number).pending == 0 for number in range(1, 31))
        assert street.deliveries._site.rendered.used == 0


async def test_an_app_has_its_share_of_the_memory(autojump_clock: MockClock) -> None:
    async with street_of(batch_bytes=10_000, rendered_bytes=100_000, rendered_share=4) as street:
        for number in range(1, 7):
            street.add(number, "tight.example", app=50)
        street.add(100, "good.example")
        street.write(50, b"x" * 9000)
        for _ in range(20):
            await trio.sleep(1)
            assert street.deliveries._site.rendered.used <= 25_000
            street.write(100)
            await trio.sleep(0.01)
            assert street.status(100).pending == 0
        assert street.deliveries._site.rendered.used > 15_000


async def test_an_app_has_its_share_of_connections_and_idle_ones_make_room_for_others(
    autojump_clock: MockClock,
) -> None:
    async with street_of(connections=3, connections_per_app=2) as street:
        for number in (1, 2, 3):
            street.add(number, "hangs.example", app=50)
        street.write(50)
        await trio.sleep(1)
        assert len(street.links) == 2  # of three drains of one app
        for number in (10, 11, 12):
            street.add(number, "good.example")
            street.write(number)
        await trio.sleep(1)
        assert [street.status(number).pending for number in (10, 11, 12)] == [0, 0, 0]  # in turns
        assert street.deliveries._site.connections.used == 3
        for number in (10, 11, 12, 10):
            street.write(number)
            await trio.sleep(1)
            assert street.status(number).pending == 0
        assert street.links.keys() - {10, 11, 12} < {1, 2, 3}


async def test_who_waits_for_a_connection_gets_one_that_becomes_idle_later(autojump_clock: MockClock) -> None:
    async with street_of(connections=1, connections_per_app=1) as street:
        street.add(1, "hangs.example")
        street.write(1)
        await trio.sleep(1)
        street.add(2, "good.example")
        street.write(2)
        await trio.sleep(5)
        assert street.status(2).state is State.CONNECTING
        street.links[1][0].answer(OK)  # idle from now on, for two minutes
        await trio.sleep(1)
        assert street.status(2).pending == 0
        assert street.links[1][0].closed
