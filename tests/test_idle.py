"""How much the loop sleeps, with a clock of ours and with trio's own loop."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logplex.idle import LEAST_SECONDS, Idle, sleeps


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sleep(idle: Idle, clock: Clock, seconds: float, *, timeout: float = 60.0) -> None:
    idle.before_io_wait(timeout)
    clock.now += seconds
    idle.after_io_wait(timeout)


def test_the_share_is_of_the_time_since_the_last_answer() -> None:
    clock = Clock()
    idle = Idle(clock)
    sleep(idle, clock, 1)
    clock.now += 3
    assert idle.share() == 0.25
    clock.now += 1
    assert idle.share() == 0.0
    sleep(idle, clock, 1)
    assert idle.share() == 1.0


def test_a_look_at_the_sockets_is_no_sleep() -> None:
    clock = Clock()
    idle = Idle(clock)
    sleep(idle, clock, 1)
    sleep(idle, clock, 3, timeout=0.0)
    assert idle.share() == 0.25


def test_looking_for_something_to_do_is_as_good_as_sleep() -> None:
    clock = Clock()
    idle = Idle(clock)
    clock.now += 4
    idle.rested(1)
    assert idle.share() == 0.25


def test_a_moment_says_nothing_and_is_part_of_the_next_answer() -> None:
    clock = Clock()
    idle = Idle(clock)
    sleep(idle, clock, LEAST_SECONDS / 2)
    assert idle.share() is None
    clock.now += 3 * LEAST_SECONDS / 2
    assert idle.share() == pytest.approx(0.25)


async def test_a_loop_that_always_has_something_to_do_never_sleeps() -> None:
    with sleeps() as idle:
        await wait_all_tasks_blocked()
        await trio.sleep(2 * LEAST_SECONDS)
        share = idle.share()
        assert share is not None
        assert share > 0
        while (share := idle.share()) is None:
            await trio.lowlevel.checkpoint()
        assert share == 0
