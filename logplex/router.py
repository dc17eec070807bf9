"""The door to the inside: every input hands its bytes over here.

It knows nothing itself: streams.py reads connections, bodies.py requests, routing.py says where messages go, and
commit.py holds the group that all of them fill.
"""

from .batch import timestamp
from .bodies import Bodies
from .channel import Channel, Channels
from .commit import Committer
from .dedupe import Window
from .ledger import Ledger
from .registry.records import Principal, Token
from .routing import Routing, Tokens, Way, now_ms
from .small_reads import SmallReads
from .streams import Stream


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
        self._channels = channels
        self._committer = committer
        self._max_frame_bytes = max_frame_bytes
        self.routing = Routing(tokens=tokens, channels=channels, ledger=ledger)
        bodies = Bodies(self.routing, committer, window, max_frame_bytes=max_frame_bytes)
        self.take_body = bodies.take
        self.take_body_at_once = bodies.take_at_once

    def forget_routes(self) -> None:
        """A token, a channel or a permission has gone: learn everything again."""
        self.routing.forget()
        self._committer.current.known.clear()

    def flush(self) -> None:
        """Let the group go: nothing more is readable for the moment, or there is more than a turn allows to take."""
        self._committer.flush()

    @property
    def readers_behind(self) -> bool:
        """Whether drains or tails have to catch up with what the inputs take."""
        return self._channels.readers_behind

    def small_reads(self) -> SmallReads:
        """What scans the small reads of many connections together."""
        return SmallReads(self.routing, self._committer, max_frame_bytes=self._max_frame_bytes)

    def stream(self, *, bound: Token | None = None) -> Stream:
        """The state of one connection; `bound` takes everything to one token (a listener for RFC 3164 senders)."""
        way = self.routing.open_way
        if bound is not None:
            way = Way(
                self.routing, Principal("token", bound.id, token=bound, channel_ids=frozenset({bound.channel_id}))
            )
        return Stream(self.routing, self._committer, way, max_frame_bytes=self._max_frame_bytes)

    def own(self, channel: Channel, pri: int, text: bytes, *, tails_only: bool = False) -> None:
        """Write a line of ours into the app's stream (source `heroku`, process `logplex`)."""
        self._committer.current.append_own(channel, pri, timestamp(now_ms()), text, tails_only=tails_only)
        self.flush()
