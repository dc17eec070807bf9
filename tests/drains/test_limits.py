"""Shares and paces: bounded in all and per app, and fair to who waits."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from drains.limits import Pace, Share, Wakeups


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12), st.booleans()), max_size=60))
def test_a_share_is_never_exceeded_in_all_or_by_an_app(steps: list[tuple[int, int, bool]]) -> None:
    share = Share(20, 8)
    held: dict[int, list[int]] = {}
    for app, amount, give_back in steps:
        if give_back and held.get(app):
            share.give_back(app, held[app].pop())
        elif share.try_take(app, amount):
            held.setdefault(app, []).append(amount)
        assert share.used == sum(map(sum, held.values())) <= 20
        for amounts in held.values():
            assert sum(amounts) <= 8 or len(amounts) == 1


async def test_waiters_are_served_app_by_app() -> None:
    share = Share(2, 2)
    served: list[int] = []

    async def use(app: int) -> None:
        await share.take(app, 1)
        served.append(app)

    async with trio.open_nursery() as nursery:
        assert share.try_take(9, 2)
        for app in (1, 1, 1, 1, 2, 3):
            nursery.start_soon(use, app)
            await wait_all_tasks_blocked()
        assert share.waiting == 6
        for app in (9, 9):
            share.give_back(app, 1)
            await wait_all_tasks_blocked()
        assert sorted(served) == [1, 2]
        for app in (1, 2, 3, 1, 1, 1):
            await wait_all_tasks_blocked()
            share.give_back(app, 1)
    assert served[2] == 3
    assert share.used == 0
    assert share.waiting == 0


async def test_who_gives_up_waiting_takes_nothing_and_lets_others_pass() -> None:
    share = Share(1, 1)
    share.force(1, 1)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0):
            await share.take(2, 1)
        nursery.start_soon(share.take, 3, 1)
        await wait_all_tasks_blocked()
        share.give_back(1, 1)
    assert share.used == 1
    assert not share.fits(4, 1)
    share.give_back(3, 1)
    assert share.used == share.waiting == 0


async def test_a_waiter_that_is_served_while_it_is_cancelled_gives_it_back() -> None:
    share = Share(1, 1)
    share.force(1, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(share.take, 2, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        share.give_back(1, 1)
    assert share.used == 0


async def test_more_than_there_is_is_all_there_is() -> None:
    share = Share(10, 2)
    await share.take(1, 50)
    assert share.used == 10


async def test_turns_are_bounded_in_a_second_and_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    pace = Pace(100, 10, 2)
    nursery.start_soon(pace.run)
    taken: list[float] = []

    async def take(app: int) -> None:
        await pace.take(app)
        taken.append(trio.current_time())

    for _ in range(3):  # turns that nobody took are saved up, but no more than ten
        await trio.sleep(100)
        start = trio.current_time()
        taken.clear()
        async with trio.open_nursery() as takers:
            for app in range(500):
                takers.start_soon(take, app)
        assert sum(at == start for at in taken) == 10
        for at in taken:
            assert sum(at <= other < at + 1 for other in taken) <= 110
        assert 4.5 < taken[-1] - start < 5.5
        assert pace.waiting == 0


async def test_turns_are_given_app_by_app(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    pace = Pace(100, 10, 2)
    nursery.start_soon(pace.run)
    taken: list[int] = []

    async def take(app: int) -> None:
        await pace.take(app)
        taken.append(app)

    async with trio.open_nursery() as takers:
        for _ in range(100):
            takers.start_soon(take, 1)
        await wait_all_tasks_blocked()
        assert taken == [1, 1]
        for app in range(2, 8):
            takers.start_soon(take, app)
        await wait_all_tasks_blocked()
        assert sorted(taken) == [1, *range(1, 8)]
    assert taken.count(1) == 100


async def test_who_gives_up_waiting_for_a_turn_takes_none(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    pace = Pace(100, 1, 1)
    nursery.start_soon(pace.run)
    await pace.take(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pace.take(2)
    assert scope.cancelled_caught
    assert pace.waiting == 0
    await trio.sleep(1)
    with trio.fail_after(0):
        await pace.take(3)


async def test_serving_one_of_many_waiters_looks_at_few_of_them() -> None:
    share = Share(1, 1)
    share.force(0, 1)
    looked = [0]
    fits = share.fits

    def counted(app: int, amount: int) -> bool:
        looked[0] += 1
        return fits(app, amount)

    async with trio.open_nursery() as nursery:
        for app in range(1, 1001):
            nursery.start_soon(share.take, app, 1)
        await wait_all_tasks_blocked()
        share.fits = counted  # type: ignore[method-assign]
        for _ in range(1000):
            (holder,) = share._apps
            share.give_back(holder, 1)
            await wait_all_tasks_blocked()
        assert looked[0] == 1000


async def test_many_tasks_that_are_woken_together_leave_turns_to_others(nursery: trio.Nursery) -> None:
    wakeups = Wakeups(10)
    nursery.start_soon(wakeups.run)
    turns = [0]
    woken: list[int] = []

    async def count_turns() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            turns[0] += 1

    async def sleeper(event: trio.Event) -> None:
        await event.wait()
        woken.append(turns[0])

    for _ in range(2):
        woken.clear()
        async with trio.open_nursery() as sleepers:
            events = [trio.Event() for _ in range(100)]
            for event in events:
                sleepers.start_soon(sleeper, event)
            await wait_all_tasks_blocked()
            for event in events * 2:
                wakeups.add(event)
            with trio.CancelScope() as scope:
                sleepers.start_soon(_ends, scope, woken, 100)
                await count_turns()
        assert len(woken) == 100
        assert all(woken.count(turn) <= 20 for turn in woken)  # two batches may meet in a turn of the one who counts


async def _ends(scope: trio.CancelScope, seen: list[int], count: int) -> None:
    while len(seen) < count:
        await trio.lowlevel.checkpoint()
    scope.cancel()
