"""The delivery loop in memory, on a mock clock: when it dials, waits, closes and tells."""

import re

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drains.alarms import Alarms
from drains.delivery import Delivery
from drains.http import HttpDelivery
from drains.limits import Limits, Pace, Share, Wakeups
from drains.rendered import Rendered
from drains.site import Site
from drains.state import DrainState
from drains.status import Failure, State
from drains.syslog import SyslogDelivery
from logplex.batch import Batch

from .memory import Door, MemoryLink, TightLink
from .world import OK, World, spec, texts

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 7200\r\n\r\n"


class Rig:
    """A delivery, its world, and a door that opens links in memory."""

    def __init__(
        self, url: str, limits: Limits | None = None, *, world: World | None = None, **options: object
    ) -> None:
        limits = limits or Limits()
        self.world = world or World()
        self.door = Door()
        self.site = Site(
            limits=limits,
            dial=self.door.dial,
            tell=self.world.tell,
            version="0.0",
            rendered=Rendered(limits.rendered_bytes, limits.rendered_bytes),
            connections=Share(limits.connections, limits.connections),
            retries=Pace(limits.retries_per_second, limits.retries_at_once, limits.retries_at_once_per_app),
            redials=Pace(limits.redials_per_second, limits.retries_at_once, limits.retries_at_once_per_app),
            dials=Wakeups(limits.dials_in_a_turn),
            alarms=Alarms(),
            wall=lambda: 1_770_000_000 + trio.current_time(),
        )
        kind = HttpDelivery if url.startswith("http") else SyslogDelivery
        state = DrainState(7, 1, self.world.channel.epoch, 0)
        self.delivery: Delivery = kind(spec(url, **options), self.world.channel, state, self.site)

    def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.site.retries.run)
        nursery.start_soon(self.site.redials.run)
        nursery.start_soon(self.site.dials.run)
        nursery.start_soon(self.site.alarms.run)
        nursery.start_soon(self.delivery.run)

    async def begin(self, nursery: trio.Nursery) -> MemoryLink:
        """Start, and have a first line sent: the link on which it went out."""
        self.start(nursery)
        self.write(b"a")
        await self.quiet()
        return self.door.link

    def write(self, *lines: bytes) -> None:
        self.world.write(*lines)

    async def quiet(self) -> None:
        await wait_all_tasks_blocked()


async def test_an_idle_http_connection_is_closed_after_144_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example")
    rig.start(nursery)
    await rig.quiet()
    assert rig.door.links == []
    rig.write(b"a")
    await rig.quiet()
    rig.door.link.answer(OK)
    await trio.sleep(143)
    assert not rig.door.link.closed
    await trio.sleep(2)
    assert rig.door.link.closed
    assert rig.site.connections.used == 0
    rig.write(b"b")
    await rig.quiet()
    assert len(rig.door.links) == 2
    assert rig.door.link.sent.endswith(b" - b\n")


