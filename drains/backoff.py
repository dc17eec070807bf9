"""How long a failing drain waits before its next try.

Exponential with full jitter: the n-th wait is drawn evenly from nothing to `first · 2ⁿ`, at most `cap`, at least
100 ms. Full jitter spreads the tries of many drains of one dead receiver best (AWS Architecture Blog, "Exponential
Backoff and Jitter"). A receiver's `Retry-After` wins over it, up to an hour.

What many drains began at the same moment does not end at the same moment either (`spread`).
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MIN_SECONDS = 0.1
MAX_RETRY_AFTER_SECONDS = 3600.0
_LEAST = 0.9


class Backoff:
    """The waits of one drain; `failures` counts since the last success."""

    __slots__ = ("_cap", "_first", "_uniform", "failures")

    def __init__(
        self, first: float = 1.0, cap: float = 300.0, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first = first
        self._cap = cap
        self._uniform = uniform
        self.failures = 0

    def succeeded(self) -> None:
        """The next failure waits as if it was the first."""
        self.failures = 0

    def failed(self, retry_after: float | None = None) -> float:
        """One more failure: seconds to wait now."""
        ceiling = min(self._cap, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        wait = max(MIN_SECONDS, self._uniform(0.0, ceiling))
        if retry_after is None:
            return wait
        return max(wait, min(retry_after, MAX_RETRY_AFTER_SECONDS))


def spread(seconds: float, *, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """A time-out of one drain: at most `seconds`, at least nine tenths of it."""
    return seconds * uniform(_LEAST, 1.0)


def retry_after(value: bytes, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110 10.2.3: seconds or a date); None when it says nothing."""
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.fromtimestamp(now, UTC)).total_seconds())
