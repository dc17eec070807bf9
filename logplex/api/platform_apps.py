"""Account, apps, log sessions and log drains of the Platform API (protocol section 10).

* An app is a channel, its id and its name are the channel's name. Whoever may read some apps only sees those: another
  one is not found, whether it exists or not.
* A drain is named by its id (the uuid of its token), its token or its URL, percent-encoded.
* Lists of apps come in pages of 1,000: 206 and `Next-Range`, as Heroku's; the CLI follows them.
"""

import re
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from ..errors import Conflict, Forbidden, NotFound, Unprocessable
from ..registry import ChannelInfo, ChannelRecord, DrainRecord
from .requests import session_options
from .resource import Access, Call, Operation, json_answer

APPS_IN_A_PAGE = 1000

_RANGE = re.compile(r"name \]([A-Za-z0-9_.:-]{1,128})\.\.")


async def get_account(call: Call) -> Response:
    """The credential; its id stands where Heroku has an address."""
    return json_answer({**_owner(call), "name": _owner(call)["id"], "beta": False, "two_factor_authentication": False})


async def list_apps(call: Call) -> Response:
    registry, principal = call.services.registry, call.principal
    assert principal is not None
    if not principal.full_api:
        own = [await registry.channel_by_id(channel_id) for channel_id in principal.app_ids]
        found = sorted((channel for channel in own if channel is not None), key=lambda channel: channel.name)
        return json_answer([_app_fields(call, channel) for channel in found])
    behind = _RANGE.match(call.request.headers.get("range", ""))
    found = await registry.channels(behind[1] if behind else "", APPS_IN_A_PAGE)
    apps = [_app_fields(call, channel) for channel in found]
    if len(found) < APPS_IN_A_PAGE:
        return json_answer(apps, 206 if behind else 200)
    return json_answer(apps, 206, {"next-range": f"name ]{found[-1].name}..; max={APPS_IN_A_PAGE}"})


async def get_app(call: Call) -> Response:
    return json_answer(_app_fields(call, await find_app(call)))


async def create_log_session(call: Call) -> Response:
    """`dyno` may hold a process type too: the CLI sends `-p web` so."""
    given = call.fields()
    app = await find_app(call)
    process = given.get("dyno") or given.get("dyno_name") or given.get("type")
    wanted = {"num": given.get("lines"), "tail": given.get("tail"), "source": given.get("source"), "ps": process}
    options = session_options({name: value for name, value in wanted.items() if value is not None}, Unprocessable)
    session = await call.services.registry.create_session(app.id, options)
    created = time_text(session.created_at)
    url = call.url(f"/sessions/{session.uuid}")
    fields = {"id": session.uuid, "logplex_url": url, "created_at": created, "updated_at": created}
    return json_answer(fields, 201)


async def list_drains(call: Call) -> Response:
    info = await app_info(call)
    drains = [drain for drain in info.drains if not is_telemetry(drain)]
    return json_answer([_drain_fields(call, info.channel, drain) for drain in drains])


async def create_drain(call: Call) -> Response:
    app = await find_app(call)
    url = call.fields().get("url")
    if not isinstance(url, str):
        raise Unprocessable("url: is needed")
    valid = call.services.validate_drain(url, {})
    drain = await unless_taken(call.services.registry.create_drain(app.name, valid.url, valid.options))
    return json_answer(_drain_fields(call, app, drain), 201)


async def get_drain(call: Call) -> Response:
    info = await app_info(call)
    return json_answer(_drain_fields(call, info.channel, _find(info, call.param("drain"))))


async def delete_drain(call: Call) -> Response:
    info = await app_info(call)
    drain = _find(info, call.param("drain"))
    await call.services.registry.delete_drain(info.channel.name, drain.id)
    return json_answer(_drain_fields(call, info.channel, drain))


TABLE: Mapping[str, Mapping[str, Operation]] = {
    "/account": {"GET": Operation(get_account, Access.APP)},
    "/apps": {"GET": Operation(list_apps, Access.APP)},
    "/users/~/apps": {"GET": Operation(list_apps, Access.APP)},
    "/apps/{app}": {"GET": Operation(get_app, Access.APP)},
    "/apps/{app}/log-sessions": {
        "POST": Operation(create_log_session, Access.APP, writes=True, reads_body=True),
    },
    "/apps/{app}/log-drains": {
        "GET": Operation(list_drains, Access.APP),
        "POST": Operation(create_drain, Access.APP, writes=True, reads_body=True),
    },
    "/apps/{app}/log-drains/{drain:path}": {
        "GET": Operation(get_drain, Access.APP),
        "DELETE": Operation(delete_drain, Access.APP, writes=True),
    },
}


async def find_app(call: Call, name: str | None = None) -> ChannelRecord:
    """The app of the path, or of that name; raises NotFound, for one that the caller may not read too."""
    try:
        return await call.channel(call.param("app") if name is None else name)
    except (NotFound, Forbidden) as exc:
        raise NotFound("Couldn't find that app.") from exc


async def app_info(call: Call) -> ChannelInfo:
    app = await find_app(call)
    info = await call.services.registry.channel_info(app.name)
    if info is None:
        raise NotFound("Couldn't find that app.")
    return info


async def unless_taken(write: Awaitable[DrainRecord]) -> DrainRecord:
    try:
        return await write
    except Conflict as exc:
        raise Unprocessable("Url has already been taken") from exc


def _find(info: ChannelInfo, named: str) -> DrainRecord:
    for drain in info.drains:
        if named in (drain_uuid(drain), drain.token, drain.url) and not is_telemetry(drain):
            return drain
    raise NotFound("Couldn't find that log drain.")


def is_telemetry(drain: DrainRecord) -> bool:
    return drain.options.get("format") == "otlp"


def drain_uuid(drain: DrainRecord) -> str:
    return drain.token.removeprefix("d.")


def time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _owner(call: Call) -> dict[str, str]:
    assert call.principal is not None
    return {"id": call.principal.shown, "email": call.principal.shown}


def _app_fields(call: Call, channel: ChannelRecord) -> dict[str, Any]:
    return {
        "id": channel.name,
        "name": channel.name,
        "generation": {"id": "cedar", "name": "cedar"},
        "owner": _owner(call),
        "region": {"id": "us", "name": "us"},
        "space": None,
        "team": None,
        "web_url": None,
    }


def _drain_fields(call: Call, app: ChannelRecord, drain: DrainRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": drain_uuid(drain),
        "token": drain.token,
        "url": drain.url,
        "addon": None,
        "app": {"id": app.name, "name": app.name},
        "created_at": time_text(drain.created_at),
        "updated_at": time_text(drain.updated_at),
    }
    if call.request.query_params.get("extended") == "true":
        fields["extended"] = {"drain_id": drain.id}
    return fields
