"""The config store's credentials, sessions and state: who may ask, which URL may read, what is switched off.

* A permission on a channel belongs to its internal id and goes with it: a key for `shop` does not open
  the `shop` that somebody makes after it was deleted.
* A session lives `seconds` from its creation or from the end of its last stream, at most `max_seconds` from its
  creation (protocol section 1); its row stays until then, so that a stream may end long after the URL has.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable

from ..errors import Conflict, NotFound, Unprocessable
from ..registry.records import Change, CredentialRecord, Principal, ServiceState, SessionRecord
from ..registry.store import Changes, Credential
from .config_rows import find_channel, transaction


def find_credential(db: sqlite3.Connection, credential_id: str) -> Credential | None:
    row = db.execute(
        "SELECT password, full_api, any_channel FROM credentials WHERE id = ?", (credential_id,)
    ).fetchone()
    if row is None:
        return None
    password, _, any_channel = row
    query = "SELECT kind, channel_id FROM permissions WHERE credential_id = ?"
    scopes = db.execute(query, (credential_id,)).fetchall()
    principal = Principal(
        "credential",
        credential_id,
        permissions=frozenset(_record(db, credential_id).permissions),
        may_write_any=bool(any_channel),
        channel_ids=frozenset(channel_id for kind, channel_id in scopes if kind == "channel"),
        app_ids=frozenset(channel_id for kind, channel_id in scopes if kind == "app"),
    )
    return Credential(password, principal)


def list_credentials(db: sqlite3.Connection, after: str, limit: int) -> list[CredentialRecord]:
    """Credentials in the order of their ids, those behind `after`."""
    rows = db.execute("SELECT id FROM credentials WHERE id > ? ORDER BY id LIMIT ?", (after, limit)).fetchall()
    return [_record(db, row[0]) for row in rows]


def credential_record(db: sqlite3.Connection, credential_id: str) -> CredentialRecord:
    """Raises NotFound."""
    return _record(db, credential_id)


def put_credential(
    db: sqlite3.Connection,
    credential_id: str,
    password: str,
    permissions: Collection[str],
    *,
    replace: bool,
    now: float,
) -> tuple[CredentialRecord, Changes]:
    """Store a credential; `password` is its hash.

    Raises Conflict when it exists and `replace` is not set, Unprocessable for a permission that names no channel.
    """
    changes: Changes = []
    with transaction(db):
        exists = db.execute("SELECT 1 FROM credentials WHERE id = ?", (credential_id,)).fetchone()
        if exists and not replace:
            raise Conflict("Already exists")
        if exists:
            changes.append(Change("credential_removed", _record(db, credential_id)))
            db.execute("DELETE FROM credentials WHERE id = ?", (credential_id,))
        db.execute(
            "INSERT INTO credentials VALUES (?, ?, ?, ?, ?)",
            (credential_id, password, "full_api" in permissions, "any_channel" in permissions, now),
        )
        db.executemany(
            "INSERT INTO permissions VALUES (?, ?, ?)",
            [(credential_id, kind, channel_id) for kind, channel_id in _scopes(db, permissions)],
        )
        record = _record(db, credential_id)
    return record, [*changes, Change("credential_added", record)]


def delete_credential(db: sqlite3.Connection, credential_id: str) -> tuple[None, Changes]:
    with transaction(db):
        record = _record(db, credential_id)
        db.execute("DELETE FROM credentials WHERE id = ?", (credential_id,))
    return None, [Change("credential_removed", record)]


def create_session(db: sqlite3.Connection, session: SessionRecord, *, forget_before: float) -> None:
    """Store a session, and remove those that were created before `forget_before`. Raises NotFound (channel)."""
    row = (session.uuid, session.channel_id, json.dumps(dict(session.options)), session.created_at, session.expires_at)
    with transaction(db):
        db.execute("DELETE FROM sessions WHERE created_at < ?", (forget_before,))
        try:
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as exc:  # it was deleted since the caller looked it up
            raise NotFound("No such channel") from exc


def find_session(db: sqlite3.Connection, uuid: str) -> SessionRecord | None:
    row = db.execute("SELECT * FROM sessions WHERE uuid = ?", (uuid,)).fetchone()
    if row is None:
        return None
    uuid, channel_id, options, created_at, expires_at = row
    return SessionRecord(uuid, channel_id, json.loads(options), created_at, expires_at)


def touch_sessions(db: sqlite3.Connection, uuids: Iterable[str], *, until: float, max_seconds: float) -> None:
    """Let sessions live until `until`, but no longer than `max_seconds` from their creation."""
    query = "UPDATE sessions SET expires_at = min(?, created_at + ?) WHERE uuid = ?"
    with transaction(db):
        db.executemany(query, [(until, max_seconds, uuid) for uuid in uuids])


def load_state(db: sqlite3.Connection) -> ServiceState:
    values = {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM state")}
    return ServiceState(**values)


def set_state(db: sqlite3.Connection, state: ServiceState) -> tuple[None, Changes]:
    rows = [("api", json.dumps(state.api)), ("ingress", json.dumps(state.ingress))]
    with transaction(db):
        db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", rows)
    return None, [Change("state", state)]


def _record(db: sqlite3.Connection, credential_id: str) -> CredentialRecord:
    row = db.execute(
        "SELECT full_api, any_channel, created_at FROM credentials WHERE id = ?", (credential_id,)
    ).fetchone()
    if row is None:
        raise NotFound("Not found")
    full_api, any_channel, created_at = row
    scopes = db.execute(
        "SELECT p.kind, c.name FROM permissions p JOIN channels c ON c.id = p.channel_id "
        "WHERE p.credential_id = ? ORDER BY 1, 2",
        (credential_id,),
    )
    permissions = ["full_api"] * full_api + ["any_channel"] * any_channel + [f"{kind}:{name}" for kind, name in scopes]
    return CredentialRecord(credential_id, tuple(permissions), created_at)


def _scopes(db: sqlite3.Connection, permissions: Collection[str]) -> set[tuple[str, int]]:
    scopes = set()
    for permission in permissions:
        kind, colon, name = permission.partition(":")
        if not colon:
            continue
        channel = find_channel(db, name)
        if channel is None:
            raise Unprocessable(f"permissions: no such channel: {name}")
        scopes.add((kind, channel.id))
    return scopes
