"""Tells the data directory whether the spool takes lines: the next start has to know, whatever happens to this one.

* The file is written in a thread (the disk may hang), one write at a time; the newest word wins.
* A word that cannot be written is tried again until it can, or another replaces it.
"""

import structlog
import trio

from ..store.directory import DataDirectory

log = structlog.get_logger()

RETRY_SECONDS = 1.0


class DegradedNotes:
    """`note` says it and waits until it is written; `run` writes."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._limiter = trio.CapacityLimiter(1)
        self._wanted: float | None = None
        self._written: float | None = None
        self._changed = trio.Event()
        self._noted = trio.Event()

    async def note(self, since: float | None) -> None:
        """The spool has not taken lines since then (wall clock), or does again (None). A cancel stops only waiting."""
        self._wanted = since
        self._changed.set()
        while self._written != self._wanted:
            await self._noted.wait()

    async def run(self) -> None:
        """Write every word, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            while self._written != (wanted := self._wanted):
                try:
                    await trio.to_thread.run_sync(
                        self._directory.note_degraded, wanted, limiter=self._limiter, abandon_on_cancel=True
                    )
                except OSError as exc:
                    log.error("degraded_not_noted", reason=str(exc))
                    await trio.sleep(RETRY_SECONDS)
                    continue
                self._written = wanted
                noted, self._noted = self._noted, trio.Event()
                noted.set()
