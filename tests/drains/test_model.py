"""Deliveries under a random life: small kernels, late acknowledgements, breaks, refusals, a spool that forgets.

The oracle is what the receiver holds. Every line is there, or refused, or counted lost with the right number; what the
cursor calls delivered is there; order holds on every connection; the page balances at every step.
"""

from collections.abc import Callable
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from drains.alarms import Alarms
from drains.delivery import Delivery
from drains.http import HttpDelivery
from drains.limits import Limits, Pace, Share, Wakeups
from drains.link import Buffer
from drains.rendered import Rendered
from drains.site import Site
from drains.state import DrainState
from drains.status import Failure
from drains.syslog import SyslogDelivery

from .memory import MemoryLink, TightLink
from .world import World, frames, spec


class SmallLink(TightLink):
    """A kernel that takes `room` more bytes, of which the peer's has acknowledged some."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.acknowledged = 0

    def unacknowledged(self) -> int:
        return len(self.sent) - self.acknowledged

    def acknowledge(self, share: float) -> None:
        self.acknowledged += int(self.unacknowledged() * share)

    def texts(self) -> list[bytes]:
        """Of the lines that the peer's kernel has whole, but for L10."""
        found = [frame.split(b" ", 7) for frame in frames(bytes(self.sent[: self.acknowledged]))]
        return [parts[7][:-1] for parts in found if parts[3] == b"app"]


class Life:
    """A delivery and what happens to it, in steps."""

    def __init__(self, url: str, make: type[Delivery], new_link: Callable[[], Any], **options: Any) -> None:
        limits = Limits(
            batch_bytes=3000, max_batch_bytes=9000, rendered_bytes=6000, backoff_seconds=0.1, max_backoff_seconds=0.2
        )
        self.world = World(ring_lines=20)
        self.links: list[Any] = []
        self.new_link = new_link
        self.site = Site(
            limits=limits,
            dial=self.dial,
            tell=self.world.tell,
            version="0",
            rendered=Rendered(6000, 6000),
            connections=Share(1, 1),
            retries=Pace(1000, 10, 10),
            redials=Pace(1000, 10, 10),
            dials=Wakeups(10),
            alarms=Alarms(),
            wall=lambda: 1_770_000_000 + trio.current_time(),
        )
        self.options = options
        self.state = DrainState(7, 1, self.world.channel.epoch, 0)
        self.make = make
        self.url = url
        self.delivery = make(spec(url, **options), self.world.channel, self.state, self.site)

    async def dial(self, spec: object, app: int) -> Any:
        await trio.lowlevel.checkpoint()
        self.links.append(self.new_link())
        return self.links[-1]

    def restart(self, nursery: trio.Nursery) -> None:
        """As after a crash: only the row survives."""
        row = self.state.to_row()
        self.delivery.stop()
        self.state = DrainState.from_row(row)
        self.delivery = self.make(spec(self.url, **self.options), self.world.channel, self.state, self.site)
        nursery.start_soon(run, self.delivery)

    def check(self) -> None:
        status = self.delivery.status()
        assert self.state.balances()
        lost = sum(status.lost.values())
        assert status.head - status.start == status.delivered + status.filtered + lost + status.pending
        assert self.site.rendered.used <= 6000 + 3100  # what `fits` allowed, and a frame
        assert status.pending >= 0


async def run(delivery: Delivery) -> None:
    with delivery.scope:
        await delivery.run()


SYSLOG_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.integers(0, 400), min_size=1, max_size=30)),
        st.tuples(st.just("room"), st.integers(1, 4000)),
        st.tuples(st.just("acknowledge"), st.floats(0, 1)),
        st.tuples(st.just("break"), st.booleans()),
        st.tuples(st.just("forget"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0.01, 300)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps=SYSLOG_STEPS, filtered=st.booleans())
def test_a_syslog_drain_delivers_or_counts_every_line(steps: list[tuple[str, Any]], filtered: bool) -> None:
    async def main() -> None:
        options = {"filter": {"pattern": "[02468]x*$"}} if filtered else {}
        life = Life("syslog://a.example", SyslogDelivery, lambda: SmallLink(500), **options)
        written: list[bytes] = []
        world = life.world
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.site.retries.run)
            nursery.start_soon(life.site.redials.run)
            nursery.start_soon(life.site.dials.run)
            nursery.start_soon(life.site.alarms.run)
            nursery.start_soon(run, life.delivery)
            for step, value in steps:
                link = life.links[-1] if life.links else None
                match step:
                    case "write":
                        lines = [b"%dx%b" % (len(written) + n, b"x" * size) for n, size in enumerate(value)]
                        written += lines
                        world.write(*lines)
                    case "room" if link is not None:
                        link.take(value)
                    case "acknowledge" if link is not None:
                        link.acknowledge(value)
                    case "break" if link is not None and not link.closed:
                        if value:
                            link.answer(b"")
                        else:
                            life.delivery.fail_with(Failure("reset", "reset"))
                    case "forget":
                        world.spool.oldest = max(
                            world.spool.oldest, min(world.channel.head, life.state.cursor + value)
                        )
                        world.channel.release_ring()
                    case "wait":
                        await trio.sleep(value)
                    case "restart":
                        life.restart(nursery)
                await wait_all_tasks_blocked()
                life.check()
                if not filtered:
                    have = {text for link in life.links for text in link.texts()}
                    missing = [text for text in written[: life.state.cursor] if text not in have]
                    assert len(missing) <= life.state.lost.get("overrun", 0)
            last = [b"%dx" % (len(written) + number) for number in range(2)]
            written += last
            world.write(*last)  # brings what was lost before it to be told
            for _ in range(2000):
                link = life.links[-1] if life.links else None
                if life.delivery.status().pending == 0 and life.state.untold is None:
                    break
                if link is not None:
                    link.take(5000)
                    link.acknowledge(1)
                await trio.sleep(0.1)
            life.check()
            assert life.delivery.status().pending == 0
            assert life.state.untold is None
            assert "forget" in dict(steps) or not life.state.lost
            numbers = [[int(text.partition(b"x")[0]) for text in link.texts()] for link in life.links]
            for of_one in numbers:
                assert of_one == sorted(set(of_one))
            wanted = {n for n, text in enumerate(written) if not filtered or text.rstrip(b"x")[-1:] in b"02468"}
            have_numbers = {number for of_one in numbers for number in of_one}
            assert have_numbers <= wanted
            if not filtered:
                assert len(wanted - have_numbers) <= life.state.lost.get("overrun", 0)
                assert life.state.delivered <= len(have_numbers)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


