"""What the files may look like after power was lost: every such state reopens with whole groups only.

SQLite appends to its log, syncs it, copies it into the database, syncs that, and begins the log again. The states
that a loss of power can leave are made by hand: a log cut off or damaged anywhere, a database with any part of a
checkpoint, a log begun again over an old one; segments that the log does not know of yet, and such that it knows of
and that never reached the disk.
"""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from logplex.batch import Batch, Form, raw_frame
from logplex.store import checkpoints, forget, reading, rows, tables
from logplex.store.directory import DataDirectory
from logplex.store.journal import Journal
from logplex.store.reading import Reader
from logplex.store.segments import Segments
from logplex.store.writer import Writer

from .spools import opened

GROUPS = 12
SEED = 20261122


def group(number: int) -> rows.Rows:
    """Group n: n + 1 lines in each of two channels, a cursor, the node's counters and an id, which all say n."""
    lines = []
    for channel in (1, 2):
        first = number * (number + 1) // 2
        data = b"".join(raw_frame(13, b"T", b"app", b"web.1", b"%d" % number * 900) for _ in range(number + 1))
        batch = Batch(first, number + 1, 1000 + number, Form.RAW, data)
        row_id = 2 * number + channel
        lines.append(rows.as_line(row_id, channel, batch, first, bytes([number])))
    state = [
        (int(tables.Kind.META), int(tables.Meta.NODE), b"\x81\xa1n" + bytes([number])),
        (int(tables.Kind.CURSOR), 7, b"\x91" + bytes([number])),
    ]
    return rows.Rows(lines, [], state, [], number.to_bytes(16, "big"))


def lines(number: int) -> list[tuple[Any, ...]]:
    """What can be read of group n, as `Spool.lines` says it."""
    return [(*line[:8], line[11]) for line in group(number).lines]


class Spool:
    """A connection and its segments, as the thread that writes has them."""

    def __init__(self, path: Path, *, lost_power: bool = False, fsync: bool = False) -> None:
        self.connection = tables.connect(path, fsync=fsync, max_bytes=1 << 30)
        folder = path.with_name("spool")
        self.segments = Segments(folder, max_bytes=1 << 30, fsync=fsync)
        self.writer = Writer(self.segments, Journal(folder, fsync=fsync))
        self.writer.open(self.connection)
        self.segments.open(self.connection, lost_power=lost_power)

    def append(self, number: int) -> None:
        """Commit a group, and have the tables take it in."""
        self.commit(number)
        self.writer.settle(self.connection)

    def commit(self, number: int) -> None:
        self.writer.append(self.connection, group(number))

    def lines(self) -> list[tuple[Any, ...]]:
        """Rows of lines with their batches; b"" where one cannot be read."""
        connection = self.connection
        rows = connection.execute("SELECT id, channel, first, count, at, form, total, page FROM lines ORDER BY id")
        found = []
        for row in rows.fetchall():
            batches = Reader(self.segments.folder).read(connection, row[1], row[2], row[2] + row[3], 1)
            found.append((*row, b"".join(batch.data for batch in batches)))
        return found

    def close(self) -> None:
        self.connection.close()
        self.writer.close()


def whole_groups(path: Path) -> int:
    """How many groups a reopened spool holds; fails unless it holds each of them whole and no other."""
    with closing(Spool(path)) as spool:
        connection = spool.connection
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        count = len(tables.ids(connection, 0, 1000))
        expected = [group(number) for number in range(count)]
        assert spool.lines() == [row for number in range(count) for row in lines(number)]
        if count:
            assert tables.cursors(connection) == {7: (count - 1,)}
            assert tables.node(connection) == {"n": count - 1}
        assert [digest for digest, _ in tables.ids(connection, 0, 1000)] == [each.ids for each in expected]
        spool.append(count)  # over what the log does not know of
        assert spool.lines()[2 * count :] == lines(count)
    return count


