"""The processes of a run: each in a block, killed at its end, and by the kernel when we end without reaching that.

* They see nothing of the LOGPLEX_* variables, run this very code whatever the working directory holds, and get no
  signal of our terminal: ending them is our business.
* What one writes to standard error is in a file of the run's directory; its last line says why a run failed.
"""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from ... import config
from ..client import Failed

START_SECONDS = 30.0
POLL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1  # prctl(2)
_CODE = Path(__file__).resolve().parents[3]  # the directory that holds the package


class Part:
    """One process: `arguments` are those of `python -m`, `folder` is its working directory and holds its log."""

    def __init__(self, name: str, folder: Path, arguments: Sequence[str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - it is ourselves
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                cwd=folder,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_with_parent(),  # noqa: PLW1509 - we have no threads
            )
        self._answers = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text("utf-8", "replace")

    def tell(self, order: dict[str, Any]) -> None:
        """Send it one line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError as exc:
            raise self.failed() from exc

    def answer(self, seconds: float) -> dict[str, Any]:
        """Its next line; raises Failed when it ends, or does not answer in time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._answers:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Failed(f"the {self.name} did not finish within {seconds:g} s")
            received = os.read(self._process.stdout.fileno(), 65536)
            if not received:
                raise self.failed()
            self._answers += received
        line, _, self._answers = self._answers.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def failed(self, what: str = "ended") -> Failed:
        """That it ended, and why in its own last words."""
        self._process.wait()
        lines = self.log().strip().splitlines() or [f"exit code {self._process.returncode}"]
        return Failed(f"the {self.name} {what}: {lines[-1].removeprefix('logplex: ')}")

    def cpu_seconds(self) -> float:
        """Processor time it has spent, all its threads together."""
        return time.clock_gettime((~self._process.pid << 3) | 2)  # as clock_getcpuclockid(3) makes the clock's id

    def peak_bytes(self) -> int:
        """The most memory it ever had, as the kernel's high-water mark says."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * config.KIB if found else 0


class ServerPart(Part):
    """`logplex serve` on free ports, its data in `folder`; ready when made. `addresses`: HOST:PORT by listener."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.data_dir = folder / "data"
        listeners = ("--http", "127.0.0.1:0", "--syslog", "127.0.0.1:0", "--drain-allow", "127.0.0.0/8")
        arguments = ("logplex", "serve", "--data-dir", str(self.data_dir), "--log-format", "json", *listeners)
        super().__init__("server", folder, [*arguments, *options])
        try:
            self.addresses = self._ready()
        except BaseException:
            self.__exit__()
            raise

    def _ready(self) -> dict[str, str]:
        deadline = time.monotonic() + START_SECONDS
        while self.running:
            for line in self.log().splitlines():
                event = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
                if event.get("event") == "ready":
                    return {name: event[name] for name in config.LISTENERS if name in event}
            if time.monotonic() >= deadline:
                raise Failed(f"the server was not ready within {START_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        raise self.failed("could not start")

    def port(self, listener: str) -> int:
        return int(self.addresses[listener].rpartition(":")[2])


def _environment() -> dict[str, str]:
    found = config.without_settings()
    path = [str(_CODE), found.get("PYTHONPATH", "")]
    return found | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def _with_parent() -> Callable[[], None]:
    """What a child does first: ask to be killed when we are gone, be it by `kill -9`."""
    prctl = ctypes.CDLL(None).prctl
    ours = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != ours:  # we were gone before it asked
            os._exit(1)

    return ask
