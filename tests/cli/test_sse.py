import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.cli.sse import MAX_EVENT_BYTES, Decoder, Event

STREAM = (
    b": connected\n\n"
    b"id: e/1\ndata: one\n\n"
    b"id: e/2\r\ndata: two\r\n\r\n"
    b"id: e/7\n\n"
    b"data: three\ndata:\ndata:  four\n\n"
    b"event: other\nretry: 5\nid:e/9\ndata:five\n\n"
    b"data: never ended"
)
EVENTS = [
    Event(b"one", "e/1"),
    Event(b"two", "e/2"),
    Event(None, "e/7"),
    Event(b"three\n\n four", None),
    Event(b"five", "e/9"),
]


def test_a_stream_is_taken_apart_whole() -> None:
    decoder = Decoder()
    assert decoder.feed(STREAM) == EVENTS
    assert decoder.last_id == "e/9"


@given(st.sets(st.integers(0, len(STREAM))))
def test_a_stream_is_taken_apart_however_it_is_cut(cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    decoder = Decoder()
    events = [event for a, b in itertools.pairwise(places) for event in decoder.feed(STREAM[a:b])]
    assert events == EVENTS


def test_an_id_counts_only_when_its_event_is_complete() -> None:
    decoder = Decoder()
    decoder.feed(b"id: e/1\ndata: one\n\nid: e/2\ndata: tw")
    assert decoder.last_id == "e/1"


def test_an_event_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="without end"):
        Decoder().feed(b"x" * (MAX_EVENT_BYTES + 1))
    decoder = Decoder()
    decoder.feed((b"data: " + b"x" * 10_000 + b"\n") * (MAX_EVENT_BYTES // 10_000))
    with pytest.raises(ValueError, match="without end"):
        decoder.feed(b"data: " + b"x" * 10_000 + b"\n")
