"""All management APIs as one ASGI app."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import v2, v3, v3_credentials, v3_drains
from .resource import Resource, Version
from .services import Services

TABLES = (
    (Version.V1, v2.V1_TABLE),
    (Version.V2, v2.V2_TABLE),
    (Version.V3, {**v3.TABLE, **v3_drains.TABLE, **v3_credentials.TABLE}),
)


def create_api(services: Services, extra: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The APIs of `services`, and the routes of further ones (the Platform API, the page); no lifespan."""
    routes: list[BaseRoute] = [
        Route(path, Resource(services, version, operations))
        for version, table in TABLES
        for path, operations in table.items()
    ]
    app = Starlette(routes=[*routes, *extra])
    app.router.redirect_slashes = False
    app.router.default = _Missing(services)
    return app


class _Missing:
    """Every path that is none: 404 as its version says it."""

    def __init__(self, services: Services) -> None:
        self._v1 = Resource(services, Version.V1, {})
        self._v3 = Resource(services, Version.V3, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._v3 if scope["path"].startswith("/v3/") else self._v1)(scope, receive, send)
