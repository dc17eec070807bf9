"""One run of one server, and what several runs say together.

* Rates are from the first byte sent to the last message delivered; processor time is what the server spent in between.
* Lost, repeated, reordered and misrouted are counted message by message; a run that is not clean says so in the table.
* Runs of the contenders are interleaved, each repetition in another order, and ratios are medians over repetitions of
  two runs of the same repetition: a machine that is slower for a minute is slower for both.
"""

import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..peers.programs import certificates
from .bad_peers import bad_peers
from .contenders import STARTS
from .programs import Program, Report, load, sink
from .work import Running, Work

SETTLE_SECONDS = 0.2  # the server's last commit and acknowledgements belong to the work

Figures = dict[str, float]


class Measured(Protocol):
    """A column of a case: a name, whose figures they are, and how to come by them."""

    @property
    def label(self) -> str: ...
    @property
    def contender(self) -> str: ...
    def run(self, seconds: float) -> Figures: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Which server, which work, which load on it."""

    label: str
    contender: str = "logplex"
    work: Work = field(default_factory=Work)
    load: dict[str, Any] = field(default_factory=dict)  # options of load.c
    stall_seconds: float = 0.0  # for so long the sink takes nothing, after a third of the load

    def run(self, seconds: float) -> Figures:
        """Measure once: a new server, a new sink, `seconds` of load."""
        check = {"connections": self.options["connections"] + 1, "channels": self.work.channels}
        alone = self.work.channels > 1 and self.work.exit != "http"
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            tls = certificates(folder) if "tls" in (self.work.entrance, self.work.exit) else None
            secret = {name: tls[name] for name in ("cert", "key")} if tls and self.work.exit == "tls" else {}
            program, port = sink(**check, copies=self.work.drains, timed=self.timed, one_channel=alone, **secret)
            work = replace(self.work, port=port, tls=tls)
            with program, ExitStack() as stack:
                if work.bad:
                    bad = stack.enter_context(bad_peers())
                    work = replace(work, bad_places=bad.places, name_server=bad.name_server)
                start = STARTS[self.contender](work, folder)
                server = stack.enter_context(start)
                first = self.wake(server, folder)
                tokens = [token for token in server.tokens if not work.busy or token[1] < work.busy]
                return self.measure(server, program, folder, tokens=tokens, seconds=seconds, first=first)

    @property
    def options(self) -> dict[str, Any]:
        return {"connections": 8, **self.load}

    @property
    def timed(self) -> bool:
        return "rate" in self.load

    def measure(
        self,
        server: Running,
        program: Program,
        folder: Path,
        *,
        tokens: Sequence[tuple[str, int]],
        seconds: float,
        first: int = 0,
    ) -> Figures:
        """Put the load on a server that runs already; the sink `program` has got `first` messages before."""
        options, copies = {"port": server.port, **self.options}, self.work.drains
        if "authorization" in options:
            options["authorization"] = server.authorization
        before = server.cpu_seconds()
        with stalled(program, after=seconds / 3, seconds=self.stall_seconds):
            sent = load(tokens, folder, seconds=seconds, **options)
        took = program.report(expect=(first + sent["sent"]) * copies)
        took["received"] -= first * copies
        time.sleep(SETTLE_SECONDS)
        spent = server.cpu_seconds() - before
        return figures(sent, took, spent=spent, peak=server.memory(), copies=copies, timed=self.timed)

    def wake(self, server: Running, folder: Path) -> int:
        """Where it is said which channels will be busy, a line for each: every drain connects. How many lines."""
        if not self.work.busy:
            return 0
        kind = {name: value for name, value in self.load.items() if name in ("mode", "dialect", "lf")}
        base = self.options["connections"]
        options = {
            **kind,
            "connections": 1,
            "base": base,
            "messages": len(server.tokens),
            "chunk": 1,
            "per_request": 1,
        }
        load(server.tokens, folder, port=server.port, seconds=60, **options)
        server.rest()
        time.sleep(self.work.settle_seconds)
        return len(server.tokens) - self.work.bad


@contextmanager
def stalled(program: Program, *, after: float, seconds: float) -> Iterator[None]:
    """Stop a program for a while; it goes on in any case when the block has ended."""
    process = program.process
    timers = [
        threading.Timer(after, process.send_signal, (signal.SIGSTOP,)),
        threading.Timer(after + seconds, process.send_signal, (signal.SIGCONT,)),
    ]
    for timer in timers if seconds else ():
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        process.send_signal(signal.SIGCONT)


def figures(sent: Report, took: Report, *, spent: float, peak: int, copies: int, timed: bool) -> Figures:
    """The row of one run: rates and costs are per message that was sent in, however many drains it had."""
    if copies == 0:  # nobody delivers: done when all is read
        took = took | {"received": sent["sent"], "last_us": sent["last_us"]}
    seconds = (took["last_us"] - sent["first_us"]) / 1e6
    found: Figures = {
        "messages": sent["sent"],
        "messages_per_second": took["received"] / max(copies, 1) / seconds if seconds > 0 else 0.0,
        "cpu_seconds_per_million": spent / sent["sent"] * 1e6 if sent["sent"] else 0.0,
        "server_cpu_share": spent / seconds if seconds > 0 else 0.0,
        "load_and_sink_cpu_seconds_per_million": (sent["cpu_seconds"] + took["cpu_seconds"]) / sent["sent"] * 1e6,
        "peak_rss_mb": peak / 1e6,
        "lost": sent["sent"] * max(copies, 1) - took["received"],
    }
    found |= {name: took[name] for name in ("repeated", "reordered", "misrouted", "other", "miscounted")}
    if sent["requests"]:
        found["requests_per_second"] = sent["requests"] / ((sent["last_us"] - sent["first_us"]) / 1e6)
    report = took if timed else sent
    if timed or sent["requests"]:
        found |= {name: report[name] for name in ("p50_ms", "p99_ms", "max_ms")}
    return found


def interleave(
    jobs: Sequence[Measured], *, repeat: int, run: Callable[[Measured], Figures]
) -> dict[str, list[Figures]]:
    """Run every job `repeat` times, in turns; the order is turned round each time."""
    runs: dict[str, list[Figures]] = {job.label: [] for job in jobs}
    for repetition in range(repeat):
        for job in jobs if repetition % 2 == 0 else reversed(jobs):
            runs[job.label].append(run(job))
    return runs


def median(runs: Sequence[Figures]) -> Figures:
    """The median of every figure; of losses and the like the sum, since one is one too many."""
    return {name: (sum if name in DEFECTS else statistics.median)([run[name] for run in runs]) for name in runs[0]}


def ratio(runs: Sequence[Figures], others: Sequence[Figures], name: str) -> float | None:
    """The median of the ratios of paired runs; None where a run has no such figure."""
    pairs = [(run.get(name), other.get(name)) for run, other in zip(runs, others, strict=True)]
    quotients = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
    return statistics.median(quotients) if len(quotients) == len(pairs) else None


def difference(runs: Sequence[Figures], others: Sequence[Figures], name: str) -> float:
    """The median of what a run has more than the other one of its pair."""
    return statistics.median(run[name] - other[name] for run, other in zip(runs, others, strict=True))


DEFECTS = ("lost", "repeated", "reordered", "misrouted", "miscounted")
