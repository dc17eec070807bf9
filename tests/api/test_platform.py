"""The Platform API, request by request, as the Heroku CLI sends them (protocol section 10)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from drains.spec import DrainSpec
from logplex.api import ValidDrain, create_api
from logplex.api.platform import platform_routes
from logplex.api.platform_apps import APPS_IN_A_PAGE
from logplex.registry import ServiceState

from .client import Answer, Client, House

URL = "https://user:secret@drains.example/in?x=1&y=%2F"


class Unescaping:
    """What the HTTP server does for ASGI apps: `path` is unescaped, `raw_path` is not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "path": unquote(scope["path"])}, receive, send)


def validate(url: str, options: Mapping[str, Any]) -> ValidDrain:
    """As the server does it, without its policy for addresses."""
    return ValidDrain(url, DrainSpec.parse(0, "", url, options).options.to_dict())


@pytest.fixture
async def cli(house: House) -> Client:
    """As the CLI with a key of full_api; the app `shop` is there."""
    await house.registry.put_channel("shop", ["app"])
    return await key(house, "full_api")


async def key(house: House, *permissions: str) -> Client:
    services = replace(house.services, validate_drain=validate)
    app = Unescaping(create_api(services, platform_routes(services)))
    name = "key-" + "-".join(permissions).replace(":", ".").replace("_", "-")
    _, password = await house.registry.create_credential(name, permissions)
    return Client(app, f"Bearer {name}:{password}")


def refusal(answer: Answer) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"id", "message"}
    return answer.status, body["id"]


async def test_the_account_is_the_credential(cli: Client) -> None:
    answer = await cli("GET", "/account", accept="application/vnd.heroku+json; version=3")
    assert (answer.status, answer.json()["email"]) == (200, "key-full-api")
    assert answer.headers["content-type"] == "application/json"


async def test_apps_are_channels_by_name(house: House, cli: Client) -> None:
    await house.registry.put_channel("blog", [])
    for path in ("/apps", "/users/~/apps"):
        answer = await cli("GET", path)
        assert (answer.status, [app["name"] for app in answer.json()]) == (200, ["blog", "shop"])
    app = (await cli("GET", "/apps/shop")).json()
    assert (app["id"], app["name"], app["generation"]["name"]) == ("shop", "shop", "cedar")
    assert app["owner"]["email"] == (await cli("GET", "/account")).json()["email"]


async def test_many_apps_come_in_pages(house: House, cli: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logplex.api.platform_apps.APPS_IN_A_PAGE", 2)
    for name in ("a", "b", "c"):
        await house.registry.put_channel(name, [])
    first = await cli("GET", "/apps")
    assert (first.status, [app["name"] for app in first.json()]) == (206, ["a", "b"])
    second = await cli("GET", "/apps", range=first.headers["next-range"])
    assert (second.status, [app["name"] for app in second.json()]) == (206, ["c", "shop"])
    third = await cli("GET", "/apps", range=second.headers["next-range"])
    assert (third.status, third.json(), "next-range" in third.headers) == (206, [], False)
    assert (await cli("GET", "/apps", range="id ..; max=5")).status == 206
    assert APPS_IN_A_PAGE == 1000


async def test_a_key_for_one_app_sees_that_app_alone(house: House, cli: Client) -> None:
    await house.registry.put_channel("blog", [])
    only = await key(house, "app:shop")
    assert [app["name"] for app in (await only("GET", "/apps")).json()] == ["shop"]
    assert (await only("GET", "/apps/shop")).status == 200
    for path in ("/apps/blog", "/apps/nothing", "/apps/blog/log-drains", "/apps/blog/telemetry-drains"):
        assert refusal(await only("GET", path)) == (404, "not_found")
    assert refusal(await only("POST", "/apps/blog/log-sessions", {})) == (404, "not_found")
    assert (await only("POST", "/apps/shop/log-drains", {"url": URL})).status == 201
    made = await only("POST", "/apps/shop/log-sessions", {})
    assert made.status == 201


async def test_a_wrong_key_and_a_key_that_only_writes_are_refused(house: House, cli: Client) -> None:
    unknown = replace(cli, authorization="Bearer nobody:wrong")
    assert refusal(await unknown("GET", "/account")) == (401, "unauthorized")
    assert refusal(await replace(cli, authorization=None)("GET", "/apps/shop")) == (401, "unauthorized")
    writer = await key(house, "channel:shop")
    assert refusal(await writer("GET", "/apps/shop")) == (403, "forbidden")


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ({}, {"num": 100, "tail": False}),
        ({"lines": 50, "tail": True, "source": "app"}, {"num": 50, "tail": True, "source": "app"}),
        ({"lines": None, "tail": None, "source": None, "dyno": None}, {"num": 100, "tail": False}),
        ({"lines": "5000", "dyno": "web"}, {"num": 1500, "tail": False, "ps": "web"}),
        ({"dyno_name": "web.1"}, {"num": 100, "tail": False, "ps": "web.1"}),
        ({"type": "worker"}, {"num": 100, "tail": False, "ps": "worker"}),
        ({"dyno": "web.1", "type": "web"}, {"num": 100, "tail": False, "ps": "web.1"}),
    ],
)
async def test_a_log_session_is_a_session(
    house: House, cli: Client, body: dict[str, Any], stored: dict[str, Any]
) -> None:
    answer = await cli("POST", "/apps/shop/log-sessions", body)
    made = answer.json()
    assert answer.status == 201
    assert set(made) == {"id", "logplex_url", "created_at", "updated_at"}
    path = urlsplit(made["logplex_url"]).path
    assert made["logplex_url"].startswith("http://logs.example:8001/sessions/")
    record = await house.registry.session(path.removeprefix("/sessions/"))
    channel = await house.registry.channel("shop")
    assert record is not None
    assert channel is not None
    assert (record.channel_id, record.options) == (channel.id, stored)


