import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logplex.framing import split_body

from ..conftest import environment
from .conftest import Run
from .fake import Answer, Asked, FakeServer

TOKEN = "t.11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def _take(fake: FakeServer) -> None:
    fake.answers["POST /logs"] = Answer(204)


@pytest.fixture
def logs_url(fake: FakeServer) -> str:
    return f"http://token:{TOKEN}@{fake.address}/logs"


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(logs_url: str, tmp_path: Path) -> Start:
    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "logplex", "ship", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(LOGPLEX_LOGS_URL=logs_url),
            cwd=tmp_path,
        )

    return start


def texts(asked: list[Asked]) -> list[bytes]:
    return [frame.split(b" - - ", 1)[1] for request in asked for frame in split_body(request.body, 65536)]


def test_every_line_of_standard_input_is_sent(run: Run, fake: FakeServer, logs_url: str) -> None:
    ended = run("ship", input=b"one\r\n\ntwo\xff\nlast", LOGPLEX_LOGS_URL=logs_url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert texts(fake.asked) == [b"one", b"", b"two\xff", b"last"]
    (request,) = fake.asked
    assert request.headers["Authorization"].startswith("Basic ")
    assert request.headers["Content-Type"] == "application/logplex-1"
    assert request.headers["Logplex-Msg-Count"] == "4"
    host = socket.gethostname().encode()
    first = split_body(request.body, 65536)[0]
    assert first.startswith(b"<190>1 20")
    assert first.endswith(b"+00:00 %s token ship - - one" % host)


def test_the_app_is_found_through_the_api(run: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop"] = Answer(200, {"channel": "shop", "tokens": {"app": "t.x", "heroku": TOKEN}})
    ended = run("ship", "-a", "shop", "--source", "heroku", "--ps", "router", "--severity", "error", input=b"x\n")
    assert ended.returncode == 0
    assert b"<187>1 " in fake.asked[1].body
    assert b" token router - - x" in fake.asked[1].body


def test_a_source_without_token_is_told_how_to_get_one(run: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop"] = Answer(200, {"channel": "shop"})
    ended = run("ship", "-a", "shop", input=b"x\n")
    assert ended.returncode == 1
    assert b"`logplex tokens create app -a shop`" in ended.stderr


def test_a_log_url_without_token_is_refused(run: Run) -> None:
    ended = run("ship", input=b"x\n", LOGPLEX_LOGS_URL="http://ops:hunter2@localhost/logs")
    assert ended.returncode == 1
    assert b"must hold a token" in ended.stderr
    assert b"hunter2" not in ended.stderr


def test_a_batch_is_retried_with_the_same_bytes_and_id(run: Run, fake: FakeServer, logs_url: str) -> None:
    fake.answers["POST /logs"] = [Answer(503, b"wait"), None, Answer(429, b"x", {"Retry-After": "0"}), Answer(204)]
    ended = run("ship", input=b"one\n", LOGPLEX_LOGS_URL=logs_url)
    assert ended.returncode == 0
    assert len(fake.asked) == 4
    assert len({(request.headers["Logplex-Frame-Id"], request.body) for request in fake.asked}) == 1
    assert b"the server answered 503: wait" in ended.stderr


def test_a_refused_batch_is_lost_told_as_l13_and_exit_code_1(run: Run, fake: FakeServer, logs_url: str) -> None:
    fake.answers["POST /logs"] = [Answer(400, b"Malformed log messages"), Answer(204)]
    ended = run("ship", input=b"one\n", LOGPLEX_LOGS_URL=logs_url)
    assert ended.returncode == 1
    assert ended.stderr == b"logplex: the server answered 400: Malformed log messages\nlogplex: 1 lines were lost\n"
    assert texts(fake.asked)[1].startswith(b"Error L13: 1 messages lost since 20")
    assert fake.asked[1].headers["Logplex-Lost-Count"] == "1"


def test_a_server_that_never_answers_costs_the_grace_and_no_more(run: Run) -> None:
    ended = run(
        "ship", "--grace", "0.5", input=b"one\ntwo\n", LOGPLEX_LOGS_URL=f"http://token:{TOKEN}@127.0.0.1:1/logs"
    )
    assert ended.returncode == 1
    assert ended.stderr.count(b"no server listens at http://127.0.0.1:1/logs") == 1
    assert ended.stderr.endswith(b"logplex: 2 lines were lost\n")
    assert TOKEN.encode() not in ended.stderr


def test_a_commands_output_is_sent_in_order_and_its_exit_code_passed_on(
    run: Run, fake: FakeServer, logs_url: str
) -> None:
    script = "echo one; echo two >&2; printf three; exit 7"
    ended = run("ship", "--", "sh", "-c", script, LOGPLEX_LOGS_URL=logs_url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"", b"")
    assert texts(fake.asked) == [b"one", b"two", b"three"]


def test_with_tee_the_commands_output_stays_visible(run: Run, fake: FakeServer, logs_url: str) -> None:
    ended = run("ship", "--tee", "--", "sh", "-c", "echo one; echo two >&2", LOGPLEX_LOGS_URL=logs_url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"one\n", b"two\n")
    assert sorted(texts(fake.asked)) == [b"one", b"two"]


def test_with_tee_standard_input_is_passed_on(run: Run, fake: FakeServer, logs_url: str) -> None:
    assert run("ship", "--tee", input=b"a\nb", LOGPLEX_LOGS_URL=logs_url).stdout == b"a\nb"


def test_a_command_reads_our_standard_input(run: Run, fake: FakeServer, logs_url: str) -> None:
    run("ship", "--", "cat", input=b"from outside\n", LOGPLEX_LOGS_URL=logs_url)
    assert texts(fake.asked) == [b"from outside"]


def test_a_refusing_server_changes_nothing_for_a_command(run: Run, fake: FakeServer, logs_url: str) -> None:
    fake.answers["POST /logs"] = Answer(401, b"Not Authorized")
    ended = run("ship", "--", "sh", "-c", "echo x; exit 3", LOGPLEX_LOGS_URL=logs_url)
    assert ended.returncode == 3
    assert b"the server answered 401" in ended.stderr


@pytest.mark.parametrize(("command", "code"), [("/nonsense/program", 127), ("/", 126)])
def test_a_command_that_cannot_be_run_ends_as_in_a_shell(command: str, code: int, run: Run, logs_url: str) -> None:
    ended = run("ship", "--", command, LOGPLEX_LOGS_URL=logs_url)
    assert ended.returncode == code
    assert ended.stderr.startswith(f"logplex: cannot run {command}: ".encode())


def test_signals_reach_the_command_and_its_last_words_are_sent(fake: FakeServer, start: Start) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    with start("--", "sh", "-c", script) as ship:
        fake.wait_for(lambda asked: b"ready" in texts(asked))
        ship.send_signal(signal.SIGTERM)
        assert ship.wait(20) == 5
    assert texts(fake.asked) == [b"ready", b"bye"]


def test_a_command_that_dies_by_a_signal_gives_128_and_its_number(fake: FakeServer, start: Start) -> None:
    with start("--", "sh", "-c", "echo ready; exec sleep 60") as ship:
        fake.wait_for(lambda asked: b"ready" in texts(asked))
        ship.send_signal(signal.SIGTERM)
        assert ship.wait(20) == 128 + signal.SIGTERM


def test_output_held_open_by_a_grandchild_does_not_keep_us(fake: FakeServer, start: Start, tmp_path: Path) -> None:
    with start("--", "sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo done") as ship:
        assert ship.wait(20) == 0
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert texts(fake.asked) == [b"done"]


def test_a_signal_ends_reading_and_what_was_read_is_sent(fake: FakeServer, start: Start) -> None:
    with start() as ship:
        assert ship.stdin is not None
        ship.stdin.write(b"one\n")
        ship.stdin.flush()
        fake.wait_for(lambda asked: len(asked) == 1)
        ship.stdin.write(b"two\nhalf")
        ship.stdin.flush()
        fake.wait_for(lambda asked: len(asked) == 2)
        ship.send_signal(signal.SIGTERM)
        assert ship.wait(20) == 128 + signal.SIGTERM
    assert texts(fake.asked) == [b"one", b"two", b"half"]
