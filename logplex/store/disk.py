"""Small calls on files and folders."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUFFERS = 512  # of one call; the kernel takes 1,024


def write_all(descriptor: int, data: list[bytes], at: int) -> None:
    """Write all buffers behind each other from `at` on, however few the kernel takes at once; raises OSError."""
    for first in range(0, len(data), _BUFFERS):
        buffers: list[bytes | memoryview] = list(data[first : first + _BUFFERS])
        while buffers:
            written = os.pwritev(descriptor, buffers, at)
            at += written
            while buffers and written >= len(buffers[0]):
                written -= len(buffers.pop(0))
            if written:
                buffers[0] = memoryview(buffers[0])[written:]


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk; raises OSError."""
    with opened(path) as file:
        os.fsync(file)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a file or folder, to be read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
