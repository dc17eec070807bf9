"""v1 and v2, status by status (protocol section 4)."""

from urllib.parse import urlsplit

import pytest

from .client import House

DRAIN = "https://drains.example/in?x=1"


async def channel(house: House, *tokens: str) -> int:
    answer = await house.admin("POST", "/channels", {"tokens": list(tokens)})
    assert answer.status == 201
    number: int = answer.json()["channel_id"]
    return number


async def test_health_is_the_state_of_the_api_and_needs_no_log_in(house: House) -> None:
    answer = await house.client(None)("GET", "/healthcheck")
    assert (answer.status, answer.json()) == (200, {"status": "normal"})
    assert answer.headers["content-type"] == "application/json"


async def test_a_channel_is_made_with_a_number_and_tokens(house: House) -> None:
    answer = await house.admin("POST", "/channels", {"name": "shop", "tokens": ["app", "heroku"]})
    assert answer.status == 201
    made = answer.json()
    assert isinstance(made["channel_id"], int)
    assert list(made["tokens"]) == ["app", "heroku"]
    assert all(token.startswith("t.") for token in made["tokens"].values())
    empty = await house.admin("POST", "/channels", {})
    assert (empty.status, empty.json()["tokens"]) == (201, {})
    assert empty.json()["channel_id"] != made["channel_id"]


@pytest.mark.parametrize(
    "body",
    [None, b"null", b"{", b"[]", b'"x"', {"tokens": "app"}, {"tokens": [1]}, {"tokens": ["a b"]}, {"name": 5}],
)
async def test_a_bad_body_of_a_channel_is_400(house: House, body: object) -> None:
    answer = await house.admin("POST", "/channels", body)
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/plain")


async def test_a_channel_is_shown_with_all_its_tokens_and_drains(house: House) -> None:
    number = await channel(house, "app")
    second = (await house.admin("POST", f"/v2/channels/{number}/tokens", {"name": "app"})).json()["token"]
    drain = (await house.admin("POST", f"/v2/channels/{number}/drains", {"url": DRAIN})).json()
    await house.admin("POST", f"/channels/{number}/drains/tokens")
    shown = (await house.admin("GET", f"/v2/channels/{number}")).json()
    assert shown["channel_id"] == number
    assert [token["name"] for token in shown["tokens"]] == ["app", "app"]
    assert second in {token["token"] for token in shown["tokens"]}
    assert shown["drains"] == [drain], "a reserved drain is not listed"
    info = await house.admin("GET", f"/channels/{number}/info")
    assert info.status == 200
    assert info.json() == {"channel_id": number, "tokens": {"app": second}, "drains": [DRAIN]}


@pytest.mark.parametrize("number", ["999", "0", "abc", "1x", "-1", "007", "1" * 200, "%31"])
async def test_an_unknown_channel_is_404_as_its_version_says_it(house: House, number: str) -> None:
    for method, path, body, text in (
        ("GET", f"/v2/channels/{number}", None, '{"error":"Not Found"}'),
        ("DELETE", f"/v2/channels/{number}", None, '{"error":"Not Found"}'),
        ("POST", f"/v2/channels/{number}/tokens", {"name": "a"}, '{"error":"Not Found"}'),
        ("POST", f"/v2/channels/{number}/drains", {"url": DRAIN}, '{"error":"No such channel"}'),
        ("POST", f"/v2/channels/{number}/drains/1", {"url": DRAIN}, '{"error":"Unknown drain."}'),
        ("DELETE", f"/v2/channels/{number}/drains/1", None, '{"error":"Not found"}'),
        ("GET", f"/channels/{number}/info", None, "Not found"),
        ("DELETE", f"/channels/{number}", None, "Not found"),
        ("POST", f"/channels/{number}/token", {"name": "a"}, "Not found"),
        ("POST", f"/channels/{number}/drains/tokens", None, "Not found"),
    ):
        answer = await house.admin(method, path, body)
        assert (answer.status, answer.text) == (404, text), (method, path)


