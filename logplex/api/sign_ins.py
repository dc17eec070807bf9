"""Who is signed in to the page: a table of the server, bounded and expiring, that survives a restart.

* A sign-in is a cookie of 256 random bits; the table, and the file that it is kept in, hold its SHA-256 alone.
* It ends `IDLE_SECONDS` after its last use, `LIFE_SECONDS` after it was made, and when it is signed out. One
  credential has at most `PER_CREDENTIAL`, all of them `MAX`; the one used longest ago makes room for a new one.
* The credential is looked up on every use: one that was deleted, or got another password, is signed out at once.
* A page's own calls carry a token that is derived from the cookie. Another origin knows neither, whatever it can
  make a browser send.
* A table that cannot be written lives in memory; people sign in again after a restart, and nothing else happens.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

import structlog
import trio

from ..errors import NotFound, Unauthorized
from ..registry import Principal, Registry

IDLE_SECONDS = 24 * 3600.0  # a day's work, and the morning after
LIFE_SECONDS = 7 * 24 * 3600.0
PER_CREDENTIAL = 20
MAX = 1000
SAVE_USE_SECONDS = 3600.0  # how exactly the file knows the last use

log = structlog.get_logger()


@dataclass(slots=True)
class SignIn:
    """One browser that is signed in; times in unix seconds. `credential_made_at` tells a credential from its heir."""

    credential: str
    credential_made_at: float
    made_at: float
    used_at: float

    def is_over(self, now: float) -> bool:
        return now >= min(self.used_at + IDLE_SECONDS, self.made_at + LIFE_SECONDS)


class SignIns:
    """The table. `stored` is what `save` was given last; `save` writes it, may block and raise OSError."""

    def __init__(
        self,
        registry: Registry,
        stored: str | None,
        save: Callable[[str], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._save = save
        self._wall_clock = wall_clock
        self._table = _read(stored)
        self._limiter = trio.CapacityLimiter(1)
        self._saving = trio.Lock()

    def __len__(self) -> int:
        return len(self._table)

    async def start(self, principal: Principal) -> str:
        """Sign a credential in; returns the cookie."""
        made = (await self._registry.credential(principal.id)).created_at
        cookie, now = secrets.token_urlsafe(32), self._wall_clock()
        self._make_room(principal.id, now)
        self._table[_key(cookie)] = SignIn(principal.id, made, now, now)
        await self._store()
        return cookie

    async def find(self, cookie: str) -> Principal:
        """Who has this cookie, with the permissions that the credential has now; raises Unauthorized."""
        key, now = _key(cookie), self._wall_clock()
        found = self._table.get(key)
        if found is None or found.is_over(now):
            raise Unauthorized("Not signed in")
        try:
            record = await self._registry.credential(found.credential)
        except NotFound as exc:
            raise Unauthorized("Not signed in") from exc
        if record.created_at != found.credential_made_at:
            raise Unauthorized("Not signed in")
        if now - found.used_at > SAVE_USE_SECONDS:
            found.used_at = now
            await self._store()
        apps = [name.removeprefix("app:") for name in record.permissions if name.startswith("app:")]
        channels = [await self._registry.channel(name) for name in apps]
        return Principal(
            "credential",
            record.id,
            permissions=frozenset(record.permissions),
            app_ids=frozenset(channel.id for channel in channels if channel is not None),
        )

    async def end(self, cookie: str) -> None:
        """Sign out."""
        if self._table.pop(_key(cookie), None) is not None:
            await self._store()

    def _make_room(self, credential: str, now: float) -> None:
        for key in [key for key, found in self._table.items() if found.is_over(now)]:
            del self._table[key]
        by_use = sorted(self._table, key=lambda key: self._table[key].used_at)
        own = [key for key in by_use if self._table[key].credential == credential]
        for key in own[: max(0, len(own) - PER_CREDENTIAL + 1)] or by_use[: max(0, len(by_use) - MAX + 1)]:
            del self._table[key]

    async def _store(self) -> None:
        async with self._saving:
            rows = {
                key: [found.credential, found.credential_made_at, found.made_at, found.used_at]
                for key, found in self._table.items()
            }
            try:
                await trio.to_thread.run_sync(self._save, json.dumps(rows), limiter=self._limiter)
            except OSError as exc:
                log.warning("sign_ins_not_saved", reason=exc.strerror)


def page_token(cookie: str) -> str:
    """What the page of this sign-in sends with every change."""
    return hashlib.blake2b(cookie.encode(), digest_size=16, person=b"page").hexdigest()


def is_page_token(cookie: str, given: str) -> bool:
    return compare_digest(page_token(cookie).encode(), given.encode())


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


def _read(stored: str | None) -> dict[str, SignIn]:
    """The table as it was saved; empty when it cannot be read."""
    try:
        rows: Any = json.loads(stored or "{}")
        return {key: SignIn(str(row[0]), *(float(value) for value in row[1:4])) for key, row in rows.items()}
    except (ValueError, TypeError, AttributeError, IndexError):
        log.warning("sign_ins_not_read")
        return {}
