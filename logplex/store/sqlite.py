"""One SQLite database in a thread of its own.

* Calls run in the order in which they were made, each whole: a cancelled caller stops waiting, never the work
  (a half-run transaction would hold the write lock).
* The thread is ours, not trio's pool: forty hanging look-ups there would stop every commit.
* The thread waits for its calls in the kernel, not for a lock: who rings has let go of the interpreter, so that it can
  begin at once. A lock would wake it to wait again, for the interpreter.
* The connection never leaves the thread; errors of sqlite3 and of the file system come out as `StoreError`.
"""

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import outcome
import structlog
import trio

from ..errors import StoreError
from ..poller import CallSoon

log = structlog.get_logger()

CLOSE_SECONDS = 10.0

P = ParamSpec("P")
T = TypeVar("T")

_Job = Callable[[sqlite3.Connection], None]


class DatabaseThread:
    """A thread that owns one connection; use as `async with DatabaseThread(open) as thread`.

    `connect` is called in the thread and returns the connection; what it raises is raised on entering. `call_soon`
    brings what has ended to trio's thread; without it trio itself does.
    Leaving waits for the calls that are queued and closes the connection; a disk that hangs is not waited for longer
    than CLOSE_SECONDS.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], name: str, *, call_soon: CallSoon | None = None
    ) -> None:
        self._connect = connect
        self._call_soon = call_soon
        self._jobs: deque[_Job | None] = deque()
        self._bell = -1  # an eventfd that counts the jobs
        self._ended: deque[Callable[[], object]] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._opened = trio.Event()
        self._closed = trio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> "DatabaseThread":
        if self._call_soon is None:
            self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._thread.start()
        with trio.CancelScope(shield=True):
            await self._opened.wait()
        if self._failure is not None:
            self._close_bell()
            raise _translated(self._failure)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._put(None)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            await self._closed.wait()
            self._close_bell()
            return
        log.error("database_not_closed", name=self._thread.name, seconds=CLOSE_SECONDS)  # the thread is a daemon

    async def run(self, fn: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(connection, …)` in the thread and return what it returns; a cancel stops the waiting only."""
        done = trio.Event()
        result: list[outcome.Outcome[T]] = []

        def arrived(value: outcome.Outcome[T]) -> None:
            result.append(value)
            done.set()

        self.submit(fn, arrived, *args, **kwargs)
        await done.wait()
        return result[0].unwrap()

    def submit(
        self,
        fn: Callable[Concatenate[sqlite3.Connection, P], T],
        arrived: Callable[[outcome.Outcome[T]], None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Queue `fn(connection, …)`; `arrived` is called with its outcome in trio's thread. Never waits."""

        def job(connection: sqlite3.Connection) -> None:
            value = outcome.capture(fn, connection, *args, **kwargs)
            if isinstance(value, outcome.Error) and isinstance(value.error, sqlite3.Error | OSError):
                value = outcome.Error(_translated(value.error))
            self._ended.append(partial(arrived, value))
            self._tell(self.poll)

        self._put(job)

    def _put(self, job: _Job | None) -> None:
        self._jobs.append(job)
        os.eventfd_write(self._bell, 1)

    def _close_bell(self) -> None:
        bell, self._bell = self._bell, -1  # a call that comes too late must not reach another file
        os.close(bell)

    def _get(self) -> _Job | None:
        os.eventfd_read(self._bell)
        return self._jobs.popleft()

    def poll(self) -> None:
        """Tell what has ended, in trio's thread: a busy loop may look before it is told to."""
        ended = self._ended
        while ended:
            ended.popleft()()

    def _run(self) -> None:
        try:
            connection = self._connect()
        except BaseException as exc:  # noqa: BLE001 - carried over to the opener, whatever it is
            self._failure = exc
            self._tell(self._opened.set)
            return
        self._tell(self._opened.set)
        try:
            while (job := self._get()) is not None:
                job(connection)
        finally:
            with contextlib.suppress(sqlite3.Error):  # nothing is lost: every call was a transaction
                connection.close()
            self._tell(self._closed.set)

    def _tell(self, fn: Callable[[], object]) -> None:
        assert self._call_soon is not None
        try:
            self._call_soon(fn)
        except trio.RunFinishedError:
            return  # the loop is gone; nobody waits any more


def _translated(exc: BaseException) -> BaseException:
    if isinstance(exc, sqlite3.Error | OSError):
        error = StoreError(str(exc))
        error.__cause__ = exc
        return error
    return exc
