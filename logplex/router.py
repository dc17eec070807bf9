"""From received bytes to the group: which lines are there, whose they are, and what is refused.

Rules (protocol sections 2, 3 and 11):

* Each principal has its own way to a channel: a token takes everything that it sends to its channel; all others are
  routed by each message's own APP-NAME, and only to channels that the principal may write.
* The quick path (fastpath.py) takes what it recognises, the strict path the rest of that read; both give the same.
* A body is accepted whole or not at all: its lines wait in a group of their own until all of it was read and counted.
* Tokens are looked up in memory; unknown ones are loaded by the batch, and the lines wait for that in their order.
* Whatever is refused is counted once, by reason, in the ledger.
"""

import math
import time
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Protocol

import trio

from .batch import HOLE, Form, timestamp
from .channel import Channel, Channels
from .commit import Committer
from .dedupe import Duplicate, First, Pending, Window
from .errors import CountMismatch
from .fastpath import Entries, Entry, recognisable, scan, undo
from .framing import Frame, Malformed, StreamDecoder, body_frames
from .group import Group, Outcome
from .ledger import Ledger
from .message import HOST_BYTES, PROCESS_BYTES, Message, parse, parse_rfc3164, split
from .registry.records import Principal, Token

MAX_LEARNED = 50_000  # middles; a sender that makes up processes only makes the table be learned again
SLICE_BYTES = 128 * 1024  # of a body, between two checkpoints: below 2 ms
MAX_WAYS = 10_000  # principals that have taught us middles
STRICT_SLICE = 256  # frames of a body on the strict path, between two checkpoints


_HOLE = HOLE.decode()


class Tokens(Protocol):
    """What the router needs of the registry."""

    def token(self, token_id: str) -> Token | None:
        """The token if it is loaded."""

    async def load_tokens(self, ids: Collection[str]) -> None:
        """Load what can be loaded of these."""

    def is_drain_token(self, token: str) -> bool:
        """Whether a drain of this installation has this token: then a message is a loop."""


class Route:
    """Where the messages of one middle ` HOST APP PROC` go; learned once, used until something changes."""

    __slots__ = ("channel", "length", "process", "source")

    def __init__(self, channel: Channel, source: str, process: str, length: int) -> None:
        self.channel = channel
        self.source = source
        self.process = process
        self.length = length

    def entry(self, group: Group) -> Entry:
        """The entry of this middle in an open group."""
        form, extend = group.open(self.channel)
        if form is Form.HTTP:
            rendered = f" host {self.source} {self.process} - "
        else:
            rendered = f" {_HOLE} {self.source} {self.process} - - "
        return Entry(rendered, len(rendered) - 5 - self.length, extend)


class Way:
    """How one principal's messages find their channel, with the middles that it has taught us."""

    __slots__ = ("learned", "principal")

    def __init__(self, principal: Principal | None) -> None:
        self.principal = principal  # None: a listener where the token is all that is asked for
        self.learned: dict[str, Route] = {}

    def may_write(self, channel_id: int) -> bool:
        """Whether messages may go to this channel."""
        return self.principal is None or self.principal.may_write(channel_id)


