"""Who is asking: from an Authorization header to a principal, quickly where it has been seen before.

* `quick` never waits: a header of a loaded token, or of a credential whose password was verified before.
  What was verified before goes on working while log-ins are limited (protocol section 11).
* `verified` looks into the store and checks the password; only credentials count towards the limit, because
  a token has 122 random bits, and the shippers of many apps share an address.
* Headers of tokens are remembered as they are (the tokens are in memory anyway), those of credentials under
  a keyed hash; both tables are bounded, and emptied by every change that could make them wrong.
"""

import hashlib
import secrets
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

import trio

from ..errors import Unauthorized
from . import credentials
from .credentials import FailureLimits, Login
from .records import Change, Principal, Token, is_credential_id
from .store import ConfigStore, Credential, ask

MAX_TOKEN_HEADERS = 100_000
MAX_CREDENTIAL_HEADERS = 20_000

K = TypeVar("K")
V = TypeVar("V")


class Authenticator:
    """The log-in of every input and API. `clock` counts seconds."""

    def __init__(self, store: ConfigStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._limits = FailureLimits(clock)
        self._key = secrets.token_bytes(32)
        self._tokens: dict[bytes, Principal] = {}
        self._verified: dict[bytes, Principal] = {}
        self._removals = 0
        self._scrypt = trio.CapacityLimiter(1)  # log-ins take one core at most, however many there are

    def quick(self, authorization: bytes, tokens: dict[str, Token]) -> Principal | None:
        """The principal of a header that memory knows, else None; costs a look-up, or a parse and a keyed hash."""
        known = self._tokens.get(authorization)
        if known is not None:
            return known
        login = credentials.parse_authorization(authorization)
        if login is None:
            return None
        if login.kind == "credential":
            return self._verified.get(self._hash(login))
        token = tokens.get(login.id)
        if token is None:
            return None
        principal = token_principal(token)
        _remember(self._tokens, authorization, principal, MAX_TOKEN_HEADERS)
        return principal

    async def verified(self, login: Login, address: str) -> Principal:
        """The principal of a credential; raises Unauthorized, TooManyFailures."""
        key = self._hash(login)
        if (known := self._verified.get(key)) is not None:
            return known
        if not is_credential_id(login.id) or len(login.password) > credentials.MAX_PASSWORD_LENGTH:
            raise Unauthorized("Not Authorized")  # there is no such credential, so nothing was guessed
        self._limits.begin(login.id, address)
        removals = self._removals
        credential = await ask(self._store.find_credential(login.id))
        if credential is None or not await self._fits(credential, login.password):
            raise Unauthorized("Not Authorized")
        self._limits.succeeded(login.id, address)
        if removals == self._removals:  # else it may have been removed while its password was checked
            _remember(self._verified, key, credential.principal, MAX_CREDENTIAL_HEADERS)
        return credential.principal

    async def hash_chosen(self, password: str) -> str:
        """The hash of a password that a person chose."""
        return await trio.to_thread.run_sync(credentials.hash_chosen, password, limiter=self._scrypt)

    def forget(self, change: Change) -> None:
        """Forget what a change may have made wrong."""
        if change.kind == "token_removed":
            self._tokens.clear()
        elif change.kind in {"credential_removed", "channel_removed"}:
            self._verified.clear()
            self._removals += 1

    async def _fits(self, credential: Credential, password: str) -> bool:
        if not credentials.is_slow(credential.password):
            return credentials.verify(credential.password, password)
        return await trio.to_thread.run_sync(credentials.verify, credential.password, password, limiter=self._scrypt)

    def _hash(self, login: Login) -> bytes:
        return hashlib.blake2b(f"{login.id}:{login.password}".encode(), key=self._key, digest_size=32).digest()


def token_principal(token: Token) -> Principal:
    """What a token may do: write into its channel."""
    return Principal("token", token.id, token=token, channel_ids=frozenset({token.channel_id}))


def _remember(table: dict[K, V], key: K, value: V, bound: int) -> None:
    """Add to a table; a full one loses the eighth of it that is oldest."""
    if len(table) >= bound:
        for old in list(islice(table, bound // 8)):
            del table[old]
    table[key] = value
