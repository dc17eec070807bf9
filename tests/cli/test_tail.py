import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import environment
from .conftest import Run
from .fake import Answer, FakeServer, Handler, stream

SSE = {"Content-Type": "text/event-stream"}
FIRST = b"id: e/1\ndata: 2024-05-01T12:00:00.000000+00:00 app[web.1]: hello\n\n"
SECOND = b"id: e/2\ndata: 2024-05-01T12:00:01+00:00 heroku[router]: at=info\n\n"


@pytest.fixture
def session(fake: FakeServer) -> str:
    """The path of the session that the fake server gives out."""
    path = "/sessions/11111111-2222-3333-4444-555555555555"
    fake.answers["POST /v3/sessions"] = Answer(201, {"url": f"http://{fake.address}{path}"})
    return f"GET {path}"


def test_past_lines_go_into_a_pipe_byte_by_byte(run: Run, fake: FakeServer, session: str) -> None:
    lines = b"2024-05-01T12:00:01Z app: \x1b[31mr\xe9d\r50 %\r\x00\nsecond line\n"
    fake.answers[session] = Answer(200, stream(lines[:20], lines[20:]))
    ended = run("tail", "shop", "--no-follow")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, lines, b"")
    assert fake.asked[1].headers["Accept"] == "text/plain"


def test_the_session_is_asked_for_with_every_filter(run: Run, fake: FakeServer, session: str) -> None:
    fake.answers[session] = Answer(200, stream(), SSE)
    options = (
        "-n 7 --source app --ps web --text x --pattern ^a --severity error --since 10m --until 2024-05-01T12:00:00Z"
    )
    ended = run("tail", "shop", *options.split(), "--field", "status>=500", "--field", "at=error", "--no-follow")
    assert ended.returncode == 0
    assert fake.asked[0].headers["Authorization"] == "Basic b3BzOmh1bnRlcjI="
    assert fake.asked[0].json() == {
        "channel_id": "shop",
        "num": 7,
        "tail": False,
        "source": "app",
        "ps": "web",
        "text": "x",
        "pattern": "^a",
        "severity": "error",
        "since": "10m",
        "until": "2024-05-01T12:00:00Z",
        "fields": ["status>=500", "at=error"],
    }
    assert "Authorization" not in fake.asked[1].headers
    assert fake.asked[1].headers["Accept"] == "text/plain"


def test_json_holds_the_parts_of_a_line_and_its_place(run: Run, fake: FakeServer, session: str) -> None:
    fake.answers[session] = Answer(200, stream(FIRST + b": comment\n\nid: e/9\n\n" + SECOND), SSE)
    shown = [json.loads(line) for line in run("tail", "shop", "--no-follow", "--json").stdout.splitlines()]
    assert shown[0] == {
        "time": "2024-05-01T12:00:00.000000+00:00",
        "source": "app",
        "process": "web.1",
        "message": "hello",
        "id": "e/1",
    }
    assert shown[1]["process"] == "router"


def test_times_are_shown_in_the_zone_that_was_asked_for(run: Run, fake: FakeServer, session: str) -> None:
    line = b"data: 2024-05-01T12:00:00.5+02:00 app: x\n\ndata: yesterday app: y\n\n"
    fake.answers[session] = Answer(200, stream(line), SSE)
    utc = run("tail", "shop", "--no-follow", "--utc").stdout
    assert utc == b"2024-05-01T10:00:00.500000+00:00 app: x\nyesterday app: y\n"
    local = run("tail", "shop", "--no-follow", "--local", TZ="Asia/Kolkata").stdout
    assert local.startswith(b"2024-05-01T15:30:00.500000+05:30 app: x\n")


def test_on_a_terminal_sources_have_colours_and_control_characters_are_escaped(
    on_terminal: Callable[..., str], fake: FakeServer, session: str
) -> None:
    evil = "data: 2024-05-01T12:00:02Z ap\x1bp[web.1]: \x1b]0;owned\x07\x9b31m caf\u00e9 \u202e\n\n".encode()
    fake.answers[session] = Answer(200, stream(FIRST + SECOND + FIRST + evil), SSE)
    first, second, again, escaped = on_terminal("tail", "shop", "--no-follow").splitlines()
    assert first == "\x1b[36m2024-05-01T12:00:00.000000+00:00 app[web.1]:\x1b[0m hello"
    assert second.startswith("\x1b[33m")
    assert again == first
    assert escaped.endswith("\x1b[0m \\x1b]0;owned\\x07\\x9b31m caf\u00e9 \\u202e")
    assert "ap\\x1bp[web.1]" in escaped


def test_colours_can_be_refused(on_terminal: Callable[..., str], fake: FakeServer, session: str) -> None:
    fake.answers[session] = Answer(200, stream(FIRST), SSE)
    assert "\x1b" not in on_terminal("tail", "shop", "--no-follow", NO_COLOR="1")


