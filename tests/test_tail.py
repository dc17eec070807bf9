"""Tails and their fan-out: nothing is missing, nothing comes twice, and what is gone is counted."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from logplex.fanout import Tails
from logplex.filters import Filter
from logplex.rendering import Id, View, notice, parse_id, render
from logplex.tail import STALL_SECONDS, Start, Tail, start_after, start_at_backlog, start_at_time
from tests.readers import AT, EPOCH, Socket, Source, events, plain

L11 = re.compile(
    rb"\S+ heroku\[logplex\]: Error L11 \(Tail buffer overflow\) -> "
    rb"This tail session dropped (\d+) messages since (\S+)\.\n"
)


@asynccontextmanager
async def running(heartbeat_seconds: float = 10.0) -> AsyncIterator[tuple[Tails, trio.Nursery]]:
    tails = Tails(heartbeat_seconds=heartbeat_seconds)
    async with trio.open_nursery() as nursery:
        await nursery.start(tails.run)
        yield tails, nursery
        nursery.cancel_scope.cancel()


async def follow(tails: Tails, tail: Tail) -> None:
    """As a connection's task does it."""
    try:
        await tails.follow(tail)
    except trio.BrokenResourceError:
        return


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def here(source: Source) -> Start:
    head = source.channel.head
    return Start(head, head, AT)


def account(taken: bytes) -> list[int | tuple[int, int]]:
    """Numbers in the order shown; an L11 as (first, end) of what it says is gone, from what surrounds it."""
    seen: list[int] = []
    for line in taken.splitlines(keepends=True):
        told = L11.fullmatch(line)
        if told:
            start = seen[-1] + 1 if seen else 0
            seen += range(start, start + int(told[1]))
        else:
            seen.append(int(line.rpartition(b" ")[2]))
    return list(seen)


async def backlog(source: Source, view: View, num: int) -> bytes:
    socket = Socket()
    start = await start_at_backlog(source.channel, view.filter, num)
    await Tail(source.channel, socket, view, start).backlog(source.channel.head)
    return socket.taken


async def shown(view: View, source: Source) -> bytes:
    batches = source.spool.batches
    return await render(view, [(batch, batch.lines()) for batch in batches], EPOCH)


# What a line looks like.


async def test_a_plain_line_has_time_source_process_message_and_one_lf() -> None:
    source = Source()
    source.write(b"hello", b"", b"a\nb", b"\xff\x00")
    source.write(b"by the platform", source=b"heroku", process=b"-")
    assert await shown(plain(), source) == (
        b"T app[web.1]: hello\nT app[web.1]: \nT app[web.1]: a\nb\nT app[web.1]: \xff\x00\nT heroku: by the platform\n"
    )


async def test_cr_and_lf_in_a_line_do_not_break_an_event() -> None:
    source = Source()
    source.write(b"a\nid: evil\r\rdata: x\r\n\r\nb\x00", process=b"-")
    assert await shown(events(), source) == (
        b"id: 00000000000000aa.0\ndata: T app: a\ndata: id: evil\ndata: \ndata: data: x\ndata: \ndata: b\x00\n\n"
    )


@given(st.lists(st.binary(max_size=8).map(lambda text: b"x" + text), min_size=1, max_size=5))
def test_every_line_is_one_event_with_its_own_text(texts: list[bytes]) -> None:
    async def main() -> bytes:
        source = Source()
        source.write(*texts)
        return await shown(events(), source)

    found = []
    for block in re.split(rb"\n\n", trio.run(main))[:-1]:  # as a parser of the standard reads it
        fields = [line.partition(b": ") for line in re.split(rb"\r\n|\r|\n", block)]
        assert fields[0][0] == b"id"
        assert {name for name, _, _ in fields[1:]} == {b"data"}
        found.append(b"\n".join(value for _, _, value in fields[1:]))
    assert found == [b"T app[web.1]: " + re.sub(rb"\r\n|\r", b"\n", text) for text in texts]


