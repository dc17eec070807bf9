"""Sessions of the real server as their readers see them: backlog, tails, filters, events, ids and flags."""

import http.client
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from . import wire
from .conftest import Server
from .wire import Inputs, T, Tail, basic, counted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("sessions")
    with wire.running(path, "--heartbeat-seconds", "0.5") as (made, authority):
        made.inputs = Inputs(made, authority)  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def app(request: pytest.FixtureRequest, server: Server) -> "App":
    return App(server, "app-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-100:])


class App:
    """An app of one test's own, with two sources."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.tokens = server.create(name, "app", "heroku")

    def send(self, *texts: str, source: str = "app", process: str = "web.1") -> None:
        """Lines, acknowledged."""
        frames = [f"<190>1 {T.decode()} h t {process} - - {text}".encode() for text in texts]
        answer = self.server.inputs.post(counted(*frames), basic("token", self.tokens[source]))  # type: ignore[attr-defined]
        assert answer.status == 204

    def session(self, **given: Any) -> str:
        """The path of a new session."""
        url = self.server.json("POST", "/v3/sessions", {"channel_id": self.name} | given)["url"]
        return urlsplit(str(url)).path

    def get(self, path: str, **headers: str) -> wire.Answer:
        connection = http.client.HTTPConnection(*self.server.http, timeout=wire.WAIT_SECONDS)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return wire.Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def shown(self, **given: Any) -> list[str]:
        """The texts that a session without tail shows."""
        body = self.get(self.session(**given)).body.decode()
        return [line.partition(": ")[2] for line in body.splitlines()]


def events(body: bytes) -> list[tuple[str, str | None]]:
    """Id and data of each block, as a browser reads them."""
    found = []
    for block in re.split(r"(?:\r\n|\r|\n){2}", body.decode())[:-1]:
        fields = [line.partition(": ") for line in re.split(r"\r\n|\r|\n", block)]
        data = [value for name, _, value in fields if name == "data"]
        ids = [value for name, _, value in fields if name == "id"]
        found.append((ids[-1], "\n".join(data) if data else None))
    return found


def test_an_answer_has_the_headers_of_the_protocol(app: App) -> None:
    app.send("x")
    plain = app.get(app.session())
    wanted = {
        "content-type": "text/plain; charset=utf-8",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-accel-buffering": "no",
        "connection": "close",
        "transfer-encoding": "chunked",
    }
    assert plain.status == 200
    assert wanted.items() <= plain.headers.items()
    assert plain.body == T + b" app[web.1]: x\n"
    stream = app.get(app.session(), Accept="text/event-stream")
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert {**wanted, "content-type": stream.headers["content-type"]}.items() <= stream.headers.items()


@pytest.mark.parametrize(
    ("num", "count"),
    [
        (None, 100),
        (5, 5),
        ("5", 5),
        (0, 0),
        ("0", 0),
        (-1, 100),
        ("x", 100),
        ("", 100),
        (1500, 1500),
        (99999, 1500),
        ("²", 100),
    ],
)
def test_num_is_100_by_default_and_1500_at_most(server: Server, num: object, count: int) -> None:
    app = App(server, "num")
    if not app.shown(num=1):
        for first in range(0, 1600, 400):
            app.send(*map(str, range(first, first + 400)))
    assert app.shown(**({} if num is None else {"num": num})) == [str(n) for n in range(1600 - count, 1600)]


def test_filters_are_exact_and_come_before_the_limit(app: App) -> None:
    app.send("1", process="web")
    app.send("2", process="web.1")
    app.send("3", process="web.10")
    app.send("4", process="webby.1")
    app.send("5", process="web.1", source="heroku")
    app.send(*["noise"] * 200, process="worker.1")
    assert app.shown(ps="web") == ["1", "2", "3", "5"]
    assert app.shown(ps="web.1") == ["2", "5"]
    assert app.shown(source="heroku") == ["5"]
    assert app.shown(source="hero") == []
    assert app.shown(ps="web", source="app", num=2) == ["2", "3"]


def test_backlog_and_live_join_without_gap_or_repeat_whenever_a_reader_comes(app: App) -> None:
    total, readers = 600, 6
    started = threading.Event()

    def write() -> None:
        for n in range(0, total, 4):
            app.send(*map(str, range(n, n + 4)))
            if n == 40:
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait(wire.WAIT_SECONDS)
    tails = [Tail(app.server, app.name, num=1500) for _ in range(readers)]
    for tail in tails:
        with tail:
            got = [line.partition(b": ")[2] for line in tail.read(total)]
        assert got == [b"%d\n" % n for n in range(total)]
    writer.join()


def test_events_survive_line_ends_inside_a_line(app: App) -> None:
    app.send("a\nb", "c\rd", "e\r\nf", "data: id: g")
    got = [data for _, data in events(app.get(app.session(), Accept="text/event-stream").body)]
    head = f"{T.decode()} app[web.1]: "
    assert got == [head + "a\nb", head + "c\nd", head + "e\nf", head + "data: id: g"]


def test_an_id_resumes_in_any_session_of_the_channel_without_gap_or_repeat(app: App) -> None:
    app.send(*map(str, range(10)))
    blocks = events(app.get(app.session(), Accept="text/event-stream").body)
    assert len({id_ for id_, _ in blocks}) == 10
    for n, (id_, _) in enumerate(blocks):
        answer = app.get(app.session(), Accept="text/event-stream", Last_Event_ID=id_)
        assert events(answer.body) == blocks[n + 1 :]


def test_a_filtered_tail_is_told_its_place_by_heartbeats_and_resumes_at_what_was_scanned(app: App) -> None:
    path = app.session(ps="web", num=0, tail=True)
    connection = http.client.HTTPConnection(*app.server.http, timeout=wire.WAIT_SECONDS)
    connection.request("GET", path, headers={"Accept": "text/event-stream"})
    answer = connection.getresponse()
    app.send("other", "other", process="worker.1")
    last = events(app.get(app.session(), Accept="text/event-stream").body)[-1][0]
    seen = b""
    while f"id: {last}\n\n".encode() not in seen:
        read = answer.readline()
        assert read, seen
        seen += read
    assert b"data:" not in seen
    app.send("mine")
    blocks = b""
    while b"mine\n\n" not in blocks:
        blocks += answer.readline()
    assert [data for _, data in events(blocks) if data] == [f"{T.decode()} app[web.1]: mine"]
    connection.close()


@pytest.mark.parametrize(
    "path", ["/sessions/", "/sessions/x", "/sessions/00000000-0000-4000-8000-000000000000", "/sessions/../logs"]
)
def test_an_unknown_session_is_404(server: Server, path: str) -> None:
    assert server.request("GET", path)[0] == 404


@pytest.mark.parametrize(("tail", "follows"), [(False, False), (None, False), (0, True), ("", True), ("false", True)])
def test_any_tail_but_false_and_null_follows(app: App, tail: object, follows: bool) -> None:
    app.send("old")
    connection = http.client.HTTPConnection(*app.server.http, timeout=wire.WAIT_SECONDS)
    connection.request("GET", app.session(tail=tail))
    answer = connection.getresponse()
    assert answer.readline().endswith(b": old\n")
    app.send("new")
    assert answer.readline().endswith(b": new\n") is follows
    connection.close()


def test_a_channel_may_forbid_tails_and_discard_history(app: App) -> None:
    app.send("old")
    app.server.json("PATCH", f"/v3/channels/{app.name}", {"flags": ["no_tail"]})
    body = app.get(app.session(tail=True)).body
    assert re.fullmatch(
        rb"\S+ heroku\[logplex\]: Error L20 \(Tail sessions forbidden\) "
        rb"Tail sessions for this app are forbidden due to log volume\.\n",
        body,
    ), body
    assert app.shown() == ["old"], "history stays readable"
    app.server.json("PATCH", f"/v3/channels/{app.name}", {"flags": ["no_history"]})
    answer = app.get(app.session())
    assert answer.headers["x-heroku-warning"] == "Warning: log history discarded due to excessive volume."
    assert answer.body == b""


def test_v2_sessions_and_canaries_read_and_unknown_channels_read_as_empty(server: Server) -> None:
    made = server.json("POST", "/channels", {"tokens": ["app"]})
    body = counted(b"<13>1 %b h t web.1 - - hello" % T)
    assert server.inputs.post(body, basic("token", made["tokens"]["app"])).status == 204  # type: ignore[attr-defined]
    for given in ({"channel_id": str(made["channel_id"])}, {"channel_id": made["channel_id"], "num": "1"}):
        url = server.json("POST", "/v2/sessions", given)["url"]
        assert server.request("GET", urlsplit(url).path) == (200, T + b" app[web.1]: hello\n")
    code, body = server.request("POST", "/sessions", {"channel_id": str(made["channel_id"])})
    assert code == 201
    assert server.request("GET", urlsplit(body.decode()).path) == (200, T + b" app[web.1]: hello\n")
    url = server.json("POST", "/v2/sessions", {"channel_id": "987654"})["url"]
    assert server.request("GET", urlsplit(url).path) == (200, b"")
    assert server.request("POST", "/v3/sessions", {"channel_id": "nobody"}) == (422, b'{"error":"channel not found"}')


def test_a_tail_that_outlived_its_url_may_come_back_at_once_and_an_unread_session_is_gone(tmp_path: Path) -> None:
    with wire.running(tmp_path, "--session-seconds", "1", "--heartbeat-seconds", "0.2") as (server, _):
        server.create("shop")
        unread = urlsplit(server.json("POST", "/v3/sessions", {"channel_id": "shop"})["url"]).path
        tails = [Tail(server, "shop", headers={"Accept": "text/event-stream"}) for _ in range(10)]
        tails[0].read(2 * 7)  # heartbeats of two lines each tell the time
        assert server.request("HEAD", unread)[0] == 404
        for tail in tails:
            with tail:
                pass
            assert server.request("HEAD", tail.path)[0] == 200


def test_a_slow_reader_is_told_exactly_what_it_missed(tmp_path: Path) -> None:
    small = ("--durability", "none", "--spool-bytes", "0", "--ring-lines", "50", "--history-lines", "50")
    with wire.running(tmp_path, *small) as (server, authority):
        server.inputs = Inputs(server, authority)  # type: ignore[attr-defined]
        app = App(server, "shop")
        with Tail(server, "shop", ps="web") as tail:
            app.send("first")
            assert tail.read(1)[0].endswith(b": first\n")
            n = 0
            while n < 4000:  # 20 MB: more than the kernel's buffers hold
                app.send(*[f"{n + m} {'x' * 5000}" for m in range(100)])
                n += 100
            app.send("last")
            lines = tail.until(b": last")
    told = [line for line in lines if b"L11" in line]
    counts = []
    for line in told:
        match = re.fullmatch(
            rb"\S+ heroku\[logplex\]: Error L11 \(Tail buffer overflow\) -> "
            rb"This tail session dropped (\d+) messages since \S+\.\n",
            line,
        )
        assert match, line
        counts.append(int(match[1]))
    assert counts, "it was too slow"
    assert len(lines) - len(told) + sum(counts) == 4000
