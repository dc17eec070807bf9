"""Runs an ASGI application (Starlette) as the handler of a route: scope `http` only.

* The body is read whole before the application starts, within `max_body_bytes`: management requests are small.
* `receive` gives the body once; afterwards it waits until the answer has ended, or could not be sent any more.
* An answer sent in one piece goes out with its length, one sent in several as a stream with backpressure. Sending
  to a client that has gone raises OSError, as ASGI 2.4 says; that ends the request quietly.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

import trio

from .refusal import ClientGone
from .request import Request
from .stream import Stream

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Asgi:
    """A handler for routes."""

    __slots__ = ("_app", "_max_body_bytes")

    def __init__(self, app: App, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, request: Request) -> None:
        """Answer one request. An exception of the application goes to the server, which answers 500."""
        exchange = _Exchange(request, await request.body(self._max_body_bytes))
        try:
            await self._app(_scope(request), exchange.receive, exchange.send)
        except Exception as exc:
            if exchange.client_gone:  # whatever the application has made of the OSError
                raise ClientGone from exc
            raise
        if not exchange.ended.is_set():
            raise RuntimeError("the application has not ended its answer")


class _Exchange:
    def __init__(self, request: Request, body: bytes) -> None:
        self._request = request
        self._body: bytes | None = body
        self._start: Message | None = None
        self._stream: Stream | None = None
        self.ended = trio.Event()
        self.client_gone = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            raise RuntimeError(f"{message['type']} has no place here")
        try:
            await self._send_body(message.get("body", b""), last=not message.get("more_body", False))
        except ClientGone as exc:
            self.client_gone = True
            self.ended.set()
            raise OSError("the client has gone") from exc

    async def _send_body(self, body: bytes, *, last: bool) -> None:
        assert self._start is not None
        status, headers = self._start["status"], tuple(self._start.get("headers", ()))
        if last and self._stream is None:
            await self._request.respond(status, headers, body)
        else:
            if self._stream is None:
                self._stream = await self._request.stream(status, headers).__aenter__()
            await self._stream.send(body)
            if last:
                await self._stream.__aexit__(None, None, None)
        if last:
            self.ended.set()


def _scope(request: Request) -> Scope:
    headers = list(request.headers.items())
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.0" if request.head.http_1_0 else "1.1",
        "method": request.method.decode("ascii"),
        "scheme": "https" if request.secure else "http",
        "path": unquote(request.path.decode("latin-1")),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": headers,
        "client": (request.peer, 0),
        "server": None,
    }
