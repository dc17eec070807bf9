"""Rows of config.db as records, and the transaction that every write is."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..errors import NotFound
from ..registry.records import ChannelInfo, ChannelRecord, DrainRecord, Token


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """One transaction; whatever goes wrong inside, or at the commit, leaves nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def channel_from(row: tuple[int, str, str]) -> ChannelRecord:
    return ChannelRecord(row[0], row[1], _flags(row[2]))


@cache
def _flags(text: str) -> frozenset[str]:
    """One set for all channels with these flags: an empty set of each one's own would be most of its memory."""
    return frozenset(text.split())


def drain_from(row: tuple[Any, ...]) -> DrainRecord:
    drain_id, token, channel_id, url, options, created_at, updated_at = row
    return DrainRecord(drain_id, token, channel_id, url, json.loads(options), created_at, updated_at)


def find_channel(db: sqlite3.Connection, name: str) -> ChannelRecord | None:
    row = db.execute("SELECT id, name, flags FROM channels WHERE name = ?", (name,)).fetchone()
    return None if row is None else channel_from(row)


def existing_channel(db: sqlite3.Connection, name: str) -> ChannelRecord:
    """Raises NotFound."""
    channel = find_channel(db, name)
    if channel is None:
        raise NotFound("No such channel")
    return channel


def tokens_of(db: sqlite3.Connection, channel: ChannelRecord) -> list[Token]:
    """The oldest first."""
    rows = db.execute("SELECT id, name FROM tokens WHERE channel_id = ? ORDER BY seq", (channel.id,))
    return [Token(token_id, name, channel) for token_id, name in rows]


def info_of(db: sqlite3.Connection, channel: ChannelRecord) -> ChannelInfo:
    rows = db.execute("SELECT * FROM drains WHERE channel_id = ? AND url IS NOT NULL ORDER BY id", (channel.id,))
    return ChannelInfo(channel, tuple(tokens_of(db, channel)), tuple(map(drain_from, rows)))
