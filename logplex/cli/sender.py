"""The sending half of `logplex ship`: one connection, batch after batch, each until it is acknowledged.

* A batch is tried again after a broken connection, a time-out and answers that pass with time (408, 429, 5xx), with
  back-off and the same bytes and id, so that the server stores it once. That lasts as long as the server is sure to
  know the id again; then the batch is counted as lost. Any other refusal is final at once, and said once.
* After the end of the input there are `grace_seconds` for what is left.
"""

import http.client
import random
import threading
import time
from urllib.parse import urlsplit

from .client import Failed, Server, translated
from .lineup import Batch, Buffer
from .terminal import note

ANSWER_SECONDS = 15.0  # a server under pressure holds its answers
RETRY_SECONDS = 240.0  # within the 5 minutes for which the server knows a frame id
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10.0


class Sender:
    """Sends what the buffer holds, in a thread of its own, until the buffer is closed and empty."""

    def __init__(self, logs: Server, buffer: Buffer, *, grace_seconds: float) -> None:
        self._logs = logs
        self._target = urlsplit(logs.base).path or "/"
        self._buffer = buffer
        self._grace_seconds = grace_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._ended = threading.Event()
        self._deadline: float | None = None
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Send what is left; returns when that is done, or does not get on when the grace is over."""
        self._deadline = time.monotonic() + self._grace_seconds
        self._ended.set()
        self._buffer.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (batch := self._buffer.next_batch()) is not None:
                began = time.time()
                if not self._deliver(batch):
                    self._buffer.give_up(batch, began)
                    if self._ended.is_set() and (self._over() or not batch.lines):
                        break
        finally:  # whoever waits for room in the buffer must not wait for ever
            self._disconnect()
            self._buffer.give_up_rest()

    def _over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _deliver(self, batch: Batch) -> bool:
        """Whether the server took it."""
        give_up = time.monotonic() + RETRY_SECONDS
        wait = FIRST_WAIT_SECONDS
        while True:
            reused = self._connection is not None
            try:
                status, text, retry_after = self._post(batch)
            except Failed as exc:
                self._disconnect()
                if reused:
                    continue  # an idle connection that the server had closed
                self._say(exc.message)
            else:
                if 200 <= status < 300:
                    self._said.clear()
                    return True
                self._say(f"the server answered {status}: {text}")
                if status not in (408, 429) and status < 500:
                    return False
                wait = max(wait, retry_after)
            pause = min(wait, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1)  # noqa: S311 - spreads retries
            if time.monotonic() + pause >= min(give_up, self._deadline or give_up):
                return False
            if self._ended.is_set():
                time.sleep(pause)
            else:
                self._ended.wait(pause)
            wait *= 2

    def _post(self, batch: Batch) -> tuple[int, str, float]:
        """Status, first line of the answer, and seconds that it asks us to wait."""
        if self._connection is None:
            self._connection = self._logs.connect(ANSWER_SECONDS)
        headers = self._logs.headers() | batch.headers()
        with translated(self._logs):
            self._connection.request("POST", self._target, body=batch.body, headers=headers)
            answer = self._connection.getresponse()
            body = answer.read(65536)
        if answer.will_close or not answer.isclosed():
            self._disconnect()
        after = answer.headers.get("Retry-After", "")
        text = body.decode("utf-8", "replace").strip()[:200]
        return answer.status, text, float(after) if after.isascii() and after.isdigit() else 0.0

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _say(self, what: str) -> None:
        """Once for each kind of trouble, until a batch gets through."""
        if what not in self._said:
            self._said.add(what)
            note(what)