@pytest.mark.parametrize("body", [{"lines": {}}, {"source": 5}, {"dyno": ["web"]}, {"type": True}])
async def test_a_log_session_of_wrong_types_is_refused(cli: Client, body: dict[str, Any]) -> None:
    assert refusal(await cli("POST", "/apps/shop/log-sessions", body)) == (422, "invalid_params")


@pytest.mark.parametrize("body", [None, b"{", b"[]", b"null"])
async def test_a_body_that_is_no_object_is_refused(cli: Client, body: bytes | None) -> None:
    for path in ("/apps/shop/log-sessions", "/apps/shop/log-drains", "/telemetry-drains"):
        assert refusal(await cli("POST", path, body)) == (400, "bad_request")


async def test_drains_are_made_listed_shown_and_deleted(house: House, cli: Client) -> None:
    assert (await cli("GET", "/apps/shop/log-drains")).json() == []
    answer = await cli("POST", "/apps/shop/log-drains", {"url": URL})
    made = answer.json()
    assert answer.status == 201
    assert set(made) == {"id", "token", "url", "addon", "app", "created_at", "updated_at"}
    assert made | {"url": URL, "addon": None, "app": {"id": "shop", "name": "shop"}} == made
    assert made["token"] == "d." + made["id"]
    assert made["created_at"].endswith("Z")
    assert (await cli("GET", "/apps/shop/log-drains")).json() == [made]
    (extended,) = (await cli("GET", "/apps/shop/log-drains?extended=true")).json()
    assert extended == made | {"extended": {"drain_id": next(iter(house.registry.drains))}}
    for name in (made["id"], made["token"], quote(URL, safe="")):
        assert (await cli("GET", f"/apps/shop/log-drains/{name}")).json() == made
    assert refusal(await cli("POST", "/apps/shop/log-drains", {"url": URL})) == (422, "invalid_params")
    gone = await cli("DELETE", f"/apps/shop/log-drains/{quote(URL, safe='')}")
    assert (gone.status, gone.json()) == (200, made)
    assert refusal(await cli("DELETE", f"/apps/shop/log-drains/{made['id']}")) == (404, "not_found")
    assert house.registry.drains == {}


async def test_a_drain_of_another_app_is_not_found(house: House, cli: Client) -> None:
    await house.registry.put_channel("blog", [])
    made = (await cli("POST", "/apps/blog/log-drains", {"url": URL})).json()
    for name in (made["id"], made["token"], quote(URL, safe="")):
        assert refusal(await cli("DELETE", f"/apps/shop/log-drains/{name}")) == (404, "not_found")
    assert len(house.registry.drains) == 1


@pytest.mark.parametrize("url", [None, 5, "ftp://x/", "https://2130706433/"])
async def test_a_destination_that_cannot_be_is_refused(cli: Client, url: object) -> None:
    assert refusal(await cli("POST", "/apps/shop/log-drains", {"url": url})) == (422, "invalid_params")


async def test_the_audit_log_does_not_repeat_the_url_of_a_drain(cli: Client) -> None:
    await cli("POST", "/apps/shop/log-drains", {"url": URL})
    with structlog.testing.capture_logs() as events:
        await cli("DELETE", f"/apps/shop/log-drains/{quote(URL, safe='')}")
    assert [event["what"] for event in events] == ["DELETE /apps/shop/log-drains/https://…"]