def test_ids_are_read_back_and_rubbish_is_none() -> None:
    assert parse_id(f"{EPOCH}.17") == Id(EPOCH, 17)
    assert parse_id(f"{EPOCH}.-1") == Id(EPOCH, -1)
    for rubbish in ("", "17", f"{EPOCH}.", f"{EPOCH}.-2", f"{EPOCH}.1 ", f"{EPOCH.upper()}.1", f"{EPOCH}.{'9' * 30}"):
        assert parse_id(rubbish) is None


# Where a reader starts.


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(0, 30), st.integers(0, 20), st.booleans())
def test_backlog_is_the_newest_lines_after_filtering(sizes: list[int], num: int, forgotten: int, odd: bool) -> None:
    async def main() -> None:
        source = Source(ring_lines=3)
        for size in sizes:
            source.number(size)
        source.forget(min(forgotten, source.channel.head))
        held = range(min(source.channel.oldest, source.channel.head), source.channel.head)
        wanted = [number for number in held if not odd or number % 2]
        view = plain(pattern="[13579]$") if odd else plain()
        lines = await backlog(source, view, num)
        assert account(lines) == (wanted[-num:] if num else [])

    trio.run(main)


async def test_a_channel_without_history_has_no_backlog() -> None:
    source = Source()
    source.number(3)
    source.channel.no_history = True
    assert await backlog(source, plain(), 100) == b""


async def test_since_starts_at_the_first_line_received_then() -> None:
    source = Source(ring_lines=2)
    for minute in range(5):
        source.write(b"%d" % (2 * minute), b"%d" % (2 * minute + 1), at=AT + minute * 60_000)
    assert (await start_at_time(source.channel, AT + 120_000)).cursor == 4
    assert (await start_at_time(source.channel, AT + 120_001)).cursor == 6
    assert (await start_at_time(source.channel, 0)).cursor == 0
    assert (await start_at_time(source.channel, AT + 999_000)).cursor == 10
    late = Filter.parse({"since": (AT + 120_000) / 1000})
    assert (await start_at_backlog(source.channel, late, 100)).cursor == 4
    assert (await start_at_backlog(source.channel, late, 3)).cursor == 7


def test_an_id_resumes_behind_its_line_and_one_of_an_older_epoch_at_the_start_of_the_next() -> None:
    source = Source(first=10)
    source.number(3)
    assert start_after(source.channel, Id(EPOCH, 10), AT) == Start(11, 11, AT)
    assert start_after(source.channel, Id(EPOCH, 12), AT) == Start(13, 13, AT)
    assert start_after(source.channel, Id("00000000000000bb", 5), AT) == Start(10, 10, AT)
    assert start_after(source.channel, Id(EPOCH, 13), AT) is None
    source.channel.past = (("00000000000000aa", 2), ("00000000000000bb", 6))
    assert start_after(source.channel, Id("00000000000000aa", 5), AT) == Start(6, 6, AT)
    assert start_after(source.channel, Id("00000000000000bb", 5), AT) == Start(10, 10, AT)
    assert start_after(source.channel, Id("00000000000000cc", 5), AT) == Start(2, 2, AT)


# The join of backlog and live.


