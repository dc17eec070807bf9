"""The config store's drains: functions of the connection, one transaction each."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ..errors import Conflict, NotFound, Unprocessable
from ..registry.records import Change, ChannelRecord, DrainRecord
from ..registry.store import Changes
from .config_rows import drain_from, existing_channel, transaction


def load_drains(db: sqlite3.Connection) -> tuple[list[DrainRecord], list[str]]:
    """All drains that have a URL, and the tokens of all drains."""
    drains = [drain_from(row) for row in db.execute("SELECT * FROM drains WHERE url IS NOT NULL")]
    return drains, [row[0] for row in db.execute("SELECT token FROM drains")]


def find_drain(db: sqlite3.Connection, channel_name: str, drain_id: int) -> DrainRecord:
    """Raises NotFound for a drain of another channel too."""
    return _drain_of(db, existing_channel(db, channel_name), drain_id)


def reserve_drain(db: sqlite3.Connection, channel_name: str, now: float) -> tuple[DrainRecord, Changes]:
    """An id and a token without a URL; it neither counts nor is listed until it gets one."""
    with transaction(db):
        channel = existing_channel(db, channel_name)
        drain = _insert_drain(db, channel, None, {}, now)
    return drain, [Change("drain_reserved", drain)]


def create_drain(
    db: sqlite3.Connection, channel_name: str, url: str, options: Mapping[str, Any], *, limit: int, now: float
) -> tuple[DrainRecord, Changes]:
    """Raises NotFound (channel), Conflict (the URL), Unprocessable (more than `limit`)."""
    with transaction(db):
        channel = existing_channel(db, channel_name)
        _check_new_url(db, channel, url, limit)
        drain = _insert_drain(db, channel, url, options, now)
    return drain, [Change("drain_added", drain)]


def set_drain(
    db: sqlite3.Connection,
    channel_name: str,
    drain_id: int,
    url: str,
    options: Mapping[str, Any],
    *,
    limit: int,
    now: float,
) -> tuple[DrainRecord, Changes]:
    """Give a drain a URL: its first (then as `create_drain`), or another one."""
    with transaction(db):
        channel = existing_channel(db, channel_name)
        was = _drain_of(db, channel, drain_id)
        if was.url is None:
            _check_new_url(db, channel, url, limit)
        elif url != was.url:
            _check_conflict(db, channel, url)
        db.execute(
            "UPDATE drains SET url = ?, options = ?, updated_at = ? WHERE id = ?",
            (url, json.dumps(dict(options)), now, drain_id),
        )
        drain = _drain_of(db, channel, drain_id)
    return drain, [Change("drain_added" if was.url is None else "drain_changed", drain)]


def delete_drain(db: sqlite3.Connection, channel_name: str, drain_id: int) -> tuple[None, Changes]:
    with transaction(db):
        drain = _drain_of(db, existing_channel(db, channel_name), drain_id)
        db.execute("DELETE FROM drains WHERE id = ?", (drain_id,))
    return None, [Change("drain_removed", drain)]


def _drain_of(db: sqlite3.Connection, channel: ChannelRecord, drain_id: int) -> DrainRecord:
    query = "SELECT * FROM drains WHERE id = ? AND channel_id = ?"
    row = db.execute(query, (drain_id, channel.id)).fetchone() if drain_id < 2**63 else None
    if row is None:
        raise NotFound("Unknown drain.")
    return drain_from(row)


def _insert_drain(
    db: sqlite3.Connection, channel: ChannelRecord, url: str | None, options: Mapping[str, Any], now: float
) -> DrainRecord:
    token = f"d.{uuid4()}"
    cursor = db.execute(
        "INSERT INTO drains (token, channel_id, url, options, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
        (token, channel.id, url, json.dumps(dict(options)), now, now),
    )
    return DrainRecord(cursor.lastrowid or 0, token, channel.id, url, dict(options), now, now)


def _check_new_url(db: sqlite3.Connection, channel: ChannelRecord, url: str, limit: int) -> None:
    _check_conflict(db, channel, url)
    query = "SELECT count(*) FROM drains WHERE channel_id = ? AND url IS NOT NULL"
    if db.execute(query, (channel.id,)).fetchone()[0] >= limit:
        raise Unprocessable("You have already added the maximum number of drains allowed")


def _check_conflict(db: sqlite3.Connection, channel: ChannelRecord, url: str) -> None:
    if db.execute("SELECT 1 FROM drains WHERE channel_id = ? AND url = ?", (channel.id, url)).fetchone():
        raise Conflict("Already exists")
