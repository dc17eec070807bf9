"""Transactions of the store: what goes into them, and what becomes of their lines.

Rules (tests/test_commit.py, tests/test_behind.py):

* One transaction holds lines and everything that changed with them: cursors, counters, request ids, closed pages.
* A group is shown, and who waits for it is told, when it is known what became of its transaction. Lines that were
  shown before are only counted then.
* What a failed transaction carried is due again, and so is what was shown without one (catchup.py). A group is not
  stored before what is due.
* Where nobody follows a channel, the rings hold nothing of it that is stored.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from .behind import Behind
from .catchup import CatchUp, ClosedPage, Work
from .dedupe import First
from .errors import StoreError
from .group import Group, Outcome, Sealed

CLOSED_PAGES = 1000  # that are shown


class Spool(Protocol):
    """Where groups are written (store/spool.py)."""

    def start(self, work: Work, arrived: Callable[[StoreError | None], None]) -> None:
        """Commit one transaction; `arrived` is told in the loop what came of it. Never waits."""

    def poll(self) -> None:
        """Tell of what has ended now: a busy loop would come to it late."""


class Write:
    """One transaction on its way; with a group or what was shown before, unless it only catches up."""

    def __init__(self, work: Work, source: Group | Behind | None = None, sealed: list[Sealed] | None = None) -> None:
        self.work = work
        self.source = source
        self.sealed = sealed or []
        self.began = 0.0  # trio's time
        self.done = trio.Event()
        self.error: StoreError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it is known to be on disk."""
        return self.done.is_set() and self.error is None

    def again(self) -> "Write":
        """The same, for another try."""
        return Write(self.work, self.source, self.sealed)


class Writes:
    """Composes transactions, has them committed, shows and counts; with `show_first` lines are shown before."""

    def __init__(self, spool: Spool | None, *, show_first: bool) -> None:
        self.cursors: Callable[[], list[tuple[object, ...]]] = list
        self.node_row: Callable[[], dict[str, object]] = dict
        self.keep: Callable[[First], None] = lambda first: None
        self.show_first = show_first
        self.due = CatchUp()
        self.closed: deque[tuple[int, dict[str, object]]] = deque(maxlen=CLOSED_PAGES)
        """Closed pages, the newest of a week, by the time (unix ns) at which they were closed."""
        self._spool = spool
        self._closed_number = 0
        self._saved_node: dict[str, object] = {}

    def close_page(self, row: dict[str, object], drain_id: int | None) -> None:
        """Save a page for the last time, with the next transaction."""
        self._closed_number = max(time.time_ns(), self._closed_number + 1)
        page = ClosedPage(self._closed_number, row, drain_id)
        self.closed.append((page.number, row))
        if self._spool is not None:
            self.due.close(page)

    def has_news(self) -> bool:
        """Whether something changed that no transaction has taken."""
        self.due.moved(self.cursors())
        return bool(self.due) or self.node_row() != self._saved_node

    def compose(self, write: Write | None = None, *, take: bool = True, max_bytes: int | None = None) -> Work:
        """The transaction of a write, with what is due, of its lines at most `max_bytes`, unless `take` is false."""
        work = Work(node=self.node_row())
        if write is not None and write.source is not None:
            source = write.source
            work.batches = [*write.sealed]
            if source.ids:
                wall = time.time()
                work.ids = [first.row(wall) for first in source.ids]
            work.pages = source.touched
        self.due.moved(self.cursors())
        if take:
            self.due.take(work, max_bytes)
        if self.show_first:
            work.healed = len(work.batches)  # all of them have been shown
        return work

    def start(self, write: Write, ended: Callable[[Write], None] | None = None) -> None:
        """Send it to the store; `ended` is called when it is known what came of it, before `write.done` is set."""
        assert self._spool is not None

        def arrived(error: StoreError | None) -> None:
            write.error = error
            if error is None:
                self._saved_node = write.work.node
            if ended is not None:
                ended(write)
            write.done.set()

        self._spool.start(write.work, arrived)

    def poll(self) -> None:
        """Hear of what has ended now."""
        if self._spool is not None:
            self._spool.poll()

    def stored(self, write: Write) -> None:
        """It is on disk: count its lines, and show those that nobody has seen."""
        self.count_stored(write.work, write.work.healed)
        if isinstance(write.source, Group):
            self.show(write.sealed, stored=True)
            self.settle(write.source, Outcome.DONE)

    def lacks(self, write: Write, work: Work | None) -> None:
        """Show lines that the store lacks; `work` is what would have gone with them, if it is not on its way."""
        if work is not None:
            self.due.put_back(work)
        self.due.shown(write.sealed)
        if isinstance(write.source, Group):
            self.show(write.sealed, stored=False)
            self.settle(write.source, Outcome.MEMORY)

    def count_stored(self, work: Work, batches: int) -> None:
        """It is on disk, the first `batches` of it from memory."""
        self.due.stored(work)
        for channel, batch in work.batches[:batches]:
            channel.page.memory -= batch.count
            channel.page.stored += batch.count

    def show(self, sealed: list[Sealed], *, stored: bool) -> None:
        """Let everyone see the lines, and count them."""
        for channel, batch in sealed:
            count = batch.count
            page = channel.page
            page.writing -= count
            if stored:
                page.stored += count
            else:
                page.memory += count
            if channel.removed:
                continue
            if stored and not channel.followers:  # a reader finds them, and all before them, in the spool
                channel.pass_over(batch.end)
            else:
                channel.append(batch)

    def settle(self, group: Group, outcome: Outcome) -> None:
        """Tell who waits, and the input window, also for requests whose client is gone."""
        for first in group.ids:
            self.keep(first)
        group.settle(outcome)
