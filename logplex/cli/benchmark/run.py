"""One case after the other: start what it needs in a directory of its own, measure, and leave nothing behind.

* Rates are from the first byte sent to the last message delivered; the server's processor time is what it spent then.
* What was the limit is read off the processor time that each process had in that time: a process that was busy
  nearly all of it held the others up.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..client import Failed, Server, find_server
from . import processors, window
from .cases import Case
from .generator import Order, Sent
from .parts import START_SECONDS, Part, ServerPart
from .sink import Arrived

SPOOL_BYTES = "1GiB"  # what a case may take of the disk, whatever the seconds
ALONE_SECONDS = 1.0  # generator and sink against each other: nothing of theirs grows with time
FINISH_SECONDS = 60.0  # for what is on its way when the load ends
SILENCE_SECONDS = 15.0  # then the rest is lost; longer than a drain takes to connect again, on a busy machine too
SETTLE_SECONDS = 0.2  # the server's last commit and acknowledgements belong to the work
BUSY = 0.85  # of the time on a processor: a process with that much was the limit
DISTURBING = 0.1  # processors that other programs keep busy: less is any system's own housekeeping
NOBODY = "t.00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one case; None where there is no such thing.

    `…_cpu_share` is processor seconds per second. `p50_ms`, `p99_ms`: of answers to requests, or, at a rate, from
    sending a message to its arrival. `degraded`: the disk failed or was full. `limit`: see there; None at a rate.
    """

    case: str
    title: str
    messages: int
    seconds: float
    messages_per_second: float
    cpu_seconds_per_million: float | None
    p50_ms: float | None
    p99_ms: float | None
    peak_bytes: int | None
    lost: int
    repeated: int
    reordered: int
    degraded: bool
    server_cpu_share: float | None
    generator_cpu_share: float
    sink_cpu_share: float
    others_cpu_share: float
    limit: str | None

    @property
    def clean(self) -> bool:
        return not (self.lost or self.repeated or self.reordered)


@contextmanager
def scratch(place: str | None) -> Iterator[Path]:
    """A directory that is gone afterwards, in `place` or where the system has its temporary ones.

    What the operating system refuses meanwhile is raised as Failed.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="logplex-bench-", dir=place) as name:
            yield Path(name).resolve()
    except OSError as exc:
        raise Failed(f"cannot work in {place or tempfile.gettempdir()}: {exc.strerror or exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the load was, what became of it, and how many processors were busy meanwhile, whoever's work it was."""

    sent: Sent
    arrived: Arrived
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the server needed for it."""

    cpu_seconds: float
    peak_bytes: int
    degraded: bool


def measure(case: Case, *, seconds: float, durability: str, place: str | None) -> Result:
    """Run one case with that many seconds of load; raises Failed when something could not be started, or broke."""
    with scratch(place) as folder, _part("sink", folder) as sink:
        taken = window.make(folder / "taken")
        sink.tell({"taken": str(taken), "timed": case.mode == "pace", "silence_seconds": SILENCE_SECONDS})
        port = sink.answer(START_SECONDS)["port"]
        if not case.server:
            seconds = min(seconds, ALONE_SECONDS)
            return _result(case, _load(case, sink, folder, port=port, tokens=[NOBODY], seconds=seconds))
        with ServerPart(folder, "--durability", durability, "--spool-bytes", SPOOL_BYTES) as server:
            api = find_server(str(server.data_dir))
            tokens = _prepare(case, api, port)
            before = server.cpu_seconds()
            port = server.port("http" if case.mode == "post" else "syslog")
            try:
                load = _load(case, sink, folder, port=port, tokens=tokens, seconds=seconds)
            except Failed:
                if not server.running:  # that is why
                    raise server.failed() from None
                raise
            time.sleep(SETTLE_SECONDS)
            degraded = api.request("GET", "/v3/healthcheck").json()["state"] == "degraded"
            spent = server.cpu_seconds() - before
            return _result(case, load, Spent(cpu_seconds=spent, peak_bytes=server.peak_bytes(), degraded=degraded))


def _part(name: str, folder: Path) -> Part:
    return Part(name, folder, [f"{__package__}.{name}"])


def _prepare(case: Case, api: Server, port: int) -> list[str]:
    """Make the apps with their drains; their tokens."""
    tokens = []
    for number in range(case.apps):
        path = f"/v3/channels/bench-{number}"
        tokens.append(api.call("PUT", path, {"tokens": ["app"]})["tokens"]["app"])
        api.call("POST", f"{path}/drains", {"url": f"{case.drain}://127.0.0.1:{port}/"})
    return tokens


def _load(case: Case, sink: Part, folder: Path, *, port: int, tokens: list[str], seconds: float) -> Load:
    """Put the load of a case on a port, and wait until the sink has all of it, or gives up."""
    order = Order(
        mode=case.mode,
        port=port,
        tokens=tokens,
        connections=case.connections,
        seconds=seconds,
        taken=str(folder / "taken"),
        rate=case.rate,
        per_request=case.per_request,
    )
    with _part("generator", folder) as generator:
        busy, began = processors.busy_seconds(), time.monotonic()
        generator.tell(asdict(order))
        sent = Sent(**generator.answer(seconds + FINISH_SECONDS))
        sink.tell({"expected": sent.messages})
        arrived = Arrived(**sink.answer(FINISH_SECONDS))
        busy = (processors.busy_seconds() - busy) / (time.monotonic() - began)
    return Load(sent=sent, arrived=arrived, busy=busy)


def _result(case: Case, load: Load, spent: Spent | None = None) -> Result:
    sent, arrived = load.sent, load.arrived
    seconds = max((arrived.last - sent.began) / 1e9, 1e-9)
    shares = {"generator": sent.cpu_seconds / sent.wall_seconds, "sink": arrived.cpu_seconds / seconds}
    if spent is not None:
        shares["server"] = spent.cpu_seconds / seconds
    others = max(0.0, load.busy - sum(shares.values()))
    timed = arrived if case.mode == "pace" else sent
    return Result(
        case=case.name,
        title=case.title,
        messages=sent.messages,
        seconds=seconds,
        messages_per_second=arrived.distinct / seconds,
        cpu_seconds_per_million=spent.cpu_seconds / max(sent.messages, 1) * 1e6 if spent else None,
        p50_ms=timed.p50_ms,
        p99_ms=timed.p99_ms,
        peak_bytes=spent.peak_bytes if spent else None,
        lost=sent.messages - arrived.distinct,
        repeated=arrived.repeated,
        reordered=arrived.reordered,
        degraded=spent is not None and spent.degraded,
        server_cpu_share=shares.get("server"),
        generator_cpu_share=shares["generator"],
        sink_cpu_share=shares["sink"],
        others_cpu_share=others,
        limit=None if case.mode == "pace" else limit(shares, others=others, processors=len(processors.ours())),
    )


def limit(shares: dict[str, float], *, others: float, processors: int) -> str:
    """What held the rest up, from processor seconds per second of `server`, `generator`, `sink` and others.

    One of the three that was busy all the time, the server first; else `others` or `processors`, when all of them
    were busy, with other programs' work or with ours alone; else `waiting`, for the disk.
    """
    if shares.get("server", 0.0) >= BUSY:
        return "server"
    name, share = max(shares.items(), key=lambda item: item[1])
    if share >= BUSY:
        return name
    if sum(shares.values()) + others < BUSY * processors:
        return "waiting"
    return "others" if others >= DISTURBING else "processors"
