"""One client's connection: requests in, one after the other, an answer to each.

* A request is read only when the one before is answered; what a client sends ahead stays in the kernel.
* A request that came as a whole, to a handler that can do without waiting (`routes.Immediate`), costs no task switch:
  it is taken when its bytes are seen, and answered when its reply is called. The task does everything else.
* The connection goes on only after an orderly request with an orderly answer. After everything else — a parse
  error, an answer before the body's end, a stream that broke, a crash — it is closed.
* It is closed so that the answer arrives: our side first, then what the client still sends is thrown away for a
  while (RFC 9112 section 9.6), else its kernel would throw away our answer.
* A crash of a handler is logged, counted, answered 500 where nothing was sent yet, and ends this connection only.
"""

import re
import ssl
from functools import partial

import structlog
import trio

from ..errors import ClientError, TooManyFailures, Unauthorized
from . import answer
from .parser import RequestParser
from .refusal import ClientGone, Refusal
from .request import Request, Shared
from .routes import Handler, Routes
from .wire import Wire

LINGER_SECONDS = 2.0  # and
LINGER_BYTES = 16 * 1024 * 1024  # more than a body may have: a client that reads only when it has sent all
REQUESTS_IN_A_ROW = 16  # served without a task switch, where a client sends ahead

log = structlog.get_logger()


class Connection:
    """A connection from its first byte to its end; `run` is its task.

    `busy` says that a request has begun and is not yet answered.
    """

    __slots__ = (
        "_broken",
        "_in_a_row",
        "_parsed",
        "_parser",
        "_peer",
        "_request",
        "_rest",
        "_routes",
        "_secure",
        "_served",
        "_shared",
        "_siblings",
        "_then",
        "busy",
        "wire",
    )

    def __init__(self, wire: Wire, shared: Shared, peer: str, siblings: "set[Connection]") -> None:
        self.wire = wire
        self.busy = False
        self._parser: RequestParser
        self._routes: Routes
        self._secure = False
        self._served = False  # a request at least
        self._peer = peer
        self._shared = shared
        self._siblings = siblings  # all connections of the server, among which it is as long as it is open
        self._rest, self._parsed = b"", 0  # what was read behind a request, and how far it is parsed
        self._in_a_row = 0  # requests that were read together
        self._request: Request | None = None  # what was taken at once and is not answered
        self._then: Handler | None = None  # how the task is to go on with it
        self._broken: Refusal | ClientGone | None = None  # why it cannot go on
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
        self._routes = routes
        self._secure = context is not None
        self._parser = parser = RequestParser(shared.settings.max_header_bytes)
        try:
            if context is not None:
                await self._shake_hands(context)
            wire.due_in(shared.settings.header_seconds)  # who connects has a request to make
            while (request := await self._next_request()) is not None:
                await self._answer(request, self._then or routes.find(request.path))
                self._request = self._then = None
                if not request.persistent:
                    if not parser.complete or self._rest:
                        await self._linger()
                    else:
                        wire.say_goodbye()
                    return
                self._rest = self._rest or request.take_rest()  # never both: a body is read on when all was parsed
                self._answered()
                if shared.stopping and not self._rest:
                    return
        except Refusal as refusal:
            await self._refuse(refusal)
        except ClientGone:
            pass
        except Exception as error:  # a bug of ours in one connection must not end the others
            shared.ledger.refuse("crash")
            log.error("connection_crashed", exc_info=error)
        finally:
            self._request = None
            wire.close()
            self._siblings.discard(self)

    async def _next_request(self) -> Request | None:
        """The next request that needs the task, as soon as its head is there; None at the end of the connection."""
        parser, wire, shared = self._parser, self.wire, self._shared
        if self._rest:
            await self._parse_rest()
        elif not self._secure:
            await wire.wait_for_input(self._take_at_once)
            if self._broken is not None:
                raise self._broken
            if self._request is not None:
                return self._request
        while parser.head is None:
            count = await wire.receive(shared.buffer)
            if count == 0:
                if parser.started and wire.overdue and not shared.stopping:
                    raise Refusal(408, "http_slow_header", "Request header too slow")
                return None
            self._parse(count)
        wire.not_due()
        return Request(parser.head, parser, wire, shared, peer=self._peer, secure=self._secure)

    async def _parse_rest(self) -> None:
        """Parse what was read behind the request before."""
        rest, parser = self._rest, self._parser
        self._in_a_row += 1
        if self._in_a_row % REQUESTS_IN_A_ROW == 0:
            await trio.lowlevel.checkpoint()
        self._parsed = parser.feed(rest, self._parsed, len(rest))
        if self._parsed == len(rest):
            self._rest, self._parsed = b"", 0
        if parser.head is None:
            self.wire.due_in(self._shared.settings.header_seconds)

    def _parse(self, count: int) -> None:
        """Parse what was read; what is behind the request's end is kept."""
        buffer, parser = self._shared.buffer, self._parser
        end = parser.feed(buffer, 0, count)
        if end < count:
            self._rest = bytes(memoryview(buffer)[end:count])
        if not self.busy:
            self.busy = True
            if parser.head is None:
                self.wire.due_in(self._shared.settings.header_seconds)

    def _answered(self) -> None:
        """The request is answered, and the connection goes on."""
        self._parser.reset()
        self._served = True
        self.busy = bool(self._rest)
        self.wire.due_in(self._shared.settings.idle_connection_seconds)

    # Without the task: a request that is there as a whole, and that needs no waiting but for its answer.

    def _take_at_once(self) -> bool:
        """Called when something is readable while the task waits for a request; False: the task has to see to it."""
        if self._request is not None:
            return True  # what a client sends before it has its answer waits
        wire, parser, shared = self.wire, self._parser, self._shared
        try:
            count = wire.receive_nowait(shared.buffer)
            if count is None:
                return True
            if count == 0:
                return False
            self._parse(count)
        except (Refusal, ClientGone) as error:
            self._broken = error
            return False
        if not parser.complete or parser.head is None or self._rest:
            return False
        take = self._routes.at_once(parser.head.path)
        if take is None:
            return False
        wire.not_due()
        self._request = Request(parser.head, parser, wire, shared, peer=self._peer, secure=False)
        try:
            then = take(self._request, self._reply)
        except Exception as error:  # noqa: BLE001 - raised again, and answered, in the task
            then = partial(_raise, error)
        if then is not None:
            self._then = then
        return self._then is None

    def _reply(self, status: int, headers: answer.Headers = ()) -> None:
        """The answer of what was taken at once; what has to wait, or ends the connection, is left to the task."""
        request, wire = self._request, self.wire
        if request is None:
            return  # the connection was cancelled meanwhile
        if not request.persistent or self._shared.stopping:
            self._then = partial(Request.respond, status=status, headers=headers)
        else:
            try:
                if not request.respond_nowait(status, headers):
                    self._then = Request.finish
            except Exception as error:  # noqa: BLE001 - who calls us answers many
                self._then = partial(_raise, error)
        if self._then is not None:
            wire.wake()
            return
        self._request = None
        request.end()
        self._answered()
        if wire.readable:
            wire.wake()

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        try:
            await self.wire.shake_hands(context, self._shared.settings.header_seconds)
        except ClientGone:
            self._shared.ledger.refuse("tls_handshake")
            raise

    async def _answer(self, request: Request, handler: Handler) -> None:
        try:
            await handler(request)
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


async def _raise(error: Exception, _request: Request) -> None:
    raise error


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
