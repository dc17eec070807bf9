"""How long groups fill: what filling.py says, at its corners and for any load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.filling import BUSY_LIMIT, ENOUGH_IDLE, LITTLE_IDLE, QUICK_SECONDS, Filling

SHARES = st.floats(0, 1)


def rule(*idle: float) -> Filling:
    made = Filling(0.02, busy_bytes=1000)
    for share in idle:
        made.adapt(share)
    return made


@pytest.mark.parametrize(
    ("channels", "size", "busy", "seconds"),
    [
        (1, 10, 0, QUICK_SECONDS),
        (50, 10, 0, 0.01),
        (5000, 10, 0, 0.02),
        (5000, 1000, 0, 0.02),
        (1, 10, 9, QUICK_SECONDS),
        (50, 10, 1, 0.02),
        (50, 10, 9, 0.04),
        (500, 10, 2, 0.08),
        (500, 10, 9, 0.4),
        (5000, 999, 9, 0.5),
        (5000, 1000, 1, 0.0),
    ],
)
def test_many_channels_wait_for_longer_most_of_all_where_the_loop_never_sleeps(
    channels: int, size: int, busy: int, seconds: float
) -> None:
    assert rule(*[0.0] * busy).seconds(channels, size) == pytest.approx(seconds)


def test_groups_are_as_usual_again_as_soon_as_the_loop_has_slept_enough_for_a_few_of_them() -> None:
    filling = rule(*[0.0] * 100)
    for _ in range(5):
        filling.adapt(0.5)
    assert filling.seconds(5000, 10) == 0.02


def test_in_between_they_stay_as_they_are() -> None:
    filling = rule(0.0, *[(LITTLE_IDLE + ENOUGH_IDLE) / 2] * 100)
    assert filling.seconds(5000, 10) == 0.04


@given(st.lists(SHARES), SHARES, st.integers(1, 100_000), st.integers(0, 2000), st.floats(0.001, 1))
def test_no_group_waits_beyond_the_limit_nor_for_less_with_more_channels(
    before: list[float], idle: float, channels: int, size: int, group_seconds: float
) -> None:
    filling = Filling(group_seconds, busy_bytes=1000)
    for share in before:
        filling.adapt(share)
    seconds = filling.seconds(channels, size)
    assert 0 <= seconds <= group_seconds * BUSY_LIMIT
    assert seconds <= filling.seconds(channels + 1, size)
    filling.adapt(idle)
    if idle > ENOUGH_IDLE and seconds:
        assert filling.seconds(channels, size) <= seconds
    elif idle < LITTLE_IDLE and size < 1000:
        assert filling.seconds(channels, size) >= seconds
