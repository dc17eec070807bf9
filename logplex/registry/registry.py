"""The registry: what memory holds of the config store, and every change of it.

* A change is on disk before its call returns, and memory and all subscribers have it by then. They are told in
  the order of the commits, from the store's outcome itself: a caller that is cancelled changes nothing.
* Tokens are loaded on demand (tokens.py); drains that have a URL are all in memory.
* Subscribers are called in trio's thread, must not wait, and should not raise: what they raise is raised
  in the call that made the change, after the other subscribers have been told.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import outcome
import trio

from ..config import Settings
from ..errors import Unauthorized, Unprocessable
from . import credentials
from .authentication import Authenticator, token_principal
from .records import (
    Change,
    ChannelInfo,
    ChannelRecord,
    CredentialRecord,
    DrainRecord,
    Principal,
    ServiceState,
    Token,
)
from .sessions import SessionRecords
from .store import Changes, ConfigStore, Write, ask, ask_then
from .tokens import TokenTable

T = TypeVar("T")


class Registry:
    """What config.db says, for everybody; `await load()` before the first use, and keep `run()` running."""

    def __init__(
        self,
        store: ConfigStore,
        settings: Settings,
        *,
        clock: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._wall_clock = wall_clock
        self._table = TokenTable(store, clock)
        self._authenticator = Authenticator(store, clock)
        self._subscribers: list[Callable[[Change], None]] = []
        self._sessions = sessions = SessionRecords(store, settings, wall_clock)
        self.tokens = self._table.tokens
        self.drains: dict[int, DrainRecord] = {}
        self.drain_tokens: set[str] = set()
        self.state = ServiceState()
        self.create_session = sessions.create
        self.session = sessions.find
        self.touch = sessions.touch
        self.stream_started = sessions.stream_started
        self.stream_ended = sessions.stream_ended

    async def load(self) -> None:
        """Read what is always in memory: drains, their tokens and the service's state."""
        drains, tokens = await ask(self._store.load_drains())
        self.drains.update({drain.id: drain for drain in drains})
        self.drain_tokens.update(tokens)
        self.state = await ask(self._store.load_state())

    async def run(self) -> None:
        """Copy the config every hour, and keep the sessions alive that are being read; never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store.keep_copies)
            nursery.start_soon(self._sessions.keep)

    def subscribe(self, f: Callable[[Change], None]) -> None:
        """Have `f` called for every committed change, before the call that made it returns."""
        self._subscribers.append(f)

    def use_channels(self, in_use: Callable[[int], bool]) -> None:
        """Say which channels are read or written now (by internal id): their tokens are not given up."""
        self._table.in_use = in_use

    # The hot path: memory only.

    def token(self, token_id: str) -> Token | None:
        return self.tokens.get(token_id)

    def unknown(self, token_id: str) -> bool:
        """Whether `token_id` is known to be no token; if neither known nor unknown, `load_tokens`."""
        return self._table.unknown(token_id)

    async def load_tokens(self, ids: Collection[str]) -> None:
        """Look `ids` up in the store, with others that are asked for meanwhile. Raises StoreError."""
        await self._table.load(ids)

    def is_drain_token(self, token: str) -> bool:
        """Whether a drain of this installation, reserved ones included, has this token."""
        return token in self.drain_tokens

    def authenticate(self, authorization: bytes, address: str) -> Principal | None:
        """Who sends this header, as far as memory knows; None: ask `authenticate_slow`."""
        return self._authenticator.quick(authorization, self.tokens)

    async def authenticate_slow(self, authorization: bytes | None, address: str) -> Principal:
        """Who sends this header; raises Unauthorized and TooManyFailures."""
        login = credentials.parse_authorization(authorization) if authorization else None
        if login is None:
            raise Unauthorized("Not Authorized")
        if login.kind == "credential":
            return await self._authenticator.verified(login, address)
        await self._table.load([login.id])
        token = self.tokens.get(login.id)
        if token is None:
            raise Unauthorized("Not Authorized")
        return token_principal(token)

    # Channels and tokens

    async def channel(self, name: str) -> ChannelRecord | None:
        return await ask_then(self._store.find_channel(name), self._shared)

    async def channel_by_id(self, channel_id: int) -> ChannelRecord | None:
        return await ask_then(self._store.find_channel_id(channel_id), self._shared)

    async def channels_by_id(self, ids: Collection[int]) -> list[ChannelRecord]:
        """Those of `ids` that exist, with one question to the store."""
        return [self._table.adopt_channel(record) for record in await ask(self._store.find_channel_ids(ids))]

    async def known_channel_ids(self, ids: Collection[int]) -> set[int]:
        """Those of `ids` that are channels; whatever the spool holds of others is to be removed."""
        return await ask(self._store.known_channel_ids(ids))

    async def channels(self, after: str, limit: int) -> list[ChannelRecord]:
        """Channels in the order of their names, at most `limit` of those behind `after`."""
        return await ask(self._store.list_channels(after, limit))

    async def channel_info(self, name: str) -> ChannelInfo | None:
        return await ask(self._store.channel_info(name))

    async def create_channel(self, token_names: Sequence[str]) -> ChannelInfo:
        """A channel with a number of its own as its name (v1, v2)."""
        return await self._write(self._store.create_channel(token_names))

    async def put_channel(self, name: str, token_names: Sequence[str]) -> tuple[bool, ChannelInfo]:
        """Make a channel and its tokens be as named: (whether it is new, what it is now)."""
        return await self._write(self._store.put_channel(name, token_names))

    async def delete_channel(self, name: str) -> None:
        """Delete a channel and all that belongs to it; raises NotFound."""
        await self._write(self._store.delete_channel(name))

    async def set_flags(self, name: str, flags: Collection[str]) -> ChannelRecord:
        return await self._write(self._store.set_flags(name, flags))

    async def create_token(self, channel: str, name: str) -> Token:
        return await self._write(self._store.create_token(channel, name))

    async def delete_tokens(self, channel: str, name: str) -> None:
        """Delete a channel's tokens of that name; raises NotFound when there are none."""
        await self._write(self._store.delete_tokens(channel, name))

    # Drains; URL and options are valid already.

    async def drain(self, channel: str, drain_id: int) -> DrainRecord:
        """Raises NotFound, for a drain of another channel too."""
        return await ask(self._store.find_drain(channel, drain_id))

    async def reserve_drain(self, channel: str) -> DrainRecord:
        return await self._write(self._store.reserve_drain(channel, now=self._wall_clock()))

    async def create_drain(self, channel: str, url: str, options: Mapping[str, Any]) -> DrainRecord:
        """Raises NotFound (channel), Conflict (same URL on the channel), Unprocessable (too many)."""
        limit, now = self._settings.drains_per_channel, self._wall_clock()
        return await self._write(self._store.create_drain(channel, url, options, limit=limit, now=now))

    async def set_drain(self, channel: str, drain_id: int, url: str, options: Mapping[str, Any]) -> DrainRecord:
        """Give a drain its first or another URL; raises as `create_drain`, NotFound for the drain too."""
        limit, now = self._settings.drains_per_channel, self._wall_clock()
        return await self._write(self._store.set_drain(channel, drain_id, url, options, limit=limit, now=now))

    async def delete_drain(self, channel: str, drain_id: int) -> None:
        await self._write(self._store.delete_drain(channel, drain_id))

    # Credentials and the service's state

    async def credentials(self, after: str, limit: int) -> list[CredentialRecord]:
        return await ask(self._store.list_credentials(after, limit))

    async def credential(self, credential_id: str) -> CredentialRecord:
        """Raises NotFound."""
        return await ask(self._store.credential_record(credential_id))

    async def create_credential(
        self, credential_id: str, permissions: Collection[str], password: str | None = None, *, replace: bool = False
    ) -> tuple[CredentialRecord, str]:
        """A credential and its password: the one that was chosen, or a new one.

        Raises Conflict when it exists (not with `replace`), Unprocessable for a permission on no channel.
        """
        if password is None:
            password = credentials.new_password()
            stored = credentials.hash_generated(password)
        elif credentials.MIN_PASSWORD_LENGTH <= len(password) <= credentials.MAX_PASSWORD_LENGTH:
            stored = await self._authenticator.hash_chosen(password)
        else:
            raise Unprocessable(f"password: at least {credentials.MIN_PASSWORD_LENGTH} characters")
        now = self._wall_clock()
        record = await self._write(
            self._store.put_credential(credential_id, stored, permissions, replace=replace, now=now)
        )
        return record, password

    async def delete_credential(self, credential_id: str) -> None:
        await self._write(self._store.delete_credential(credential_id))

    async def set_state(self, state: ServiceState) -> None:
        await self._write(self._store.set_state(state))

    async def _write(self, call: Write[T]) -> T:
        """Make a write; its changes are told as soon as it is on disk."""
        return await ask_then(call, self._committed)

    def _shared(self, channel: ChannelRecord | None) -> ChannelRecord | None:
        return None if channel is None else self._table.adopt_channel(channel)

    def _committed(self, result: tuple[T, Changes]) -> T:
        answer, changes = result
        failures = []
        for change in changes:
            self._apply(change)
            for subscriber in self._subscribers:
                told = outcome.capture(subscriber, change)
                if isinstance(told, outcome.Error):
                    failures.append(told.error)
        if failures:
            raise failures[0]
        return answer

    def _apply(self, change: Change) -> None:
        record = change.record
        self._table.apply(change)
        self._authenticator.forget(change)
        if isinstance(record, DrainRecord):
            if change.kind == "drain_removed":
                self.drains.pop(record.id, None)
                self.drain_tokens.discard(record.token)
            else:
                self.drain_tokens.add(record.token)
                if record.url is not None:
                    self.drains[record.id] = record
        elif isinstance(record, ServiceState):
            self.state = record