async def test_a_channel_is_deleted_once(house: House) -> None:
    one, two = await channel(house), await channel(house)
    answer = await house.admin("DELETE", f"/channels/{one}")
    assert (answer.status, answer.text) == (200, "OK")
    assert (await house.admin("DELETE", f"/channels/{one}")).status == 404
    answer = await house.admin("DELETE", f"/v2/channels/{two}")
    assert (answer.status, answer.text) == (200, "")
    assert (await house.admin("DELETE", f"/v2/channels/{two}")).status == 404


async def test_a_token_is_made_and_works_at_once(house: House) -> None:
    number = await channel(house)
    first = await house.admin("POST", f"/channels/{number}/token", {"name": "app"})
    assert first.status == 201
    assert first.text in house.registry.tokens
    second = await house.admin("POST", f"/v2/channels/{number}/tokens", {"name": "web"})
    assert second.status == 201
    assert second.json() == {"name": "web", "token": second.json()["token"]}


async def test_a_token_needs_a_name(house: House) -> None:
    number = await channel(house)
    for body in ({}, {"name": None}):
        answer = await house.admin("POST", f"/v2/channels/{number}/tokens", body)
        assert (answer.status, answer.json()) == (422, {"error": "NAME is a required field"})
        assert (await house.admin("POST", f"/channels/{number}/token", body)).status == 400
    for name in (5, "", "a b", "x" * 49, "new\nline", "\u00e9"):
        assert (await house.admin("POST", f"/v2/channels/{number}/tokens", {"name": name})).status == 422
        assert (await house.admin("POST", f"/channels/{number}/token", {"name": name})).status == 400
    assert (await house.admin("POST", f"/v2/channels/{number}/tokens", b"{")).status == 400
    assert (await house.admin("POST", f"/v2/channels/{number}/tokens")).status == 400


async def test_a_reserved_drain_gets_its_url(house: House) -> None:
    number = await channel(house)
    reserved = await house.admin("POST", f"/channels/{number}/drains/tokens")
    assert reserved.status == 201
    made = reserved.json()
    assert made["msg"] == "Successfully reserved drain token"
    assert made["token"].startswith("d.")
    path = f"/v2/channels/{number}/drains/{made['id']}"
    answer = await house.admin("POST", path, {"url": DRAIN})
    assert (answer.status, answer.json()) == (201, {"id": made["id"], "token": made["token"], "url": DRAIN})
    again = await house.admin("POST", path, {"url": DRAIN})
    assert (again.status, again.json()) == (409, {"error": "Already exists"})
    other = await house.admin("POST", f"/v2/channels/{number}/drains", {"url": DRAIN})
    assert (other.status, other.json()) == (409, {"error": "Already exists"})
    unknown = await house.admin("POST", f"/v2/channels/{number}/drains/999", {"url": DRAIN})
    assert (unknown.status, unknown.json()) == (404, {"error": "Unknown drain."})


@pytest.mark.parametrize(
    ("body", "url"),
    [
        ({"host": "10.0.0.1"}, "syslog://10.0.0.1:514"),
        ({"host": "logs.example", "port": 601}, "syslog://logs.example:601"),
        ({"host": "logs.example", "port": "601"}, "syslog://logs.example:601"),
        ({"host": "2001:db8::1"}, "syslog://[2001:db8::1]:514"),
        ({"url": DRAIN, "host": "ignored"}, DRAIN),
    ],
)
async def test_a_drain_is_a_url_or_a_host(house: House, body: object, url: str) -> None:
    answer = await house.admin("POST", f"/v2/channels/{await channel(house)}/drains", body)
    assert (answer.status, answer.json()["url"]) == (201, url)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": "nonsense"},
        {"url": 5},
        {"url": "http://forbidden/"},
        {"port": 514},
        {"host": 5},
        {"host": "a b"},
        {"host": "a/b"},
        {"host": "h", "port": "x"},
        {"host": "h", "port": True},
        {"host": "user@h"},
    ],
)
async def test_a_bad_destination_is_422(house: House, body: object) -> None:
    number = await channel(house)
    reserved = (await house.admin("POST", f"/channels/{number}/drains/tokens")).json()["id"]
    for path in (f"/v2/channels/{number}/drains", f"/v2/channels/{number}/drains/{reserved}"):
        answer = await house.admin("POST", path, body)
        assert answer.status == 422
        assert answer.json()["error"].startswith("Invalid drain destination: ")
    assert (await house.admin("POST", f"/v2/channels/{number}/drains", b"?")).status == 400


