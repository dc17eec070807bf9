"""The management API, v2, and what is left of v1 (protocol section 4). Channels are decimal numbers here."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.responses import Response

from ..errors import ClientError, Conflict, NotFound, Unprocessable
from ..registry import ChannelInfo
from ..registry.records import is_token_name
from .guard import BadPayload
from .lines import parse_filter, plain_lines
from .requests import is_decimal_name, number, session_options, token_names
from .resource import Access, Call, Operation, empty_answer, json_answer, text_answer
from .services import ValidDrain
from .shapes import drain_fields

SYSLOG_PORT = 514

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[?[0-9A-Fa-f:.]{2,45}\]?")


# Both


async def healthcheck(call: Call) -> Response:
    return json_answer({"status": call.services.registry.state.api})


async def _info(call: Call) -> ChannelInfo:
    info = await call.services.registry.channel_info(_channel(call))
    if info is None:
        raise NotFound("Not found")
    return info


def _channel(call: Call) -> str:
    name = call.param("channel")
    if not is_decimal_name(name):
        raise NotFound("Not found")
    return name


@contextmanager
def _missing(text: str) -> Iterator[None]:
    """Say `text` for whatever is not found."""
    try:
        yield
    except NotFound as exc:
        raise NotFound(text) from exc


async def _session_url(call: Call, path: str, refuse: type[ClientError], **fixed: Any) -> str:
    """Make a session; one of a channel that is not there reads as empty (the original made it all the same)."""
    given = call.fields()
    name = given.get("channel_id")
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < 10**18:
        name = str(name)
    if not isinstance(name, str):
        raise refuse("channel_id is a required field")
    options = session_options(given, refuse) | fixed
    record = await call.services.registry.channel(name)
    session = await call.services.registry.create_session(record.id if record else None, options)
    return call.url(path + session.uuid)


# v1


async def v1_create_channel(call: Call) -> Response:
    given = call.fields()
    if not isinstance(given.get("name", ""), str):
        raise BadPayload("'name' must be a string")
    info = await call.services.registry.create_channel(token_names(given))
    return json_answer({"channel_id": int(info.channel.name), "tokens": info.tokens_by_name()}, 201)


async def v1_info(call: Call) -> Response:
    with _missing("Not found"):
        info = await _info(call)
    drains = [drain.url for drain in info.drains]
    fields = {"channel_id": int(info.channel.name), "tokens": info.tokens_by_name(), "drains": drains}
    return json_answer(fields)


async def v1_delete_channel(call: Call) -> Response:
    with _missing("Not found"):
        await call.services.registry.delete_channel(_channel(call))
    return text_answer("OK")


async def v1_create_token(call: Call) -> Response:
    name = call.fields().get("name")
    if name is None:
        raise BadPayload("'name' post param missing")
    if not is_token_name(name):
        raise BadPayload("'name' must be 1 to 48 printable characters without spaces")
    with _missing("Not found"):
        token = await call.services.registry.create_token(_channel(call), str(name))
    return text_answer(token.id, 201)


async def v1_reserve_drain(call: Call) -> Response:
    with _missing("Not found"):
        drain = await call.services.registry.reserve_drain(_channel(call))
    fields = {"id": drain.id, "token": drain.token, "msg": "Successfully reserved drain token"}
    return json_answer(fields, 201)


async def v1_create_session(call: Call) -> Response:
    return text_answer(await _session_url(call, "/sessions/", BadPayload), 201)


# v2


async def v2_get_channel(call: Call) -> Response:
    with _missing("Not Found"):
        info = await _info(call)
    tokens = sorted((token.name, token.id) for token in info.tokens)
    fields = {
        "channel_id": int(info.channel.name),
        "tokens": [{"name": name, "token": token} for name, token in tokens],
        "drains": [drain_fields(drain) for drain in info.drains],
    }
    return json_answer(fields)


async def v2_delete_channel(call: Call) -> Response:
    with _missing("Not Found"):
        await call.services.registry.delete_channel(_channel(call))
    return empty_answer(200)


async def v2_create_token(call: Call) -> Response:
    name = call.fields().get("name")
    if name is None:
        raise Unprocessable("NAME is a required field")
    if not is_token_name(name):
        raise Unprocessable("NAME must be 1 to 48 printable characters without spaces")
    with _missing("Not Found"):
        token = await call.services.registry.create_token(_channel(call), str(name))
    return json_answer({"name": token.name, "token": token.id}, 201)


async def v2_create_drain(call: Call) -> Response:
    valid = _valid_drain(call)
    with _missing("No such channel"):
        drain = await call.services.registry.create_drain(_channel(call), valid.url, valid.options)
    return json_answer(drain_fields(drain), 201)


async def v2_set_drain(call: Call) -> Response:
    """Give a reserved drain its URL, or another drain another one."""
    valid = _valid_drain(call)
    with _missing("Unknown drain."):
        name, drain_id = _channel(call), number(call.param("drain"))
        before = await call.services.registry.drain(name, drain_id)
        if before.url == valid.url:
            raise Conflict("Already exists")
        drain = await call.services.registry.set_drain(name, drain_id, valid.url, valid.options)
    return json_answer(drain_fields(drain), 201)


async def v2_delete_drain(call: Call) -> Response:
    with _missing("Not found"):
        await call.services.registry.delete_drain(_channel(call), number(call.param("drain")))
    return empty_answer(200)


async def v2_create_session(call: Call) -> Response:
    return json_answer({"url": await _session_url(call, "/sessions/", Unprocessable)}, 201)


async def v2_create_canary_session(call: Call) -> Response:
    url = await _session_url(call, "/v2/canary-fetch/", Unprocessable, tail=False)
    return json_answer({"url": url}, 201)


async def v2_canary_fetch(call: Call) -> Response:
    """What a session reads, without following it; the URL is the right."""
    uuid = call.param("uuid")
    session = await call.services.registry.session(uuid) if _UUID.fullmatch(uuid) else None
    if session is None:
        raise NotFound("Not found")
    if session.channel_id is None:
        return text_answer("")
    channel = await call.services.channels.get(session.channel_id)
    return await plain_lines(channel, parse_filter(session.options), session.options["num"])


def _valid_drain(call: Call) -> ValidDrain:
    """A `url`, or `host` and `port` of a syslog server; raises Unprocessable."""
    given = call.fields()
    url = given.get("url")
    if url is None:
        url = _syslog_url(given)
    if not isinstance(url, str):
        raise Unprocessable("Invalid drain destination: url must be a string")
    try:
        return call.services.validate_drain(url, {})
    except Unprocessable as exc:
        text = str(exc)
        prefix = "Invalid drain destination: "
        raise Unprocessable(text if text.startswith(prefix) else prefix + text) from exc


def _syslog_url(given: Mapping[str, Any]) -> str:
    host, port = given.get("host"), given.get("port", SYSLOG_PORT)
    if host is None:
        raise Unprocessable("Invalid drain destination: missing_host_param")
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        raise Unprocessable("Invalid drain destination: host")
    if isinstance(port, str) and re.fullmatch(r"[0-9]{1,5}", port):
        port = int(port)
    if isinstance(port, bool) or not isinstance(port, int):
        raise Unprocessable("Invalid drain destination: port")
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"syslog://{bracketed}:{port}"


V1_TABLE = {
    "/healthcheck": {"GET": Operation(healthcheck, Access.ANYBODY)},
    "/channels": {"POST": Operation(v1_create_channel, writes=True, reads_body=True)},
    "/channels/{channel}/info": {"GET": Operation(v1_info)},
    "/channels/{channel}": {"DELETE": Operation(v1_delete_channel, writes=True)},
    "/channels/{channel}/token": {"POST": Operation(v1_create_token, writes=True, reads_body=True)},
    "/channels/{channel}/drains/tokens": {"POST": Operation(v1_reserve_drain, writes=True)},
    "/sessions": {"POST": Operation(v1_create_session, writes=True, reads_body=True)},
    "/v2/canary-fetch/{uuid}": {"GET": Operation(v2_canary_fetch, Access.ANYBODY)},
}

V2_TABLE = {
    "/v2/channels/{channel}": {
        "GET": Operation(v2_get_channel),
        "DELETE": Operation(v2_delete_channel, writes=True),
    },
    "/v2/channels/{channel}/tokens": {"POST": Operation(v2_create_token, writes=True, reads_body=True)},
    "/v2/channels/{channel}/drains": {"POST": Operation(v2_create_drain, writes=True, reads_body=True)},
    "/v2/channels/{channel}/drains/{drain}": {
        "POST": Operation(v2_set_drain, writes=True, reads_body=True),
        "DELETE": Operation(v2_delete_drain, writes=True),
    },
    "/v2/sessions": {"POST": Operation(v2_create_session, writes=True, reads_body=True)},
    "/v2/canary-sessions": {"POST": Operation(v2_create_canary_session, reads_body=True)},
}
