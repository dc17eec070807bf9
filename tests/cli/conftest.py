import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logplex.cli import main

from ..conftest import environment
from .fake import FakeServer

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def run(fake: FakeServer, tmp_path: Path) -> Run:
    """`logplex …` in a process of its own, talking to the fake server; bytes in and out."""

    def run(*arguments: str, input: bytes = b"", **variables: str) -> "subprocess.CompletedProcess[bytes]":
        given = {"LOGPLEX_URL": f"http://ops:hunter2@{fake.address}"} | variables
        return subprocess.run(
            [sys.executable, "-m", "logplex", *arguments],
            input=input,
            capture_output=True,
            env=environment(**given),
            cwd=tmp_path,
            timeout=60,
        )

    return run


@pytest.fixture
def call(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """As `run`, in this process: a tenth of the time, for commands that ask and print and no more."""
    for name in [name for name in os.environ if name.startswith("LOGPLEX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, input: bytes = b"", **variables: str) -> "subprocess.CompletedProcess[bytes]":
        given = {"LOGPLEX_URL": f"http://ops:hunter2@{fake.address}"} | variables
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(input)))
            for name, value in given.items():
                patch.setenv(name, value)
            code = main.run(arguments)
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return call


@pytest.fixture
def on_terminal(fake: FakeServer, tmp_path: Path) -> Callable[..., str]:
    """As `run`, with standard output on a terminal; what the terminal was sent, once the command has ended."""

    def run(*arguments: str, **variables: str) -> str:
        ours, theirs = pty.openpty()
        written = bytearray()

        def read() -> None:
            try:
                while received := os.read(ours, 65536):
                    written.extend(received)
            except OSError:
                pass  # Linux: the other side is closed

        reader = threading.Thread(target=read)
        reader.start()
        given = {"LOGPLEX_URL": f"http://ops:hunter2@{fake.address}", "TERM": "xterm"} | variables
        try:
            subprocess.run(
                [sys.executable, "-m", "logplex", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.PIPE,
                env={k: v for k, v in environment(**given).items() if k != "NO_COLOR" or k in variables},
                cwd=tmp_path,
                timeout=60,
            )
        finally:
            os.close(theirs)
            reader.join()
            os.close(ours)
        return written.decode().replace("\r\n", "\n")

    return run
