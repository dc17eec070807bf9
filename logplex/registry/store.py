"""What the registry needs of a config store; store/config.py is the one over SQLite.

* A method names a call; it is made by handing it the function that gets its outcome, in trio's thread.
  Outcomes arrive in the order in which the calls took effect, whether or not anybody still waits.
* A write is on disk when its outcome arrives: what it made, and the changes to tell, in order.
* What the client did wrong is `NotFound`, `Conflict` or `Unprocessable`; what the disk did is `StoreError`.
* Names are looked up in the transaction that uses them, so that no request acts on a channel that was deleted
  and made again in between.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import outcome
import trio

from .records import (
    Change,
    ChannelInfo,
    ChannelRecord,
    CredentialRecord,
    DrainRecord,
    Principal,
    ServiceState,
    SessionRecord,
    Token,
)

T = TypeVar("T")
U = TypeVar("U")

Changes = list[Change]
Call = Callable[[Callable[[outcome.Outcome[T]], None]], None]
Write = Call[tuple[T, Changes]]


class Credential(NamedTuple):
    """A credential as it is checked: the hash of its password, and who has it."""

    password: str
    principal: Principal


class ConfigStore(Protocol):
    """The calls of a config store."""

    # Channels and tokens
    def load_tokens(self, ids: Collection[str], /) -> Call[list[Token]]: ...
    def find_channel(self, name: str, /) -> Call[ChannelRecord | None]: ...
    def find_channel_id(self, channel_id: int, /) -> Call[ChannelRecord | None]: ...
    def find_channel_ids(self, ids: Collection[int], /) -> Call[list[ChannelRecord]]: ...
    def known_channel_ids(self, ids: Collection[int], /) -> Call[set[int]]: ...
    def list_channels(self, after: str, limit: int, /) -> Call[list[ChannelRecord]]: ...
    def channel_info(self, name: str, /) -> Call[ChannelInfo | None]: ...
    def create_channel(self, token_names: Sequence[str], /) -> Write[ChannelInfo]: ...
    def put_channel(self, name: str, token_names: Sequence[str], /) -> Write[tuple[bool, ChannelInfo]]: ...
    def delete_channel(self, name: str, /) -> Write[None]: ...
    def set_flags(self, name: str, flags: Collection[str], /) -> Write[ChannelRecord]: ...
    def create_token(self, channel: str, name: str, /) -> Write[Token]: ...
    def delete_tokens(self, channel: str, name: str, /) -> Write[None]: ...

    # Drains
    def load_drains(self) -> Call[tuple[list[DrainRecord], list[str]]]: ...
    def find_drain(self, channel: str, drain_id: int, /) -> Call[DrainRecord]: ...
    def reserve_drain(self, channel: str, /, *, now: float) -> Write[DrainRecord]: ...
    def create_drain(
        self, channel: str, url: str, options: Mapping[str, Any], /, *, limit: int, now: float
    ) -> Write[DrainRecord]: ...
    def set_drain(
        self, channel: str, drain_id: int, url: str, options: Mapping[str, Any], /, *, limit: int, now: float
    ) -> Write[DrainRecord]: ...
    def delete_drain(self, channel: str, drain_id: int, /) -> Write[None]: ...

    # Credentials, sessions and the service
    def find_credential(self, credential_id: str, /) -> Call[Credential | None]: ...
    def list_credentials(self, after: str, limit: int, /) -> Call[list[CredentialRecord]]: ...
    def credential_record(self, credential_id: str, /) -> Call[CredentialRecord]: ...
    def put_credential(
        self, credential_id: str, password: str, permissions: Collection[str], /, *, replace: bool, now: float
    ) -> Write[CredentialRecord]: ...
    def delete_credential(self, credential_id: str, /) -> Write[None]: ...
    def create_session(self, session: SessionRecord, /, *, forget_before: float) -> Call[None]: ...
    def find_session(self, uuid: str, /) -> Call[SessionRecord | None]: ...
    def touch_sessions(self, uuids: Sequence[str], /, *, until: float, max_seconds: float) -> Call[None]: ...
    def load_state(self) -> Call[ServiceState]: ...
    def set_state(self, state: ServiceState, /) -> Write[None]: ...

    async def keep_copies(self) -> None:
        """Keep copies for the day on which the config is damaged; never returns."""


async def ask(call: Call[T]) -> T:
    """Make a call and wait for its outcome; a cancel stops the waiting only."""
    return await ask_then(call, lambda value: value)


async def ask_then(call: Call[T], arrived: Callable[[T], U]) -> U:
    """As `ask`; `arrived` makes what is returned, and runs when the outcome arrives, whoever still waits."""
    done = trio.Event()
    results: list[outcome.Outcome[U]] = []

    def take(result: outcome.Outcome[T]) -> None:
        results.append(outcome.capture(lambda: arrived(result.unwrap())))
        done.set()

    call(take)
    await done.wait()
    return results[0].unwrap()
