"""Groups, their order, and the degraded state, against a store that does as it is told."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logplex.batch import Batch
from logplex.catchup import Work
from logplex.channel import Channel, Channels, NoHistory
from logplex.commit import SAVE_SECONDS, Committer
from logplex.errors import StoreError
from logplex.group import Outcome
from logplex.idle import Idle
from logplex.poller import CallSoon
from logplex.trouble import INLINE_BYTES, NOTE_SECONDS, RETRY_SECONDS

from .core import EVERYONE, Core, Follower

TIMEOUT = 3.0


class Store:
    """Takes transactions; `error` makes them fail, `hold` makes them wait."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.error: StoreError | None = None
        self.go_on = trio.Event()
        self.go_on.set()
        self.tries = 0

    def hold(self) -> None:
        if self.go_on.is_set():
            self.go_on = trio.Event()

    def start(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        self.tries += 1
        trio.lowlevel.spawn_system_task(self._write, work, arrived)

    def poll(self) -> None:
        """Its answers come by themselves."""

    async def _write(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        await trio.lowlevel.checkpoint()
        await self.go_on.wait()
        if self.error is None:
            self.works.append(work)
        arrived(self.error)

    def positions(self, channel: Channel) -> list[int]:
        return [
            position
            for work in self.works
            for of, batch in work.batches
            if of is channel
            for position in range(batch.first, batch.end)
        ]


class Scene:
    """A committer over a store, with one channel."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        refuse: bool = False,
        show_at_once: bool = False,
        ring_lines: int = 1000,
        idle: Idle | None = None,
        call_soon: CallSoon | None = None,
        spool: bool = True,
    ) -> None:
        self.store = Store()
        self.nursery = nursery
        self.channels = Channels(NoHistory(), ring_lines=ring_lines, ring_bytes=1 << 20, rings_bytes=1 << 30)
        self.committer = Committer(
            self.store if spool else None,
            group_seconds=0.02,
            timeout_seconds=TIMEOUT,
            max_uncommitted_bytes=100_000,
            refuse_when_degraded=refuse,
            show_at_once=show_at_once,
            idle=idle,
            call_soon=call_soon,
        )
        self.notes: list[float | None] = []

        async def note(since: float | None) -> None:
            self.notes.append(since)

        self.committer.trouble.note = note
        self.channel: Channel

    async def start(self) -> None:
        await self.channels.load({1: ("shop", frozenset())})
        channel = self.channels.get(1)
        assert channel is not None
        self.channel = channel
        await self.nursery.start(self.committer.run)

    def put(self, text: bytes = b"line") -> None:
        self.committer.current.append_raw(self.channel, 13, b"T", b"app", b"web.1", text)

    async def write(self, text: bytes = b"line") -> Outcome:
        group = self.committer.current
        self.put(text)
        group.waiting = True
        self.committer.flush()
        return await group.settled()

    async def healed(self) -> None:
        while self.committer.degraded_since is not None:  # noqa: ASYNC110 - the clock jumps
            await trio.sleep(RETRY_SECONDS)

    async def has_room(self) -> bool:
        """Whether an input may go on."""
        with trio.move_on_after(1) as waiting:
            await self.committer.room()
        return not waiting.cancelled_caught

    def balances(self) -> bool:
        page = self.channel.page
        return page.received + page.own == page.stored + page.memory + page.writing + sum(page.dropped.values())


@pytest.fixture
async def scene(nursery: trio.Nursery) -> Scene:
    made = Scene(nursery)
    await made.start()
    return made


@pytest.fixture
async def refusing(nursery: trio.Nursery) -> Scene:
    made = Scene(nursery, refuse=True)
    await made.start()
    return made


async def test_nobody_sees_a_line_before_its_commit_has_returned(scene: Scene, autojump_clock: MockClock) -> None:
    scene.store.hold()
    group = scene.committer.current
    scene.put()
    group.waiting = True
    scene.committer.flush()
    await wait_all_tasks_blocked()
    assert (scene.channel.head, scene.channel.numbered, group.outcome) == (0, 1, None)
    assert scene.channel.page.writing == 1
    scene.store.go_on.set()
    assert await group.settled() is Outcome.DONE
    assert (scene.channel.head, scene.channel.page.stored) == (1, 1)


async def test_groups_commit_in_order_and_one_fills_while_the_one_before_is_written(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.store.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.write, b"one")
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(scene.write, b"more")
        await wait_all_tasks_blocked()
        scene.store.go_on.set()
    assert [[batch.count for _, batch in work.batches] for work in scene.store.works if work.batches] == [[1], [3]]
    assert scene.store.positions(scene.channel) == [0, 1, 2, 3]


async def test_a_group_that_nobody_waits_for_is_written_within_group_seconds(
    scene: Scene, autojump_clock: MockClock
) -> None:
    started = trio.current_time()
    scene.put()
    scene.committer.flush()
    while scene.channel.head == 0:  # noqa: ASYNC110 - the clock jumps
        await trio.sleep(0.001)
    assert trio.current_time() - started <= 0.025


async def test_what_several_inputs_flush_in_one_turn_goes_together_at_its_end(nursery: trio.Nursery) -> None:
    calls: list[Callable[[], object]] = []
    scene = Scene(nursery, show_at_once=True, call_soon=calls.append)
    await scene.start()
    for _ in range(3):
        scene.put()
        scene.committer.flush()
    assert (len(calls), scene.channel.head) == (1, 0)
    calls.pop()()
    assert scene.channel.head == 3
    assert [batch.count for batch in scene.channel.recent(0, 1000) or []] == [3]
    scene.committer.flush()
    assert calls == [], "nothing is there"


@pytest.mark.parametrize("spool", [True, False])
async def test_a_bug_in_what_shows_lines_ends_the_committer(spool: bool) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug")):
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery, show_at_once=True, spool=spool)
            await scene.start()

            class Broken:
                def notify(self, batch: Batch) -> None:
                    raise RuntimeError("a bug")

            scene.channel.follow(Broken())
            scene.put()
            scene.committer.flush()


class Never(Idle):
    """A loop that never sleeps."""

    def share(self) -> float | None:
        return 0.0


@pytest.mark.parametrize(
    ("channels", "idle", "seconds"),
    [
        (1, None, 0.005),
        (1, Never(), 0.005),
        (50, None, 0.01),
        (50, Never(), 0.04),
        (500, None, 0.02),
        (500, Never(), 0.4),
    ],
)
async def test_a_group_of_many_channels_fills_for_longer_most_of_all_when_the_loop_never_sleeps(
    channels: int, idle: Idle | None, seconds: float, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene(nursery, idle=idle)
    await scene.start()
    for _ in range(5):
        await scene.write()
    await scene.channels.load({number: (f"app-{number}", frozenset()) for number in range(2, channels + 1)})
    started = trio.current_time()
    for channel in scene.channels:
        scene.committer.current.append_raw(channel, 13, b"T", b"app", b"web.1", b"line")
    scene.committer.flush()
    while scene.channel.head == 5:
        await trio.sleep(0.001)
        scene.committer.flush()
    assert seconds <= trio.current_time() - started <= seconds + 0.004


async def test_cursors_that_move_without_lines_are_saved_soon(scene: Scene, autojump_clock: MockClock) -> None:
    moved = [[(7, "state")]]
    scene.committer.writes.cursors = lambda: list(moved.pop()) if moved else []
    await trio.sleep(2 * SAVE_SECONDS)
    assert [work.cursors for work in scene.store.works if work.cursors] == [{7: (7, "state")}]
    tries = scene.store.tries
    await trio.sleep(60)
    assert scene.store.tries == tries, "nothing is written where nothing changed"


async def test_a_failing_store_means_lines_from_memory_and_healing_writes_them(
    scene: Scene, autojump_clock: MockClock
) -> None:
    assert await scene.write(b"before") is Outcome.DONE
    scene.store.error = StoreError("disk I/O error")
    assert await scene.write(b"during") is Outcome.MEMORY
    assert await scene.write(b"also during") is Outcome.MEMORY
    assert scene.committer.degraded_since is not None
    assert scene.committer.trouble.reason == "disk I/O error"
    assert scene.notes == [scene.committer.degraded_since], "it is noted before anything is shown"
    assert (scene.channel.head, scene.channel.page.memory) == (3, 2)
    assert scene.balances()
    scene.store.error = None
    await scene.healed()
    assert scene.notes[1:] == [None]
    assert scene.store.positions(scene.channel) == [0, 1, 2]
    assert (scene.channel.page.stored, scene.channel.page.memory) == (3, 0)
    assert await scene.write(b"after") is Outcome.DONE
    assert scene.balances()


async def test_what_nobody_follows_is_left_to_the_spool(scene: Scene, autojump_clock: MockClock) -> None:
    channel, follower = scene.channel, Follower()
    await scene.write()
    assert (channel.head, channel.ring_oldest, channel.ring_bytes) == (1, 1, 0)
    assert channel.recent(0, 1000) is None
    channel.follow(follower)
    await scene.write()
    await scene.write()
    assert follower.heard == [1, 2]
    assert [batch.first for batch in channel.recent(1, 1000) or []] == [1, 2]
    channel.unfollow(follower)
    await scene.write()
    assert (channel.head, channel.ring_oldest, channel.ring_bytes) == (4, 4, 0)
    assert scene.store.positions(channel) == [0, 1, 2, 3]


async def test_what_the_spool_lacks_is_held_though_nobody_follows(scene: Scene, autojump_clock: MockClock) -> None:
    await scene.write()
    scene.store.error = StoreError("disk I/O error")
    await scene.write()
    assert [batch.first for batch in scene.channel.recent(1, 1000) or []] == [1]
    scene.store.error = None
    await scene.healed()
    await scene.write()
    assert (scene.channel.head, scene.channel.ring_bytes) == (3, 0)


async def test_a_commit_that_hangs_degrades_after_the_timeout_and_its_lines_are_written_once(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.store.hold()
    started = trio.current_time()
    assert await scene.write(b"first") is Outcome.MEMORY
    assert TIMEOUT <= trio.current_time() - started <= TIMEOUT + NOTE_SECONDS
    started = trio.current_time()
    assert await scene.write(b"second") is Outcome.MEMORY
    assert trio.current_time() - started < 0.1, "only the first group waits for a disk that hangs"
    scene.store.go_on.set()
    await scene.healed()
    assert scene.store.positions(scene.channel) == [0, 1]
    assert (scene.channel.page.stored, scene.channel.page.memory) == (2, 0)


async def test_what_no_ring_holds_on_healing_is_a_gap_behind_which_the_head_is_saved(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = Scene(nursery, ring_lines=3)
    await scene.start()
    scene.store.error = StoreError("disk I/O error")
    for _ in range(10):
        assert await scene.write() is Outcome.MEMORY
    held = scene.channel.ring_oldest
    scene.store.error = None
    await scene.healed()
    assert scene.store.positions(scene.channel) == list(range(held, 10))
    assert scene.channel.page.memory == held, "what is missing stays counted as never stored"
    assert scene.balances()
    scene.channel.release_ring()
    scene.store.error = StoreError("again")
    await scene.write()
    scene.channel.release_ring()
    scene.store.error = None
    await scene.healed()
    assert scene.channel in scene.store.works[-1].pages, "with no line left the head is saved by itself"
    assert (scene.channel.head, scene.channel.page.memory) == (11, held + 1)


async def test_much_that_is_missing_is_written_in_parts_while_groups_go_on(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.channel._ring._max_bytes = 4 * INLINE_BYTES
    scene.store.error = StoreError("disk I/O error")
    for _ in range(3 * INLINE_BYTES // 90_000):
        assert await scene.write(b"x" * 90_000) is Outcome.MEMORY
    scene.store.error = None
    await scene.healed()
    sizes = [sum(batch.size for _, batch in work.batches) for work in scene.store.works]
    assert max(sizes) <= INLINE_BYTES + 200_000
    assert scene.store.positions(scene.channel) == list(range(scene.channel.head))
    assert scene.balances()


async def test_what_a_failed_transaction_carried_goes_with_a_later_one(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.store.error = StoreError("disk I/O error")
    moved = [[(7, "old")], [(7, "new"), (8, "other")]]
    scene.committer.writes.cursors = lambda: moved.pop(0) if moved else []
    scene.committer.close_page({"of": None, "channel": "gone"})
    await scene.write()
    await scene.write()
    scene.store.error = None
    await scene.healed()
    cursors: dict[int, tuple[object, ...]] = {}
    for work in scene.store.works:
        cursors |= work.cursors
    assert cursors == {7: (7, "new"), 8: (8, "other")}
    assert [page.row["channel"] for work in scene.store.works for page in work.closed] == ["gone"]


async def test_refusing_shows_nothing_from_memory_and_writes_the_same_group_when_the_store_is_back(
    refusing: Scene, autojump_clock: MockClock
) -> None:
    refusing.store.error = StoreError("disk I/O error")
    results: list[Outcome] = []

    async def write() -> None:
        results.append(await refusing.write())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(10)
        assert refusing.committer.degraded_since is not None
        assert (refusing.channel.head, results) == (0, [])
        refusing.store.error = None
    assert results == [Outcome.DONE]
    assert refusing.store.positions(refusing.channel) == [0]
    assert refusing.channel.page.stored == 1
    await refusing.healed()


async def test_who_waits_too_long_for_a_refusing_store_is_told_that_it_is_held(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store = Store()
    core = Core(spool=store)
    core.committer.hold_seconds = TIMEOUT
    core.committer.trouble.refuse = True
    token = core.add_token(1)
    await nursery.start(core.committer.run)
    frame = b"<13>1 2026-01-01T00:00:00Z h %b web.1 - - hello\n" % token.id.encode()
    body = b"%d %b" % (len(frame), frame)
    store.error = StoreError("disk I/O error")
    for _ in range(2):  # the second is a retry of the first, and waits for its outcome
        outcome = await core.router.take_body(body, EVERYONE, expected=1, request_id="f1")
        assert outcome is Outcome.HELD
    store.error = None
    assert await core.router.take_body(body, EVERYONE, expected=1, request_id="f1") is Outcome.DONE
    assert store.positions(core.channel(1)) == [0], "the retry was recognised though the first try was never answered"
    assert core.balanced()


async def test_inputs_wait_while_too_much_is_uncommitted(scene: Scene, autojump_clock: MockClock) -> None:
    scene.store.hold()
    scene.put(b"x" * 200_000)
    assert not await scene.has_room()
    scene.store.go_on.set()
    assert await scene.has_room()


async def test_a_clean_stop_writes_what_is_there_and_the_last_cursors(scene: Scene, autojump_clock: MockClock) -> None:
    scene.put()
    scene.committer.flush()
    scene.committer.writes.cursors = lambda: [(7, "last")]
    await scene.committer.finish()
    assert scene.store.positions(scene.channel) == [0]
    assert scene.store.works[-1].cursors == {7: (7, "last")}


async def test_a_clean_stop_of_a_degraded_server_heals_when_the_store_lets_it(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.store.error = StoreError("disk I/O error")
    await scene.write()
    with pytest.raises(StoreError):
        await scene.committer.finish()
    scene.store.error = None
    await scene.committer.finish()
    assert scene.store.positions(scene.channel) == [0]
    assert scene.notes[-1] is None


async def test_without_a_spool_lines_are_numbered_and_shown_at_once(autojump_clock: MockClock) -> None:
    core = Core()
    token = core.add_token(1)
    frame = b"<13>1 2026-01-01T00:00:00Z h %b web.1 - - hello\n" % token.id.encode()
    body = b"%d %b" % (len(frame), frame)
    assert await core.router.take_body(body, EVERYONE, expected=1) is Outcome.DONE
    assert core.channel(1).page.memory == 1
    assert core.balanced()
