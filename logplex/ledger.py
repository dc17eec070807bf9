"""What came in and what became of it, in plain integers.

The ledger balances at every moment (tests/test_ledger.py):

* node: `frames = received - split + malformed + unknown_token + refused`
* channel: `received + own = stored + memory + writing + sum(dropped)`
* drain: `head - start = delivered + filtered + sum(lost) + pending` (drains keep theirs)

*Dropped* is refused at the door, *lost* is accepted and then given up. Nothing here costs more than an addition a
batch; counters are saved in the transaction of the group that they speak of.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


class Page:
    """The page of one channel."""

    __slots__ = ("dropped", "memory", "own", "received", "shipper_dropped", "shipper_lost", "stored", "writing")

    def __init__(self) -> None:
        self.received = 0  # messages taken for this channel, after splitting
        self.own = 0  # lines that we wrote into its stream
        self.stored = 0  # committed to the spool
        self.memory = 0  # shown, and not in the spool: not yet (durability none), or degraded
        self.writing = 0  # in a group that is being committed
        self.dropped: Counter[str] = Counter()  # refused at the door, by reason
        self.shipper_dropped = 0  # what shippers say they dropped (Logplex-Drop-Count)
        self.shipper_lost = 0  # what shippers say they lost (Logplex-Lost-Count)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count messages of this channel that were refused."""
        self.received += count
        self.dropped[reason] += count

    def to_row(self, *, written: int = 0, healed: int = 0) -> tuple[int | dict[str, int], ...]:
        """What is saved: as it will be when the transaction that saves it is committed.

        That stores `written` lines of `writing`, and `healed` lines of `memory`.
        """
        return (
            self.received,
            self.own,
            self.stored + written + healed,
            self.memory - healed,
            dict(self.dropped) if self.dropped else {},
            self.shipper_dropped,
            self.shipper_lost,
            self.writing - written,
        )

    def load(self, row: Sequence[Any]) -> None:
        """Go on from a saved row. What was in flight at the save is not counted: it came to nothing."""
        self.received, self.own, self.stored, self.memory, dropped, self.shipper_dropped, self.shipper_lost = row[:7]
        self.received -= row[7]
        self.dropped = Counter(dropped)

    def to_dict(self, *, open_lines: int = 0, open_own: int = 0) -> dict[str, Any]:
        """For people and programs; `open_lines` are in the group that still fills, `open_own` of them ours."""
        return {
            "received": self.received + open_lines - open_own,
            "own": self.own + open_own,
            "stored": self.stored,
            "memory": self.memory,
            "writing": self.writing + open_lines,
            "dropped": dict(self.dropped),
            "shipper_dropped": self.shipper_dropped,
            "shipper_lost": self.shipper_lost,
        }


def closed_page(name: str, page: Page) -> dict[str, Any]:
    """The page of a channel that was deleted; what was being written is stored, or gone with the rest of it.

    `of` tells it from the pages of drains, which say there whose they were.
    """
    row = page.to_dict()
    row["stored"] += row.pop("writing")
    return {"of": None, "channel": name, **row}


class Ledger:
    """The page of this node."""

    def __init__(self) -> None:
        self.frames = 0  # framed messages that arrived
        self.received = 0  # taken for a channel, after splitting
        self.split = 0  # further messages that splitting made
        self.malformed = 0
        self.unknown_token = 0
        self.refused: Counter[str] = Counter()  # frames refused for another reason
        self.requests_refused: Counter[str] = Counter()  # requests and connections, by reason
        self.duplicates = 0  # requests acknowledged again and not stored
        self.count_mismatches = 0  # accepted in spite of a wrong count (lenient)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count frames that reached no channel."""
        self.frames += count
        if reason == "malformed":
            self.malformed += count
        elif reason == "unknown_token":
            self.unknown_token += count
        else:
            self.refused[reason] += count

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count requests or connections that were refused before their frames were seen."""
        self.requests_refused[reason] += count

    def to_row(self) -> dict[str, Any]:
        """What is saved, and shown."""
        return {
            "frames": self.frames,
            "received": self.received,
            "split": self.split,
            "malformed": self.malformed,
            "unknown_token": self.unknown_token,
            "refused": dict(self.refused),
            "requests_refused": dict(self.requests_refused),
            "duplicates": self.duplicates,
            "count_mismatches": self.count_mismatches,
        }

    def load(self, row: Mapping[str, Any]) -> None:
        """Go on from a saved row; fields that it does not have stay 0."""
        for name, value in row.items():
            setattr(self, name, Counter(value) if isinstance(value, dict) else value)
