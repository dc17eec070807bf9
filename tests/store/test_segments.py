"""Files of larger batches: what is written, read, given up and cleaned."""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from logplex.batch import Batch, Form, raw_frame
from logplex.config import MIB
from logplex.errors import StoreError
from logplex.store import cleaning, forget, journal, rows, segments, tables
from logplex.store.directory import DataDirectory
from logplex.store.journal import Journal
from logplex.store.reading import Reader
from logplex.store.retention import Retention
from logplex.store.segments import Files, Segments, Spot
from logplex.store.spool import is_full
from logplex.store.writer import Writer

from .spools import Node, opened, texts

SMALL = 3000


class Disk:
    """A connection, its segments and a reader."""

    def __init__(self, path: Path, max_bytes: int = 1 << 30) -> None:
        self.path = path
        self.connection = tables.connect(path / "spool.db", fsync=False, max_bytes=1 << 30)
        self.segments = Segments(path / "spool", max_bytes=max_bytes, fsync=False)
        self.writer = Writer(self.segments, Journal(path / "spool", fsync=False))
        self.writer.open(self.connection)
        self.segments.open(self.connection, lost_power=False)
        self.reader = Reader(path / "spool")
        self.next_id = tables.last_id(self.connection) + 1

    def append(self, channel: int, first: int, size: int = 1100) -> bytes:
        """One row of one line; returns the batch."""
        data = raw_frame(13, b"T", b"app", b"web.1", b"%d.%d." % (channel, first) + b"x" * size)
        row = rows.as_line(self.next_id, channel, Batch(first, 1, 1000 + first, Form.RAW, data), first, None)
        self.writer.append(self.connection, rows.Rows([row], [], [], [], b""))
        self.writer.settle(self.connection)
        self.next_id += 1
        return data

    def read(self, channel: int, cursor: int = 0, end: int = 1 << 40) -> list[tuple[int, bytes]]:
        """All that a reader gets, batch by batch."""
        found: list[tuple[int, bytes]] = []
        while batches := self.reader.read(self.connection, channel, cursor, end, 4000):
            found += [(batch.first, batch.data) for batch in batches]
            cursor = batches[-1].end
        return found

    def files(self) -> list[str]:
        return sorted(file.name for file in self.segments.folder.iterdir() if file.name != journal.FILE_NAME)

    def close(self) -> None:
        self.connection.close()
        self.writer.close()

    def reopened(self) -> "Disk":
        self.close()
        return Disk(self.path)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_SEGMENT_BYTES", SMALL)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


def test_small_batches_stay_in_their_rows_and_larger_ones_go_to_files(disk: Disk) -> None:
    small = [(first, disk.append(1, first, size=10)) for first in range(3)]
    assert disk.files() == []
    large = [(first, disk.append(1, first)) for first in range(3, 9)]
    assert disk.files() == ["00000001", "00000002"]
    assert disk.read(1) == small + large
    assert disk.reader.read_back(disk.connection, 1, 9, 1 << 20)[0].first == 0
    assert [batch.first for batch in disk.reader.read_back(disk.connection, 1, 8, 2000)] == [7]
    assert disk.segments.total == sum(disk.segments.path(int(name)).stat().st_size for name in disk.files())


def test_after_a_restart_the_last_segment_goes_on_and_strange_files_go(disk: Disk) -> None:
    before = [(first, disk.append(1, first)) for first in range(4)]
    (disk.segments.folder / "00000099").write_bytes(b"of a transaction that never was")
    again = disk.reopened()
    assert again.files() == ["00000001", "00000002"]
    assert again.read(1) == before
    after = [(first, again.append(1, first)) for first in range(4, 6)]
    assert again.read(1) == before + after
    assert again.files() == ["00000001", "00000002"]
    again.close()


