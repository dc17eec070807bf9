"""`logplex bench`: what a server carries on this machine, case by case, in half a minute.

* It needs this package alone, and touches no server, data directory or LOGPLEX_* variable that is there: every case
  has a server of its own, on loopback, its data in a temporary directory (benchmark/).
* It leaves no process and no directory behind, whether it ends, fails or is told to end; `kill -9` leaves a directory.
* A figure that is not the server's limit is no figure of the server: notes say so.
* Exit code: 1 when a message was lost, repeated or out of order, or when a case could not be run.
"""

import math
import platform
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from .. import __version__, config
from .benchmark import processors
from .benchmark.cases import CASES
from .benchmark.run import Result, measure
from .client import json_option
from .terminal import note, on_terminal, progress, say, show_facts, show_json, show_table

SECONDS = 4.0
LONGEST_SECONDS = 60.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IN_MEMORY = ("tmpfs", "ramfs")
DURABILITIES = config.Settings.__dataclass_fields__["durability"].metadata["choices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the figures are about; `filesystem` is that of the server's data."""

    processor: str
    processors: int
    python: str
    logplex: str
    directory: str
    filesystem: str


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, LONGEST_SECONDS), default=SECONDS, show_default=True,
              metavar="N", help=f"Load of each of the {len(CASES)} cases.")  # fmt: skip
@click.option("--durability", type=click.Choice(DURABILITIES), default="commit", show_default=True,
              help="What is acknowledged survives: nothing, kill -9, power loss.")  # fmt: skip
@click.option("--dir", "place", metavar="DIR",
              help="On the disk that a server would use [default: that of temporary files].")  # fmt: skip
@json_option
def bench(seconds: float, durability: str, place: str | None, as_json: bool) -> int:
    """Measure what a server carries on this machine.

    It starts servers of its own on loopback, sends numbered messages of 200 bytes to them and receives what their
    drains deliver. CPU s/M is the processor time of the server for a million messages; p50 and p99 are of the answers
    to requests, or for `latency` of the whole way. Exit code 1 when a message was lost, repeated or out of order.
    """
    if math.isnan(seconds):
        raise click.BadParameter("nan is no number of seconds", param_hint="'--seconds'")
    with _ended_by_signals():
        machine = look_at(Path(place or tempfile.gettempdir()))
        results = []
        try:
            for count, case in enumerate(CASES, 1):
                progress(f"{count} of {len(CASES)}: {case.title}")
                results.append(measure(case, seconds=seconds, durability=durability, place=place))
        finally:
            progress("")
    said = notes(results, machine)
    clean = all(result.clean for result in results)
    if as_json:
        settings = {"seconds": seconds, "durability": durability}
        cases = [asdict(result) for result in results]
        show_json({"machine": asdict(machine), **settings, "clean": clean, "cases": cases, "notes": said})
    else:
        show(results, machine, durability)
        for sentence in said:
            note(sentence)
    return 0 if clean else 1


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within, the first signal that ends us raises, so that everything is taken down; the others change nothing."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    heeded = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup(1) ignores one
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def look_at(directory: Path) -> Machine:
    """The machine, and the file system of that directory."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return Machine(
        processor=models[0].partition(":")[2].strip() if models else platform.machine(),
        processors=len(processors.ours()),
        python=platform.python_version(),
        logplex=__version__,
        directory=str(directory.resolve()),
        filesystem=filesystem(directory.resolve(), _lines("/proc/self/mounts")),
    )


def filesystem(directory: Path, mounts: Sequence[str]) -> str:
    """The type of the file system that a directory is on; `mounts`: the lines of /proc/self/mounts."""
    found = [(Path(line.split()[1].replace("\\040", " ")), line.split()[2]) for line in mounts]
    around = [(len(point.parts), kind) for point, kind in found if directory.is_relative_to(point)]
    return max(around, key=lambda each: each[0], default=(0, "unknown"))[1]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


_LIMITS = {
    "generator": "the generator was the limit, the server would have carried more",
    "sink": "the sink was the limit, the server would have carried more",
    "processors": "generator and sink shared the processors with the server, which alone would have carried more",
    "others": "other programs took {others} meanwhile; without them the server would have carried more",
    "waiting": "the server waited, most likely for its disk",
}


def notes(results: Sequence[Result], machine: Machine) -> list[str]:
    """What a reader of the figures has to know, a sentence each."""
    found = []
    for result in results:
        if not result.clean:
            counts = f"{result.lost} lost, {result.repeated} repeated, {result.reordered} out of order"
            found.append(f"{result.case}: of {result.messages} messages {counts}")
        if result.degraded:
            found.append(f"{result.case}: the disk failed or was full, the server kept lines in memory")
        if result.server_cpu_share is not None and result.limit in _LIMITS:
            others = f"{result.others_cpu_share:.1f} of {machine.processors} processors"
            found.append(f"{result.case}: " + _LIMITS[result.limit].format(others=others))
    if machine.filesystem in IN_MEMORY:
        found.append(f"the server's data was in memory ({machine.filesystem}): --dir names a directory on a disk")
    return found


HEADINGS = ("case", "messages/s", "CPU s/M", "p50 ms", "p99 ms", "peak MB", "lost", "repeated", "reordered")
_FORMS = ("", ",.0f", ".2f", ".2f", ".2f", ".0f", ",d", ",d", ",d")


def show(results: Sequence[Result], machine: Machine, durability: str) -> None:
    """A table for a person, with what it is about; its rows alone into a pipe."""
    rows = [_row(result) for result in results]
    if not on_terminal():
        show_table(HEADINGS, [[round(each, 3) if isinstance(each, float) else each for each in row] for row in rows])
        return
    say(f"{machine.processor}, {machine.processors} processors, Python {machine.python}, logplex {machine.logplex}")
    say(f"data in {machine.directory} ({machine.filesystem}), durability {durability}")
    print()
    show_table(HEADINGS, [[_cell(*each) for each in zip(row, _FORMS, HEADINGS, strict=True)] for row in rows])
    print()
    show_facts([(result.case, result.title) for result in results])


def _row(result: Result) -> tuple[Any, ...]:
    return (
        result.case,
        result.messages_per_second,
        result.cpu_seconds_per_million,
        result.p50_ms,
        result.p99_ms,
        None if result.peak_bytes is None else result.peak_bytes / 1e6,
        result.lost,
        result.repeated,
        result.reordered,
    )


def _cell(value: Any, form: str, heading: str) -> str:
    """A number under its heading, to the right."""
    if not form:
        return str(value)
    return ("-" if value is None else format(value, form)).rjust(len(heading))