class Router:
    """Takes input to the committer's open group; one for the whole server."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        channels: Channels,
        committer: Committer,
        ledger: Ledger,
        window: Window,
        max_frame_bytes: int,
    ) -> None:
        self.ledger = ledger
        self._window = window
        self._tokens = tokens
        self._channels = channels
        self._committer = committer
        self._max_frame_bytes = max_frame_bytes
        self._open_way = Way(None)
        self._ways: dict[str, Way] = {}

    def forget_routes(self) -> None:
        """A token, a channel or a permission has gone: learn everything again."""
        self._open_way.learned.clear()
        self._ways.clear()
        self._committer.current.entries.clear()

    def flush(self) -> None:
        """Nothing more is readable for the moment: let the group go."""
        self._committer.flush()

    async def room(self) -> None:
        """Wait while too much is uncommitted."""
        await self._committer.room()

    def stream(self, *, bound: Token | None = None) -> "Stream":
        """The state of one connection; `bound` takes everything to one token (a listener for RFC 3164 senders)."""
        if bound is None:
            return Stream(self, self._open_way)
        principal = Principal("token", bound.id, token=bound, channel_ids=frozenset({bound.channel_id}))
        return Stream(self, Way(principal))

    def own(self, channel: Channel, pri: int, text: bytes, *, tails_only: bool = False) -> None:
        """Write a line of ours into the app's stream (source `heroku`, process `logplex`)."""
        self._committer.current.append_own(channel, pri, timestamp(now_ms()), text, tails_only=tails_only)
        self.flush()

    async def datagram(self, data: bytes) -> None:
        """Route one UDP datagram: one message, without framing (protocol section 11)."""
        part = Part(self._open_way, self._committer.current)
        self._take_frames([data], part)
        if part.unknown:
            await self._load(part.unknown)
            part.group = self._committer.current
            self._take_waiting(part)
        self._count(part)
        await self._committer.room()

    async def take_body(
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
        taken = self._take_body(body, principal, expected, lenient, request_id, dropped, lost)
        hold_seconds = self._committer.hold_seconds
        if hold_seconds == math.inf:
            return await taken
        with trio.move_on_after(hold_seconds):
            return await taken
        return Outcome.HELD

    async def _take_body(
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
            self.ledger.duplicates += 1
            return Outcome.DONE
        way = self._way(principal)
        if not (dropped or lost) and self._take_at_once(body, way, expected):
            return await self._committed(claim)
        try:
            part = await self._read_body(body, way)
            if expected is not None and expected != part.frames:
                if not lenient:
                    self.ledger.drop("count_mismatch", part.frames)
                    raise CountMismatch
                self.ledger.count_mismatches += 1
        except BaseException:
            if claim is not None:
                self._window.forget(claim)
            raise
        self._committer.current.absorb(part.group)
        self._count(part)
        self._shipper_losses(principal, part, dropped, lost)
        return await self._committed(claim)

    def _take_at_once(self, body: bytes, way: Way, expected: int | None) -> bool:
        """Take a body that the quick path takes whole, straight into the open group; nothing of any other."""
        if len(body) > SLICE_BYTES or not recognisable(body):
            return False
        group = self._committer.current
        part = Part(way, group)
        entries = part.entries()
        taken, rest = scan(body, entries, _Learn(self, part))
        if rest or (expected is not None and taken != expected):
            undo(body.decode("latin-1"), taken, entries)
            return False
        part.frames = part.fast = taken
        group.bytes += len(body) + 40 * taken
        self._count(part)
        group.compact()
        return True

    async def _committed(self, claim: First | None) -> Outcome:
        """Wait until what was put into the open group is committed, the request's claim with it."""
        group = self._committer.current
        if claim is not None:
            group.ids.append(claim)
        if not group:  # an empty request, or nothing in it that could be routed
            return Outcome.DONE
        group.waiting = True
        self._committer.flush()
        return await group.settled()

    async def _claim(self, principal: Principal, request_id: str, body: bytes) -> First | Duplicate:
        while isinstance(claim := self._window.begin(principal.id, request_id, body), Pending):
            ended = trio.Event()
            claim.when_done(lambda outcome, ended=ended: ended.set())  # type: ignore[misc]
            await ended.wait()
        return claim

    async def _read_body(self, body: bytes, way: "Way") -> "Part":
        """All lines of a body in a group of their own; a large one gives others their turn."""
        part = Part(way, Group())
        rest = body
        if recognisable(body):
            entries = part.entries()
            learn = _Learn(self, part)
            at = 0
            text = ""
            while at < len(body):
                piece = body[at : at + SLICE_BYTES]
                at += len(piece)
                taken, text = scan(text.encode("latin-1") + piece if text else piece, entries, learn)
                part.frames += taken
                part.fast += taken
                if at < len(body):
                    if text and not _is_incomplete(text.encode("latin-1"), self._max_frame_bytes):
                        break
                    await trio.lowlevel.checkpoint()
            rest = text.encode("latin-1") + body[at:]
        frames: list[Frame] = []
        for frame in body_frames(rest, self._max_frame_bytes):
            frames.append(frame)
            if len(frames) == STRICT_SLICE:
                self._take_frames(frames, part)
                frames.clear()
                await trio.lowlevel.checkpoint()
        self._take_frames(frames, part)
        if part.unknown:
            await self._load(part.unknown)
            self._take_waiting(part)
        part.group.bytes = len(body) + 40 * part.frames
        return part

    def _take_frames(self, frames: Iterable[Frame], part: "Part") -> None:
        """Route frames by the strict rules; from the first whose token must be loaded on, they wait in `part`."""
        token = part.token
        for frame in frames:
            part.frames += 1
            message = parse(frame)
            if message is None and token is not None:
                message = parse_rfc3164(frame, now=datetime.now(UTC)) or Message(13, b"", b"-", b"-", b"-", frame)
            if message is None:
                part.malformed += 1
            elif part.unknown or not self._take(message, part):
                part.waiting.append(message)
                if token is None:
                    part.unknown.add(message.app.decode("latin-1"))
                else:
                    part.unknown.add(token.id)

    def _take_waiting(self, part: "Part") -> None:
        """Route what waited for tokens; what is still not known is dropped."""
        part.unknown.clear()
        for message in part.waiting:
            if not self._take(message, part):
                part.unknown_token += 1
        part.waiting.clear()

    def _take(self, message: Message, part: "Part") -> bool:
        """Put a message into the part's group, or count why not; False when its token is not loaded."""
        token = part.token or self._tokens.token(message.app.decode("latin-1"))
        if token is None:
            return False
        channel = self._channels.get(token.channel_id)
        if channel is None:
            return False
        if not part.way.may_write(token.channel_id):
            part.refused += 1
            return True
        if message.host.startswith(b"d.") and self._tokens.is_drain_token(message.host.decode("latin-1")):
            channel.page.drop("loop")
            part.group.touched.add(channel)
            part.received += 1
            return True
        texts = split(message.text)
        time_text = message.time or timestamp(now_ms())
        for text in texts:
            part.group.append_raw(channel, message.pri, time_text, token.name.encode(), message.process, text)
        part.received += len(texts)
        part.split += len(texts) - 1
        return True

    def learn(self, middle: str, part: "Part") -> Entry | None:
        """The entry of a middle ` HOST APP PROC`, when its channel is known and nothing speaks against it."""
        learned = part.way.learned
        route = learned.get(middle)
        if route is None:
            route = self._route(middle, part)
            if route is None:
                return None
            if len(learned) >= MAX_LEARNED:
                learned.clear()
            learned[middle] = route
        entry = route.entry(part.group)
        part.entries()[middle] = entry
        return entry

    def _route(self, middle: str, part: "Part") -> Route | None:
        fields = middle.split(" ")
        if len(fields) != 4 or not middle.isascii() or not middle.isprintable():
            return None
        _, host, app, process = fields
        if not (host and app and process) or len(host) > HOST_BYTES or len(process) > PROCESS_BYTES:
            return None
        token = part.token or self._tokens.token(app)
        if token is None or (host.startswith("d.") and self._tokens.is_drain_token(host)):
            return None
        channel = self._channels.get(token.channel_id)
        if channel is None or not part.way.may_write(token.channel_id):
            return None
        return Route(channel, token.name, process, len(middle))

    async def _load(self, unknown: Collection[str]) -> None:
        """Load tokens, and make their channels active."""
        await self._tokens.load_tokens(unknown)
        records: dict[int, tuple[str, frozenset[str]]] = {}
        for token_id in unknown:
            token = self._tokens.token(token_id)
            if token is not None:
                records[token.channel_id] = (token.channel.name, token.channel.flags)
        await self._channels.load(records)

    def _way(self, principal: Principal) -> Way:
        key = principal.id
        way = self._ways.get(key)
        if way is None or (way.principal is not principal and way.principal != principal):
            if len(self._ways) >= MAX_WAYS:
                self._ways.clear()
            way = self._ways[key] = Way(principal)
        return way

    def _count(self, part: "Part") -> None:
        ledger = self.ledger
        ledger.frames += part.frames
        ledger.received += part.received + part.fast
        ledger.split += part.split
        ledger.malformed += part.malformed
        ledger.unknown_token += part.unknown_token
        if part.refused:
            ledger.refused["permission"] += part.refused
        part.reset()

    def _shipper_losses(self, principal: Principal, part: "Part", dropped: int, lost: int) -> None:
        """Count what a shipper says of its own losses, on the one channel that it can mean."""
        if not (dropped or lost):
            return
        channels = [channel for channel, _ in part.group.counts()]
        if principal.token is not None:
            channel = self._channels.get(principal.token.channel_id)
            channels = [channel] if channel is not None else []
        if len(channels) == 1:
            channels[0].page.shipper_dropped += dropped
            channels[0].page.shipper_lost += lost
            self._committer.current.touched.add(channels[0])


class Part:
    """What is being read for one principal: the group that it fills, what waits for tokens, and the counts."""

    __slots__ = (
        "fast",
        "frames",
        "group",
        "malformed",
        "received",
        "refused",
        "split",
        "token",
        "unknown",
        "unknown_token",
        "waiting",
        "way",
    )

    def __init__(self, way: Way, group: Group) -> None:
        self.way = way
        self.token = way.principal.token if way.principal is not None else None
        self.group = group
        self.waiting: list[Message] = []
        self.unknown: set[str] = set()
        self.reset()

    def entries(self) -> Entries:
        """The entries of this principal in the open group."""
        return self.group.entries.setdefault(self.way, {})

    def reset(self) -> None:
        """Begin to count again."""
        self.frames = self.fast = self.received = self.split = 0
        self.malformed = self.unknown_token = self.refused = 0


class Stream:
    """One connection: feed it what was read, `end` it when the peer has sent all.

    Not for two tasks at once. `broken` says why the connection should be closed, when it should.
    """

    __slots__ = ("_decoder", "_part", "_rest", "_router", "_strict")

    def __init__(self, router: Router, way: Way) -> None:
        self._router = router
        self._part = Part(way, router._committer.current)
        self._decoder: StreamDecoder | None = None  # made when it is needed first: idle connections stay small
        self._rest = b""  # an incomplete counted frame
        self._strict = False  # the decoder is in the midst of something

    @property
    def broken(self) -> str | None:
        """Why nothing more can be understood here."""
        return self._decoder.broken if self._decoder is not None else None

    async def feed(self, data: bytes) -> None:
        """Take what was read; waits only for tokens to be loaded, or for room."""
        router = self._router
        part = self._part
        part.group = group = router._committer.current
        if not self._strict:
            if self._rest:
                data = self._rest + data
            if recognisable(data):
                taken, text = scan(data, part.entries(), _Learn(router, part))
                part.fast += taken
                part.frames += taken
                group.bytes += len(data) - len(text) + 40 * taken
                group.compact()
                if not text:
                    self._rest = b""
                    router._count(part)
                    return await self._wait_for_room()
                data = text.encode("latin-1")
            if _is_incomplete(data, router._max_frame_bytes):
                self._rest = data
                router._count(part)
                return await self._wait_for_room()
            self._rest = b""
        if self._decoder is None:
            self._decoder = StreamDecoder(router._max_frame_bytes)
        await self._take_strictly(self._decoder.feed(data))
        rest = self._decoder.take_rest()
        self._strict = rest is None
        self._rest = rest or b""
        await self._wait_for_room()

    async def end(self) -> None:
        """The peer has sent all: an unterminated line is a message, a counted frame cut off is malformed."""
        decoder = self._decoder or StreamDecoder(self._router._max_frame_bytes)
        found = decoder.feed(self._rest) + decoder.end()
        self._rest = b""
        await self._take_strictly(found)
        self._router.flush()

    async def _take_strictly(self, found: list[Frame | Malformed]) -> None:
        router = self._router
        part = self._part
        part.group = router._committer.current
        frames = [frame for frame in found if isinstance(frame, bytes)]
        part.malformed += len(found) - len(frames)
        part.frames += len(found) - len(frames)
        router._take_frames(frames, part)
        if part.unknown:
            router._count(part)
            await router._load(part.unknown)
            part.group = router._committer.current  # another group may have begun while we waited
            router._take_waiting(part)
        router._count(part)

    async def _wait_for_room(self) -> None:
        committer = self._router._committer
        if committer.uncommitted_bytes > committer.max_uncommitted_bytes:
            await committer.room()


class _Learn:
    """`Router.learn` for one part; called once a middle and group."""

    __slots__ = ("_part", "_router")

    def __init__(self, router: Router, part: Part) -> None:
        self._router = router
        self._part = part

    def __call__(self, middle: str) -> Entry | None:
        return self._router.learn(middle, self._part)


def _is_incomplete(data: bytes, max_frame_bytes: int) -> bool:
    """Whether `data` begins with a sound count and does not hold all of its frame."""
    digits = len(str(max_frame_bytes))
    space = data.find(b" ", 0, digits + 1)
    count = data[:space] if space >= 0 else data[: digits + 1]
    if not count.isdigit() or count[0] == 0x30 or len(count) > digits or int(count) > max_frame_bytes:
        return False
    return space < 0 or len(data) <= space + int(count)


def now_ms() -> int:
    """The time of day in unix ms: when a message without a time was received."""
    return time.time_ns() // 1_000_000
