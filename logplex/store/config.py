"""The config store over SQLite: config.db in the data directory, in a thread of its own.

* Calls take effect in the order in which they are made, each in one transaction; a write is on disk
  (`synchronous=FULL`) when its outcome arrives.
* Entering raises SetupError for a damaged file (schema.py); copies for that day are made by copies.py.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import outcome

from ..registry.store import Call
from . import config_access, config_channels, config_drains, config_rows, schema
from .copies import copy_hourly
from .sqlite import DatabaseThread

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    fn: Callable[Concatenate[sqlite3.Connection, P], T],
) -> Callable[Concatenate[DatabaseThread, P], Call[T]]:
    """A function of the connection as a method of the store."""

    def method(store: DatabaseThread, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        def call(arrived: Callable[[outcome.Outcome[T]], None]) -> None:
            store.submit(fn, arrived, *args, **kwargs)

        return call

    return method


class ConfigStore(DatabaseThread):
    """The config of `directory` as registry/store.py wants it; use as `async with ConfigStore(directory)`."""

    load_tokens = _call(config_channels.load_tokens)
    find_channel = _call(config_rows.find_channel)
    find_channel_id = _call(config_channels.find_channel_id)
    find_channel_ids = _call(config_channels.find_channel_ids)
    known_channel_ids = _call(config_channels.known_channel_ids)
    list_channels = _call(config_channels.list_channels)
    channel_info = _call(config_channels.channel_info)
    create_channel = _call(config_channels.create_channel)
    put_channel = _call(config_channels.put_channel)
    delete_channel = _call(config_channels.delete_channel)
    set_flags = _call(config_channels.set_flags)
    create_token = _call(config_channels.create_token)
    delete_tokens = _call(config_channels.delete_tokens)

    load_drains = _call(config_drains.load_drains)
    find_drain = _call(config_drains.find_drain)
    reserve_drain = _call(config_drains.reserve_drain)
    create_drain = _call(config_drains.create_drain)
    set_drain = _call(config_drains.set_drain)
    delete_drain = _call(config_drains.delete_drain)

    find_credential = _call(config_access.find_credential)
    list_credentials = _call(config_access.list_credentials)
    credential_record = _call(config_access.credential_record)
    put_credential = _call(config_access.put_credential)
    delete_credential = _call(config_access.delete_credential)
    create_session = _call(config_access.create_session)
    find_session = _call(config_access.find_session)
    touch_sessions = _call(config_access.touch_sessions)
    load_state = _call(config_access.load_state)
    set_state = _call(config_access.set_state)

    def __init__(self, directory: Path) -> None:
        super().__init__(lambda: schema.connect(directory), "config")
        self.directory = directory

    async def __aenter__(self) -> "ConfigStore":
        await super().__aenter__()
        return self

    async def keep_copies(self) -> None:
        """Copy the config every hour in which it changed; never returns."""
        await copy_hourly(self.directory, lambda: self.run(_total_changes))


def _total_changes(db: sqlite3.Connection) -> int:
    return db.total_changes
