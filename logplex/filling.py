"""How long a group fills before it is written, when nobody waits for it.

Rules (tests/test_filling.py):

* A group of few channels is written after `QUICK_SECONDS`: its lines are still in the processor's cache.
* To write and show a channel costs as much as many lines: a group waits for `CHANNEL_SECONDS` by channel, but no
  longer than `group_seconds`.
* Where the loop hardly sleeps any more, what channels cost decides how many lines it can take. Then groups fill for
  twice as long, one after the other, until it does: up to `BUSY_TIMES` as long by channel, and `BUSY_LIMIT` times
  `group_seconds`, or until `busy_bytes` have gathered. Where it sleeps enough, they come back in the same steps.
"""

QUICK_SECONDS = 0.005
CHANNEL_SECONDS = 0.0002
BUSY_TIMES = 4  # a tenth of the processor's time goes to channels then, up to some six hundred of them
BUSY_LIMIT = 25  # half a second, by default
LITTLE_IDLE, ENOUGH_IDLE = 0.1, 0.3  # of the loop's time


class Filling:
    """The rule of one server; times in seconds."""

    def __init__(self, group_seconds: float, *, busy_bytes: int) -> None:
        self._group_seconds = group_seconds
        self._busy_bytes = busy_bytes
        self._times = 1  # as long as usual

    def adapt(self, idle: float) -> None:
        """A group has filled, and meanwhile the loop slept for this share of its time."""
        if idle < LITTLE_IDLE:
            self._times = min(2 * self._times, BUSY_LIMIT)
        elif idle > ENOUGH_IDLE:
            self._times = max(1, self._times // 2)

    def seconds(self, channels: int, size: int) -> float:
        """How long after its first line a group of `size` bytes for so many channels is written."""
        usual = min(max(QUICK_SECONDS, CHANNEL_SECONDS * channels), self._group_seconds)
        if self._times == 1:
            return usual
        if size >= self._busy_bytes:
            return 0.0
        most = max(QUICK_SECONDS, BUSY_TIMES * CHANNEL_SECONDS * channels)
        return min(self._times * usual, most, BUSY_LIMIT * self._group_seconds)
