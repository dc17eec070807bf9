"""Log lines about many peers: an event now and then, with the number of those that were left out.

Rules: a line costs about as much as twenty messages, and any stranger can cause one; so each event is written at most
once in `NOTICE_SECONDS`, and the next one says how many were not.
"""

from typing import Any

import structlog
import trio

NOTICE_SECONDS = 10.0

_log = structlog.get_logger()


class Notices:
    """Warnings of one input, told by their event's name; the names are few and fixed."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: dict[str, tuple[float, int]] = {}  # when it may be written again, and how many were not

    def warn(self, event: str, **keys: Any) -> None:
        """Write the event, or count it for the next time. Values are made only when they are cheap."""
        now = trio.current_time()
        due, left_out = self._events.get(event, (now, 0))
        if now < due:
            self._events[event] = due, left_out + 1
            return
        self._events[event] = now + NOTICE_SECONDS, 0
        if left_out:
            keys["left_out"] = left_out
        _log.warning(event, **keys)
