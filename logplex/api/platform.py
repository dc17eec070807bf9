"""The Platform API, as far as the unmodified Heroku CLI uses it (protocol section 10).

* `Authorization: Bearer id:password` of a credential with `full_api` or `app:<id>`; `HEROKU_API_KEY` of the CLI.
* Errors are `{"id", "message"}` with Heroku's ids.
"""

from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..errors import ClientError
from . import platform_apps, platform_telemetry
from .resource import Resource, Version, json_answer
from .services import Services

_IDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid_params",
    429: "rate_limit",
    503: "maintenance",
}


@dataclass(frozen=True, slots=True)
class PlatformResource(Resource):
    """One path of the Platform API."""

    def refusal(self, error: ClientError) -> Response:
        headers = {"www-authenticate": "Basic realm=Logplex"} if error.status == 401 else {}
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            headers["retry-after"] = str(retry_after)
        text = "Invalid credentials provided." if error.status == 401 else str(error)
        return json_answer({"id": _IDS.get(error.status, "error"), "message": text}, error.status, headers)

    def _no_method(self) -> Response:
        allowed = ", ".join(sorted(self.operations))
        return json_answer({"id": _IDS[405], "message": f"Use {allowed}."}, 405, {"allow": allowed})


def platform_routes(services: Services) -> list[BaseRoute]:
    """What `create_api` takes as `extra`."""
    return [
        Route(path, PlatformResource(services, Version.V3, operations))
        for path, operations in {**platform_apps.TABLE, **platform_telemetry.TABLE}.items()
    ]
