"""What a drain shows its owner: state, last error, last success, its page of the ledger.

Nothing here holds a secret: URLs stand without userinfo and query, and error texts are our own words, never the
peer's bytes.
"""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from logplex.errors import PeerError


class State(Enum):
    """What a drain is doing."""

    IDLE = "idle"
    CONNECTING = "connecting"
    DELIVERING = "delivering"
    BACKING_OFF = "backing off"
    REFUSED = "refused by policy"


class Failure(PeerError):
    """A try that failed: `kind` for programs, the text for people; `status` and `retry_after` of an HTTP answer."""

    def __init__(self, kind: str, text: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.kind = kind
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class LastError:
    """The newest failure, with when it happened (unix seconds)."""

    kind: str
    text: str
    status: int | None
    at: float

    def to_dict(self) -> dict[str, Any]:
        return {"class": self.kind, "status": self.status, "text": self.text, "at": rfc3339(self.at)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainStatus:
    """A drain at one moment; times in unix seconds."""

    state: State
    since: float
    until: float | None
    error: LastError | None
    last_success: float | None
    start: int
    cursor: int
    head: int
    delivered: int
    filtered: int
    lost: dict[str, int]
    retried: int
    replayed: int
    replaying: int | None
    bytes: int
    oldest_pending_seconds: float | None

    @property
    def pending(self) -> int:
        return self.head - self.cursor

    @property
    def text(self) -> str:
        """The state in words."""
        if self.until is not None:
            return f"{self.state.value} until {rfc3339(self.until)}"
        return self.state.value

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "state": self.state.value,
            "text": self.text,
            "since": rfc3339(self.since),
            "until": None if self.until is None else rfc3339(self.until),
            "error": None if self.error is None else self.error.to_dict(),
            "last_success": None if self.last_success is None else rfc3339(self.last_success),
            "delivered": self.delivered,
            "filtered": self.filtered,
            "lost": dict(self.lost),
            "retried": self.retried,
            "replayed": self.replayed,
            "replaying": self.replaying,
            "pending": self.pending,
            "oldest_pending_seconds": self.oldest_pending_seconds,
            "bytes": self.bytes,
            "start": self.start,
            "cursor": self.cursor,
            "head": self.head,
        }


class Told:
    """At most `lines` lines in `seconds`: an app's stream is not for its drains' complaints."""

    __slots__ = ("_seconds", "_times")

    def __init__(self, lines: int, seconds: float) -> None:
        self._times: deque[float] = deque([-seconds] * lines, lines)
        self._seconds = seconds

    def may(self, now: float) -> bool:
        """Whether a line may be told at `now` (any monotonic clock); if so it counts as told."""
        if now - self._times[0] < self._seconds:
            return False
        self._times.append(now)
        return True


def rfc3339(at: float) -> str:
    """Unix seconds for people and programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
