"""The path of a line without its ends: router, committer and channels over a registry that is a dict."""

from collections.abc import Collection

from logplex.batch import Batch, Line
from logplex.channel import Channel, Channels, History, NoHistory
from logplex.commit import Committer
from logplex.dedupe import Window
from logplex.ledger import Ledger
from logplex.registry.records import ChannelRecord, Principal, Token
from logplex.router import Router
from logplex.streams import Stream
from logplex.writes import Spool

EVERYONE = Principal("credential", "shipper", may_write_any=True)


async def feed(stream: Stream, data: bytes) -> None:
    """Have a connection take what was read, and await what has to be."""
    further = stream.take(data)
    if further is not None:
        await further()


class FakeTokens:
    """Tokens that are known once they have been loaded."""

    def __init__(self) -> None:
        self.stored: dict[str, Token] = {}
        self.loaded: dict[str, Token] = {}
        self.drain_tokens: set[str] = set()

    def token(self, token_id: str) -> Token | None:
        return self.loaded.get(token_id)

    async def load_tokens(self, ids: Collection[str]) -> None:
        self.loaded.update({number: self.stored[number] for number in ids if number in self.stored})

    def is_drain_token(self, token: str) -> bool:
        return token in self.drain_tokens


class Follower:
    """Somebody who follows a channel, so that its ring holds what is stored, too: hears of positions."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def notify(self, batch: Batch) -> None:
        self.heard += range(batch.first, batch.end)


class Core:
    """Everything between an input and a reader, with `durability none` unless a spool is given."""

    def __init__(self, *, spool: Spool | None = None, history: History | None = None) -> None:
        self.tokens = FakeTokens()
        self.channels = Channels(history or NoHistory(), ring_lines=1_000_000, ring_bytes=1 << 30, rings_bytes=1 << 30)
        self.channels.on_new = lambda channel: channel.follow(Follower())
        self.committer = Committer(spool, group_seconds=0.02, timeout_seconds=3, max_uncommitted_bytes=64 << 20)
        self.ledger = Ledger()
        self.window = Window(300, 1000)
        self.committer.writes.keep = self.window.keep
        self.router = Router(
            tokens=self.tokens,
            channels=self.channels,
            committer=self.committer,
            ledger=self.ledger,
            window=self.window,
            max_frame_bytes=64 * 1024,
        )

    def add_token(self, channel_id: int, name: str = "app") -> Token:
        """A token that is stored and not loaded yet; its id follows from channel and name."""
        number = f"t.{channel_id:08d}-0000-4000-8000-{abs(hash(name)) % 10**12:012d}"
        token = Token(number, name, ChannelRecord(channel_id, f"app-{channel_id}"))
        self.tokens.stored[number] = token
        return token

    def principal(self, token: Token) -> Principal:
        return Principal("token", token.id, token=token, channel_ids=frozenset({token.channel_id}))

    def channel(self, channel_id: int) -> Channel:
        channel = self.channels.get(channel_id)
        assert channel is not None
        return channel

    def lines(self, channel_id: int) -> list[Line]:
        """Everything that a reader of the channel sees."""
        channel = self.channels.get(channel_id)
        if channel is None:
            return []
        batches = channel.recent(channel.ring_oldest, 1 << 40) or []
        assert [batch.first for batch in batches[1:]] == [batch.end for batch in batches[:-1]]
        lines = [line for batch in batches for line in batch.lines()]
        assert len(lines) == sum(batch.count for batch in batches)
        return lines

    def balanced(self) -> bool:
        """Whether node and channels balance (logplex/ledger.py)."""
        ledger = self.ledger
        node = ledger.received - ledger.split + ledger.malformed + ledger.unknown_token + sum(ledger.refused.values())
        pages = [channel.page for channel in self.channels]
        return ledger.frames == node and all(
            page.received + page.own == page.stored + page.memory + page.writing + sum(page.dropped.values())
            for page in pages
        )
