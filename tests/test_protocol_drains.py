"""Drains of the real server as their receivers see them: requests, answers, retries, losses, policy and loops."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from . import wire
from .conftest import Server
from .wire import Authority, Inputs, T, Tail, basic, counted, drain, frames, status


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Authority]]:
    with wire.running(tmp_path_factory.mktemp("drains")) as made:
        yield made


@pytest.fixture
def server(world: tuple[Server, Authority]) -> Server:
    return world[0]


@pytest.fixture
def authority(world: tuple[Server, Authority]) -> Authority:
    return world[1]


@pytest.fixture
def app(request: pytest.FixtureRequest) -> str:
    """An app of this test's own."""
    return "app-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-100:]


class Sender:
    """Puts numbered lines into an app, acknowledged."""

    def __init__(self, world: tuple[Server, Authority], app: str) -> None:
        self.token = world[0].create(app)["app"]
        self._inputs = Inputs(*world)

    def __call__(self, *texts: str) -> None:
        body = counted(*[b"<190>1 %b h t web.1 - - %b" % (T, text.encode()) for text in texts])
        assert self._inputs.post(body, basic("token", self.token)).status == 204


@pytest.fixture
def send(world: tuple[Server, Authority], app: str) -> Sender:
    return Sender(world, app)


def texts(lines: list[bytes]) -> list[str]:
    return [line.split(b" - ", 1)[1].decode().removesuffix("\n") for line in lines]


def line(text: str) -> bytes:
    return b"<190>1 %b host app web.1 - %b\n" % (T, text.encode())


@pytest.mark.parametrize("secure", [False, True])
def test_a_request_has_the_headers_and_the_body_of_the_protocol(
    server: Server, authority: Authority, app: str, send: Sender, secure: bool
) -> None:
    with wire.HttpReceiver(authority.server() if secure else None) as receiver:
        scheme = "https" if secure else "http"
        made = drain(server, app, f"{scheme}://us%40er:pa%3Ass@127.0.0.1:{receiver.port}/in/put?key=a%20b&x#fragment")
        send("one", "two")
        _, delivery = receiver.next()
    assert (delivery.method, delivery.target) == ("POST", "/in/put?key=a%20b&x")
    assert delivery.body == counted(line("one"), line("two"))
    headers = dict(delivery.headers)
    epoch = wire.page(server, app)["epoch"]
    assert headers.pop("logplex-range") == f"{epoch}/0-1"
    assert re.fullmatch(r"[0-9A-F]{32}", headers.pop("logplex-frame-id"))
    assert re.fullmatch(r"Logplex/\S+", headers.pop("user-agent"))
    assert headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "content-type": "application/logplex-1",
        "content-length": str(len(delivery.body)),
        "logplex-msg-count": "2",
        "logplex-drain-token": made["token"],
        "authorization": basic("us@er", "pa:ss"),
    }


@pytest.mark.parametrize("code", [401, 403, 404, 408, 410, 429, 500, 503, 301, 304])
def test_what_people_or_time_repair_is_tried_again_with_the_same_id_and_redirects_are_not_followed(
    server: Server, app: str, send: Sender, code: int
) -> None:
    with wire.HttpReceiver() as receiver, wire.HttpReceiver() as elsewhere:
        receiver.answers = [(code, {"Location": f"http://127.0.0.1:{elsewhere.port}/"})] * 2
        made = drain(server, app, f"http://127.0.0.1:{receiver.port}/")
        started = monotonic()
        send("x")
        tries = [receiver.next() for _ in range(3)]
        assert monotonic() - started >= 0.2, "at least 100 ms before each"
        assert [answer for answer, _ in tries] == [code, code, 200]
        assert len({(d.headers["logplex-frame-id"], d.headers["logplex-range"], d.body) for _, d in tries}) == 1
        assert elsewhere.taken.empty()
        found = status(server, app, made["id"])
    assert found["retried"] == 2
    assert found["delivered"] >= 1, "the line, and those that tell of the trouble"


