"""What the config says: channels, tokens, drains, credentials, sessions, and who is asking.

* Channels are known by an internal id that is never reused; names map to it (deleting `shop` and creating `shop`
  again makes another channel).
* Token ids, session ids and passwords are secrets: no `repr` here shows one.
* Records of the same channel share one `ChannelRecord`, so that changed flags are seen everywhere at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CHANNEL_FLAGS = frozenset({"no_tail", "no_history"})
TOKEN_ID_LENGTH = len("t.") + 36

_CHANNEL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TOKEN_NAME = re.compile(r"[!-~]{1,48}")
_CREDENTIAL_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(slots=True, eq=False, weakref_slot=True)
class ChannelRecord:
    """One channel; `flags` changes in place, everything else stays."""

    id: int
    name: str
    flags: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Token:
    """The right to write into one channel under one name; `id` is the secret `t.<uuid4>`."""

    id: str = field(repr=False)
    name: str
    channel: ChannelRecord

    @property
    def channel_id(self) -> int:
        return self.channel.id


@dataclass(frozen=True, slots=True)
class DrainRecord:
    """A destination of one channel; `url` is None while it is only reserved."""

    id: int
    token: str
    channel_id: int
    url: str | None = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """A channel with its tokens (oldest first) and its drains that have a URL (by id)."""

    channel: ChannelRecord
    tokens: tuple[Token, ...]
    drains: tuple[DrainRecord, ...]

    def tokens_by_name(self) -> dict[str, str]:
        """Name to id, sorted by name; of equal names the newest is shown."""
        return dict(sorted((token.name, token.id) for token in {t.name: t for t in self.tokens}.values()))


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A credential without its password; permissions are `full_api`, `any_channel`, `channel:<id>`, `app:<id>`."""

    id: str
    permissions: tuple[str, ...]
    created_at: float


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session: the right to read one channel; `channel_id` is None where v1/v2 named a channel that is not there.

    `options` holds what the request gave: num, tail, source, ps and further filters. Times are unix seconds.
    """

    uuid: str = field(repr=False)
    channel_id: int | None
    options: Mapping[str, Any]
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the operator allows: the management API, and input at all."""

    api: Literal["normal", "read_only", "disabled"] = "normal"
    ingress: bool = True


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as authenticated: a token (may write its channel) or a credential."""

    kind: Literal["token", "credential"]
    id: str = field(repr=False)
    token: Token | None = None
    permissions: frozenset[str] = frozenset()
    may_write_any: bool = False
    channel_ids: frozenset[int] = frozenset()
    """Channels it may write to, by internal id."""
    app_ids: frozenset[int] = frozenset()
    """Channels it may read, by internal id."""

    @property
    def full_api(self) -> bool:
        return "full_api" in self.permissions

    @property
    def shown(self) -> str:
        """Its name in logs: the credential's id, or the token's channel and name, never the token."""
        if self.token is not None:
            return f"{self.token.channel.name}/{self.token.name}"
        return self.id

    def may_write(self, channel_id: int) -> bool:
        return self.may_write_any or channel_id in self.channel_ids

    def may_read(self, channel_id: int) -> bool:
        return self.full_api or channel_id in self.app_ids


ChangeKind = Literal[
    "channel_added",
    "channel_removed",
    "channel_flags",
    "token_added",
    "token_removed",
    "drain_reserved",
    "drain_added",
    "drain_changed",
    "drain_removed",
    "credential_added",
    "credential_removed",
    "state",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change, as subscribers are told it; a removed channel's tokens and drains are told before it.

    `drain_added` means that a URL was set: a reserved drain is added when it gets one.
    """

    kind: ChangeKind
    record: ChannelRecord | Token | DrainRecord | CredentialRecord | ServiceState


def is_channel_name(name: str) -> bool:
    """Whether `name` can name a channel; `.` and `..` cannot, because clients resolve them in URLs."""
    return _CHANNEL_NAME.fullmatch(name) is not None and name not in {".", ".."}


def is_token_name(name: object) -> bool:
    """Whether `name` can be a source: it becomes APP-NAME, where a space or LF would forge fields or frames."""
    return isinstance(name, str) and _TOKEN_NAME.fullmatch(name) is not None


def is_credential_id(name: object) -> bool:
    """Whether `name` can be a credential's id: no colon (Basic), and not `token`, the user that tokens log in as."""
    return isinstance(name, str) and _CREDENTIAL_ID.fullmatch(name) is not None and name != "token"
