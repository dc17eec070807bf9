"""How much the sink has taken, where the generator sees it: eight bytes of memory that both have mapped.

The generator waits while it is a window ahead. Then a sink that is too slow, or has no processor to itself, slows the
load down, where a server without that would have to lose what its drain does not take.
"""

import mmap
import struct
import time
from pathlib import Path

WINDOW = 40_000
"""Messages on their way at most: the ring of one channel holds them all (65,536 lines, 16 MiB), and at full load this
keeps the server busy for longer than the generator ever sleeps."""

PAUSE_SECONDS = 0.0005
_COUNT = struct.Struct("=q")


class Taken:
    """The count in the file `path`, which must be there: both sides open it, one writes."""

    def __init__(self, path: str | Path) -> None:
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNT.size)

    def write(self, count: int) -> None:
        _COUNT.pack_into(self._memory, 0, count)

    def read(self) -> int:
        count: int = _COUNT.unpack_from(self._memory, 0)[0]
        return count

    def wait(self, sent: int, until: float) -> None:
        """Return when less than a window of what was sent is on its way, or at the time `until` (monotonic)."""
        while sent - self.read() > WINDOW and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)


def make(path: Path) -> Path:
    """A new count of 0."""
    path.write_bytes(bytes(_COUNT.size))
    return path
