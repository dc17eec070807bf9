"""The ring against a list that never forgets."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from logplex.batch import Batch, Form, raw_frame
from logplex.ring import Ring


def batch(first: int, count: int, size: int = 0) -> Batch:
    data = b"".join(
        raw_frame(13, b"T", b"app", b"-", b"%d".ljust(size) % position) for position in range(first, first + count)
    )
    return Batch(first, count, 0, Form.RAW, data)


def positions(batches: list[Batch]) -> list[int]:
    found = [int(line.text) for each in batches for line in each.lines()]
    assert found == [position for each in batches for position in range(each.first, each.end)]
    return found


counts = st.lists(st.integers(1, 6), max_size=30)


@given(counts=counts, head=st.integers(0, 5), max_lines=st.integers(1, 20), cursor=st.integers(0, 120))
def test_it_holds_the_newest_lines_and_reads_like_a_list(
    counts: list[int], head: int, max_lines: int, cursor: int
) -> None:
    ring = Ring(head, max_lines=max_lines, max_bytes=1 << 20)
    everything: list[int] = []
    for count in counts:
        new = batch(ring.head, count)
        ring.append(new)
        everything += range(new.first, new.end)
        assert ring.head == head + len(everything)
        assert ring.head - ring.oldest <= max(max_lines, count)
        held = everything[ring.oldest - head :]
        assert positions(ring.since(ring.oldest, 1 << 30) or []) == held
        assert positions(ring.before(ring.head, 1 << 30)) == held
        assert ring.bytes == sum(each.size for each in ring.since(ring.oldest, 1 << 30) or [])
    found = ring.since(cursor, 1 << 30)
    if cursor >= ring.head:
        assert found == []
    elif cursor < ring.oldest:
        assert found is None
    else:
        first = positions(found or [])
        assert first
        assert first == list(range(cursor, cursor + len(first))), "contiguous from the cursor on"
    end = min(cursor, ring.head)
    back = positions(ring.before(end, 1 << 30))
    assert back == list(range(ring.oldest, end))


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=20), max_bytes=st.integers(1, 2000))
def test_a_reader_that_goes_on_where_a_read_ended_sees_every_line_once(counts: list[int], max_bytes: int) -> None:
    ring = Ring(0, max_lines=1000, max_bytes=1 << 20)
    for count in counts:
        ring.append(batch(ring.head, count))
    cursor, seen = 0, []
    while found := ring.since(cursor, max_bytes):
        seen += positions(found)
        cursor = found[-1].end
    assert seen == list(range(sum(counts)))
    end, back = ring.head, []
    while found := ring.before(end, max_bytes):
        back = positions(found) + back
        end = found[0].first
    assert back == seen


@given(counts=counts, max_bytes=st.integers(100, 3000))
def test_the_bound_in_bytes_holds_but_for_the_newest_batch(counts: list[int], max_bytes: int) -> None:
    ring = Ring(0, max_lines=1000, max_bytes=max_bytes)
    for count in counts:
        new = batch(ring.head, count, 50)
        ring.append(new)
        assert ring.bytes <= max(max_bytes, new.size)


@given(steps=st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=20), max_lines=st.integers(1, 20))
def test_what_was_passed_over_is_behind_it_and_the_rest_goes_on_at_the_head(
    steps: list[tuple[int, bool]], max_lines: int
) -> None:
    ring = Ring(3, max_lines=max_lines, max_bytes=1 << 20)
    since = 3
    for count, passed in steps:
        head = ring.head + count
        if passed:
            ring.pass_over(head)
            since = head
            assert (ring.oldest, ring.bytes) == (head, 0)
        else:
            ring.append(batch(ring.head, count))
        assert ring.head == head
        assert ring.oldest >= since
        assert positions(ring.since(ring.oldest, 1 << 30) or []) == list(range(ring.oldest, head))
        assert ring.since(since - 1, 1 << 30) is None
        assert positions(ring.before(head, 1 << 30)) == list(range(ring.oldest, head))


def test_what_is_given_back_leaves_the_head() -> None:
    ring = Ring(5, max_lines=10, max_bytes=1000)
    ring.append(batch(5, 3))
    freed = ring.bytes
    assert ring.clear() == freed
    assert (ring.head, ring.oldest, ring.bytes) == (8, 8, 0)
    assert ring.since(8, 100) == []
    assert ring.since(7, 100) is None
    assert ring.before(8, 100) == []


def test_a_batch_that_does_not_follow_is_refused() -> None:
    ring = Ring(5, max_lines=10, max_bytes=1000)
    with pytest.raises(ValueError, match="cannot follow"):
        ring.append(batch(6, 1))