@pytest.mark.parametrize("code", [400, 413, 422])
def test_of_a_batch_at_fault_only_the_bad_line_is_lost(server: Server, app: str, send: Sender, code: int) -> None:
    with wire.HttpReceiver() as receiver:
        receiver.refuses = lambda delivery: code if b"bad" in delivery.body else 0
        made = drain(server, app, f"http://127.0.0.1:{receiver.port}/")
        send("1", "2", "bad", "4", "5", "6", "7")
        taken: list[tuple[str, str, list[str]]] = []
        while sum(len(lines) for _, _, lines in taken) < 6:
            answer, delivery = receiver.next()
            if answer == 200:
                got = texts(frames(delivery.body))
                assert delivery.headers["logplex-msg-count"] == str(len(got))
                taken.append((delivery.headers["logplex-frame-id"], delivery.headers["logplex-range"], got))
        assert [text for _, _, lines in taken for text in lines] == ["1", "2", "4", "5", "6", "7"]
        assert len({id_ for id_, _, _ in taken}) == len(taken), "each half has an id of its own"
        for _, range_, lines in taken:
            first, last = map(int, range_.partition("/")[2].split("-"))
            assert last - first + 1 == len(lines)
        send("after")
        assert texts(receiver.lines(1)) == ["after"]
        found = status(server, app, made["id"])
    assert found["lost"] == {"permanent": 1}


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_retry_after_is_honoured_and_shown(server: Server, app: str, send: Sender, kind: str) -> None:
    wait = "2" if kind == "seconds" else formatdate(time() + 2.5, usegmt=True)
    with wire.HttpReceiver() as receiver:
        receiver.answers = [(503, {"Retry-After": wait})]
        made = drain(server, app, f"http://127.0.0.1:{receiver.port}/")
        send("x")
        receiver.next()
        started = monotonic()
        assert status(server, app, made["id"])["until"] is not None
        assert receiver.next()[0] == 200
        assert monotonic() - started >= 1.0
        assert status(server, app, made["id"])["lost"] == {}


def test_batches_have_at_most_102_400_bytes_and_stay_in_order(server: Server, app: str, send: Sender) -> None:
    with wire.HttpReceiver() as receiver:
        drain(server, app, f"http://127.0.0.1:{receiver.port}/")
        sent = [f"{n} {'x' * 9000}" for n in range(30)]
        send(*sent)
        got: list[str] = []
        ids = set()
        size = 0
        while len(got) < len(sent):
            _, delivery = receiver.next()
            size = size or len(delivery.body)
            assert len(delivery.body) <= 1024 * 1024
            ids.add(delivery.headers["logplex-frame-id"])
            got += texts(frames(delivery.body))
    assert got == sent
    assert size <= 102_400, "the first; one that is behind may grow"


def test_udp_drains_get_one_message_a_datagram_and_tcp_drains_counted_ones(
    server: Server, app: str, send: Sender
) -> None:
    with ExitStack() as stack:
        udp = stack.enter_context(wire.UdpReceiver())
        made = []
        for scheme in ("syslog+udp", "udpsyslog"):
            made.append(drain(server, app, f"{scheme}://127.0.0.1:{udp.port}"))
        tcps = [stack.enter_context(wire.SyslogReceiver()) for _ in range(3)]
        for scheme, tcp in zip(("syslog", "tcpsyslog", "syslog+tcp"), tcps, strict=True):
            made.append(drain(server, app, f"{scheme}://127.0.0.1:{tcp.port}"))
        send("[a] one", "- two", "")
        expected = {
            each["token"]: [
                b"<190>1 %b %b app web.1 - - %b" % (T, each["token"].encode(), text)
                for text in (b"[a] one", b"- two", b"")
            ]
            for each in made
        }
        datagrams = udp.lines(6)
        for each in made[:2]:
            assert [d.rstrip(b"\n") for d in datagrams if each["token"].encode() in d] == expected[each["token"]]
        for each, tcp in zip(made[2:], tcps, strict=True):
            assert tcp.lines(3) == [message + b"\n" for message in expected[each["token"]]]


