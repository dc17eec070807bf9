"""The rows of the table: what is measured, beside whom, and the figure that it must reach.

A case is one line of results with one column per job; the first job is the reference of the ratios.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .measure import Figures, Job, Measured, difference, median, ratio
from .scale import Active, IdleConnections, Spooled, Start, Tails
from .work import Work

RSYSLOG = Job(label="rsyslog", contender="rsyslog")
SYSLOG_NG = Job(label="syslog-ng", contender="syslog-ng")
RELAY = Job(label="relay", contender="relay")
OURS = Job(label="logplex")
CPU, RATE = "cpu_seconds_per_million", "messages_per_second"


@dataclass(frozen=True, slots=True)
class Goal:
    """`figure` of `job`, its ratio `to`, or what it has more than (`minus`), that of another job: ≤ (≥) `bound`.

    A ratio may also be met by being at most so much more, in the figure's unit (`or_more`).
    """

    job: str
    figure: str
    bound: float
    to: str = ""
    at_least: bool = False
    minus: str = ""
    or_more: float = 0.0

    def met(self, runs: dict[str, list[Figures]]) -> bool | None:
        """Whether it was reached; None where a contender was missing."""
        value = self.value(runs)
        if value is None:
            return None
        if self.or_more and difference(runs[self.job], runs[self.to], self.figure) <= self.or_more:
            return True
        return value >= self.bound if self.at_least else value <= self.bound

    def value(self, runs: dict[str, list[Figures]]) -> float | None:
        """The measured figure or ratio; None where a contender was missing."""
        if self.job not in runs or (self.to and self.to not in runs):
            return None
        if self.to:
            return ratio(runs[self.job], runs[self.to], self.figure)
        figure = median(runs[self.job]).get(self.figure)
        return figure - median(runs[self.minus])[self.figure] if figure is not None and self.minus else figure

    def __str__(self) -> str:
        beside = f" / {self.to}" if self.to else f" − {self.minus}" if self.minus else ""
        more = f" or + {self.or_more:g}" if self.or_more else ""
        return f"{self.job}{beside}: {self.figure} {'≥' if self.at_least else '≤'} {self.bound:g}{more}"


@dataclass(frozen=True, slots=True)
class Case:
    """Jobs that are measured in turns, and what must come out."""

    name: str
    title: str
    jobs: tuple[Measured, ...]
    goals: tuple[Goal, ...]


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


BUSY = {"LOGPLEX_BUSY_POLL_SECONDS": "0.005"}


def _latency(rate: int, *, looks: bool = False) -> Case:
    """`looks`: the goal is for a server that looks for lines instead of sleeping; one that sleeps stands beside it."""
    load = {"rate": rate}
    none = replace(OURS, label="none", work=Work(durability="none"), load=load)
    busy = replace(none, label="none, busy polling", work=replace(none.work, environment=BUSY))
    commit = replace(OURS, label="commit", load=load)
    judged = busy if looks else none
    goals = tuple(Goal(judged.label, figure, 1.0, "rsyslog") for figure in ("p50_ms", "p99_ms"))
    title = f"latency TCP to TCP at {rate} messages/s"
    jobs = (replace(RSYSLOG, load=load), *([busy] if looks else []), none, commit, replace(RELAY, load=load))
    return Case(f"8-{rate}", title, jobs, goals)


def _durability() -> Iterator[Case]:
    """What the spool costs: nobody delivers, so that only receiving, numbering and storing is compared."""
    no_spool = Work(durability="none", drains=0, environment={"LOGPLEX_SPOOL_BYTES": "0"})
    without = replace(OURS, label="no spool", work=no_spool)
    none = replace(OURS, label="none", work=Work(durability="none", drains=0))
    commit = replace(OURS, label="commit", work=Work(drains=0))
    goals = (
        Goal("commit", RATE, 0.9, "none", at_least=True),
        Goal("commit", RATE, 0.75, "no spool", at_least=True),
    )
    title = "TCP in, one channel, no drain; without a spool, written behind, and committed before it is shown"
    yield Case("12", title, (without, none, commit), goals)
    load = {"rate": 100_000}
    late = (Goal("commit", "p99_ms", 25, minus="none"),)
    jobs = tuple(replace(OURS, label=name, work=Work(durability=name), load=load) for name in ("none", "commit"))
    yield Case(
        "12-half", "latency TCP to TCP at half load, written behind, and committed before it is shown", jobs, late
    )


def _tails(sse: bool) -> Case:
    job = Tails(label="SSE" if sse else "plain", sse=sse)
    goals = (Goal(job.label, "p99_ms", 250), Goal(job.label, "lost", 0))
    name, what = ("7-sse", "SSE") if sse else ("7", "plain text")
    return Case(name, f"1,000 tails ({what}) of one channel with 100 lines/s", (job,), goals)


def _memory() -> Iterator[Case]:
    each, rss = "bytes_each", "rss_mb"
    connections = IdleConnections(label="connection")
    tails = IdleConnections(label="tail", tails=True)
    idle = (Goal("connection", each, 10_240), Goal("tail", each, 10_240))
    yield Case("9-idle", "memory of an idle HTTP connection, of an idle tail", (connections, tails), idle)
    none, one = Active(label="no drain"), Active(label="a drain", drains=1)
    goal = Goal("a drain", each, 30_720, minus="no drain")
    yield Case("9-drain", "memory of an idle drain, its connection closed", (none, one), (goal,))
    start = Start(label="logplex")
    goals = (Goal("logplex", "start_seconds", 5), Goal("logplex", rss, 400))
    yield Case("9-registered", "start with 1,000,000 channels and 2,000,000 tokens", (start,), goals)
    active = Active(label="logplex", channels=100_000)
    yield Case("9-active", "100,000 channels with 10 lines each", (active,), (Goal("logplex", rss, 1000),))


def _growth() -> Iterator[Case]:
    few = replace(OURS, label="1 channel", work=Work(drains=0))
    many = replace(OURS, label="10,000 channels", work=Work(channels=10_000, tokens=10_000, drains=0))
    yield Case("10-channels", "lines for 1 or 10,000 channels", (few, many), (Goal(many.label, CPU, 2, few.label),))
    posts = [
        replace(job, work=replace(job.work, entrance="http", busy=job.work.channels), load=_http_load(100))
        for job in (few, many)
    ]
    title = "the same by POST /logs, 100 messages of one channel a request"
    yield Case("10-posts", title, tuple(posts), (Goal(many.label, CPU, 2, few.label),))
    one = replace(OURS, label="1 drain")
    work = Work(channels=10_000, tokens=10_000, busy=100)
    all_ = replace(OURS, label="10,000 drains", work=work)
    goal = Goal(all_.label, CPU, 2, one.label)
    yield Case("10-drains", "1 drain, or 10,000 connected ones of which 100 are busy", (one, all_), (goal,))
    empty, full = Spooled(label="no lines"), Spooled(label="10 million lines", lines=10_000_000)
    goals = (Goal(full.label, CPU, 1.1, empty.label), Goal(full.label, "start_seconds", 1.2, empty.label))
    yield Case("10-spool", "on top of a spool", (empty, full), goals)


def _bulkheads() -> Case:
    """Every channel gets one line; when every bad drain has failed, lines come for a hundred healthy ones alone.

    A request may take less long than usual, so that those of drains that hang end again and again in the meantime.
    """
    environment = {"LOGPLEX_DRAIN_REQUEST_SECONDS": "5"}
    work = Work(channels=10_000, tokens=10_000, busy=100, exit="http", settle_seconds=8, environment=environment)
    healthy = replace(OURS, label="all healthy", work=work, load={"rate": 20_000})
    bad = replace(healthy, label="a third bad", work=replace(work, bad=3_333))
    goals = (
        Goal(bad.label, "p50_ms", 1.05, healthy.label),
        Goal(bad.label, "p99_ms", 1.05, healthy.label, or_more=5),
    )
    title = "10,000 drains; a third refuse, hang, answer a byte a second, or have a name that nobody answers for"
    return Case("11", title, (healthy, bad), goals)


def _stalls() -> Case:
    """What comes meanwhile goes through the spool, while the load goes on as fast as the server takes it."""
    stall = {"stall_seconds": 1.0}
    tcp = replace(OURS, label="TCP", **stall)
    load = _http_load(500)
    http = replace(OURS, label="HTTP", work=replace(HTTP, channels=1), load=load, **stall)
    mixed = replace(OURS, label="TCP to HTTP", work=Work(exit="http"), **stall)
    jobs = (tcp, http, mixed)
    goals = tuple(Goal(job.label, "lost", 0) for job in jobs)
    return Case("13", "one channel with one drain, at full load; the receiver stalls for a second", jobs, goals)


def _connections() -> Case:
    """Nearly every read brings one line: what a read costs is what a line costs."""
    load = {"connections": 1000, "rate": 40_000}
    jobs = tuple(replace(job, load=load) for job in (RSYSLOG, OURS))
    title = "40,000 messages/s over 1,000 TCP connections, one channel with spool, one TCP drain"
    return Case("14", title, jobs, (Goal("logplex", CPU, 1.5, "rsyslog"),))


CASES: tuple[Case, ...] = (
    Case("0", "generator to sink, no server between them", (Job(label="nothing", contender="nothing"),), ()),
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
    _latency(1_000, looks=True),
    _latency(70_000),
    _tails(sse=False),
    _tails(sse=True),
    *_memory(),
    *_growth(),
    *_durability(),
    _bulkheads(),
    _stalls(),
    _connections(),
)
