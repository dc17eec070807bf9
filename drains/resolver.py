"""Names to addresses, without one bad name server slowing anybody else.

Rules:

* Look-ups run in threads under limits of their own: 64 in all, 2 per app. The C library cannot be interrupted, so a
  look-up that hangs keeps its place until it ends, though nobody waits for it longer than 5 s.
* Apps whose last look-up timed out get half the places only: names that never answer cannot take them all.
* Answers are kept 60 s, failures a few seconds. When an answer is too old and the next look-up fails, the old one
  serves: every address is checked by the policy again anyway.
"""

import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

import trio

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
        self._suspects = Share(max(1, limits.look_ups // 2), limits.look_ups_per_app)
        self._threads = trio.CapacityLimiter(limits.look_ups + 1)
        self._slow: OrderedDict[int, None] = OrderedDict()
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    async def resolve(self, host: str, app: int) -> list[str]:
        """See Resolver; a name that is in the cache costs nothing."""
        now = trio.current_time()
        known = self._answers.get(host)
        if known is None or known.expires <= now:
            known = self._remember(host, await self._ask(host, app, known))
        if known.error:
            raise Failure("dns", known.error)
        return known.addresses

    async def _ask(self, host: str, app: int, known: _Answer | None) -> _Answer:
        shares = [self._suspects, self._all] if app in self._slow else [self._all]
        error = "the name's look-up took too long"
        with trio.move_on_after(self._limits.look_up_seconds) as scope:
            result = await self._in_thread(host, app, shares)
            if not isinstance(result, str):
                self._slow.pop(app, None)
                return _Answer(result, "", trio.current_time() + self._limits.look_up_cache_seconds)
            error = result
        if scope.cancelled_caught:
            self._slow[app] = None
            if len(self._slow) > MAX_NAMES:
                self._slow.popitem(last=False)
        expires = trio.current_time() + FAILURE_SECONDS
        if known is not None and known.addresses:
            return _Answer(known.addresses, "", expires)
        return _Answer([], error, expires)

    async def _in_thread(self, host: str, app: int, shares: list[Share]) -> list[str] | str:
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

        started = False
        try:
            for share in shares:
                await share.take(app, 1)
                taken.append(share)
            await trio.lowlevel.checkpoint_if_cancelled()  # past this the thread will run
            started = True
            return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._threads)
        finally:
            if not started:
                give_back()

    def _remember(self, host: str, answer: _Answer) -> _Answer:
        self._answers[host] = answer
        self._answers.move_to_end(host)
        if len(self._answers) > MAX_NAMES:
            self._answers.popitem(last=False)
        return answer


def _reason(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, socket.gaierror):
        if exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return "the name does not exist"
        if exc.errno == socket.EAI_AGAIN:
            return "the name server did not answer"
    return "the name cannot be looked up"
