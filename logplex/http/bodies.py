"""The memory of request bodies that are being received, or wait for what becomes of them.

* All together are bounded, and those of one principal by an eighth of that: one client's many slow uploads do not
  take the memory of the others.
* Whoever would go over a bound waits; whoever has held longest may always go on, so that waiting bodies never wait
  for each other. The bound can be passed by that one body.
* A wait ends after `WAIT_SECONDS` with `ClientGone`: the connection is closed without an answer, which shippers
  take for a reason to try again; a refusal they would take for delivery.
"""

from collections.abc import Hashable

import trio

from .refusal import ClientGone

SHARE = 8  # of all, for one principal
WAIT_SECONDS = 5.0  # as long as log-shuttle waits for an answer
UNCOUNTED_BYTES = 4096  # a body that is no more and came in one piece with its head; connections are bounded too


class Bodies:
    """The bound of one server."""

    def __init__(self, max_bytes: int) -> None:
        self._all = _Bound(max_bytes)
        self._principals: dict[Hashable, _Bound] = {}
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def held(self) -> int:
        """Bytes held by all requests."""
        return self._all.held

    def hold(self, principal: Hashable) -> "Holding":
        """A share of the memory, still empty; its owner ends it with `release`."""
        return Holding(self, principal)


class Holding:
    """What one request holds."""

    __slots__ = ("_bodies", "_own", "_principal", "bytes")

    def __init__(self, bodies: Bodies, principal: Hashable) -> None:
        self._bodies = bodies
        self._principal = principal
        self.bytes = 0

    async def take(self, count: int) -> None:
        """Hold `count` bytes more; waits only over a bound. Raises ClientGone when there is no room for too long."""
        bodies = self._bodies
        if self.bytes == 0:
            own = bodies._principals.get(self._principal)
            if own is None:
                own = bodies._principals[self._principal] = _Bound(bodies._all.max_bytes // SHARE)
            self._own = own
        self.bytes += count
        for bound in (bodies._all, self._own):
            bound.held += count
            bound.holders[self] = None
        if self._fits():
            return
        with trio.move_on_after(WAIT_SECONDS):
            while not self._fits():
                await bodies._waiting.park()
            return
        raise ClientGone

    def _fits(self) -> bool:
        return self._bodies._all.allows(self) and self._own.allows(self)

    def release(self) -> None:
        """Give everything back; may be called again."""
        if self.bytes == 0:
            return
        bodies = self._bodies
        for bound in (bodies._all, self._own):
            bound.held -= self.bytes
            del bound.holders[self]
        if not self._own.holders:
            del bodies._principals[self._principal]
        self.bytes = 0
        bodies._waiting.unpark_all()


class _Bound:
    __slots__ = ("held", "holders", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0
        self.holders: dict[Holding, None] = {}  # in the order in which they began

    def allows(self, holding: Holding) -> bool:
        return self.held <= self.max_bytes or next(iter(self.holders)) is holding
