"""v3, status by status (protocol section 5): channels, tokens, sessions, the service."""

from uuid import UUID

import pytest

from logplex.api import Health, create_api
from logplex.config import Settings

from .client import Client, House, open_house


async def put(house: House, name: str, *tokens: str) -> dict[str, str]:
    answer = await house.admin("PUT", f"/v3/channels/{name}", {"tokens": list(tokens)})
    assert answer.status in (200, 201)
    found: dict[str, str] = answer.json().get("tokens", {})
    return found


# Health and state


async def test_health_says_ok_once_everything_listens_and_needs_no_log_in(house: House) -> None:
    anybody = house.client(None)
    answer = await anybody("GET", "/v3/healthcheck")
    assert (answer.status, answer.text, answer.headers["logplex-state"]) == (200, "OK", "normal")
    house.health.append(Health(routing=False))
    answer = await anybody("GET", "/v3/healthcheck")
    assert (answer.status, answer.text) == (503, "SYSTEM BOOTING")
    booting = (await anybody("GET", "/v3/healthcheck", accept="application/json")).json()
    assert booting["state"] == "booting"
    house.health.append(Health(routing=True, stopping=True, state="degraded", detail={"since": "now"}))
    answer = await anybody("GET", "/v3/healthcheck")
    assert (answer.status, answer.headers["logplex-state"]) == (200, "degraded")
    answer = await anybody("GET", "/v3/healthcheck?ready")
    assert answer.status == 503
    answer = await anybody("GET", "/v3/healthcheck", accept="text/html, application/json")
    assert answer.json() == {"status": "OK", "state": "degraded", "stopping": True, "since": "now"}


async def test_health_goes_on_while_the_api_is_disabled(house: House) -> None:
    await house.admin("PUT", "/v3/status", {"api": "disabled"})
    assert (await house.client(None)("GET", "/v3/healthcheck")).status == 200


async def test_the_state_of_the_service_can_always_be_read_and_changed(house: House) -> None:
    answer = await house.admin("GET", "/v3/status")
    assert answer.status == 200
    assert answer.json() == {
        "api": "normal",
        "ingress": True,
        "state": "normal",
        "stopping": False,
        "ledger": {"frames": 3},
    }
    for body in ({"api": "read_only"}, {"ingress": False}, {"api": "disabled"}, {"api": "normal", "ingress": True}):
        answer = await house.admin("PUT", "/v3/status", body)
        assert answer.status == 200
        assert answer.json() | body == answer.json()
    assert house.registry.state.api == "normal"


@pytest.mark.parametrize(
    "body", [None, b"null", b"{", [], {"api": "off"}, {"api": 1}, {"ingress": "yes"}, {"ingress": 1}]
)
async def test_a_bad_state_is_400(house: House, body: object) -> None:
    answer = await house.admin("PUT", "/v3/status", body)
    assert (answer.status, answer.json()) == (400, {"error": "invalid payload"})


# Channels


async def test_put_makes_a_channel_and_its_tokens_be_as_named(house: House) -> None:
    answer = await house.admin("PUT", "/v3/channels/shop", {"tokens": ["heroku", "app"]})
    assert answer.status == 201
    made = answer.json()
    assert list(made) == ["channel", "tokens"]
    assert made["channel"] == "shop"
    assert list(made["tokens"]) == ["app", "heroku"]
    again = await house.admin("PUT", "/v3/channels/shop", {"tokens": ["app", "web"]})
    assert again.status == 200
    assert again.json()["tokens"]["app"] == made["tokens"]["app"]
    assert list(again.json()["tokens"]) == ["app", "web"]
    assert made["tokens"]["heroku"] not in house.registry.tokens
    empty = await house.admin("PUT", "/v3/channels/shop", {})
    assert (empty.status, empty.json()) == (200, {"channel": "shop"})


@pytest.mark.parametrize(
    "body",
    [None, b"", b"null", b"{", b"[]", b"5", {"tokens": None}, {"tokens": "app"}, {"tokens": [None]},
     {"tokens": ["a b"]}, {"tokens": [""]}, {"tokens": ["x" * 49]}, {"tokens": ["a\n"]}, {"tokens": [["app"]]}],
)  # fmt: skip
async def test_a_bad_payload_of_a_channel_is_400(house: House, body: object) -> None:
    answer = await house.admin("PUT", "/v3/channels/shop", body)
    assert (answer.status, answer.json()) == (400, {"error": "invalid payload"})
    assert (await house.admin("GET", "/v3/channels/shop")).status == 404


