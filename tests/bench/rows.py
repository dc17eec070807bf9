"""The rows of the table: what is measured, beside whom, and the figure that it must reach.

A case is one line of results with one column per job; the first job is the reference of the ratios.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .contenders import Work
from .measure import Figures, Job, interleave, median, ratio

RSYSLOG = Job(label="rsyslog", contender="rsyslog")
SYSLOG_NG = Job(label="syslog-ng", contender="syslog-ng")
OURS = Job(label="logplex")
CPU, RATE = "cpu_seconds_per_million", "messages_per_second"


@dataclass(frozen=True, slots=True)
class Goal:
    """`figure` of `job`, or its ratio to the same figure of `to`, must be at most (at least) `bound`."""

    job: str
    figure: str
    bound: float
    to: str = ""
    at_least: bool = False

    def met(self, value: float | None) -> bool | None:
        if value is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound

    def value(self, runs: dict[str, list[Figures]]) -> float | None:
        """The measured figure or ratio; None where a contender was missing."""
        if self.job not in runs or (self.to and self.to not in runs):
            return None
        if self.to:
            return ratio(runs[self.job], runs[self.to], self.figure)
        return median(runs[self.job]).get(self.figure)

    def __str__(self) -> str:
        beside = f" / {self.to}" if self.to else ""
        return f"{self.job}{beside}: {self.figure} {'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Case:
    """Jobs that are measured in turns, and what must come out."""

    name: str
    title: str
    jobs: tuple[Job, ...]
    goals: tuple[Goal, ...]
    seconds: float | None = None  # where the row fixes its time

    def measure(self, seconds: float, repeat: int, run: Callable[[Job, float], Figures]) -> dict[str, list[Figures]]:
        """Runs by the label of the job."""
        return interleave(self.jobs, repeat=repeat, run=lambda job: run(job, self.seconds or seconds))


def _tcp(lf: bool) -> Case:
    load = {"lf": lf}
    jobs = tuple(replace(job, load=load) for job in (RSYSLOG, OURS, SYSLOG_NG))
    goals = (Goal("logplex", CPU, 0.7, "rsyslog"), Goal("logplex", RATE, 1.3, "rsyslog", at_least=True))
    name = "with LF inside the count" if lf else "without LF"
    return Case("1-lf" if lf else "1", f"TCP in, one channel with spool, one TCP drain; {name}", jobs, goals)


def _fan_out() -> Case:
    work = Work(channels=100)
    jobs = tuple(replace(job, work=work) for job in (RSYSLOG, OURS, SYSLOG_NG))
    return Case("2", "TCP in, 100 channels, 100 TCP drains", jobs, (Goal("logplex", CPU, 0.6, "rsyslog"),))


def _http_load(per_request: int, **more: Any) -> dict[str, Any]:
    return {"mode": "http", "per_request": per_request, "dialect": 1, "lf": 1, **more}


HTTP = Work(entrance="http", exit="http", channels=100)


def _http(per_request: int, bound: float, *, mixed: bool = False) -> Case:
    load = _http_load(per_request, **({"authorization": "credential"} if mixed else {}))
    ours = replace(OURS, work=HTTP, load=load)
    title = f"POST /logs, {per_request} messages a request, 100 channels, an HTTP drain each"
    title += "; tokens mixed in a request" if mixed else ""
    name = f"3-{per_request}" + ("-mixed" if mixed else "")
    return Case(name, title, (RSYSLOG, ours), (Goal("logplex", CPU, bound, "rsyslog"),))


def _single() -> Case:
    work = Work(entrance="http", exit="tcp")
    ours = replace(OURS, work=work, load=_http_load(1, connections=64))
    goal = Goal("logplex", "requests_per_second", 15_000, at_least=True)
    return Case("4", "POST /logs, 1 message a request, 64 connections, answered after commit", (ours,), (goal,))


def _more_drains(per_request: int, bound: float) -> Case:
    load = _http_load(per_request)
    one = replace(OURS, label="1 drain", work=HTTP, load=load)
    five = replace(OURS, label="5 drains", work=replace(HTTP, drains=5), load=load)
    title = f"POST /logs, {per_request} messages a request, 100 channels; 4 further drains together"
    return Case(f"5-{per_request}", title, (one, five), (Goal("5 drains", CPU, 1 + 4 * bound, "1 drain"),))


def _tls() -> Case:
    plain = replace(OURS, label="plain")
    tls = replace(OURS, label="TLS", work=Work(entrance="tls", exit="tls"), load={"tls": 1})
    return Case("6", "TLS in, TLS out", (plain, tls), (Goal("TLS", CPU, 2.0, "plain"),))


def _latency(rate: int) -> Case:
    load = {"rate": rate}
    none = replace(OURS, label="none", work=Work(durability="none"), load=load)
    commit = replace(OURS, label="commit", load=load)
    goals = tuple(Goal("none", figure, 1.0, "rsyslog") for figure in ("p50_ms", "p99_ms"))
    title = f"latency TCP to TCP at {rate} messages/s"
    return Case(f"8-{rate}", title, (replace(RSYSLOG, load=load), none, commit), goals)


CASES: tuple[Case, ...] = (
    _tcp(lf=False),
    _tcp(lf=True),
    _fan_out(),
    _http(500, 0.75),
    _http(100, 0.95),
    _http(500, 0.75, mixed=True),
    _single(),
    _more_drains(500, 0.05),
    _more_drains(100, 0.10),
    _tls(),
    _latency(1_000),
    _latency(70_000),
)
