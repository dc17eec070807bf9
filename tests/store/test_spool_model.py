"""Group, spool, ring, cursors and ledger against a model, with crashes and restarts at any moment.

Rows and segments are so small here that some batches are in the one, some in the other, and cleaning has work.
"""

import json
import random
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logplex import commit, trouble
from logplex.errors import StoreError
from logplex.group import Outcome
from logplex.store import cleaning, forget, segments, tables, writer
from logplex.store.retention import Retention

from .spools import Faults, Loop, Node, balances, copy_of, opened, sqlite_error, texts

CHANNELS = st.integers(1, 3)
WRITES = st.lists(st.tuples(CHANNELS, st.integers(1, 9)), min_size=1, max_size=6)


class SpoolModel(RuleBasedStateMachine):
    """What was acknowledged is there after a crash; what is not there is counted; nothing is ever renumbered."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a crash of the process needs no disk
        self.root = Path(tempfile.mkdtemp(prefix="spool-model-", dir=memory))
        self.path = self.root / "0"
        self.runs = 0
        self.faults = Faults()
        self.node: Node
        self.lines: dict[int, dict[int, bytes]] = {1: {}, 2: {}, 3: {}}  # by channel and position
        self.sure: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}  # positions that must survive
        self.forgotten: dict[int, int] = {1: 0, 2: 0, 3: 0}  # below it retention may have been
        self.cursors: dict[int, int] = {1: 0, 2: 0, 3: 0}
        self.moved: set[int] = set()
        self.told: set[int] = set()
        self.written = 0
        self.synced: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}  # positions that a loss of power leaves
        self.whole = True  # no crash while degraded
        self.clean = True  # no line was ever shown from memory only

    # The life of a node is a task of its own: the rules come from another thread.

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        async with opened(self.path, faults=self.faults, ring_lines=6, commit_timeout_seconds=5.0) as node:
            self.node = node
            node.committer.writes.cursors = self._moved_cursors
            self.end = trio.Event()
            self.ended = trio.Event()
            task_status.started()
            await self.end.wait()
        self.ended.set()

    def _moved_cursors(self) -> list[tuple[object, ...]]:
        moved, self.moved = self.moved, set()
        self.told |= moved
        return [(number, self.cursors[number]) for number in moved]

    async def _start(self) -> None:
        await self.loop.nursery.start(self._live)

    async def _stop(self) -> None:
        self.end.set()
        await self.ended.wait()

    @initialize()
    def start(self) -> None:
        self.loop.run(self._start)

    @rule(writes=WRITES)
    def write(self, writes: list[tuple[int, int]]) -> None:
        for number, count in writes:
            self.loop.run(self._write, number, count)

    async def _write(self, number: int, count: int) -> None:
        channel = await self.node.channel(number)
        written = [b"%d" % (self.written + index) for index in range(count)]
        self.written += count
        first = channel.numbered
        outcome = await self.node.write(number, *written)
        positions = range(first, first + count)
        assert channel.head == first + count
        self.lines[number].update(zip(positions, written, strict=True))
        if outcome is Outcome.DONE:
            self.sure[number].update(positions)
        else:
            assert outcome is Outcome.MEMORY
            self.clean = False

    @rule(number=CHANNELS)
    def drain(self, number: int) -> None:
        async def advance() -> None:
            channel = await self.node.channel(number)
            reading = await channel.read(self.cursors[number], 100)
            self.cursors[number] += reading.lost + sum(batch.count for batch in reading.batches)
            self.moved.add(number)

        self.loop.run(advance)

    @rule(number=CHANNELS)
    def read_everything(self, number: int) -> None:
        async def read() -> None:
            channel = await self.node.channel(number)
            found, lost = await texts(channel)
            assert found == {position: self.lines[number][position] for position in found}
            assert len(found) + lost == channel.head
            missing = {position for position in self.sure[number] if position >= self.forgotten[number]} - set(found)
            assert not missing
            if self.node.committer.degraded_since is None and not self.forgotten[number] and self.whole:
                assert channel.page.memory == lost  # what healing could not write is the gap that readers are told

        self.loop.run(read)

    @rule()
    def save(self) -> None:
        """Cursors reach the spool though no line is written."""

        async def save() -> None:
            with trio.fail_after(5):
                while self.moved or self.node.committer.writes.due.cursors or self.node.committer._committing:
                    if self.node.committer.degraded_since is not None:
                        return
                    await trio.sleep(0.01)

        self.loop.run(save)
        if not self.moved and self.node.committer.degraded_since is None:
            saved = self.loop.run(self.node.spool.thread.run, self._saved)
            for number, row in saved.items():
                assert row == (number, self.cursors[number])

    @rule(lines=st.integers(5, 30))
    def forget(self, lines: int) -> None:
        """Retention with a tiny bound on bytes."""

        async def look() -> None:
            given = self.node.settings
            bounds = type(given)(data_dir=given.data_dir, channel_bytes=lines * 80)
            retention = Retention(
                self.node.spool, self.node.channels, self.node.committer, bounds, lambda channel: channel.head
            )
            if self.faults.error is None:
                await retention.look()
            for channel in self.node.channels:
                self.forgotten[channel.id] = max(self.forgotten[channel.id], channel._oldest)

        self.loop.run(look)

    @rule()
    def settle(self) -> None:
        """The tables take in what the journal has; no reader notices."""
        if self.faults.error is None:
            self.loop.run(self.node.spool.settle)

    @rule(steps=st.integers(1, 4))
    def clean_segments(self, steps: int) -> None:
        """Take live batches out of segments; no reader notices."""

        async def clean() -> None:
            spool = self.node.spool
            for _ in range(steps):
                await spool.thread.run(cleaning.clean, spool.segments)
            used = await spool.thread.run(forget.used, spool.segments)
            files = sum(file.stat().st_size for file in spool.segments.folder.iterdir())
            assert 0 <= used.live <= used.held
            assert spool.segments.total <= files

        if self.faults.error is None:
            self.loop.run(clean)

    @precondition(lambda self: self.faults.error is None)
    @rule()
    def sync(self) -> None:
        """What is committed now stays through a loss of power."""
        self.loop.run(self.node.spool.sync)
        self.synced = {number: set(positions) for number, positions in self.sure.items()}

    @rule(seed=st.integers(0, 1000))
    def lose_power(self, seed: int) -> None:
        """What was written to segments since the last sync is there, in part there, or garbage."""
        before = {channel.id: (channel.head, channel.epoch) for channel in self.node.channels}
        to, _ = self._copied()
        self._damage_unsynced(to, random.Random(seed), self._late_segments())
        self.loop.run(self._stop)
        run = json.loads((to / "run").read_text())
        (to / "run").write_text(json.dumps(run | {"boot": "of another life"}))
        self.path = to
        lost, self.sure = self.sure, self.synced
        self._restart(before, proven=False, saved=None)
        for number in before:
            self.sure[number] = self.loop.run(self._found, number)
            assert self.sure[number] <= set(self.lines[number])
        self.synced = {number: positions & lost[number] for number, positions in self.sure.items()}

    async def _found(self, number: int) -> set[int]:
        channel = await self.node.channel(number)
        found, lost = await texts(channel)
        assert found == {position: self.lines[number][position] for position in found}
        assert {position for position in self.synced[number] if position >= self.forgotten[number]} <= set(found)
        assert len(found) + lost == channel.head
        return set(found)

    def _late_segments(self) -> dict[int, int]:
        """Where in segments lies what the tables do not know yet."""
        late: dict[int, int] = {}
        for record in self.node.spool._writer._round.records:
            for *_, segment, start, _, inline in record.lines:
                if inline is None:
                    late.setdefault(segment, start)
        return late

    def _damage_unsynced(self, at: Path, chance: random.Random, unsynced: dict[int, int]) -> None:
        with sqlite3.connect(at / "spool.db") as db:
            mark = tables.synced(db)
            rows = db.execute("SELECT segment, min(start) FROM lines WHERE id > ? AND segment > 0 GROUP BY 1", (mark,))
            unsynced |= dict(rows.fetchall())
        db.close()
        for number, start in unsynced.items():
            self._damage(at / "spool" / f"{number:08d}", start, chance)
        self._damage(at / "spool" / "journal", 0, chance)

    def _damage(self, file: Path, start: int, chance: random.Random) -> None:
        data = file.read_bytes()
        tail = chance.choice((data[start:], data[start : start + 50], bytes(len(data) - start), b""))
        file.write_bytes(data[:start] + tail)

    @rule(full=st.booleans(), writes=WRITES)
    def break_the_disk(self, full: bool, writes: list[tuple[int, int]]) -> None:
        code = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
        self.faults.error = sqlite_error(code, "database or disk is full" if full else "disk I/O error")
        self.write(writes)

    @precondition(lambda self: self.faults.error is not None)
    @rule()
    def mend_the_disk(self) -> None:
        self.faults.error = None

        async def healed() -> None:
            with trio.fail_after(10):
                while self.node.committer.degraded_since is not None:  # noqa: ASYNC110 - nothing tells it
                    await trio.sleep(0.005)

        self.loop.run(healed)
        for channel in self.node.channels:
            self.sure[channel.id] |= {
                position for position in self.lines[channel.id] if position >= channel._ring.oldest
            }

    def _copied(self) -> tuple[Path, dict[int, tuple[Any, ...]]]:
        """A copy of the files, and the cursors in it: made where no commit can come between."""
        self.runs += 1
        to = self.root / str(self.runs)

        def copy(connection: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
            copy_of(self.path, to)
            return self._saved(connection)

        return to, self.loop.run(self.node.spool.thread.run, copy)

    def _saved(self, connection: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
        """Cursors as they were committed: those in the tables, and those in the journal."""
        found = tables.cursors(connection)
        for record in self.node.spool._writer._round.records:
            found |= {
                number: tuple(msgpack.unpackb(value))
                for kind, number, value in record.state
                if kind == tables.Kind.CURSOR
            }
        return found

    @rule()
    def crash(self) -> None:
        """kill -9: what the files hold at this moment is all there is."""
        degraded = self.node.committer.degraded_since is not None
        before = {channel.id: (channel.head, channel.epoch) for channel in self.node.channels}
        to, saved = self._copied()
        self.loop.run(self._stop)
        self.path = to
        self._restart(before, proven=not degraded, saved={number: row[1] for number, row in saved.items()})

    @rule()
    def restart(self) -> None:
        """SIGTERM."""
        before = {channel.id: (channel.head, channel.epoch) for channel in self.node.channels}
        degraded = self.node.committer.degraded_since is not None
        try:
            self.loop.run(self.node.finish)
        except StoreError:
            assert self.faults.error is not None
            proven = not degraded
        else:
            proven = True
            assert self.loop.run(self.node.spool.cursors) == {
                number: (number, cursor) for number, cursor in self.cursors.items() if number in self.told
            }
        saved = self.loop.run(self.node.spool.thread.run, self._saved)
        self.loop.run(self._stop)
        self._restart(before, proven=proven, saved={number: row[1] for number, row in saved.items()})

    def _restart(self, before: dict[int, tuple[int, str]], *, proven: bool, saved: dict[int, int] | None) -> None:
        """`saved`: the cursors that must be there; None where some, or the newest of them, may be lost."""
        self.faults.error = None
        self.loop.run(self._start)
        found = {number: row[1] for number, row in self.loop.run(self.node.spool.cursors).items()}
        if saved is None:
            assert set(found) <= self.told
            saved = found
        assert found == saved
        self.told = set(saved)
        for number, (head, epoch) in before.items():
            channel = self.loop.run(self.node.channel, number)
            if proven:
                assert (channel.head, channel.epoch) == (head, epoch)
            else:
                assert channel.epoch != epoch
                assert channel.head <= head
            assert max(self.sure[number], default=-1) < channel.head
            self.lines[number] = {
                position: text for position, text in self.lines[number].items() if position < channel.head
            }
            self.cursors[number] = min(saved.get(number, 0), channel.head)
            self.moved.discard(number)
            if self.cursors[number] != saved.get(number, 0):
                self.moved.add(number)
            self.whole = self.whole and proven
            if self.clean:
                assert channel.page.received == channel.page.stored == channel.head

    @invariant()
    def the_ledger_balances(self) -> None:
        if hasattr(self, "node"):
            assert all(balances(channel) for channel in self.node.channels)
            assert all(self.cursors[channel.id] <= channel.head for channel in self.node.channels)

    def teardown(self) -> None:
        if hasattr(self, "end"):
            self.faults.error = None
            self.loop.run(self._stop)
        self.loop.close()
        shutil.rmtree(self.root)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "RETRY_SECONDS", 0.002)
    monkeypatch.setattr(commit, "SAVE_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "INLINE_BYTES", 250)
    monkeypatch.setattr(writer, "ROUND_SECONDS", 3600.0)  # what a run does must not depend on how long it takes
    monkeypatch.setattr(writer, "ROUND_BYTES", 4000)
    monkeypatch.setattr(segments, "MAX_SEGMENT_BYTES", 2000)


TestSpoolModel = SpoolModel.TestCase
TestSpoolModel.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
