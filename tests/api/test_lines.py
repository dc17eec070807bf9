"""Lines as an answer: counted frames, chunked, filtered before they are limited."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.api.lines import parse_num
from logplex.framing import body_frames

from .client import House, open_house

TIME = "2024-05-01T12:00:00+00:00"


async def shop(house: House) -> None:
    await house.admin("PUT", "/v3/channels/shop", {})


def frame(text: str, source: str = "app", process: str = "web.1") -> bytes:
    body = f"<134>1 {TIME} host {source} {process} - {text}\n".encode()
    return b"%d %b" % (len(body), body)


async def test_the_newest_lines_are_counted_frames_oldest_first(house: House) -> None:
    await shop(house)
    await house.lines("shop", *map(str, range(150)))
    await house.lines("shop", *map(str, range(150, 160)), process="worker.1")
    answer = await house.admin("GET", "/v3/channels/shop/logs?num=20")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/logplex-1"
    assert answer.headers["logplex-msg-count"] == "20"
    assert answer.headers["connection"] == "close"
    assert "content-length" not in answer.headers, "it is chunked"
    assert "x-heroku-warning" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    expected = [frame(str(n)) for n in range(140, 150)]
    expected += [frame(str(n), process="worker.1") for n in range(150, 160)]
    assert answer.body == b"".join(expected)


@pytest.mark.parametrize(
    ("num", "count"),
    [("", 100), ("?num=", 100), ("?num=x", 100), ("?num=-5", 100), ("?num=1.5", 100), ("?num=0", 0), ("?num=3", 3),
     ("?num=999999", 1500), ("?num=" + "9" * 5000, 1500)],
)  # fmt: skip
async def test_a_malformed_num_means_100(house: House, num: str, count: int) -> None:
    await shop(house)
    for start in range(0, 1600, 200):
        await house.lines("shop", *map(str, range(start, start + 200)))
    answer = await house.admin("GET", f"/v3/channels/shop/logs{num}")
    assert (answer.status, answer.headers["logplex-msg-count"]) == (200, str(count))
    assert len(list(body_frames(answer.body, 65536))) == count


async def test_an_empty_channel_answers_no_frames(house: House) -> None:
    await shop(house)
    answer = await house.admin("GET", "/v3/channels/shop/logs")
    assert (answer.status, answer.body, answer.headers["logplex-msg-count"]) == (200, b"", "0")


async def test_lines_are_filtered_before_they_are_limited(house: House) -> None:
    await shop(house)
    for number in range(50):
        await house.lines("shop", f"wanted status={number}", source="heroku", process="router")
        await house.lines("shop", *["other"] * 30)
    answer = await house.admin("GET", "/v3/channels/shop/logs?num=3&source=heroku&ps=router")
    expected = [frame(f"wanted status={n}", "heroku", "router") for n in (47, 48, 49)]
    assert (answer.headers["logplex-msg-count"], answer.body) == ("3", b"".join(expected))
    answer = await house.admin("GET", "/v3/channels/shop/logs?num=2&fields=status%3E%3D10&fields=status%3C20")
    assert answer.body == b"".join(frame(f"wanted status={n}", "heroku", "router") for n in (18, 19))
    answer = await house.admin("GET", "/v3/channels/shop/logs?pattern=(")
    assert answer.status == 422
    assert answer.json()["error"].startswith("pattern: ")
    assert (await house.admin("GET", "/v3/channels/shop/logs?unknown=1")).status == 200


async def test_frames_hold_one_lf_and_utf8(house: House) -> None:
    await shop(house)
    await house.lines("shop", "a\nb\r\nc", "\udcff", "[x] - y", "")
    answer = await house.admin("GET", "/v3/channels/shop/logs")
    frames = list(body_frames(answer.body, 65536))
    assert len(frames) == 4
    assert answer.body.count(b"\n") == 4
    assert b"a b c\n" in answer.body
    assert "\ufffd" in answer.text


async def test_a_channel_without_history_says_so(house: House) -> None:
    await shop(house)
    await house.lines("shop", "one")
    await house.admin("PATCH", "/v3/channels/shop", {"flags": ["no_history"]})
    answer = await house.admin("GET", "/v3/channels/shop/logs")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["x-heroku-warning"] == "Warning: log history discarded due to excessive volume."


async def test_an_unknown_channel_has_no_lines(house: House) -> None:
    assert (await house.admin("GET", "/v3/channels/none/logs")).status == 404


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_num_is_from_0_to_1500(value: object) -> None:
    assert 0 <= parse_num(value) <= 1500


async def test_the_newest_lines_of_any_channel_are_those_of_a_list(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        for case, sizes in enumerate([[], [1], [1, 1, 1], [5, 1, 7], [100, 50], [3] * 40]):
            name = f"c{case}"
            await house.admin("PUT", f"/v3/channels/{name}", {})
            written: list[str] = []
            for size in sizes:
                texts = [f"line {len(written) + n}" for n in range(size)]
                written += texts
                await house.lines(name, *texts)
            for num in (0, 1, 2, 4, 99, 1500):
                answer = await house.admin("GET", f"/v3/channels/{name}/logs?num={num}")
                assert answer.body == b"".join(frame(text) for text in written[max(0, len(written) - num) :])
