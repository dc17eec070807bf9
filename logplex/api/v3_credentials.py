"""The credentials of v3: made, listed, shown, deleted. A generated password is in the answer that made it, only."""

import re
from secrets import token_hex

from starlette.responses import Response

from ..errors import Unprocessable
from ..registry import CredentialRecord
from ..registry.records import is_channel_name, is_credential_id
from .guard import BadPayload
from .resource import Call, Operation, empty_answer, json_answer
from .shapes import rfc3339
from .v3 import MAX_PAGE, page_size

MAX_PERMISSIONS = 100

_PERMISSION = re.compile(r"full_api|any_channel|(?:channel|app):(.+)", re.DOTALL)


async def list_credentials(call: Call) -> Response:
    """By id; `after` is the last id of the page before."""
    query = call.request.query_params
    found = await call.services.registry.credentials(query.get("after", ""), page_size(query.get("limit"), MAX_PAGE))
    return json_answer({"credentials": [_fields(record) for record in found]})


async def get_credential(call: Call) -> Response:
    return json_answer(_fields(await call.services.registry.credential(call.param("id"))))


async def create_credential(call: Call) -> Response:
    """`{"permissions": […], "id"?, "password"?}`; what is not given is made."""
    given = call.fields()
    credential_id = given.get("id", f"c-{token_hex(8)}")
    password, permissions = given.get("password"), given.get("permissions")
    if not is_credential_id(credential_id):
        raise Unprocessable("id: 1 to 64 letters, digits and _ . -")
    if not (password is None or isinstance(password, str)):
        raise BadPayload
    if not isinstance(permissions, list) or not all(isinstance(each, str) for each in permissions):
        raise BadPayload
    if not 0 < len(permissions) <= MAX_PERMISSIONS:
        raise Unprocessable(f"permissions: 1 to {MAX_PERMISSIONS}")
    for permission in permissions:
        match = _PERMISSION.fullmatch(permission)
        if match is None or (match[1] is not None and not is_channel_name(match[1])):
            raise Unprocessable(
                f"permissions: {permission[:140]!r} is none: full_api, any_channel, channel:ID, app:ID"
            )
    record, password = await call.services.registry.create_credential(credential_id, permissions, password)
    fields = _fields(record)
    if "password" not in given:
        fields["password"] = password
    return json_answer(fields, 201, {"location": call.url(f"/v3/credentials/{record.id}")})


async def delete_credential(call: Call) -> Response:
    await call.services.registry.delete_credential(call.param("id"))
    return empty_answer()


def _fields(record: CredentialRecord) -> dict[str, object]:
    return {"id": record.id, "permissions": list(record.permissions), "created_at": rfc3339(record.created_at)}


TABLE = {
    "/v3/credentials": {
        "GET": Operation(list_credentials),
        "POST": Operation(create_credential, writes=True, reads_body=True),
    },
    "/v3/credentials/{id}": {
        "GET": Operation(get_credential),
        "DELETE": Operation(delete_credential, writes=True),
    },
}
