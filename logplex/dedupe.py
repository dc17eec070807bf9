"""The input window: which requests to `/logs` were stored already, so that a shipper's retry is not stored again.

The rules (protocol section 3):

* A duplicate is: same principal, same id (`Logplex-Frame-Id`, else `X-Request-Id`), and same body — as inflated, and
  without leading frames of log-shuttle's own L12 and L13, which it renders anew on each try. Ids alone do not do:
  they are everybody's correlation ids, and one web request may log several times under one.
* The same id with another body is no duplicate; it is counted in `other_bodies`.
* A request that arrives while its first try is still open waits for the outcome of that.
* The window is time, on the clock that the caller passes (monotonic); what it holds is bounded in number. A table
  that is full forgets its oldest eighth, which shortens the window; `on_shortened` is told, once until it is whole.
* The id is stored in the transaction that stores the lines (`First.row`), and is loaded at start (`load`).

Memory: an id is two small integers in a dict, 60 bits of the hash of principal and id pointing to the 60 bits of
`hash_body`. Ids are grouped by age in dicts that are dropped whole, so nothing is ever deleted one by one.
"""

import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from hashlib import blake2b, sha256
from time import monotonic
from typing import NamedTuple
from zlib import crc32

GENERATIONS = 8  # the window's resolution: an id is held for the window and at most an eighth more
_MASK = (1 << 60) - 1  # two 30-bit digits: the largest Python integer of 32 bytes
_FIRST_BYTES = 1024  # of a body, that are hashed as they are
# `<172>1 TIME heroku APP log-shuttle - - Error L12: …`; APP is whatever -appname says.
_SHUTTLE_FRAME = re.compile(rb"([1-9][0-9]{0,7}) <172>1 [!-~]+ heroku [!-~]+ log-shuttle - - Error L1[23]: ")

Row = tuple[bytes, float]  # 16 bytes of hashes a request; wall-clock second at which they were stored


class Outcome(Enum):
    """What became of a first try, as the requests that waited for it are told."""

    KEPT = "kept"  # its lines are stored: the waiting request is a duplicate
    FORGOTTEN = "forgotten"  # it failed: the waiting request begins again


class Duplicate(NamedTuple):
    """The request was stored before; it is acknowledged and not stored again."""


class First:
    """The claim of a request to be the first; ended by exactly one of `Window.keep` and `Window.forget`.

    Whoever has given the request's lines to a group keeps it when that group has been committed, also when the
    client is gone by then; the claim of a request that never got so far is forgotten.
    """

    __slots__ = ("_waiting", "body", "id")

    def __init__(self, id_hash: int, body_hash: int) -> None:
        self.id = id_hash
        self.body = body_hash
        self._waiting: list[Callable[[Outcome], None]] = []

    def row(self, wall: float) -> Row:
        """What the group's transaction stores; `wall` is the time of day in seconds."""
        return (self.id << 64 | self.body).to_bytes(16, "big"), wall


class Pending(NamedTuple):
    """The first try is still open: call `when_done`, wait, then answer as a duplicate or begin again."""

    first: First

    def when_done(self, callback: Callable[[Outcome], None]) -> None:
        """Have `callback` called once, synchronously, from `keep` or `forget`; it must not raise."""
        self.first._waiting.append(callback)  # the two classes are one: Pending is First seen from a later request


