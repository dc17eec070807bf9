"""Back-off, against what the words say."""

from hypothesis import given
from hypothesis import strategies as st

from drains.backoff import MAX_RETRY_AFTER_SECONDS, MIN_SECONDS, Backoff, retry_after, spread


@given(st.lists(st.one_of(st.none(), st.floats(0, 10_000)), max_size=60), st.floats(0, 1))
def test_waits_are_drawn_from_nothing_to_a_doubling_ceiling(asked: list[float | None], drawn: float) -> None:
    ceilings: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0
        ceilings.append(high)
        return high * drawn

    backoff = Backoff(1.0, 300.0, uniform=uniform)
    for number, wanted in enumerate(asked):
        wait = backoff.failed(wanted)
        ceiling = min(300.0, 2.0**number)
        assert ceilings[-1] == ceiling
        least = max(MIN_SECONDS, ceiling * drawn)
        assert wait == (least if wanted is None else max(least, min(wanted, MAX_RETRY_AFTER_SECONDS)))
    backoff.succeeded()
    assert backoff.failed() <= max(1.0, MIN_SECONDS)


def test_a_wait_is_never_shorter_than_100_ms() -> None:
    assert Backoff(uniform=lambda low, high: 0.0).failed() == 0.1


def test_a_time_out_that_is_spread_is_at_most_what_was_given_and_at_least_nine_tenths_of_it() -> None:
    assert spread(30.0, uniform=lambda low, high: low) == 27.0
    assert spread(30.0, uniform=lambda low, high: high) == 30.0
    assert len({spread(30.0) for _ in range(100)}) > 50


def test_retry_after_is_seconds_or_a_date() -> None:
    now = 1_770_000_000.0
    assert retry_after(b"120", now) == 120
    assert retry_after(b" 0 ", now) == 0
    assert retry_after(b"99999999999999999999", now) == 999999999
    assert retry_after(b"Mon, 02 Feb 2026 02:41:00 GMT", now) == 60
    assert retry_after(b"Mon, 02 Feb 2026 02:39:00 GMT", now) == 0
    for nonsense in (b"", b"-1", b"soon", b"\xff\xfe", b"1.5", b"Mon, 99 Feb 2026"):
        assert retry_after(nonsense, now) is None
