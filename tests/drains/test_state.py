"""A drain's page of the ledger, against a naive model: one word for each position."""

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drains.state import DrainState, Untold


class Pages(RuleBasedStateMachine):
    """What happened to each position of a channel, and what the state says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = DrainState(1, 2, "a" * 16, 5)
        self.fates: list[str] = []
        self.head = 5
        self.untold = 0

    @rule(count=st.integers(0, 20))
    def write(self, count: int) -> None:
        self.head += count

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.head - self.state.cursor))
        filtered = data.draw(st.integers(0, count))
        refused = data.draw(st.integers(0, count - filtered))
        self.state.deliver(self.state.cursor + count, filtered=filtered, refused=refused)
        self.fates += ["filtered"] * filtered + ["permanent"] * refused
        self.fates += ["delivered"] * (count - filtered - refused)

    @rule(count=st.integers(0, 20))
    def reject(self, count: int) -> None:
        """The receiver throws away what it took."""
        delivered = [number for number, fate in enumerate(self.fates) if fate == "delivered"][:count]
        assert self.state.reject(count) == len(delivered)
        for number in delivered:
            self.fates[number] = "permanent"

    @rule(data=st.data())
    def overrun(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.head - self.state.cursor))
        self.state.overrun(count, 1000)
        self.fates += ["overrun"] * count
        self.untold += count

    @rule()
    def tell(self) -> None:
        if self.state.untold is not None:
            self.state.told(self.state.untold)
            self.untold = 0

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        end = data.draw(st.integers(self.state.cursor, self.head))
        if end > self.state.cursor:
            self.state.cut = (self.state.cursor, end)

    @rule()
    def restart(self) -> None:
        self.state = DrainState.from_row(msgpack.unpackb(msgpack.packb(self.state.to_row())))

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The channel comes back with less than it had."""
        head = data.draw(st.integers(5, self.head))
        self.state.leave_epoch(head)
        self.head = max(head, self.state.cursor)

    @invariant()
    def balances(self) -> None:
        state = self.state
        assert state.balances()
        assert state.delivered == self.fates.count("delivered")
        assert state.filtered == self.fates.count("filtered")
        assert state.lost.get("overrun", 0) == self.fates.count("overrun")
        assert state.lost.get("permanent", 0) == self.fates.count("permanent")
        lost = sum(state.lost.values())
        assert self.head - state.start == state.delivered + state.filtered + lost + state.pending(self.head)
        assert (state.untold.lines if state.untold else 0) == self.untold
        assert state.cut is None or state.cut[0] >= state.cursor


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_row_round_trips_through_msgpack() -> None:
    state = DrainState(1, 2, "0" * 16, 10)
    state.deliver(20, filtered=3, size=700)
    state.overrun(5, 99)
    state.cut = (25, 30)
    state.retried, state.replayed, state.max_bytes, state.delivered_at, state.succeeded_at = 1, 2, 3, 4, 5
    again = DrainState.from_row(msgpack.unpackb(msgpack.packb(state.to_row())))
    assert again.to_row() == state.to_row()
    assert again.untold == Untold(5, 99, 99)
    assert again.cut == (25, 30)


def test_what_is_lost_while_a_loss_is_told_is_told_next() -> None:
    state = DrainState(1, 2, "0" * 16, 0)
    state.delivered_at = 50
    state.overrun(3, 100)
    telling = state.untold
    assert telling == Untold(3, 50, 100)
    state.overrun(4, 200)
    state.told(telling)
    assert state.untold == Untold(4, 50, 100)


def test_impossible_counts_are_refused() -> None:
    state = DrainState(1, 2, "0" * 16, 0)
    for end, filtered in ((-1, 0), (1, 2), (1, -1)):
        with pytest.raises(ValueError, match="filtered"):
            state.deliver(end, filtered=filtered)
    with pytest.raises(ValueError, match="lost"):
        state.lose(-1, "overrun")
