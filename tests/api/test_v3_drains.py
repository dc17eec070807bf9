"""The drains of v3, status by status (protocol section 5)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .client import House, open_house

URL = "https://user:secret@drains.example/in?key=1"
PATH = "/v3/channels/shop/drains"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """With the channels `shop` and `other`."""
    async with open_house(tmp_path) as house:
        await house.admin("PUT", "/v3/channels/shop", {})
        await house.admin("PUT", "/v3/channels/other", {})
        yield house


async def make(house: House, url: str = URL, **more: object) -> int:
    answer = await house.admin("POST", PATH, {"url": url, **more})
    assert answer.status == 201, answer.text
    number: int = answer.json()["id"]
    return number


async def test_a_drain_is_made_at_its_location(house: House) -> None:
    answer = await house.admin("POST", PATH, {"url": URL})
    assert answer.status == 201
    made = answer.json()
    assert list(made) == ["id", "token", "url"]
    assert made["url"] == URL, "its owner gets the URL as he set it"
    assert made["token"].startswith("d.")
    assert answer.headers["location"] == f"http://logs.example:8001{PATH}/{made['id']}"
    assert (await house.admin("GET", "/v3/channels/shop")).json()["drains"] == [made]
    assert house.registry.drains[made["id"]].url == URL


async def test_a_drain_without_a_url_is_reserved_until_it_gets_one(house: House) -> None:
    answer = await house.admin("POST", PATH, {})
    assert answer.status == 201
    assert list(answer.json()) == ["id", "token"]
    number, token = answer.json()["id"], answer.json()["token"]
    assert "drains" not in (await house.admin("GET", "/v3/channels/shop")).json()
    assert (await house.admin("GET", PATH)).json() == {"drains": []}
    assert (await house.admin("GET", f"{PATH}/{number}")).json() == {"id": number, "token": token}
    for action in ("test", "replay"):
        assert (await house.admin("POST", f"{PATH}/{number}/{action}", {"from": 0})).status == 422
    put = await house.admin("PUT", f"{PATH}/{number}", {"url": URL})
    assert (put.status, put.json()) == (200, {"id": number, "token": token, "url": URL})
    assert "location" not in put.headers


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (None, 400),
        (b"null", 400),
        (b"{", 400),
        ([], 400),
        ({"url": None}, 400),
        ({"url": 5}, 400),
        ({"url": "nonsense"}, 400),
        ({"url": "http://forbidden/"}, 400),
        ({"url": URL, "options": []}, 422),
        ({"url": URL, "options": {"colour": "red"}}, 422),
        ({"url": URL, "test": "yes"}, 400),
    ],
)
async def test_a_bad_drain_is_refused(house: House, body: object, status: int) -> None:
    answer = await house.admin("POST", PATH, body)
    assert answer.status == status
    assert answer.json()["error"]
    number = await make(house)
    if body is None or not (isinstance(body, dict) and "test" in body):
        assert (await house.admin("PUT", f"{PATH}/{number}", body)).status == status


async def test_a_bad_option_is_named(house: House) -> None:
    answer = await house.admin("POST", PATH, {"url": URL, "options": {"colour": "red"}})
    assert answer.json() == {"error": "colour: is no option"}


async def test_the_same_url_twice_is_409(house: House) -> None:
    await make(house)
    other = await make(house, "http://other/")
    assert (await house.admin("POST", PATH, {"url": URL})).status == 409
    answer = await house.admin("PUT", f"{PATH}/{other}", {"url": URL})
    assert (answer.status, answer.json()) == (409, {"error": "Already exists"})
    assert (await house.admin("PUT", f"{PATH}/{other}", {"url": "http://other/"})).status == 200
    answer = await house.admin("POST", "/v3/channels/other/drains", {"url": URL})
    assert answer.status == 201, "another channel may have it"


async def test_above_the_limit_is_422(house: House) -> None:
    for place in range(6):
        await make(house, f"http://{place}/")
    assert (await house.admin("POST", PATH, {"url": URL})).status == 422
    reserved = await house.admin("POST", PATH, {})
    assert reserved.status == 201, "reserved drains do not count"
    assert (await house.admin("PUT", f"{PATH}/{reserved.json()['id']}", {"url": URL})).status == 422


async def test_what_is_not_there_is_404(house: House) -> None:
    number = await make(house)
    assert (await house.admin("POST", "/v3/channels/none/drains", {"url": URL})).status == 404
    assert (await house.admin("POST", "/v3/channels/none/drains", {})).status == 404
    assert (await house.admin("GET", "/v3/channels/none/drains")).status == 404
    for path in (f"/v3/channels/other/drains/{number}", f"{PATH}/999", f"{PATH}/x", f"{PATH}/{10**30}", f"{PATH}/-1"):
        for method, body in (("GET", None), ("PUT", {"url": "http://x/"}), ("DELETE", None)):
            assert (await house.admin(method, path, body)).status == 404
        assert (await house.admin("POST", f"{path}/test")).status == 404
        assert (await house.admin("POST", f"{path}/replay", {"from": 0})).status == 404


async def test_a_drain_is_deleted(house: House) -> None:
    number = await make(house)
    answer = await house.admin("DELETE", f"{PATH}/{number}")
    assert (answer.status, answer.body) == (204, b"")
    assert house.registry.drains == {}
    assert (await house.admin("DELETE", f"{PATH}/{number}")).status == 404


async def test_options_are_kept_and_their_secrets_are_not_shown(house: House) -> None:
    options = {"linger": 1, "headers": {"Authorization": "hush"}}
    answer = await house.admin("POST", PATH, {"url": URL, "options": options})
    shown = {"linger": 1, "headers": {"Authorization": "***"}}
    assert answer.json()["options"] == shown
    number = answer.json()["id"]
    assert (await house.admin("GET", f"{PATH}/{number}")).json()["options"] == shown
    assert house.registry.drains[number].options == options
    await house.admin("PUT", f"{PATH}/{number}", {"url": "http://new/"})
    assert house.registry.drains[number].options == options, "options that are not given stay"
    changed = {"linger": 2, "headers": {"Authorization": "***", "X": "***"}}
    await house.admin("PUT", f"{PATH}/{number}", {"url": "http://new/", "options": changed})
    stored = {"linger": 2, "headers": {"Authorization": "hush", "X": "***"}}
    assert house.registry.drains[number].options == stored, "what is shown as *** may be given back"
    await house.admin("PUT", f"{PATH}/{number}", {"url": "http://new/", "options": {}})
    assert house.registry.drains[number].options == {}


async def test_drains_are_shown_with_their_status(house: House) -> None:
    number, silent = await make(house), await make(house, "http://other/")
    house.drains.known[number] = {"state": "idle", "pending": 0}
    one = await house.admin("GET", f"{PATH}/{number}")
    assert (one.status, one.json()["status"]) == (200, {"state": "idle", "pending": 0})
    listed = (await house.admin("GET", PATH)).json()["drains"]
    assert listed[0] == one.json()
    assert listed[1]["id"] == silent
    assert "status" not in listed[1]


async def test_a_drain_is_tested(house: House) -> None:
    number = await make(house)
    answer = await house.admin("POST", f"{PATH}/{number}/test")
    assert (answer.status, answer.json()) == (200, {"ok": True, "steps": []})
    made = await house.admin("POST", PATH, {"url": "http://other/", "test": True})
    assert made.json()["test"] == {"ok": True, "steps": []}
    assert house.drains.asked == [("test", number), ("test", made.json()["id"])]
    house.drains.busy = True
    answer = await house.admin("POST", f"{PATH}/{number}/test")
    assert (answer.status, answer.headers["retry-after"]) == (429, "30")
    made = await house.admin("POST", PATH, {"url": "http://third/", "test": True})
    assert made.status == 201, "the drain is made whatever becomes of its test"
    assert made.json()["test"] == {"ok": False, "error": "Too many failed log-ins"}


async def test_history_is_replayed(house: House) -> None:
    number = await make(house)
    for start in (0, "oldest", "2024-05-01T12:00:00Z"):
        answer = await house.admin("POST", f"{PATH}/{number}/replay", {"from": start})
        assert (answer.status, answer.json()) == (202, {"from": 0, "to": 3})
        assert house.drains.asked[-1] == ("replay", number, start)
    assert (await house.admin("POST", f"{PATH}/{number}/replay", {"from": "never"})).status == 422
    assert (await house.admin("POST", f"{PATH}/{number}/replay", {})).status == 422
    assert (await house.admin("POST", f"{PATH}/{number}/replay")).status == 400
