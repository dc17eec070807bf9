import subprocess
import sys
import time
from dataclasses import fields

import pytest

from logplex.cli.main import COMMANDS, run
from logplex.config import Settings, variable

from ..conftest import environment
from .conftest import Run
from .fake import Answer, FakeServer


def test_help_imports_nothing_that_only_a_server_needs_and_is_quick() -> None:
    heavy = {"trio", "structlog", "starlette", "httptools", "http.client", "ssl", "re2", "msgpack"}
    code = f"import sys, logplex.cli.main as m; m.run(['--help']); print(sorted(set(sys.modules) & {heavy}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True)
    assert ended.stdout.splitlines()[-1] == b"[]"
    fastest = min(_seconds("--help") for _ in range(5))
    assert fastest < 0.15


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "logplex", *arguments], env=environment(), check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"Usage: logplex {command}" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [setting.name for setting in fields(Settings)])
def test_every_setting_is_an_option_a_variable_and_a_line_of_help(
    setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"--{setting.replace('_', '-')} " in shown
    assert f"[{variable(setting)}]" in "".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command 'nonsense' (see `logplex --help`)"),
        (["channels", "create"], "Missing argument 'APP' (see `logplex channels create --help`)"),
        (["channels", "create", ".."], "'..' is no name"),
        (["channels", "set", "shop"], "say what to set"),
        (["tokens", "list"], "Missing option '-a'"),
        (["tail", "shop", "-n", "-1"], "Invalid value for '-n'"),
        (["tail", "shop", "--nonsense"], "No such option"),
        (["ship"], "say where to send: -a APP, or LOGPLEX_LOGS_URL"),
        (["ship", "--severity", "loud"], "'loud' is not one of"),
        (["credentials", "create", "x"], "say what it may do"),
        (["credentials", "create", "x", "--full", "--password", "secret"], "give it as -"),
        (["serve", "--durability", "maybe"], "--durability must be one of none, commit, fsync"),
        (["serve", "--spool-bytes", "0"], "--spool-bytes 0 needs --durability none: commit promises to keep lines"),
        (["serve", "--http", "8001"], "--http must be HOST:PORT"),
        (["serve", "--history-lines", "many"], "--history-lines must be a number"),
        (["serve", "--https", "127.0.0.1:0"], "--https and --syslog-tls need --tls-cert"),
        (["drains", "add", "-", "-a", "shop"], "`-` reads a line of standard input, and there is none"),
        (["drains", "add", "http://x", "-a", "shop", "--ca-file", "/nonsense"], "cannot read /nonsense: No such file"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_line_that_says_what_to_do(
    arguments: list[str], says: str, call: Run
) -> None:
    ended = call(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == b""
    assert ended.stderr.count(b"\n") == 1
    assert says in ended.stderr.decode()


def test_a_refused_request_is_exit_code_1_and_one_line(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop"] = Answer(503, {"error": "Logplex API\ntemporarily \x1b[31moff"})
    ended = call("channels", "show", "shop")
    assert ended.returncode == 1
    assert ended.stderr == b"logplex: the server answered 503: Logplex API temporarily \\x1b[31moff\n"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://ops:hunter2@127.0.0.1:1", "no server listens at http://127.0.0.1:1: start it with `logplex serve`"),
        ("ftp://ops:hunter2@127.0.0.1", "LOGPLEX_URL must be a URL such as http://id:password@localhost:8001"),
        ("http://[::1", "LOGPLEX_URL must be a URL"),
        ("http://ops:hunter2@127.0.0.1:99999", "LOGPLEX_URL must be a URL"),
        ("http://ops:hunter2@nothing.invalid:8001", "the host of http://nothing.invalid:8001 is unknown"),
        ("http://ops:hunter2@foo..invalid:8001", "the host of http://foo..invalid:8001 is unknown"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named_without_the_password(url: str, says: str, call: Run) -> None:
    ended = call("channels", LOGPLEX_URL=url)
    assert ended.returncode == 1
    assert ended.stderr.count(b"\n") == 1
    assert says in ended.stderr.decode()
    assert b"hunter2" not in ended.stderr


def test_without_a_server_the_error_says_how_to_get_one(call: Run) -> None:
    ended = call("channels", LOGPLEX_URL="")
    assert ended.returncode == 1
    assert b"no server has run on logplex-data: start one with `logplex serve`" in ended.stderr


def test_an_unknown_credential_is_told_where_to_look(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels"] = Answer(401, b"Not Authorized")
    ended = call("channels")
    assert ended.returncode == 1
    assert ended.stderr == b"logplex: the server does not know this credential: check LOGPLEX_URL\n"


def test_an_answer_that_is_no_json_is_said_to_be_none_of_logplex(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels"] = Answer(200, b"<html>")
    ended = call("channels")
    assert ended.returncode == 1
    assert b"is this URL a logplex server?" in ended.stderr


def test_a_connection_closed_without_an_answer_is_one_line(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels"] = None
    ended = call("channels")
    assert ended.returncode == 1
    assert ended.stderr.count(b"\n") == 1


def test_the_version_is_shown(call: Run) -> None:
    from logplex import __version__

    assert call("--version").stdout.decode() == f"logplex, version {__version__}\n"


def test_a_setting_on_the_command_line_is_not_shown_by_any_error_when_it_is_a_secret(call: Run) -> None:
    ended = call("serve", LOGPLEX_ADMIN="hunter2")
    assert ended.returncode == 1
    assert ended.stderr == b"logplex: LOGPLEX_ADMIN must be one line ID:PASSWORD\n"


def test_without_a_command_the_help_is_shown(call: Run) -> None:
    ended = call()
    assert ended.returncode == 2
    assert ended.stdout.startswith(b"Usage: logplex [OPTIONS] COMMAND [ARGS]...")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_a_reader_who_has_enough_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "logplex", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
