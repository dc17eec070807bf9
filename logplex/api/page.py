"""The page: its files at `/` and `/page/<file>`, and what it asks for at `/page/api/…`, where its cookie counts.

* Nothing comes from another host, no script or style stands in the markup, and no text can become markup: the
  Content-Security-Policy says so, and Trusted Types make a browser refuse the very call.
* The cookie counts here alone (`Path=/page/api`), is `HttpOnly` and `SameSite=Strict`, and `Secure` over TLS.
* A change needs the page's token in a header (sign_ins.py) beside the same origin (guard.py); a sign-in needs
  `Content-Type: application/json`, which a form of another page cannot send.
* The page reads and never writes: what it makes are sessions, like those of anybody who may read the app.
* It asks every few seconds, so only what it changes is in the audit log.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..channel import Channel
from ..errors import ClientError, Forbidden, NotFound, TooManyFailures, Unauthorized
from ..printable import shown_url
from ..registry import ChannelRecord, DrainRecord, Principal
from .guard import SAFE_METHODS, BadPayload, address_of
from .requests import session_options
from .resource import Access, Call, Operation, Resource, Version, audit, empty_answer, json_answer
from .services import Services
from .sign_ins import LIFE_SECONDS, SignIns, is_page_token, page_token

APPS = 100
"""Apps in one answer."""

COOKIE = "logplex"
COOKIE_PATH = "/page/api"
PROOF_HEADER = "page-token"

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
FILE_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
    "cache-control": "no-cache",  # kept, and asked for by its ETag
}


def page_routes(services: Services, sign_ins: SignIns, active: Callable[[int], Channel | None]) -> list[BaseRoute]:
    """What `create_api` takes as `extra`. `active` knows the channels that are in memory, by their internal id."""
    page = _Page(services, sign_ins, active)
    routes: list[BaseRoute] = [
        Route(COOKIE_PATH + path, PageResource(services, Version.V3, operations, sign_ins))
        for path, operations in page.table().items()
    ]
    for name, file in _files():
        routes.append(Route("/" if name == "index.html" else f"/page/{name}", file.get))
    return routes


def cookie_name(request: Request) -> str:
    """A cookie is sent to all ports of a host: two servers there must not sign each other's people out."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}-{port}" if port.isdecimal() and port.isascii() else COOKIE


@dataclass(frozen=True, slots=True)
class PageResource(Resource):
    """One path of the page's own API."""

    sign_ins: SignIns

    async def authenticate(self, request: Request) -> Principal:
        cookie = request.cookies.get(cookie_name(request), "")
        if not cookie:
            raise Unauthorized("Not signed in")
        if request.method not in SAFE_METHODS and not is_page_token(cookie, request.headers.get(PROOF_HEADER, "")):
            raise Forbidden("the page's token is missing or wrong")
        return await self.sign_ins.find(cookie)

    def is_audited(self, method: str, operation: Operation | None) -> bool:
        """A sign-in says itself who it was."""
        return method not in SAFE_METHODS and not (operation and operation.access is Access.ANYBODY)

    def refusal(self, error: ClientError) -> Response:
        """Without `WWW-Authenticate`, at which a browser would ask for a password itself."""
        headers = {"retry-after": str(error.retry_after)} if isinstance(error, TooManyFailures) else {}
        return json_answer({"error": str(error)}, error.status, headers)


