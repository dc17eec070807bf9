"""`GET /sessions/<uuid>` over real sockets, a real registry and real channels."""

import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from logplex.api.sessions import SessionPages
from logplex.batch import Batch, Form, raw_frame
from logplex.channel import Channel, Channels, NoHistory
from logplex.config import Settings
from logplex.errors import NotFound, StoreError
from logplex.fanout import Tails
from logplex.filters import Filter
from logplex.http import Listener, Routes, Server, not_found
from logplex.ledger import Ledger
from logplex.poller import Poller
from logplex.registry import Registry
from logplex.sessions import Sessions
from logplex.store.config import ConfigStore
from tests import conftest
from tests.peers.lines import post
from tests.polling import polling

AT = 1_700_000_000_000
PATIENCE_SECONDS = 20.0


class Answer:
    """An answer that is being read; `body` has no chunks any more."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._raw = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.whole = False
        self.closed = False

    async def head(self) -> None:
        while b"\r\n\r\n" not in self._raw:
            await self._receive()
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self._unchunk()

    async def until(self, pattern: bytes) -> bytes:
        """Read until the body holds the pattern."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not re.search(pattern, self.body[-20_000:]):
                assert not self.closed, self.body
                await self._receive()
        return self.body

    async def rest(self) -> bytes:
        """Read to the end: of the connection, if it was announced."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self.closed and not (self.whole and self.headers.get("connection") != "close"):
                await self._receive()
        return self.body

    async def _receive(self) -> None:
        data = await self._stream.receive_some(65536)
        self.closed = not data
        self._raw += data
        if self.status:
            self._unchunk()

    def _unchunk(self) -> None:
        if self.headers.get("transfer-encoding") != "chunked":
            self.body, self._raw = self.body + self._raw, b""
            self.whole = len(self.body) == int(self.headers.get("content-length", -1))
            return
        while match := re.match(rb"([0-9a-f]+)\r\n", self._raw):
            size, start = int(match[1], 16), match.end()
            if len(self._raw) < start + size + 2:
                return
            assert self._raw[start + size : start + size + 2] == b"\r\n"
            self.body += self._raw[start : start + size]
            self._raw = self._raw[start + size + 2 :]
            self.whole = size == 0

    async def hang_up(self) -> None:
        await self._stream.aclose()


class Here:
    """A server with `/sessions/*` alone, and the hands that fill its channels."""

    def __init__(self, store: ConfigStore, poller: Poller, nursery: trio.Nursery) -> None:
        settings = Settings(heartbeat_seconds=0.2)
        self.wall = 1_700_000_000.0
        self.registry = Registry(store, settings, wall_clock=lambda: self.wall)
        self.channels = Channels(NoHistory(), ring_lines=5000, ring_bytes=1 << 30, rings_bytes=1 << 30)
        self.tails = Tails(heartbeat_seconds=settings.heartbeat_seconds)
        self.sessions = Sessions(self.registry, self.tails)
        self.server = Server(settings, Ledger(), poller)
        self.nursery = nursery
        self.port = 0

    async def start(self) -> None:
        await self.registry.load()
        await self.nursery.start(self.tails.run)
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        routes = Routes({b"/sessions/*": SessionPages(self.sessions, self)}, not_found)
        await self.nursery.start(self.server.serve, [Listener(listening, routes)])

    async def get(self, channel_id: int) -> Channel:
        channel = self.channels.get(channel_id)
        if channel is None:
            record = await self.registry.channel_by_id(channel_id)
            if record is None:
                raise NotFound("Not found")
            await self.channels.load({channel_id: (record.name, record.flags)})
            channel = self.channels.get(channel_id)
        assert channel is not None
        return channel

    async def app(self, name: str = "shop") -> Channel:
        _, info = await self.registry.put_channel(name, ["app"])
        return await self.get(info.channel.id)

    async def session(self, channel: Channel | None, **options: Any) -> str:
        """The path of a new session."""
        wanted = {"num": options.pop("num", 100), "tail": options.pop("tail", False)}
        filter = Filter.parse(options).to_mapping()
        made = await self.registry.create_session(None if channel is None else channel.id, wanted | filter)
        return f"/sessions/{made.uuid}"

    async def request(self, path: str, *headers: str, method: str = "GET", version: str = "1.1") -> Answer:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]
        await stream.send_all("\r\n".join(lines).encode())
        answer = Answer(stream)
        with trio.fail_after(PATIENCE_SECONDS):
            await answer.head()
        return answer

    async def read(self, path: str, *headers: str) -> bytes:
        answer = await self.request(path, *headers)
        assert answer.status == 200
        body = await answer.rest()
        assert answer.whole
        return body


def write(channel: Channel, *texts: bytes, process: bytes = b"web.1", at: int = AT) -> None:
    data = b"".join([raw_frame(190, b"T", b"app", process, text) for text in texts])
    channel.append(Batch(channel.head, len(texts), at, Form.RAW, data))


def numbers(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


def seen(body: bytes) -> list[int]:
    return [int(text) for text in re.findall(rb"app\[web\.1\]: (\d+)\n", body)]


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Here]:
    async with ConfigStore(directory) as store, polling() as poller, trio.open_nursery() as nursery:
        here = Here(store, poller, nursery)
        await here.start()
        yield here
        nursery.cancel_scope.cancel()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    async with running(tmp_path) as here:
        yield here


EVENTS = "Accept: text/event-stream"


async def test_a_session_without_tail_shows_the_newest_lines_and_ends(here: Here) -> None:
    channel = await here.app()
    write(channel, *numbers(0, 200))
    answer = await here.request(await here.session(channel, num=3))
    assert await answer.rest() == b"T app[web.1]: 197\nT app[web.1]: 198\nT app[web.1]: 199\n"
    assert answer.whole
    del answer.headers["date"]
    assert answer.headers == {
        "content-type": "text/plain; charset=utf-8",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-accel-buffering": "no",
        "connection": "close",
        "transfer-encoding": "chunked",
        "logplex-last-id": f"{channel.epoch}.199",
    }


async def test_a_filter_comes_before_the_number_of_lines(here: Here) -> None:
    channel = await here.app()
    write(channel, *numbers(0, 100))
    write(channel, *numbers(100, 300), process=b"worker.1")
    assert seen(await here.read(await here.session(channel, num=5, ps="web"))) == [95, 96, 97, 98, 99]
    assert seen(await here.read(await here.session(channel, num=0))) == []


@pytest.mark.parametrize(
    ("accept", "events"),
    [
        ("text/event-stream", True),
        ("text/html, Text/Event-Stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.000", False),
        ("*/*", False),
        ("text/*", False),
        ("text/plain", False),
    ],
)
async def test_events_are_for_those_who_ask_for_them(here: Here, accept: str, events: bool) -> None:
    channel = await here.app()
    write(channel, b"one", b"two\rlines")
    answer = await here.request(await here.session(channel), f"Accept: {accept}")
    body = await answer.rest()
    if events:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (
            body
            == (
                f"id: {channel.epoch}.0\ndata: T app[web.1]: one\n\n"
                f"id: {channel.epoch}.1\ndata: T app[web.1]: two\ndata: lines\n\n"
            ).encode()
        )
    else:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert body == b"T app[web.1]: one\nT app[web.1]: two\rlines\n"


async def test_a_tail_goes_on_live_until_its_channel_is_deleted(here: Here) -> None:
    channel = await here.app()
    write(channel, *numbers(0, 10))
    path = await here.session(channel, num=2, tail=True)
    answer = await here.request(path)
    await answer.until(b": 9\n")
    for number in range(10, 20):
        write(channel, b"%d" % number)
        await answer.until(b": %d\n" % number)
    assert "logplex-last-id" not in answer.headers
    await here.registry.delete_channel("shop")
    here.channels.remove(channel.id)
    here.tails.end_channel(channel.id)
    assert seen(await answer.rest()) == list(range(8, 20))
    assert answer.whole
    assert (await here.request(path)).status == 404


async def test_events_resume_after_the_last_id_in_any_session_of_the_channel(here: Here) -> None:
    channel = await here.app()
    write(channel, *numbers(0, 300))
    answer = await here.request(await here.session(channel, num=1, tail=True), EVENTS)
    await answer.until(b": 299\n")
    last_id = re.findall(rb"id: (\S+)", answer.body)[-1].decode()
    await answer.hang_up()
    write(channel, *numbers(300, 500))
    again = await here.request(await here.session(channel, num=1, tail=True), EVENTS, f"Last-Event-ID: {last_id}")
    await again.until(b": 499\n")
    write(channel, *numbers(500, 501))
    assert seen(await again.until(b": 500\n")) == list(range(300, 501))
    other = await here.read(await here.session(channel, num=1), f"Last-Event-ID: {'f' * 16}.400")
    assert seen(other) == list(range(501))  # of an older epoch: from the beginning of this one


@pytest.mark.parametrize("rubbish", ["", "17", "x" * 500, "0123456789abcdef.", "%00", "é"])
async def test_a_rubbish_last_id_is_ignored(here: Here, rubbish: str) -> None:
    channel = await here.app()
    write(channel, *numbers(0, 10))
    assert seen(await here.read(await here.session(channel, num=2), f"Last-Event-ID: {rubbish}")) == [8, 9]
    ahead = f"Last-Event-ID: {channel.epoch}.10"
    assert seen(await here.read(await here.session(channel, num=2), ahead)) == [8, 9]


async def test_plain_text_resumes_by_since(here: Here) -> None:
    channel = await here.app()
    path = await here.session(channel, num=1)
    last_id, found = f"{channel.epoch}.-1", []
    for round in range(4):
        write(channel, *numbers(round * 200, round * 200 + 200), at=AT + round * 1000)
        answer = await here.request(f"{path}?since={last_id}")
        found += seen(await answer.rest())
        last_id = answer.headers["logplex-last-id"]
    assert found == list(range(800))
    assert seen(await here.read(f"{path}?since={AT // 1000 + 3}")) == list(range(600, 800))
    assert seen(await here.read(f"{path}?since=2023-11-14T22:13:22Z")) == list(range(400, 800))
    assert seen(await here.read(f"{path}?since=2023-11-14T23:13:22%2B01:00")) == list(range(400, 800))
    assert seen(await here.read(f"{path}?since=1h")) == []


@pytest.mark.parametrize("since", ["yesterday", "-5", "0123456789abcdef.x", "%ff", "1e9"])
async def test_a_since_that_is_no_place_and_no_time_is_refused(here: Here, since: str) -> None:
    answer = await here.request(f"{await here.session(await here.app())}?since={since}")
    assert answer.status == 422
    assert (await answer.rest()).startswith(b"since: ")


async def test_unknown_and_expired_sessions_are_not_found(here: Here) -> None:
    channel = await here.app()
    path = await here.session(channel)
    assert await here.read(path) == b""
    here.wall += 359
    assert await here.read(path) == b""
    here.wall += 359  # it lives on from the end of its last stream
    assert await here.read(path) == b""
    here.wall += 361
    unknown = "/sessions/00000000-0000-4000-8000-000000000000"
    for gone in (path, unknown, unknown.upper(), "/sessions/", "/sessions/../v3", f"{unknown}/x", "/sessions/%00"):
        assert (await here.request(gone)).status == 404


async def test_an_open_tail_lives_on_and_keeps_its_session(here: Here) -> None:
    channel = await here.app()
    path = await here.session(channel, tail=True)
    answer = await here.request(path, EVENTS)
    await answer.until(b"id: ")
    here.wall += 4000
    other = await here.request(path)
    assert other.status == 200
    await other.hang_up()
    write(channel, b"0")
    await answer.until(b": 0\n")
    here.wall += 90_000
    assert (await here.request(path)).status == 404  # a day is the most
    write(channel, b"1")
    assert seen(await answer.until(b": 1\n")) == [0, 1]


async def test_forbidden_tails_get_one_line_and_history_stays_readable(here: Here) -> None:
    channel = await here.app()
    write(channel, b"0")
    channel.no_tail = True
    said = (
        rb"\S+ heroku\[logplex\]: Error L20 \(Tail sessions forbidden\) "
        rb"Tail sessions for this app are forbidden due to log volume\.\n"
    )
    assert re.fullmatch(said, await here.read(await here.session(channel, tail=True, source="other")))
    events = await here.read(await here.session(channel, tail=True), EVENTS)
    assert re.fullmatch(rb"id: \S+\ndata: " + said + rb"\n", events)
    assert seen(await here.read(await here.session(channel))) == [0]


async def test_a_channel_without_history_warns_and_goes_on_live(here: Here) -> None:
    channel = await here.app()
    write(channel, b"0")
    channel.no_history = True
    answer = await here.request(await here.session(channel, tail=True), EVENTS)
    warning = "Warning: log history discarded due to excessive volume."
    assert answer.headers["x-heroku-warning"] == warning
    await answer.until(b"id: ")
    write(channel, b"1")
    assert seen(await answer.until(b": 1\n")) == [1]


async def test_a_session_of_no_channel_reads_as_empty(here: Here) -> None:
    for tail in (False, True):
        assert await here.read(await here.session(None, tail=tail)) == b""


async def test_a_config_that_cannot_be_read_is_503(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(uuid: str) -> None:
        raise StoreError("disk I/O error")

    monkeypatch.setattr(here.registry, "session", fails)
    answer = await here.request("/sessions/00000000-0000-4000-8000-000000000000")
    assert answer.status == 503


async def test_head_and_other_methods_never_open_a_stream(here: Here) -> None:
    path = await here.session(await here.app(), tail=True)
    head = await here.request(path, "Connection: close", method="HEAD")
    assert (head.status, head.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert await head.rest() == b""
    post = await here.request(path, "Content-Length: 0", method="POST")
    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD")


async def test_heartbeats_come_while_nothing_else_does(here: Here) -> None:
    channel = await here.app()
    answer = await here.request(await here.session(channel, tail=True), EVENTS)
    block = f"id: {channel.epoch}.-1\n\n".encode()
    assert (await answer.until(b"(?:id: .*\n\n){3}")).replace(block, b"") == b""


async def test_a_slow_reader_gets_every_line_and_disturbs_nobody(here: Here) -> None:
    channel = await here.app()
    path = await here.session(channel, num=0, tail=True)
    slow, quick = await here.request(path), await here.request(path)
    pad = b"x" * 5000
    for number in range(3000):  # more than the kernel's buffers hold
        write(channel, b"%s %d" % (pad, number))
        if number % 100 == 0:
            await quick.until(b" %d\n$" % number)
    expected = b"".join(b"T app[web.1]: %s %d\n" % (pad, number) for number in range(3000))
    assert await quick.until(b" 2999\n$") == expected
    assert await slow.until(b" 2999\n$") == expected


async def test_an_old_client_reads_to_the_end_of_the_connection(here: Here) -> None:
    channel = await here.app()
    write(channel, b"0")
    answer = await here.request(await here.session(channel), version="1.0")
    assert await answer.rest() == b"T app[web.1]: 0\n"
    assert "transfer-encoding" not in answer.headers


async def test_a_reader_that_leaves_is_noticed(here: Here) -> None:
    answer = await here.request(await here.session(await here.app(), tail=True))
    with trio.fail_after(PATIENCE_SECONDS):
        while len(here.tails) != 1:
            await trio.lowlevel.checkpoint()
        await answer.hang_up()
        while len(here.tails):
            await trio.lowlevel.checkpoint()


async def test_tails_end_in_order_when_the_server_stops(here: Here) -> None:
    channel = await here.app()
    write(channel, b"0")
    answer = await here.request(await here.session(channel, tail=True))
    await answer.until(b": 0\n")
    here.server.stop()
    await answer.rest()
    assert answer.whole


def test_ids_hold_over_a_crash_of_the_server(make_server: Callable[..., conftest.Server]) -> None:
    server = make_server().start()
    token = server.create("shop")["app"]
    path = urlsplit(server.json("POST", "/v3/sessions", {"channel_id": "shop", "num": 1500})["url"]).path

    def read(last_id: str) -> list[tuple[str, int]]:
        status, body = server.request("GET", path, Accept="text/event-stream", Last_Event_ID=last_id)
        assert status == 200
        return [(last, int(number)) for last, number in re.findall(r"id: (\S+)\ndata: .*: (\d+)\n\n", body.decode())]

    post(server, token, [str(number) for number in range(300)])
    before = read("")
    assert [number for _, number in before] == list(range(300))
    server.kill()
    server.start()
    post(server, token, [str(number) for number in range(300, 400)])
    assert read(before[99][0])[:200] == before[100:]
    assert [number for _, number in read(before[99][0])] == list(range(100, 400))


async def test_a_session_reads_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        path = await here.session(await here.app(), num=1)
    async with running(tmp_path) as here:
        channel = await here.app()
        write(channel, b"0", b"1")
        assert seen(await here.read(path)) == [1]
