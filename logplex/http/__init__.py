"""A small HTTP/1.1 server on trio: `Server`, `Listener`, `Routes`; `Request` and `Stream` for raw handlers; `Asgi`."""

from .answer import Headers
from .asgi import Asgi
from .refusal import ClientGone, Refusal
from .request import Request
from .routes import Handler, Reply, Routes, not_found
from .server import Listener, Server
from .stream import Stream

__all__ = [
    "Asgi",
    "ClientGone",
    "Handler",
    "Headers",
    "Listener",
    "Refusal",
    "Reply",
    "Request",
    "Routes",
    "Server",
    "Stream",
    "not_found",
]