def test_a_tail_goes_on_after_the_last_line_that_it_saw(fake: FakeServer, session: str, tmp_path: Path) -> None:
    broken = b"data: 2024-05-01T12:00:01Z app: half a li"
    odd = b"id: e/3\ndata: 2024-05-01T12:00:01Z app: r\xe9d\x00\ndata: second line\n\n"
    fake.answers[session] = [
        Answer(200, stream(FIRST[:20], FIRST[20:] + odd + b"id: e/5\n\n" + broken), SSE),
        Answer(200, _open_after(SECOND), SSE),
    ]
    with _tail(fake, tmp_path) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline() == b"2024-05-01T12:00:00.000000+00:00 app[web.1]: hello\n"
        assert tail.stdout.readline() == b"2024-05-01T12:00:01Z app: r\xe9d\x00\n"
        assert tail.stdout.readline() == b"second line\n"
        assert tail.stdout.readline().endswith(b": at=info\n")
        tail.send_signal(signal.SIGINT)
        _, notices = tail.communicate(timeout=20)
    assert tail.returncode == 130
    assert fake.asked[2].headers["Last-Event-ID"] == "e/5"
    assert notices == b"logplex: connection lost (the server ended it); trying again\nlogplex: connected again\n"


def test_an_ended_session_is_replaced_and_goes_on_at_the_same_place(
    fake: FakeServer, session: str, tmp_path: Path
) -> None:
    fake.answers[session] = [Answer(200, stream(FIRST), SSE), Answer(404), Answer(200, _open_after(SECOND), SSE)]
    with _tail(fake, tmp_path) as tail:
        assert tail.stdout is not None
        tail.stdout.readline()
        assert tail.stdout.readline().endswith(b": at=info\n")
        tail.send_signal(signal.SIGINT)
        tail.communicate(timeout=20)
    assert [asked.method for asked in fake.asked] == ["POST", "GET", "GET", "POST", "GET"]
    assert fake.asked[-1].headers["Last-Event-ID"] == "e/1"


def test_a_reader_that_goes_away_ends_a_quiet_tail_without_a_word(
    fake: FakeServer, session: str, tmp_path: Path
) -> None:
    closed = threading.Event()

    def beat(handler: Handler) -> None:
        handler.wfile.write(FIRST)
        handler.wfile.flush()
        closed.wait(20)
        handler.wfile.write(b"id: e/2\n\n")
        handler.wfile.flush()
        handler.rfile.read()

    fake.answers[session] = Answer(200, beat, SSE)
    with _tail(fake, tmp_path) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.readline()
        tail.stdout.close()
        closed.set()
        assert tail.wait(20) == 0
        assert tail.stderr.read() == b""


def test_ctrl_c_is_quiet(fake: FakeServer, session: str, tmp_path: Path) -> None:
    fake.answers[session] = Answer(200, _open_after(FIRST), SSE)
    with _tail(fake, tmp_path) as tail:
        assert tail.stdout is not None
        tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=20)
    assert (tail.returncode, out, err) == (130, b"", b"")


def test_an_app_that_may_not_be_tailed_ends_with_the_notice(run: Run, fake: FakeServer, session: str) -> None:
    notice = b"Error L20 (Tail sessions forbidden) Tail sessions for this app are forbidden due to log volume."
    fake.answers[session] = Answer(200, stream(b"data: " + notice + b"\n\n"), SSE)
    ended = run("tail", "shop")
    assert (ended.returncode, ended.stdout) == (1, notice + b"\n")


def test_a_connection_that_is_silent_for_too_long_is_opened_again(
    call: Run, fake: FakeServer, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logplex.cli.tail.SILENCE_SECONDS", 0.1)
    notice = b"data: 2024-05-01T12:00:00Z heroku[logplex]: Error L20 (Tail sessions forbidden) Tail sessions\n\n"
    fake.answers[session] = [Answer(200, _open_after(FIRST), SSE), Answer(200, stream(notice), SSE)]
    ended = call("tail", "shop")
    assert ended.returncode == 1
    assert ended.stdout.count(b"\n") == 2
    assert b"did not answer in time" in ended.stderr
    assert fake.asked[-1].headers["Last-Event-ID"] == "e/1"


def test_a_bad_filter_is_one_line_that_says_where(run: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/sessions"] = Answer(422, {"error": "pattern: missing ): (a"})
    ended = run("tail", "shop", "--pattern", "(a")
    assert (ended.returncode, ended.stderr) == (1, b"logplex: the server answered 422: pattern: missing ): (a\n")


def test_a_warning_about_history_is_told_beside_the_lines(run: Run, fake: FakeServer, session: str) -> None:
    warning = "Warning: log history discarded due to excessive volume."
    fake.answers[session] = Answer(200, stream(), SSE | {"X-Heroku-Warning": warning})
    assert run("tail", "shop", "--no-follow").stderr.decode() == f"logplex: {warning}\n"


def test_what_is_no_event_stream_is_refused(run: Run, fake: FakeServer, session: str) -> None:
    fake.answers[session] = Answer(200, stream(b"x" * 3_000_000), SSE)
    ended = run("tail", "shop")
    assert ended.returncode == 1
    assert b"does not speak server-sent events" in ended.stderr


def _open_after(data: bytes) -> Callable[[Handler], None]:
    """A stream that stays open after `data`, until the reader goes."""

    def write(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.wfile.flush()
        handler.rfile.read()

    return write


def _tail(fake: FakeServer, directory: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "logplex", "tail", "shop"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(LOGPLEX_URL=f"http://ops:hunter2@{fake.address}"),
        cwd=directory,
    )
