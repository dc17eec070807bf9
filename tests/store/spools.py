"""A spool with everything that writes to it and reads from it, opened, crashed and opened again; and faults."""

import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from logplex.channel import Channel, Channels
from logplex.commit import Committer
from logplex.config import MIB, Settings
from logplex.group import Outcome
from logplex.store import tables
from logplex.store.directory import DataDirectory
from logplex.store.disk import write_all
from logplex.store.opening import open_spool
from logplex.store.spool import Spool


class Faults:
    """What the disk does wrong, switched on and off by a test while the spool is open."""

    def __init__(self) -> None:
        self.error: Exception | None = None  # raised by every COMMIT and every write to the journal
        self.go_on = threading.Event()  # not set: they hang
        self.go_on.set()
        self.commits = 0  # of groups
        self.transactions = 0  # of the tables

    def write(self, descriptor: int, data: list[bytes], at: int) -> None:
        """As `write_all`, with these faults."""
        self.commits += 1
        self.happen()
        write_all(descriptor, data, at)

    def happen(self) -> None:
        """Hang or fail, if that is what the disk does now."""
        self.go_on.wait(20)
        if self.error is not None:
            raise self.error

    def connect(self, path: Path, fsync: bool, max_bytes: int) -> sqlite3.Connection:
        """As `tables.connect`, with these faults."""
        connection = tables.connect(path, fsync=fsync, max_bytes=max_bytes)
        return _Faulty(connection, self)  # type: ignore[return-value]


class _Faulty:
    """A connection whose COMMIT may fail or hang."""

    def __init__(self, connection: sqlite3.Connection, faults: Faults) -> None:
        self._connection = connection
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            self._faults.transactions += 1
            self._faults.happen()
        return self._connection.execute(statement, *args)


def sqlite_error(code: int, text: str) -> sqlite3.OperationalError:
    """As sqlite3 raises it."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Node:
    """Spool, channels and committer of one run."""

    def __init__(self, directory: DataDirectory, spool: Spool, settings: Settings) -> None:
        self.directory = directory
        self.spool = spool
        self.settings = settings
        self.channels = Channels(
            spool, ring_lines=settings.ring_lines, ring_bytes=MIB, rings_bytes=settings.rings_bytes
        )
        self.committer = Committer(
            spool,
            group_seconds=0.0,
            timeout_seconds=settings.commit_timeout_seconds,
            max_uncommitted_bytes=settings.uncommitted_bytes,
            refuse_when_degraded=settings.when_degraded == "refuse",
        )

        async def note(since: float | None) -> None:
            directory.note_degraded(since)

        self.committer.trouble.note = note

    async def channel(self, number: int) -> Channel:
        await self.channels.load({number: (f"app-{number}", frozenset())})
        channel = self.channels.get(number)
        assert channel is not None
        return channel

    async def write(self, number: int, *texts: bytes, size: int = 0) -> Outcome:
        """Put lines into the group, and wait for its end."""
        channel = await self.channel(number)
        group = self.committer.current
        for text in texts:
            group.append_raw(channel, 13, b"2026-01-01T00:00:00Z", b"app", b"web.1", text.ljust(size, b"."))
        group.waiting = True
        self.committer.flush()
        return await group.settled()

    async def finish(self) -> None:
        """A clean stop."""
        await self.committer.finish()
        self.directory.end_run()


@asynccontextmanager
async def opened(
    path: Path, *, faults: Faults | None = None, slack_bytes: int = 16 * MIB, **settings: Any
) -> AsyncIterator[Node]:
    """A node on a data directory; leaving it is a crash unless `finish` was called."""
    given = Settings(data_dir=str(path), **settings)
    directory = DataDirectory(path)
    try:
        disk = faults or Faults()
        async with open_spool(
            directory, given, connect=disk.connect, write=disk.write, slack_bytes=slack_bytes
        ) as spool:
            directory.begin_run(given.durability)
            node = Node(directory, spool, given)
            async with trio.open_nursery() as nursery:
                await nursery.start(node.committer.run)
                yield node
                nursery.cancel_scope.cancel()
    finally:
        directory.close()


def copy_of(path: Path, to: Path) -> Path:
    """The files as a crash of the process leaves them at this moment."""
    to.mkdir()
    for name in ("spool.db", "spool.db-wal", "run"):
        if (path / name).exists():
            shutil.copyfile(path / name, to / name)
    shutil.copytree(path / "spool", to / "spool")
    return to


async def texts(channel: Channel, cursor: int = 0) -> tuple[dict[int, bytes], int]:
    """Everything that a reader at `cursor` gets: text by position, and how many it is told are lost."""
    found: dict[int, bytes] = {}
    lost = 0
    while cursor < channel.head:
        reading = await channel.read(cursor, 10_000)
        lost += reading.lost
        cursor += reading.lost
        for batch in reading.batches:
            assert batch.first == cursor
            for line in batch.lines():
                found[cursor] = line.text
                cursor += 1
    return found, lost


def balances(channel: Channel) -> bool:
    page = channel.page
    return page.received + page.own == page.stored + page.memory + page.writing + sum(page.dropped.values())


class Loop:
    """Trio in a thread, for tests that are not async: `run` calls an async function there."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._ready.set()
            await self._end.wait()
            self.nursery.cancel_scope.cancel()

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return trio.from_thread.run(fn, *args, trio_token=self._token)

    def close(self) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join(20)
