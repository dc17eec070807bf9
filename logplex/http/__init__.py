"""A small HTTP/1.1 server on trio: `Server`, `Listener`, `Routes`; `Request` and `Stream` for raw handlers; `Asgi`."""

from .asgi import Asgi
from .refusal import ClientGone, Refusal
from .request import Request
from .routes import Handler, Routes, not_found
from .server import Listener, Server
from .stream import Stream

__all__ = [
    "Asgi",
    "ClientGone",
    "Handler",
    "Listener",
    "Refusal",
    "Request",
    "Routes",
    "Server",
    "Stream",
    "not_found",
]
