"""The generator, the sink and the readers, which are written in C, and their reports.

* Compiled with gcc at the first use, into `.cache/bench` of the checkout; compiled anew when a source changed.
* All of them run on the generator's core, the measured server has the other one for itself.
* Everything is bounded: the generator in seconds, the sink by what was sent and by silence.
"""

import json
import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent.parent / ".cache" / "bench"
SERVER_CORE, LOAD_CORE = 0, 1
SILENCE_MS = 5000  # a sink that expects more reports the rest as lost after this
FLAGS = ["-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-variable", "-D_GNU_SOURCE"]

Report = dict[str, Any]


def built(name: str) -> str:
    """The path of the compiled program."""
    source, common, target = HERE / f"{name}.c", HERE / "common.h", BUILT / name
    newest = max(source.stat().st_mtime, common.stat().st_mtime)
    if not target.exists() or target.stat().st_mtime < newest:
        BUILT.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", *FLAGS, "-o", str(partial), str(source), "-lssl", "-lcrypto"], check=True)
        partial.replace(target)
    return str(target)


def pin_to(core: int) -> None:
    """Pin this process to one core, where there is more than one."""
    if core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})


def allow_files() -> None:
    """Let this process open as many files as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def arguments(options: dict[str, Any]) -> list[str]:
    return [f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in options.items()]


class Program:
    """One of the C programs, from its start to its report."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [built(name), *arguments(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: pin_to(LOAD_CORE),
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return line

    def report(self, expect: int | None = None) -> Report:
        """Its report, once all that was expected is there, or nothing came for a while."""
        if expect is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(f"expect {expect}\n")
            self.process.stdin.flush()
        report: Report = json.loads(self.line())
        self.process.wait()
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def sink(**options: Any) -> tuple[Program, int]:
    """A sink that listens, and its port."""
    program = Program("sink", idle_ms=SILENCE_MS, **options)
    return program, int(program.line())


def load(tokens: Sequence[tuple[str, int]], work: Path, **options: Any) -> Report:
    """Run the generator to its end. `tokens`: each with the number of its channel in the check."""
    path = work / "tokens.txt"
    path.write_text("".join(f"{token} {channel}\n" for token, channel in tokens))
    with Program("load", tokens=path, **options) as program:
        return program.report()
