"""The thread that owns a database."""

import sqlite3

import pytest
import trio

from logplex.errors import StoreError
from logplex.store.sqlite import DatabaseThread


def connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:")


async def test_calls_run_in_their_order_and_what_has_ended_is_told_in_trio() -> None:
    seen: list[int] = []
    async with DatabaseThread(connect, "test") as thread:
        for number in range(100):
            thread.submit(lambda _, number=number: number, lambda result: seen.append(result.unwrap()))  # type: ignore[misc]
        assert await thread.run(lambda connection: connection.execute("SELECT 100").fetchone()[0]) == 100
        assert seen == list(range(100))


async def test_a_cancelled_caller_stops_waiting_and_not_the_work() -> None:
    async with DatabaseThread(connect, "test") as thread:
        with trio.CancelScope() as scope:
            scope.cancel()
            await thread.run(lambda connection: connection.execute("CREATE TABLE made (x)"))
        assert await thread.run(lambda connection: connection.execute("SELECT * FROM made").fetchall()) == []


async def test_what_the_database_or_the_disk_raises_is_a_store_error() -> None:
    def fail(_connection: sqlite3.Connection) -> None:
        raise OSError("no room")

    async with DatabaseThread(connect, "test") as thread:
        with pytest.raises(StoreError, match="no room"):
            await thread.run(fail)
        with pytest.raises(StoreError, match="no such table"):
            await thread.run(lambda connection: connection.execute("SELECT * FROM absent"))
        assert await thread.run(lambda _: 1) == 1


async def test_a_database_that_cannot_be_opened_says_so_on_entering() -> None:
    thread = DatabaseThread(lambda: sqlite3.connect("/nowhere/at/all"), "test")
    with pytest.raises(StoreError):
        await thread.__aenter__()


async def test_a_call_behind_the_end_is_refused() -> None:
    async with DatabaseThread(connect, "test") as thread:
        pass
    with pytest.raises(ValueError, match="descriptor"):
        thread.submit(lambda _: None, lambda result: None)


async def test_who_is_given_brings_what_has_ended_to_trio() -> None:
    calls: list[object] = []
    token = trio.lowlevel.current_trio_token()

    def call_soon(fn: object) -> None:
        calls.append(fn)
        token.run_sync_soon(fn)  # type: ignore[arg-type]

    async with DatabaseThread(connect, "test", call_soon=call_soon) as thread:
        before = len(calls)
        assert await thread.run(lambda _: 1) == 1
        assert len(calls) == before + 1