def test_every_syslog_drain_gets_its_own_token_whichever_of_them_the_lines_are_kept_for(
    server: Server, app: str, send: Sender
) -> None:
    with wire.SyslogReceiver() as one, wire.SyslogReceiver() as two, wire.SyslogReceiver() as late:
        receivers = {drain(server, app, f"syslog://127.0.0.1:{each.port}")["token"]: each for each in (one, two)}
        tokens = list(receivers)
        sent = ["first", *(f"it says {token}" for token in tokens), "last"]
        send(*sent)
        for token, receiver in receivers.items():
            assert receiver.lines(4) == [_syslog_line(token, text) for text in sent]
        for each in server.json("GET", f"/v3/channels/{app}/drains")["drains"]:
            if each["token"] == tokens[0]:
                server.json("DELETE", f"/v3/channels/{app}/drains/{each['id']}")
        send("more")
        assert two.lines(1) == [_syslog_line(tokens[1], "more")]
        url = f"syslog://127.0.0.1:{late.port}"
        made = server.json("POST", f"/v3/channels/{app}/drains", {"url": url, "options": {"start": "oldest"}})
        assert late.lines(5) == [_syslog_line(made["token"], text) for text in (*sent, "more")]


def _syslog_line(token: str, text: str) -> bytes:
    return b"<190>1 %b %b app web.1 - - %b\n" % (T, token.encode(), text.encode())


def test_a_certificate_for_another_name_is_l14_in_the_app_and_on_the_status(
    server: Server, authority: Authority, app: str, send: Sender
) -> None:
    with (
        wire.SyslogReceiver(authority.server("other.example")) as wrong,
        wire.HttpReceiver() as beside,
        Tail(server, app) as tail,
    ):
        drain(server, app, f"http://127.0.0.1:{beside.port}/")
        made = drain(server, app, f"syslog+tls://127.0.0.1:{wrong.port}")
        send("x")
        with pytest.raises(OSError, match=r"(?i)alert|certificate|closed|reset|EOF"):
            wrong.accept().recv(1)
        lines = tail.until(b'"')
        assert len(lines) == 1
        assert status(server, app, made["id"])["error"]["class"]
        assert status(server, app, made["id"])["delivered"] == 0
        exported = server.request("GET", f"/v3/channels/{app}/logs")[1]
        l14 = next(frame for frame in frames(exported) if b"L14" in frame)
        assert re.fullmatch(
            rb'<188>1 \S+ host heroku logplex - Error L14 \(certificate validation\): error="[^"]+" '
            rb'uri="syslog\+tls://127\.0\.0\.1:%d/?"\n' % wrong.port,
            l14,
        ), l14
        send("y")
        assert b"L14" not in b"".join(beside.lines(2)), "to tails and history, not to drains"


def test_insecure_syslog_tls_takes_any_certificate(
    server: Server, authority: Authority, app: str, send: Sender
) -> None:
    with wire.SyslogReceiver(authority.server("other.example")) as receiver:
        drain(server, app, f"syslog+tls://127.0.0.1:{receiver.port}#insecure")
        send("x")
        assert receiver.lines(1)[0].endswith(b" - - x\n")


def test_the_line_right_behind_the_answer_reaches_a_new_drain(world: tuple[Server, Authority]) -> None:
    server = world[0]
    apps = [f"new-{n}" for n in range(40)]
    with wire.HttpReceiver() as receiver:
        for n, name in enumerate(apps):
            send = Sender(world, name)
            if n % 2:
                drain(server, name, f"http://127.0.0.1:{receiver.port}/")
            else:
                made = server.json("POST", f"/v3/channels/{name}/drains", {})
                url = {"url": f"http://127.0.0.1:{receiver.port}/"}
                server.json("PUT", f"/v3/channels/{name}/drains/{made['id']}", url)
            send(name)
        assert sorted(texts(receiver.lines(len(apps)))) == sorted(apps)


