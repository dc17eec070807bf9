"""Events that are named by their line's severity."""

import pytest

from logplex.batch import Batch, Form, raw_frame
from logplex.filters import Filter
from logplex.rendering import View, render

EPOCH = "0123456789abcdef"
TIME = b"2024-05-01T12:00:00+00:00"
KEYWORDS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")  # RFC 5424 section 6.2.1


async def shown(view: View, *priorities: int) -> list[bytes]:
    data = b"".join(raw_frame(pri, TIME, b"app", b"web.1", b"one\ntwo") for pri in priorities)
    batch = Batch(7, len(priorities), 1_714_564_800_000, Form.RAW, data)
    rendered = await render(view, [(batch, batch.lines())], EPOCH)
    return rendered.split(b"\n\n")[:-1]


@pytest.mark.parametrize("facility", [0, 1, 16, 23])
async def test_a_reader_who_asks_is_told_the_severity_of_every_line(facility: int) -> None:
    named = await shown(View(Filter(), sse=True, named=True), *range(facility * 8, facility * 8 + 8))
    plain = await shown(View(Filter(), sse=True), *range(facility * 8, facility * 8 + 8))
    assert named == [f"event: {word}\n".encode() + event for word, event in zip(KEYWORDS, plain, strict=True)]


async def test_the_name_moves_no_id_and_breaks_no_line() -> None:
    (event,) = await shown(View(Filter(), sse=True, named=True), 187)
    fields = [b"event: err", b"id: 0123456789abcdef.7", b"data: %b app[web.1]: one" % TIME, b"data: two"]
    assert event.split(b"\n") == fields


async def test_plain_text_is_never_named() -> None:
    batch_view = View(Filter(), named=True)
    assert b"".join(await shown(batch_view, 187)) == b"".join(await shown(View(Filter()), 187))


async def test_a_filtered_reader_is_told_too() -> None:
    events = await shown(View(Filter(severity=3), sse=True, named=True), 190, 187, 186)
    assert [event.split(b"\n")[0] for event in events] == [b"event: err", b"event: crit"]
