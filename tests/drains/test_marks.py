"""Marks of a syslog connection, against a naive model: which frames a number of bytes covers."""

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drains import marks as module
from drains.delivery import Delivery
from drains.marks import Marks, frame_ends
from drains.state import DrainState, Untold


class Held:
    """A batch of frames, as far as marks look at one."""

    def __init__(self, first: int, frames: list[bytes]) -> None:
        self.first = first
        self.frames = frames

    def cut(self, begin: int, end: int) -> "Held":
        return Held(begin, self.frames[begin - self.first : end - self.first])

    def syslog(self, token: bytes) -> bytes:
        return b"".join(self.frames)


class Road:
    """A delivery as marks see it."""

    def __init__(self) -> None:
        self.state = DrainState(1, 2, "a" * 16, 0)
        self.sent = 0
        self.told_of: list[int] = []
        self.held: list[Held] = []
        self.site = SimpleNamespace(now_ms=lambda: 1000, dirty=set())
        self.health = SimpleNamespace(lost=lambda count, reason: self.told_of.append(count))
        self.channel = SimpleNamespace(recent=lambda position, size: self.held)

    def reach_epoch(self) -> None:
        """There is one only."""


def made() -> tuple[Road, Marks]:
    road = Road()
    return road, Marks(cast("Delivery", road))


def frame(number: int) -> bytes:
    text = b"x" * (number * 7 % 23 + 1)
    return b"%d %b" % (len(text), text)


sends = st.lists(
    st.one_of(
        st.tuples(st.just("frames"), st.integers(1, 5), st.integers(0, 3)),
        st.tuples(st.just("lost"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("tell"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(sends, st.lists(st.floats(0, 1), max_size=10), st.booleans())
def test_the_cursor_stands_behind_what_has_arrived_and_the_page_balances(
    sends: list[tuple[str, int, int]], looks: list[float], thin: bool
) -> None:
    road, marks = made()
    at: list[tuple[int, int]] = []  # bytes, and where the cursor stands once they have arrived
    totals: dict[str, int] = {"frames": 0, "filtered": 0, "lost": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST", 2 if thin else 1000)
        for kind, count, filtered in sends:
            if kind == "frames":
                road.sent += count + filtered
                marks.add(10 * count, road.sent, filtered, 5)
                totals["frames"] += count
                totals["filtered"] += filtered
            elif kind == "lost":
                road.sent += count
                marks.lose(count, road.sent)
                totals["lost"] += count
            else:
                marks.tell(7, road.sent, Untold(1, 0, 0))
            at.append((marks.bytes, road.sent))
            marks.thin_out()
            assert len(marks.waiting) <= 2 + 2 * sum(1 for kind, _, _ in sends if kind != "frames") or not thin
        arrived = 0
        for look in sorted(looks):
            arrived = int(look * marks.bytes)
            marks.settle(arrived)
            reached = max((end for size, end in at if size <= arrived), default=0)
            assert road.state.cursor == reached if not thin else road.state.cursor <= reached
        marks.settle(marks.bytes)
    state = road.state
    assert state.cursor == road.sent
    assert not marks.waiting
    assert (state.delivered, state.filtered) == (totals["frames"], totals["filtered"])
    assert state.lost.get("overrun", 0) == totals["lost"] == sum(road.told_of)


@given(st.integers(1, 20), st.integers(0, 20), st.data())
def test_what_is_forgotten_is_rendered_again_from_the_first_frame_on_that_was_not_kept(
    count: int, before: int, data: st.DataObject
) -> None:
    road, marks = made()
    if before:
        road.sent = before
        marks.add(sum(len(frame(number)) for number in range(before)), before, 0, 5)
    frames = [frame(before + number) for number in range(count)]
    rendered = b"".join(frames)
    road.sent = before + count
    marks.add(len(rendered), road.sent, 0, 5)
    whole = marks.bytes
    kept = data.draw(st.integers(0, count))
    assert marks.forget_after(rendered, sum(map(len, frames[:kept]))) == 0
    assert road.sent == before + kept
    for rest in frames[kept:]:
        road.sent += 1
        marks.add(len(rest), road.sent, 0, 5)
    assert marks.bytes == whole
    marks.settle(whole)
    assert (road.state.cursor, road.state.delivered) == (before + count, before + count)


def test_a_loss_whose_telling_is_forgotten_is_untold_again() -> None:
    road, marks = made()
    marks.lose(40, 40)
    road.sent = 40
    told = frame(3)
    marks.tell(len(told), 40, Untold(40, 0, 0))
    assert marks.forget_after(told, 0) == 40
    assert road.sent == 40
    marks.settle(0)
    assert road.state.lost == {"overrun": 40}
    assert road.state.untold is not None


@given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 400))
def test_at_a_connections_end_whole_frames_count_and_a_part_of_one_does_not(
    count: int, before: int, arrived: int
) -> None:
    road, marks = made()
    frames = [frame(number) for number in range(before + count)]
    ends = [sum(map(len, frames[: number + 1])) for number in range(before + count)]
    if before:
        marks.add(ends[before - 1], before, 0, 5)
    marks.add(ends[-1] - marks.bytes, before + count, 0, 5)
    arrived = min(arrived, ends[-1])
    marks.settle(arrived)
    road.held = [Held(road.state.cursor, frames[road.state.cursor :])]
    marks.settle_frames(arrived, b"token")
    whole = sum(1 for end in ends if end <= arrived)
    assert road.state.cursor == whole
    assert road.state.delivered == road.state.cursor


def test_frame_ends_are_where_the_next_count_begins() -> None:
    frames = [frame(number) for number in range(30)]
    stream = b"".join(frames)
    ends = list(frame_ends(stream))
    assert [stream[begin:end] for begin, end in zip([0, *ends], ends, strict=False)] == frames
