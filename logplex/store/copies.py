"""Hourly copies of config.db: what a person puts in its place when it is damaged.

* A copy is made by `VACUUM INTO` over a connection of its own, so that it is consistent and nobody waits for it;
  it gets its name when it is whole and on disk.
* No copy is made of a config that has not changed since the newest one; the newest 24 are kept.
"""

import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from .disk import sync
from .schema import COPIES_NAME, FILE_NAME, newest_copy

COPY_SECONDS = 3600.0
COPIES = 24

log = structlog.get_logger()


async def copy_hourly(directory: Path, changes: Callable[[], Awaitable[int]]) -> None:
    """Copy when the newest copy is an hour old, and then every hour; never returns. Failures are logged.

    `changes` answers a number that grows with every change.
    """
    limiter = trio.CapacityLimiter(1)
    newest = newest_copy(directory)
    wait = 0.0 if newest is None else COPY_SECONDS - max(0.0, time.time() - newest.stat().st_mtime)
    copied = -1
    while True:
        await trio.sleep(max(0.0, wait))
        wait = COPY_SECONDS
        written = await changes()
        if written == copied:
            continue
        try:
            path = await trio.to_thread.run_sync(copy, directory, limiter=limiter)
        except (OSError, sqlite3.Error) as exc:
            log.error("config not copied", error=str(exc))
            continue
        copied = written
        log.info("config copied", path=str(path))


def copy(directory: Path, wall_clock: Callable[[], float] = time.time) -> Path:
    """Copy the config of `directory` now, and remove the oldest copies; raises OSError and sqlite3.Error."""
    copies = directory / COPIES_NAME
    copies.mkdir(mode=0o700, exist_ok=True)
    for leftover in copies.glob("*.part"):
        leftover.unlink()
    path = copies / time.strftime("config-%Y%m%dT%H%M%SZ.db", time.gmtime(wall_clock()))
    part = path.with_suffix(".part")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    db = sqlite3.connect(f"{(directory / FILE_NAME).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("VACUUM INTO ?", (str(part),))
    finally:
        db.close()
    sync(part)
    part.rename(path)
    sync(copies)
    for old in sorted(copies.glob("config-*.db"))[:-COPIES]:
        old.unlink()
    return path