@pytest.mark.parametrize("name", [".", "..", "a b", "x" * 129, "\u00e9", "a%b", "a\nb"])
async def test_a_bad_id_is_400_on_put_and_404_elsewhere(house: House, name: str) -> None:
    assert (await house.admin("PUT", f"/v3/channels/{name}", {})).status == 400
    assert (await house.admin("GET", f"/v3/channels/{name}")).status == 404
    assert (await house.admin("DELETE", f"/v3/channels/{name}")).status == 404


@pytest.mark.parametrize("name", ["shop", "app-2f1c:x_y.z", "12", "x" * 128])
async def test_a_channel_is_read_and_deleted(house: House, name: str) -> None:
    made = await house.admin("PUT", f"/v3/channels/{name}", {"tokens": ["app"]})
    shown = await house.admin("GET", f"/v3/channels/{name}")
    assert (shown.status, shown.json()) == (200, made.json())
    answer = await house.admin("DELETE", f"/v3/channels/{name}")
    assert (answer.status, answer.body) == (204, b"")
    assert house.registry.tokens == {}
    assert (await house.admin("DELETE", f"/v3/channels/{name}")).status == 404
    assert (await house.admin("GET", f"/v3/channels/{name}")).status == 404


async def test_channels_are_listed_in_pages(house: House) -> None:
    for name in ("b", "a", "c"):
        await put(house, name)
    await house.admin("PATCH", "/v3/channels/b", {"flags": ["no_tail"]})
    first = await house.admin("GET", "/v3/channels?limit=2")
    assert first.status == 200
    assert first.json() == {"channels": [{"channel": "a", "flags": []}, {"channel": "b", "flags": ["no_tail"]}]}
    rest = await house.admin("GET", "/v3/channels?after=b&limit=99999999999999999999")
    assert rest.json() == {"channels": [{"channel": "c", "flags": []}]}
    for limit in ("0", "x", "-1", "\u00b2"):
        assert (await house.admin("GET", f"/v3/channels?limit={limit}")).status == 400


async def test_flags_are_set_shown_and_cleared(house: House) -> None:
    await put(house, "shop")
    answer = await house.admin("PATCH", "/v3/channels/shop", {"flags": ["no_tail", "no_history", "no_tail"]})
    assert (answer.status, answer.json()) == (200, {"channel": "shop", "flags": ["no_history", "no_tail"]})
    assert (await house.admin("GET", "/v3/channels/shop")).json()["flags"] == ["no_history", "no_tail"]
    assert (await house.admin("PATCH", "/v3/channels/shop", {"flags": []})).json()["flags"] == []
    assert "flags" not in (await house.admin("GET", "/v3/channels/shop")).json()
    for body, status in (
        ({}, 400),
        ({"flags": "no_tail"}, 400),
        ({"flags": [1]}, 400),
        (None, 400),
        ({"flags": ["x"]}, 422),
    ):
        assert (await house.admin("PATCH", "/v3/channels/shop", body)).status == status
    assert (await house.admin("PATCH", "/v3/channels/none", {"flags": []})).status == 404


# Tokens


async def test_a_token_is_made_and_deleted_by_name(house: House) -> None:
    await put(house, "shop")
    made = await house.admin("POST", "/v3/channels/shop/tokens", {"name": "a/b?"})
    assert made.status == 200
    assert list(made.json()) == ["token", "name"]
    assert made.json()["token"] in house.registry.tokens
    answer = await house.admin("DELETE", "/v3/channels/shop/tokens/a/b?")
    assert answer.status == 404, "an unescaped ? begins the query"
    await house.registry.create_token("shop", "web")
    await house.registry.create_token("shop", "web")
    answer = await house.admin("DELETE", "/v3/channels/shop/tokens/web")
    assert (answer.status, answer.body) == (204, b"")
    assert (await house.admin("DELETE", "/v3/channels/shop/tokens/web")).status == 404
    assert (await house.admin("DELETE", "/v3/channels/none/tokens/web")).status == 404


@pytest.mark.parametrize("body", [None, {}, b"{", {"name": None}, {"name": 5}, {"name": ""}, {"name": "a b"}])
async def test_a_token_without_a_good_name_is_400(house: House, body: object) -> None:
    await put(house, "shop")
    assert (await house.admin("POST", "/v3/channels/shop/tokens", body)).status == 400


