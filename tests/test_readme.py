"""What README says is run: its commands as they stand there, but for where pip gets packages from.

* The virtual environment is the one of this test run, put in place of `.venv`: what pip does is pip's own test, and
  CI installs with README's command before it runs anything.
* Ports and addresses are README's own, so nothing else may listen there; such a machine skips, CI does not.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT, environment

README = (ROOT / "README.md").read_text()
LIMIT_SECONDS = 60.0


def commands() -> list[str]:
    """The lines of README's console blocks that begin with a prompt."""
    blocks = re.findall(r"^```console\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_readme_has_two_commands_that_set_everything_up_and_four_to_use_it() -> None:
    serve, test, *four = commands()
    install = r"python3 -m venv \.venv && \.venv/bin/pip install -q "
    assert re.fullmatch(install + r"\. && \.venv/bin/logplex serve", serve)
    assert re.fullmatch(install + r"-e '\.\[test\]' && \.venv/bin/pytest", test)
    assert [shlex.split(command.rpartition("|")[2])[1] for command in four] == ["channels", "ship", "tail", "drains"]


def test_what_is_installed_by_the_test_command_can_run_every_test() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^a-z-]", line)[0] for line in project["optional-dependencies"]["test"]}
    assert {"pytest", "pytest-trio", "hypothesis", "trustme"} <= wanted


def test_every_file_that_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_that_readme_names_exists() -> None:
    from logplex.cli.main import run

    for words in sorted(
        set(
            re.findall(
                r"logplex ((?:channels|tokens|drains|credentials|tail|ship|status|serve|bench)\b(?: [a-z-]+)?)", README
            )
        )
    ):
        name, *rest = words.split()
        subcommand = (
            rest if name in ("channels", "tokens", "drains", "credentials") and rest and rest[0][0] != "-" else []
        )
        assert run([name, *subcommand, "--help"]) == 0, words


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory in which `.venv/bin/logplex` is the checkout."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    logplex = programs / "logplex"
    logplex.write_text(f'#!/bin/sh\nexec {sys.executable} -m logplex "$@"\n')
    logplex.chmod(0o755)
    return tmp_path


@pytest.fixture
def serving(home: Path) -> Iterator[Path]:
    """README's server, started by the end of its first command."""
    for port in (8001, 6001):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                (pytest.fail if os.environ.get("CI") else pytest.skip)(f"something listens on port {port}")
    command = commands()[0].rpartition("&& ")[2]
    with subprocess.Popen(
        shlex.split(command), stderr=subprocess.PIPE, text=True, cwd=home, env=environment()
    ) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "event=ready" in line:
                    break
            else:
                pytest.fail("the server ended before it was ready")
            yield home
            server.terminate()
            assert server.wait(LIMIT_SECONDS) == 0
        finally:
            server.kill()


def shell(command: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=directory, env=environment(), timeout=LIMIT_SECONDS
    )


def test_the_four_commands_do_what_readme_says(serving: Path) -> None:
    create, send, follow, drain = commands()[2:]
    created = shell(create, serving)
    assert created.returncode == 0, created.stderr
    assert re.fullmatch(r"http://token:t\.[0-9a-f-]{36}@127\.0\.0\.1:8001/logs\n", created.stdout)
    sent = shell(send, serving)
    assert (sent.returncode, sent.stderr) == (0, "")
    with subprocess.Popen(
        shlex.split(follow), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=serving, env=environment()
    ) as tail:
        assert tail.stdout is not None
        assert re.fullmatch(r"\S+ app\[ship\]: hello\n", tail.stdout.readline())
        shell(send, serving)
        assert tail.stdout.readline().endswith(" app[ship]: hello\n")
        tail.send_signal(signal.SIGINT)
        assert tail.communicate(timeout=LIMIT_SECONDS) == ("", "")
    added = shell(f"{drain} --no-test", serving)  # the test would look the example's name up outside
    assert added.returncode == 0, added.stderr
    assert re.fullmatch(r"drain \d+  d\.[0-9a-f-]{36}\n", added.stdout)