async def test_backlog_and_live_join_without_gap_or_repeat(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    source.number(20)
    async with running() as (tails, nursery):
        slow, quick = Socket(30), Socket()
        for socket in (slow, quick):
            start = await start_at_backlog(source.channel, plain().filter, 10)
            nursery.start_soon(follow, tails, Tail(source.channel, socket, plain(), start))
        for _ in range(20):
            source.number(3)
            slow.read(20)
            await settle()
        slow.read(None)
        await settle()
        assert account(quick.taken) == account(slow.taken) == list(range(10, 80))
        assert len(tails) == 2
    assert source.channel.followers == []


async def test_a_line_that_comes_while_the_fan_out_lags_is_shown_once(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    async with running() as (tails, nursery):
        sockets = [Socket() for _ in range(50)]
        for number, socket in enumerate(sockets):
            source.number(1)  # every tail starts at a head that the fan-out has not seen
            nursery.start_soon(follow, tails, Tail(source.channel, socket, plain(), here(source)))
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        source.number(1)
        await settle()
        assert [account(socket.taken) for socket in sockets] == [list(range(n + 1, 51)) for n in range(50)]


async def test_what_nobody_holds_any_more_is_told_exactly_and_once(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(ring_lines=4)
    async with running() as (tails, nursery):
        socket = Socket(15)  # half a line too little for the second
        nursery.start_soon(follow, tails, Tail(source.channel, socket, plain(source="none of these"), here(source)))
        quick = Socket(15)
        nursery.start_soon(follow, tails, Tail(source.channel, quick, plain(), here(source)))
        await settle()
        source.number(1)
        await settle()
        for _ in range(25):
            source.number(4)
            await settle()
        source.forget(90)
        quick.read(None)
        await settle()
        told = L11.search(quick.taken)
        assert told is not None
        assert told[2] == b"2023-11-14T22:13:20.000+00:00"
        assert len(L11.findall(quick.taken)) == 1
        assert account(quick.taken) == list(range(101))
        assert socket.taken == b""  # it kept up: everything was filtered


async def test_no_filter_hides_l11(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(ring_lines=2)
    for _ in range(5):
        source.number(2)
    source.forget(8)
    async with running() as (tails, nursery):
        socket = Socket()
        view = plain(text="nothing like this")
        nursery.start_soon(follow, tails, Tail(source.channel, socket, view, Start(0, 3, AT)))
        await settle()
        assert account(socket.taken) == [0, 1, 2, 3, 4]  # five of eight were promised; nothing else is shown
        assert len(L11.findall(socket.taken)) == 1


async def test_backlog_that_goes_while_it_is_read_was_never_promised() -> None:
    source = Source(ring_lines=2)
    source.number(10)
    source.number(2)
    socket = Socket()
    tail = Tail(source.channel, socket, plain(), await start_at_backlog(source.channel, Filter(), 100))
    source.forget(7)
    await tail.backlog(source.channel.head)
    assert account(socket.taken) == [7, 8, 9, 10, 11]


async def test_backlog_ends_at_the_head_of_its_beginning() -> None:
    source = Source()
    source.number(5)
    socket = Socket(0)
    tail = Tail(source.channel, socket, plain(), await start_at_backlog(source.channel, Filter(), 100))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tail.backlog, source.channel.head)
        await settle()
        source.number(5)
        socket.read(None)
    assert account(socket.taken) == [0, 1, 2, 3, 4]
    assert tail.cursor == 5


async def test_a_spool_that_fails_costs_readers_what_only_it_holds(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(ring_lines=4)
    for _ in range(10):
        source.number(2)
    source.spool.fails = True
    assert account(await backlog(source, plain(), 100)) == [16, 17, 18, 19]
    assert account(await backlog(source, plain(pattern="[13579]$"), 100)) == [17, 19]
    assert (await start_at_time(source.channel, 0)).cursor == 16
    async with running() as (tails, nursery):
        behind, quick = Socket(), Socket()
        nursery.start_soon(follow, tails, Tail(source.channel, behind, plain(), Start(0, 0, AT)))
        nursery.start_soon(follow, tails, Tail(source.channel, quick, plain(), here(source)))
        await settle()
        for _ in range(10):
            source.number(2)  # more than the ring holds, in one go: the fan-out falls behind it
        await settle()
        assert account(behind.taken) == list(range(40))
        assert [len(L11.findall(socket.taken)) for socket in (behind, quick)] == [2, 1]
        assert quick.taken.endswith(b": 39\n")


class Reader:
    """A client that resumes by the last id it saw."""

    def __init__(self) -> None:
        self.socket = Socket()
        self.seen: list[int] = []
        self.last_id = f"{EPOCH}.-1"

    def hang_up(self) -> None:
        self.socket.hang_up()
        self.digest()

    def digest(self) -> None:
        taken, self.socket.taken = self.socket.taken, b""
        whole, _, _ = taken.rpartition(b"\n\n")  # a block that was cut off does not count
        for block in whole.split(b"\n\n"):
            for line in block.splitlines():
                if line.startswith(b"id: "):
                    self.last_id = line[4:].decode()
                else:
                    lost = re.search(rb"dropped (\d+) messages", line)
                    start = self.seen[-1] + 1 if self.seen else 0
                    numbers = range(start, start + int(lost[1])) if lost else [int(line.rpartition(b" ")[2])]
                    self.seen += numbers


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 5)),
    st.tuples(st.just("forget"), st.integers(0, 12)),
    st.tuples(st.just("read"), st.integers(0, 200)),
    st.tuples(st.just("hang up"), st.integers(0, 80)),
    st.tuples(st.just("settle"), st.just(0)),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2), steps), max_size=40))
