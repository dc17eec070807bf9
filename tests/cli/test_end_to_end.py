"""The commands against the real server, as a user types them."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import Server, environment
from .conftest import Run
from .fake import Answer, FakeServer

LIMIT_SECONDS = 60.0

Command = Callable[..., str]


@pytest.fixture
def on(call: Run, run: Run) -> Callable[[Server], Command]:
    """For a server: `logplex …` on its data directory, which must succeed; its standard output."""

    def on(server: Server) -> Command:
        def succeed(*arguments: str, input: bytes = b"") -> str:
            way = run if arguments[0] == "ship" else call  # ship reads descriptors, and handles signals
            ended = way(*arguments, input=input, LOGPLEX_URL="", LOGPLEX_DATA_DIR=str(server.data_dir))
            assert ended.returncode == 0, ended.stderr.decode()
            return str(ended.stdout.decode())

        return succeed

    return on


@pytest.fixture
def logplex(on: Callable[[Server], Command], server: Server) -> Command:
    return on(server)


@contextmanager
def following(data_dir: Path, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "logplex", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LOGPLEX_DATA_DIR=str(data_dir), **variables),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_line_goes_from_ship_to_tail(logplex: Command) -> None:
    url = logplex("channels", "create", "shop", "--token", "app", "--token", "heroku").splitlines()
    assert len(url) == 2
    assert all(re.fullmatch(r"http://token:t\.[0-9a-f-]{36}@127\.0\.0\.1:\d+/logs", each) for each in url)
    assert logplex("channels").startswith("shop\t")
    logplex("ship", "-a", "shop", "--ps", "web.1", input=b"hello\r50 %\nstatus=503 at=error\n")
    logplex("ship", "-a", "shop", "--source", "heroku", "--severity", "error", "--", "echo", "from a command")
    lines = logplex("tail", "shop", "--no-follow").encode()
    assert re.sub(rb"(?m)^\S+ ", b"", lines) == (
        b"app[web.1]: hello\r50 %\napp[web.1]: status=503 at=error\nheroku[ship]: from a command\n"
    )


def test_every_filter_of_tail_is_understood(logplex: Command) -> None:
    logplex("channels", "create", "shop")
    logplex("ship", "-a", "shop", "--ps", "web.1", input=b"status=200 one\nstatus=503 two\n")
    logplex("ship", "-a", "shop", "--ps", "worker.1", "--severity", "error", input=b"three\n")

    def shown(*options: str) -> list[str]:
        rows = logplex("tail", "shop", "--no-follow", "--json", *options).splitlines()
        return [json.loads(row)["message"].split()[-1] for row in rows]

    assert shown() == ["one", "two", "three"]
    assert shown("-n", "1") == ["three"]
    assert shown("--ps", "web") == ["one", "two"]
    assert shown("--source", "heroku") == []
    assert shown("--text", "two") == ["two"]
    assert shown("--pattern", "^status=.*o$") == ["two"]
    assert shown("--severity", "error") == ["three"]
    assert shown("--field", "status>=500") == ["two"]
    assert shown("--since", "10m") == ["one", "two", "three"]
    assert shown("--until", "2020-01-01T00:00:00Z") == []


def test_a_bad_filter_is_one_line_that_says_where(server: Server, logplex: Command) -> None:
    logplex("channels", "create", "shop")
    for option, value, says in (
        ("--pattern", "(a", "pattern"),
        ("--since", "soon", "since"),
        ("--field", "=", "fields"),
    ):
        with following(server.data_dir, "tail", "shop", option, value) as tail:
            out, err = tail.communicate(timeout=LIMIT_SECONDS)
        assert (tail.returncode, out) == (1, b"")
        assert re.fullmatch(rf"logplex: the server answered 422: {says}: [^\n]*\n", err.decode())


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_tail_outlives_its_server_without_gap_or_repeat(
    end: Callable[[Server], int], make_server: Callable[..., Server], on: Callable[[Server], Command]
) -> None:
    server = make_server().start()
    logplex = on(server)
    logplex("channels", "create", "shop")
    logplex("ship", "-a", "shop", input=b"one\ntwo\n")
    again = ("--http", server.addresses["http"], "--syslog", server.addresses["syslog"])
    with following(server.data_dir, "tail", "shop") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert [tail.stdout.readline().split()[-1] for _ in range(2)] == [b"one", b"two"]
        end(server)
        assert b"connection lost" in tail.stderr.readline()
        server.start(*again)
        logplex("ship", "-a", "shop", input=b"three\n")
        assert tail.stdout.readline().split()[-1] == b"three"
        assert tail.stderr.readline() == b"logplex: connected again\n"
        logplex("ship", "-a", "shop", input=b"four\n")
        assert tail.stdout.readline().split()[-1] == b"four"
        tail.send_signal(signal.SIGINT)
        assert tail.communicate(timeout=LIMIT_SECONDS) == (b"", b"")


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_ship_loses_nothing_and_repeats_nothing_over_a_restart(
    end: Callable[[Server], int], make_server: Callable[..., Server], on: Callable[[Server], Command]
) -> None:
    server = make_server().start()
    url = on(server)("channels", "create", "shop").strip()
    again = ("--http", server.addresses["http"], "--syslog", server.addresses["syslog"])
    with following(server.data_dir, "ship", "--wait", LOGPLEX_LOGS_URL=url) as ship:
        assert ship.stdin is not None
        assert ship.stderr is not None
        for number in range(400):
            ship.stdin.write(b"line %d\n" % number)
        ship.stdin.flush()
        end(server)
        for number in range(400, 800):
            ship.stdin.write(b"line %d\n" % number)
        ship.stdin.flush()
        assert re.match(rb"logplex: (no server listens at|the request to) http://", ship.stderr.readline())
        server.start(*again)
        ship.stdin.close()
        assert ship.wait(LIMIT_SECONDS) == 0
    expected = [b"line %d" % number for number in range(800)]
    assert [line.rstrip(b"\n").split(b": ", 1)[1] for line in server.read("shop")] == expected


def test_tokens_can_be_made_and_taken_away(logplex: Command, server: Server) -> None:
    logplex("channels", "create", "shop")
    url = logplex("tokens", "create", "postgres", "-a", "shop").strip()
    assert f"postgres\t{url}\n" in logplex("tokens", "-a", "shop")
    logplex("tokens", "delete", "postgres", "-a", "shop")
    assert "postgres" not in logplex("tokens", "-a", "shop")
    logplex("channels", "set", "shop", "--no-tail")
    assert logplex("channels") == "shop\tno_tail\n"
    with following(server.data_dir, "tail", "shop") as tail:
        out, err = tail.communicate(timeout=LIMIT_SECONDS)
    assert (tail.returncode, err) == (1, b"")
    assert b"Error L20 (Tail sessions forbidden)" in out
    logplex("channels", "delete", "shop")
    assert logplex("channels") == ""


def test_a_drain_is_added_tried_shown_and_removed(logplex: Command, fake: FakeServer) -> None:
    fake.answers["POST /in"] = Answer(204)
    logplex("channels", "create", "shop")
    added = logplex("drains", "add", f"http://user:hunter2@{fake.address}/in?key=hunter2", "-a", "shop").splitlines()
    assert re.fullmatch(r"drain \d+  d\.[0-9a-f-]{36}", added[0])
    assert len(added) >= 3
    assert all(": ok in " in step for step in added[1:])
    number = added[0].split()[1]
    logplex("ship", "-a", "shop", input=b"hello\n")
    fake.wait_for(lambda asked: any(b"hello" in request.body for request in asked))
    listed = logplex("drains", "-a", "shop")
    assert listed.startswith(f"{number}\thttp://{fake.address}/in\t")
    shown = logplex("drains", "show", number, "-a", "shop")
    assert "hunter2" not in listed + shown
    assert re.search(r"^state\t(idle|delivering|connecting)$", shown, re.MULTILINE)
    assert logplex("drains", "replay", number, "-a", "shop", "--from", "oldest").endswith("from position 0\n")
    logplex("drains", "test", number, "-a", "shop")
    logplex("drains", "remove", number, "-a", "shop")
    assert logplex("drains", "-a", "shop") == ""


def test_a_drain_whose_receiver_is_away_is_kept_and_says_why(server: Server, logplex: Command) -> None:
    logplex("channels", "create", "shop")
    with following(server.data_dir, "drains", "add", "http://127.0.0.1:1/", "-a", "shop") as added:
        out, err = added.communicate(timeout=LIMIT_SECONDS)
    assert added.returncode == 0
    assert b": failed in " in out
    assert b"the drain is kept and will be tried again" in err
    assert "http://127.0.0.1:1/" in logplex("drains", "-a", "shop")


def test_every_option_of_a_drain_is_taken(logplex: Command, tmp_path: Path) -> None:
    logplex("channels", "create", "shop")
    (tmp_path / "headers").write_text("X-Key: hunter2\n")
    options = "--format json --gzip --linger 0.5 --batch-bytes 20000 --source app --ps web --text x --pattern ^a"
    more = f"--severity error --headers-file {tmp_path}/headers --start oldest --no-test"
    added = logplex("drains", "add", "http://127.0.0.1:1/", "-a", "shop", *options.split(), *more.split())
    shown = logplex("drains", "show", added.split()[1], "-a", "shop", "--json")
    assert json.loads(shown)["options"]["filter"]["pattern"] == "^a"
    assert "hunter2" not in shown


def test_nonsense_is_refused_with_the_field_that_holds_it(server: Server, logplex: Command) -> None:
    logplex("channels", "create", "shop")
    for arguments, says in (
        (("http://127.0.0.1:1/", "--batch-bytes", "1"), b"batch_bytes: "),
        (("nonsense://x",), b"Invalid drain destination"),
        (("http://10.0.0.1/",), b"--drain-allow CIDR"),
    ):
        with following(server.data_dir, "drains", "add", *arguments, "-a", "shop", "--no-test") as added:
            _, err = added.communicate(timeout=LIMIT_SECONDS)
        assert added.returncode == 1
        assert says in err
        assert err.count(b"\n") == 1


def test_a_credential_for_one_app_sees_that_app_alone(server: Server, logplex: Command) -> None:
    logplex("channels", "create", "shop")
    logplex("channels", "create", "other")
    key = logplex("credentials", "create", "reader", "--app", "shop").strip()
    assert key.startswith("reader:")
    logplex("ship", "-a", "shop", input=b"hello\n")
    url = {"LOGPLEX_URL": f"http://{key}@{server.addresses['http']}"}

    def as_reader(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "logplex", *arguments]
        return subprocess.run(command, capture_output=True, env=environment(**url), timeout=LIMIT_SECONDS)

    assert as_reader("tail", "shop", "--no-follow").stdout.endswith(b": hello\n")
    assert as_reader("channels").stdout.startswith(b"shop\t")
    assert as_reader("tail", "other", "--no-follow").returncode == 1
    assert as_reader("channels", "create", "third").returncode == 1
    logplex("credentials", "delete", "reader")
    assert b"does not know this credential" in as_reader("tail", "shop", "--no-follow").stderr


def test_status_shows_where_every_line_went(logplex: Command) -> None:
    logplex("channels", "create", "shop")
    logplex("ship", "-a", "shop", input=b"one\ntwo\n")
    node = dict(line.split("\t") for line in logplex("status").splitlines() if "\t" in line)
    assert node["ledger.received"] == "2"
    app = dict(line.split("\t") for line in logplex("status", "shop").splitlines())
    assert (app["received"], app["head"]) == ("2", "2")
    assert json.loads(logplex("status", "--json"))["health"]["state"] == "normal"
