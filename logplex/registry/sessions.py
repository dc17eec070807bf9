"""Sessions as config.db knows them: which URL may read which channel, and until when.

* A session lives from its creation or from the end of its last stream for `session_seconds`, at most
  `session_max_seconds` in all, also over restarts (protocol section 1). While it is read it does not expire,
  and once a minute its row is told so, in case that we crash.
* Creation is on disk before it is answered; the rest need not be waited for.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import outcome
import structlog
import trio

from ..config import Settings
from ..errors import StoreError
from .records import SessionRecord
from .store import Call, ConfigStore, ask

KEEP_SECONDS = 60.0

log = structlog.get_logger()


class SessionRecords:
    """All sessions; they stay in the database, memory holds those that are being read."""

    def __init__(self, store: ConfigStore, settings: Settings, wall_clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._wall_clock = wall_clock
        self._streams: dict[str, int] = {}

    async def create(self, channel_id: int | None, options: Mapping[str, Any]) -> SessionRecord:
        """A session of a channel (internal id), or of none; `options` is what JSON can hold."""
        now = self._wall_clock()
        session = SessionRecord(str(uuid4()), channel_id, dict(options), now, now + self._settings.session_seconds)
        await ask(self._store.create_session(session, forget_before=now - self._settings.session_max_seconds))
        return session

    async def find(self, uuid: str) -> SessionRecord | None:
        """The session of a URL; None when there is none, or when it has expired."""
        was_read = uuid in self._streams  # its stream may end while we ask, and the row not know of it yet
        session = await ask(self._store.find_session(uuid))
        if session is None:
            return None
        last = session.created_at + self._settings.session_max_seconds
        until = last if was_read or uuid in self._streams else session.expires_at
        return session if self._wall_clock() < until else None

    def stream_started(self, uuid: str) -> None:
        """The session is being read: it does not expire until `stream_ended` has been called as often."""
        self._streams[uuid] = self._streams.get(uuid, 0) + 1
        self._touch([uuid])(_told)

    def stream_ended(self, uuid: str) -> None:
        """A stream has ended: the session lives on from now. Never waits, so that a cancelled reader may call it."""
        count = self._streams.pop(uuid, 0) - 1
        if count > 0:
            self._streams[uuid] = count
        self._touch([uuid])(_told)

    async def touch(self, uuid: str) -> None:
        """Let a session live on from now."""
        await ask(self._touch([uuid]))

    async def keep(self) -> None:
        """Tell the rows of sessions that are being read, once a minute, that they live; never returns."""
        while True:
            await trio.sleep(KEEP_SECONDS)
            if self._streams:
                self._touch(list(self._streams))(_told)

    def _touch(self, uuids: Sequence[str]) -> Call[None]:
        until = self._wall_clock() + self._settings.session_seconds
        return self._store.touch_sessions(uuids, until=until, max_seconds=self._settings.session_max_seconds)


def _told(result: outcome.Outcome[None]) -> None:
    if isinstance(result, outcome.Error):
        if not isinstance(result.error, StoreError):
            raise result.error
        log.warning("sessions not kept", error=str(result.error))
