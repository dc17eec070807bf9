"""The admin credential: made on the first start, in a file that only its owner can read."""

from pathlib import Path

import trio

from ..config import Settings
from ..registry import Registry
from ..store.config import ConfigStore
from ..store.directory import DataDirectory

PERMISSIONS = ("full_api", "any_channel")
ADMIN = "admin"


async def ensure_admin(registry: Registry, directory: DataDirectory, given: tuple[str, str] | None) -> None:
    """Store the credential that was given, or make one when there is none; the file `admin` always holds it."""
    if given is not None:
        await registry.create_credential(given[0], PERMISSIONS, given[1], replace=True)
        directory.write("admin", f"{given[0]}:{given[1]}\n")
    elif directory.read("admin") is None:
        await _make(registry, directory)


def reset_admin(path: Path) -> str:
    """Make a new admin password in the data directory of a stopped server; returns `ID:PASSWORD`."""

    async def reset() -> str:
        directory = DataDirectory(path)
        try:
            async with ConfigStore(path) as store:
                return await _make(Registry(store, Settings()), directory)
        finally:
            directory.close()

    return trio.run(reset)


async def _make(registry: Registry, directory: DataDirectory) -> str:
    _, password = await registry.create_credential(ADMIN, PERMISSIONS, replace=True)
    line = f"{ADMIN}:{password}"
    directory.write("admin", line + "\n")
    return line
