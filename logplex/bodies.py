"""Bodies of `/logs`: accepted whole or not at all, once, and answered after their commit.

Rules (protocol section 3):

* A body that the quick path takes whole goes straight into the open group. The lines of any other wait in a group of
  their own until all of it was read and counted; a large one gives others their turn.
* A repeated id with the same body, from the same principal, is acknowledged and not stored again; while its first
  try is still open it shares the outcome. Its 204 promises no more than the first one did.
"""

import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from .commit import Committer
from .dedupe import Duplicate, First, Pending, Window
from .errors import CountMismatch
from .fastpath import recognisable, scan, undo
from .framing import Frame, body_frames
from .group import Group, Outcome
from .joining import Piece
from .registry.records import Principal
from .routing import Part, Routing, Way
from .streams import is_incomplete
from .uniform import first_head, is_worth_it, render

SLICE_BYTES = 128 * 1024  # of a body, between two checkpoints: below 2 ms
STRICT_SLICE = 256  # frames of a body on the strict path, between two checkpoints


class Bodies:
    """Takes bodies to the committer's open group; one for the whole server."""

    def __init__(self, routing: Routing, committer: Committer, window: Window, *, max_frame_bytes: int) -> None:
        self._routing = routing
        self._ledger = routing.ledger
        self._committer = committer
        self._window = window
        self._max_frame_bytes = max_frame_bytes

    async def take(
        self,
        body: bytes,
        principal: Principal,
        *,
        expected: int | None,
        lenient: bool = False,
        request_id: str | None = None,
        dropped: int = 0,
        lost: int = 0,
    ) -> Outcome:
        """Accept a whole `/logs` body and wait for its commit; raises MalformedBody, CountMismatch.

        A repeated `request_id` (with the same body, from the same principal) is not stored again; a repetition that
        comes while the first try is still open shares its outcome. `dropped` and `lost` are what the shipper says
        of itself. A cancel after the lines were accepted does not take them back. `HELD`: nobody can say when they
        will be committed.
        """
        taken = self._take(body, principal, expected, lenient, request_id, dropped, lost)
        hold_seconds = self._committer.hold_seconds
        if hold_seconds == math.inf:
            return await taken
        with trio.move_on_after(hold_seconds):
            return await taken
        return Outcome.HELD

    async def _take(
        self,
        body: bytes,
        principal: Principal,
        expected: int | None,
        lenient: bool,
        request_id: str | None,
        dropped: int,
        lost: int,
    ) -> Outcome:
        await self._committer.room()
        claim = await self._claim(principal, request_id, body) if request_id else None
        if isinstance(claim, Duplicate):
            return self._repeated()
        if dropped or lost or not self._take_quickly(body, principal, claim, expected):
            return await self._take_slowly(body, principal, claim, expected, lenient, dropped, lost)
        return await self._commit(claim).settled()

    def take_at_once(
        self,
        body: bytes,
        principal: Principal,
        done: Callable[[Outcome], None],
        *,
        expected: int | None,
        lenient: bool = False,
        request_id: str | None = None,
        dropped: int = 0,
        lost: int = 0,
    ) -> Callable[[], Awaitable[Outcome]] | None:
        """As `take`, where nothing has to be waited for but the commit: `done` is called with its outcome.

        It may be called before this returns, and must neither wait nor raise. Where more has to be waited for, returns
        what has to be called and awaited instead.
        """
        committer = self._committer
        if (
            committer.uncommitted_bytes <= committer.max_uncommitted_bytes
            and committer.hold_seconds == math.inf
            and not (dropped or lost)
        ):
            claim = self._window.begin(principal.id, request_id, body) if request_id else None
            if isinstance(claim, Duplicate):
                done(self._repeated())
                return None
            if not isinstance(claim, Pending):
                if self._take_quickly(body, principal, claim, expected):
                    self._commit(claim).when_settled(done)
                    return None
                return partial(self._take_slowly, body, principal, claim, expected, lenient, 0, 0)
        return partial(
            self.take,
            body,
            principal,
            expected=expected,
            lenient=lenient,
            request_id=request_id,
            dropped=dropped,
            lost=lost,
        )

    def _repeated(self) -> Outcome:
        self._ledger.duplicates += 1
        return Outcome.MEMORY if self._committer.in_memory else Outcome.DONE

    async def _take_slowly(
        self,
        body: bytes,
        principal: Principal,
        claim: First | None,
        expected: int | None,
        lenient: bool,
        dropped: int,
        lost: int,
    ) -> Outcome:
        """Take a body that the quick path does not take whole, or not before its token is loaded."""
        part = None
        try:
            if dropped or lost or not await self._take_once_loaded(body, principal, expected):
                part = await self._read_body(body, self._routing.way(principal))
                self._check_count(part, expected, lenient=lenient)
        except BaseException:
            if claim is not None:
                self._window.forget(claim)
            raise
        if part is not None:
            self._committer.current.absorb(part.group)
            self._routing.count(part)
            self._shipper_losses(principal, part, dropped, lost)
        return await self._commit(claim).settled()

    async def _take_once_loaded(self, body: bytes, principal: Principal, expected: int | None) -> bool:
        """Load the token of a body's first line, where that is missing: whether the quick path then takes the body."""
        head = first_head(body)
        if head is None or not await self._routing.load_token(head.app, self._routing.way(principal)):
            return False
        return self._scan_whole(body, self._routing.way(principal), expected)

    def _check_count(self, part: Part, expected: int | None, *, lenient: bool) -> None:
        """Compare with `Logplex-Msg-Count`, before splitting (protocol section 3)."""
        if expected is None or expected == part.frames:
            return
        if not lenient:
            self._ledger.drop("count_mismatch", part.frames)
            raise CountMismatch
        self._ledger.count_mismatches += 1

    def _take_quickly(self, body: bytes, principal: Principal, claim: First | None, expected: int | None) -> bool:
        """Take a body that the quick path takes whole, straight into the open group; nothing of any other."""
        try:
            return self._scan_whole(body, self._routing.way(principal), expected)
        except BaseException:
            if claim is not None:
                self._window.forget(claim)
            raise

    def _scan_whole(self, body: bytes, way: Way, expected: int | None) -> bool:
        if len(body) > SLICE_BYTES or not recognisable(body):
            return False
        group = self._committer.current
        taken = self._take_uniform(body, way, group, expected)
        if not taken:
            known = group.known_of(way)
            taken, rest = scan(body, known.entries, known)
            if rest or (expected is not None and taken != expected):
                undo(body.decode("latin-1"), taken, known.entries)
                return False
        group.bytes += len(body) + 40 * taken
        self._routing.took(taken)
        group.compact()
        return True

    def _take_uniform(self, body: bytes, way: Way, group: Group, expected: int | None) -> int:
        """Take a body whose lines all have one host and app; how many there are, 0 for any other body."""
        head = first_head(body) if is_worth_it(body) else None
        route = None if head is None else way.route(head.middle.decode())
        if head is None or route is None:
            return 0
        layout = group.open_joined(route.channel)
        if layout is None:
            return 0
        if layout is not route.layout:
            route.render(layout)
        rendered = render(body, head, route.rendered, layout.form)
        if rendered is None or (expected is not None and rendered[0] != expected):
            return 0
        group.append_joined(route.channel, Piece(*rendered, clean=True))
        return rendered[0]

    def _commit(self, claim: First | None) -> Group:
        """Have what was put into the open group committed, the request's claim with it: the group that will settle."""
        group = self._committer.current
        if claim is not None:
            group.ids.append(claim)
        if not group:  # an empty request, or nothing in it that could be routed
            settled = Group()
            settled.settle(Outcome.DONE)
            return settled
        group.waiting = True
        self._committer.flush()
        return group

    async def _claim(self, principal: Principal, request_id: str, body: bytes) -> First | Duplicate:
        while isinstance(claim := self._window.begin(principal.id, request_id, body), Pending):
            ended = trio.Event()
            claim.when_done(lambda outcome, ended=ended: ended.set())  # type: ignore[misc]
            await ended.wait()
        return claim

    async def _read_body(self, body: bytes, way: Way) -> Part:
        """All lines of a body in a group of their own; a large one gives others their turn."""
        part = Part(way, Group())
        rest = body
        if recognisable(body):
            known = part.known()
            at = 0
            text = ""
            while at < len(body):
                piece = body[at : at + SLICE_BYTES]
                at += len(piece)
                taken, text = scan(text.encode("latin-1") + piece if text else piece, known.entries, known)
                part.frames += taken
                part.fast += taken
                if at < len(body):
                    if text and not is_incomplete(text.encode("latin-1"), self._max_frame_bytes):
                        break
                    await trio.lowlevel.checkpoint()
            rest = text.encode("latin-1") + body[at:]
        frames: list[Frame] = []
        for frame in body_frames(rest, self._max_frame_bytes):
            frames.append(frame)
            if len(frames) == STRICT_SLICE:
                self._routing.take_frames(frames, part)
                frames.clear()
                await trio.lowlevel.checkpoint()
        self._routing.take_frames(frames, part)
        if part.unknown:
            await self._routing.load(part.unknown)
            self._routing.take_waiting(part)
        part.group.bytes = len(body) + 40 * part.frames
        return part

    def _shipper_losses(self, principal: Principal, part: Part, dropped: int, lost: int) -> None:
        """Count what a shipper says of its own losses, on the one channel that it can mean."""
        if not (dropped or lost):
            return
        channels = [channel for channel, _ in part.group.counts()]
        if principal.token is not None:
            channel = self._routing.channels.get(principal.token.channel_id)
            channels = [channel] if channel is not None else []
        if len(channels) == 1:
            channels[0].page.shipper_dropped += dropped
            channels[0].page.shipper_lost += lost
            self._committer.current.touched.add(channels[0])
