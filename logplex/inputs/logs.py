"""`POST /logs`: batches of octet-counted frames from shippers (protocol sections 3 and 11).

* The order of refusals: ingress denied 503, no log-in 401, no permission 403, a loop 403, a content type or encoding
  that is none of ours 415; then the body is read: 413, 408, 400. Before the body is read nothing is inflated or kept.
* 204 comes after the commit, and says when that was to memory only. A reply is held while the router holds, because
  log-shuttle drops what it is refused; where a group cannot be committed at all the connection is closed without a
  reply, which it takes for a reason to try again.
* gzip is inflated slice by slice and cut off at the limit: a bomb costs no more than an honest body of that size.
"""

import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypedDict

import trio

from ..errors import ClientError, Forbidden, MalformedBody, TooLarge, Unavailable
from ..group import Outcome
from ..http import ClientGone, Handler, Headers, Refusal, Reply, Request
from ..registry.records import Principal

CONTENT_TYPES = frozenset((b"application/logplex-1", b"application/x-logplex-1"))
# Between two checkpoints at most so many bytes are inflated: below 2 ms.
DEFLATED_SLICE_BYTES = 64 * 1024
INFLATED_SLICE_BYTES = 256 * 1024
MAX_GZIP_MEMBERS = 1000  # each costs a table of its own; pigz and log rotations write a few
MAX_SHIPPER_LOSS = 10**9  # of one request; what a shipper says of itself must not overflow a counter


_HEADERS: Final[dict[Outcome, Headers]] = {Outcome.DONE: (), Outcome.MEMORY: ((b"Logplex-Durability", b"memory"),)}


class Said(TypedDict):
    """What a request says of its body: how many messages, which request it is, what its sender lost before."""

    expected: int | None
    request_id: str | None
    dropped: int
    lost: int


class Router(Protocol):
    """What takes the messages."""

    async def take_body(
        self,
        body: bytes,
        principal: Principal,
        *,
        expected: int | None,
        lenient: bool,
        request_id: str | None,
        dropped: int,
        lost: int,
    ) -> Outcome:
        """Accept all of a body; returns when it is committed. Raises MalformedBody, CountMismatch."""

    def take_body_at_once(
        self,
        body: bytes,
        principal: Principal,
        done: Callable[[Outcome], None],
        *,
        expected: int | None,
        lenient: bool,
        request_id: str | None,
        dropped: int,
        lost: int,
    ) -> Callable[[], Awaitable[Outcome]] | None:
        """As `take_body` if only the commit has to be waited for: then `done` is called. Else: what to wait for."""


class Registry(Protocol):
    """Who may write."""

    def authenticate(self, authorization: bytes, address: str) -> Principal | None:
        """What memory knows; None: ask the slow one."""

    async def authenticate_slow(self, authorization: bytes | None, address: str) -> Principal:
        """Raises Unauthorized, TooManyFailures."""

    def is_drain_token(self, token: str) -> bool:
        """Whether a drain of this installation has it."""


class UnsupportedMedia(ClientError):
    """A content type or an encoding that we do not read."""

    status = 415


