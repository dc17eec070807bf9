"""Which message goes where: tokens to channels, by the strict rules, and what the quick path may learn of them.

Rules (protocol sections 2, 3 and 11):

* Each principal has its own way to a channel: a token takes everything that it sends to its channel; all others are
  routed by each message's own APP-NAME, and only to channels that the principal may write.
* Tokens are looked up in memory; unknown ones are loaded by the batch, and the lines wait for that in their order.
* A middle is learned only where the strict rules would do the same with every message that has it.
* Whatever is refused is counted once, by reason, in the ledger.
"""

import sys
import time
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Protocol

from .batch import Form, Layout, timestamp
from .channel import Channel, Channels
from .entries import Known, Lists
from .fastpath import Entry
from .framing import Frame
from .group import Group
from .ledger import Ledger
from .message import HOST_BYTES, PROCESS_BYTES, Message, parse, parse_rfc3164, split
from .registry.records import Principal, Token

MAX_LEARNED = 50_000  # middles; a sender that makes up processes only makes the table be learned again
MAX_WAYS = 10_000  # principals that have taught us middles


class Tokens(Protocol):
    """What the router needs of the registry."""

    def token(self, token_id: str) -> Token | None:
        """The token if it is loaded."""

    async def load_tokens(self, ids: Collection[str]) -> None:
        """Load what can be loaded of these."""

    def is_drain_token(self, token: str) -> bool:
        """Whether a drain of this installation has this token: then a message is a loop."""


class Route:
    """Where the messages of one middle `HOST APP PROC` go; learned once, used until something changes."""

    __slots__ = ("_length", "_tail", "channel", "extra", "layout", "rendered")

    def __init__(self, channel: Channel, source: str, process: str, length: int) -> None:
        self.channel = channel
        self._length = length
        self._tail = f" {source} {process} - "
        self.layout = Layout(Form.RAW)  # none that lines are rendered in, so that the first entry renders
        self.rendered = ""  # what stands between time and message
        self.extra = 0  # how much longer that is

    def render(self, layout: Layout) -> None:
        """Have `rendered` and `extra` as this layout wants them.

        Apps name their tokens and processes alike: one text for all of them stays in the processor's cache.
        """
        self.layout = layout
        is_http = layout.form is Form.HTTP
        self.rendered = sys.intern(f" host{self._tail}" if is_http else f" {layout.host}{self._tail}- ")
        self.extra = len(self.rendered) - 6 - self._length


class Way:
    """How one principal's messages find their channel, with the middles that it has taught us."""

    __slots__ = ("_learned", "_routing", "principal", "token")

    def __init__(self, routing: "Routing", principal: Principal | None) -> None:
        self._routing = routing
        self.principal = principal  # None: a listener where the token is all that is asked for
        self.token = principal.token if principal is not None else None  # to whose channel everything goes
        self._learned: dict[str, Route] = {}

    def forget(self) -> None:
        """Learn everything again."""
        self._learned.clear()

    def route(self, middle: str) -> Route | None:
        """The route of a middle `HOST APP PROC`, if the strict rules would do the same with all that has it."""
        route = self._learned.get(middle)
        if route is None and (route := self._routing.find(middle, self)) is not None:
            if len(self._learned) >= MAX_LEARNED:
                self._learned.clear()
            self._learned[middle] = route
        return route

    def entry(self, middle: str, lists: Lists) -> Entry | None:
        """The entry of a middle, whose lines go to these lists; None where there is no route."""
        route = self.route(middle)
        if route is None:
            return None
        layout, lines = lists.open(route.channel)
        if layout is not route.layout:
            route.render(layout)
        return route.rendered, route.extra, lines

    def may_write(self, channel_id: int) -> bool:
        """Whether messages may go to this channel."""
        return self.principal is None or self.principal.may_write(channel_id)


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
        "unknown",
        "unknown_token",
        "waiting",
        "way",
    )

    def __init__(self, way: Way, group: Group) -> None:
        self.way = way
        self.group = group
        self.waiting: list[Message] = []
        self.unknown: set[str] = set()
        self.reset()

    def known(self) -> Known:
        """What is known of this principal for the open group."""
        return self.group.known_of(self.way)

    def reset(self) -> None:
        """Begin to count again."""
        self.frames = self.fast = self.received = self.split = 0
        self.malformed = self.unknown_token = self.refused = 0


