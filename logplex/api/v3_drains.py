"""The drains of v3 (protocol section 5): made, changed, deleted, shown with their state, tested and replayed.

* A bad URL is 400, a bad option 422 with the option's name (the URL is looked at alone first).
* A change without `options` keeps those that are; `***` keeps the secret that it was shown for.
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ..errors import ClientError, NotFound, Unprocessable
from ..registry import DrainRecord
from .guard import BadPayload
from .requests import number
from .resource import Access, Call, Operation, empty_answer, json_answer
from .services import ValidDrain
from .shapes import drain_fields, unmasked


async def list_drains(call: Call) -> Response:
    channel = await call.channel(call.param("channel"))
    info = await call.services.registry.channel_info(channel.name)
    if info is None:
        raise NotFound("No such channel")
    return json_answer({"drains": [_with_status(call, drain) for drain in info.drains]})


async def get_drain(call: Call) -> Response:
    return json_answer(_with_status(call, await _drain(call)))


async def create_drain(call: Call) -> Response:
    """Without a URL the drain is only reserved; with `"test": true` it is tested at once."""
    given, name, registry = call.fields(), call.param("channel"), call.services.registry
    wants_test = given.get("test", False)
    if not isinstance(wants_test, bool):
        raise BadPayload("test must be true or false")
    if "url" not in given:
        drain = await registry.reserve_drain(name)
    else:
        valid = _valid(call, given, {})
        drain = await registry.create_drain(name, valid.url, valid.options)
    fields = _fields(call, drain)
    if wants_test and drain.url is not None:
        fields["test"] = await _tested(call, drain)
    location = call.url(f"/v3/channels/{name}/drains/{drain.id}")
    return json_answer(fields, 201, {"location": location})


async def put_drain(call: Call) -> Response:
    given = call.fields()
    before = await _drain(call)
    valid = _valid(call, given, before.options)
    registry, name = call.services.registry, call.param("channel")
    return json_answer(_fields(call, await registry.set_drain(name, before.id, valid.url, valid.options)))


async def delete_drain(call: Call) -> Response:
    await call.services.registry.delete_drain(call.param("channel"), number(call.param("drain")))
    return empty_answer()


async def test_drain(call: Call) -> Response:
    drain = await _drain(call)
    if drain.url is None:
        raise Unprocessable("the drain has no url yet")
    return json_answer(dict(await call.services.drains.test(drain)))


async def replay_drain(call: Call) -> Response:
    given = call.fields()
    drain = await _drain(call)
    if drain.url is None:
        raise Unprocessable("the drain has no url yet")
    if "from" not in given:
        raise Unprocessable("from: is needed: oldest, a position or a time")
    return json_answer(dict(await call.services.drains.replay(drain, given["from"])), 202)


async def _tested(call: Call, drain: DrainRecord) -> dict[str, Any]:
    """What a test says, or why there is none: the drain is made already."""
    try:
        return dict(await call.services.drains.test(drain))
    except ClientError as exc:
        return {"ok": False, "error": str(exc)}


async def _drain(call: Call) -> DrainRecord:
    channel = await call.channel(call.param("channel"))
    return await call.services.registry.drain(channel.name, number(call.param("drain")))


def _valid(call: Call, given: Mapping[str, Any], stored: Mapping[str, Any]) -> ValidDrain:
    """URL and options of a request; raises BadPayload (URL), Unprocessable (options)."""
    url, options = given.get("url"), given.get("options", stored)
    if not isinstance(url, str):
        raise BadPayload
    if not isinstance(options, Mapping):
        raise Unprocessable("options: must be an object")
    try:
        call.services.validate_drain(url, {})
    except Unprocessable as exc:
        raise BadPayload(str(exc)) from exc
    return call.services.validate_drain(url, unmasked(options, stored))


def _fields(call: Call, drain: DrainRecord) -> dict[str, Any]:
    fields = drain_fields(drain)
    if drain.options:
        fields["options"] = dict(call.services.show_options(drain))
    return fields


def _with_status(call: Call, drain: DrainRecord) -> dict[str, Any]:
    status = call.services.drains.status(drain.id)
    return _fields(call, drain) | ({} if status is None else {"status": dict(status)})


TABLE = {
    "/v3/channels/{channel}/drains": {
        "GET": Operation(list_drains, Access.APP),
        "POST": Operation(create_drain, writes=True, reads_body=True),
    },
    "/v3/channels/{channel}/drains/{drain}": {
        "GET": Operation(get_drain, Access.APP),
        "PUT": Operation(put_drain, writes=True, reads_body=True),
        "DELETE": Operation(delete_drain, writes=True),
    },
    "/v3/channels/{channel}/drains/{drain}/test": {"POST": Operation(test_drain, writes=True)},
    "/v3/channels/{channel}/drains/{drain}/replay": {"POST": Operation(replay_drain, writes=True, reads_body=True)},
}
