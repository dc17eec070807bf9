"""Disks that fail and hang, for a server that runs as root, where file modes refuse nothing.

* A disk that *fails*: a limit on the size of files, set on the running process, makes each write to a database an
  I/O error (`setrlimit(2)`, RLIMIT_FSIZE; Python ignores SIGXFSZ). Small files can be written, as on a full disk
  whose reserve was given up.
* A disk that is *dead*: as above, and not even a byte can be written to a file. Names can be removed.
* A disk that *hangs*: another process' write lock on the spool, behind which commits wait, and then fail.
"""

import contextlib
import resource
import sqlite3
from pathlib import Path

_SMALL_BYTES = 4096  # less than a page of a database and its head


class Disk:
    """The disk under one data directory; one trouble at a time."""

    def __init__(self, directory: Path) -> None:
        self._spool = directory / "spool.db"
        self._lock: sqlite3.Connection | None = None
        self._failing: int | None = None

    def fail(self, pid: int, *, dead: bool = False) -> None:
        """From now on the process cannot write to its databases, or to no file at all."""
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if dead else _SMALL_BYTES, hard))
        self._failing = pid

    def hang(self) -> None:
        """From now on no transaction on the spool begins."""
        lock = sqlite3.connect(self._spool, timeout=1.0, isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # a commit of the server's own is long enough for once
            lock.close()
            return
        self._lock = lock

    def heal(self) -> None:
        """End either trouble; the process may be gone."""
        if self._failing is not None:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(self._failing, resource.RLIMIT_FSIZE)
                resource.prlimit(self._failing, resource.RLIMIT_FSIZE, (hard, hard))
            self._failing = None
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None
