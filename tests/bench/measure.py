"""One run of one server, and what several runs say together.

* Rates are from the first byte sent to the last message delivered; processor time is what the server spent in between.
* Lost, repeated, reordered and misrouted are counted message by message; a run that is not clean says so in the table.
* Runs of the contenders are interleaved, each repetition in another order, and ratios are medians over repetitions of
  two runs of the same repetition: a machine that is slower for a minute is slower for both.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .contenders import STARTS, Work, certificates
from .programs import Report, load, sink

SETTLE_SECONDS = 0.2  # the server's last commit and acknowledgements belong to the work

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One contender's column of a case: which server, which work, which load on it."""

    label: str
    contender: str = "logplex"
    work: Work = field(default_factory=Work)
    load: dict[str, Any] = field(default_factory=dict)  # options of load.c

    def run(self, seconds: float) -> Figures:
        """Measure once: a new server, a new sink, `seconds` of load."""
        options = {"connections": 8, **self.load}
        check = {"connections": options["connections"], "channels": self.work.channels}
        timed = "rate" in options
        alone = self.work.channels > 1 and self.work.exit != "http"
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            tls = certificates(folder) if "tls" in (self.work.entrance, self.work.exit) else None
            secret = {name: tls[name] for name in ("cert", "key")} if tls and self.work.exit == "tls" else {}
            program, port = sink(**check, copies=self.work.drains, timed=timed, one_channel=alone, **secret)
            work = replace(self.work, port=port, tls=tls)
            with program, STARTS[self.contender](work, folder) as server:
                if "authorization" in options:
                    options["authorization"] = server.authorization
                before = server.cpu_seconds()
                sent = load(server.tokens, folder, port=server.port, seconds=seconds, **options)
                took = program.report(expect=sent["sent"] * self.work.drains)
                time.sleep(SETTLE_SECONDS)
                spent = server.cpu_seconds() - before
                return figures(sent, took, spent=spent, peak=server.memory(), copies=self.work.drains, timed=timed)


def figures(sent: Report, took: Report, *, spent: float, peak: int, copies: int, timed: bool) -> Figures:
    """The row of one run: rates and costs are per message that was sent in, however many drains it had."""
    seconds = (took["last_us"] - sent["first_us"]) / 1e6
    found: Figures = {
        "messages": sent["sent"],
        "messages_per_second": took["received"] / copies / seconds if seconds > 0 else 0.0,
        "cpu_seconds_per_million": spent / sent["sent"] * 1e6 if sent["sent"] else 0.0,
        "server_cpu_share": spent / seconds if seconds > 0 else 0.0,
        "load_and_sink_cpu_seconds_per_million": (sent["cpu_seconds"] + took["cpu_seconds"]) / sent["sent"] * 1e6,
        "peak_rss_mb": peak / 1e6,
        "lost": sent["sent"] * copies - took["received"],
    }
    found |= {name: took[name] for name in ("repeated", "reordered", "misrouted", "other", "miscounted")}
    if sent["requests"]:
        found["requests_per_second"] = sent["requests"] / ((sent["last_us"] - sent["first_us"]) / 1e6)
    report = took if timed else sent
    if timed or sent["requests"]:
        found |= {name: report[name] for name in ("p50_ms", "p99_ms", "max_ms")}
    return found


def interleave(jobs: Sequence[Job], *, repeat: int, run: Callable[[Job], Figures]) -> dict[str, list[Figures]]:
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


DEFECTS = ("lost", "repeated", "reordered", "misrouted", "miscounted")
