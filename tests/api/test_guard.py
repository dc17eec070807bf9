"""What stands before every call: JSON, foreign pages, limits on log-ins."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from logplex.api.guard import BadPayload, read_json
from logplex.config import Settings
from logplex.errors import TooLarge

from .client import House, basic, open_house

LIMIT = 64 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[" * 30_000 + b"]" * 30_000,
        b"NaN",
        b'{"tokens":Infinity}',
        b'{"tokens":["\\ud800"]}',
        b'{"n":' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b"{}{}",
        b"",
    ],
)
async def test_what_is_no_json_for_us_is_400(house: House, body: bytes) -> None:
    for path in ("/v3/channels/shop", "/v3/status"):
        answer = await house.admin("PUT", path, body)
        assert (answer.status, answer.json()) == (400, {"error": "invalid payload"})
    assert (await house.admin("POST", "/channels", body)).status == 400
    assert (await house.admin("POST", "/v2/sessions", body)).status == 400


async def test_json_is_64_kib_at_most_however_it_arrives(house: House) -> None:
    body = b'{"tokens":[],"x":"' + b"y" * LIMIT
    exact = body[: LIMIT - 2] + b'"}'
    assert (await house.admin("PUT", "/v3/channels/shop", exact)).status == 201
    over = body[: LIMIT - 1] + b'"}'
    pieces = [over[at : at + 1000] for at in range(0, len(over), 1000)]
    for form in (over, pieces):
        answer = await house.admin("PUT", "/v3/channels/shop", form)
        assert answer.status == 413
    assert (await house.admin("POST", "/channels", over)).status == 413
    assert (await house.admin("POST", "/v2/sessions", over)).status == 413


async def test_a_parameter_behind_the_content_type_is_fine(house: House) -> None:
    answer = await house.admin("PUT", "/v3/channels/shop", {}, content_type="application/json; charset=utf-8")
    assert answer.status == 201


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), pieces=st.integers(1, 5))
async def test_no_body_raises_anything_else(body: bytes, pieces: int) -> None:
    step = max(1, len(body) // pieces)
    events: list[Any] = [
        {"type": "http.request", "body": body[at : at + step], "more_body": True} for at in range(0, len(body), step)
    ]
    events.append({"type": "http.request"})

    async def receive() -> Any:
        return events.pop(0)

    request = Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive)
    with suppress(BadPayload, TooLarge):
        await read_json(request, 150)


async def test_a_body_that_is_cut_off_is_400(house: House) -> None:
    events: list[Any] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return events.pop(0)

    with pytest.raises(BadPayload):
        await read_json(Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive), 100)


# Other pages


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"origin": "http://logs.example:8001"}, True),
        ({"origin": "https://LOGS.example:8001"}, True),
        ({"origin": "https://public.example"}, True),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://logs.example"}, False),
        ({"origin": "http://logs.example:8001.evil.example"}, False),
        ({"origin": "http://[::1"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site", "origin": "http://logs.example:8001"}, False),
    ],
)
async def test_a_foreign_page_changes_nothing(tmp_path: Any, headers: dict[str, str], allowed: bool) -> None:
    async with open_house(tmp_path, Settings(public_url="https://public.example/x")) as house:
        for method, path in (
            ("PUT", "/v3/channels/shop"),
            ("POST", "/channels"),
            ("POST", "/v2/sessions"),
            ("DELETE", "/v3/channels/shop"),
        ):
            answer = await house.admin(method, path, {}, **headers)
            assert (answer.status != 403) is allowed
        assert (await house.admin("GET", "/v3/channels", **headers)).status == 200


# Log-ins


async def test_limited_log_ins_are_429_and_say_for_how_long(house: House) -> None:
    guess = house.client(basic("admin", "wrong"))
    for path in ["/v3/status"] * 5 + ["/v2/channels/1"] * 5:
        assert (await guess("GET", path)).status == 401
    for path in ("/v3/status", "/v2/channels/1", "/channels/1/info"):
        answer = await guess("GET", path)
        assert answer.status == 429
        assert 0 < int(answer.headers["retry-after"]) <= 61


async def test_a_password_that_was_verified_before_works_meanwhile(house: House) -> None:
    assert (await house.admin("GET", "/v3/status")).status == 200
    guess = house.client(basic("admin", "wrong"))
    while (await guess("GET", "/v3/status")).status != 429:
        pass
    assert (await house.admin("GET", "/v3/status")).status == 200
