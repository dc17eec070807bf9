"""What stands before every management call: who asks, from which page, and how much.

* A browser that is on another page may not change anything: unsafe methods with a foreign `Origin`
  (`null` included) or `Sec-Fetch-Site: cross-site` are 403. Same origin means the host and port of the request,
  or those of `--public-url`; the scheme is not compared, because a proxy may have taken TLS off.
* JSON bodies are 64 KiB at most, and never deeper than the parser can follow; `NaN`, lone surrogates and numbers
  of thousands of digits are no JSON here.
* URLs in answers begin with `--public-url`, or with what the request itself was sent to.
"""

import json
import re
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from ..config import Settings
from ..errors import ClientError, Forbidden, TooLarge
from ..registry import Principal, Registry

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


class BadPayload(ClientError):
    """A body that is no JSON, or not the JSON that is wanted."""

    def __init__(self, text: str = "invalid payload") -> None:
        super().__init__(text)


async def authenticate(registry: Registry, request: Request) -> Principal:
    """Who asks; raises Unauthorized and TooManyFailures."""
    authorization = request.headers.get("authorization", "").encode("latin-1")
    address = address_of(request)
    return registry.authenticate(authorization, address) or await registry.authenticate_slow(authorization, address)


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


def refuse_foreign_pages(request: Request, settings: Settings) -> None:
    """Raise Forbidden for a change that a page of another origin asks for."""
    if request.method in SAFE_METHODS:
        return
    if request.headers.get("sec-fetch-site", "") == "cross-site":
        raise Forbidden("cross-site request")
    origin = request.headers.get("origin")
    if origin is None:
        return
    own = {request.headers.get("host", "").lower(), _authority(settings.public_url)}
    if _authority(origin) not in own - {""}:
        raise Forbidden("request of another origin")


def _authority(url: str) -> str:
    """Host and port of a URL; of what is no URL, nothing."""
    return url.partition("://")[2].partition("/")[0].lower()


async def read_json(request: Request, max_bytes: int) -> Any:
    """The body as JSON; raises BadPayload and TooLarge."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > max_bytes:
                raise TooLarge(f"JSON over {max_bytes} bytes")
    except ClientDisconnect as exc:
        raise BadPayload from exc
    try:
        value = json.loads(bytes(body), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # fails for lone surrogates
    except (
        ValueError,
        RecursionError,
    ) as exc:  # UnicodeError, JSONDecodeError and the limit on digits are ValueErrors
        raise BadPayload from exc
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def base_url(request: Request, settings: Settings) -> str:
    """What URLs in answers begin with; no slash at the end."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        server = request.scope.get("server") or ("localhost", None)
        host = server[0] if server[1] is None else f"{server[0]}:{server[1]}"
    return f"{request.scope['scheme']}://{host}"
