"""Groups in the journal and in the tables: the same for whoever reads, whichever they are in."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from logplex.batch import HOLE, Batch, Form, Line, http_frame, raw_frame
from logplex.store import forget, rows, segments, tables, writer
from logplex.store.journal import Journal
from logplex.store.reading import Reader
from logplex.store.segments import Segments
from logplex.store.writer import Writer

from .spools import Faults, opened, sqlite_error, texts


class Store:
    """A connection, its writer and a reader."""

    def __init__(self, path: Path, faults: Faults | None = None) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        disk = faults or Faults()
        self.connection = disk.connect(path / "spool.db", False, 1 << 30)
        self.segments = Segments(path / "spool", max_bytes=1 << 30, fsync=False)
        self.writer = Writer(self.segments, Journal(path / "spool", fsync=False, write=disk.write))
        self.writer.open(self.connection)
        self.segments.open(self.connection, lost_power=False)
        self.reader = Reader(path / "spool")
        self.next_id = tables.last_id(self.connection) + 1
        self.heads: dict[int, int] = {}

    def commit(self, *batches: tuple[int, list[bytes]], form: Form = Form.SYSLOG, host: bytes = HOLE) -> None:
        """A group of these batches: channel and texts."""
        lines = []
        for channel, each in batches:
            first = self.heads.get(channel, 0)
            data = b"".join(_frame(text, form, host) for text in each)
            lines.append(
                rows.as_line(self.next_id, channel, Batch(first, len(each), 1000, form, data), first, b"page")
            )
            self.heads[channel] = first + len(each)
            self.next_id += 1
        self.writer.append(self.connection, rows.Rows(lines, [], [], [], b""))

    def read(self, channel: int, cursor: int, end: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Lines by position, as a reader gets them by and by."""
        found: list[tuple[int, bytes]] = []
        late = self.writer.late(channel)
        while cursor < end and (batches := self.reader.read(self.connection, channel, cursor, end, max_bytes, late)):
            assert batches[0].first >= cursor
            found += _lines(batches)
            cursor = batches[-1].end
        return found

    def read_back(self, channel: int, end: int, max_bytes: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        late = self.writer.late(channel)
        while batches := self.reader.read_back(self.connection, channel, end, max_bytes, late):
            found = _lines(batches) + found
            end = batches[0].first
        return found

    def close(self) -> None:
        self.connection.close()
        self.writer.close()


def _frame(text: bytes, form: Form, host: bytes) -> bytes:
    line = Line(b"13", b"2026-01-01T00:00:00Z", b"app", b"web.1", text)
    frame = http_frame(line, 1000) if form is Form.HTTP else raw_frame(13, *line[1:])
    return frame if form is Form.HTTP else frame.replace(HOLE, host, 1)


def _lines(batches: list[Batch]) -> list[tuple[int, bytes]]:
    return [(batch.first + index, line.text) for batch in batches for index, line in enumerate(batch.lines())]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


GROUP = st.lists(st.tuples(st.integers(1, 2), st.lists(st.sampled_from([b"a", b"b" * 700]), min_size=1, max_size=3)))


@given(
    groups=st.lists(st.tuples(GROUP, st.sampled_from([Form.SYSLOG, Form.HTTP, Form.RAW])), max_size=8),
    settled=st.integers(0, 8),
    data=st.data(),
)
def test_readers_find_the_same_lines_in_journal_and_tables(
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[tuple[list[tuple[int, list[bytes]]], Form]],
    settled: int,
    data: st.DataObject,
) -> None:
    store = Store(tmp_path_factory.mktemp("both"))
    written: dict[int, list[bytes]] = {1: [], 2: []}
    for number, (group, form) in enumerate(groups):
        if number == settled:
            store.writer.settle(store.connection)
        if group:
            store.commit(*group, form=form)
        for channel, each in group:
            written[channel] += each
    for channel, lines in written.items():
        everything = list(enumerate(lines))
        cursor = data.draw(st.integers(0, len(lines)))
        end = data.draw(st.integers(cursor, len(lines)))
        max_bytes = data.draw(st.sampled_from([1, 500, 1 << 20]))
        assert store.read(channel, cursor, end, max_bytes) == everything[cursor:end]
        assert store.read_back(channel, end, max_bytes) == everything[:end]
        late = store.writer.late(channel)
        store.writer.settle(store.connection)  # a reader that has looked at what is late is passed by
        reader, connection = store.reader, store.connection
        assert _lines(reader.read(connection, channel, 0, len(lines), 1 << 20, late)) == everything
        assert _lines(reader.read_back(connection, channel, len(lines), 1 << 20, late)) == everything
    store.close()
    again = Store(store.path)
    for channel, lines in written.items():
        assert again.read(channel, 0, len(lines), 1 << 20) == list(enumerate(lines))
    again.close()


def test_batches_with_different_hosts_are_not_joined(store: Store) -> None:
    """What is one drain's as it is must not be another's."""
    tokens = [b"d.%032d-123" % number for number in range(2)]
    for number in range(6):
        store.commit((1, [b"%d" % number]), host=tokens[number // 3])
    store.writer.settle(store.connection)
    assert store.connection.execute("SELECT count(*) FROM lines").fetchone()[0] == 2
    for token in tokens:
        batches = store.reader.read(store.connection, 1, 0, 6, 1 << 20)
        sent = b"".join(batch.syslog(token) for batch in batches)
        assert sent.count(token) == 6
        assert sum(sent.count(other) for other in tokens) == 6


LINES = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from([Form.RAW, Form.SYSLOG, Form.HTTP, Form.SYSLOG | rows.TAILS_ONLY]),
        st.integers(1, 2000),
        st.booleans(),
        st.booleans(),
    ),
    max_size=20,
)


@given(made=LINES)
def test_joined_rows_say_what_the_single_ones_said(made: list[tuple[int, int, int, int, bool, bool]]) -> None:
    lines: list[rows.Line] = []
    heads: dict[int, int] = {}
    for row_id, (channel, count, form, size, inline, gap) in enumerate(made, 1):
        first = heads.get(channel, 0) + gap
        heads[channel] = first + count
        data = b"9 <1>1 T %b " % HOLE + bytes([row_id]) * size if inline else None
        size = len(data) if data is not None else size
        lines.append((row_id, channel, first, count, row_id, int(form), row_id, b"p", int(not inline), 0, size, data))
    found = rows.joined(lines, tables.JOINED_BYTES)
    assert [line[0] for line in found] == sorted({line[0] for line in found})
    rest = list(lines)
    for row_id, channel, first, count, at, form, total, page, segment, start, size, data in found:
        parts = [line for line in rest if line[1] == channel and line[0] <= row_id]
        rest = [line for line in rest if line not in parts]
        last = parts[-1]
        assert (row_id, at, form, total, page) == (last[0], *last[4:8])
        assert [line[2] for line in parts[1:]] == [line[2] + line[3] for line in parts[:-1]], "they adjoin"
        assert (first, first + count) == (parts[0][2], last[2] + last[3])
        if len(parts) == 1:
            assert (segment, start, size, data) == last[8:]
            continue
        assert form != Form.RAW
        assert {line[5] for line in parts} == {form}
        assert data == b"".join(line[11] or b"" for line in parts)
        assert size == len(data) == sum(line[10] for line in parts) <= tables.JOINED_BYTES
    assert not rest


def test_many_small_batches_of_a_channel_become_few_rows(store: Store) -> None:
    for number in range(50):
        store.commit((1, [b"%d" % number]), (2, [b"other"]))
    store.writer.settle(store.connection)
    assert store.connection.execute("SELECT count(*) FROM lines").fetchone()[0] <= 6
    assert [text for _, text in store.read(1, 0, 50, 1000)] == [b"%d" % number for number in range(50)]


def test_a_round_that_the_tables_do_not_take_is_tried_before_the_next_commit(tmp_path: Path) -> None:
    faults = Faults()
    store = Store(tmp_path / "data", faults)
    store.commit((1, [b"one"]))
    faults.error = sqlite_error(sqlite3.SQLITE_FULL, "full")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.writer.settle(store.connection)
    assert store.read(1, 0, 1, 1000) == [(0, b"one")], "what was committed can still be read"
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.commit((1, [b"two"]))
    assert faults.commits == 1, "nothing more is acknowledged"
    faults.error = None
    store.heads[1] = 1
    store.commit((1, [b"two"]))
    store.close()
    again = Store(tmp_path / "data")
    assert again.read(1, 0, 2, 1000) == [(0, b"one"), (1, b"two")]
    again.close()


def test_a_round_is_due_when_it_is_old_or_large(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(writer.time, "monotonic", lambda: now)
    assert not store.writer.is_due
    store.commit((1, [b"line"]))
    assert not store.writer.is_due
    now += writer.ROUND_SECONDS + 0.1
    assert store.writer.is_due
    assert store.writer.settle(store.connection) > 0
    assert not store.writer.is_due
    assert store.writer.settle(store.connection) == 0
    for bound, value in (("ROUND_BYTES", 200), ("ROUND_ROWS", 1)):
        with monkeypatch.context() as small:
            small.setattr(writer, bound, value)
            store.commit((1, [b"line"]))
            assert not store.writer.is_due
            store.commit((1, [b"line" * 20]))
            assert store.writer.is_due
            store.writer.settle(store.connection)


def test_a_segment_that_late_lines_lie_in_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit((1, [b"old" * 1000]))
    store.writer.settle(store.connection)
    store.commit((2, [b"late" * 1000]))
    forget.forget_before(store.connection, store.segments, 1, 1)
    assert store.segments.path(1).exists()
    assert store.read(2, 0, 1, 1000) == [(0, b"late" * 1000)]
    store.writer.settle(store.connection)
    forget.forget_before(store.connection, store.segments, 2, 1)
    assert not store.segments.path(1).exists()
    monkeypatch.setattr(segments, "MAX_SEGMENT_BYTES", 100)
    store.commit((2, [b"new" * 1000]))
    assert store.read(2, 0, 2, 1000) == [(1, b"new" * 1000)]


async def test_a_spool_without_its_journal_is_set_aside(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        await node.write(1, b"line")
    (tmp_path / "spool" / "journal").unlink()
    async with opened(tmp_path) as node:
        assert (await node.channel(1)).head == 0
        await node.write(1, b"new")
        assert await texts(await node.channel(1)) == ({0: b"new"}, 0)
    assert any(name.startswith("spool.damaged-") for name in os.listdir(tmp_path))