async def test_a_channel_has_six_drains(house: House) -> None:
    number = await channel(house)
    for place in range(6):
        await house.admin("POST", f"/v2/channels/{number}/drains", {"url": f"http://{place}/"})
    reserved = (await house.admin("POST", f"/channels/{number}/drains/tokens")).json()["id"]
    for path in (f"/v2/channels/{number}/drains", f"/v2/channels/{number}/drains/{reserved}"):
        answer = await house.admin("POST", path, {"url": DRAIN})
        assert answer.status == 422
        assert answer.json() == {"error": "You have already added the maximum number of drains allowed"}


async def test_a_drain_is_deleted_from_its_own_channel_only(house: House) -> None:
    one, two = await channel(house), await channel(house)
    drain = (await house.admin("POST", f"/v2/channels/{one}/drains", {"url": DRAIN})).json()["id"]
    for path in (
        f"/v2/channels/{two}/drains/{drain}",
        f"/v2/channels/{one}/drains/x",
        f"/v2/channels/{one}/drains/{10**30}",
    ):
        answer = await house.admin("DELETE", path)
        assert (answer.status, answer.json()) == (404, {"error": "Not found"})
    answer = await house.admin("DELETE", f"/v2/channels/{one}/drains/{drain}")
    assert (answer.status, answer.text) == (200, "")
    assert (await house.admin("DELETE", f"/v2/channels/{one}/drains/{drain}")).status == 404


# Sessions


async def test_a_session_is_a_url(house: House) -> None:
    number = await channel(house)
    old = await house.admin("POST", "/sessions", {"channel_id": str(number), "num": "5", "tail": "1", "ps": "web"})
    assert old.status == 201
    assert old.text.startswith("http://logs.example:8001/sessions/")
    session = await house.registry.session(old.text.rpartition("/")[2])
    assert session is not None
    assert session.options == {"num": 5, "tail": True, "ps": "web"}
    new = await house.admin("POST", "/v2/sessions", {"channel_id": number, "source": "app", "tail": False})
    assert new.status == 201
    session = await house.registry.session(new.json()["url"].rpartition("/")[2])
    assert session is not None
    assert session.options == {"num": 100, "tail": False, "source": "app"}


async def test_a_session_of_an_unknown_channel_is_made_and_reads_as_nothing(house: House) -> None:
    answer = await house.admin("POST", "/v2/sessions", {"channel_id": "12345"})
    assert answer.status == 201
    session = await house.registry.session(answer.json()["url"].rpartition("/")[2])
    assert session is not None
    assert session.channel_id is None


@pytest.mark.parametrize(
    "body",
    [{}, {"channel_id": None}, {"channel_id": True}, {"channel_id": [1]}, {"channel_id": "1", "num": {}},
     {"channel_id": "1", "num": True}, {"channel_id": "1", "ps": 5}, {"channel_id": "1", "source": ["a"]},
     {"channel_id": "1", "severity": "loud"}],
)  # fmt: skip
async def test_a_bad_session_is_422_in_v2(house: House, body: object) -> None:
    answer = await house.admin("POST", "/v2/sessions", body)
    assert answer.status == 422
    assert answer.json()["error"]
    assert (await house.admin("POST", "/sessions", body)).status in (400, 422)


@pytest.mark.parametrize("body", [None, b"null", b"[]", b"nope"])
async def test_a_session_without_an_object_is_400(house: House, body: object) -> None:
    for path in ("/sessions", "/v2/sessions", "/v2/canary-sessions"):
        assert (await house.admin("POST", path, body)).status == 400


