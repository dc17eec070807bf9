"""What many connections send gives the same lines and counts, whether their reads are scanned together or not."""

import itertools
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logplex import routing, small_reads
from logplex.framing import is_whole
from logplex.streams import ODD_READS, Stream

from .core import Core, feed
from .test_fastpath import TOKENS, frames, inputs, standard

CONNECTIONS = 4
MAX_FRAME_BYTES = 64 * 1024

Reads = list[tuple[int, bytes]]


def own(connection: int, data: bytes) -> bytes:
    """The same with tokens of the connection's own: lines of different connections have no order among them."""
    for number, token in enumerate(TOKENS):
        data = data.replace(token.encode(), token_of(connection, number).encode())
    return data


def token_of(connection: int, number: int) -> str:
    return f"t.{connection * 10 + number:08d}-0000-4000-8000-000000000000"


@st.composite
def turns(draw: st.DrawFn) -> list[Reads]:
    """What connections bring, turn by turn, at most one read each; cut between frames, as a rule."""
    waiting: list[list[bytes]] = []
    for connection in range(CONNECTIONS):
        pieces = draw(st.lists(st.one_of(standard, standard, standard, frames(), inputs), max_size=6))
        if pieces and draw(st.booleans()):
            cut = draw(st.integers(0, len(pieces[-1])))
            pieces[-1:] = [pieces[-1][:cut], pieces[-1][cut:]]
        waiting.append([own(connection, piece) for piece in pieces if piece])
    made = []
    while any(waiting):
        ready = draw(st.lists(st.sampled_from([i for i, left in enumerate(waiting) if left]), unique=True, min_size=1))
        made.append([(connection, waiting[connection].pop(0)) for connection in ready])
    return made


class Reader:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.alone: list[bytes] = []
        self.further: Callable[[], Awaitable[None]] | None = None
        self.error: Exception | None = None

    def take_alone(self, data: bytes) -> None:
        self.alone.append(data)
        self.further = self.stream.take(data)

    def crashed(self, error: Exception) -> None:
        self.error = error


async def core(*, loaded: bool = True) -> Core:
    made = Core()
    numbers = itertools.count(1)
    for connection, number in itertools.product(range(CONNECTIONS), range(len(TOKENS))):
        token = made.add_token(next(numbers))
        token.id = token_of(connection, number)
        made.tokens.stored[token.id] = token
    if loaded:
        await made.router.routing.load(list(made.tokens.stored))
    return made


async def together(turns: list[Reads], *, loaded: bool) -> Core:
    made = await core(loaded=loaded)
    reads = made.router.small_reads()
    readers = [Reader(made.router.stream()) for _ in range(CONNECTIONS)]
    for turn in turns:
        for connection, data in turn:
            reader = readers[connection]
            if not reads.add(reader.stream, data, reader):
                await feed(reader.stream, data)
        reads.take()
        for reader in readers:
            further, reader.further = reader.further, None
            if further is not None:
                await further()
            assert reader.error is None
        made.router.flush()
        assert made.balanced()
    for reader in readers:
        await reader.stream.end()
    return made


async def alone(turns: list[Reads]) -> Core:
    made = await core()
    streams = [made.router.stream() for _ in range(CONNECTIONS)]
    for connection, data in itertools.chain(*turns):
        await feed(streams[connection], data)
    for stream in streams:
        await stream.end()
    made.router.flush()
    return made


def seen(made: Core) -> list[object]:
    return [*(made.lines(channel) for channel in range(1, CONNECTIONS * len(TOKENS) + 1)), made.ledger.to_row()]


@given(turns=turns(), loaded=st.booleans(), most=st.sampled_from([100, 64 * 1024]))
def test_lines_and_counts_are_the_same_together_and_alone(turns: list[Reads], loaded: bool, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "now_ms", lambda: 1_790_000_000_000)
        patch.setattr(small_reads, "MOST_BYTES", most)

        async def both() -> tuple[Core, Core]:
            return await together(turns, loaded=loaded), await alone(turns)

        one, other = trio.run(both)
    assert seen(one) == seen(other)


