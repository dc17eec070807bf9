"""Which handler answers which path."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, runtime_checkable

from .answer import Headers
from .request import Request

Handler = Callable[[Request], Awaitable[None]]


class Reply(Protocol):
    """Answers the request that was taken at once, without a body; must be called from trio's thread, once."""

    def __call__(self, status: int, headers: Headers = ()) -> None: ...


Taker = Callable[[Request, Reply], Handler | None]
"""Takes a request whose body is all there, without waiting: None where it calls (or has called) the reply, or a
handler that goes on in the connection's task. What it raises is treated as if a handler had raised it."""


@runtime_checkable
class Immediate(Protocol):
    """A handler that can do without a task switch what needs no waiting but for the reply."""

    async def __call__(self, request: Request) -> None: ...

    def at_once(self, request: Request, reply: Reply) -> Handler | None: ...


class Routes:
    """Raw handlers by path, and one for everything else (usually an `Asgi`).

    A path that ends in `*` stands for all that begin so; exact paths win, then the longest beginning. Paths are
    compared as they are sent, still escaped.
    """

    __slots__ = ("_at_once", "_beginnings", "_exact", "_fallback")

    def __init__(self, routes: Mapping[bytes, Handler], fallback: Handler) -> None:
        self._exact = {path: handler for path, handler in routes.items() if path[-1:] != b"*"}
        self._at_once = {path: handler.at_once for path, handler in routes.items() if isinstance(handler, Immediate)}
        beginnings = [(path[:-1], handler) for path, handler in routes.items() if path[-1:] == b"*"]
        self._beginnings = sorted(beginnings, key=lambda item: -len(item[0]))
        self._fallback = fallback

    def at_once(self, path: bytes) -> Taker | None:
        """What takes requests for an exact path at once, where its handler can."""
        return self._at_once.get(path)

    def find(self, path: bytes) -> Handler:
        """The handler of a path."""
        handler = self._exact.get(path)
        if handler is not None:
            return handler
        return next((handler for beginning, handler in self._beginnings if path.startswith(beginning)), self._fallback)


async def not_found(request: Request) -> None:
    """A fallback for listeners that have raw routes only."""
    await request.respond(404, ((b"content-type", b"text/plain"),), b"Not found")
