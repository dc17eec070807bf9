"""Names to addresses, without one bad name server slowing anybody else.

Rules:

* Look-ups run in threads under limits of their own: 64 in all, 2 per app. The C library cannot be interrupted, so a
  look-up that hangs keeps its place until it ends, though nobody waits for it longer than 5 s.
* Names that never answer cannot take all places: apps whose last look-up timed out get half of them, names that were
  never answered three quarters. Who only waited for a place is not blamed for it.
* A name is looked up once for all who want it at the same moment.
* Answers are kept 60 s, failures a few seconds. When an answer is too old and the next look-up fails, the old one
  serves: every address is checked by the policy again anyway.
"""

import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

import trio

from .backoff import spread
from .limits import Limits, Share
from .status import Failure

MAX_NAMES = 10_000
FAILURE_SECONDS = 5.0
MAX_ADDRESSES = 8  # of one name


class Resolver(Protocol):
    """Who turns names into addresses."""

    async def resolve(self, host: str, app: int) -> list[str]:
        """Addresses of a name, as text, in the order to be tried. Raises Failure of kind `dns`."""


class _Answer(NamedTuple):
    addresses: list[str]
    error: str
    expires: float


def look_up(host: str) -> list[str]:
    """Ask the system; blocks. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]


class SystemResolver:
    """The system's resolver behind a cache and limits."""

    def __init__(self, limits: Limits, *, look_up: Callable[[str], list[str]] = look_up) -> None:
        self._limits = limits
        self._look_up = look_up
        self._all = Share(limits.look_ups, limits.look_ups_per_app)
        self._strangers = Share(max(1, limits.look_ups * 3 // 4), limits.look_ups_per_app)
        self._suspects = Share(max(1, limits.look_ups // 2), limits.look_ups_per_app)
        self._threads = trio.CapacityLimiter(limits.look_ups + 1)
        self._slow: OrderedDict[int, None] = OrderedDict()
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, trio.Event] = {}  # names that are being looked up for whoever wants them

    async def resolve(self, host: str, app: int) -> list[str]:
        """See Resolver; a name that is in the cache costs nothing."""
        known = self._answers.get(host)
        if known is None or known.expires <= trio.current_time():
            known = await self._ask(host, app, known)
        if known.error:
            raise Failure("dns", known.error)
        return known.addresses

    async def _ask(self, host: str, app: int, old: _Answer | None) -> _Answer:
        """A new answer, or the old addresses, or why there are none."""
        started = trio.Event()
        with trio.move_on_after(spread(self._limits.look_up_seconds)):
            while (asking := self._asking.get(host)) is not None and app not in self._slow:
                await asking.wait()
                known = self._answers.get(host)
                if known is not None and known.expires > trio.current_time():
                    return known
            with self._asks(host, app):
                result = await self._in_thread(host, app, self._shares(app, old), started)
                if isinstance(result, str):
                    return self._failed(host, old, result)
                self._slow.pop(app, None)
                expires = trio.current_time() + self._limits.look_up_cache_seconds
                return self._remember(host, _Answer(result, "", expires))
        if not started.is_set():
            return _usable(old) or _Answer([], "too many look-ups are waiting", 0.0)
        self._slow[app] = None
        if len(self._slow) > MAX_NAMES:
            self._slow.popitem(last=False)
        return self._failed(host, old, "the name's look-up took too long")

    def _shares(self, app: int, old: _Answer | None) -> list[Share]:
        """Where a look-up needs a place, in this order."""
        shares = [self._suspects] if app in self._slow else []
        if not _usable(old):
            shares.append(self._strangers)
        return [*shares, self._all]

    @contextmanager
    def _asks(self, host: str, app: int) -> Iterator[None]:
        """Others who want the same name wait for this look-up; not for one of an app that has to wait itself."""
        if app in self._slow:
            yield
            return
        asking = self._asking[host] = trio.Event()
        try:
            yield
        finally:
            del self._asking[host]
            asking.set()

    def _failed(self, host: str, old: _Answer | None, error: str) -> _Answer:
        """The next look-up of this name comes a little later."""
        addresses = old.addresses if old is not None else []
        expires = trio.current_time() + FAILURE_SECONDS
        return self._remember(host, _Answer(addresses, "" if addresses else error, expires))

    async def _in_thread(self, host: str, app: int, shares: list[Share], started: trio.Event) -> list[str] | str:
        """The addresses, or why there are none. The places are given back when the thread ends, not before."""
        taken: list[Share] = []
        token = trio.lowlevel.current_trio_token()

        def give_back() -> None:
            for share in taken:
                share.give_back(app, 1)

        def run() -> list[str] | str:
            try:
                return self._look_up(host) or "the name has no address"
            except (OSError, UnicodeError) as exc:
                return _reason(exc)
            finally:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(give_back)

        try:
            for share in shares:
                await share.take(app, 1)
                taken.append(share)
            await trio.lowlevel.checkpoint_if_cancelled()  # past this the thread will run
            started.set()
            return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._threads)
        finally:
            if not started.is_set():
                give_back()

    def _remember(self, host: str, answer: _Answer) -> _Answer:
        self._answers[host] = answer
        self._answers.move_to_end(host)
        if len(self._answers) > MAX_NAMES:
            self._answers.popitem(last=False)
        return answer


def _usable(answer: _Answer | None) -> _Answer | None:
    """The answer if it has addresses, however old."""
    return answer if answer is not None and answer.addresses else None


def _reason(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, socket.gaierror):
        if exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return "the name does not exist"
        if exc.errno == socket.EAI_AGAIN:
            return "the name server did not answer"
    return "the name cannot be looked up"