async def test_a_token_of_an_unknown_channel_is_404(house: House) -> None:
    assert (await house.admin("POST", "/v3/channels/none/tokens", {"name": "app"})).status == 404


# Sessions


async def test_a_session_is_a_url_and_its_location(house: House) -> None:
    await put(house, "shop")
    body = {"channel_id": "shop", "num": 50000, "tail": None, "source": "app", "pattern": "GET", "extra": 1}
    answer = await house.admin("POST", "/v3/sessions", body)
    assert answer.status == 201
    url = answer.json()["url"]
    assert answer.json() == {"url": answer.headers["location"]}
    assert url.startswith("http://logs.example:8001/sessions/")
    session = await house.registry.session(url.rpartition("/")[2])
    assert session is not None
    assert session.options == {"num": 1500, "tail": False, "source": "app", "pattern": "GET"}


@pytest.mark.parametrize(
    ("num", "stored"),
    [(0, 0), ("0", 0), ("20", 20), (-1, 100), ("-1", 100), ("x", 100), ("", 100), (None, 100), (2.5, 100), (1e9, 100),
     (10**30, 1500), ("9" * 5000, 1500)],
)  # fmt: skip
async def test_num_is_a_number_or_a_string_and_rubbish_is_100(house: House, num: object, stored: int) -> None:
    await put(house, "shop")
    answer = await house.admin("POST", "/v3/sessions", {"channel_id": "shop", "num": num})
    session = await house.registry.session(answer.json()["url"].rpartition("/")[2])
    assert session is not None
    assert session.options["num"] == stored


@pytest.mark.parametrize(
    ("tail", "follows"), [(True, True), ("", True), (0, True), ({}, True), (False, False), (None, False)]
)
async def test_a_session_follows_for_any_tail_but_false_and_null(house: House, tail: object, follows: bool) -> None:
    await put(house, "shop")
    answer = await house.admin("POST", "/v3/sessions", {"channel_id": "shop", "tail": tail})
    session = await house.registry.session(answer.json()["url"].rpartition("/")[2])
    assert session is not None
    assert session.options["tail"] is follows


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (None, 400),
        (b"{", 400),
        ([], 400),
        ({}, 400),
        ({"channel_id": 5}, 400),
        ({"channel_id": "shop", "num": []}, 400),
        ({"channel_id": "shop", "num": True}, 400),
        ({"channel_id": "shop", "source": 5}, 400),
        ({"channel_id": "shop", "ps": None}, 400),
        ({"channel_id": "shop", "pattern": "("}, 422),
        ({"channel_id": "shop", "since": "yesterday"}, 422),
        ({"channel_id": "none"}, 422),
    ],
)
async def test_a_bad_session_is_refused(house: House, body: object, status: int) -> None:
    await put(house, "shop")
    answer = await house.admin("POST", "/v3/sessions", body)
    assert answer.status == status
    if body == {"channel_id": "none"}:
        assert answer.json() == {"error": "channel not found"}


async def test_urls_begin_with_the_public_url_when_there_is_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with open_house(tmp_path, Settings(public_url="https://logs.example.com/base/")) as house:
        await put(house, "shop")
        answer = await house.admin("POST", "/v3/sessions", {"channel_id": "shop"})
        assert answer.json()["url"].startswith("https://logs.example.com/base/sessions/")
        drain = await house.admin("POST", "/v3/channels/shop/drains", {})
        assert drain.headers["location"].startswith("https://logs.example.com/base/v3/channels/shop/drains/")


async def test_a_host_that_is_none_is_not_repeated(house: House) -> None:
    await put(house, "shop")
    for host in ('evil"><x>', "a b", "user@host", ""):
        answer = await house.admin("POST", "/v3/sessions", {"channel_id": "shop"}, host=host)
        assert answer.json()["url"].startswith("http://127.0.0.1:8001/sessions/")
    answer = await house.admin("POST", "/v3/sessions", {"channel_id": "shop"}, host="[::1]:80")
    assert answer.json()["url"].startswith("http://[::1]:80/sessions/")


# The ledger


async def test_the_ledger_of_a_channel_is_shown(house: House) -> None:
    await put(house, "shop")
    record = await house.registry.channel("shop")
    assert record is not None
    answer = await house.admin("GET", "/v3/channels/shop/ledger")
    assert (answer.status, answer.json()) == (200, {"received": record.id})
    assert (await house.admin("GET", "/v3/channels/none/ledger")).status == 404


# What is the same for all

