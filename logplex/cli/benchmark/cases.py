"""What is measured, case by case."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A load, the way it takes through a server, and where it comes out again."""

    name: str
    title: str
    mode: str = "flood"  # as in generator.Order
    server: bool = True
    apps: int = 1  # each with one token and one drain
    drain: str = "syslog"  # the scheme of its URL
    connections: int = 8
    rate: int = 0
    per_request: int = 0


CASES = (
    Case(name="no-server", title="generator to sink, nothing between them", server=False),
    Case(name="tcp", title="syslog over TCP in, one app, its TCP drain out"),
    Case(name="tcp-100", title="the same over 100 apps, each with its TCP drain", apps=100),
    Case(
        name="post-500",
        title="POST /logs, 500 lines a request, 100 apps, each with its HTTP drain",
        mode="post",
        per_request=500,
        apps=100,
        drain="http",
    ),
    Case(
        name="post-1",
        title="POST /logs, 1 line a request, 64 connections, each answered after its commit",
        mode="post",
        per_request=1,
        connections=64,
    ),
    Case(name="latency", title="1,000 lines/s over TCP, from sending to the TCP drain's end", mode="pace", rate=1000),
)