class Logs:
    """The raw handler of `/logs` and `/logs/`; `is_open` says whether ingress is allowed at the moment."""

    __slots__ = ("_is_open", "_lenient", "_max_body_bytes", "_registry", "_router")

    def __init__(
        self,
        router: Router,
        registry: Registry,
        *,
        max_body_bytes: int,
        lenient: bool,
        is_open: Callable[[], bool],
    ) -> None:
        self._router = router
        self._registry = registry
        self._max_body_bytes = max_body_bytes
        self._lenient = lenient
        self._is_open = is_open

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        if request.method != b"POST":
            await request.respond(405, ((b"Allow", b"POST"),))
            return
        principal = self._known(request)
        if principal is None:
            authorization = request.headers.get(b"authorization")
            principal = await self._registry.authenticate_slow(authorization, request.peer)
        compressed = self._admit(request, principal)
        body = await request.body(self._max_body_bytes, principal=principal.id)
        authorization = request.headers.get(b"authorization")
        if principal != self._registry.authenticate(authorization or b"", request.peer):  # deleted while it came?
            principal = await self._registry.authenticate_slow(authorization, request.peer)
            self._admit(request, principal)
        if compressed and body:
            body = await self._inflate(body, request, principal)
        said = _said(request.headers)
        await _answer(request, await self._router.take_body(body, principal, lenient=self._lenient, **said))

    def at_once(self, request: Request, reply: Reply) -> Handler | None:
        """Take a request whose body is there, if nothing has to be asked or inflated (`http.routes.Taker`)."""
        if request.method != b"POST":
            return self
        principal = self._known(request)
        if principal is None or self._admit(request, principal):
            return self
        body = request.whole_body(self._max_body_bytes)
        done = partial(_reply, reply)
        said = _said(request.headers)
        further = self._router.take_body_at_once(body, principal, done, lenient=self._lenient, **said)
        return None if further is None else partial(_answer_later, further)

    def _known(self, request: Request) -> Principal | None:
        """Who asks, as far as memory knows. Raises Unavailable."""
        if not self._is_open():
            raise Unavailable("Ingress is denied")
        authorization = request.headers.get(b"authorization")
        return self._registry.authenticate(authorization, request.peer) if authorization else None

    def _admit(self, request: Request, principal: Principal) -> bool:
        """Refuse what may not come in; whether the body is compressed."""
        if not (principal.may_write_any or principal.channel_ids):
            raise Forbidden("Forbidden")
        headers = request.headers
        drain_token = headers.get(b"logplex-drain-token")
        if drain_token and self._registry.is_drain_token(drain_token.decode("latin-1")):
            raise Refusal(403, "loop", "loop")
        content_type = headers.get(b"content-type", b"")
        if content_type not in CONTENT_TYPES and media_type(content_type) not in CONTENT_TYPES:
            raise UnsupportedMedia("Content-Type must be application/logplex-1")
        return is_gzip(headers.get(b"content-encoding"))

    async def _inflate(self, body: bytes, request: Request, principal: Principal) -> bytes:
        inflated = Inflation(self._max_body_bytes)
        held = 0
        for start in range(0, len(body), DEFLATED_SLICE_BYTES):
            rest = body[start : start + DEFLATED_SLICE_BYTES]
            while rest:
                rest = inflated.feed(rest)
                if inflated.bytes > held + INFLATED_SLICE_BYTES // 2:
                    await request.hold(inflated.bytes - held, principal=principal.id)
                    held = inflated.bytes
                    await trio.lowlevel.checkpoint()
        return inflated.end()


class Inflation:
    """gzip members (RFC 1952) to bytes, bounded, without I/O."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._members = 1

    def feed(self, data: bytes) -> bytes:
        """Inflate one slice; returns what has to be fed next. Raises MalformedBody, TooLarge."""
        if self._member.eof:
            if self._members == MAX_GZIP_MEMBERS:
                raise MalformedBody
            self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            self._members += 1
        try:
            # A byte more than the limit: it tells that there are more.
            piece = self._member.decompress(data, min(INFLATED_SLICE_BYTES, self._max_bytes + 1 - self.bytes))
        except zlib.error as exc:
            raise MalformedBody from exc
        self.bytes += len(piece)
        if self.bytes > self._max_bytes:
            raise TooLarge("Inflated body too large")
        self._pieces.append(piece)
        return self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def end(self) -> bytes:
        """All of it. Raises MalformedBody when the last member is cut off."""
        if not self._member.eof:
            raise MalformedBody
        return b"".join(self._pieces)


def media_type(value: bytes) -> bytes:
    """A content type without its parameters, in lower case."""
    return value.partition(b";")[0].strip().lower()


def is_gzip(encoding: bytes | None) -> bool:
    """Whether a body is compressed. Raises UnsupportedMedia for codings other than gzip (RFC 9110 section 8.4)."""
    if encoding is None or encoding.lower() in (b"", b"identity"):
        return False
    if encoding.lower() in (b"gzip", b"x-gzip"):
        return True
    raise UnsupportedMedia("Content-Encoding must be gzip")


def _said(headers: dict[bytes, bytes]) -> Said:
    request_id = headers.get(b"logplex-frame-id") or headers.get(b"x-request-id")
    expected = headers.get(b"logplex-msg-count")
    return {
        "expected": None if expected is None else _count(expected, otherwise=-1),
        "request_id": request_id.decode("latin-1") if request_id else None,
        "dropped": _loss(headers, b"logplex-drop-count"),
        "lost": _loss(headers, b"logplex-lost-count"),
    }


def _reply(reply: Reply, outcome: Outcome) -> None:
    reply(204, _HEADERS[outcome])


async def _answer(request: Request, outcome: Outcome) -> None:
    if outcome is Outcome.HELD:
        raise ClientGone
    await request.respond(204, _HEADERS[outcome])


async def _answer_later(further: Callable[[], Awaitable[Outcome]], request: Request) -> None:
    await _answer(request, await further())


def _loss(headers: dict[bytes, bytes], name: bytes) -> int:
    return min(_count(headers[name]), MAX_SHIPPER_LOSS) if name in headers else 0


def _count(value: bytes, *, otherwise: int = 0) -> int:
    return int(value) if value.isdigit() and len(value) < 19 else otherwise
