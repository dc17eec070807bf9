"""config.db: its tables, its versions, how it is opened, and what is done when it is damaged.

* WAL and `synchronous=FULL`: what has been answered survives power loss.
* Files are made 0600 before SQLite opens them; the WAL inherits the mode.
* A damaged or vanished file is never replaced by an empty one (that would answer 401 to everyone):
  `SetupError` names the newest hourly copy, and a person decides.
* A version is a step of `MIGRATIONS`; all missing steps run in one transaction. A newer file is refused.
"""

import os
import sqlite3
import time
from pathlib import Path

from ..errors import SetupError
from .disk import sync

FILE_NAME = "config.db"
COPIES_NAME = "config-copies"
CHECK_SECONDS = 0.3
"""How long the start may look for damage: a file of a million channels would take longer than the whole start."""

_TABLES = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: spool, sessions and cursors refer to it
    name TEXT NOT NULL UNIQUE,
    flags TEXT NOT NULL DEFAULT ''
);
CREATE TABLE tokens (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    channel_id INTEGER NOT NULL REFERENCES channels ON DELETE CASCADE,
    name TEXT NOT NULL
);
CREATE INDEX tokens_of_channel ON tokens (channel_id);
CREATE TABLE drains (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    channel_id INTEGER NOT NULL REFERENCES channels ON DELETE CASCADE,
    url TEXT,
    options TEXT NOT NULL DEFAULT '{}',
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    UNIQUE (channel_id, url)
);
CREATE TABLE credentials (
    id TEXT PRIMARY KEY,
    password TEXT NOT NULL,
    full_api INTEGER NOT NULL,
    any_channel INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE permissions (
    credential_id TEXT NOT NULL REFERENCES credentials ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('app', 'channel')),
    channel_id INTEGER NOT NULL REFERENCES channels ON DELETE CASCADE,
    PRIMARY KEY (credential_id, kind, channel_id)
) WITHOUT ROWID;
CREATE INDEX permissions_of_channel ON permissions (channel_id);
CREATE TABLE sessions (
    uuid TEXT PRIMARY KEY,
    channel_id INTEGER REFERENCES channels ON DELETE CASCADE,
    options TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_of_channel ON sessions (channel_id);
CREATE INDEX sessions_by_creation ON sessions (created_at);
"""

MIGRATIONS: tuple[str, ...] = (_TABLES,)
"""Step n brings a file of version n to version n + 1; steps are only ever added."""


def connect(directory: Path) -> sqlite3.Connection:
    """Open `config.db` in `directory`, made or brought up to date where needed.

    Raises SetupError for a damaged, vanished or newer file.
    """
    path = directory / FILE_NAME
    if (not path.exists() or path.stat().st_size == 0) and newest_copy(directory) is not None:
        raise _damaged(directory, "it is missing or empty")
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        sync(directory)  # else power loss may take the file itself away
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        db.execute("PRAGMA cache_size=-16384")
        db.execute("PRAGMA trusted_schema=OFF")
        _check(db)
        _migrate(db)
    except sqlite3.OperationalError as exc:  # locked, full, read-only: not damage
        db.close()
        raise SetupError(f"{path} cannot be opened: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        db.close()
        raise _damaged(directory, str(exc)) from exc
    except BaseException:
        db.close()
        raise
    return db


def newest_copy(directory: Path) -> Path | None:
    """The newest hourly copy of the config, or None."""
    return max((directory / COPIES_NAME).glob("config-*.db"), default=None)


def _check(db: sqlite3.Connection) -> None:
    """Look for damage for `CHECK_SECONDS` at most; what lies deeper shows when it is read."""
    deadline = time.monotonic() + CHECK_SECONDS
    db.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as exc:
        if "interrupted" not in str(exc):
            raise
        return
    finally:
        db.set_progress_handler(None, 0)
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _migrate(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise SetupError(f"{FILE_NAME} was written by a newer logplex (version {version} of its tables)")
    if version == len(MIGRATIONS):
        return
    steps = "".join(MIGRATIONS[version:])
    db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version={len(MIGRATIONS)}; COMMIT;")


def _damaged(directory: Path, what: str) -> SetupError:
    copy = newest_copy(directory)
    advice = "there is no copy of it yet"
    if copy is not None:  # an old WAL would be replayed over the copy
        advice = f"the newest copy is {copy}: delete {FILE_NAME}-wal and {FILE_NAME}-shm, then put it in its place"
    return SetupError(f"{directory / FILE_NAME} is damaged ({what}); {advice}")
