"""The page's files and its own API: who may, from where, and what is told to whom."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from logplex.api import create_api
from logplex.api.page import APPS, page_routes
from logplex.api.sign_ins import IDLE_SECONDS, LIFE_SECONDS, MAX, PER_CREDENTIAL, SAVE_USE_SECONDS, SignIns
from logplex.config import Settings
from logplex.errors import Unauthorized
from logplex.registry import Principal

from .client import Answer, Client, House, open_house

ORIGIN = "http://logs.example:8001"
FILES = Path(__file__).resolve().parents[2] / "logplex" / "page"
NAMES = sorted(path.name for path in FILES.iterdir())


@dataclass
class Browser(Client):
    """A client that keeps the page's cookie and sends the page's token."""

    cookie: str = ""
    token: str = ""

    async def __call__(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        name = f"logplex-{self.host.partition(':')[2]}"
        sent = {"cookie": f"{name}={self.cookie}"} if self.cookie else {}
        if method != "GET":
            sent |= {"origin": ORIGIN, "content-type": "application/json", "page_token": self.token}
        answer = await Client.__call__(self, method, target, body, **(sent | headers))
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].partition(";")[0].removeprefix(f"{name}=").strip('"')
        return answer

    async def sign_in(self, name: str, password: str) -> Answer:
        answer = await self("POST", "/page/api/sign-in", {"id": name, "password": password})
        if answer.status == 200:
            self.token = answer.json()["token"]
        return answer


@dataclass
class Page:
    """A house whose API has the page, and the table behind it."""

    house: House
    sign_ins: SignIns
    app: ASGIApp
    saved: list[str] = field(default_factory=list)
    now: list[float] = field(default_factory=lambda: [1_750_000_000.0])

    async def browser(self, *permissions: str, name: str = "ops") -> Browser:
        """One that is signed in as a new credential."""
        _, password = await self.house.registry.create_credential(name, permissions or ["full_api"])
        browser = Browser(self.app)
        assert (await browser.sign_in(name, password)).status == 200
        return browser

    def restart(self) -> None:
        """As a new server that reads what was saved."""
        made = make_page(self.house, self.saved[-1])
        self.sign_ins, self.app = made.sign_ins, made.app


def make_page(house: House, stored: str | None = None) -> Page:
    saved: list[str] = []
    now = [1_750_000_000.0]
    sign_ins = SignIns(house.registry, stored, saved.append, lambda: now[0])
    routes = page_routes(house.services, sign_ins, house.channels._channels.get)
    return Page(house, sign_ins, create_api(house.services, routes), saved, now)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with open_house(tmp_path) as house:
        yield make_page(house)


# The files.


@pytest.mark.parametrize("name", NAMES)
async def test_every_file_is_served_with_a_strict_policy_and_found_again_by_its_etag(name: str, page: Page) -> None:
    path = "/" if name == "index.html" else f"/page/{name}"
    answer = await Client(page.app)("GET", path)
    assert (answer.status, answer.body) == (200, (FILES / name).read_bytes())
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert (
        policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    )
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    for header, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")):
        assert answer.headers[header] == value
    assert answer.headers["x-frame-options"] == "DENY"
    again = await Client(page.app)("GET", path, if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert (await Client(page.app)("HEAD", path)).status == 200


async def test_the_files_name_no_other_host_and_hold_nothing_inline() -> None:
    for name in NAMES:
        text = (FILES / name).read_text()
        hosts = re.findall(r"(?:https?:)?//[\w.]+\.\w+", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
        assert set(hosts) <= {"http://www.w3.org"}, name  # a namespace, which nobody fetches
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
    markup = (FILES / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", markup)
    assert all("src=" in script for script in re.findall(r"<script[^>]*>", markup))


# Signing in and out.


async def test_a_sign_in_is_a_cookie_that_only_the_pages_own_calls_carry(page: Page) -> None:
    _, password = await page.house.registry.create_credential("ops", ["full_api"])
    browser = Browser(page.app)
    answer = await browser.sign_in("ops", password)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/page/api", f"max-age={int(LIFE_SECONDS)}"} == attributes
    assert (answer.headers["cache-control"], answer.json()["id"]) == ("no-store", "ops")
    assert password not in answer.text
    assert browser.cookie not in answer.text
    assert (await browser("GET", "/page/api/me")).json() == {"id": "ops", "token": browser.token}
    assert (await browser("GET", "/v3/channels")).status == 401, "the APIs do not know the cookie"


async def test_two_servers_on_one_host_do_not_share_a_cookie(page: Page) -> None:
    first = await page.browser("full_api")
    answer = await Client(page.app, host="logs.example:8002")(
        "GET", "/page/api/me", cookie=f"logplex-8001={first.cookie}"
    )
    assert answer.json() == {"id": None}
    answer = await Client(page.app, host="logs.example:8001")(
        "GET", "/page/api/me", cookie=f"other=1; logplex-8001={first.cookie}; logplex-8002=x"
    )
    assert answer.json()["id"] == "ops"


async def test_over_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    async with open_house(tmp_path, Settings(public_url="https://logs.example:8001")) as house:
        page = make_page(house)
        browser = await page.browser()
        answer = await browser("POST", "/page/api/sign-out", origin="https://logs.example:8001")
        assert "; Secure" in answer.headers["set-cookie"]
        _, password = await house.registry.create_credential("here", ["full_api"])
        body = {"id": "here", "password": password}
        plain = Client(page.app, host="127.0.0.1:8001")
        answer = await plain("POST", "/page/api/sign-in", body, content_type="application/json")
        assert "; Secure" not in answer.headers["set-cookie"], "who comes by another way has no TLS"


@pytest.mark.parametrize(
    ("id_", "password", "status"),
    [
        ("ops", "wrong", 401),
        ("nobody", "x", 401),
        ("token", "t.x", 401),
        ("", "", 401),
        (7, "x", 400),
        ("ops", None, 400),
    ],
)
async def test_a_wrong_sign_in_makes_no_cookie_and_no_browser_ask_by_itself(
    id_: Any, password: Any, status: int, page: Page
) -> None:
    await page.house.registry.create_credential("ops", ["full_api"])
    answer = await Browser(page.app).sign_in(id_, password)
    assert answer.status == status
    assert not {"set-cookie", "www-authenticate"} & set(answer.headers)
    assert len(page.sign_ins) == 0


async def test_a_token_and_a_credential_that_reads_nothing_cannot_sign_in(page: Page) -> None:
    _, info = await page.house.registry.put_channel("shop", ["app"])
    assert (await Browser(page.app).sign_in("token", info.tokens[0].id)).status == 401
    _, password = await page.house.registry.create_credential("writer", ["any_channel"])
    assert (await Browser(page.app).sign_in("writer", password)).status == 403


async def test_guessing_is_limited(page: Page) -> None:
    statuses = [(await Browser(page.app).sign_in("ops", f"guess {n}")).status for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2


async def test_signing_out_ends_the_sign_in_wherever_its_cookie_is(page: Page) -> None:
    browser = await page.browser()
    copy = Browser(page.app, cookie=browser.cookie, token=browser.token)
    assert (await browser("POST", "/page/api/sign-out")).status == 204
    assert browser.cookie == ""
    assert (await copy("GET", "/page/api/apps")).status == 401
    assert (await copy("GET", "/page/api/me")).json() == {"id": None}


async def test_sign_ins_outlive_the_server_and_its_file_holds_no_cookie(page: Page) -> None:
    browser = await page.browser()
    assert browser.cookie not in "".join(page.saved)
    page.restart()
    browser.app = page.app
    assert (await browser("GET", "/page/api/me")).json() == {"id": "ops", "token": browser.token}


@pytest.mark.parametrize("stored", [None, "", "rubbish", "[]", '{"x": 1}', '{"x": ["a"]}', '{"x": ["a", 1, "b", 2]}'])
async def test_a_table_that_cannot_be_read_is_an_empty_one(stored: str | None, page: Page) -> None:
    sign_ins = SignIns(page.house.registry, stored, page.saved.append)
    assert len(sign_ins) <= 1
    with pytest.raises(Unauthorized):
        await sign_ins.find("x")


async def test_a_table_that_cannot_be_written_lives_in_memory(page: Page) -> None:
    def fail(text: str) -> None:
        raise OSError(28, "No space left on device")

    record, _ = await page.house.registry.create_credential("ops", ["full_api"])
    sign_ins = SignIns(page.house.registry, None, fail)
    cookie = await sign_ins.start(Principal("credential", record.id))
    assert (await sign_ins.find(cookie)).id == "ops"


async def test_sign_ins_end_by_age_and_by_idleness(page: Page) -> None:
    browser = await page.browser()
    began = page.now[0]
    while page.now[0] + IDLE_SECONDS * 0.9 < began + LIFE_SECONDS:
        page.now[0] += IDLE_SECONDS * 0.9
        assert (await browser("GET", "/page/api/apps")).status == 200
    page.now[0] = began + LIFE_SECONDS
    assert (await browser("GET", "/page/api/apps")).status == 401
    idle = await page.browser(name="other")
    page.now[0] += IDLE_SECONDS
    assert (await idle("GET", "/page/api/apps")).status == 401


async def test_a_use_is_saved_now_and_then(page: Page) -> None:
    browser = await page.browser()
    before = len(page.saved)
    for _ in range(3):
        assert (await browser("GET", "/page/api/apps")).status == 200
    assert len(page.saved) == before
    page.now[0] += SAVE_USE_SECONDS + 1
    assert (await browser("GET", "/page/api/apps")).status == 200
    assert len(page.saved) == before + 1


async def test_a_credential_that_is_deleted_or_replaced_is_signed_out_at_once(page: Page) -> None:
    browser = await page.browser()
    await page.house.registry.delete_credential("ops")
    assert (await browser("GET", "/page/api/apps")).status == 401
    await page.house.registry.create_credential("ops", ["full_api"])
    assert (await browser("GET", "/page/api/apps")).status == 401, "its heir is somebody else"


async def test_the_table_is_bounded_and_the_one_used_longest_ago_goes(page: Page) -> None:
    one, _ = await page.house.registry.create_credential("one", ["full_api"])
    principal = Principal("credential", one.id)
    cookies = []
    for _ in range(PER_CREDENTIAL + 1):
        page.now[0] += 1
        cookies.append(await page.sign_ins.start(principal))
    assert len(page.sign_ins) == PER_CREDENTIAL
    with pytest.raises(Unauthorized):
        await page.sign_ins.find(cookies[0])
    rows = {f"{n}": [f"c{n}", 0.0, page.now[0], page.now[0] + n] for n in range(MAX)}
    full = SignIns(page.house.registry, json.dumps(rows), page.saved.append, lambda: page.now[0])
    await full.start(principal)
    assert len(full) == MAX
    assert "0" not in json.loads(page.saved[-1])


# Other pages.


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://logs.example:9999"},  # another port is the same site, and gets the cookie
        {"sec_fetch_site": "cross-site"},
        {"page_token": ""},
        {"page_token": "0" * 32},
    ],
)
async def test_no_other_page_can_make_a_change(headers: dict[str, str], page: Page) -> None:
    await page.house.registry.put_channel("shop", ["app"])
    browser = await page.browser()
    for path in ("/page/api/apps/shop/sessions", "/page/api/sign-out"):
        assert (await browser("POST", path, {}, **headers)).status == 403
    assert (await browser("POST", "/page/api/apps/shop/sessions", {})).status == 201
    assert (await browser("GET", "/page/api/apps/shop/sessions")).status == 405


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""])
async def test_no_form_of_another_page_can_sign_in(kind: str, page: Page) -> None:
    _, password = await page.house.registry.create_credential("ops", ["full_api"])
    body = {"id": "ops", "password": password}
    answer = await Browser(page.app)("POST", "/page/api/sign-in", body, content_type=kind)
    assert (answer.status, "set-cookie" in answer.headers) == (400, False)


async def test_without_a_cookie_nothing_is_told(page: Page) -> None:
    await page.house.registry.put_channel("shop", [])
    for method, path in (("GET", "apps"), ("GET", "apps/shop"), ("POST", "apps/shop/sessions")):
        answer = await Browser(page.app)(method, f"/page/api/{path}", {})
        assert (answer.status, answer.json()) == (401, {"error": "Not signed in"})
        basic = await Browser(page.app, page.house.admin.authorization)(method, f"/page/api/{path}", {})
        assert basic.status == 401, "an Authorization header does not count here"


# What is told.


async def test_apps_are_found_by_the_beginning_of_their_names_a_hundred_at_a_time(page: Page) -> None:
    for n in range(APPS + 3):
        await page.house.registry.put_channel(f"app{n:03}", [])
    await page.house.registry.put_channel("shop", [])
    await page.house.registry.put_channel("shop-2", [])
    browser = await page.browser()
    first = (await browser("GET", "/page/api/apps")).json()
    assert (len(first["apps"]), first["more"]) == (APPS, True)
    rest = (await browser("GET", f"/page/api/apps?after={first['apps'][-1]['name']}")).json()
    names = [app["name"] for app in rest["apps"]]
    assert (names, rest["more"]) == (["app100", "app101", "app102", "shop", "shop-2"], False)
    found = (await browser("GET", "/page/api/apps?prefix=shop")).json()
    assert [app["name"] for app in found["apps"]] == ["shop", "shop-2"]
    found = (await browser("GET", "/page/api/apps?prefix=shop&after=shop")).json()
    assert [app["name"] for app in found["apps"]] == ["shop-2"]


async def test_an_app_in_memory_tells_where_it_is(page: Page) -> None:
    await page.house.registry.put_channel("quiet", [])
    await page.house.registry.put_channel("shop", ["app"])
    channel = await page.house.lines("shop", "one", "two")
    browser = await page.browser()
    apps = (await browser("GET", "/page/api/apps")).json()["apps"]
    assert apps == [
        {"name": "quiet", "flags": []},
        {"name": "shop", "flags": [], "epoch": channel.epoch, "head": 2},
    ]


async def test_who_may_read_one_app_sees_that_app_alone(page: Page) -> None:
    for name in ("mine", "other"):
        await page.house.registry.put_channel(name, [])
    browser = await page.browser("app:mine")
    assert [app["name"] for app in (await browser("GET", "/page/api/apps")).json()["apps"]] == ["mine"]
    assert (await browser("GET", "/page/api/apps?prefix=o")).json()["apps"] == []
    assert (await browser("GET", "/page/api/apps/mine")).status == 200
    assert (await browser("POST", "/page/api/apps/mine/sessions", {})).status == 201
    for name in ("other", "none"):
        assert (await browser("GET", f"/page/api/apps/{name}")).status == 404
        assert (await browser("POST", f"/page/api/apps/{name}/sessions", {})).status == 404


async def test_an_app_is_shown_with_its_drains_and_without_secrets(page: Page) -> None:
    _, info = await page.house.registry.put_channel("shop", ["app"])
    drain = await page.house.registry.create_drain("shop", "https://user:pass@in.example/path?key=secret", {})
    page.house.drains.known[drain.id] = {"state": "backing off", "lost": {"overrun": 3}}
    answer = await (await page.browser())("GET", "/page/api/apps/shop")
    shown = {"id": drain.id, "url": "https://in.example/path", "status": page.house.drains.known[drain.id]}
    assert answer.json()["drains"] == [shown]
    for secret in ("pass", "secret", drain.token, info.tokens[0].id):
        assert secret not in answer.text


async def test_a_session_is_told_as_a_path_and_holds_the_filter(page: Page) -> None:
    await page.house.registry.put_channel("shop", ["app"])
    browser = await page.browser()
    wanted = {"num": 7, "tail": True, "pattern": "(?i)x", "source": "app", "fields": ["status>=500"]}
    answer = await browser("POST", "/page/api/apps/shop/sessions", wanted)
    path = answer.json()["path"]
    assert re.fullmatch(r"/sessions/[0-9a-f-]{36}", path)
    session = await page.house.registry.session(path.removeprefix("/sessions/"))
    assert session is not None
    assert session.options == {**wanted, "fields": ['status>="500"']}
    bad = await browser("POST", "/page/api/apps/shop/sessions", {"pattern": "("})
    assert (bad.status, bad.json()["error"].partition(":")[0]) == (422, "pattern")


async def test_only_what_changes_something_is_in_the_audit_log(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, int]] = []
    audit = lambda who, request, result: told.append((who, f"{request.method} {request.url.path}", result))  # noqa: E731
    monkeypatch.setattr("logplex.api.page.audit", audit)
    monkeypatch.setattr("logplex.api.resource.audit", audit)
    await page.house.registry.put_channel("shop", [])
    browser = await page.browser()
    await Browser(page.app).sign_in("ops", "wrong")
    await browser("GET", "/page/api/apps")
    await browser("GET", "/page/api/apps/shop")
    await browser("POST", "/page/api/apps/shop/sessions", {})
    await browser("POST", "/page/api/sign-out")
    assert told == [
        ("ops", "POST /page/api/sign-in", 200),
        ("-", "POST /page/api/sign-in", 401),
        ("ops", "POST /page/api/apps/shop/sessions", 201),
        ("ops", "POST /page/api/sign-out", 204),
    ]
