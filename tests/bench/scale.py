"""Rows about numbers: a thousand readers, idle connections, a million channels, a spool of ten million lines.

* Memory of a thing is the growth of the resident set over many of them, after a first few have warmed the server up.
* A start is from the process' creation to its `ready` event.
"""

import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..peers.programs import wait_until
from .measure import Figures, Job
from .ours import RunningLogplex, make_channels, serve, write_channels
from .programs import Program, allow_files, load, sink
from .work import Work

WARM = 200  # of the things that are counted, before the first measurement


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


def session(server: RunningLogplex, channel: int, *, lines: int = 0) -> str:
    """The path of a new tail session."""
    body = {"channel_id": f"bench-{channel:05}", "tail": True, "num": lines}
    path: str = urlsplit(server.api("POST", "/v3/sessions", body)["url"]).path
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """Many tails of one channel, all of which see every line; latencies are from the sender to the reader."""

    label: str
    contender: str = "logplex"
    readers: int = 1000
    rate: int = 100
    sse: bool = False

    def run(self, seconds: float) -> Figures:
        with folder() as work, serve(work, environment={}) as server:
            tokens = make_channels(server.api, Work(tokens=1, drains=0))
            paths = [session(server, 0) for _ in range(self.readers)]
            (work / "paths").write_text("".join(path + "\n" for path in paths))
            port = server.port_of("http")
            options = {"port": port, "paths": work / "paths", "connections": 1, "sse": self.sse, "idle_ms": 5000}
            with Program("tails", **options) as readers:
                assert readers.line() == "ready\n"
                before = server.cpu_seconds()
                into = {"port": server.port_of("syslog"), "connections": 1, "rate": self.rate, "seconds": seconds}
                sent = load(tokens, work, **into)
                seen = readers.report(expect=sent["sent"] * self.readers)
            spent = server.cpu_seconds() - before
            return {
                "messages": sent["sent"],
                "messages_per_second": seen["received"] / (seen["last_us"] - sent["first_us"]) * 1e6,
                "cpu_seconds_per_million": spent / max(seen["received"], 1) * 1e6,
                "peak_rss_mb": server.memory() / 1e6,
                "lost": sent["sent"] * self.readers - seen["received"],
                **{name: seen[name] for name in ("repeated", "reordered", "misrouted", "p50_ms", "p99_ms", "max_ms")},
            }


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleConnections:
    """What a connection costs that was answered and waits, or (`tails`) follows a channel where nothing happens."""

    label: str
    contender: str = "logplex"
    count: int = 2000
    tails: bool = False

    def run(self, seconds: float) -> Figures:
        allow_files()
        with folder() as work, serve(work, environment={}) as server, ExitStack() as stack:
            make_channels(server.api, Work(tokens=100, channels=100, drains=0))
            paths = [session(server, n % 100) for n in range(WARM + self.count)] if self.tails else []
            paths = paths or ["/v3/healthcheck"] * (WARM + self.count)
            for path in paths[:WARM]:
                stack.enter_context(asked(server, path))
            before = server.memory("VmRSS")
            for path in paths[WARM:]:
                stack.enter_context(asked(server, path))
            grown = server.memory("VmRSS") - before
            return {"bytes_each": grown / self.count, "peak_rss_mb": server.memory() / 1e6}


def asked(server: RunningLogplex, path: str) -> socket.socket:
    """A connection on which the header of an answer has arrived."""
    connection = socket.create_connection(("127.0.0.1", server.port_of("http")), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {server.addresses['http']}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65536)
        assert part, answer
        answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """Channels that each got some lines, with or without a drain whose connection is closed again.

    `bytes_each` is the whole resident set over the channels: only the difference of two such runs means anything.
    """

    label: str
    contender: str = "logplex"
    channels: int = 2000
    lines: int = 10
    drains: int = 0

    def run(self, seconds: float) -> Figures:
        with folder() as work:
            program, port = sink(connections=1, channels=self.channels, one_channel=True, copies=self.drains)
            task = Work(channels=self.channels, tokens=self.channels, drains=self.drains, port=port)
            tokens = write_channels(work / "data", task)
            environment = {"LOGPLEX_DRAIN_IDLE_SECONDS": "1"}
            with program, serve(work, environment=environment) as server:
                open_files = server.open_files()
                into = {"port": server.port_of("syslog"), "connections": 1, "seconds": 300, "chunk": 10}
                sent = load(tokens, work, messages=self.channels * self.lines, **into)
                server.rest()
                wait_until(lambda: server.open_files() < open_files + WARM, "idle drains hang up", seconds=60)
                took = program.report(expect=sent["sent"] * self.drains)
                return {
                    "messages": sent["sent"],
                    "rss_mb": server.memory("VmRSS") / 1e6,
                    "bytes_each": server.memory("VmRSS") / self.channels,
                    "peak_rss_mb": server.memory() / 1e6,
                    "lost": sent["sent"] * self.drains - took["received"],
                }


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A start with many channels and tokens registered."""

    label: str
    contender: str = "logplex"
    channels: int = 1_000_000
    tokens: int = 2_000_000

    def run(self, seconds: float) -> Figures:
        with folder() as work:
            write_channels(work / "data", Work(channels=self.channels, tokens=self.tokens, drains=0))
            with serve(work, environment={}) as server:
                return {"start_seconds": server.start_seconds, "rss_mb": server.memory("VmRSS") / 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """Row 1 on a server that was started over a spool with so many lines, 1,000 a channel."""

    label: str
    contender: str = "logplex"
    lines: int = 0

    def run(self, seconds: float) -> Figures:
        with folder() as work:
            channels = max(self.lines // 1000, 1)
            tokens = write_channels(work / "data", Work(channels=channels, tokens=channels, drains=0))
            if self.lines:
                with serve(work, environment={}) as server:
                    into = {"port": server.port_of("syslog"), "seconds": 600, "messages": self.lines}
                    load(tokens, work, **into)
                    server.rest()
                    server.process.send_signal(signal.SIGTERM)
                    server.process.wait(60)
            program, port = sink(connections=8, channels=1)
            with program, serve(work, environment={}) as server:
                body = {"tokens": [f"app-{n}" for n in range(100)]}
                made = server.api("PUT", "/v3/channels/measured", body)["tokens"].values()
                server.api("POST", "/v3/channels/measured/drains", {"url": f"syslog://127.0.0.1:{port}"})
                server.rest()
                server.port = server.port_of("syslog")
                measured = [(token, 0) for token in made]
                found = Job(label=self.label).measure(server, program, work, tokens=measured, seconds=seconds)
                return {**found, "start_seconds": server.start_seconds}
