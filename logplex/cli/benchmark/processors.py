"""What the processors that we may use are doing, ours and everybody's work together."""

import os
from collections.abc import Iterable, Set
from pathlib import Path

_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal of proc_stat(5); between them idle and iowait


def ours() -> set[int]:
    return os.sched_getaffinity(0)


def busy_seconds() -> float:
    """How long they have been busy since the machine started, added up; differences of it are of use."""
    return busy(Path("/proc/stat").read_text().splitlines(), ours()) / os.sysconf("SC_CLK_TCK")


def busy(lines: Iterable[str], processors: Set[int]) -> int:
    """The busy ticks of those processors in the lines of /proc/stat."""
    wanted = {f"cpu{number}" for number in processors}
    rows = [row for row in (line.split() for line in lines) if row and row[0] in wanted]
    return sum(int(row[1 + place]) for row in rows for place in _BUSY)
