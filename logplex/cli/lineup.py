"""What `logplex ship` does between a reader and a sender, without I/O: lines, the buffer, batches, losses.

* A line ends at LF, CR LF, or the end of its input. One of more than 10,000 bytes becomes several messages; one that
  does not end is handed on by pieces, so that it never grows memory.
* The buffer is bounded in bytes. When it is full the newest lines are dropped, or their writer has to wait.
* A batch holds at most 500 lines, and is due when it is full or its first line is 250 ms old (log-shuttle's numbers).
  Its frames are rendered once: a retry sends the same bytes under the same id.
* Own losses are the first messages of the next batch, written as log-shuttle writes them (protocol section 3), so
  that the server recognises them: L12 counts lines dropped because the buffer was full, L13 lines that could not be
  sent. They stand in the headers too, which the server counts by.
"""

import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from ..config import MIB
from ..message import field, split

BATCH_LINES = 500
BATCH_BYTES = MIB  # a tenth of what the server takes
BATCH_SECONDS = 0.25
BUFFER_BYTES = 16 * MIB
PIECE_BYTES = 64 * 1024  # of a line without end


class Lines:
    """Cuts bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + received).split(b"\n")
        while len(self._rest) > PIECE_BYTES:
            first, *others = split(self._rest)
            lines.append(first)
            self._rest = b"".join(others)
        return [line.removesuffix(b"\r") for line in lines]

    def end(self) -> list[bytes]:
        """The last line when it had no end."""
        rest, self._rest = self._rest, b""
        return [rest.removesuffix(b"\r")] if rest else []


class Header:
    """What stands around the time in each message's header; `app` is the token where the request names none."""

    def __init__(self, priority: int, host: str, app: str, process: str) -> None:
        host_, self.app, process_ = (field(value.encode(), 128) or b"-" for value in (host, app, process))
        self._before = b"<%d>1 " % priority
        self._after = b" %s %s %s - - " % (host_, self.app, process_)

    def render(self, moment: bytes, text: bytes) -> bytes:
        message = self._before + moment + self._after + text
        return b"%d %s" % (len(message), message)

    def loss(self, code: str, what: str, loss: "Loss", moment: bytes) -> bytes:
        """log-shuttle's own message about a loss."""
        text = f"Error {code}: {loss.count} messages {what} since ".encode() + timestamp(loss.since)
        return Header(172, "heroku", self.app.decode(), "log-shuttle").render(moment, text)


@dataclass(slots=True)
class Loss:
    """So many lines since then."""

    count: int = 0
    since: float = 0.0

    def add(self, count: int, since: float) -> None:
        self.since = min(self.since, since) if self.count else since
        self.count += count


class Batch(NamedTuple):
    """One request: `lines` of the input are in it, and these losses are told by it."""

    id: str
    body: bytes
    frames: int
    lines: int
    dropped: Loss
    lost: Loss

    def headers(self) -> dict[str, str]:
        found = {"Content-Type": "application/logplex-1", "Logplex-Msg-Count": str(self.frames)}
        found["Logplex-Frame-Id"] = self.id
        if self.dropped.count:
            found["Logplex-Drop-Count"] = str(self.dropped.count)
        if self.lost.count:
            found["Logplex-Lost-Count"] = str(self.lost.count)
        return found


@lru_cache(maxsize=16)  # all lines of one read have the same
def timestamp(seconds: float) -> bytes:
    """UTC with microseconds, as log-shuttle writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00").encode()


class Buffer:
    """Lines between the thread that reads and the one that sends; safe between the two."""

    def __init__(self, header: Header, *, wait: bool, limit: int = BUFFER_BYTES) -> None:
        self._header = header
        self._wait = wait
        self._limit = limit
        self._lines: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._dropped = Loss()
        self._lost = Loss()
        self.lost_lines = 0
        """Lines dropped or lost since the start."""

    def put(self, lines: list[bytes], now: float, *, wait: bool = True) -> None:
        """Take lines read at `now` (unix seconds); waits while full when it was made so, else drops what is over."""
        with self._changed:
            for line in lines:
                while wait and self._wait and self._bytes >= self._limit:
                    self._changed.notify_all()
                    self._changed.wait()
                if self._bytes >= self._limit:
                    self._dropped.add(1, now)
                    self.lost_lines += 1
                    continue
                self._lines.append((now, line))
                self._bytes += len(line) + 1
            self._changed.notify_all()

    def close(self) -> None:
        """No more lines will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def next_batch(self) -> Batch | None:
        """The next batch as soon as it is due; None when closed and everything, losses included, was taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            age = time.time() - self._lines[0][0] if self._lines else BATCH_SECONDS
            self._changed.wait_for(self._is_full, BATCH_SECONDS - max(0.0, age))
            if not self._lines and not self._dropped.count and not self._lost.count:
                return None
            batch = self._render()
            self._changed.notify_all()
            return batch

    def _is_full(self) -> bool:
        return len(self._lines) >= BATCH_LINES or self._bytes >= BATCH_BYTES or self._closed

    def _render(self) -> Batch:
        frames = []
        now = timestamp(self._lines[0][0] if self._lines else time.time())
        dropped, self._dropped = self._dropped, Loss()
        lost, self._lost = self._lost, Loss()
        if dropped.count:
            frames.append(self._header.loss("L12", "dropped", dropped, now))
        if lost.count:
            frames.append(self._header.loss("L13", "lost", lost, now))
        lines = size = 0
        while self._lines and lines < BATCH_LINES and size < BATCH_BYTES:
            at, line = self._lines.popleft()
            moment = timestamp(at)
            frames += [self._header.render(moment, text) for text in split(line)]
            lines += 1
            size += len(line) + 1
        self._bytes -= size
        return Batch(uuid.uuid4().hex.upper(), b"".join(frames), len(frames), lines, dropped, lost)

    def give_up(self, batch: Batch, since: float) -> None:
        """Count a batch that could not be sent; the losses that it was to tell are told by the next one."""
        with self._changed:
            if batch.dropped.count:
                self._dropped.add(*_parts(batch.dropped))
            if batch.lost.count:
                self._lost.add(*_parts(batch.lost))
            if batch.lines:
                self._lost.add(batch.lines, since)
                self.lost_lines += batch.lines

    def give_up_rest(self) -> None:
        """Count what is still here; nobody will send it any more, or be told."""
        with self._changed:
            self.lost_lines += len(self._lines)
            self._lines.clear()
            self._bytes = 0
            self._wait = False
            self._changed.notify_all()


def _parts(loss: Loss) -> tuple[int, float]:
    return loss.count, loss.since
