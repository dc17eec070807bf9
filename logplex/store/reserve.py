"""A file of 16 MiB that is given up when the disk is full, so that the spool can go on and forget something.

Deleting from a database needs a little space itself: its log grows before it shrinks.
"""

import os
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024
SPARE_BYTES = 4 * RESERVE_BYTES  # free space at which a reserve is made again


class Reserve:
    """The reserve of one directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "reserve"

    @property
    def held(self) -> bool:
        """Whether there is something to give up."""
        return self.path.exists()

    def make(self) -> bool:
        """Make the reserve unless it is there or space is scarce: whether it is there now."""
        if self.held:
            return True
        if free_bytes(self.path.parent) < SPARE_BYTES:
            return False
        descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self.path.unlink()
            return False
        finally:
            os.close(descriptor)
        return True

    def give_up(self) -> bool:
        """Free its space: whether there was one."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True


def free_bytes(path: Path) -> int:
    """What the disk of `path` has left for us."""
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize
