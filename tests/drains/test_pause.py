"""The pause before a request, against a naive model on a mock clock."""

from functools import partial
from types import SimpleNamespace
from typing import cast

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from drains.alarms import TICK_SECONDS, Alarms
from drains.pause import Pause
from drains.sizes import Sizes

SECONDS = 1.0
ENOUGH = 500

steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.0, 0.7)),
        st.tuples(st.just("come"), st.integers(1, 300)),
        st.tuples(st.just("request"), st.just(0)),
    ),
    max_size=40,
)


async def play(steps: list[tuple[str, float]]) -> None:
    """Bytes come; requests go out when they may, at once or at the pause's end, and now and then for other reasons."""
    alarms = Alarms()
    sizes = cast("Sizes", SimpleNamespace(enough=ENOUGH))
    requests: list[float] = []  # when each began
    waits: list[tuple[float, int]] = []  # what waits: since when, and how many

    def send() -> None:
        assert pause.gathered in (0, sum(size for _, size in waits))
        requests.append(trio.current_time())
        waits.clear()
        pause.begin()

    pause = Pause(sizes, alarms, SECONDS, send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        for step, value in [*steps, ("wait", 2 * SECONDS)]:
            if step == "wait":
                await trio.sleep(value)
                continue
            now = trio.current_time()
            if step == "request":
                send()
                continue
            waits.append((now, int(value)))
            last = requests[-1] if requests else -SECONDS
            waiting = sum(size for _, size in waits)
            if len(waits) == 1:
                held = pause.gather(int(value))
                assert held == (waiting < ENOUGH and now < last + SECONDS)
            else:
                held = not pause.add(int(value))
                assert held == (waiting < ENOUGH)
            if not held:
                send()
            for since, _ in waits:
                assert since < last + SECONDS
                assert now < last + SECONDS + TICK_SECONDS
        assert not waits
        assert pause.gathered == 0
        nursery.cancel_scope.cancel()


@given(steps)
def test_what_comes_soon_after_a_request_waits_until_it_is_enough_or_the_pause_is_over(
    steps: list[tuple[str, float]],
) -> None:
    trio.run(partial(play, steps), clock=MockClock(autojump_threshold=0))


async def test_one_alarm_is_set_however_many_requests_are_full(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    alarms = Alarms()
    ended: list[float] = []
    pause = Pause(
        cast("Sizes", SimpleNamespace(enough=ENOUGH)), alarms, SECONDS, lambda: ended.append(trio.current_time())
    )
    nursery.start_soon(alarms.run)
    begin = trio.current_time()
    for _ in range(8):
        pause.begin()
        assert pause.gather(300)
        assert pause.add(300)
        await trio.sleep(0.1)
    assert len(alarms._calls) == 1
    pause.begin()
    assert pause.gather(300)
    await trio.sleep(2)
    assert len(ended) == 1
    assert begin + 0.8 + SECONDS <= ended[0] <= begin + 0.8 + SECONDS + 2 * TICK_SECONDS


async def test_nothing_waits_once_the_pause_is_skipped(autojump_clock: MockClock) -> None:
    pause = Pause(cast("Sizes", SimpleNamespace(enough=ENOUGH)), Alarms(), SECONDS, lambda: None)
    pause.begin()
    assert pause.holds(1, pause.ends)
    pause.skip()
    assert not pause.holds(1, pause.ends)
    assert not pause.gather(1)