class Routing:
    """The ways of all principals; one for the whole server."""

    def __init__(self, *, tokens: Tokens, channels: Channels, ledger: Ledger) -> None:
        self.ledger = ledger
        self.channels = channels
        self.open_way = Way(self, None)
        self._tokens = tokens
        self._ways: dict[str, Way] = {}

    def forget(self) -> None:
        """A token, a channel or a permission has gone: learn everything again."""
        self.open_way.forget()
        self._ways.clear()

    def way(self, principal: Principal) -> Way:
        """The way of a principal, with what it has taught us."""
        key = principal.id
        way = self._ways.get(key)
        if way is None or (way.principal is not principal and way.principal != principal):
            if len(self._ways) >= MAX_WAYS:
                self._ways.clear()
            way = self._ways[key] = Way(self, principal)
        return way

    def take_frames(self, frames: Iterable[Frame], part: Part) -> None:
        """Route frames by the strict rules; from the first whose token must be loaded on, they wait in `part`."""
        token = part.way.token
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

    def take_waiting(self, part: Part) -> None:
        """Route what waited for tokens; what is still not known is dropped."""
        part.unknown.clear()
        for message in part.waiting:
            if not self._take(message, part):
                part.unknown_token += 1
        part.waiting.clear()

    def _take(self, message: Message, part: Part) -> bool:
        """Put a message into the part's group, or count why not; False when its token is not loaded."""
        token = part.way.token or self._tokens.token(message.app.decode("latin-1"))
        if token is None:
            return False
        channel = self.channels.get(token.channel_id)
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

    def find(self, middle: str, way: Way) -> Route | None:
        """Where a middle goes; None when it is not to be learned, or not yet."""
        fields = middle.split(" ")
        if len(fields) != 3 or not middle.isascii() or not middle.isprintable():
            return None
        host, app, process = fields
        if not (host and app and process) or len(host) > HOST_BYTES or len(process) > PROCESS_BYTES:
            return None
        token = way.token or self._tokens.token(app)
        if token is None or (host.startswith("d.") and self._tokens.is_drain_token(host)):
            return None
        channel = self.channels.get(token.channel_id)
        if channel is None or not way.may_write(token.channel_id):
            return None
        return Route(channel, token.name, process, len(middle))

    async def load_token(self, app: bytes, way: Way) -> bool:
        """Load the token by which a message is routed, where it is not loaded: whether it is now."""
        token_id = app.decode("latin-1") if way.token is None else way.token.id
        if self._is_loaded(way.token or self._tokens.token(token_id)):
            return False
        await self.load({token_id})
        return self._is_loaded(self._tokens.token(token_id))

    def _is_loaded(self, token: Token | None) -> bool:
        return token is not None and self.channels.get(token.channel_id) is not None

    async def load(self, unknown: Collection[str]) -> None:
        """Load tokens, and make their channels active."""
        await self._tokens.load_tokens(unknown)
        records: dict[int, tuple[str, frozenset[str]]] = {}
        for token_id in unknown:
            token = self._tokens.token(token_id)
            if token is not None:
                records[token.channel_id] = (token.channel.name, token.channel.flags)
        await self.channels.load(records)

    def took(self, lines: int) -> None:
        """Count lines that the quick path took, each from a frame of its own."""
        self.ledger.frames += lines
        self.ledger.received += lines

    def count(self, part: Part) -> None:
        """Add a part's counts to the node's, but for what waits, and begin to count again."""
        ledger = self.ledger
        waiting = len(part.waiting)
        ledger.frames += part.frames - waiting
        ledger.received += part.received + part.fast
        ledger.split += part.split
        ledger.malformed += part.malformed
        ledger.unknown_token += part.unknown_token
        if part.refused:
            ledger.refused["permission"] += part.refused
        part.reset()
        part.frames = waiting


def now_ms() -> int:
    """The time of day in unix ms: when a message without a time was received."""
    return time.time_ns() // 1_000_000
