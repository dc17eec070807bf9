"""What happened in a run, as shippers, receivers, readers and the conductor saw it; the oracle judges it afterwards.

Times are those of `time.monotonic`, which all threads share. Everything is appended, nothing is judged here.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .lines import Line


@dataclass(slots=True)
class Sent:
    """Lines `first` to `end` (exclusive) of a producer, handed to a socket."""

    producer: str
    channel: str
    first: int
    end: int
    acknowledged: float | None = None  # when it was known to be accepted
    durable: bool = True  # whether the acknowledgement promised more than memory
    stream: bool = False  # over TCP: what is stored is a beginning of it


class Answer(Enum):
    """What a receiver did with a POST."""

    TAKEN = "taken"  # kept, and a whole 2xx was written in time
    UNSURE = "unsure"  # kept, but the sender may not know
    REFUSED = "refused"  # not kept


@dataclass(slots=True)
class Delivery:
    """One POST that arrived whole: lines from `first` on, behind a notice that `told` lines are lost."""

    drain: str
    at: float
    epoch: str
    first: int
    last: int
    frame_id: str
    count: int
    lines: list[Line]
    told: int
    answer: Answer
    status: int = 0


class End(Enum):
    """Who ended a connection to a syslog receiver."""

    SERVER = "server"
    SHUT = "shut"  # the receiver, which read on to the end of what was sent
    RESET = "reset"  # the receiver, which threw away what it had not read


@dataclass(slots=True)
class Connection:
    """One connection of a syslog drain, and when each line was read from it."""

    drain: str
    opened: float
    lines: list[tuple[float, Line]] = field(default_factory=list)
    ended: float = 0.0
    end: End = End.SERVER


@dataclass(slots=True)
class Event:
    """What a tail showed: a line with its id, or (`line` None) an id alone behind `lost` lines that are gone."""

    at: float
    epoch: str
    position: int
    line: Line | None
    lost: int = 0


@dataclass(slots=True)
class Stream:
    """One stream of a tail, resumed after an id or begun at the oldest line."""

    tail: str
    channel: str
    after: tuple[str, int] | None
    events: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """One life of the server: epoch and head by channel soon after its start."""

    started: float
    places: dict[str, tuple[str, int]]
    ended: float = 0.0
    killed: bool = False
    in_memory: bool = False  # it ended with lines that were only in memory


@dataclass(slots=True)
class History:
    """The newest lines as `/v3/channels/<ch>/logs` shows them, and the places of the channel before and after."""

    channel: str
    at: float
    before: dict[str, Any]
    after: dict[str, Any]
    lines: list[Line]


@dataclass(slots=True)
class Journal:
    """All of it; appending is safe from any thread."""

    drains: dict[str, str] = field(default_factory=dict)  # drain → channel
    drain_ids: dict[str, int] = field(default_factory=dict)
    history_lines: int = 1500
    promises: bool = True  # whether an acknowledgement says that more than memory has the lines
    sent: list[Sent] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    moves: list[tuple[str, float]] = field(default_factory=list)  # drains that got another URL
    histories: list[History] = field(default_factory=list)
    pages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # ledger of a channel, at some moment
    nodes: list[dict[str, Any]] = field(default_factory=list)  # ledger of the node, at some moment
    final: dict[str, dict[str, Any]] = field(default_factory=dict)  # pages when all was quiet
    reopened: dict[str, dict[str, Any]] = field(default_factory=dict)  # the same after a clean restart
    troubles: list[str] = field(default_factory=list)  # what the participants themselves found wrong
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def trouble(self, text: str) -> None:
        """Something that must not happen, whatever was injected."""
        with self.lock:
            self.troubles.append(text)

    def count(self, name: str, number: int = 1) -> None:
        """For the summary."""
        with self.lock:
            self.counts[name] += number

    def most(self, name: str, number: int) -> None:
        """For the summary: the largest."""
        with self.lock:
            self.counts[name] = max(self.counts[name], number)
