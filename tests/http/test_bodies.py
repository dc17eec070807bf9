import pytest
import trio
import trio.testing

from logplex.http.bodies import SHARE, WAIT_SECONDS, Bodies, Holding
from logplex.http.refusal import ClientGone


async def test_what_is_held_is_given_back() -> None:
    bodies = Bodies(1000)
    holding = bodies.hold("a")
    await holding.take(10)
    await holding.take(20)
    assert bodies.held == 30
    holding.release()
    holding.release()
    assert bodies.held == 0


async def test_one_principal_has_an_eighth_and_waits_beyond_it(autojump_clock: trio.testing.MockClock) -> None:
    bodies = Bodies(8000)
    first, second, other = bodies.hold("a"), bodies.hold("a"), bodies.hold("b")
    await first.take(600)
    await other.take(900)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.take, 600)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        first.release()
    assert bodies.held == 1500
    assert trio.current_time() == 0


async def test_all_together_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    bodies = Bodies(8000)
    holdings = [bodies.hold(name) for name in range(SHARE + 1)]
    for holding in holdings[:-1]:
        await holding.take(1000)
    with pytest.raises(ClientGone):
        await holdings[-1].take(1)
    assert trio.current_time() == WAIT_SECONDS


async def test_who_has_held_longest_always_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    bodies = Bodies(800)
    done: list[int] = []

    async def receive(number: int, holding: Holding) -> None:
        for _ in range(10):
            await holding.take(50)
        holding.release()
        done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(receive, number, bodies.hold("a"))
    assert sorted(done) == list(range(10))
    assert bodies.held == 0
    assert trio.current_time() == 0