class Disk:
    """Copies of the two files of one spool; a state of them is opened in a place of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states = 0

    def files(self) -> tuple[bytes, bytes]:
        log = self.path.with_name("spool.db-wal")
        return self.path.read_bytes(), log.read_bytes() if log.exists() else b""

    def reopened(self, database: bytes, log: bytes) -> int:
        self.states += 1
        place = self.path.parent / "after"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "spool.db").write_bytes(database)
        (place / "spool.db-wal").write_bytes(log)
        shutil.copytree(self.path.with_name("spool"), place / "spool")
        return whole_groups(place / "spool.db")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "spool.db")


def test_every_prefix_of_the_log_reopens_with_whole_groups_in_their_order(disk: Disk) -> None:
    with closing(Spool(disk.path)) as spool:
        spool.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ends = []
        for number in range(GROUPS):
            spool.append(number)
            ends.append(len(disk.files()[1]))
        database, log = disk.files()
    found = []
    chance = random.Random(SEED)
    frame = tables.PAGE_BYTES + 24
    cuts = {32 + index * frame for index in range((len(log) - 32) // frame + 1)}
    cuts |= {chance.randrange(len(log)) for _ in range(40)} | {0, 1, 31, 32, 33}
    for cut in sorted(cuts):
        count = disk.reopened(database, log[:cut])
        whole = sum(end <= cut for end in ends)
        in_journal = whole == GROUPS - 1  # its round is the one that the log calls the present one
        assert count == whole + in_journal, "what was written whole is there, and no more"
        found.append(count)
    assert found == sorted(found)
    assert found[-1] == GROUPS


def test_every_prefix_of_the_journal_reopens_with_whole_groups_in_their_order(disk: Disk) -> None:
    half = GROUPS // 2
    journal = disk.path.with_name("spool") / "journal"
    with closing(Spool(disk.path)) as spool:
        for number in range(half):
            spool.append(number)
        ends = []
        for number in range(half, GROUPS):
            spool.commit(number)
            ends.append(spool.writer.journal.end)
        database, log = disk.files()
        written = journal.read_bytes()
    chance = random.Random(SEED)
    for cut in sorted({0, *ends, *(end - 1 for end in ends), *(chance.randrange(len(written)) for _ in range(30))}):
        whole = half + sum(end <= cut for end in ends)
        journal.write_bytes(written[:cut])
        assert disk.reopened(database, log) == whole
        filled = written[:cut] + bytes(len(written) - cut)  # a record may end with zeros
        journal.write_bytes(filled)
        assert disk.reopened(database, log) == half + sum(filled[:end] == written[:end] for end in ends)
    journal.write_bytes(written)
    with closing(Spool(disk.path)) as spool:
        newer = disk.files()
    assert disk.reopened(*newer) == GROUPS
    journal.write_bytes(written)  # of the round before: the tables have it
    assert disk.reopened(*newer) == GROUPS


def test_a_log_that_reached_the_disk_in_parts_reopens_with_a_prefix_of_the_groups(disk: Disk) -> None:
    with closing(Spool(disk.path)) as spool:
        spool.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(GROUPS):
            spool.append(number)
        database, log = disk.files()
    chance = random.Random(SEED)
    for _ in range(40):
        damaged = bytearray(log)
        for _ in range(chance.randrange(1, 4)):  # sectors that were never written
            at = chance.randrange(0, len(log), 512)
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        assert disk.reopened(database, bytes(damaged)) <= GROUPS


def test_any_part_of_a_checkpoint_reopens_with_all_groups(disk: Disk) -> None:
    with closing(Spool(disk.path)) as spool:
        spool.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(GROUPS):
            spool.append(number)
        before, log = disk.files()  # the log is synced before the database is written
        spool.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        after, _ = disk.files()
    chance = random.Random(SEED)
    for _ in range(25):
        pages = bytearray(before.ljust(len(after), b"\0"))
        for at in range(0, len(after), 4096):
            if chance.random() < 0.5:
                pages[at : at + 4096] = after[at : at + 4096]
        cut = chance.choice((len(after), len(before), chance.randrange(len(before), len(after) + 1)))
        assert disk.reopened(bytes(pages[:cut]), log) == GROUPS


def test_a_log_that_begins_again_reopens_with_whole_groups(disk: Disk) -> None:
    half = GROUPS // 2
    with closing(Spool(disk.path)) as spool:
        for number in range(half):
            spool.append(number)
        spool.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        database, old = disk.files()
        for number in range(half, GROUPS):
            spool.append(number)
        assert disk.files()[0] == database, "nothing was checkpointed since"
        _, new = disk.files()
    assert new[:32] != old[:32], "it has begun again"
    for cut in range(0, len(new), 8192):
        count = disk.reopened(database, new[:cut] + old[cut:])
        assert half <= count <= GROUPS


@pytest.mark.parametrize("tail", ["cut", "zeroed", "missing"])
def test_segments_that_never_reached_the_disk_are_forgotten_up_to_what_was_synced(disk: Disk, tail: str) -> None:
    half = GROUPS // 2
    with closing(Spool(disk.path)) as spool:
        for number in range(half):
            spool.append(number)
        numbers, last_id = spool.segments.take_unsynced()
        spool.segments.sync(numbers)
        tables.note_synced(spool.connection, last_id)
        file = spool.segments.path(1)
        synced = file.stat().st_size
        for number in range(half, GROUPS):
            spool.append(number)
    data = file.read_bytes()
    tails = {"cut": data[synced : synced + 100], "zeroed": bytes(len(data) - synced), "missing": b""}
    file.write_bytes(data[:synced] + tails[tail])
    with closing(Spool(disk.path, lost_power=True)) as spool:
        forget.forget_unsynced(spool.connection, spool.segments, tables.synced(spool.connection))
        expected = [row for number in range(half) for row in lines(number)]
        assert spool.lines() == expected
        places = reading.places(spool.connection, [1, 2], [(b"key", 0)])
        assert {place.head for place in places.values()} == {GROUPS * (GROUPS + 1) // 2}, "what is lost is counted"
        spool.append(GROUPS)
        assert spool.lines() == expected + lines(GROUPS)


@pytest.mark.parametrize("size", [10, 5000])
async def test_what_was_written_is_synced_after_a_while_though_it_is_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(checkpoints, "SYNC_SECONDS", 0.01)
    checkpointed = trio.Event()

    def checkpoint(connection: sqlite3.Connection) -> int:
        length = original(connection)
        token.run_sync_soon(checkpointed.set)
        return length

    original = checkpoints.checkpoint
    token = trio.lowlevel.current_trio_token()
    monkeypatch.setattr(checkpoints, "checkpoint", checkpoint)
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        await node.write(1, b"line", size=size)
        nursery.start_soon(node.spool.checkpoints.run)
        with trio.fail_after(20):
            await checkpointed.wait()
        (tmp_path / "after").mkdir()
        shutil.copyfile(tmp_path / "spool.db", tmp_path / "after" / "spool.db")  # the log is lost
        shutil.copytree(tmp_path / "spool", tmp_path / "after" / "spool")
        with closing(Spool(tmp_path / "after" / "spool.db", lost_power=True)) as spool:
            forget.forget_unsynced(spool.connection, spool.segments, tables.synced(spool.connection))
            assert [row[1] for row in spool.lines()] == [1]
            assert b"line" in spool.lines()[0][-1]
        nursery.cancel_scope.cancel()


def test_after_a_power_loss_only_fsync_proves_that_everything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from logplex.store import directory

    for durability, proven in (("fsync", True), ("commit", False), ("none", False)):
        monkeypatch.setattr(directory, "_boot_id", lambda: "before")
        path = tmp_path / durability
        data = DataDirectory(path)
        data.begin_run(durability)
        data.close()
        monkeypatch.setattr(directory, "_boot_id", lambda: "after")
        data = DataDirectory(path)
        assert data.is_proven() is proven
        data.close()


@pytest.mark.parametrize(("fsync", "level"), [(True, 2), (False, 1)])
def test_fsync_syncs_the_log_at_every_commit(tmp_path: Path, fsync: bool, level: int) -> None:
    with closing(tables.connect(tmp_path / "spool.db", fsync=fsync, max_bytes=1 << 30)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == level
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.parametrize("fsync", [True, False])
def test_fsync_syncs_segments_and_then_the_journal_before_a_group_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool
) -> None:
    done: list[str] = []
    fdatasync = os.fdatasync

    def sync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    with closing(Spool(tmp_path / "spool.db", fsync=fsync)) as spool:
        for number in (3, 4):
            spool.commit(number)
            done.append("committed")
    assert done == (["00000001", "journal", "committed"] * 2 if fsync else ["committed"] * 2)


async def test_what_was_synced_before_the_tables_knew_it_is_noted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []

    def note(connection: sqlite3.Connection, row_id: int) -> None:
        original(connection, row_id)
        noted.append(row_id)

    original = checkpoints.note_synced
    monkeypatch.setattr(checkpoints, "note_synced", note)
    monkeypatch.setattr(checkpoints, "SYNC_BYTES", 1000)
    monkeypatch.setattr(checkpoints, "SYNC_SECONDS", 0.3)
    async with opened(tmp_path) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.spool.checkpoints.run)
        for _ in range(3):
            await node.write(1, b"line", size=5000)  # enough for a sync each
        with trio.fail_after(20):
            while not noted or noted[-1] < 3:  # noqa: ASYNC110 - threads of their own
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_clean_stop_notes_what_was_synced_before_the_tables_knew_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        await node.write(1, b"line", size=5000)
        segments = node.spool.segments

        def sync_by_bytes(connection: sqlite3.Connection) -> None:
            numbers, last_id = segments.take_unsynced()
            segments.sync(numbers)
            tables.note_synced(connection, last_id)
            assert numbers
            assert tables.synced(connection) < 1

        await node.spool.thread.run(sync_by_bytes)
        await node.finish()
        await node.spool.sync()
        assert await node.spool.thread.run(tables.synced) == 1
