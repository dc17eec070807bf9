"""The tokens in memory: loaded on demand by the batch, bounded, and those known not to exist.

* `tokens` is what the hot path reads; it never holds a token that was removed.
* One load is under way at a time; what is asked for meanwhile goes into the next one (a call of the database's
  thread costs as much as some hundred look-ups).
* A full table gives up those that were loaded first, except where `in_use` says that their channel is read or
  written now: these count as just loaded. When all are in use, the oldest go all the same: the bound holds, and
  a given-up token only has to be loaded again.
* Tokens that do not exist are remembered for 5 s, in a table of a bounded size; it holds at least
  everything that one load asked for.
"""

from collections.abc import Callable, Collection
from itertools import islice
from weakref import WeakValueDictionary

import outcome
import trio

from .records import TOKEN_ID_LENGTH, Change, ChannelRecord, Token
from .store import ConfigStore

MAX_TOKENS = 200_000
"""About 110 MB where each has a channel of its own (measured); more than one body of 10 MiB can name."""
MAX_UNKNOWN = 200_000
UNKNOWN_SECONDS = 5.0
MAX_LOAD = 10_000
"""Tokens of one load: the database's thread has other callers."""
_EVICTED_AT_ONCE = 2_000


class TokenTable:
    """Tokens by id, and the one `ChannelRecord` of each channel that somebody holds. `clock` counts seconds."""

    def __init__(
        self,
        store: ConfigStore,
        clock: Callable[[], float],
        *,
        max_tokens: int = MAX_TOKENS,
        max_unknown: int = MAX_UNKNOWN,
    ) -> None:
        self.tokens: dict[str, Token] = {}
        self.in_use: Callable[[int], bool] = lambda channel_id: False
        self._store = store
        self._clock = clock
        self._max_tokens = max_tokens
        self._max_unknown = max_unknown
        self._unknown: dict[str, float] = {}
        self._channels: WeakValueDictionary[int, ChannelRecord] = WeakValueDictionary()
        self._waiting: dict[str, None] = {}
        self._next = _Load()
        self._loading = False

    def unknown(self, token_id: str) -> bool:
        """Whether `token_id` is no token: by its form, or because the store did not have it 5 s ago or less."""
        if len(token_id) != TOKEN_ID_LENGTH or not token_id.startswith("t."):
            return True
        until = self._unknown.get(token_id)
        if until is None:
            return False
        if self._clock() < until:
            return True
        del self._unknown[token_id]
        return False

    async def load(self, ids: Collection[str]) -> None:
        """Look `ids` up in the store; afterwards each is in `tokens` or unknown. Raises StoreError."""
        missing = [token_id for token_id in ids if token_id not in self.tokens and not self.unknown(token_id)]
        for start in range(0, len(missing), MAX_LOAD):
            self._waiting.update(dict.fromkeys(missing[start : start + MAX_LOAD]))
            load = self._next
            if not self._loading:
                self._start()
            await load.done.wait()
            if load.error is not None:
                raise load.error

    def adopt_channel(self, channel: ChannelRecord) -> ChannelRecord:
        """The record that everybody shares for this channel."""
        return self._channels.setdefault(channel.id, channel)

    def adopt(self, token: Token) -> Token:
        """The record of this token that memory holds, or `token` with the shared record of its channel."""
        known = self.tokens.get(token.id)
        if known is not None:
            return known
        token.channel = self.adopt_channel(token.channel)
        return token

    def apply(self, change: Change) -> None:
        """Follow one committed change."""
        record = change.record
        if change.kind == "token_added" and isinstance(record, Token):
            self._unknown.pop(record.id, None)
            self._add(self.adopt(record))
        elif change.kind == "token_removed" and isinstance(record, Token):
            self.tokens.pop(record.id, None)
        elif change.kind == "channel_flags" and isinstance(record, ChannelRecord):
            self.adopt_channel(record).flags = record.flags
        elif change.kind == "channel_removed" and isinstance(record, ChannelRecord):
            self._channels.pop(record.id, None)

    def _start(self) -> None:
        load, self._next = self._next, _Load()
        ids, self._waiting = list(self._waiting), {}
        self._loading = True

        def arrived(result: outcome.Outcome[list[Token]]) -> None:
            self._loading = False
            if isinstance(result, outcome.Error):
                load.error = result.error
            else:
                self._loaded(ids, result.unwrap())
            load.done.set()
            if self._waiting:
                self._start()

        self._store.load_tokens(ids)(arrived)

    def _loaded(self, ids: list[str], found: list[Token]) -> None:
        for token in found:
            self._add(self.adopt(token))
        until = self._clock() + UNKNOWN_SECONDS
        missing = [token_id for token_id in ids if token_id not in self.tokens]
        excess = len(self._unknown) + len(missing) - self._max_unknown
        for old in list(islice(self._unknown, max(0, excess))):
            del self._unknown[old]
        for token_id in missing:
            self._unknown[token_id] = until

    def _add(self, token: Token) -> None:
        if len(self.tokens) >= self._max_tokens:
            self._give_up()
        self.tokens[token.id] = token

    def _give_up(self) -> None:
        """Make room for `_EVICTED_AT_ONCE` tokens (or an eighth); looks at twice as many at most."""
        room = min(_EVICTED_AT_ONCE, max(1, self._max_tokens // 8))
        oldest = list(islice(self.tokens.values(), 2 * room))
        idle = [token for token in oldest if not self.in_use(token.channel_id)]
        for token in oldest:
            del self.tokens[token.id]
        given_up = idle[:room] if idle else oldest[:room]
        gone = {token.id for token in given_up}
        for token in oldest:
            if token.id not in gone:
                self.tokens[token.id] = token


class _Load:
    """One batch of look-ups that several callers may wait for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: BaseException | None = None
