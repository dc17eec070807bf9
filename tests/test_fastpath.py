"""The quick path and the strict path give the same on every input."""

import itertools
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logplex import bodies, routing, streams, uniform
from logplex.batch import Form, Layout
from logplex.errors import MalformedBody

from .core import EVERYONE, Core, feed

TOKENS = ["t.00000001-0000-4000-8000-000000000001", "t.00000002-0000-4000-8000-000000000002"]

times = st.one_of(
    st.just("2026-11-22T02:50:00.123456+00:00"),
    st.datetimes().map(lambda moment: moment.isoformat() + "+00:00"),
    st.sampled_from(
        [
            "-",
            "2026-02-29T00:00:00Z",
            "2024-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-22T23:59:60Z",
            "2013-01-10T19:33:31Z+00:00",
            "2026-11-22T02:50:00.1234567Z",
            "2026-11-22T02:50:00Z\n2026-11-22T02:50:00Z",
            "rubbish",
            "a b",
            "x" * 3000,
        ]
    ),
)
hosts = st.sampled_from(["host", "-", "h" * 256, "hö", "d.00000000-0000-4000-8000-00000000000d"])
apps = st.sampled_from([*TOKENS, "t.unknown", "-"])
processes = st.sampled_from(["web.1", "router", "-", "p" * 129, "a\x00b", ""])
between = st.sampled_from([" - - ", " - ", ' - [x y="z"] ', " - [GIN] ", " id - ", " - -", "  ", " - - - "])
texts = st.one_of(
    st.text(alphabet="ab -[]\n\r\0ö", max_size=30).map(lambda text: text.encode()),
    st.sampled_from(
        [b"", b"\n", b"hello\n", b"hello", b"a - - b\n", b"\xff\xfe\n", b"x\r\n", b"two\nlines\n", b"x" * 10_300]
    ),
)
priorities = st.sampled_from(["<0>1", "<13>1", "<191>1", "<192>1", "<0>1", "<013>1", "<13>2"])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame as senders make them, and with one thing wrong now and then."""
    head = " ".join([draw(priorities), draw(times), draw(hosts), draw(apps), draw(processes)])
    frame = head.encode() + draw(between).encode() + draw(texts)
    count = len(frame) + draw(st.sampled_from([0] * 12 + [-1, 1, 5]))
    return b"%d %b" % (count, frame)


standard = st.builds(
    lambda token, process, text, lf: b"%d %b" % (len(frame := _standard(token, process, text, lf)), frame),
    st.sampled_from(TOKENS),
    st.sampled_from(["web.1", "web.2", "-"]),
    st.text(alphabet="abc -", max_size=20),
    st.sampled_from(["", "\n"]),
)


def _standard(token: str, process: str, text: str, lf: str) -> bytes:
    return f"<134>1 2026-11-22T02:50:00.5+00:00 host {token} {process} - - {text}{lf}".encode()


rarely = st.sampled_from([False] * 30 + [True])


@st.composite
def uniform_bodies(draw: st.DrawFn) -> bytes:
    """As one shipper writes them: one host and token, LF at the end; and with one thing wrong now and then."""
    host = draw(hosts) if draw(rarely) else draw(st.sampled_from(["host", "-", "shuttle"]))
    token, end = draw(st.sampled_from(TOKENS)), draw(st.sampled_from([" - - ", " - "]))
    process = st.sampled_from(draw(st.sampled_from([["web.1"], ["web.1", "web.22", "-"]])))
    body = b""
    for text in draw(st.lists(st.text(alphabet="abc -", min_size=1, max_size=90), min_size=1, max_size=8)):
        if draw(rarely):
            body += draw(st.one_of(frames(), standard, st.just(b"\1"), st.just(b"\n")))
        time = draw(times) if draw(rarely) else "2026-11-22T02:50:00.5+00:00"
        line = draw(texts) if draw(rarely) else text.encode() + b"\n"
        frame = f"<134>1 {time} {host} {token} {draw(process)}{end}".encode() + line
        body += b"%d %b" % (len(frame) + draw(rarely), frame)
    return body


inputs = st.lists(st.one_of(standard, standard, frames(), st.binary(max_size=8)), max_size=12).map(b"".join)


async def core() -> Core:
    made = Core()
    for channel_id, token_id in enumerate(TOKENS, 1):
        token = made.add_token(channel_id)
        token.id = token_id
        made.tokens.stored[token_id] = token
    made.tokens.drain_tokens.add("d.00000000-0000-4000-8000-00000000000d")
    return made


async def fed(pieces: list[bytes], *, loaded: bool = True) -> Core:
    made = await core()
    if loaded:
        await made.router.routing.load(TOKENS)
    stream = made.router.stream()
    for piece in pieces:
        await feed(stream, piece)
        made.router.flush()
    await stream.end()
    return made


LAYOUTS = (
    Layout(Form.SYSLOG),
    Layout(Form.HTTP),
    Layout(Form.SYSLOG, "d.11111111-1111-4111-8111-111111111111"),
    Layout(Form.SYSLOG, "d.22222222-2222-4222-8222-222222222222"),
)


async def posted(
    body: bytes, layout: Layout = LAYOUTS[0], expected: int | None = None, *, loaded: bool = True
) -> tuple[Core, bool]:
    made = await core()
    made.channels.on_new = lambda channel: setattr(channel, "layout", layout)
    if loaded:
        await made.router.routing.load(TOKENS)
    try:
        await made.router.take_body(body, EVERYONE, expected=expected)
    except MalformedBody:
        return made, False
    return made, True


def seen(made: Core) -> list[object]:
    """All that a reader, an owner, a drain or an operator can tell apart."""
    drops = {channel.id: dict(channel.page.dropped) for channel in made.channels if channel.page.dropped}
    return [made.lines(1), made.lines(2), made.ledger.to_row(), drops, delivered(made)]


def delivered(made: Core) -> list[bytes]:
    """What drains of both kinds get."""
    token = b"d.11111111-1111-4111-8111-111111111111"
    channels = sorted(made.channels, key=lambda channel: channel.id)
    batches = [batch for channel in channels for batch in channel.recent(0, 1 << 40) or []]
    for batch in batches:
        batch.at = 0  # stands for times that are none
    return [b"".join(b.http() for b in batches), b"".join(b.syslog(token) for b in batches)]


def strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "recognisable", lambda data: False)
    monkeypatch.setattr(bodies, "recognisable", lambda data: False)
    monkeypatch.setattr(routing, "now_ms", lambda: 1_790_000_000_000)


@given(data=st.one_of(inputs, uniform_bodies()), cuts=st.lists(st.integers(0, 400), max_size=4), loaded=st.booleans())
def test_a_stream_gives_the_same_lines_on_both_paths_however_it_is_cut(
    data: bytes, cuts: list[int], loaded: bool
) -> None:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:stop] for start, stop in itertools.pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "now_ms", lambda: 1_790_000_000_000)
        quick = trio.run(partial(fed, pieces, loaded=loaded))
        strictly(patch)
        strict = trio.run(fed, [data])
    assert seen(quick) == seen(strict)
    assert quick.balanced()


@given(data=st.one_of(inputs, uniform_bodies()), layout=st.sampled_from(LAYOUTS), loaded=st.booleans())
def test_a_body_gives_the_same_lines_and_the_same_answer_on_both_paths(
    data: bytes, layout: Layout, loaded: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "now_ms", lambda: 1_790_000_000_000)
        patch.setattr(uniform, "LEAST_BYTES", 0)
        quick, quick_answer = trio.run(partial(posted, data, layout, loaded=loaded))
        strictly(patch)
        strict, strict_answer = trio.run(posted, data, layout)
    assert quick_answer == strict_answer
    assert seen(quick) == seen(strict)
    assert quick.balanced()
    if not quick_answer:
        assert quick.lines(1) == quick.lines(2) == []


async def test_the_first_body_of_a_token_that_is_not_loaded_is_taken_the_quick_way() -> None:
    body = b"".join(b"%d %b" % (len(line), line) for line in [_standard(TOKENS[0], "web.1", "x" * 200, "\n")] * 20)
    made, answer = await posted(body, loaded=False)
    assert answer
    (batch,) = made.channel(1).recent(0, 1 << 40) or []
    assert (batch.count, batch.form) == (20, LAYOUTS[0].form)
    assert made.balanced()
    unknown, answer = await posted(body.replace(TOKENS[0].encode(), b"t.unknown".ljust(len(TOKENS[0]), b"-")))
    assert answer
    assert unknown.ledger.unknown_token == 20


@pytest.mark.parametrize("size", range(97, 107))  # one of them is that of no frame of one line with its count
def test_a_line_without_a_count_is_no_counted_frame(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "now_ms", lambda: 1_790_000_000_000)
    good = _standard(TOKENS[0], "web.1", "x", "\n")
    data = b"%d %b" % (len(good), good) + (b" " + good[:-1]).ljust(size, b"x") + b"\n"
    quick = trio.run(fed, [data])
    strictly(monkeypatch)
    strict = trio.run(fed, [data])
    assert seen(quick) == seen(strict)


@pytest.mark.parametrize("others", [0, 1, 20])
@given(time=times)
def test_an_odd_time_in_a_good_line_gives_the_same_lines_alone_and_among_others(others: int, time: str) -> None:
    good = _standard(TOKENS[0], "web.1", "x", "\n")
    lines = [good.replace(b"2026-11-22T02:50:00.5+00:00", time.encode()), *[good] * others]
    data = b"".join(b"%d %b" % (len(line), line) for line in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "now_ms", lambda: 1_790_000_000_000)
        quick, quick_answer = trio.run(posted, data, LAYOUTS[0])
        strictly(patch)
        strict, strict_answer = trio.run(posted, data, LAYOUTS[0])
    assert quick_answer == strict_answer
    assert seen(quick) == seen(strict)


@given(bodies=st.lists(st.lists(standard, min_size=1, max_size=5).map(b"".join), min_size=1, max_size=4))
def test_what_a_drain_gets_does_not_depend_on_the_layout_that_lines_are_kept_in(bodies: list[bytes]) -> None:
    async def rendered(layout: Layout) -> list[bytes]:
        made = await core()
        await made.channels.load({1: ("app-1", frozenset()), 2: ("app-2", frozenset())})
        for channel in made.channels:
            channel.layout = layout
        for body in bodies:
            await made.router.take_body(body, EVERYONE, expected=None)
        return delivered(made)

    first, *others = [trio.run(rendered, layout) for layout in LAYOUTS]
    assert all(other == first for other in others)


def test_the_quick_path_takes_all_that_common_senders_write() -> None:
    shuttle = "<172>1 2013-04-17T19:04:46+00:00 host {} web.1 - - hello - - there\n"
    dialect = "<45>1 2013-04-17T19:04:46.123456+00:00 host {} router - at=info method=GET\n"
    plain = "<134>1 2013-04-17T19:04:46Z host {} - - - x"
    frames = [form.format(token) for form in (shuttle, plain, dialect, plain, dialect, shuttle) for token in TOKENS]
    body = "".join(f"{len(frame)} {frame}" for frame in frames).encode()

    async def strict_frames() -> int:
        made = await core()
        await made.router.routing.load(TOKENS)
        seen: list[int] = []
        take = made.router.routing.take_frames
        made.router.routing.take_frames = lambda frames, part: (seen.append(len(list(frames))), take(frames, part))  # type: ignore[method-assign,assignment,func-returns-value]
        await made.router.take_body(body, EVERYONE, expected=len(frames))
        assert made.ledger.frames == len(frames)
        return sum(seen)

    assert trio.run(strict_frames) == 0


def test_a_request_that_breaks_on_the_quick_path_may_be_tried_again_under_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = b"99 <13>1 cut off"

    def broken(*_: object) -> tuple[int, str]:
        raise RuntimeError("a bug")

    async def tried_twice() -> None:
        made = await core()
        with monkeypatch.context() as patch:
            patch.setattr(bodies, "scan", broken)
            with pytest.raises(RuntimeError, match="a bug"):
                await made.router.take_body(body, EVERYONE, expected=None, request_id="once")
        with trio.fail_after(1), pytest.raises(MalformedBody):
            await made.router.take_body(body, EVERYONE, expected=None, request_id="once")

    trio.run(tried_twice)
