"""The whole server in this process, over a disk that fails, hangs and is full."""

import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from logplex.app import node
from logplex.app.server import serve
from logplex.config import Settings
from logplex.store import sqlite
from logplex.store.opening import open_spool

from .store.spools import Faults, sqlite_error
from .test_durability import balances, body, page, post

FAST = {"http": "127.0.0.1:0", "syslog": "127.0.0.1:0", "drain_grace_seconds": 1.0}


class InProcess:
    """A running server as tests/conftest.py's `Server` has it, as far as needed here."""

    def __init__(self, data_dir: Path, addresses: dict[str, str]) -> None:
        self.data_dir = data_dir
        self.addresses = addresses

    @property
    def http(self) -> tuple[str, int]:
        host, _, port = self.addresses["http"].rpartition(":")
        return host, int(port)

    async def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a blocking client in a thread."""
        return await trio.to_thread.run_sync(partial(fn, self, *args, **kwargs))

    def request(self, method: str, path: str, sent: Any = None, **headers: str) -> tuple[int, bytes]:
        from .conftest import Server

        return Server.request(self, method, path, sent, **headers)  # type: ignore[arg-type]

    def json(self, method: str, path: str, sent: Any = None) -> Any:
        from .conftest import Server

        return Server.json(self, method, path, sent)  # type: ignore[arg-type]

    @property
    def admin(self) -> tuple[str, str]:
        id_, _, password = (self.data_dir / "admin").read_text().strip().partition(":")
        return id_, password

    @property
    def authorization(self) -> str:
        from .conftest import Server

        return Server.authorization.fget(self)  # type: ignore[attr-defined,no-any-return]


def create(server: InProcess, name: str) -> str:
    made = server.json("PUT", f"/v3/channels/{name}", {"tokens": ["app"]})
    return str(made["tokens"]["app"])


def health(server: InProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.request("GET", "/v3/healthcheck", Accept="application/json")[1])
    return found


@asynccontextmanager
async def running(path: Path, **given: Any) -> AsyncIterator[InProcess]:
    """`serve` in a task; cancelled at the end, which for the spool is a crash."""
    settings = Settings(data_dir=str(path / "data"), **{**FAST, **given})
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(serve, settings))
        yield InProcess(path / "data", listeners.names())
        nursery.cancel_scope.cancel()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults()
    monkeypatch.setattr(node, "open_spool", partial(open_spool, connect=made.connect, write=made.write))
    return made


async def test_a_server_that_looks_for_lines_instead_of_sleeping_takes_all(tmp_path: Path) -> None:
    async with running(tmp_path, busy_poll_seconds=60.0) as server:
        token = await server(create, "shop")
        for number in range(20):
            assert (await server(post, token, body(f"line {number}")))[0] == 204
        assert (await server(page, "shop"))["stored"] == 20


DISK_ERRORS = {
    "full": sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full"),
    "read-only": sqlite_error(sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    "failing": sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error"),
}


@pytest.mark.parametrize("kind", [*DISK_ERRORS, "hanging"])
async def test_a_bad_disk_degrades_the_server_which_goes_on_and_heals_by_itself(
    tmp_path: Path, faults: Faults, kind: str
) -> None:
    async with running(tmp_path, commit_timeout_seconds=0.3) as server:
        token = await server(create, "shop")
        assert (await server(post, token, body("before")))[0] == 204
        assert (await server(health))["state"] == "normal"
        if kind == "hanging":
            faults.go_on.clear()
        else:
            faults.error = DISK_ERRORS[kind]
        status, headers = await server(post, token, body("during"))
        assert status == 204
        assert headers["logplex-durability"] == "memory"
        found = await server(health)
        assert found["state"] == "degraded"
        assert found["degraded_reason"]
        assert (await server(lambda s: s.json("GET", "/v3/status")))["state"] == "degraded"
        assert balances(await server(page, "shop"))
        run = json.loads((tmp_path / "data/run").read_text())
        assert run["degraded_since"] == found["degraded_since"]
        faults.error = None
        faults.go_on.set()
        with trio.fail_after(10):
            while (await server(health))["state"] != "normal":  # noqa: ASYNC110 - asked from outside
                await trio.sleep(0.05)
            while json.loads((tmp_path / "data/run").read_text())["degraded_since"] is not None:  # noqa: ASYNC110
                await trio.sleep(0.05)  # noted in a thread, after that
        status, headers = await server(post, token, body("after"))
        assert status == 204
        assert "logplex-durability" not in headers
        ledger = await server(page, "shop")
        assert (ledger["stored"], ledger["memory"]) == (3, 0)
    async with running(tmp_path) as server:
        again = await server(page, "shop")
    if kind == "full":  # where room may have been made in the spool of what the ring still held
        again["oldest"] = ledger["oldest"]
    assert again == ledger, "healed without a loss, and proven"


async def test_a_crash_while_degraded_is_told_at_the_next_start_with_the_time_since_when(
    tmp_path: Path, faults: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path) as server:
        token = await server(create, "shop")
        assert (await server(post, token, body("kept")))[0] == 204
        epoch = (await server(page, "shop"))["epoch"]
        faults.error = DISK_ERRORS["failing"]
        assert (await server(post, token, body("lost", "lost too")))[1]["logplex-durability"] == "memory"
        since = (await server(health))["degraded_since"]
    faults.error = None
    capsys.readouterr()
    async with running(tmp_path) as server:
        assert "lines_may_be_lost" in "".join(capsys.readouterr())
        assert (await server(health))["lines_may_be_lost_since"] == since
        ledger = await server(page, "shop")
        assert ledger["head"] == 1
        assert ledger["epoch"] != epoch, "positions of lines that are gone are never given to others"
        assert balances(ledger)


async def test_refusing_while_degraded_closes_requests_that_are_held_so_that_shippers_retry(
    tmp_path: Path, faults: Faults
) -> None:
    async with running(tmp_path, when_degraded="refuse", commit_timeout_seconds=1.5) as server:
        token = await server(create, "shop")
        assert (await server(post, token, body("before")))[0] == 204
        faults.error = DISK_ERRORS["failing"]
        with pytest.raises(ConnectionError):
            await server(post, token, body("during"), Logplex_Frame_Id="f1")
        assert (await server(page, "shop"))["head"] == 1, "nothing is shown that a crash could take back"
        faults.error = None
        assert (await server(post, token, body("during"), Logplex_Frame_Id="f1"))[0] == 204
        ledger = await server(page, "shop")
        assert (ledger["head"], ledger["stored"]) == (2, 2)
        assert balances(ledger)


async def test_a_server_whose_disk_hangs_stops_all_the_same_and_the_next_start_says_so(
    tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sqlite, "CLOSE_SECONDS", 0.5)
    settings = Settings(data_dir=str(tmp_path / "data"), **FAST, commit_timeout_seconds=0.3)  # type: ignore[arg-type]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(serve, settings))
            server = InProcess(tmp_path / "data", listeners.names())
            token = await server(create, "shop")
            faults.go_on.clear()
            assert (await server(post, token, body("line")))[1]["logplex-durability"] == "memory"
            os.kill(os.getpid(), signal.SIGTERM)
    assert "stopped_with_lines_in_memory" in "".join(capsys.readouterr())
    faults.go_on.set()
    async with running(tmp_path) as server:
        assert "lines_may_be_lost_since" in await server(health)
