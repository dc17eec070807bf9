"""Which bytes of a syslog connection are which positions: what it means that the peer's kernel has so many of them.

Rules:

* A mark stands behind each send, where the last one ended; marks are settled in their order, and the cursor moves
  with them.
* They stay few though the peer acknowledges little: two become one, which is settled when both are. One that counts
  a loss, or tells of one, stays by itself.
* Of a mark that the peer has a part of, whole frames are settled only when the connection is over.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from .delivery import Delivery
from .state import Untold

MOST = 256  # not yet settled; then the kernel is asked


class Mark(NamedTuple):
    """What it means that the peer has the first `bytes` bytes of a connection."""

    bytes: int
    end: int
    filtered: int
    at: int
    lost: int = 0
    told: Untold | None = None

    @property
    def is_of_a_loss(self) -> bool:
        """Whether it counts one, or tells of one."""
        return self.lost > 0 or self.told is not None


class Marks:
    """Those of one delivery's connection."""

    __slots__ = ("_delivery", "bytes", "settled", "waiting")

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.bytes = 0  # given to the kernel on this connection, or about to be
        self.settled = 0  # of these, behind a mark that is settled
        self.waiting: deque[Mark] = deque()

    def add(self, size: int, end: int, filtered: int, at: int) -> None:
        """`size` more bytes bring positions up to `end`, of which `filtered` are not wanted; received at `at`."""
        self.bytes += size
        self.waiting.append(Mark(self.bytes, end, filtered, at))

    def lose(self, count: int, end: int) -> None:
        """No bytes: `count` positions up to `end` are gone."""
        self.waiting.append(Mark(self.bytes, end, 0, 0, lost=count))

    def tell(self, size: int, end: int, untold: Untold) -> None:
        """`size` more bytes tell of a loss."""
        self.bytes += size
        self.waiting.append(Mark(self.bytes, end, 0, 0, told=untold))

    def clear(self) -> None:
        """The connection is over."""
        self.waiting.clear()
        self.bytes = self.settled = 0

    def settle(self, arrived: int) -> bool:
        """The peer's kernel has the first `arrived` bytes; whether any mark says what that means."""
        waiting = self.waiting
        if not waiting or waiting[0].bytes > arrived:
            return False
        last: Mark | None = None
        filtered = 0
        while waiting and waiting[0].bytes <= arrived:
            mark = waiting.popleft()
            if mark.is_of_a_loss:
                self._settle(last, filtered)
                self._settle(mark, 0)
                last = None
                filtered = 0
            else:
                last = mark
                filtered += mark.filtered
        self._settle(last, filtered)
        return True

    def settle_frames(self, arrived: int, token: bytes) -> None:
        """The connection is over: settle the whole frames of a plain drain's mark that arrived in part."""
        if not self.waiting or arrived <= self.settled:
            return
        mark, cursor = self.waiting[0], self._delivery.state.cursor
        held = self._delivery.channel.recent(cursor, 1)
        if mark.is_of_a_loss or mark.filtered or not held:
            return  # behind the ring: its lines are sent again from the mark on
        data = held[0].cut(cursor, mark.end).syslog(token)
        covered = [end for end in frame_ends(data) if end <= arrived - self.settled]
        if covered:
            self._settle(Mark(self.settled + covered[-1], cursor + len(covered), 0, mark.at), 0)

    def thin_out(self) -> None:
        """Make two one, if there are too many."""
        waiting = self.waiting
        if len(waiting) > MOST:
            last, before = waiting.pop(), waiting.pop()
            if before.is_of_a_loss or last.is_of_a_loss:
                waiting.append(before)
                waiting.append(last)
            else:
                waiting.append(last._replace(filtered=before.filtered + last.filtered))

    def forget_after(self, data: bytes, kept: int) -> int:
        """The bytes of `data` (the last that were marked) from `kept` on are rendered again later.

        Where they begin is `sent` again; lines of a loss that is untold again are returned.
        """
        delivery = self._delivery
        begin = self.bytes - len(data)
        self.bytes = begin + kept
        waiting = self.waiting
        last: Mark | None = None
        while waiting and waiting[-1].bytes > self.bytes:
            last = waiting.pop()
        before = waiting[-1] if waiting else None
        delivery.sent = before.end if before is not None else delivery.state.cursor
        if last is None:
            return 0
        if last.told is not None:
            return last.told.lines
        start = max(begin, before.bytes if before is not None else self.settled)
        frames = sum(1 for end in frame_ends(data) if start < begin + end <= self.bytes)
        if frames:
            delivery.sent += frames
            waiting.append(Mark(self.bytes, delivery.sent, 0, last.at))
        return 0

    def _settle(self, mark: Mark | None, filtered: int) -> None:
        """The peer has everything up to `mark`, and `filtered` positions on the way were not wanted."""
        if mark is None:
            return
        delivery = self._delivery
        state = delivery.state
        if mark.told is not None:
            state.told(mark.told)
        elif mark.lost:
            state.overrun(mark.lost, delivery.site.now_ms())
            delivery.reach_epoch()
            delivery.health.lost(mark.lost, "overrun")
        else:
            state.deliver(mark.end, filtered=filtered, size=mark.bytes - self.settled)
            state.delivered_at = mark.at
        self.settled = mark.bytes
        delivery.site.dirty.add(delivery)


def frame_ends(data: bytes) -> Iterator[int]:
    """Where each octet-counted frame ends."""
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        at = space + 1 + int(data[at:space])
        yield at