class WebLink(MemoryLink):
    """A receiver of POSTs that does as it is told, and refuses lines that begin with `bad`."""

    def __init__(self, wishes: list[str], kept: list[tuple[bytes, bytes]], ids: dict[bytes, bytes]) -> None:
        super().__init__()
        self.wishes = wishes
        self.kept = kept
        self.ids = ids

    def send(self, data: Buffer) -> int:
        taken = len(data)
        if self.wishes and self.wishes[-1] == "slow":
            self.wishes.pop()
            taken = min(taken, 700)
        self.sent += data[:taken]
        head, end, body = bytes(self.sent).partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if end and len(body) == int(fields[b"Content-Length"]):
            self.sent.clear()
            trio.lowlevel.spawn_system_task(self.reply, fields, body)
        return taken

    async def reply(self, fields: dict[bytes, bytes], body: bytes) -> None:
        if self.closed:
            return
        assert self.ids.setdefault(fields[b"Logplex-Frame-Id"], fields[b"Logplex-Range"]) == fields[b"Logplex-Range"]
        parts = [frame.split(b" ", 6) for frame in frames(body)]
        assert len(parts) == int(fields[b"Logplex-Msg-Count"])
        lines = [part[6][:-1] for part in parts if part[3] == b"app"]
        wish = self.wishes.pop() if self.wishes else "take"
        if wish == "close":
            self.answer(b"")
        elif wish == "busy":
            self.answer(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")
        elif wish == "hang":
            pass
        elif any(line.startswith(b"bad") for line in lines):
            self.answer(b"HTTP/1.1 422 X\r\nContent-Length: 0\r\n\r\n")
        elif wish == "small" and len(lines) > 1:
            self.answer(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        else:
            self.kept += [(fields[b"Logplex-Range"], line) for line in lines]
            if wish == "lose answer":
                self.answer(b"")
            elif wish == "close after":
                self.answer(b"HTTP/1.1 200 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                self.answer(b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n")


HTTP_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 15)), min_size=1, max_size=25)
        ),
        st.tuples(
            st.just("wish"),
            st.lists(
                st.sampled_from(
                    ["close", "busy", "hang", "small", "lose answer", "close after", "slow", "take", "take"]
                ),
                max_size=5,
            ),
        ),
        st.tuples(st.just("forget"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0.01, 300)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(steps=HTTP_STEPS, odd=st.booleans())
def test_an_http_drain_delivers_refuses_or_counts_every_line(steps: list[tuple[str, Any]], odd: bool) -> None:
    async def main() -> None:
        wishes: list[str] = []
        kept: list[tuple[bytes, bytes]] = []
        ids: dict[bytes, bytes] = {}
        options: dict[str, Any] = {"linger": 0.5} if odd else {}
        life = Life("http://a.example", HttpDelivery, lambda: WebLink(wishes, kept, ids), **options)
        world = life.world
        written: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.site.retries.run)
            nursery.start_soon(life.site.redials.run)
            nursery.start_soon(life.site.dials.run)
            nursery.start_soon(life.site.alarms.run)
            nursery.start_soon(run, life.delivery)
            for step, value in steps:
                match step:
                    case "write":
                        lines = [
                            b"%b%dx%b" % (b"" if luck else b"bad", len(written) + number, b"x" * size)
                            for number, (size, luck) in enumerate(value)
                        ]
                        written += lines
                        world.write(*lines)
                    case "wish":
                        wishes[:] = value
                    case "forget":
                        world.spool.oldest = max(
                            world.spool.oldest, min(world.channel.head, life.state.cursor + value)
                        )
                        world.channel.release_ring()
                    case "wait":
                        await trio.sleep(value)
                    case "restart":
                        life.restart(nursery)
                await wait_all_tasks_blocked()
                life.check()
                have = {line for _, line in kept}
                missing = [line for line in written[: life.state.cursor] if line not in have]
                assert len(missing) <= sum(life.state.lost.values())
            wishes.clear()
            for _ in range(3000):
                if life.delivery.status().pending == 0:
                    break
                await trio.sleep(0.5)
            life.check()
            assert life.delivery.status().pending == 0
            have = {line for _, line in kept}
            assert have <= set(written)
            assert not any(line.startswith(b"bad") for line in have)
            good_missing = [line for line in written if not line.startswith(b"bad") and line not in have]
            assert len(good_missing) <= life.state.lost.get("overrun", 0)
            assert life.state.lost.get("permanent", 0) <= sum(line.startswith(b"bad") for line in written)
            assert life.state.delivered <= len(have)
            assert life.site.rendered.used == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