class Window:
    """The ids of the last `seconds`, at most `ids` of them.

    `begin` costs a look at the whole body (`hash_body`) and a look-up in at most twice `GENERATIONS` dicts.
    """

    def __init__(
        self,
        seconds: float,
        ids: int,
        *,
        clock: Callable[[], float] = monotonic,
        on_shortened: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.seconds = seconds
        self.duplicates = 0
        self.other_bodies = 0
        self._clock = clock
        self._on_shortened = on_shortened
        self._short = False
        self._generation_seconds = seconds / GENERATIONS
        self._generation_ids = max(1, ids // GENERATIONS)
        self._generations: deque[_Generation] = deque()  # newest first
        self._open: dict[tuple[int, int], First] = {}

    def begin(self, principal: str, request_id: str, body: bytes) -> First | Duplicate | Pending:
        """Claim a request: `body` is what was sent, inflated."""
        self._expire()
        id_hash, body_hash = _hash_id(principal, request_id), hash_body(body)
        if (first := self._open.get((id_hash, body_hash))) is not None:
            return Pending(first)
        another = False
        for generation in self._generations:
            held = generation.bodies.get(id_hash)
            if held is None:
                continue
            if held == body_hash or (isinstance(held, set) and body_hash in held):
                self.duplicates += 1
                return Duplicate()
            another = True
        self.other_bodies += another
        first = self._open[id_hash, body_hash] = First(id_hash, body_hash)
        return first

    def keep(self, first: First) -> None:
        """End a claim: its lines are stored; who waited for it is a duplicate."""
        now = self._clock()
        newest = self._generations[0] if self._generations else None
        if (
            newest is None
            or now >= newest.since + self._generation_seconds
            or newest.count >= self._generation_ids  # so that a full table forgets an eighth, not everything
        ):
            newest = _Generation(now)
            self._generations.appendleft(newest)
            self._expire()
            self._make_room(now)
        newest.add(first.id, first.body)
        newest.until = now
        self.duplicates += len(first._waiting)
        self._end(first, Outcome.KEPT)

    def forget(self, first: First) -> None:
        """End a claim: nothing was stored; who waited for it begins again."""
        self._end(first, Outcome.FORGOTTEN)

    def load(self, rows: Iterable[Row], *, wall: float) -> None:
        """Take up what the spool stored before this start; call it once, before the first `begin`.

        `wall` is the time of day now. A row from the future (the clock was set back) counts as of now: held too
        long rather than stored twice.
        """
        now = self._clock()
        aged = sorted((max(0.0, wall - at), digest) for digest, at in rows)
        for age, digest in reversed([pair for pair in aged if pair[0] <= self.seconds]):  # oldest first
            at = now - age
            newest = self._generations[0] if self._generations else None
            if newest is None or at >= newest.since + self._generation_seconds or newest.count >= self._generation_ids:
                newest = _Generation(at)
                self._generations.appendleft(newest)
                self._make_room(now)
            numbers = struct.unpack(f">{len(digest) // 8}Q", digest)
            newest.add_all(numbers[::2], numbers[1::2])
            newest.until = at

    @property
    def ids(self) -> int:
        """How many requests the window holds."""
        return sum(generation.count for generation in self._generations)

    def _end(self, first: First, outcome: Outcome) -> None:
        del self._open[first.id, first.body]
        for callback in first._waiting:
            callback(outcome)

    def _expire(self) -> None:
        generations = self._generations
        if not generations:
            return
        limit = self._clock() - self.seconds
        while generations and generations[-1].until < limit:
            generations.pop()
            self._short = False  # time does the forgetting again

    def _make_room(self, now: float) -> None:
        # Called when the newest generation is empty (or has its first rows): room for all of it is made at once.
        while sum(generation.count for generation in self._generations) > self._generation_ids * (GENERATIONS - 1):
            gone = self._generations.pop()
            if not self._short:
                self._short = True
                self._on_shortened(now - gone.until)


class _Generation:
    """The ids kept in one stretch of time, dropped together."""

    __slots__ = ("bodies", "count", "since", "until")

    def __init__(self, since: float) -> None:
        self.since = since
        self.until = since  # when its newest id was kept
        self.count = 0
        self.bodies: dict[int, int | set[int]] = {}

    def add_all(self, ids: Sequence[int], bodies: Sequence[int]) -> None:
        """Many at once: a million in a fraction of a second."""
        new = dict(zip(ids, bodies, strict=True))
        if len(new) == len(ids) and self.bodies.keys().isdisjoint(new):
            self.bodies.update(new)
            self.count += len(new)
        else:
            for id_hash, body_hash in zip(ids, bodies, strict=True):
                self.add(id_hash, body_hash)

    def add(self, id_hash: int, body_hash: int) -> None:
        held = self.bodies.setdefault(id_hash, body_hash)
        if isinstance(held, set):
            held.add(body_hash)
        elif held != body_hash:
            self.bodies[id_hash] = {held, body_hash}  # one id on several bodies: a correlation id
        self.count += 1


def hash_body(body: bytes) -> int:
    """60 bits that tell what a retry sends again from what else came under its id.

    Of the SHA-256 of the first lines, whose times differ already, and of a checksum of the rest: where only that
    differs, one body in 2**32 is taken for another. The SHA-256 of all would cost twice as much.
    """
    start = 0
    while (match := _SHUTTLE_FRAME.match(body, start)) is not None:
        end = match.end(1) + 1 + int(match[1])
        if end > len(body) or end < match.end():
            break  # no frame, so nothing to pass over
        start = end
    whole = memoryview(body)[start:]
    digest = sha256(whole[:_FIRST_BYTES], usedforsecurity=False)
    if len(whole) > _FIRST_BYTES:
        digest.update(b"%d" % crc32(whole[_FIRST_BYTES:]))
    return int.from_bytes(digest.digest()[:8], "big") & _MASK


def _hash_id(principal: str, request_id: str) -> int:
    text = f"{principal}\n{request_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") & _MASK
