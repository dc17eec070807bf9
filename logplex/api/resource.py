"""One path of a management API: its methods, and everything that is the same for all of them.

The order of a request, as the original had it: disabled (503, before auth), method (405; v1 and v2: 404), foreign
page (403), read-only (503), who asks (401, 429), may he (403), body (413, 400), and then the operation.

* Errors are `{"error": text}`, in v1 plain text. Every answer carries `Request-Id`: the request's own, or a new one.
* Answers may hold tokens and lines: all of them are `no-store`, `nosniff` and `no-referrer`.
* Every call is in the audit log (who, what, result), but not healthchecks.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import ClientError, Forbidden, NotFound, StoreError, Unavailable
from ..printable import without_secrets
from ..registry import ChannelRecord, Principal
from .guard import BadPayload, authenticate, base_url, read_json, refuse_foreign_pages
from .services import Services

DISABLED = "Service Temporarily Disabled"
READ_ONLY = "Logplex API temporarily in read-only mode"
PRIVATE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

log = structlog.get_logger()


class Version(Enum):
    """How an API says no."""

    V1 = "text"
    V2 = "json"
    V3 = "json, with 405"


class Access(Enum):
    """Who may."""

    ANYBODY = "no log-in, and not in the audit log"
    APP = "full_api, or app:<id> of the channel that the operation looks up"
    FULL = "full_api"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation; `body` is what came as JSON, None where no body is read."""

    services: Services
    request: Request
    principal: Principal | None
    body: Any

    def param(self, name: str) -> str:
        return str(self.request.path_params[name])

    def url(self, path: str) -> str:
        """An absolute URL of this server."""
        return base_url(self.request, self.services.settings) + path

    def fields(self) -> Mapping[str, Any]:
        """The body, which has to be an object; raises BadPayload."""
        if not isinstance(self.body, dict):
            raise BadPayload
        return self.body

    async def channel(self, name: str) -> ChannelRecord:
        """The channel of that name, if the caller may read it.

        Raises NotFound, and Forbidden to whom may not read it, whether or not it exists.
        """
        channel = await self.services.registry.channel(name)
        may_read_all = self.principal is not None and self.principal.full_api
        if channel is None and may_read_all:
            raise NotFound("No such channel")
        if channel is None or not (may_read_all or (self.principal and self.principal.may_read(channel.id))):
            raise Forbidden("Forbidden")
        return channel


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method does. `writes`: refused while read-only; `reads_body`: takes JSON."""

    run: Callable[[Call], Awaitable[Response]]
    access: Access = Access.FULL
    writes: bool = False
    reads_body: bool = False
    always: bool = False
    """Works while the API is disabled."""


@dataclass(frozen=True, slots=True)
class Resource:
    """An ASGI app for one path: operations by method (HEAD is GET without its body)."""

    services: Services
    version: Version
    operations: Mapping[str, Operation]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        who: list[str] = []
        answer: Response | None = None
        method = "GET" if request.method == "HEAD" else request.method
        operation = self.operations.get(method)
        try:
            answer = await self._answer(request, operation, who)
        finally:  # an operation that fails by our own fault is in the audit log too
            if self.is_audited(method, operation):
                audit(who[0] if who else "-", request, 500 if answer is None else answer.status_code)
        answer.headers["request-id"] = request_id(request)
        for name, value in PRIVATE.items():
            answer.headers.setdefault(name, value)
        await answer(scope, receive, _without_body(send) if request.method == "HEAD" else send)

    async def _answer(self, request: Request, operation: Operation | None, who: list[str]) -> Response:
        try:
            return await self._operate(request, operation, who)
        except ClientError as exc:
            return self.refusal(exc)
        except StoreError as exc:
            log.error("config not reached", error=str(exc))
            return self.refusal(Unavailable("the configuration cannot be read or written at the moment"))

    async def _operate(self, request: Request, operation: Operation | None, who: list[str]) -> Response:
        services = self.services
        state = services.registry.state.api
        if state == "disabled" and not (operation and operation.always):
            raise Unavailable(DISABLED)
        if operation is None:
            return self._no_method()
        refuse_foreign_pages(request, services.settings)
        if state == "read_only" and operation.writes:
            raise Unavailable(READ_ONLY)
        principal = None
        if operation.access is not Access.ANYBODY:
            principal = await self.authenticate(request)
            who.append(principal.shown)
            if not principal.full_api and (operation.access is Access.FULL or not principal.app_ids):
                raise Forbidden("Forbidden")
        body = await read_json(request, services.settings.max_json_bytes) if operation.reads_body else None
        return await operation.run(Call(services, request, principal, body))

    async def authenticate(self, request: Request) -> Principal:
        """Who asks; raises Unauthorized and TooManyFailures."""
        return await authenticate(self.services.registry, request)

    def is_audited(self, method: str, operation: Operation | None) -> bool:
        return operation is None or operation.access is not Access.ANYBODY

    def refusal(self, error: ClientError) -> Response:
        """The answer that an error is."""
        text = str(error)
        headers = {}
        if error.status == 401:
            headers["www-authenticate"] = "Basic realm=Logplex"
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            headers["retry-after"] = str(retry_after)
        plain = self.version is Version.V1 or error.status == 401
        if self.version is Version.V2 and text in {DISABLED, READ_ONLY}:  # the original says these before its JSON
            plain = True
        if plain:
            return text_answer(text, error.status, headers)
        return json_answer({"error": text}, error.status, headers)

    def _no_method(self) -> Response:
        if not self.operations:
            return self.refusal(NotFound("Not found"))
        if self.version is not Version.V3:
            return text_answer("Not found", 404)
        allowed = sorted({*self.operations, *(["HEAD"] if "GET" in self.operations else [])})
        return json_answer({"error": "method not allowed"}, 405, {"allow": ", ".join(allowed)})


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(value, separators=(",", ":")), status, dict(headers or {}), media_type="application/json"
    )


def text_answer(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status, dict(headers or {}), media_type="text/plain")


def empty_answer(status: int = 204) -> Response:
    return Response(b"", status)


def request_id(request: Request) -> str:
    """The request's own id, as far as a header may repeat it, or a new one."""
    given = request.headers.get("request-id", "").strip()[:200]
    return given if given and given.isascii() and given.isprintable() else str(uuid4())


def audit(who: str, request: Request, result: int) -> None:
    """One line for one management call. A path may name a drain by its URL, which may hold secrets: it is cut off."""
    path, separator, _ = request.scope["path"].partition("://")
    what = f"{request.method} {without_secrets(path)[:300]}" + ("://…" if separator else "")
    log.info("audit", who=who, what=what, result=result)


def _without_body(send: Send) -> Send:
    async def send_head(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