async def test_other_methods_and_states_are_told_as_heroku_tells_them(house: House, cli: Client) -> None:
    answer = await cli("DELETE", "/apps/shop")
    assert refusal(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"
    await house.registry.set_state(ServiceState("read_only"))
    assert refusal(await cli("POST", "/apps/shop/log-drains", {"url": URL})) == (503, "maintenance")
    assert (await cli("GET", "/apps/shop/log-drains")).status == 200
    await house.registry.set_state(ServiceState("disabled"))
    assert refusal(await cli("GET", "/account")) == (503, "maintenance")


async def test_changes_from_foreign_pages_are_refused(cli: Client) -> None:
    answer = await cli("POST", "/apps/shop/log-drains", {"url": URL}, origin="https://evil.example")
    assert refusal(answer) == (403, "forbidden")


TELEMETRY: dict[str, Any] = {
    "owner": {"id": "shop", "type": "app"},
    "signals": ["traces", "metrics", "logs"],
    "exporter": {"type": "otlphttp", "endpoint": "https://otel.example/", "headers": {"x-team": "secret"}},
}


async def test_telemetry_drains_are_made_changed_and_deleted(house: House, cli: Client) -> None:
    otlp = await key(house, "app:shop")
    answer = await otlp("POST", "/telemetry-drains", TELEMETRY)
    made = answer.json()
    assert answer.status == 201
    assert made["owner"] == {"id": "shop", "type": "app"}
    assert made["signals"] == ["logs"]
    assert made["exporter"] == {
        "type": "otlphttp",
        "endpoint": "https://otel.example/",
        "headers": {"x-team": "***"},
    }
    assert (await otlp("GET", "/apps/shop/telemetry-drains")).json() == [made]
    assert (await otlp("GET", f"/telemetry-drains/{made['id']}")).json() == made
    (record,) = house.registry.drains.values()
    assert record.options == {"format": "otlp", "headers": {"x-team": "secret"}}
    assert (await otlp("GET", "/apps/shop/log-drains")).json() == []  # it is no log drain
    assert refusal(await otlp("DELETE", f"/apps/shop/log-drains/{made['id']}")) == (404, "not_found")

    change = {"exporter": {"endpoint": "https://otel.example/2", "headers": {"x-team": "***"}}, "signals": ["logs"]}
    changed = (await otlp("PATCH", f"/telemetry-drains/{made['id']}", change)).json()
    assert changed["exporter"]["endpoint"] == "https://otel.example/2"
    (record,) = house.registry.drains.values()
    assert record.options == {"format": "otlp", "headers": {"x-team": "secret"}}
    assert (await otlp("PATCH", f"/telemetry-drains/{made['id']}", {"signals": ["logs", "traces"]})).status == 200
    options = {"format": "otlp", "headers": {"x-team": "secret"}, "compress": "gzip"}
    await house.registry.set_drain("shop", record.id, "https://otel.example/2", options)
    change = {"exporter": {"headers": {}}}
    changed = (await otlp("PATCH", f"/telemetry-drains/{made['id']}", change)).json()
    assert changed["exporter"] == {"type": "otlphttp", "endpoint": "https://otel.example/2", "headers": {}}
    (record,) = house.registry.drains.values()
    assert record.options == {"format": "otlp", "compress": "gzip"}
    again = await otlp("POST", "/telemetry-drains", TELEMETRY | {"exporter": {"endpoint": "https://otel.example/2"}})
    assert refusal(again) == (422, "invalid_params")

    await house.registry.put_channel("blog", [])
    other = await key(house, "app:blog")
    assert refusal(await other("GET", f"/telemetry-drains/{made['id']}")) == (404, "not_found")
    assert (await otlp("DELETE", f"/telemetry-drains/{made['id']}")).json()["id"] == made["id"]
    assert refusal(await otlp("GET", f"/telemetry-drains/{made['id']}")) == (404, "not_found")


@pytest.mark.parametrize(
    "change",
    [
        {"owner": {"id": "shop", "type": "space"}},
        {"owner": {"type": "app"}},
        {"owner": None},
        {"signals": ["traces"]},
        {"signals": "logs"},
        {"signals": ["logs", {}]},
        {"exporter": {"type": "otlp", "endpoint": "https://otel.example/"}},
        {"exporter": {"type": "otlphttp"}},
        {"exporter": {"type": "otlphttp", "endpoint": 5}},
        {"exporter": {"type": "otlphttp", "endpoint": "syslog://otel.example"}},
        {"exporter": {"type": "otlphttp", "endpoint": "https://otel.example/", "headers": {"a b": "c"}}},
        {"exporter": {"type": "otlphttp", "endpoint": "https://otel.example/", "headers": "a: b"}},
        {"exporter": []},
    ],
)
async def test_a_telemetry_drain_that_cannot_be_is_refused(house: House, cli: Client, change: dict[str, Any]) -> None:
    otlp = await key(house, "app:shop")
    assert refusal(await otlp("POST", "/telemetry-drains", TELEMETRY | change)) == (422, "invalid_params")
    assert house.registry.drains == {}