async def test_a_canary_reads_lines_while_the_api_is_read_only(house: House) -> None:
    number = await channel(house)
    await house.lines(str(number), "one", "two", "three")
    await house.lines(str(number), "other", process="worker.1")
    await house.admin("PUT", "/v3/status", {"api": "read_only"})
    body = {"channel_id": str(number), "num": "2", "tail": "1", "ps": "web"}
    answer = await house.admin("POST", "/v2/canary-sessions", body)
    assert answer.status == 201
    path = urlsplit(answer.json()["url"]).path
    assert path.startswith("/v2/canary-fetch/")
    read = await house.client(None)("GET", path)
    assert read.status == 200
    assert read.headers["content-type"] == "text/plain; charset=utf-8"
    assert read.text == ("2024-05-01T12:00:00+00:00 app[web.1]: two\n2024-05-01T12:00:00+00:00 app[web.1]: three\n")
    assert read.headers["x-content-type-options"] == "nosniff"
    unknown = (await house.admin("POST", "/v2/canary-sessions", {"channel_id": "999"})).json()["url"]
    empty = await house.client(None)("GET", urlsplit(unknown).path)
    assert (empty.status, empty.body) == (200, b"")


@pytest.mark.parametrize("uuid", ["x", "00000000-0000-0000-0000-000000000000"])
async def test_an_unknown_canary_is_404(house: House, uuid: str) -> None:
    answer = await house.client(None)("GET", f"/v2/canary-fetch/{uuid}")
    assert (answer.status, answer.text) == (404, "Not found")


# What is the same for all

WRITES = [
    ("POST", "/channels"),
    ("DELETE", "/channels/1"),
    ("DELETE", "/v2/channels/1"),
    ("POST", "/channels/1/token"),
    ("POST", "/v2/channels/1/tokens"),
    ("POST", "/channels/1/drains/tokens"),
    ("POST", "/v2/channels/1/drains/1"),
    ("POST", "/v2/channels/1/drains"),
    ("DELETE", "/v2/channels/1/drains/1"),
    ("POST", "/sessions"),
    ("POST", "/v2/sessions"),
]
READS = [("GET", "/v2/channels/1"), ("GET", "/channels/1/info"), ("POST", "/v2/canary-sessions")]


@pytest.mark.parametrize(("method", "path"), WRITES + READS)
async def test_whoever_is_unknown_is_401_and_a_key_without_the_permission_403(
    house: House, method: str, path: str
) -> None:
    for client in (house.client(None), house.client("Basic ?"), house.client("Basic bm9ib2R5Ong=")):
        answer = await client(method, path)
        assert (answer.status, answer.text) == (401, "Not Authorized")
        assert answer.headers["www-authenticate"] == "Basic realm=Logplex"
    writer = await house.credential("writer", "any_channel")
    assert (await writer(method, path)).status == 403


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_writes_are_503_while_read_only(house: House, method: str, path: str) -> None:
    await house.admin("PUT", "/v3/status", {"api": "read_only"})
    answer = await house.admin(method, path, {})
    assert (answer.status, answer.text) == (503, "Logplex API temporarily in read-only mode")
    assert (await house.client(None)("GET", "/healthcheck")).json() == {"status": "read_only"}


@pytest.mark.parametrize(("method", "path"), [*WRITES, *READS, ("GET", "/healthcheck")])
async def test_everything_is_503_while_disabled(house: House, method: str, path: str) -> None:
    await house.admin("PUT", "/v3/status", {"api": "disabled"})
    answer = await house.client(None)(method, path)
    assert (answer.status, answer.text) == (503, "Service Temporarily Disabled")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("PUT", "/channels"), ("GET", "/v2/sessions"), ("GET", "/channels/"), ("GET", "/v2")],
)
async def test_an_unknown_path_or_method_is_404(house: House, method: str, path: str) -> None:
    answer = await house.admin(method, path)
    assert (answer.status, answer.text) == (404, "Not found")
