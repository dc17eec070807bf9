"""A group against plain lists: order, positions and forms hold whatever is mixed, joined, absorbed or forgotten."""

import itertools
from collections.abc import Iterable

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logplex.batch import HOLE, Batch, Form, Layout
from logplex.channel import Channel, Channels, NoHistory
from logplex.entries import Lists
from logplex.fastpath import Entries, Entry
from logplex.group import Group
from logplex.joining import MAX_BATCH_BYTES, Piece

TIME = "2026-11-22T02:50:00Z"
CHANNELS = (1, 2, 3)
texts = st.text(alphabet="abc -", max_size=20)
LAYOUTS = st.sampled_from([Layout(Form.HTTP), Layout(Form.SYSLOG), Layout(Form.SYSLOG, HOLE.decode()[:-1] + "1")])


def rendered(layout: Layout, text: str) -> str:
    """A line as the quick path hands it over."""
    middle = " host app web.1 - " if layout.form is Form.HTTP else f" {layout.host} app web.1 - - "
    frame = f"<13>1 {TIME}{middle}{text}\n"
    return f"{len(frame)} {frame}"


class Somebody:
    """A principal whose middles are the numbers of channels."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels = {str(channel.id): channel for channel in channels}
        self.layouts: dict[int, Layout] = {}  # that were learned

    def entry(self, middle: str, lists: Lists) -> Entry | None:
        channel = self._channels[middle]
        self.layouts[channel.id], lines = lists.open(channel)
        return "", 0, lines


class GroupMachine(RuleBasedStateMachine):
    """`model` holds (text, tails only) by channel for the open group, `sealed` all that was sealed before."""

    @initialize()
    def start(self) -> None:
        channels = Channels(NoHistory(), ring_lines=100, ring_bytes=1 << 20, rings_bytes=1 << 20)
        trio.run(channels.load, {number: (f"app-{number}", frozenset()) for number in CHANNELS})
        self.channels: dict[int, Channel] = {channel.id: channel for channel in channels}
        self.way = Somebody(self.channels.values())
        self.begin(Group())
        self.sealed: dict[int, int] = dict.fromkeys(CHANNELS, 0)

    def begin(self, group: Group) -> None:
        self.group = group
        self.model: dict[int, list[tuple[str, bool]]] = {number: [] for number in CHANNELS}
        self.own = dict.fromkeys(CHANNELS, 0)
        self.odd: set[int] = set()

    @rule(number=st.sampled_from(CHANNELS), lines=st.lists(texts, max_size=30))
    def take(self, number: int, lines: list[str]) -> None:
        known = self.group.known_of(self.way)
        entry = known.entries.get(str(number)) or known(str(number))
        assert entry is not None
        for text in lines:
            entry[2].append(rendered(self.way.layouts[number], text))
            self.group.bytes += len(text) + 80
        self.model[number] += [(text, False) for text in lines]

    @rule(number=st.sampled_from(CHANNELS), lines=st.lists(texts, min_size=1, max_size=30))
    def take_joined(self, number: int, lines: list[str]) -> None:
        channel = self.channels[number]
        layout = self.group.open_joined(channel)
        assert (layout is None) == (number in self.odd)
        if layout is not None:
            data = "".join(rendered(layout, text) for text in lines).encode()
            self.group.append_joined(channel, Piece(len(lines), data, clean=True))
            self.group.bytes += len(data)
            self.model[number] += [(text, False) for text in lines]

    @rule(number=st.sampled_from(CHANNELS), text=texts, tails_only=st.booleans(), own=st.booleans())
    def take_odd(self, number: int, text: str, tails_only: bool, own: bool) -> None:
        channel = self.channels[number]
        if own:
            self.group.append_own(channel, 172, b"odd", text.encode(), tails_only=tails_only)
            self.own[number] += 1
        else:
            self.group.append_raw(channel, 13, b"odd", b"app", b"-", text.encode())
        self.model[number].append((text, own and tails_only))
        self.odd.add(number)

    @rule(number=st.sampled_from(CHANNELS), lines=st.lists(texts, max_size=5), odd=texts, then=LAYOUTS)
    def absorb(self, number: int, lines: list[str], odd: str, then: Layout) -> None:
        """A request whose lines waited in a group of their own, during which a drain may come or go."""
        channel = self.channels[number]
        other = Group()
        layout, found = other.open(channel)
        for text in lines:
            found.append(rendered(layout, text))
        other.append_raw(channel, 13, b"odd", b"app", b"-", odd.encode())
        channel.layout = then
        self.group.absorb(other)
        self.model[number] += [(text, False) for text in (*lines, odd)]
        self.odd.add(number)

    @rule()
    def join(self) -> None:
        self.group.bytes += 1 << 30
        self.group.compact()

    @rule(number=st.sampled_from(CHANNELS))
    def forget(self, number: int) -> None:
        assert self.group.forget(self.channels[number]) == len(self.model[number])
        self.model[number] = []
        self.own[number] = 0
        self.odd.discard(number)

    @rule()
    @precondition(lambda self: any(self.model.values()))
    def seal(self) -> None:
        before = {number: channel.page.received + channel.page.own for number, channel in self.channels.items()}
        found: dict[int, list[Batch]] = {}
        for channel, batch in self.group.seal(1234):
            found.setdefault(channel.id, []).append(batch)
        assert set(found) == {number for number, lines in self.model.items() if lines}
        for number, batches in found.items():
            channel = self.channels[number]
            assert batches[0].first == self.sealed[number]
            assert all(left.end == right.first for left, right in itertools.pairwise(batches))
            lines = [(line.text.decode(), batch.tails_only) for batch in batches for line in batch.lines()]
            assert lines == self.model[number]
            assert all(batch.size <= 3 * MAX_BATCH_BYTES and batch.at == 1234 for batch in batches)
            self.sealed[number] = channel.numbered
            assert batches[-1].end == channel.numbered
            page = channel.page
            assert page.received + page.own - before[number] == len(lines)
        self.begin(self.group.follow())
        assert not self.group

    @invariant()
    def counts_what_is_open(self) -> None:
        if not hasattr(self, "group"):
            return
        for number, channel in self.channels.items():
            assert self.group.open_lines(channel) == len(self.model[number])
            assert self.group.open_own(channel) == self.own[number]


TestGroup = GroupMachine.TestCase


@pytest.fixture
async def channels() -> list[Channel]:
    made = Channels(NoHistory(), ring_lines=100, ring_bytes=1 << 20, rings_bytes=1 << 20)
    await made.load({number: (f"app-{number}", frozenset()) for number in CHANNELS})
    return list(made)


def learn(group: Group, channels: Iterable[Channel]) -> tuple[Somebody, Entries]:
    """Somebody, and what is known of him when a line for each of these channels has come."""
    way = Somebody(channels)
    known = group.known_of(way)
    for channel in channels:
        entry = known(str(channel.id))
        assert entry is not None
        entry[2].append(rendered(way.layouts[channel.id], "x"))
        group.bytes += 80
    return way, known.entries


async def test_what_was_learned_for_a_group_is_known_to_the_next(channels: list[Channel]) -> None:
    first = Group()
    way, entries = learn(first, channels)
    found = entries["1"][2]
    first.seal(0)
    second = first.follow()
    assert not second
    found.append(rendered(channels[0].layout, "y"))
    second.bytes += 80
    assert set(second.known_of(way).entries) == {"1", "2", "3"}
    assert [sealed.channel.name for sealed in second.seal(0)] == ["app-1"]
    assert second.follow().known == {}  # it had lines for few of the channels that it knew


@pytest.mark.parametrize("change", ["layout", "much"])
async def test_what_is_no_longer_so_or_has_become_much_is_learned_again(
    change: str, channels: list[Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group()
    learn(group, channels)
    group.seal(0)
    if change == "layout":
        channels[1].layout = Layout(Form.SYSLOG)
    else:
        monkeypatch.setattr("logplex.group.MAX_KEPT", 3)
    following = group.follow()
    assert following.known == {}
    assert following.open(channels[1])[0] is channels[1].layout


def test_a_busy_channel_s_lines_come_in_batches_that_a_delivery_takes_whole() -> None:
    async def batches() -> list[Batch]:
        channels = Channels(NoHistory(), ring_lines=100, ring_bytes=1 << 20, rings_bytes=1 << 20)
        await channels.load({1: ("app", frozenset())})
        channel = channels.get(1)
        assert channel is not None
        group = Group()
        form, found = group.open(channel)
        for number in range(5000):
            found.append(rendered(form, f"{number:05} " + "x" * 100))
        return [sealed.batch for sealed in group.seal(0)]

    found = trio.run(batches)
    assert sum(batch.count for batch in found) == 5000
    assert max(batch.size for batch in found) <= 2 * MAX_BATCH_BYTES
    assert [line.text[:5] for batch in found for line in batch.lines()] == [b"%05d" % n for n in range(5000)]
