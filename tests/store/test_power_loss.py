"""What the files may look like after power was lost: every such state reopens with whole groups only.

SQLite appends to its log, syncs it, copies it into the database, syncs that, and begins the log again. The states
that a loss of power can leave are made by hand: a log cut off or damaged anywhere, a database with any part of a
checkpoint, a log begun again over an old one.
"""

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from logplex.batch import Batch, Form, raw_frame
from logplex.store import tables
from logplex.store.directory import DataDirectory

GROUPS = 12
SEED = 20261122


def group(number: int) -> tables.Rows:
    """Group n: n + 1 lines in each of two channels, a cursor, the node's counters and an id, which all say n."""
    lines = []
    for channel in (1, 2):
        first = number * (number + 1) // 2
        data = b"".join(raw_frame(13, b"T", b"app", b"web.1", b"%d" % number * 900) for _ in range(number + 1))
        batch = Batch(first, number + 1, 1000 + number, Form.RAW, data)
        row_id = 2 * number + channel
        lines.append((row_id, channel, first, batch.count, batch.at, int(batch.form), first, bytes([number]), data))
    state = [
        (int(tables.Kind.META), int(tables.Meta.NODE), b"\x81\xa1n" + bytes([number])),
        (int(tables.Kind.CURSOR), 7, b"\x91" + bytes([number])),
    ]
    return tables.Rows(lines, [], state, [], number.to_bytes(16, "big"))


def whole_groups(path: Path) -> int:
    """How many groups a reopened spool holds; fails unless it holds each of them whole and no other."""
    with closing(tables.connect(path, fsync=False, max_bytes=1 << 30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        count = len(tables.ids(connection, 0, 1000))
        expected = [group(number) for number in range(count)]
        rows = connection.execute("SELECT * FROM lines ORDER BY id").fetchall()
        assert rows == [row for each in expected for row in each.lines]
        if count:
            assert tables.cursors(connection) == {7: (count - 1,)}
            assert tables.node(connection) == {"n": count - 1}
        assert [digest for digest, _ in tables.ids(connection, 0, 1000)] == [each.ids for each in expected]
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
        return whole_groups(place / "spool.db")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "spool.db")


def test_every_prefix_of_the_log_reopens_with_whole_groups_in_their_order(disk: Disk) -> None:
    with closing(tables.connect(disk.path, fsync=False, max_bytes=1 << 30)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ends = []
        for number in range(GROUPS):
            tables.append(connection, group(number))
            ends.append(len(disk.files()[1]))
        database, log = disk.files()
    found = []
    chance = random.Random(SEED)
    frame = tables.PAGE_BYTES + 24
    cuts = {32 + index * frame for index in range((len(log) - 32) // frame + 1)}
    cuts |= {chance.randrange(len(log)) for _ in range(40)} | {0, 1, 31, 32, 33}
    for cut in sorted(cuts):
        count = disk.reopened(database, log[:cut])
        assert count == sum(end <= cut for end in ends), "what was written whole is there, and no more"
        found.append(count)
    assert found == sorted(found)
    assert found[-1] == GROUPS


def test_a_log_that_reached_the_disk_in_parts_reopens_with_a_prefix_of_the_groups(disk: Disk) -> None:
    with closing(tables.connect(disk.path, fsync=False, max_bytes=1 << 30)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(GROUPS):
            tables.append(connection, group(number))
        database, log = disk.files()
    chance = random.Random(SEED)
    for _ in range(40):
        damaged = bytearray(log)
        for _ in range(chance.randrange(1, 4)):  # sectors that were never written
            at = chance.randrange(0, len(log), 512)
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        assert disk.reopened(database, bytes(damaged)) <= GROUPS


def test_any_part_of_a_checkpoint_reopens_with_all_groups(disk: Disk) -> None:
    with closing(tables.connect(disk.path, fsync=False, max_bytes=1 << 30)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(GROUPS):
            tables.append(connection, group(number))
        before, log = disk.files()  # the log is synced before the database is written
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
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
    with closing(tables.connect(disk.path, fsync=False, max_bytes=1 << 30)) as connection:
        for number in range(half):
            tables.append(connection, group(number))
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        database, old = disk.files()
        for number in range(half, GROUPS):
            tables.append(connection, group(number))
        assert disk.files()[0] == database, "nothing was checkpointed since"
        _, new = disk.files()
    assert new[:32] != old[:32], "it has begun again"
    for cut in range(0, len(new), 8192):
        count = disk.reopened(database, new[:cut] + old[cut:])
        assert half <= count <= GROUPS


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