def test_every_position_is_shown_or_counted_once_over_any_number_of_breaks(
    script: list[tuple[int, tuple[str, int]]],
) -> None:
    async def main() -> None:
        source = Source(ring_lines=3)
        readers = [Reader() for _ in range(3)]
        async with running() as (tails, nursery):

            def connect(reader: Reader, room: int | None) -> None:
                place = parse_id(reader.last_id)
                assert place is not None
                start = start_after(source.channel, place, AT)
                assert start is not None
                reader.socket = Socket(room)
                nursery.start_soon(follow, tails, Tail(source.channel, reader.socket, events(), start))

            for reader in readers:
                connect(reader, None)
            for number, (action, value) in script:
                reader = readers[number]
                if action == "write":
                    source.number(value)
                elif action == "forget":
                    source.forget(max(source.spool.oldest, source.channel.head - value))
                elif action == "read":
                    reader.socket.read(value)
                elif action == "hang up":
                    reader.hang_up()
                    connect(reader, value)
                else:
                    await settle()
            for reader in readers:
                reader.socket.read(None)
            await settle()
            for reader in readers:
                reader.hang_up()
            assert [reader.seen for reader in readers] == [list(range(source.channel.head))] * 3

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# Heartbeats and ends.


async def test_a_silent_stream_of_events_gets_its_place_within_the_heartbeat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with running(heartbeat_seconds=10) as (tails, nursery):
        filtered, all_lines, text = Socket(), Socket(), Socket()
        nursery.start_soon(follow, tails, Tail(source.channel, filtered, events(source="other"), here(source)))
        nursery.start_soon(follow, tails, Tail(source.channel, all_lines, events(), here(source)))
        nursery.start_soon(follow, tails, Tail(source.channel, text, plain(), here(source)))
        await trio.sleep(5)
        source.number(2)
        await trio.sleep(6)
        assert filtered.taken == b"id: %b.-1\n\nid: %b.1\n\n" % (EPOCH.encode(), EPOCH.encode())
        assert all_lines.taken.count(b"id: ") == 3
        await trio.sleep(5)
        assert all_lines.taken.endswith(b"data: T app[web.1]: 1\n\nid: %b.1\n\n" % EPOCH.encode())
        assert text.taken == b"T app[web.1]: 0\nT app[web.1]: 1\n"


async def test_a_tail_ends_when_its_peer_goes_and_when_it_reads_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with running() as (tails, nursery):
        gone, stuck = Socket(), Socket(1)
        for socket in (gone, stuck):
            nursery.start_soon(follow, tails, Tail(source.channel, socket, plain(), here(source)))
        await settle()
        gone.hang_up()
        await settle()
        assert len(tails) == 1
        source.number(1)
        await trio.sleep(STALL_SECONDS - 1)
        assert len(tails) == 1
        await trio.sleep(2)
        assert len(tails) == 0


