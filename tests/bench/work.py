"""What a server is asked to do, and what is read off it meanwhile.

CPU is that of the whole process, all threads, from its clock; memory is the kernel's high-water mark.
"""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

REST_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a server is asked to do: lines in by one door, out to the sink's `port` by another."""

    entrance: str = "tcp"  # tcp, tls, http
    exit: str = "tcp"  # tcp, tls, http
    port: int = 0
    channels: int = 1
    drains: int = 1  # of each channel
    tokens: int = 100  # over all channels
    busy: int = 0  # lines come for the first so many channels, once all have had one; 0: for all, and at once
    bad: int = 0  # so many of the last channels drain to peers that hurt
    bad_places: tuple[str, ...] = ()  # where those are, HOST:PORT, in turn; a `*` becomes the channel's number
    name_server: int = 0  # the port of one that never answers, for the names among them
    settle_seconds: float = 0.0  # then, before the measurement
    durability: str = "commit"
    tls: dict[str, str] | None = None  # files of the sink's and the server's certificate
    environment: dict[str, str] = field(default_factory=dict)  # settings of this server beside the defaults


class Running:
    """A server under measurement: where lines go in, under which tokens, and what it has spent so far."""

    def __init__(self, pid: int, port: int, tokens: list[tuple[str, int]]) -> None:
        self.pid = pid
        self.port = port
        self.tokens = tokens
        self.authorization = ""  # of a credential that may write everywhere, where there is one

    def cpu_seconds(self) -> float:
        """Processor time of the process, its threads included, ended ones too."""
        return time.clock_gettime((~self.pid << 3) | 2)  # the clock id that clock_getcpuclockid(3) gives

    def rest(self) -> None:
        """Wait until it has nothing left to do: less than a tenth of its core for half a second."""
        deadline = time.monotonic() + REST_SECONDS
        spent = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.5)
            spent, before = self.cpu_seconds(), spent
            if spent - before < 0.05:
                return
        raise RuntimeError(f"the server still works after {REST_SECONDS} s")

    def open_files(self) -> int:
        """How many files, connections among them, it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, what: str = "VmHWM") -> int:
        """Bytes: `VmHWM` is the peak of the resident set, `VmRSS` what it is now."""
        found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024