PATHS = {
    "/v3/status": "GET PUT",
    "/v3/channels": "GET",
    "/v3/channels/shop": "DELETE GET PATCH PUT",
    "/v3/channels/shop/tokens": "POST",
    "/v3/channels/shop/tokens/app": "DELETE",
    "/v3/channels/shop/logs": "GET",
    "/v3/channels/shop/ledger": "GET",
    "/v3/channels/shop/drains": "GET POST",
    "/v3/channels/shop/drains/1": "DELETE GET PUT",
    "/v3/channels/shop/drains/1/test": "POST",
    "/v3/channels/shop/drains/1/replay": "POST",
    "/v3/sessions": "POST",
    "/v3/credentials": "GET POST",
    "/v3/credentials/bob": "DELETE GET",
}
ALL = [(method, path) for path, methods in PATHS.items() for method in methods.split()]


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_whoever_is_unknown_is_401(house: House, method: str, path: str) -> None:
    for client in (house.client(None), house.client("Basic ?"), house.client("Bearer t.x")):
        answer = await client(method, path, b"{")
        assert (answer.status, answer.text) == (401, "Not Authorized")
        assert answer.headers["www-authenticate"] == "Basic realm=Logplex"


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_a_key_that_may_only_write_lines_is_403(house: House, method: str, path: str) -> None:
    tokens = await put(house, "shop", "app")
    writer = await house.credential("writer", "any_channel", "channel:shop")
    for client in (writer, house.client(f"Bearer {tokens['app']}")):
        answer = await client(method, path, {})
        assert (answer.status, answer.json()) == (403, {"error": "Forbidden"})


@pytest.mark.parametrize("path", PATHS)
async def test_other_methods_are_405(house: House, path: str) -> None:
    for method in {"GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"} - set(PATHS[path].split()):
        answer = await house.client(None)(method, path)
        assert answer.status == 405
        expected = PATHS[path].replace("GET", "GET, HEAD").replace("GET, HEAD ", "GET HEAD ").replace(",", "").split()
        assert answer.headers["allow"] == ", ".join(expected)


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_only_reading_goes_on_while_read_only(house: House, method: str, path: str) -> None:
    await put(house, "shop", "app")
    await house.admin("PUT", "/v3/status", {"api": "read_only"})
    answer = await house.admin(method, path, {})
    if method == "GET" or path == "/v3/status":
        assert answer.status in (200, 404)
    else:
        assert (answer.status, answer.json()) == (503, {"error": "Logplex API temporarily in read-only mode"})


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_everything_is_503_while_disabled_before_anybody_is_asked_who_he_is(
    house: House, method: str, path: str
) -> None:
    await house.admin("PUT", "/v3/status", {"api": "disabled"})
    answer = await house.client(None)(method, path, {})
    if path == "/v3/status":
        assert answer.status == 401
    else:
        assert (answer.status, answer.json()) == (503, {"error": "Service Temporarily Disabled"})


async def test_every_answer_carries_a_request_id(house: House) -> None:
    for method, path in [*ALL, ("GET", "/v3/healthcheck"), ("GET", "/v3/nothing"), ("X", "/v3/status")]:
        answer = await house.admin(method, path, {}, request_id="mine-1")
        assert answer.headers["request-id"] == "mine-1"
    answer = await house.client(None)("GET", "/v3/channels")
    assert UUID(answer.headers["request-id"]).version == 4
    for bad in ("", " ", "\u00e9"):
        answer = await house.admin("GET", "/v3/status", request_id=bad)
        assert UUID(answer.headers["request-id"]).version == 4


async def test_an_unknown_path_is_404(house: House) -> None:
    for path in ("/v3/nothing", "/v3/channels/", "/v3/channels/a/b", "/v3/channels/shop/", "/v3/"):
        answer = await house.admin("GET", path)
        assert (answer.status, answer.json()) == (404, {"error": "Not found"})


async def test_nothing_of_an_answer_is_kept_or_guessed_at(house: House) -> None:
    answer = await house.admin("GET", "/v3/status")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_head_is_get_without_its_body(house: House) -> None:
    got = await house.admin("GET", "/v3/status")
    head = await house.admin("HEAD", "/v3/status")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(got.body))


async def test_further_routes_can_be_mounted(house: House) -> None:
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    app = create_api(house.services, [Route("/", page)])
    answer = await Client(app)("GET", "/")
    assert (answer.status, answer.text) == (200, "page")
    assert (await Client(app)("GET", "/other")).status == 404