async def test_a_tail_ends_at_the_time_up_to_which_its_filter_lets_lines_pass(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    source.number(2)
    source.write(b"2", at=AT + 1000)
    async with running() as (tails, _):
        past = Socket()
        await tails.follow(Tail(source.channel, past, plain(until=AT / 1000 + 1), Start(0, 0, AT)))
        assert account(past.taken) == [0, 1]
        soon = Socket()
        await tails.follow(Tail(source.channel, soon, plain(until=time.time() + 0.02), Start(1, 1, AT)))
        assert soon.taken == b"T app[web.1]: 1\nT app[web.1]: 2\n"


async def test_forbidden_tails_end_with_l20_even_when_their_peer_was_slow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with running() as (tails, nursery):
        idle, slow, stuck = Socket(), Socket(3), Socket(3)
        for socket, view in ((idle, events()), (slow, plain()), (stuck, plain())):
            nursery.start_soon(follow, tails, Tail(source.channel, socket, view, here(source)))
        await settle()
        source.number(1)
        await settle()
        source.channel.no_tail = True
        tails.flags_changed(1)
        await settle()
        slow.read(None)
        await settle()
        said = (
            b"heroku[logplex]: Error L20 (Tail sessions forbidden) Tail sessions for this app are forbidden due to log"
        )
        assert said in idle.taken
        assert slow.taken.startswith(b"T app[web.1]: 0\n")
        assert slow.taken.endswith(b" volume.\n")
        assert len(tails) == 1
        await trio.sleep(10)
        assert len(tails) == 0


async def test_the_streams_of_a_deleted_channel_end(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    source.number(3)
    async with running() as (tails, nursery):
        sockets = [Socket(), Socket(2)]
        for socket in sockets:
            nursery.start_soon(follow, tails, Tail(source.channel, socket, plain(), Start(0, 0, AT)))
        await settle()
        source.channel.removed = True
        source.channel.release_ring()
        tails.end_channel(1)
        await trio.sleep(10)
        assert len(tails) == 0
        assert b"L11" not in sockets[0].taken


@pytest.mark.parametrize("sse", [False, True])
async def test_a_stream_that_opens_while_its_channel_is_deleted_ends(
    sse: bool, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    source.number(3)
    async with running() as (tails, _):
        source.channel.removed = True
        source.channel.release_ring()
        tails.end_channel(source.channel.id)
        head = source.channel.head
        with trio.fail_after(1):
            await tails.follow(Tail(source.channel, Socket(), events() if sse else plain(), Start(head, head, AT)))
        assert len(tails) == 0


async def test_a_stream_that_opens_while_the_others_of_a_deleted_channel_end_stops_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(ring_lines=1000)
    async with running() as (tails, nursery):
        nursery.start_soon(tails.follow, Tail(source.channel, Socket(room=1), plain(), Start(0, 0, AT)))
        await trio.testing.wait_all_tasks_blocked()
        source.number(3)
        await trio.testing.wait_all_tasks_blocked()
        source.number(3)  # the fan-out has not shown them yet
        head = source.channel.head
        source.channel.removed = True
        source.channel.release_ring()
        tails.end_channel(source.channel.id)
        with trio.fail_after(1):
            await tails.follow(Tail(source.channel, Socket(), plain(), Start(head, head, AT)))


async def test_equal_views_share_one_rendering_and_one_write_a_round(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(ring_lines=1000)
    async with running() as (tails, nursery):
        sockets = [Socket() for _ in range(100)]
        for socket in sockets:
            nursery.start_soon(follow, tails, Tail(source.channel, socket, plain(ps="web"), here(source)))
        await settle()
        source.number(50)
        await settle()
        assert {socket.sends for socket in sockets} == {1}
        assert len({id(tail.view) for fan in tails._fanouts.values() for tail in fan.tails}) == 100
        assert {account(socket.taken)[-1] for socket in sockets} == {49}


@pytest.mark.parametrize("sse", [False, True])
def test_our_own_lines_are_whole(sse: bool) -> None:
    made = notice(b"Error X", sse=sse, epoch=EPOCH, position=4)
    line = rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 heroku\[logplex\]: Error X\n"
    assert re.fullmatch(rb"id: 00000000000000aa\.4\ndata: " + line + rb"\n" if sse else line, made)


def test_readers_of_equal_filters_have_equal_views() -> None:
    assert View(Filter.parse({"ps": "web"})) == plain(ps="web")
    assert View(Filter.parse({"ps": "web"}), sse=True) != plain(ps="web")