@given(st.one_of(st.binary(max_size=30), inputs, st.lists(frames()).map(b"".join)))
def test_what_is_whole_leaves_nothing_for_the_next_read(data: bytes) -> None:
    if is_whole(data, MAX_FRAME_BYTES):
        at = 0
        while at < len(data):
            space = data.index(b" ", at)
            at = space + 1 + int(data[at:space])
        assert at == len(data)


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"5 <1>1 4 <1>1", True),
        (b"5 <1>1", False),
        (b"4 <1>1\n", False),
        (b"<1>1\n", False),
        (b"0 ", False),
        (b" 4", False),
        (b"04 <1>1", False),
        (b"4", False),
        (b"99999999 x", False),
    ],
)
def test_only_counted_frames_are_whole(data: bytes, whole: bool) -> None:
    assert is_whole(data, MAX_FRAME_BYTES) is whole


TIME = "2026-11-22T02:50:00.5+00:00"


def line(connection: int, text: str, time: str = TIME, data: str = "-") -> bytes:
    frame = f"<134>1 {time} host {token_of(connection, 0)} web.1 - {data} {text}\n".encode()
    return b"%d %b" % (len(frame), frame)


@pytest.mark.parametrize(
    ("odd", "alone"), [(line(1, "odd", time="rubbish"), [1, 1, 1]), (line(1, "odd", data='[a b="c"]'), [0, 1, 1])]
)
async def test_a_connection_with_an_odd_line_goes_alone_for_a_while_and_takes_nobody_with_it(
    odd: bytes, alone: list[int]
) -> None:
    """An odd time is found after the scan, and undoes it; where the scan stops it has taken what is before."""
    made = await core()
    reads = made.router.small_reads()
    readers = [Reader(made.router.stream()) for _ in range(3)]
    for number, data in enumerate([line(0, "one"), odd, line(2, "one")]):
        assert reads.add(readers[number].stream, data, readers[number])
    reads.take()
    assert [len(reader.alone) for reader in readers] == alone
    assert [reader.stream.goes_alone for reader in readers] == [False, True, False]
    for number in (0, 2):
        assert reads.add(readers[number].stream, line(number, "two"), readers[number])
    reads.take()
    assert [len(reader.alone) for reader in readers] == alone
    for _ in range(ODD_READS):
        assert not reads.add(readers[1].stream, line(1, "more"), readers[1])
        await feed(readers[1].stream, line(1, "more"))
    assert reads.add(readers[1].stream, line(1, "last"), readers[1])
    reads.take()
    made.router.flush()
    assert [len(made.lines(1 + 2 * number)) for number in range(3)] == [2, 2 + ODD_READS, 2]


async def test_what_waits_for_room_or_has_a_token_of_its_own_goes_alone() -> None:
    made = await core()
    reads = made.router.small_reads()
    bound = Reader(made.router.stream(bound=made.tokens.stored[token_of(0, 0)]))
    assert not reads.add(bound.stream, line(0, "one"), bound)
    free = Reader(made.router.stream())
    made.committer.max_uncommitted_bytes = 0
    made.committer.current.bytes = 1
    assert not reads.add(free.stream, line(0, "one"), free)


async def test_a_bug_ends_the_connections_whose_reads_were_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await core()
    reads = made.router.small_reads()
    readers = [Reader(made.router.stream()) for _ in range(2)]
    for number, reader in enumerate(readers):
        assert reads.add(reader.stream, line(number, "one"), reader)

    def broken(data: bytes) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(small_reads, "recognisable", broken)
    reads.take()
    assert [str(reader.error) for reader in readers] == ["a bug", "a bug"]
    monkeypatch.undo()
    assert reads.add(readers[0].stream, line(0, "two"), readers[0])
    reads.take()
    made.router.flush()
    assert len(made.lines(1)) == 1
