"""Calls at given times: in order, in time, once, and with turns left to others."""

import trio
import trio.lowlevel
from trio.testing import MockClock

from drains.alarms import CALLS_IN_A_TURN, Alarms


async def test_alarms_call_in_their_order_never_too_early_and_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    alarms = Alarms()
    nursery.start_soon(alarms.run)
    called: list[tuple[float, float]] = []
    begin = trio.current_time()
    for after in (0.5, 0.1, 0.1, 3.0, 0.0, 0.5):
        alarms.add(begin + after, lambda at=after: called.append((at, trio.current_time() - begin)))  # type: ignore[misc]
    await trio.sleep(0.3)
    alarms.add(begin + 0.2, lambda: called.append((0.2, trio.current_time() - begin)))  # one that is due already
    await trio.sleep(10)
    assert [at for at, _ in called] == [0.0, 0.1, 0.1, 0.2, 0.5, 0.5, 3.0]
    assert all(at <= now <= at + 0.02 or at == 0.2 for at, now in called)
    alarms.add(trio.current_time(), lambda: called.append((11, 11)))
    await trio.sleep(1)
    assert called[-1] == (11, 11)


async def test_an_alarm_is_not_late_for_one_that_was_added_before(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    alarms = Alarms()
    nursery.start_soon(alarms.run)
    called: list[float] = []
    alarms.add(trio.current_time() + 60, lambda: called.append(60))
    await trio.sleep(1)
    alarms.add(trio.current_time() + 1, lambda: called.append(1))
    await trio.sleep(2)
    assert called == [1]


async def test_many_alarms_leave_turns_to_others(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    alarms = Alarms()
    nursery.start_soon(alarms.run)
    turns = [0]
    called: list[int] = []
    first = trio.Event()
    alarms.add(0.0, first.set)
    for _ in range(200):
        alarms.add(0.0, lambda: called.append(turns[0]))
    await first.wait()
    while len(called) < 200:
        await trio.lowlevel.checkpoint()
        turns[0] += 1
    assert max(called.count(turn) for turn in called) <= 3 * CALLS_IN_A_TURN  # before and after the wait
