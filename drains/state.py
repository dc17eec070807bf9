"""What is remembered of a drain over restarts: its cursor and its page of the ledger.

Invariants (tests/drains/test_state.py, against a naive model):

* `cursor − start = delivered + filtered + Σ lost`, after every call; with `pending = head − cursor` the page of the
  ledger balances at every moment.
* The cursor moves forward only, except when the channel forgot what the drain had already been sent (a new epoch
  whose first position lies behind the cursor): then `start` moves back by as much, so that the page still balances.
* What was lost is told once: it stays `untold` until a delivery that told it has arrived.
"""

from typing import Any, NamedTuple


class Untold(NamedTuple):
    """A loss that the drain has not heard of yet: times in unix ms."""

    lines: int
    since: int  # receive time of the last line before the gap
    noticed: int


class DrainState:
    """Cursor, counters, and the cut of a batch whose first try failed."""

    __slots__ = (
        "bytes",
        "channel_id",
        "cursor",
        "cut",
        "delivered",
        "delivered_at",
        "drain_id",
        "epoch",
        "filtered",
        "lost",
        "max_bytes",
        "replayed",
        "retried",
        "start",
        "succeeded_at",
        "untold",
    )

    def __init__(self, drain_id: int, channel_id: int, epoch: str, start: int) -> None:
        self.drain_id = drain_id
        self.channel_id = channel_id
        self.epoch = epoch
        self.start = start
        self.cursor = start
        self.delivered = 0
        self.filtered = 0
        self.lost: dict[str, int] = {}
        self.retried = 0
        self.replayed = 0
        self.bytes = 0
        self.cut: tuple[int, int] | None = None
        self.untold: Untold | None = None
        self.max_bytes = 0  # 0: no 413 has halved it
        self.delivered_at = 0  # receive time of the newest delivered line, unix ms
        self.succeeded_at = 0  # when the receiver last took something, unix ms

    def deliver(self, end: int, *, filtered: int = 0, refused: int = 0, size: int = 0) -> None:
        """Everything before `end` arrived, but for positions that the drain does not want, or refused for good."""
        count = end - self.cursor
        if filtered < 0 or refused < 0 or filtered + refused > count:
            raise ValueError(f"{filtered} filtered and {refused} refused of {count}")
        self.delivered += count - filtered - refused
        self.filtered += filtered
        if refused:
            self.lost["permanent"] = self.lost.get("permanent", 0) + refused
        self.bytes += size
        self.cursor = end
        if self.cut is not None and self.cut[0] < end:
            self.cut = None

    def reject(self, count: int) -> int:
        """The receiver took a request, and then said that it threw `count` lines of it away: how many are lost now."""
        count = min(count, self.delivered)
        if count:
            self.delivered -= count
            self.lost["permanent"] = self.lost.get("permanent", 0) + count
        return count

    def lose(self, count: int, reason: str) -> None:
        """The next `count` positions will never arrive."""
        if count < 0:
            raise ValueError(f"lost {count}")
        if count:
            self.lost[reason] = self.lost.get(reason, 0) + count
            self.cursor += count
            if self.cut is not None and self.cut[0] < self.cursor:
                self.cut = None

    def overrun(self, count: int, now: int) -> None:
        """`count` positions left the spool before they were delivered; the drain is to be told (L10)."""
        if count:
            self.lose(count, "overrun")
            told = self.untold
            since = self.delivered_at or now
            self.untold = Untold(count, since, now) if told is None else told._replace(lines=told.lines + count)

    def told(self, untold: Untold) -> None:
        """The drain heard of this loss; what was added to it since is told next."""
        now = self.untold
        if now is not None:
            left = now.lines - untold.lines
            self.untold = now._replace(lines=left) if left > 0 else None

    def leave_epoch(self, first: int) -> None:
        """The next epoch begins at `first`: what the drain has had behind it were other lines."""
        if self.cursor > first:
            self.go_back(first)

    def go_back(self, position: int) -> None:
        """The channel forgot lines that the drain has had: the page keeps its sums, and goes on at `position`."""
        self.start -= self.cursor - position
        self.cursor = position
        self.cut = None

    def pending(self, head: int) -> int:
        """Positions that are neither delivered nor given up."""
        return head - self.cursor

    def balances(self) -> bool:
        """The invariant of this module."""
        return self.cursor - self.start == self.delivered + self.filtered + sum(self.lost.values())

    def to_row(self) -> tuple[Any, ...]:
        """As a tuple of what msgpack knows."""
        return (
            self.drain_id,
            self.channel_id,
            self.epoch,
            self.start,
            self.cursor,
            self.delivered,
            self.filtered,
            dict(self.lost),
            self.retried,
            self.replayed,
            self.bytes,
            self.cut,
            None if self.untold is None else tuple(self.untold),
            self.max_bytes,
            self.delivered_at,
            self.succeeded_at,
        )

    @classmethod
    def from_row(cls, row: "tuple[Any, ...] | list[Any]") -> "DrainState":
        """The state that `to_row` wrote; lists stand for tuples, as msgpack reads them."""
        state = cls(row[0], row[1], row[2], row[3])
        state.cursor, state.delivered, state.filtered = row[4:7]
        state.lost = dict(row[7])
        state.retried, state.replayed, state.bytes = row[8:11]
        state.cut = None if row[11] is None else (row[11][0], row[11][1])
        state.untold = None if row[12] is None else Untold(*row[12])
        state.max_bytes, state.delivered_at, state.succeeded_at = row[13:16]
        return state