def test_a_drain_is_made_changed_and_deleted_at_once_without_touching_its_neighbour(
    server: Server, app: str, send: Sender
) -> None:
    with wire.HttpReceiver() as first, wire.HttpReceiver() as second, wire.SyslogReceiver() as beside:
        drain(server, app, f"syslog://127.0.0.1:{beside.port}")
        send("before")
        made = drain(server, app, f"http://127.0.0.1:{first.port}/")
        send("one")
        assert texts(first.lines(1)) == ["one"], "from the next line on"
        changed = server.json(
            "PUT", f"/v3/channels/{app}/drains/{made['id']}", {"url": f"http://127.0.0.1:{second.port}/"}
        )
        assert changed["token"] == made["token"]
        send("two")
        assert texts(second.lines(1)) == ["two"]
        server.json("DELETE", f"/v3/channels/{app}/drains/{made['id']}")
        send("three")
        assert [each.split(b" - - ")[1] for each in beside.lines(4)] == [b"before\n", b"one\n", b"two\n", b"three\n"]
        assert second.taken.empty()
        assert first.taken.empty()


FORBIDDEN = [
    "http://10.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://[::ffff:10.0.0.1]/", "https://100.64.0.1/",
    "syslog://192.168.1.1", "syslog+tls://[fe80::1]:6514", "syslog+udp://224.0.0.1", "http://0.0.0.0/", "http://[64:ff9b::a00:1]/",
    "http://[2002:a00:1::]/", "http://203.0.113.1/", "http://0x0a000001/", "http://167772161/",
]  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN)
def test_an_address_that_is_not_public_is_refused_when_the_drain_is_made(server: Server, url: str) -> None:
    server.create("policy")
    code, body = server.request("POST", "/v3/channels/policy/drains", {"url": url})
    assert code == 400, body
    made = server.json("POST", "/channels", {})["channel_id"]
    code, body = server.request("POST", f"/v2/channels/{made}/drains", {"url": url})
    assert code == 422
    assert body.startswith(b'{"error":"Invalid drain destination: '), body


@pytest.mark.parametrize("listener", ["http", "https", "syslog", "syslog_tls", "syslog_udp"])
def test_a_drain_never_dials_the_server_itself(server: Server, listener: str) -> None:
    server.create("policy")
    scheme = {"syslog_tls": "syslog+tls", "syslog_udp": "syslog+udp"}.get(listener, listener)
    code, body = server.request(
        "POST", "/v3/channels/policy/drains", {"url": f"{scheme}://{server.addresses[listener]}"}
    )
    assert code == 400, body


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a/", "http://", "http:///x", "http://a:0/", "http://a:99999/", "http://a b/", "http://a/\n", "syslog://",
     "http://a\r\nX: y/", "syslog://h:0", 7, ["http://a/"]],
)  # fmt: skip
def test_what_is_no_url_of_a_drain_is_refused(server: Server, url: Any) -> None:
    server.create("policy")
    code, body = server.request("POST", "/v3/channels/policy/drains", {"url": url})
    assert code == 400, body


def test_a_drain_that_lost_lines_is_told_so_first_with_the_exact_count(tmp_path: Path) -> None:
    small = ("--durability", "none", "--spool-bytes", "0", "--ring-lines", "20", "--history-lines", "20")
    with wire.running(tmp_path, *small) as world, wire.HttpReceiver() as receiver:
        server = world[0]
        send = Sender(world, "shop")
        receiver.answers = [(503, {"Retry-After": "1"})]
        made = drain(server, "shop", f"http://127.0.0.1:{receiver.port}/")
        send("first")
        assert receiver.next()[0] == 503
        for n in range(10):
            send(*[f"{n}.{m}" for m in range(10)])
        lines: list[bytes] = []
        ranges: list[str] = []
        while not lines or not lines[-1].endswith(b"9.9\n"):
            answer, delivery = receiver.next()
            assert answer == 200
            lines += frames(delivery.body)
            ranges.append(delivery.headers["logplex-range"])
            assert delivery.headers["logplex-msg-count"] == str(len(frames(delivery.body)))
        found = status(server, "shop", made["id"])
        told = [each for each in lines if b"L10" in each]
        assert told == lines[:1], "first, and once"
        match = re.fullmatch(
            rb"<172>1 \S+ host heroku logplex - Error L10 \(output buffer overflow\): (\d+) messages dropped since "
            rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\.\n",
            told[0],
        )
        assert match, told
        assert found["lost"] == {"overrun": int(match[1])}
        assert ranges[0].partition("/")[2].startswith(f"{match[1].decode()}-"), "all positions before it"
        assert int(match[1]) >= 101 - 20
