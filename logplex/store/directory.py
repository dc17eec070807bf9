"""The data directory: one server at a time, its files its owner's alone, and the proof that the spool is whole.

* `flock` on the file `lock`: a second server on the same directory does not start.
* `admin` (mode 0600) holds `ID:PASSWORD`, `http` the base URL of the running server: the other commands read them.
* `run` says how the last server ran and how it ended. The spool is *proven* whole after a clean stop; after a crash
  while it committed (a kernel that went on running keeps what was written: compare the boot id), or after any end
  under `fsync`. It is not after a crash of `none`, after a crash while degraded, after a power loss at less than
  `fsync`, and after a run that had no spool.
* A disk that takes no byte may still take a new name: `run` becomes `run.unproven` when it cannot be written.
"""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import SetupError

_UNPROVEN = "run.unproven"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DataDirectory:
    """An existing, locked directory; `close` gives the lock back."""

    def __init__(self, path: Path) -> None:
        """Make the directory when it is missing, and lock it; raises SetupError."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise SetupError(f"cannot use the data directory {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise SetupError(f"another server runs on the data directory {path}") from exc
        self._run: dict[str, Any] = {}
        self._writing = threading.Lock()  # notes come from several threads

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def write(self, name: str, text: str) -> None:
        """Write a small file that only the owner can read, whole or not at all."""
        temporary = self.path / f".{name}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)

    def read(self, name: str) -> str | None:
        """What such a file says; None when there is none."""
        try:
            return (self.path / name).read_text()
        except FileNotFoundError:
            return None

    def last_run(self) -> dict[str, Any]:
        """How the last server ran: durability, boot, clean, degraded_since; empty when there was none."""
        try:
            run = json.loads(self.read(_UNPROVEN) or self.read("run") or "{}")
        except ValueError:
            return {"unreadable": True}
        return run if isinstance(run, dict) else {"unreadable": True}

    def is_proven(self) -> bool:
        """Whether everything that the last server committed is in the spool."""
        run = self.last_run()
        if not run:
            return True  # nothing was ever written here
        if (self.path / _UNPROVEN).exists():
            return False
        if not run.get("keeps", True) or run.get("degraded_since") or run.get("damaged"):
            return False
        if run.get("durability") not in ("commit", "fsync") and not run.get("clean"):
            return False
        return _is_on_disk(run)

    def lost_power(self) -> bool:
        """Whether the machine went down under the last server, and what was not synced with it."""
        run = self.last_run()
        return bool(run) and not _is_on_disk(run)

    def begin_run(self, durability: str, *, keeps: bool = True) -> None:
        """From now on a crash is a crash of this run, which has a spool if it `keeps` anything."""
        self._run = {"durability": durability, "keeps": keeps, "boot": _boot_id(), "started": time.time()}
        self._run["clean"] = False
        self._write_run()

    def note_degraded(self, since: float | None) -> None:
        """The spool no longer takes lines, or does again (None). Raises OSError when not even this can be noted."""
        try:
            self._note("degraded_since", since)
        except OSError:
            if since is None:
                raise
            self._disprove()

    def note_damaged(self) -> None:
        """The spool is damaged: the next start sets it aside."""
        self._note("damaged", True)

    def end_run(self) -> None:
        """A clean stop: everything is on disk."""
        self._note("clean", True)

    def _note(self, key: str, value: object) -> None:
        with self._writing:
            self._run[key] = value
            self._write_run()

    def _write_run(self) -> None:
        self.write("run", json.dumps(self._run))
        (self.path / _UNPROVEN).unlink(missing_ok=True)

    def _disprove(self) -> None:
        with self._writing:
            if not (self.path / _UNPROVEN).exists():
                (self.path / "run").rename(self.path / _UNPROVEN)


def _is_on_disk(run: dict[str, Any]) -> bool:
    """Whether what a run wrote reached the disk, or a kernel that still runs has it."""
    return bool(run.get("clean") or run.get("durability") == "fsync" or run.get("boot") == _boot_id())


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
