"""Batches: whatever form one is born with, every reader gets the same bytes."""

import hypothesis.strategies as st
from hypothesis import given

from logplex.batch import HOLE, Batch, Form, Line, http_frame, raw_frame, timestamp
from logplex.message import http_text, rfc3339

TOKEN = b"d.11111111-2222-4333-8444-555555555555"
OTHER = b"d.22222222-2222-4333-8444-555555555555"
THIRD = b"d.33333333-2222-4333-8444-555555555555"
LAYOUTS = ((Form.RAW, HOLE), (Form.SYSLOG, HOLE), (Form.SYSLOG, OTHER), (Form.SYSLOG, TOKEN), (Form.HTTP, HOLE))
AT = 1_700_000_000_123
good_times = st.sampled_from([b"2026-01-31T12:00:00Z", b"2026-01-31T12:00:00.123456+00:00"])
texts = st.one_of(
    st.binary(max_size=60).filter(lambda text: not text.endswith((b"\n", b"\r", b"\0"))),
    st.sampled_from(
        [b"", b"two\nlines", b"a\r\nb", b"\xff\xfe", b" - - ", b'[x y="z"]', HOLE, TOKEN, OTHER, b"12 <13>1 no frame"]
    ),
)
fields = st.tuples(st.integers(0, 191), st.sampled_from([b"app", b"heroku"]), st.sampled_from([b"web.1", b"-"]), texts)


def frame(line: Line, form: Form, host: bytes = HOLE) -> bytes:
    """One frame of a form, written naively."""
    middle = b"host %b %b - " if form is Form.HTTP else host + b" %b %b - - "
    text = b"<%b>1 %b " % (line.pri, line.time) + middle % (line.source, line.process) + line.text + b"\n"
    return b"%d %b" % (len(text), text)


@given(lines=st.lists(st.tuples(fields, good_times), min_size=1, max_size=8))
def test_all_forms_read_and_render_alike(lines: list[tuple[tuple[int, bytes, bytes, bytes], bytes]]) -> None:
    parsed = [Line(b"%d" % pri, time, source, process, text) for (pri, source, process, text), time in lines]
    http = b"".join(http_frame(line, AT) for line in parsed)
    syslog = b"".join(frame(line, Form.SYSLOG, TOKEN) for line in parsed)
    for form, host in LAYOUTS:
        batch = Batch(3, len(parsed), AT, form, b"".join(frame(line, form, host) for line in parsed))
        assert batch.lines() == parsed
        assert batch.http() == http
        assert batch.http() == http, "also when it is remembered"
        assert batch.syslog(TOKEN) == syslog
        assert batch.syslog(THIRD) == b"".join(frame(line, Form.SYSLOG, THIRD) for line in parsed)
        assert batch.syslog(TOKEN) == syslog
        batch.forget_rendered()
        assert batch.http() == http


@given(
    lines=st.lists(fields, min_size=1, max_size=8),
    form=st.sampled_from(Form),
    first=st.integers(0, 10),
    length=st.integers(0, 10),
)
def test_a_cut_holds_just_the_lines_between_two_positions(
    lines: list[tuple[int, bytes, bytes, bytes]], form: Form, first: int, length: int
) -> None:
    parsed = [Line(b"%d" % pri, b"2026-01-31T12:00:00Z", *rest) for pri, *rest in lines]
    batch = Batch(3, len(parsed), AT, form, b"".join(frame(line, form) for line in parsed), tails_only=True)
    cut = batch.cut(first, first + length)
    wanted = [line for position, line in enumerate(parsed, 3) if first <= position < first + length]
    assert cut.lines() == wanted
    assert cut.count == len(wanted)
    assert (cut.form, cut.at, cut.tails_only) == (form, AT, True)
    if wanted:
        assert (cut.first, cut.end) == (max(3, first), min(3 + len(parsed), first + length))


@given(
    fields, st.sampled_from([b"odd", b"2026-02-30T00:00:00Z", b"2026-01-31T12:00:60Z", b"2026-01-31T12:00:00Z+00:00"])
)
def test_drains_get_a_valid_time_and_tails_the_senders_own(line: tuple[int, bytes, bytes, bytes], time: bytes) -> None:
    pri, source, process, text = line
    batch = Batch(0, 1, AT, Form.RAW, raw_frame(pri, time, source, process, text))
    valid = rfc3339(time) or timestamp(AT)
    assert batch.lines()[0].time == time
    assert batch.http().split(b" ")[2] == valid
    assert batch.syslog(TOKEN).split(b" ")[2] == valid
    assert batch.http().endswith(http_text(text) + b"\n")
    batch.http().decode()
