"""Which handler answers which path."""

from collections.abc import Awaitable, Callable, Mapping

from .request import Request

Handler = Callable[[Request], Awaitable[None]]


class Routes:
    """Raw handlers by path, and one for everything else (usually an `Asgi`).

    A path that ends in `*` stands for all that begin so; exact paths win, then the longest beginning. Paths are
    compared as they are sent, still escaped.
    """

    __slots__ = ("_beginnings", "_exact", "_fallback")

    def __init__(self, routes: Mapping[bytes, Handler], fallback: Handler) -> None:
        self._exact = {path: handler for path, handler in routes.items() if path[-1:] != b"*"}
        beginnings = [(path[:-1], handler) for path, handler in routes.items() if path[-1:] == b"*"]
        self._beginnings = sorted(beginnings, key=lambda item: -len(item[0]))
        self._fallback = fallback

    def find(self, path: bytes) -> Handler:
        """The handler of a path."""
        handler = self._exact.get(path)
        if handler is not None:
            return handler
        return next((handler for beginning, handler in self._beginnings if path.startswith(beginning)), self._fallback)


async def not_found(request: Request) -> None:
    """A fallback for listeners that have raw routes only."""
    await request.respond(404, ((b"content-type", b"text/plain"),), b"Not found")
