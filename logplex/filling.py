"""How long a group fills before it is written, when nobody waits for it.

Rules (tests/test_filling.py):

* A group of few channels is written after `QUICK_SECONDS`: its lines are still in the processor's cache.
* To write and show a channel costs as much as many lines: a group waits for `CHANNEL_SECONDS` by channel, but no
  longer than `group_seconds`.
* While the inputs have more than they can take, what a channel costs decides how much they can take: groups wait
  `BUSY_TIMES` as long by channel, up to `BUSY_LIMIT` times `group_seconds`, or until `busy_bytes` have gathered.
"""

from dataclasses import dataclass

QUICK_SECONDS = 0.005
CHANNEL_SECONDS = 0.0002
BUSY_TIMES = 4  # a tenth of the processor's time goes to channels then, up to some six hundred of them
BUSY_LIMIT = 25  # half a second, by default


@dataclass(frozen=True, slots=True)
class Filling:
    """The rule of one server; times in seconds."""

    group_seconds: float
    busy_bytes: int

    def seconds(self, channels: int, size: int, *, busy: bool) -> float:
        """How long after its first line a group of `size` bytes for so many channels is written."""
        if not busy:
            return min(max(QUICK_SECONDS, CHANNEL_SECONDS * channels), self.group_seconds)
        if size >= self.busy_bytes:
            return 0.0
        return min(max(QUICK_SECONDS, BUSY_TIMES * CHANNEL_SECONDS * channels), BUSY_LIMIT * self.group_seconds)
