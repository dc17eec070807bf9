"""Which positions a request carries, against a naive model."""

import gzip

from hypothesis import given
from hypothesis import strategies as st

from drains.rendering import pieces, renderer
from drains.request import Request, add_loss, compose, compose_lines, compress, fixed_head, frame_id, head
from drains.spec import DrainSpec
from drains.state import Untold
from logplex.batch import Batch, Form, raw_frame

from .world import TIME, TOKEN, frames

SPEC = DrainSpec.parse(1, TOKEN, "https://us:er@example.com:444/a?b")
TEXTS = st.lists(st.binary(max_size=60), min_size=1, max_size=12)


def batches(groups: list[tuple[list[bytes], bool]], first: int) -> list[Batch]:
    made = []
    for texts, tails_only in groups:
        data = b"".join([raw_frame(190, TIME, b"app", b"-", text) for text in texts])
        made.append(Batch(first, len(texts), 5, Form.RAW, data, tails_only=tails_only))
        first += len(texts)
    return made


def naive(given_: list[Batch], target: int, *, whole: bool = False) -> tuple[list[bytes], int, int]:
    """Frames, end and filtered of one request, with as many frames as fit, or only so many whole batches of them."""
    render = renderer(SPEC, "app")
    taken: list[bytes] = []
    filtered = 0
    end = given_[0].first
    for batch in given_:
        before, begin = list(taken), end
        for line in batch.lines():
            if batch.tails_only:
                filtered += 1
            else:
                frame = render(line, batch.at, end)
                if taken and sum(map(len, taken)) + len(frame) > target:
                    return (before, begin, filtered) if before and whole else (taken, end, filtered)
                taken.append(frame)
            end += 1
    return taken, end, filtered


@given(st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=6), st.integers(1, 2500), st.integers(0, 99))
def test_a_plain_request_ends_where_the_naive_one_does(
    groups: list[tuple[list[bytes], bool]], target: int, first: int
) -> None:
    given_ = batches(groups, first)
    request = compose(given_, target)
    taken, end, filtered = naive(given_, target, whole=True)
    assert b"".join(request.body) == b"".join(taken)
    assert (request.first, request.count, request.size) == (first, len(taken), sum(map(len, taken)))
    assert request.lines + request.filtered == request.end - request.first
    # Positions for tails only that stand at the border may go with this request or with the next.
    assert (request.end, request.filtered) in {(end, filtered), *_borders(given_, end, filtered)}


def _borders(given_: list[Batch], end: int, filtered: int) -> set[tuple[int, int]]:
    found = set()
    for batch in reversed(given_):
        if batch.tails_only and batch.end == end:
            end, filtered = batch.first, filtered - batch.count
            found.add((end, filtered))
    return found


@given(groups=st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=6), target=st.integers(1, 2500))
async def test_line_by_line_gives_the_same_frames(groups: list[tuple[list[bytes], bool]], target: int) -> None:
    given_ = batches(groups, 3)
    request = await compose_lines(given_, target, SPEC, renderer(SPEC, "app"))
    taken, end, filtered = naive(given_, target)
    assert b"".join(request.body) == b"".join(taken)
    assert (request.count, request.end, request.filtered) == (len(taken), end, filtered)


def test_pieces_are_the_same_lines() -> None:
    given_ = batches([([b"%d" % number for number in range(1000)], False), ([b"x"], True)], 7)
    cut = list(pieces(given_))
    assert [batch.first for batch in cut] == [7, 263, 519, 775, 1007]
    assert b"".join(batch.data for batch in cut) == b"".join(batch.data for batch in given_)
    assert cut[-1].tails_only


def test_a_head_names_count_id_range_and_length() -> None:
    request = Request(5, 8, 3, 0, 0, 0, [b"abc"], 3, None)
    text = head(fixed_head(SPEC, "1.2"), request, TOKEN.encode(), "e" * 16)
    assert text == (
        b"POST /a?b HTTP/1.1\r\nHost: example.com:444\r\nUser-Agent: Logplex/1.2\r\n"
        b"Content-Type: application/logplex-1\r\nLogplex-Drain-Token: " + TOKEN.encode() + b"\r\n"
        b"Authorization: Basic dXM6ZXI=\r\nLogplex-Msg-Count: 3\r\nLogplex-Frame-Id: "
        + frame_id(TOKEN.encode(), "e" * 16, 5, 7).encode()
        + b"\r\nLogplex-Range: eeeeeeeeeeeeeeee/5-7\r\nContent-Length: 3\r\n\r\n"
    )


def test_a_frame_id_tells_drains_epochs_ranges_and_replays_apart() -> None:
    ids = {
        frame_id(token, epoch, first, last, replay)
        for token in (b"a", b"b")
        for epoch in ("0", "1")
        for first in (0, 1)
        for last in (1, 2)
        for replay in (0, 1)
    }
    assert len(ids) == 32
    assert all(len(each) == 32 and each.upper() == each for each in ids)


async def test_a_loss_goes_first_and_gzip_holds_the_whole_body() -> None:
    request = compose(batches([([b"a", b"b"], False)], 0), 10_000)
    add_loss(request, Untold(3, 1_385_000_000_000, 1_385_000_001_000), renderer(SPEC, "app"))
    plain = b"".join(request.body)
    assert frames(plain)[0] == (
        b"<172>1 2013-11-21T02:13:21.000+00:00 host heroku logplex - "
        b"Error L10 (output buffer overflow): 3 messages dropped since 2013-11-21T02:13:20+00:00.\n"
    )
    assert (request.count, request.lines, request.size) == (3, 2, len(plain))
    await compress(request)
    assert gzip.decompress(b"".join(request.body)) == plain
    assert request.size == sum(map(len, request.body))
