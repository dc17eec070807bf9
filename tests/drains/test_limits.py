"""Shares: bounded in all and per app, and fair to who waits."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from drains.limits import Share


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
