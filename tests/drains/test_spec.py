"""A drain's options."""

import json
from typing import Any

import pytest

from drains.spec import DrainSpec, Format
from logplex.errors import Unprocessable

from .world import TOKEN

URL = "https://example.com/"


def parse(url: str = URL, **options: Any) -> DrainSpec:
    return DrainSpec.parse(1, TOKEN, url, options)


def test_options_round_trip_and_show_no_secret() -> None:
    given = {
        "format": "json",
        "compress": "gzip",
        "linger": 2.5,
        "batch_bytes": 50_000,
        "filter": {"source": "app", "severity": "error", "pattern": "a+"},
        "headers": {"Authorization": "Bearer abc", "X-Key": "k"},
        "start": "oldest",
        "fingerprint": "ab" * 32,
    }
    options = parse(**given).options
    again = DrainSpec.parse(1, TOKEN, URL, json.loads(json.dumps(options.to_dict()))).options
    assert again == options
    assert again.to_dict() == options.to_dict()
    shown = json.dumps(options.shown())
    assert "abc" not in shown
    assert options.shown()["headers"] == {"Authorization": "***", "X-Key": "***"}
    assert "abc" not in repr(options)
    assert not options.plain


def test_without_options_a_drain_shares_what_is_rendered() -> None:
    assert parse().options.plain
    assert parse().options.to_dict() == {}
    assert DrainSpec.parse(1, TOKEN, URL).options.plain
    assert parse(linger=1, batch_bytes=20_000, headers={"A": "b"}).options.plain
    assert parse(format="logplex-1").options.plain
    assert parse("syslog://example.com", format="rfc5424").options.plain
    assert parse("syslog://example.com", format="logplex-1").options.format is Format.LOGPLEX
    assert parse(filter={}).options.plain
    assert parse(compress="none", format=None).options.plain


@pytest.mark.parametrize(
    ("url", "options", "field"),
    [
        (URL, {"fromat": "json"}, "'fromat' is no option"),
        (URL, {"format": "xml"}, "format: "),
        (URL, {"format": 5}, "format: "),
        ("syslog://example.com", {"format": "otlp"}, "format: otlp is for drains over HTTP only"),
        (URL, {"compress": "zip"}, "compress: "),
        (URL, {"linger": -1}, "linger: "),
        (URL, {"linger": "soon"}, "linger: "),
        (URL, {"linger": float("nan")}, "linger: "),
        (URL, {"linger": True}, "linger: "),
        (URL, {"batch_bytes": 10}, "batch_bytes: "),
        (URL, {"batch_bytes": 10**9}, "batch_bytes: "),
        (URL, {"filter": "x"}, "filter: "),
        (URL, {"filter": {"pattern": "("}}, "filter: pattern: "),
        (URL, {"filter": {"colour": "red"}}, "filter: "),
        (URL, {"headers": []}, "headers: "),
        (URL, {"headers": {"A B": "c"}}, "headers: "),
        (URL, {"headers": {"A": "b\r\nC: d"}}, "headers: "),
        (URL, {"headers": {"A": "ü"}}, "headers: "),
        (URL, {"headers": {"A": 5}}, "headers: "),
        (URL, {"headers": {"Content-Length": "5"}}, "headers: "),
        (URL, {"headers": {"logplex-frame-id": "5"}}, "headers: "),
        (URL, {"headers": {"HOST": "5"}}, "headers: "),
        (URL, {"headers": {"Transfer-Encoding": "chunked"}}, "headers: "),
        (URL, {"headers": {f"A{number}": "b" for number in range(30)}}, "headers: "),
        (URL, {"start": "yesterday"}, "start: "),
        (URL, {"start": -1}, "start: "),
        (URL, {"start": "2026-01-31T12:00:00"}, "start: "),
        (URL, {"start": True}, "start: "),
        ("http://example.com", {"ca": "x"}, "ca: "),
        ("syslog://example.com", {"compress": "gzip"}, "compress: "),
        ("syslog://example.com", {"headers": {"A": "b"}}, "headers: "),
        ("syslog+udp://example.com", {"linger": 1}, "linger: "),
        ("ftp://example.com", {}, "Invalid drain destination: "),
    ],
)
def test_nonsense_is_refused_by_name(url: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        DrainSpec.parse(1, TOKEN, url, options)
    assert str(caught.value).startswith(field)


def test_options_must_be_an_object() -> None:
    with pytest.raises(Unprocessable, match=r"^options: "):
        DrainSpec.parse(1, TOKEN, URL, ["x"])  # type: ignore[arg-type]


def test_starts_are_now_oldest_a_position_or_a_time() -> None:
    assert parse().options.start == "now"
    assert parse(start="oldest").options.start == "oldest"
    assert parse(start=17).options.start == 17
    assert parse(start="2026-01-31T12:00:00Z").options.start == "2026-01-31T12:00:00Z"
