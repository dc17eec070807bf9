"""How long groups fill: what filling.py says, at its corners and for any load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.filling import BUSY_LIMIT, QUICK_SECONDS, Filling

RULE = Filling(group_seconds=0.02, busy_bytes=1000)


@pytest.mark.parametrize(
    ("channels", "size", "busy", "seconds"),
    [
        (1, 10, False, QUICK_SECONDS),
        (50, 10, False, 0.01),
        (5000, 10, False, 0.02),
        (1, 10, True, QUICK_SECONDS),
        (50, 10, True, 0.04),
        (500, 10, True, 0.4),
        (5000, 999, True, 0.5),
        (5000, 1000, True, 0.0),
        (5000, 1000, False, 0.02),
    ],
)
def test_many_channels_wait_for_longer_most_of_all_at_full_load(
    channels: int, size: int, busy: bool, seconds: float
) -> None:
    assert RULE.seconds(channels, size, busy=busy) == pytest.approx(seconds)


@given(st.integers(1, 100_000), st.integers(0, 2000), st.booleans(), st.floats(0.001, 1))
def test_no_group_waits_beyond_the_limit_nor_for_less_with_more_channels(
    channels: int, size: int, busy: bool, group_seconds: float
) -> None:
    rule = Filling(group_seconds, busy_bytes=1000)
    seconds = rule.seconds(channels, size, busy=busy)
    assert 0 <= seconds <= group_seconds * (BUSY_LIMIT if busy else 1)
    assert seconds <= rule.seconds(channels + 1, size, busy=busy)
