"""The audit log, and answers to what is our own fault."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from .client import House, basic


async def test_every_call_is_in_the_audit_log_with_who_what_and_result(house: House) -> None:
    key = await house.credential("key", "any_channel")
    with capture_logs() as logs:
        made = await house.admin("PUT", "/v3/channels/shop", {"tokens": ["app"]})
        await house.admin("GET", "/v3/channels/none")
        await house.admin("POST", "/v2/sessions", {})
        await key("GET", "/v3/status")
        await house.client(None)("DELETE", "/v3/channels/shop")
        await house.client(basic("admin", "wrong"))("GET", "/v3/status")
        await house.client(f"Bearer {made.json()['tokens']['app']}")("GET", "/v3/status")
        await house.admin("GET", "/nothing")
        await house.client(None)("GET", "/v3/healthcheck")
        await house.client(None)("GET", "/healthcheck")
    seen = [(each["who"], each["what"], each["result"]) for each in logs]
    assert [each["event"] for each in logs] == ["audit"] * len(logs)
    assert seen == [
        ("admin", "PUT /v3/channels/shop", 201),
        ("admin", "GET /v3/channels/none", 404),
        ("admin", "POST /v2/sessions", 422),
        ("key", "GET /v3/status", 403),
        ("-", "DELETE /v3/channels/shop", 401),
        ("-", "GET /v3/status", 401),
        ("shop/app", "GET /v3/status", 403),
        ("-", "GET /nothing", 404),
    ]


async def test_no_secret_is_in_the_audit_log(house: House) -> None:
    await house.admin("PUT", "/v3/channels/1", {"tokens": ["app"]})
    with capture_logs() as logs:
        session = (await house.admin("POST", "/v2/canary-sessions", {"channel_id": "1"})).json()["url"]
        uuid = session.rpartition("/")[2]
        await house.admin("GET", f"/unknown/{uuid}")
        url = "https://user:hush@drains.example/?key=hush"
        await house.admin("POST", "/v3/channels/1/drains", {"url": url})
        await house.admin("DELETE", f"/apps/1/log-drains/{url}")
        token = (await house.admin("POST", "/channels/1/token", {"name": "web"})).text
        await house.admin("GET", f"/{token}")
        made = (await house.admin("POST", "/v3/credentials", {"permissions": ["full_api"]})).json()
    shown = repr(logs)
    for secret in (uuid, "hush", token, made["password"]):
        assert secret not in shown
    assert uuid[:8] in shown
    assert logs[3]["what"] == "DELETE /apps/1/log-drains/https://…"


async def test_a_config_that_cannot_be_written_is_503_and_nothing_has_changed(house: House) -> None:
    await house.admin("GET", "/v3/status")
    store: Any = house.registry._store
    await store.run(lambda db: db.execute("PRAGMA query_only=ON"))
    with capture_logs() as logs:
        for version, path in (("PUT", "/v3/channels/shop"), ("POST", "/channels")):
            answer = await house.admin(version, path, {})
            assert answer.status == 503
            assert "at the moment" in answer.text
    assert [each["event"] for each in logs] == ["config not reached", "audit"] * 2
    await store.run(lambda db: db.execute("PRAGMA query_only=OFF"))
    assert (await house.admin("GET", "/v3/channels/shop")).status == 404
    assert (await house.admin("PUT", "/v3/channels/shop", {})).status == 201


async def test_a_bug_of_ours_is_in_the_audit_log_and_goes_on_to_the_server(house: House) -> None:
    def fail(change: object) -> None:
        raise ZeroDivisionError

    house.registry.subscribe(fail)
    with capture_logs() as logs, pytest.raises(ZeroDivisionError):
        await house.admin("PUT", "/v3/channels/shop", {})
    assert logs[-1]["result"] == 500