@pytest.mark.parametrize("part", [0, 60])
def test_what_a_failed_commit_wrote_is_written_over(disk: Disk, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    def failing(descriptor: int, data: list[bytes], at: int) -> None:
        os.pwrite(descriptor, b"".join(data)[:part], at)
        raise OSError(errno.EIO, "failing")

    one = disk.append(1, 0)
    with monkeypatch.context() as broken:
        broken.setattr(disk.writer.journal, "_write", failing)
        with pytest.raises(OSError, match="failing"):
            disk.append(1, 1, size=5000)
    two = disk.append(1, 1, size=1200)
    assert disk.read(1) == [(0, one), (1, two)]
    assert disk.segments.total == len(one) + len(two)
    assert disk.segments.path(1).stat().st_size >= disk.segments.total
    again = disk.reopened()
    assert again.read(1) == [(0, one), (1, two)]
    again.close()


def test_what_the_last_server_left_unsynced_is_synced_by_the_next(disk: Disk) -> None:
    for first in range(3):
        disk.append(1, first)
    numbers, last_id = disk.segments.take_unsynced()
    assert (numbers, last_id) == ({1}, 3)
    disk.segments.sync(numbers)
    tables.note_synced(disk.connection, last_id)
    for first in range(3, 9):
        disk.append(1, first)
    disk.close()
    again = Disk(disk.path)
    again.close()
    synced = Segments(disk.path / "spool", max_bytes=1 << 30, fsync=False)
    connection = tables.connect(disk.path / "spool.db", fsync=False, max_bytes=1 << 30)
    synced.open(connection, synced_id=tables.synced(connection), lost_power=False)
    assert synced.take_unsynced() == ({2, 3}, 9)
    assert synced.take_unsynced() == (set(), 9)
    connection.close()
    synced.close()


def test_the_kernel_keeps_the_newest_segments_alone(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[int] = []

    def advise(descriptor: int, start: int, size: int, advice: int) -> None:
        assert (start, size, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        dropped.append(int(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    newest = 0
    for first in range(40):
        disk.append(1, first)
        disk.segments.sync(disk.segments.take_unsynced()[0])
        newest = int(disk.files()[-1])
    assert dropped == list(range(1, newest - segments.CACHED_SEGMENTS + 1))


def test_a_kernel_that_takes_a_little_at_a_time_gets_everything(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.pwritev

    def reluctant(descriptor: int, buffers: list[bytes], at: int) -> int:
        first = bytes(buffers[0])
        return original(descriptor, [first[: max(1, len(first) // 3)]], at)

    monkeypatch.setattr(os, "pwritev", reluctant)
    written = [(first, disk.append(1, first)) for first in range(3)]
    assert disk.read(1) == written


def test_a_spool_that_has_all_it_may_is_full(tmp_path: Path) -> None:
    disk = Disk(tmp_path, max_bytes=5000)
    held = [(first, disk.append(1, first)) for first in range(4)]
    with pytest.raises(OSError, match="full") as caught:
        disk.append(1, 4)
    assert caught.value.errno == errno.ENOSPC
    error = StoreError()
    error.__cause__ = caught.value
    assert is_full(error)
    assert disk.read(1) == held
    disk.close()


def test_a_segment_goes_with_its_last_row(disk: Disk) -> None:
    written = [disk.append(1, first) for first in range(9)]
    assert disk.files() == ["00000001", "00000002", "00000003"]
    assert forget.forget_before(disk.connection, disk.segments, 1, 5) == {1: 5}
    assert disk.files() == ["00000002", "00000003"]
    assert [first for first, _ in disk.read(1)] == [5, 6, 7, 8]
    used = forget.used(disk.connection, disk.segments)
    assert used.held - used.live == sum(len(each) for each in written[3:5]), "in a segment that others keep"


def test_the_segment_that_is_being_filled_goes_too_and_its_number_with_it(disk: Disk) -> None:
    for first in range(2):
        disk.append(1, first)
    forget.forget_before(disk.connection, disk.segments, 1, 2)
    assert (disk.segments.total, disk.files()) == (0, [])
    assert not disk.connection.execute("SELECT * FROM segments").fetchall()
    written = [(first, disk.append(1, first)) for first in range(2, 7)]
    assert disk.read(1) == written
    again = disk.reopened()
    assert again.read(1) == written
    assert again.files() == ["00000002", "00000003"]
    again.close()


def test_cleaning_keeps_what_rows_refer_to_and_frees_the_rest(disk: Disk) -> None:
    quiet = []
    for turn in range(12):
        quiet.append((turn, disk.append(1, turn)))
        disk.append(2, 2 * turn)
        disk.append(2, 2 * turn + 1)
    forget.forget_before(disk.connection, disk.segments, 2, 24)
    before = forget.used(disk.connection, disk.segments)
    while cleaning.clean(disk.connection, disk.segments):
        assert disk.read(1) == quiet
    after = forget.used(disk.connection, disk.segments)
    assert after.live == pytest.approx(before.live, abs=4 * tables.PAGE_BYTES)
    assert after.held < before.held - 15_000
    assert disk.segments.total == sum(disk.segments.path(int(n)).stat().st_size for n in _numbers(disk))
    quiet += [(turn, disk.append(1, turn)) for turn in range(12, 15)]
    again = disk.reopened()
    assert again.read(1) == quiet
    forget.forget_before(again.connection, again.segments, 1, 12)  # what was moved dies as everything else does
    while cleaning.clean(again.connection, again.segments):
        pass
    assert again.read(1) == quiet[12:]
    assert len(again.files()) <= 4
    again.close()


def _numbers(disk: Disk) -> list[int]:
    return [row[0] for row in disk.connection.execute("SELECT number FROM segments")]


def test_what_cannot_be_read_is_a_hole_and_the_rest_is_still_there(disk: Disk) -> None:
    written = [(first, disk.append(1, first)) for first in range(6)]
    with disk.segments.path(1).open("r+b") as file:
        file.seek(len(written[0][1]))
        file.write(bytes(50))
    assert disk.read(1) == [each for each in written if each[0] != 1]
    assert [batch.first for batch in disk.reader.read_back(disk.connection, 1, 6, 1 << 20)] == [2, 3, 4, 5]
    assert [batch.first for batch in disk.reader.read_back(disk.connection, 1, 2, 1 << 20)] == [0]
    disk.segments.path(1).unlink()
    assert disk.read(1) == written[3:]
    assert disk.read(1, 0, 3) == []
    while cleaning.clean(disk.connection, disk.segments):
        pass
    assert disk.read(1) == written[3:]


def test_a_reader_whose_segment_is_deleted_under_it_asks_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = []
    for turn in range(6):
        quiet.append((turn, disk.append(1, turn)))
        disk.append(2, turn)
    forget.forget_before(disk.connection, disk.segments, 2, 6)
    original = Files.load
    cleaned = 0

    def load(files: Files, spots: list[Spot], *, missing_ok: bool = False) -> dict[Spot, bytes]:
        nonlocal cleaned
        if not cleaned:
            cleaned = 1
            while cleaning.clean(disk.connection, disk.segments):
                cleaned += 1
        return original(files, spots, missing_ok=missing_ok)

    monkeypatch.setattr(Files, "load", load)
    assert [batch.first for batch in disk.reader.read(disk.connection, 1, 0, 6, 1 << 20)] == list(range(6))
    assert cleaned > 1
    assert disk.read(1) == quiet


def test_tables_of_another_version_are_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "spool.db") as db:
        db.execute("CREATE TABLE lines (id INTEGER PRIMARY KEY, data BLOB)")
    with pytest.raises(sqlite3.DatabaseError, match="version 0") as caught:
        tables.connect(tmp_path / "spool.db", fsync=False, max_bytes=1 << 30)
    assert caught.value.sqlite_errorcode == sqlite3.SQLITE_NOTADB


@pytest.mark.parametrize("damage", ["short", "missing"])
async def test_a_spool_without_all_its_segments_is_set_aside(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as node:
        await node.write(1, b"line", size=5000)
        await node.finish()
        file = node.spool.segments.path(1)
    if damage == "short":
        os.truncate(file, 100)
    else:
        file.unlink()
    async with opened(tmp_path) as node:
        assert (await node.channel(1)).head == 0
        await node.write(1, b"new", size=5000)
        assert await texts(await node.channel(1)) == ({0: b"new".ljust(5000, b".")}, 0)
    aside = [name for name in os.listdir(tmp_path) if name.startswith("spool.damaged-")]
    assert len([name for name in aside if name.endswith("-segments")]) == 1
    assert len(aside) >= 2


async def test_files_stay_within_the_bound_though_quiet_channels_lie_in_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_SEGMENT_BYTES", 32 * 1024)
    async with opened(tmp_path, ring_lines=10, spool_bytes=2 * MIB) as node:
        keep = Retention(
            node.spool,
            node.channels,
            node.committer,
            type(node.settings)(data_dir=str(tmp_path), history_lines=60),
            lambda channel: channel.head,
        )
        for turn in range(120):
            await node.write(2, *[b"loud"] * 20, size=1500)
            await node.write(1, b"quiet", size=1500)
            if turn % 4 == 3:
                await keep.look()
                assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) <= 2 * MIB
        found, lost = await _of(node, 1)
        assert len(found) == 120
        assert lost == 0
        found, lost = await _of(node, 2)
        assert 60 <= len(found) < 2400
        assert len(found) + lost == 2400


async def _of(node: Node, number: int) -> tuple[dict[int, bytes], int]:
    return await texts(await node.channel(number))


def test_a_machine_that_stayed_up_has_lost_no_power(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert not directory.lost_power()
    directory.begin_run("commit")
    assert not directory.lost_power()
    directory.write("run", '{"durability": "commit", "boot": "before", "clean": false}')
    assert directory.lost_power()
    for kept in ({"durability": "commit", "clean": True}, {"durability": "fsync", "clean": False}):
        directory.write("run", json.dumps({"boot": "before", **kept}))
        assert not directory.lost_power()
    directory.close()