@pytest.mark.parametrize("url", ["http://a.example", "syslog://a.example"])
async def test_a_connection_is_renewed_after_five_hours(
    url: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig(url)
    rig.start(nursery)
    await rig.quiet()
    for _ in range(5 * 60 + 2):
        rig.write(b"a")
        await rig.quiet()
        if url.startswith("http"):
            rig.door.link.answer(OK)
        await trio.sleep(60)
    assert len(rig.door.links) == 2
    assert rig.delivery.health.error is None
    rig.delivery.settle()
    assert rig.delivery.state.delivered == 302


async def test_a_busy_syslog_connection_is_not_taken_for_idle(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("syslog://a.example")
    rig.start(nursery)
    for _ in range(20):
        rig.write(b"a")
        await trio.sleep(100)
    assert len(rig.door.links) == 1
    await trio.sleep(300)
    assert rig.door.link.closed
    assert rig.delivery.state.delivered == 20


async def test_a_request_takes_30_seconds_at_most(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("http://a.example")
    await rig.begin(nursery)
    rig.door.link.answer(OK)
    await trio.sleep(100)
    rig.write(b"b")  # sent in the commit, while the task waits for the connection to be idle for 144 s
    await trio.sleep(26.9)
    assert not rig.door.links[0].closed
    await trio.sleep(3.2)
    assert rig.door.links[0].closed
    assert rig.delivery.health.error is not None
    assert rig.delivery.health.error.kind == "timeout"
    assert rig.delivery.state.cut == (1, 2)


async def test_a_dribbling_answer_is_read_ever_less_often(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("http://a.example", Limits(pause_seconds=0))
    await rig.begin(nursery)
    rests: list[float] = []
    rig.door.link.rest = rests.append  # type: ignore[method-assign]
    for byte in b"HTTP/1.1 200 ":
        rig.door.link.answer(bytes([byte]))
    assert rests == [0.25, 0.5, 1, 2, 4, 8, 8, 8, 8]  # the first four bytes are what an ordinary answer may come in
    rig.door.link.answer(b"OK\r\nContent-Length: 100\r\n\r\n")
    for _ in range(99):
        rig.door.link.answer(b"x")
    assert len(rests) > 40
    rests.clear()
    rig.door.link.answer(b"x")
    rig.write(b"b")
    rig.door.link.answer(OK)
    assert rests == []  # the next answer is not looked at later because of this one
    assert rig.delivery.state.delivered == 2
    rig.write(b"c")
    rig.door.link.answer(b"H")
    await trio.sleep(40)
    assert rig.delivery.health.error is not None
    assert rig.delivery.health.error.kind == "timeout"


async def test_failures_back_off_up_to_five_minutes_and_are_told_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("https://user:secret@a.example/path?key=secret")
    rig.door.failures = [Failure("refused", "connection refused") for _ in range(40)]
    rig.start(nursery)
    rig.write(b"a")
    await rig.quiet()
    assert rig.delivery.status().state is State.BACKING_OFF
    assert rig.delivery.status().until is not None
    while len(rig.door.dialled_at) < 40:
        rig.write(b"more")
        await trio.sleep(10)
    waits = [later - earlier for earlier, later in zip(rig.door.dialled_at, rig.door.dialled_at[1:], strict=False)]
    for number, wait in enumerate(waits):
        assert 0.099 <= wait <= min(300, 2**number) + 0.001
    assert max(waits) > 60
    assert len(rig.world.told) == 1
    assert b"https://a.example:443/path" in rig.world.told[0][1]
    assert b"secret" not in rig.world.told[0][1]
    for _ in range(3010):
        if not rig.door.links:
            await trio.sleep(0.1)
    rig.door.link.answer(OK)
    assert len(rig.world.told) == 2
    assert rig.world.told[1][0] == 174
    assert rig.delivery.status().to_dict()["state"] == "delivering"


async def test_at_most_two_lines_are_told_in_ten_minutes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("http://a.example")
    rig.start(nursery)
    for _ in range(30):
        rig.door.failures = [Failure("refused", "connection refused")]
        rig.write(b"a")
        await trio.sleep(2)
        rig.door.link.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        await trio.sleep(10)
    assert len(rig.world.told) == 2
    await trio.sleep(600)
    rig.door.failures = [Failure("refused", "connection refused")]
    rig.write(b"a")
    await rig.quiet()
    assert len(rig.world.told) == 3


async def test_retry_after_is_honoured_up_to_an_hour(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("http://a.example")
    await rig.begin(nursery)
    rig.door.link.answer(BUSY)
    await rig.quiet()
    assert rig.delivery.waits_beyond(rig.site.wall() + 3599)
    await trio.sleep(3599)
    assert len(rig.door.links) == 1
    await trio.sleep(2)
    assert len(rig.door.links) == 2


async def test_a_refusal_by_policy_is_a_state_of_its_own_and_retried(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example")
    rig.door.failures = [Failure("policy", "loopback address")]
    rig.start(nursery)
    rig.write(b"a")
    await rig.quiet()
    assert rig.delivery.status().state is State.REFUSED
    await trio.sleep(2)
    assert rig.door.links


async def test_what_is_not_acknowledged_stays_pending(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("syslog://a.example")
    await rig.begin(nursery)
    rig.write(b"b", b"c")
    link = rig.door.link
    assert texts(bytes(link.sent)) == [b"a", b"b", b"c"]
    frame = len(link.sent) // 3
    for held, pending in ((3 * frame, 3), (2 * frame + 1, 3), (2 * frame, 2), (1, 2), (0, 0)):
        link.held = held
        assert rig.delivery.status().pending == pending
        assert rig.delivery.state.balances()


async def test_after_a_break_nothing_that_was_not_covered_is_missing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("syslog://a.example")
    await rig.begin(nursery)
    rig.write(b"b", b"c", b"d")
    first = rig.door.link
    first.held = len(first.sent) // 4 + 3
    first.answer(b"")
    await trio.sleep(1)
    second = rig.door.link
    assert second is not first
    assert texts(bytes(second.sent)) == [b"c", b"d"]
    assert rig.delivery.status().delivered == 4


async def test_a_receiver_that_acknowledges_nothing_costs_a_bounded_number_of_marks(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("syslog://a.example")
    link = await rig.begin(nursery)
    link.held = 1 << 40
    for _ in range(2000):
        rig.write(b"b", b"c")
    assert isinstance(rig.delivery, SyslogDelivery)
    assert len(rig.delivery._marks.waiting) < 300
    frame = len(link.sent) // 4001
    link.held = frame * 3 + 1
    link.answer(b"")
    await trio.sleep(2)
    again = texts(bytes(rig.door.link.sent))
    assert rig.door.link is not link
    assert len(again) >= 4
    assert again[-2:] == [b"b", b"c"]
    status = rig.delivery.status()
    assert (status.delivered, status.pending) == (4001, 0)


async def test_a_bug_in_notify_reaches_only_the_drains_own_task(autojump_clock: MockClock) -> None:
    rig = Rig("syslog://a.example")
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the nursery raises what its task did
        async with trio.open_nursery() as nursery:
            rig.start(nursery)
            rig.write(b"a")
            await rig.quiet()
            rig.door.link.send = None  # type: ignore[assignment,method-assign]
            rig.write(b"b")
            await rig.quiet()
    assert caught.group_contains(TypeError)


async def test_a_link_that_is_idle_is_given_up_when_connections_are_short(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("syslog://a.example")
    await rig.begin(nursery)
    assert rig.delivery.drop_idle_link()
    await trio.sleep(0.1)
    assert rig.door.link.closed
    assert not rig.delivery.drop_idle_link()
    rig.write(b"b")
    await rig.quiet()
    assert texts(bytes(rig.door.link.sent)) == [b"b"]


async def test_linger_gathers_lines(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("http://a.example", linger=2)
    rig.start(nursery)
    for number in range(10):
        rig.write(b"%d" % number)
        await trio.sleep(0.15)
    await trio.sleep(1)
    assert len(rig.door.links) == 1
    assert b"Logplex-Msg-Count: 10\r\n" in rig.door.link.sent
    rig.door.link.answer(OK)
    rig.write(b"more")
    await rig.quiet()
    assert rig.door.link.sent.count(b"POST") == 1
    rig.delivery.hurry()
    await rig.quiet()
    assert rig.door.link.sent.count(b"POST") == 2


async def test_who_lingers_does_not_wait_for_more_than_enough(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example", Limits(batch_bytes=1000, max_batch_bytes=1000), linger=60)
    rig.start(nursery)
    rig.write(b"a" * 200)
    await trio.sleep(1)
    assert not rig.door.links[0].sent
    rig.write(b"b" * 300)  # together half of what a request carries
    await rig.quiet()
    link = rig.door.link
    assert counts(link.sent) == [2]
    for _ in range(8):
        rig.write(b"c" * 400)  # comes before the answer: it is behind
    for _ in range(4):
        link.answer(OK)
        await rig.quiet()
    assert counts(link.sent) == [2, 2, 2, 2, 2]
    link.answer(OK)
    rig.write(b"d" * 200)
    await trio.sleep(59)
    assert counts(link.sent) == [2, 2, 2, 2, 2]
    await trio.sleep(2)
    assert counts(link.sent) == [2, 2, 2, 2, 2, 1]


def counts(sent: bytes | bytearray) -> list[int]:
    """How many frames each request says that it holds."""
    return [int(count) for count in re.findall(rb"Logplex-Msg-Count: (\d+)", sent)]


@pytest.mark.parametrize("options", [{}, {"format": "json"}])
async def test_requests_of_a_busy_channel_are_few_and_a_quiet_ones_go_at_once(
    options: dict[str, object], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example", **options)
    rig.start(nursery)
    requests: list[list[int]] = []  # what has been sent after each line, or each wait
    for step in range(42):
        if step < 20:
            rig.write(b"%d" % step)  # from 0 to 380 ms
        await rig.quiet()
        sent = counts(rig.door.link.sent)
        if (requests and len(sent) > len(requests[-1])) or not requests:
            rig.door.link.answer(OK)
        requests.append(sent)
        await trio.sleep(0.02)
    assert requests[4] == [1]
    assert [len(requests[-1]), sum(requests[-1])] == [3, 20]
    for _ in range(3):
        rig.write(b"again")
        await rig.quiet()  # at once
        rig.door.link.answer(OK)
        await trio.sleep(0.3)
    assert counts(rig.door.link.sent) == [*requests[-1], 1, 1, 1]
    assert len(rig.door.links) == 1
    assert rig.delivery.state.delivered == 23


async def test_much_does_not_wait_for_more(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rig = Rig("http://a.example", Limits(batch_bytes=1000, max_batch_bytes=1000, pause_seconds=60))
    rig.start(nursery)
    rig.write(b"first")
    await rig.quiet()
    link = rig.door.link
    link.answer(OK)
    rig.write(b"a" * 200)
    await rig.quiet()
    assert counts(link.sent) == [1]
    rig.write(b"b" * 300)  # together half of what a request carries
    assert counts(link.sent) == [1, 2]
    rig.write(b"c" * 600)  # comes before the answer, and is enough
    link.answer(OK)
    assert counts(link.sent) == [1, 2, 1]
    link.answer(OK)
    rig.write(b"d")
    await trio.sleep(30)
    assert counts(link.sent) == [1, 2, 1]
    rig.delivery.hurry()  # the server stops
    assert counts(link.sent) == [1, 2, 1, 1]
    link.answer(OK)
    rig.write(b"e")
    assert counts(link.sent) == [1, 2, 1, 1, 1]


async def test_a_pause_lasts_as_long_after_a_request_that_was_full(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example", Limits(batch_bytes=1000, max_batch_bytes=1000, pause_seconds=1))
    link = await rig.begin(nursery)
    link.answer(OK)
    rig.write(b"a" * 100)  # waits until 1 s after the first
    await trio.sleep(0.8)
    rig.write(b"b" * 500)
    assert counts(link.sent) == [1, 2]
    link.answer(OK)
    rig.write(b"c" * 100)  # waits until 1 s after the second
    await trio.sleep(0.9)
    assert counts(link.sent) == [1, 2]
    await trio.sleep(0.2)
    assert counts(link.sent) == [1, 2, 1]


@pytest.mark.parametrize("options", [{}, {"format": "json"}])
async def test_what_has_waited_together_goes_together_up_to_the_most(
    options: dict[str, object], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example", Limits(batch_bytes=1000, max_batch_bytes=10_000, pause_seconds=1), **options)
    link = await rig.begin(nursery)
    link.answer(OK)
    await rig.quiet()
    for _ in range(4):
        rig.write(b"x" * 700)
        await rig.quiet()
    assert counts(link.sent) == [1]
    await trio.sleep(1.1)
    assert counts(link.sent) == [1, 4]
    for _ in range(20):
        rig.write(b"x" * 700)  # comes before the answer
    while rig.delivery.state.delivered < 25:
        link.answer(OK)
        await trio.sleep(1.1)
    assert sum(counts(link.sent)) == 25
    sizes = [int(size) for size in re.findall(rb"Content-Length: (\d+)", link.sent)]
    assert 2000 < max(sizes) <= 10_000


async def test_a_connection_with_lines_that_wait_is_not_given_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example")
    link = await rig.begin(nursery)
    link.answer(OK)
    rig.write(b"b")
    assert not rig.delivery.drop_idle_link()
    await trio.sleep(0.3)
    link.answer(OK)
    assert rig.delivery.drop_idle_link()


async def test_a_connection_that_ends_while_lines_wait_costs_none_of_them(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig("http://a.example")
    await rig.begin(nursery)
    rig.door.link.answer(OK)
    rig.write(b"b")
    rig.door.link.answer(b"")  # the end
    await trio.sleep(0.3)
    assert len(rig.door.links) == 2
    assert counts(rig.door.link.sent) == [1]
    rig.door.link.answer(OK)
    assert rig.delivery.state.delivered == 2
    assert rig.delivery.state.retried == 0


async def test_pieces_of_the_spool_grow_while_the_kernel_takes_them_and_little_is_kept_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(ring_lines=10)
    rig = Rig("syslog://a.example", Limits(batch_bytes=1000, max_batch_bytes=2000), world=world)
    rig.door.make = TightLink
    asked: list[int] = []
    read = world.spool.read

    async def watched(channel_id: int, cursor: int, end: int, max_bytes: int) -> list[Batch]:
        asked.append(max_bytes)
        return await read(channel_id, cursor, end, max_bytes)

    monkeypatch.setattr(world.spool, "read", watched)
    written = world.numbers(1000, batch=5)
    rig.start(nursery)
    await rig.quiet()
    link = rig.door.link
    assert isinstance(link, TightLink)
    assert asked == [2000]
    kept = rig.site.rendered.used
    link.take(kept + 2500 + 4500 + 1000)  # three pieces, and some of a fourth
    await rig.quiet()
    assert asked == [2000, 2000, 4000, 8000]
    assert 2000 <= rig.site.rendered.used < 2200
    link.take(1 << 20)
    await rig.quiet()
    assert asked[4:7] == [2000, 4000, 8000]
    assert rig.site.rendered.used == 0
    assert texts(bytes(link.sent)) == written
    rig.delivery.settle()
    assert rig.delivery.state.delivered == 1000
