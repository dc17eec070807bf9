"""Credentials of v3, and what each permission opens."""

import pytest

from .client import House, basic


async def test_a_credential_is_made_with_a_password_that_is_shown_once(house: House) -> None:
    await house.admin("PUT", "/v3/channels/shop", {})
    answer = await house.admin("POST", "/v3/credentials", {"id": "bob", "permissions": ["full_api", "app:shop"]})
    assert answer.status == 201
    made = answer.json()
    assert list(made) == ["id", "permissions", "created_at", "password"]
    assert answer.headers["location"] == "http://logs.example:8001/v3/credentials/bob"
    bob = house.client(basic("bob", made["password"]))
    assert (await bob("GET", "/v3/status")).status == 200
    shown = await house.admin("GET", "/v3/credentials/bob")
    assert (shown.status, shown.json()) == (200, {name: made[name] for name in ("id", "permissions", "created_at")})
    listed = (await house.admin("GET", "/v3/credentials")).json()["credentials"]
    assert [each["id"] for each in listed] == ["admin", "bob"]
    assert listed[1] == shown.json()
    assert (await house.admin("GET", "/v3/credentials?after=admin")).json()["credentials"] == [shown.json()]


async def test_an_id_is_made_up_and_a_password_may_be_chosen(house: House) -> None:
    body = {"permissions": ["full_api"], "password": "a chosen \u00fcne"}
    made = (await house.admin("POST", "/v3/credentials", body)).json()
    assert "password" not in made
    chosen = house.client(basic(made["id"], "a chosen \u00fcne"))
    assert (await chosen("GET", "/v3/status")).status == 200


async def test_a_credential_is_out_from_the_answer_on(house: House) -> None:
    bob = await house.credential("bob", "full_api")
    assert (await bob("GET", "/v3/status")).status == 200
    answer = await house.admin("DELETE", "/v3/credentials/bob")
    assert (answer.status, answer.body) == (204, b"")
    assert (await bob("GET", "/v3/status")).status == 401
    for method in ("GET", "DELETE"):
        assert (await house.admin(method, "/v3/credentials/bob")).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (None, 400),
        ([], 400),
        ({}, 400),
        ({"permissions": "full_api"}, 400),
        ({"permissions": [5]}, 400),
        ({"permissions": []}, 422),
        ({"permissions": ["full_api"] * 101}, 422),
        ({"permissions": ["root"]}, 422),
        ({"permissions": ["app:"]}, 422),
        ({"permissions": ["app:a b"]}, 422),
        ({"permissions": ["app:none"]}, 422),
        ({"permissions": ["full_api"], "id": "a:b"}, 422),
        ({"permissions": ["full_api"], "id": "token"}, 422),
        ({"permissions": ["full_api"], "id": ""}, 422),
        ({"permissions": ["full_api"], "id": None}, 422),
        ({"permissions": ["full_api"], "password": 5}, 400),
        ({"permissions": ["full_api"], "password": "short"}, 422),
        ({"permissions": ["full_api"], "password": "x" * 1025}, 422),
        ({"permissions": ["full_api"], "id": "admin"}, 409),
    ],
)
async def test_a_bad_credential_is_refused(house: House, body: object, status: int) -> None:
    answer = await house.admin("POST", "/v3/credentials", body)
    assert answer.status == status
    assert answer.json()["error"]


# What a key for one app opens

OWN = [
    ("GET", "/v3/channels", 200),
    ("GET", "/v3/channels/shop", 200),
    ("GET", "/v3/channels/shop/logs", 200),
    ("GET", "/v3/channels/shop/ledger", 200),
    ("GET", "/v3/channels/shop/drains", 200),
    ("GET", "/v3/channels/shop/drains/1", 200),
    ("POST", "/v3/sessions", 201),
]


@pytest.mark.parametrize(("method", "path", "status"), OWN)
async def test_a_key_for_an_app_reads_it(house: House, method: str, path: str, status: int) -> None:
    await house.admin("PUT", "/v3/channels/shop", {"tokens": ["app"]})
    await house.admin("POST", "/v3/channels/shop/drains", {"url": "http://one/"})
    key = await house.credential("key", "app:shop")
    answer = await key(method, path, {"channel_id": "shop"} if method == "POST" else None)
    assert answer.status == status
    assert "t." not in answer.text, "it sees no token values"
    bearer = house.client(key.authorization)
    assert (await bearer("GET", "/v3/channels/shop")).json()["drains"][0]["url"] == "http://one/"


@pytest.mark.parametrize(("method", "path", "status"), OWN[1:])
@pytest.mark.parametrize("other", ["other", "none"])
async def test_a_key_for_an_app_sees_no_other_and_not_whether_it_exists(
    house: House, method: str, path: str, status: int, other: str
) -> None:
    await house.admin("PUT", "/v3/channels/shop", {})
    await house.admin("PUT", "/v3/channels/other", {})
    key = await house.credential("key", "app:shop")
    body = {"channel_id": other} if method == "POST" else None
    answer = await key(method, path.replace("shop", other), body)
    assert (answer.status, answer.json()) == (403, {"error": "Forbidden"})


async def test_a_key_for_apps_lists_them_alone(house: House) -> None:
    for name in ("c", "a", "b", "d"):
        await house.admin("PUT", f"/v3/channels/{name}", {})
    key = await house.credential("key", "app:c", "app:a", "app:b")

    async def listed(query: str) -> list[str]:
        return [row["channel"] for row in (await key("GET", f"/v3/channels{query}")).json()["channels"]]

    assert await listed("") == ["a", "b", "c"]
    assert await listed("?after=a&limit=1") == ["b"]
    await house.admin("DELETE", "/v3/channels/b")
    assert await listed("") == ["a", "c"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v3/channels/shop"),
        ("PATCH", "/v3/channels/shop"),
        ("DELETE", "/v3/channels/shop"),
        ("POST", "/v3/channels/shop/tokens"),
        ("DELETE", "/v3/channels/shop/tokens/app"),
        ("POST", "/v3/channels/shop/drains"),
        ("PUT", "/v3/channels/shop/drains/1"),
        ("DELETE", "/v3/channels/shop/drains/1"),
        ("POST", "/v3/channels/shop/drains/1/test"),
        ("POST", "/v3/channels/shop/drains/1/replay"),
        ("GET", "/v3/credentials"),
        ("POST", "/v3/credentials"),
        ("GET", "/v3/status"),
        ("PUT", "/v3/status"),
        ("GET", "/v2/channels/1"),
        ("POST", "/v2/sessions"),
    ],
)
async def test_a_key_for_an_app_changes_nothing(house: House, method: str, path: str) -> None:
    await house.admin("PUT", "/v3/channels/shop", {"tokens": ["app"]})
    await house.admin("POST", "/v3/channels/shop/drains", {"url": "http://one/"})
    key = await house.credential("key", "app:shop")
    assert (await key(method, path, {})).status == 403
