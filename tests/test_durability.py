"""What a real server keeps over SIGTERM, `kill -9` and damage, seen from outside."""

import base64
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Server, environment

WAIT_SECONDS = 20.0
MakeServer = Callable[..., Server]


def body(*texts: str) -> bytes:
    frames = [f"<13>1 2026-01-01T00:00:00Z h t web.1 - - {text}\n".encode() for text in texts]
    return b"".join(b"%d %b" % (len(frame), frame) for frame in frames)


def post(server: Server, token: str, data: bytes, **headers: str) -> tuple[int, dict[str, str]]:
    connection = HTTPConnection(*server.http, timeout=WAIT_SECONDS)
    authorization = "Basic " + base64.b64encode(f"token:{token}".encode()).decode()
    sent = {"Authorization": authorization, "Content-Type": "application/logplex-1"}
    try:
        connection.request("POST", "/logs", data, sent | {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def page(server: Server, app: str) -> dict[str, Any]:
    found: dict[str, Any] = server.json("GET", f"/v3/channels/{app}/ledger")
    return found


def balances(page: dict[str, Any]) -> bool:
    left = page["received"] + page["own"]
    right = page["stored"] + page["memory"] + page["writing"] + sum(page["dropped"].values())
    drains = all(
        drain["head"] - drain["start"]
        == drain["delivered"] + drain["filtered"] + sum(drain["lost"].values()) + drain["pending"]
        for drain in page["drains"]
    )
    return bool(left == right and drains)


def seen(server: Server, app: str) -> list[str]:
    return [line.rpartition(b": ")[2].decode().strip() for line in server.read(app)]


def sse_ids(server: Server, app: str) -> list[str]:
    url = server.json("POST", "/v3/sessions", {"channel_id": app, "num": 1500})["url"]
    _, answer = server.request("GET", "/" + url.split("/", 3)[3], Accept="text/event-stream")
    return [line for line in answer.decode().splitlines() if line.startswith("id: ")]


class Sink:
    """A syslog drain that takes everything, in a thread of the test's making."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"syslog://127.0.0.1:{self.listener.getsockname()[1]}"

    def read(self, until: bytes) -> bytes:
        self.listener.settimeout(WAIT_SECONDS)
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(WAIT_SECONDS)
            taken = b""
            while until not in taken:
                data = connection.recv(65536)
                assert data, taken
                taken += data
        return taken


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_history_positions_counters_and_ids_are_the_same_after_a_restart(make_server: MakeServer, end: str) -> None:
    server = make_server().start()
    token = server.create("shop")["app"]
    for number in range(20):
        assert post(server, token, body(f"a{number}", f"b{number}"))[0] == 204
    lines, ids, before = seen(server, "shop"), sse_ids(server, "shop"), page(server, "shop")
    getattr(server, end)()
    server.start()
    assert seen(server, "shop") == lines
    assert sse_ids(server, "shop") == ids
    after = page(server, "shop")
    assert after == before
    assert balances(after)
    assert after["stored"] == 40
    assert post(server, token, body("more"))[0] == 204
    assert seen(server, "shop") == [*lines, "more"]
    assert page(server, "shop")["head"] == 41


def test_a_retry_is_recognised_after_a_crash(make_server: MakeServer) -> None:
    server = make_server().start()
    token = server.create("shop")["app"]
    assert post(server, token, body("once"), Logplex_Frame_Id="f1")[0] == 204
    server.kill()
    server.start()
    assert post(server, token, body("once"), Logplex_Frame_Id="f1")[0] == 204
    assert post(server, token, body("other"), Logplex_Frame_Id="f1")[0] == 204
    assert seen(server, "shop") == ["once", "other"]
    assert server.json("GET", "/v3/status")["ledger"]["duplicates"] == 1


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_drain_goes_on_where_it_was(make_server: MakeServer, end: str) -> None:
    server = make_server("--drain-allow", "127.0.0.0/8").start()
    token = server.create("shop")["app"]
    sink = Sink()
    drain = server.json("POST", "/v3/channels/shop/drains", {"url": sink.url})["id"]
    assert post(server, token, body("first"))[0] == 204
    sink.read(b"first\n")

    def delivered() -> bool:
        status = page(server, "shop")["drains"][0]
        return bool(status["delivered"] == 1)

    wait_until(delivered)
    time.sleep(0.6)  # idle: the cursor is saved though no line follows, within SAVE_SECONDS
    getattr(server, end)()
    server.start()
    found = page(server, "shop")["drains"][0]
    assert (found["id"], found["delivered"], found["pending"]) == (drain, 1, 0)
    assert post(server, token, body("second"))[0] == 204
    taken = sink.read(b"second\n")
    assert b"first" not in taken
    assert balances(page(server, "shop"))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_durability_lines_are_written_behind_and_a_clean_stop_keeps_all(make_server: MakeServer) -> None:
    server = make_server("--durability", "none").start()
    token = server.create("shop")["app"]
    for n in range(50):
        assert post(server, token, body(f"line {n}"))[0] == 204
    before = page(server, "shop")
    server.stop()
    server.start()
    assert seen(server, "shop") == [f"line {n}" for n in range(50)]
    after = page(server, "shop")
    assert (after["epoch"], after["head"], after["stored"], after["memory"]) == (before["epoch"], 50, 50, 0)
    server.kill()
    server.start()
    assert page(server, "shop")["epoch"] != before["epoch"], "nobody knows what the crash took"
    assert seen(server, "shop") == [f"line {n}" for n in range(50)]
    assert server.json("GET", "/v3/status")["lines_may_be_lost_since"]
    assert balances(page(server, "shop"))


def test_after_a_crash_of_a_server_without_a_spool_ids_point_at_nothing_old(make_server: MakeServer) -> None:
    server = make_server("--durability", "none", "--spool-bytes", "0").start()
    token = server.create("shop")["app"]
    assert post(server, token, body("one"))[0] == 204
    first = page(server, "shop")["epoch"]
    assert page(server, "shop")["memory"] == 1
    time.sleep(0.6)  # longer than idle counters wait for being saved, where they are saved
    assert page(server, "shop")["memory"] == 1
    server.kill()
    server.start()
    assert seen(server, "shop") == []
    assert page(server, "shop")["epoch"] != first
    assert page(server, "shop")["head"] == 0


def test_a_channel_made_again_shows_nothing_of_the_one_before_and_its_page_is_closed(make_server: MakeServer) -> None:
    server = make_server("--drain-allow", "127.0.0.0/8").start()
    token = server.create("shop")["app"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    drain = server.json("POST", "/v3/channels/shop/drains", {"url": f"syslog://127.0.0.1:{port}"})["id"]
    assert post(server, token, body("old", "older"))[0] == 204
    server.json("DELETE", f"/v3/channels/shop/drains/{drain}")
    closed = page(server, "shop")["drains"][0]
    assert closed["id"] == drain
    assert closed["closed_at"]
    assert closed["pending"] == 0
    assert closed["lost"]["deleted"] >= 2
    assert balances(page(server, "shop"))
    server.json("DELETE", "/v3/channels/shop")
    assert post(server, token, body("late"))[0] == 401
    new = server.create("shop")["app"]
    assert seen(server, "shop") == []
    assert post(server, new, body("new"))[0] == 204
    server.kill()
    server.start()
    assert seen(server, "shop") == ["new"]
    closed_channel = server.json("GET", "/v3/status")["ledger"]["closed"][0]
    assert closed_channel["channel"] == "shop"
    assert closed_channel["received"] == 2


def test_a_damaged_spool_is_set_aside_and_named(make_server: MakeServer) -> None:
    server = make_server().start()
    token = server.create("shop")["app"]
    assert post(server, token, body("gone"))[0] == 204
    epoch = page(server, "shop")["epoch"]
    server.stop()
    (server.data_dir / "spool.db").write_bytes(b"no database at all" * 1000)
    server.start()
    told = next(event for event in server.events if event["event"] == "spool_damaged")
    assert Path(told["set_aside"]).read_bytes().startswith(b"no database")
    assert post(server, token, body("new"))[0] == 204
    assert seen(server, "shop") == ["new"]
    assert page(server, "shop")["epoch"] != epoch


def test_a_damaged_config_stops_the_start_and_the_newest_copy_is_named(make_server: MakeServer) -> None:
    server = make_server().start()
    server.create("shop")
    server.stop()
    copies = server.data_dir / "config-copies"
    copies.mkdir(exist_ok=True)
    (copies / "config-20260101T000000Z.db").write_bytes(b"")
    (server.data_dir / "config.db").write_bytes(b"no database at all" * 1000)
    for suffix in ("-wal", "-shm"):
        (server.data_dir / f"config.db{suffix}").unlink(missing_ok=True)
    done = run_serve(server.data_dir)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "config-copies/config-" in done.stderr


def test_a_second_server_on_the_same_directory_does_not_start(server: Server) -> None:
    done = run_serve(server.data_dir)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"another server runs on the data directory {server.data_dir}")
    assert len(done.stderr.strip().splitlines()) == 1
    assert server.request("GET", "/v3/healthcheck")[0] == 200


def run_serve(data_dir: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "logplex", "serve", "--data-dir", str(data_dir), "--http", "127.0.0.1:0"]
    return subprocess.run(
        [*command, "--syslog", "127.0.0.1:0"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def test_what_a_crash_cut_off_between_config_and_spool_is_removed_at_the_start(make_server: MakeServer) -> None:
    server = make_server().start()
    token = server.create("shop")["app"]
    assert post(server, token, body("line"))[0] == 204
    server.kill()
    with sqlite3.connect(server.data_dir / "config.db") as db:
        db.execute("PRAGMA foreign_keys=ON")
        db.execute("DELETE FROM channels")
    server.start()

    def rows() -> bool:
        with sqlite3.connect(f"file:{server.data_dir / 'spool.db'}?mode=ro", uri=True) as db:
            return bool(db.execute("SELECT count(*) FROM lines").fetchone()[0] == 0)

    wait_until(rows)


def test_after_sigterm_drains_get_what_is_there_while_new_lines_are_still_acknowledged(
    make_server: MakeServer,
) -> None:
    server = make_server("--drain-allow", "127.0.0.0/8").start()
    token = server.create("shop")["app"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_SECONDS)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.json("POST", "/v3/channels/shop/drains", {"url": url})
        assert post(server, token, body("last words"))[0] == 204
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(WAIT_SECONDS)
            taken = b""
            while b"last words\n" not in taken:
                taken += connection.recv(65536)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: any(event["event"] == "stopping" for event in server.events))
            assert server.request("GET", "/v3/healthcheck")[0] == 200
            assert server.request("GET", "/v3/healthcheck?ready")[0] == 503
            assert post(server, token, body("while stopping"))[0] == 204
            assert server.process.poll() is None, "it waits for the drain"
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert server.stop() == 0
    assert json.loads((server.data_dir / "run").read_text())["clean"] is True
    server.start()
    assert seen(server, "shop")[:2] == ["last words", "while stopping"]  # then, that nobody listens any more
    ledger = page(server, "shop")
    assert ledger["drains"][0]["delivered"] >= 1
    assert balances(ledger)


def test_a_second_sigterm_ends_the_wait_for_drains(make_server: MakeServer) -> None:
    server = make_server("--drain-allow", "127.0.0.0/8", "--drain-grace-seconds", "60").start()
    token = server.create("shop")["app"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server.json("POST", "/v3/channels/shop/drains", {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"})
        assert post(server, token, body("line"))[0] == 204
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any(event["event"] == "stopping" for event in server.events))
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
        server.start()  # a receiver that is gone would be told of in a line more
        assert page(server, "shop")["drains"][0]["pending"] == 1
