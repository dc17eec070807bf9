"""OTLP: the document that arrives, where it is sent, and what the answers of collectors mean."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from drains import otlp
from drains.limits import Limits
from drains.rendering import SEVERITIES, own_line
from drains.url import parse
from logplex.batch import Line

from ..polling import until
from .world import OK, Post, World, answers, http_receiver, running, settled, spec

AT = 1_770_000_000_123
TIME = 1_769_860_800_123_456_000  # of the lines of `World`
QUICK = Limits(backoff_seconds=0.1, max_backoff_seconds=0.2)


def record(line: Line, at: int = AT, position: int | None = 7) -> dict[str, Any]:
    data = otlp.recorder(SEVERITIES)(line, at, position)
    assert data.endswith(b"},")
    shown: dict[str, Any] = json.loads(data[:-1])
    return shown


def line(time: bytes = b"2026-01-31T12:00:00Z", text: bytes = b"", pri: int = 190, process: bytes = b"web.1") -> Line:
    return Line(b"%d" % pri, time, b"app", process, text)


def logs(document: bytes) -> list[dict[str, Any]]:
    (resource,) = json.loads(document)["resourceLogs"]
    (scope,) = resource["scopeLogs"]
    found: list[dict[str, Any]] = scope["logRecords"]
    return found


def texts(document: bytes) -> list[str]:
    return [each["body"]["stringValue"] for each in logs(document)]


def answered(body: bytes, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://otel.example", b"/v1/logs"),
        ("https://otel.example/", b"/v1/logs"),
        ("https://otel.example/api/1/otlp", b"/api/1/otlp/v1/logs"),
        ("https://otel.example/api/1/otlp//", b"/api/1/otlp/v1/logs"),
        ("https://otel.example/otlp?key=a/b", b"/otlp/v1/logs?key=a/b"),
        ("https://otel.example/v1/logs", b"/v1/logs"),
        ("https://otel.example/otlp/v1/logs/?key=1", b"/otlp/v1/logs?key=1"),
        ("https://otel.example/v1/traces", b"/v1/traces/v1/logs"),
    ],
)
def test_the_url_is_a_base_url_unless_it_names_the_signal(url: str, target: bytes) -> None:
    assert otlp.target(parse(url).target) == target


def test_a_line_becomes_a_record() -> None:
    assert record(line(text=b'a "b"\n\tc\x00', pri=172)) == {
        "timeUnixNano": "1769860800000000000",
        "observedTimeUnixNano": "1770000000123000000",
        "severityNumber": 13,
        "severityText": "warning",
        "body": {"stringValue": 'a "b"\n\tc\x00'},
        "attributes": [
            {"key": "logplex.source", "value": {"stringValue": "app"}},
            {"key": "logplex.process", "value": {"stringValue": "web.1"}},
            {"key": "logplex.position", "value": {"intValue": "7"}},
        ],
    }
    numbers = [record(line(pri=8 + severity))["severityNumber"] for severity in range(8)]
    assert numbers == [21, 19, 18, 17, 13, 10, 9, 5]
    assert record(own_line(172, AT, b"x"), position=None)["attributes"][1:] == [
        {"key": "logplex.process", "value": {"stringValue": "logplex"}}
    ]
    assert len(record(line(process=b"-"))["attributes"]) == 2


@pytest.mark.parametrize(
    ("time", "nanoseconds"),
    [
        (b"2026-01-31T12:00:00.123456+00:00", TIME),
        (b"2026-01-31T13:30:00.1234569+01:30", TIME),
        (b"2026-01-31T12:00:00Z+00:00", TIME // 10**9 * 10**9),
        (b"1970-01-01T00:00:00.000001Z", 1000),
        (b"1970-01-01T00:00:00Z", AT * 10**6),
        (b"1969-12-31T23:59:59Z", AT * 10**6),
        (b"0001-01-01T00:00:00+23:59", AT * 10**6),
        (b"9999-12-31T23:59:59-23:59", AT * 10**6),
        (b"2026-02-30T12:00:00Z", AT * 10**6),
        (b"yesterday", AT * 10**6),
    ],
)
def test_a_time_that_is_none_is_the_receive_time(time: bytes, nanoseconds: int) -> None:
    assert record(line(time))["timeUnixNano"] == str(nanoseconds)


@given(st.binary(max_size=80), st.integers(1, 2**33 * 10**6))
def test_any_text_and_time_are_said_in_json(text: bytes, microseconds: int) -> None:
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    shown = record(line(time.isoformat().encode(), text))
    assert shown["body"]["stringValue"] == text.decode("utf-8", "replace")
    assert shown["timeUnixNano"] == str(microseconds * 1000)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"", 0),
        (b"{}", 0),
        (b"OK", 0),
        (b"\xff", 0),
        (b"[1]", 0),
        (b'{"partialSuccess":{}}', 0),
        (b'{"partialSuccess":null}', 0),
        (b'{"partialSuccess":{"errorMessage":"a hint"}}', 0),
        (b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}', 2),
        (b'{"partialSuccess":{"rejectedLogRecords":3}}', 3),
        (b'{"partialSuccess":{"rejectedLogRecords":-3}}', 0),
        (b'{"partialSuccess":{"rejectedLogRecords":[]}}', 0),
        (b'{"partialSuccess":{"rejectedLogRecords":1e999}}', 0),
        (b'{"partialSuccess":{"rejectedLogRecords":NaN}}', 0),
        (b'{"partialSuccess":{"rejectedLogRecords":' + b"9" * 5000 + b"}}", 0),
        (b"[" * 60_000, 0),
    ],
)
def test_an_answer_counts_only_what_it_says_was_rejected(body: bytes, count: int) -> None:
    assert otlp.rejected(body) == count


async def test_a_document_arrives_with_the_headers_that_were_given() -> None:
    world = World()
    async with http_receiver(answers(answered(b"{}"))) as receiver, running(world) as deliveries:
        url = f"http://127.0.0.1:{receiver.port}/otlp/?a=b"
        deliveries.add(spec(url, format="otlp", headers={"X-Team": "abc"}), world.channel, None)
        world.write(b"first", b"\xff second")
        post = await receiver.post()
        assert post.target == b"/otlp/v1/logs?a=b"
        assert post.headers[b"content-type"] == b"application/json"
        assert post.headers[b"x-team"] == b"abc"
        assert (post.count, post.range) == (2, (0, 1))
        (resource,) = json.loads(post.body)["resourceLogs"]
        assert resource["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "app-1"}}]}
        (scope,) = resource["scopeLogs"]
        assert scope["scope"] == {"name": "logplex", "version": "0.0"}
        first, second = scope["logRecords"]
        assert (first["timeUnixNano"], first["body"]) == (str(TIME), {"stringValue": "first"})
        assert (second["attributes"][2]["value"], second["body"]) == ({"intValue": "1"}, {"stringValue": "� second"})
        world.write(b"third")
        assert texts((await receiver.post()).body) == ["third"]
        await settled(deliveries)
        status = deliveries.status(7)
        assert status is not None
        assert (status.delivered, status.lost, status.error) == (3, {}, None)


async def test_filter_gzip_batches_and_losses_keep_the_document_whole() -> None:
    world = World(ring_lines=100)
    options = {"format": "otlp", "compress": "gzip", "batch_bytes": 16_384, "filter": {"text": "line"}}
    async with http_receiver() as receiver, running(world) as deliveries:
        world.numbers(300)
        drain = spec(f"http://127.0.0.1:{receiver.port}", start="oldest", **options)
        world.spool.oldest = 50
        deliveries.add(drain, world.channel, None)
        world.write(b"other", b"line 300")
        seen: list[str] = []
        with trio.fail_after(10):
            while not seen or seen[-1] != "line 300":
                post = await receiver.post()
                assert post.headers[b"content-encoding"] == b"gzip"
                document = gzip.decompress(post.body)
                assert post.count == len(logs(document))
                seen += texts(document)
        assert [text for text in seen if "L10" not in text] == [f"line {number}" for number in range(50, 301)]


async def test_a_document_that_is_refused_is_halved_and_one_that_is_not_heard_comes_again() -> None:
    world = World()

    async def picky(post: Post, stream: trio.SocketStream) -> bytes:
        return answered(b"{}", 400) if "bad" in texts(post.body) else OK

    unheard = answered(b"{}", 503)
    replies = answers(unheard, picky, picky, picky, picky, picky)
    async with http_receiver(replies) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}", format="otlp"), world.channel, None)
        world.write(b"a", b"b", b"bad", b"c")
        first, again = await receiver.post(), await receiver.post()
        assert (first.id, first.body) == (again.id, again.body)
        await settled(deliveries)
        status = deliveries.status(7)
        assert status is not None
        assert (status.delivered, status.lost) == (3, {"permanent": 1})


PARTIAL = b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"s3cret"}}'


@pytest.mark.parametrize(
    ("partial", "split", "connections"),
    [
        (answered(PARTIAL), 0, 1),
        (answered(PARTIAL), -1, 1),
        (answered(PARTIAL), -40, 1),
        (answered(PARTIAL).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), -40, 2),
        (b"HTTP/1.0 200 OK\r\n\r\n" + PARTIAL, -40, 2),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n45\r\n" + PARTIAL + b"\r\n0\r\n\r\n", -50, 1),
    ],
)
async def test_what_a_collector_took_and_rejected_is_lost_and_not_sent_again(
    partial: bytes, split: int, connections: int
) -> None:
    world = World()
    assert len(PARTIAL) == 0x45

    async def slow(post: Post, stream: trio.SocketStream) -> bytes:
        if split:
            await stream.send_all(partial[:split])
            await until(lambda: deliveries.status(7).delivered)  # type: ignore[union-attr]
        await stream.send_all(partial[split:] if split else partial)
        if connections > 1:
            await stream.send_eof()
        return b""

    async with http_receiver(answers(slow)) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}", format="otlp"), world.channel, None)
        world.write(b"a", b"b", b"c")
        await receiver.post()
        await until(lambda: deliveries.status(7).lost)  # type: ignore[union-attr]
        world.write(b"d")
        assert texts((await receiver.post()).body) == ["d"]
        await settled(deliveries)
        status = deliveries.status(7)
        assert status is not None
        assert (status.delivered, status.lost, status.retried) == (2, {"permanent": 2}, 0)
        assert status.error is not None
        assert status.error.text == "answered 200, and rejected 2 of 3 lines"
        assert receiver.connections == connections
        (state,) = deliveries.dirty()
        assert state.balances()


async def test_a_test_sends_a_whole_document() -> None:
    world = World()
    async with http_receiver() as receiver, running(world) as deliveries:
        drain = spec(f"http://127.0.0.1:{receiver.port}/otlp", format="otlp", compress="gzip")
        report = await deliveries.test(drain, world.channel)
        assert report.ok, report
        post = await receiver.post()
        assert post.target == b"/otlp/v1/logs"
        assert texts(gzip.decompress(post.body)) == ["Test of drain 7: this line was sent to try the drain out."]


async def test_an_answer_without_end_is_a_delivery_all_the_same() -> None:
    world = World()

    async def endless(post: Post, stream: trio.SocketStream) -> bytes:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
        return chunk * 20

    async with http_receiver(answers(endless)) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}", format="otlp"), world.channel, None)
        world.write(b"a")
        await receiver.post()
        await until(lambda: deliveries.status(7).delivered)  # type: ignore[union-attr]
        world.write(b"b")
        assert texts((await receiver.post()).body) == ["b"]
        assert receiver.connections == 2
        await settled(deliveries)
        assert deliveries.status(7).retried == 0  # type: ignore[union-attr]