@dataclass(frozen=True, slots=True)
class _Page:
    """The operations of the page's own API."""

    services: Services
    sign_ins: SignIns
    active: Callable[[int], Channel | None]

    def table(self) -> dict[str, dict[str, Operation]]:
        return {
            "/me": {"GET": Operation(self.me, Access.ANYBODY)},
            "/sign-in": {"POST": Operation(self.sign_in, Access.ANYBODY, reads_body=True)},
            "/sign-out": {"POST": Operation(self.sign_out, Access.APP)},
            "/apps": {"GET": Operation(self.list_apps, Access.APP)},
            "/apps/{channel}": {"GET": Operation(self.get_app, Access.APP)},
            "/apps/{channel}/sessions": {
                "POST": Operation(self.create_session, Access.APP, writes=True, reads_body=True),
            },
        }

    async def me(self, call: Call) -> Response:
        """Who is signed in, and the token for changes; nobody is no error."""
        cookie = call.request.cookies.get(cookie_name(call.request), "")
        try:
            principal = await self.sign_ins.find(cookie)
        except Unauthorized:
            return json_answer({"id": None})
        return json_answer({"id": principal.id, "token": page_token(cookie)})

    async def sign_in(self, call: Call) -> Response:
        """`{"id", "password"}` of a credential that may read some app."""
        try:
            principal = await self._verified(call)
        except ClientError as exc:
            audit("-", call.request, exc.status)
            raise
        cookie = await self.sign_ins.start(principal)
        audit(principal.shown, call.request, 200)
        answer = json_answer({"id": principal.id, "token": page_token(cookie)})
        self._set_cookie(call.request, answer, cookie, int(LIFE_SECONDS))
        return answer

    async def sign_out(self, call: Call) -> Response:
        await self.sign_ins.end(call.request.cookies[cookie_name(call.request)])
        answer = empty_answer()
        self._set_cookie(call.request, answer, "", 0)
        return answer

    async def list_apps(self, call: Call) -> Response:
        """By name, those that begin with `prefix`; `after` is the last name of the answer before."""
        registry, query, principal = call.services.registry, call.request.query_params, call.principal
        prefix, after = query.get("prefix", "")[:128], query.get("after", "")[:128]
        assert principal is not None
        if principal.full_api:
            found = await self._found(prefix, after)
        else:
            own = [await registry.channel_by_id(channel_id) for channel_id in principal.app_ids]
            named = [channel for channel in own if channel is not None and channel.name.startswith(prefix)]
            found = sorted((channel for channel in named if channel.name > after), key=lambda channel: channel.name)
        more = len(found) > APPS
        return json_answer({"apps": [self._app(channel) for channel in found[:APPS]], "more": more})

    async def get_app(self, call: Call) -> Response:
        """An app's place, its page of the ledger, and its drains as anybody may see them."""
        record = await self._readable(call)
        info = await call.services.registry.channel_info(record.name)
        if info is None:
            raise NotFound("No such app")
        page = await call.services.ledger.channel(record.id)
        shown = {name: page.get(name) for name in ("received", "own", "dropped", "oldest")}
        drains = [self._drain(drain) for drain in info.drains]
        return json_answer({**self._app(record), **shown, "drains": drains})

    async def create_session(self, call: Call) -> Response:
        """A session of the app: `num`, `tail` and the fields of a filter, as in v3. Only its path is told."""
        given = call.fields()
        options = session_options(given)
        record = await self._readable(call)
        session = await call.services.registry.create_session(record.id, options)
        return json_answer({"path": f"/sessions/{session.uuid}"}, 201)

    async def _readable(self, call: Call) -> ChannelRecord:
        """The app of the path; one that the caller may not read is not found, whether it exists or not."""
        try:
            return await call.channel(call.param("channel"))
        except (Forbidden, NotFound) as exc:
            raise NotFound("No such app") from exc

    async def _verified(self, call: Call) -> Principal:
        """Who the password is of; raises Unauthorized, TooManyFailures, Forbidden, BadPayload."""
        given, request = call.fields(), call.request
        name, password = given.get("id"), given.get("password")
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json" or not (isinstance(name, str) and isinstance(password, str)):
            raise BadPayload
        login = base64.b64encode(f"{name}:{password}".encode())
        principal = await call.services.registry.authenticate_slow(b"Basic " + login, address_of(request))
        if principal.kind != "credential":
            raise Unauthorized("Not Authorized")
        if not (principal.full_api or principal.app_ids):
            raise Forbidden("this credential may not read any app")
        return principal

    async def _found(self, prefix: str, after: str) -> list[ChannelRecord]:
        """The apps that begin with `prefix` behind `after`, one more than are shown."""
        registry = self.services.registry
        found = await registry.channels(max(prefix, after), APPS + 1)
        if prefix > after and (exact := await registry.channel(prefix)) is not None:
            found = [exact, *found]  # the store answers with what comes behind a name
        return [channel for channel in found if channel.name.startswith(prefix)]

    def _app(self, record: ChannelRecord) -> dict[str, Any]:
        """`head` counts the lines of an `epoch`; an app that is not in memory has had none lately."""
        channel = self.active(record.id)
        place = {} if channel is None else {"epoch": channel.epoch, "head": channel.head}
        return {"name": record.name, "flags": sorted(record.flags), **place}

    def _drain(self, drain: DrainRecord) -> dict[str, Any]:
        status = self.services.drains.status(drain.id)
        fields: dict[str, Any] = {"id": drain.id, "url": shown_url(drain.url or "")}
        return fields | ({} if status is None else {"status": dict(status)})

    def _set_cookie(self, request: Request, answer: Response, value: str, seconds: int) -> None:
        public = urlsplit(self.services.settings.public_url)
        behind_tls = public.scheme == "https" and public.netloc == request.headers.get("host")
        answer.set_cookie(
            cookie_name(request),
            value,
            max_age=seconds,
            path=COOKIE_PATH,
            secure=request.url.scheme == "https" or behind_tls,
            httponly=True,
            samesite="strict",
        )


def _files() -> Iterable[tuple[str, "_File"]]:
    """The files of the page, read once."""
    for entry in (files(__package__.rpartition(".")[0]) / "page").iterdir():
        media = _TYPES.get("." + entry.name.rpartition(".")[2])
        if media is not None:
            yield entry.name, _File(entry.read_bytes(), media)


class _File:
    """One file, with an ETag."""

    def __init__(self, content: bytes, media: str) -> None:
        self._content = content
        self._media = media
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def get(self, request: Request) -> Response:
        headers = {**FILE_HEADERS, "etag": self._etag}
        given = request.headers.get("if-none-match", "")
        if self._etag in [tag.strip().removeprefix("W/") for tag in given.split(",")]:
            return Response(None, 304, headers)
        return Response(self._content, 200, headers, media_type=self._media)
