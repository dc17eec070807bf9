"""`--durability none`: what is shown at once is written behind, each line once, whatever the store does meanwhile."""

import itertools
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from logplex.batch import HOLE, Batch, Form
from logplex.commit import BEHIND_BYTES, BEHIND_SECONDS
from logplex.errors import StoreError
from logplex.group import Outcome
from logplex.joining import MAX_BATCH_BYTES
from logplex.store.rows import TAILS_ONLY, Line, as_line, joined
from logplex.trouble import RETRY_SECONDS

from .test_commit import TIMEOUT, Scene

TOKENS = (HOLE, HOLE[:-1] + b"1")


async def behind(nursery: trio.Nursery, **options: Any) -> Scene:
    made = Scene(nursery, show_at_once=True, **options)
    await made.start()
    return made


def show(scene: Scene, count: int = 1, text: bytes = b"line") -> None:
    for _ in range(count):
        scene.put(text)
    scene.committer.flush()


async def test_lines_are_shown_and_answered_at_once_and_written_soon(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = await behind(nursery)
    scene.store.hold()
    assert await scene.write() is Outcome.DONE
    assert (scene.channel.head, scene.channel.page.memory, scene.store.tries) == (1, 1, 0)
    await trio.sleep(1.1 * BEHIND_SECONDS)
    assert scene.store.tries == 1
    show(scene, 2)
    assert (scene.channel.head, scene.channel.page.memory) == (3, 3)
    assert scene.balances()
    scene.store.go_on.set()
    await trio.sleep(2 * BEHIND_SECONDS)
    assert scene.store.positions(scene.channel) == [0, 1, 2]
    assert (scene.channel.page.stored, scene.channel.page.memory) == (3, 0)
    assert scene.balances()


async def test_much_is_written_before_its_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    scene = await behind(nursery)
    show(scene, 12, b"x" * (BEHIND_BYTES // 10))
    assert scene.store.tries == 1


async def test_who_reads_behind_the_ring_waits_for_what_is_on_its_way(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = await behind(nursery, ring_lines=3)
    other = scene.channel.id + 1
    scene.store.hold()
    show(scene, 10)
    with trio.fail_after(0):
        await scene.committer.written(scene.channel.id, 0)
        await scene.committer.written(other, 10)
    for _ in range(2):  # not begun yet, and on its way
        with trio.move_on_after(0.5) as waiting:
            await scene.committer.written(scene.channel.id, 7)
        assert waiting.cancelled_caught
    nursery.start_soon(scene.committer.written, scene.channel.id, 7)
    scene.store.go_on.set()
    await scene.committer.written(scene.channel.id, 7)
    assert scene.store.positions(scene.channel) == list(range(10))


async def test_who_waits_for_a_store_that_fails_is_not_kept(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    scene = await behind(nursery)
    scene.store.hold()
    show(scene)
    with trio.fail_after(2 * TIMEOUT):
        await scene.committer.written(scene.channel.id, 1)
    assert scene.committer.degraded_since is not None


async def test_a_failing_store_changes_no_answer_and_healing_writes_what_it_missed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = await behind(nursery, refuse=True)
    scene.store.error = StoreError("disk I/O error")
    for _ in range(3):
        assert await scene.write() is Outcome.DONE, "nothing was promised"
        await trio.sleep(2 * BEHIND_SECONDS)
    assert scene.committer.trouble.reason == "disk I/O error"
    assert scene.notes == [scene.committer.degraded_since]
    assert not scene.committer.in_memory
    scene.store.error = None
    await scene.healed()
    show(scene)
    await trio.sleep(2 * BEHIND_SECONDS)
    assert scene.store.positions(scene.channel) == [0, 1, 2, 3]
    assert (scene.channel.page.stored, scene.channel.page.memory) == (4, 0)


async def test_inputs_wait_while_too_much_is_unwritten_and_a_clean_stop_writes_all(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scene = await behind(nursery)
    scene.store.hold()
    show(scene, 2, b"x" * 100_000)
    assert not await scene.has_room()
    scene.store.go_on.set()
    assert await scene.has_room()
    scene.put()  # nobody has flushed it
    await scene.committer.finish()
    assert scene.store.positions(scene.channel) == [0, 1, 2]
    assert scene.balances()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("show"), st.integers(1, 5)),
        st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.01, 2 * BEHIND_SECONDS, RETRY_SECONDS, TIMEOUT + 1])),
        st.tuples(st.sampled_from(["hold", "go on", "fail", "work"]), st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_each_line_is_written_once_and_in_order_whatever_the_store_does(steps: list[tuple[str, float]]) -> None:
    async def play() -> None:
        async with trio.open_nursery() as nursery:
            scene = await behind(nursery, ring_lines=100_000)
            shown = 0
            for step, how_much in steps:
                match step:
                    case "show":
                        show(scene, int(how_much))
                        shown += int(how_much)
                    case "sleep":
                        await trio.sleep(how_much)
                    case "hold":
                        scene.store.hold()
                    case "go on":
                        scene.store.go_on.set()
                    case "fail":
                        scene.store.error = StoreError("disk I/O error")
                    case "work":
                        scene.store.error = None
                assert scene.channel.head == shown
                assert scene.balances()
            scene.store.error = None
            scene.store.go_on.set()
            await scene.committer.finish()
            assert scene.store.positions(scene.channel) == list(range(shown))
            assert (scene.channel.page.stored, scene.channel.page.memory) == (shown, 0)
            assert scene.committer.degraded_since is None
            nursery.cancel_scope.cancel()

    trio.run(play, clock=MockClock(autojump_threshold=0))


@st.composite
def runs(draw: st.DrawFn) -> list[Batch]:
    run: list[Batch] = []
    for _ in range(draw(st.integers(1, 8))):
        form = draw(st.sampled_from(Form))
        host = b"host" if form is Form.HTTP else draw(st.sampled_from(TOKENS))
        head = b"<13>1 2026-01-01T00:00:00Z %b app web.1 - " % host + (b"" if form is Form.HTTP else b"- ")
        text = b"x" * draw(st.sampled_from([0, 10, MAX_BATCH_BYTES // 3]))
        count = draw(st.integers(1, 3))
        data = b"".join(b"%d %b" % (len(frame), frame) for frame in [head + text + b"\n"] * count)
        tails_only = draw(st.booleans())
        run.append(Batch(run[-1].end if run else 5, count, len(run), form, data, tails_only=tails_only))
    return run


def as_batch(row: Line) -> Batch:
    _, _, first, count, at, form, _, _, _, _, size, data = row
    assert data is not None
    assert size == len(data)
    return Batch(first, count, at, Form(form & ~TAILS_ONLY), data, tails_only=bool(form & TAILS_ONLY))


@given(run=runs())
def test_batches_put_together_hold_the_same_lines_at_the_same_positions(run: list[Batch]) -> None:
    def lines(batches: list[Batch]) -> list[tuple[Any, ...]]:
        return [
            (batch.first + n, batch.form, batch.tails_only, batch.form is Form.RAW and batch.at, *line)
            for batch in batches
            for n, line in enumerate(batch.lines())
        ]

    rows = [as_line(number, 7, batch, 0, None) for number, batch in enumerate(run)]
    found = [as_batch(row) for row in joined(rows, MAX_BATCH_BYTES)]
    assert lines(found) == lines(run)
    assert b"".join(batch.syslog(b"t" * len(HOLE)) for batch in found) == b"".join(
        batch.syslog(b"t" * len(HOLE)) for batch in run
    )
    for batch in found:
        assert batch.size <= MAX_BATCH_BYTES or batch.data in [each.data for each in run]
    for one, other in itertools.pairwise(found):
        alike = one.form is other.form is not Form.RAW and one.tails_only == other.tails_only
        assert not alike or one.size + other.size > MAX_BATCH_BYTES or one.form is Form.SYSLOG
