"""The config store's channels and tokens: functions of the connection, one transaction each."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from sys import intern
from uuid import uuid4

from ..errors import NotFound
from ..registry.records import Change, ChannelInfo, ChannelRecord, Token
from ..registry.store import Changes
from .config_rows import channel_from, drain_from, existing_channel, find_channel, info_of, tokens_of, transaction


def load_tokens(db: sqlite3.Connection, ids: Collection[str]) -> list[Token]:
    """Those of `ids` that exist."""
    rows = db.execute(
        "SELECT t.id, t.name, c.id, c.name, c.flags FROM tokens t JOIN channels c ON c.id = t.channel_id "
        "WHERE t.id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )
    channels: dict[int, ChannelRecord] = {}
    tokens = []
    for token_id, name, channel_id, channel_name, flags in rows:
        if (channel := channels.get(channel_id)) is None:
            channel = channels[channel_id] = channel_from((channel_id, channel_name, flags))
        tokens.append(Token(token_id, intern(name), channel))
    return tokens


def find_channel_id(db: sqlite3.Connection, channel_id: int) -> ChannelRecord | None:
    row = db.execute("SELECT id, name, flags FROM channels WHERE id = ?", (channel_id,)).fetchone()
    return None if row is None else channel_from(row)


def find_channel_ids(db: sqlite3.Connection, ids: Collection[int]) -> list[ChannelRecord]:
    """Those of `ids` that exist."""
    query = "SELECT id, name, flags FROM channels WHERE id IN (SELECT value FROM json_each(?))"
    return [channel_from(row) for row in db.execute(query, (json.dumps(list(ids)),))]


def known_channel_ids(db: sqlite3.Connection, ids: Collection[int]) -> set[int]:
    """Those of `ids` that exist; the spool removes the rows of all others."""
    query = "SELECT id FROM channels WHERE id IN (SELECT value FROM json_each(?))"
    return {row[0] for row in db.execute(query, (json.dumps(list(ids)),))}


def list_channels(db: sqlite3.Connection, after: str, limit: int) -> list[ChannelRecord]:
    """Channels in the order of their names, those behind `after`."""
    query = "SELECT id, name, flags FROM channels WHERE name > ? ORDER BY name LIMIT ?"
    return [channel_from(row) for row in db.execute(query, (after, limit))]


def channel_info(db: sqlite3.Connection, name: str) -> ChannelInfo | None:
    channel = find_channel(db, name)
    return None if channel is None else info_of(db, channel)


def create_channel(db: sqlite3.Connection, token_names: Sequence[str]) -> tuple[ChannelInfo, Changes]:
    """A channel named by a number that no channel has had, or has, as its name (v1, v2)."""
    with transaction(db):
        while True:
            db.execute("INSERT INTO channels (name) VALUES ('')")  # the id is the number; '' is nobody's name
            channel_id = db.execute("SELECT last_insert_rowid()").fetchone()[0]
            if find_channel(db, str(channel_id)) is None:
                break
            db.execute("DELETE FROM channels WHERE id = ?", (channel_id,))
        db.execute("UPDATE channels SET name = ? WHERE id = ?", (str(channel_id), channel_id))
        channel = ChannelRecord(channel_id, str(channel_id))
        added = [_add_token(db, channel, name) for name in dict.fromkeys(token_names)]
        info = info_of(db, channel)
    return info, [Change("channel_added", channel), *added]


def put_channel(
    db: sqlite3.Connection, name: str, token_names: Sequence[str]
) -> tuple[tuple[bool, ChannelInfo], Changes]:
    """Make the channel and its tokens what the caller says: (whether it is new, what it is now)."""
    with transaction(db):
        channel = find_channel(db, name)
        changes: Changes = []
        created = channel is None
        if channel is None:
            cursor = db.execute("INSERT INTO channels (name) VALUES (?)", (name,))
            channel = ChannelRecord(cursor.lastrowid or 0, name)
            changes.append(Change("channel_added", channel))
        wanted = set(token_names)
        tokens = tokens_of(db, channel)
        changes += [_remove_token(db, token) for token in tokens if token.name not in wanted]
        kept = {token.name for token in tokens}
        changes += [_add_token(db, channel, name) for name in sorted(wanted - kept)]
        info = info_of(db, channel)
    return (created, info), changes


def delete_channel(db: sqlite3.Connection, name: str) -> tuple[None, Changes]:
    """Delete a channel with its tokens, drains, sessions and permissions; their ends are told before its own."""
    with transaction(db):
        channel = existing_channel(db, name)
        info = info_of(db, channel)
        reserved = db.execute("SELECT * FROM drains WHERE channel_id = ? AND url IS NULL", (channel.id,))
        changes = [Change("token_removed", token) for token in info.tokens]
        changes += [Change("drain_removed", drain) for drain in (*info.drains, *map(drain_from, reserved))]
        db.execute("DELETE FROM channels WHERE id = ?", (channel.id,))
    return None, [*changes, Change("channel_removed", channel)]


def set_flags(db: sqlite3.Connection, name: str, flags: Collection[str]) -> tuple[ChannelRecord, Changes]:
    with transaction(db):
        channel = existing_channel(db, name)
        channel.flags = frozenset(flags)
        db.execute("UPDATE channels SET flags = ? WHERE id = ?", (" ".join(sorted(flags)), channel.id))
    return channel, [Change("channel_flags", channel)]


def create_token(db: sqlite3.Connection, channel_name: str, name: str) -> tuple[Token, Changes]:
    with transaction(db):
        channel = existing_channel(db, channel_name)
        change = _add_token(db, channel, name)
    assert isinstance(change.record, Token)
    return change.record, [change]


def delete_tokens(db: sqlite3.Connection, channel_name: str, name: str) -> tuple[None, Changes]:
    """Delete all tokens of that name; raises NotFound when there is none."""
    with transaction(db):
        channel = existing_channel(db, channel_name)
        changes = [_remove_token(db, token) for token in tokens_of(db, channel) if token.name == name]
        if not changes:
            raise NotFound("Not found")
    return None, changes


def _add_token(db: sqlite3.Connection, channel: ChannelRecord, name: str) -> Change:
    token = Token(f"t.{uuid4()}", name, channel)
    db.execute("INSERT INTO tokens (id, channel_id, name) VALUES (?, ?, ?)", (token.id, channel.id, name))
    return Change("token_added", token)


def _remove_token(db: sqlite3.Connection, token: Token) -> Change:
    db.execute("DELETE FROM tokens WHERE id = ?", (token.id,))
    return Change("token_removed", token)
