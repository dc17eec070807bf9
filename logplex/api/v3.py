"""The management API, v3 (protocol section 5): channels, tokens, lines, sessions, the service itself."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ..errors import NotFound, Unprocessable
from ..registry import ChannelInfo, ServiceState
from ..registry.records import CHANNEL_FLAGS, is_channel_name, is_token_name
from .guard import BadPayload
from .lines import logplex_frames, parse_filter, parse_num
from .requests import session_options, token_names
from .resource import Access, Call, Operation, empty_answer, json_answer, text_answer
from .shapes import drain_fields

PAGE = 100
MAX_PAGE = 1000

Table = Mapping[str, Mapping[str, Operation]]


async def healthcheck(call: Call) -> Response:
    health = call.services.health()
    text = "OK"
    if not health.routing:
        text = "SYSTEM BOOTING"
    elif health.stopping and "ready" in call.request.query_params:
        text = "SYSTEM STOPPING"
    status = 200 if text == "OK" else 503
    headers = {"logplex-state": health.state}
    if "application/json" in call.request.headers.get("accept", ""):
        state = health.state if health.routing else "booting"
        detail = {"status": text, "state": state, "stopping": health.stopping, **health.detail}
        return json_answer(detail, status, headers)
    return text_answer(text, status, headers)


async def get_status(call: Call) -> Response:
    return json_answer(_status(call))


async def put_status(call: Call) -> Response:
    """What is not given stays as it is."""
    given = call.fields()
    state = call.services.registry.state
    api, ingress = given.get("api", state.api), given.get("ingress", state.ingress)
    if api not in ("normal", "read_only", "disabled") or not isinstance(ingress, bool):
        raise BadPayload
    await call.services.registry.set_state(ServiceState(api, ingress))
    return json_answer(_status(call))


def _status(call: Call) -> dict[str, Any]:
    services = call.services
    state, health = services.registry.state, services.health()
    return {
        "api": state.api,
        "ingress": state.ingress,
        "state": health.state,
        "stopping": health.stopping,
        **health.detail,
        "ledger": dict(services.ledger.node()),
    }


async def list_channels(call: Call) -> Response:
    """By name; `after` is the last name of the page before. Whoever may read some apps only sees those."""
    registry, query = call.services.registry, call.request.query_params
    after, limit = query.get("after", ""), page_size(query.get("limit"))
    assert call.principal is not None
    if call.principal.full_api:
        found = await registry.channels(after, limit)
    else:
        own = [await registry.channel_by_id(channel_id) for channel_id in call.principal.app_ids]
        found = sorted((c for c in own if c is not None and c.name > after), key=lambda c: c.name)[:limit]
    rows = [{"channel": channel.name, "flags": sorted(channel.flags)} for channel in found]
    return json_answer({"channels": rows})


def page_size(text: str | None, default: int = PAGE) -> int:
    """`limit`, at most 1,000; raises BadPayload for what is no number."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text[:9]) == 0:
        raise BadPayload("limit must be a number")
    return min(int(text[:9]), MAX_PAGE)


async def put_channel(call: Call) -> Response:
    name, given = call.param("channel"), call.fields()
    if not is_channel_name(name):
        raise BadPayload
    created, info = await call.services.registry.put_channel(name, token_names(given))
    return json_answer(channel_fields(info), 201 if created else 200)


async def get_channel(call: Call) -> Response:
    """Whoever may only read the app sees no token values."""
    channel = await call.channel(call.param("channel"))
    info = await call.services.registry.channel_info(channel.name)
    if info is None:
        raise NotFound("No such channel")
    fields = channel_fields(info)
    if call.principal is None or not call.principal.full_api:
        fields.pop("tokens", None)
    return json_answer(fields)


def channel_fields(info: ChannelInfo) -> dict[str, Any]:
    """A channel as v3 shows it; what is empty is left out."""
    fields: dict[str, Any] = {"channel": info.channel.name}
    if info.tokens:
        fields["tokens"] = info.tokens_by_name()
    if info.drains:
        fields["drains"] = [drain_fields(drain) for drain in info.drains]
    if info.channel.flags:
        fields["flags"] = sorted(info.channel.flags)
    return fields


async def patch_channel(call: Call) -> Response:
    flags = call.fields().get("flags")
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise BadPayload
    unknown = [flag for flag in flags if flag not in CHANNEL_FLAGS]
    if unknown:
        raise Unprocessable(f"flags: {unknown[0][:64]!r} is none: use {', '.join(sorted(CHANNEL_FLAGS))}")
    channel = await call.services.registry.set_flags(call.param("channel"), flags)
    return json_answer({"channel": channel.name, "flags": sorted(channel.flags)})


async def delete_channel(call: Call) -> Response:
    await call.services.registry.delete_channel(call.param("channel"))
    return empty_answer()


async def create_token(call: Call) -> Response:
    name = call.fields().get("name")
    if not is_token_name(name):
        raise BadPayload
    token = await call.services.registry.create_token(call.param("channel"), str(name))
    return json_answer({"token": token.id, "name": token.name})


async def delete_tokens(call: Call) -> Response:
    await call.services.registry.delete_tokens(call.param("channel"), call.param("name"))
    return empty_answer()


async def get_logs(call: Call) -> Response:
    """The newest `num` lines that match; the query may hold the fields of a filter."""
    query = call.request.query_params
    given = {name: query.getlist(name) if name == "fields" else query[name] for name in query}
    filter, num = parse_filter(given), parse_num(query.get("num"))
    record = await call.channel(call.param("channel"))
    return await logplex_frames(await call.services.channels.get(record.id), filter, num)


async def get_ledger(call: Call) -> Response:
    record = await call.channel(call.param("channel"))
    return json_answer(dict(await call.services.ledger.channel(record.id)))


async def create_session(call: Call) -> Response:
    given = call.fields()
    name = given.get("channel_id")
    if not isinstance(name, str):
        raise BadPayload
    options = session_options(given)
    try:
        record = await call.channel(name)
        session = await call.services.registry.create_session(record.id, options)
    except NotFound as exc:
        raise Unprocessable("channel not found") from exc
    url = call.url(f"/sessions/{session.uuid}")
    return json_answer({"url": url}, 201, {"location": url})


TABLE: Table = {
    "/v3/healthcheck": {"GET": Operation(healthcheck, Access.ANYBODY, always=True)},
    "/v3/status": {
        "GET": Operation(get_status, always=True),
        "PUT": Operation(put_status, reads_body=True, always=True),
    },
    "/v3/channels": {"GET": Operation(list_channels, Access.APP)},
    "/v3/channels/{channel}": {
        "PUT": Operation(put_channel, writes=True, reads_body=True),
        "GET": Operation(get_channel, Access.APP),
        "PATCH": Operation(patch_channel, writes=True, reads_body=True),
        "DELETE": Operation(delete_channel, writes=True),
    },
    "/v3/channels/{channel}/tokens": {"POST": Operation(create_token, writes=True, reads_body=True)},
    "/v3/channels/{channel}/tokens/{name:path}": {"DELETE": Operation(delete_tokens, writes=True)},
    "/v3/channels/{channel}/logs": {"GET": Operation(get_logs, Access.APP)},
    "/v3/channels/{channel}/ledger": {"GET": Operation(get_ledger, Access.APP)},
    "/v3/sessions": {"POST": Operation(create_session, Access.APP, writes=True, reads_body=True)},
}
