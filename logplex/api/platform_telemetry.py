"""Telemetry drains of the Platform API: drains of an app that speak OTLP over HTTP (protocol section 10).

* They are stored as any drain, with the option `format: otlp` and the exporter's headers; further options are given
  to them through v3, and a change here keeps those.
* Only logs leave this server: other signals may be asked for beside them (the CLI asks for all), and are not shown.
* Headers are secrets: shown as `***`, and `***` keeps what is stored.
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ..errors import NotFound, Unprocessable
from ..registry import ChannelRecord, DrainRecord
from .platform_apps import app_info, drain_uuid, find_app, is_telemetry, time_text, unless_taken
from .resource import Access, Call, Operation, json_answer
from .shapes import unmasked

_SIGNALS = frozenset({"logs", "metrics", "traces"})


async def list_telemetry_drains(call: Call) -> Response:
    info = await app_info(call)
    drains = [drain for drain in info.drains if is_telemetry(drain)]
    return json_answer([_telemetry_fields(call, info.channel, drain) for drain in drains])


async def create_telemetry_drain(call: Call) -> Response:
    given = call.fields()
    owner = _part(given, "owner")
    if owner.get("type") != "app" or not isinstance(owner.get("id"), str):
        raise Unprocessable("owner: must be an app")
    app = await find_app(call, owner["id"])
    _check_signals(given.get("signals"))
    exporter = _part(given, "exporter")
    if "endpoint" not in exporter:
        raise Unprocessable("exporter: endpoint is needed")
    url, options = _destination(call, exporter, None)
    drain = await unless_taken(call.services.registry.create_drain(app.name, url, options))
    return json_answer(_telemetry_fields(call, app, drain), 201)


async def get_telemetry_drain(call: Call) -> Response:
    return json_answer(_telemetry_fields(call, *await _telemetry_drain(call)))


async def patch_telemetry_drain(call: Call) -> Response:
    """What is not given stays as it is."""
    given = call.fields()
    app, drain = await _telemetry_drain(call)
    if "signals" in given:
        _check_signals(given["signals"])
    if "exporter" in given:
        url, options = _destination(call, _part(given, "exporter"), drain)
        drain = await unless_taken(call.services.registry.set_drain(app.name, drain.id, url, options))
    return json_answer(_telemetry_fields(call, app, drain))


async def delete_telemetry_drain(call: Call) -> Response:
    app, drain = await _telemetry_drain(call)
    await call.services.registry.delete_drain(app.name, drain.id)
    return json_answer(_telemetry_fields(call, app, drain))


TABLE: Mapping[str, Mapping[str, Operation]] = {
    "/apps/{app}/telemetry-drains": {"GET": Operation(list_telemetry_drains, Access.APP)},
    "/telemetry-drains": {"POST": Operation(create_telemetry_drain, Access.APP, writes=True, reads_body=True)},
    "/telemetry-drains/{telemetry}": {
        "GET": Operation(get_telemetry_drain, Access.APP),
        "PATCH": Operation(patch_telemetry_drain, Access.APP, writes=True, reads_body=True),
        "DELETE": Operation(delete_telemetry_drain, Access.APP, writes=True),
    },
}


async def _telemetry_drain(call: Call) -> tuple[ChannelRecord, DrainRecord]:
    """The drain of the path and its app; raises NotFound, for one of an app that the caller may not read too."""
    registry, token = call.services.registry, f"d.{call.param('telemetry')}"
    if registry.is_drain_token(token):
        drain = next((drain for drain in registry.drains.values() if drain.token == token), None)
        if drain is not None and is_telemetry(drain):
            app = await registry.channel_by_id(drain.channel_id)
            if app is not None and call.principal is not None and call.principal.may_read(app.id):
                return app, drain
    raise NotFound("Couldn't find that telemetry drain.")


def _part(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = given.get(name)
    if not isinstance(part, Mapping):
        raise Unprocessable(f"{name}: must be an object")
    return part


def _check_signals(signals: object) -> None:
    if not isinstance(signals, list) or not all(isinstance(signal, str) and signal in _SIGNALS for signal in signals):
        raise Unprocessable("signals: must be a list of logs, metrics and traces")
    if "logs" not in signals:
        raise Unprocessable("signals: only logs are exported here")


def _destination(call: Call, exporter: Mapping[str, Any], drain: DrainRecord | None) -> tuple[str, Mapping[str, Any]]:
    """URL and options as drains have them; what is not given is as in `drain`."""
    if exporter.get("type", "otlphttp") != "otlphttp":
        raise Unprocessable("exporter: type must be otlphttp")
    stored = {} if drain is None else drain.options
    url = exporter.get("endpoint", None if drain is None else drain.url)
    if not isinstance(url, str):
        raise Unprocessable("exporter: endpoint must be a URL")
    headers = exporter.get("headers", stored.get("headers")) or None
    options = unmasked({**stored, "headers": headers, "format": "otlp"}, stored)
    try:
        valid = call.services.validate_drain(url, options)
    except Unprocessable as exc:
        raise Unprocessable(f"exporter: {exc}") from exc
    return valid.url, valid.options


def _telemetry_fields(call: Call, app: ChannelRecord, drain: DrainRecord) -> dict[str, Any]:
    shown = call.services.show_options(drain)
    return {
        "id": drain_uuid(drain),
        "owner": {"id": app.name, "type": "app"},
        "signals": ["logs"],
        "exporter": {"type": "otlphttp", "endpoint": drain.url, "headers": dict(shown.get("headers", {}))},
        "created_at": time_text(drain.created_at),
        "updated_at": time_text(drain.updated_at),
    }
