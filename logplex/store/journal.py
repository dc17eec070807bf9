"""A file that takes each group as it is committed, until the tables have taken them over (writer.py).

Rules (tests/store/test_journal.py):

* A record is `key, length, checksum` and its payload. It is committed once it is written whole, and with `fsync`
  synced; one that is not whole is none, and the next is written over it.
* The records of a *round* stand one behind the other from the start of the file. The next round is written over them:
  the same blocks and the same memory of the kernel again and again.
* The tables name the round. Its key is random: neither what an older round left behind nor a line that somebody sent
  can pass for a record.

All of it runs in the thread that writes.
"""

import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from .disk import sync, write_all

FILE_NAME = "journal"
KEY_BYTES = 16

Write = Callable[[int, list[bytes], int], None]
"""(descriptor, buffers, position): writes all of them; tests hand in one that fails."""

_HEAD = struct.Struct(f"<{KEY_BYTES}sII")


class Journal:
    """The journal of one spool; `open`, `begin` and then `write`; `close` in the end."""

    def __init__(self, folder: Path, *, fsync: bool, write: Write = write_all) -> None:
        self.path = folder / FILE_NAME
        self.end = 0  # bytes of this round
        self._fsync = fsync
        self._write = write
        self._key = b""
        self._descriptor = -1

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.exists()

    def open(self) -> None:
        """Open the file, made where it is missing; raises OSError."""
        made = not self.exists
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if made and self._fsync:
            sync(self.path.parent)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def begin(self, key: bytes) -> None:
        """The round of this key begins: the tables have all that was written before."""
        self._key = key
        self.end = 0

    def payloads(self) -> Iterator[bytes]:
        """The records of this round in the file, up to the first that is not whole; writing goes on behind them."""
        size = os.fstat(self._descriptor).st_size
        while self.end + _HEAD.size <= size:
            key, length, checksum = _HEAD.unpack(os.pread(self._descriptor, _HEAD.size, self.end))
            if key != self._key or self.end + _HEAD.size + length > size:
                return
            payload = os.pread(self._descriptor, length, self.end + _HEAD.size)
            if len(payload) != length or zlib.crc32(payload) != checksum:
                return
            self.end += _HEAD.size + length
            yield payload

    def write(self, payload: bytes) -> None:
        """Commit one record; raises OSError, and then it is none."""
        head = _HEAD.pack(self._key, len(payload), zlib.crc32(payload))
        self._write(self._descriptor, [head, payload], self.end)
        if self._fsync:
            os.fdatasync(self._descriptor)
        self.end += len(head) + len(payload)


def new_key() -> bytes:
    """The key of a round."""
    return secrets.token_bytes(KEY_BYTES)
