"""One client's connection: requests in, one after the other, an answer to each.

* A request is read only when the one before is answered; what a client sends ahead stays in the kernel.
* The connection goes on only after an orderly request with an orderly answer. After everything else — a parse
  error, an answer before the body's end, a stream that broke, a crash — it is closed.
* It is closed so that the answer arrives: our side first, then what the client still sends is thrown away for a
  while (RFC 9112 section 9.6), else its kernel would throw away our answer.
* A crash of a handler is logged, counted, answered 500 where nothing was sent yet, and ends this connection only.
"""

import re
import ssl

import structlog
import trio

from ..errors import ClientError, TooManyFailures, Unauthorized
from . import answer
from .parser import RequestParser
from .refusal import ClientGone, Refusal
from .request import Request, Shared
from .routes import Routes
from .wire import Wire

LINGER_SECONDS = 2.0  # and
LINGER_BYTES = 16 * 1024 * 1024  # more than a body may have: a client that reads only when it has sent all
REQUESTS_IN_A_ROW = 16  # served without a task switch, where a client sends ahead

log = structlog.get_logger()


class Connection:
    """A connection from its first byte to its end; `run` is its task.

    `busy` says that a request has begun and is not yet answered.
    """

    __slots__ = ("_peer", "_served", "_shared", "_siblings", "busy", "wire")

    def __init__(self, wire: Wire, shared: Shared, peer: str, siblings: "set[Connection]") -> None:
        self.wire = wire
        self.busy = False
        self._served = False  # a request at least
        self._peer = peer
        self._shared = shared
        self._siblings = siblings  # all connections of the server, among which it is as long as it is open
        siblings.add(self)

    def idle_seconds(self, now: float) -> float:
        """For how long it has had nothing to do; 0 for one that is busy or still shakes hands."""
        if self.busy:
            return 0.0
        settings = self._shared.settings
        given = settings.idle_connection_seconds if self._served else settings.header_seconds
        return now - (self.wire.deadline - given)

    async def run(self, routes: Routes, context: ssl.SSLContext | None) -> None:
        """Serve the connection until its end, and close it."""
        wire, shared = self.wire, self._shared
        settings = shared.settings
        parser = RequestParser(settings.max_header_bytes)
        rest, at = b"", 0  # what was read behind a request, and how far it is parsed
        in_a_row = 0
        try:
            if context is not None:
                await self._shake_hands(context)
            wire.due_in(settings.header_seconds)  # who connects has a request to make
            while True:
                if rest:
                    in_a_row += 1
                    if in_a_row % REQUESTS_IN_A_ROW == 0:
                        await trio.lowlevel.checkpoint()
                    at = parser.feed(rest, at, len(rest))
                    if at == len(rest):
                        rest, at = b"", 0
                    if parser.head is None:
                        wire.due_in(settings.header_seconds)
                while parser.head is None:
                    count = await wire.receive(shared.buffer)
                    if count == 0:
                        if parser.started and wire.overdue and not shared.stopping:
                            raise Refusal(408, "http_slow_header", "Request header too slow")
                        return
                    end = parser.feed(shared.buffer, 0, count)
                    if end < count:
                        rest = bytes(memoryview(shared.buffer)[end:count])
                    if not self.busy:
                        self.busy = True
                        if parser.head is None:
                            wire.due_in(settings.header_seconds)
                wire.not_due()
                request = Request(parser.head, parser, wire, shared, peer=self._peer, secure=context is not None)
                await self._answer(request, routes)
                if not request.persistent:
                    if not parser.complete or rest:
                        await self._linger()
                    else:
                        wire.say_goodbye()
                    return
                rest = rest or request.take_rest()  # never both: a body is read on only when all was parsed
                parser.reset()
                self._served = True
                self.busy = bool(rest)
                if shared.stopping and not rest:
                    return
                wire.due_in(settings.idle_connection_seconds)
        except Refusal as refusal:
            await self._refuse(refusal)
        except ClientGone:
            pass
        except Exception as error:  # a bug of ours in one connection must not end the others
            shared.ledger.refuse("crash")
            log.error("connection_crashed", exc_info=error)
        finally:
            wire.close()
            self._siblings.discard(self)

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        try:
            await self.wire.shake_hands(context, self._shared.settings.header_seconds)
        except ClientGone:
            self._shared.ledger.refuse("tls_handshake")
            raise

    async def _answer(self, request: Request, routes: Routes) -> None:
        try:
            await routes.find(request.path)(request)
            if not request.answered:
                raise AssertionError("the handler has not answered")
        except ClientGone:
            raise
        except ClientError as error:
            self._shared.ledger.refuse(_reason(error))
            if not request.answered:
                await request.respond(error.status, (answer.TEXT, *_headers(error)), str(error).encode())
        except Exception as error:  # a crash inside one connection must not reach the others
            if isinstance(error, ExceptionGroup) and error.split(ClientGone)[1] is None:
                raise ClientGone from error
            self._shared.ledger.refuse("crash")
            log.error("request_crashed", method=request.method, path=request.path, exc_info=error)
            request.persistent = False
            if not request.answered:
                await request.respond(500, (answer.TEXT,), b"Internal server error")
        finally:
            request.end()

    async def _refuse(self, refusal: Refusal) -> None:
        # A request that has no handler, as it has no whole head.
        shared = self._shared
        shared.ledger.refuse(refusal.reason)
        body = str(refusal).encode()
        head = answer.start(refusal.status, (answer.TEXT,), shared.date)
        try:
            self.wire.send_nowait(b"%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body))
            await self._linger()
        except ClientGone:
            pass

    async def _linger(self) -> None:
        wire = self.wire
        wire.say_goodbye()
        wire.due_in(LINGER_SECONDS)  # nothing is read any more of a client that was too slow
        until = wire.received + LINGER_BYTES
        while wire.received < until and await wire.receive(self._shared.buffer):
            await trio.lowlevel.checkpoint()


def _headers(error: ClientError) -> answer.Headers:
    if isinstance(error, Unauthorized):
        return ((b"WWW-Authenticate", b"Basic realm=Logplex"),)  # RFC 9110 section 15.5.2 wants one
    if isinstance(error, TooManyFailures):
        return ((b"Retry-After", b"%d" % error.retry_after),)
    return ()


def _reason(error: ClientError) -> str:
    """What the ledger calls a refusal: its own word, else its class as `count_mismatch`."""
    if isinstance(error, Refusal):
        return error.reason
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
