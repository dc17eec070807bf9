"""What no client should send, to the real server: each gets its answer and is counted, and nobody else notices."""

import base64
import gzip
import json
import re
import resource
import socket
import ssl
import zlib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from . import wire
from .conftest import Server
from .wire import Inputs, T, Tail, basic, counted

MB = 1024 * 1024
MANY = 10_000  # connections at once, as far as the limit of open files lets us


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Inputs]]:
    path = tmp_path_factory.mktemp("bad")
    options = ("--header-seconds", "1", "--body-bytes-per-second", "1000000", "--count-mismatch", "lenient")
    with wire.running(path, *options) as (server, authority):
        yield server, Inputs(server, authority)


@pytest.fixture
def server(world: tuple[Server, Inputs]) -> Server:
    return world[0]


@pytest.fixture
def inputs(world: tuple[Server, Inputs]) -> Inputs:
    return world[1]


@pytest.fixture(autouse=True)
def neighbour(world: tuple[Server, Inputs], request: pytest.FixtureRequest) -> Iterator[None]:
    """A connection, a tail and a drain beside all that goes on: before and after it a line passes."""
    server, inputs = world
    name = "beside-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-80:]
    token = server.create(name)["app"].encode()
    with wire.SyslogReceiver() as receiver, Tail(server, name) as tail, inputs.connect("syslog") as connection:
        wire.drain(server, name, f"syslog://127.0.0.1:{receiver.port}")
        for text in (b"before", b"after"):
            connection.sendall(counted(b"<13>1 %b h %b web.1 - - %b" % (T, token, text)))
            assert tail.read(1) == [T + b" app[web.1]: %b\n" % text]
            assert receiver.lines(1)[0].endswith(b" %b\n" % text)
            if text == b"before":
                yield


def memory(server: Server) -> int:
    """Resident bytes of the server."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def exchange(server: Server, data: bytes, *, end: bool = False) -> bytes:
    """Send raw bytes to the HTTP listener, and read to its end (or its idle silence after an answer)."""
    with socket.create_connection(server.http, wire.WAIT_SECONDS) as connection:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        taken = b""
        try:
            while piece := connection.recv(65536):
                taken += piece
        except ConnectionResetError:
            pass
        return taken


def code(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def refused(server: Server) -> dict[str, int]:
    found: dict[str, int] = wire.ledger(server)["requests_refused"]
    return found


HEAD = b"POST /logs HTTP/1.1\r\nHost: a\r\nContent-Type: application/logplex-1\r\n"
BROKEN = {
    "no HTTP at all": (b"hello\r\n\r\n", {400, 501}),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50, {400, 501}),
    "NULs": (b"\0" * 100, {400, 501}),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", {400}),
    "a bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", {400}),
    "no host": (b"GET /healthcheck HTTP/1.1\r\n\r\n", {400}),
    "two hosts": (b"GET /healthcheck HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", {400}),
    "length and chunks": (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
    "an endless length": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", {400, 413}),
    "a bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\nAuthorization: Bearer %T\r\n\r\nzz\r\n", {400}),
    "another coding": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", {400}),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", {400}),
    "an underscore twin": (HEAD + b"Content_Length: 5\r\nContent-Length: 0\r\n\r\n", {400}),
    "another version": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", {400, 505}),
    "an unknown method": (b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", {400, 501}),
    "a long target": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {414, 431}),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", {431}),
    "a long chunk extension": (
        HEAD + b"Authorization: Bearer %T\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * MB, {400, 413, 431}),
    "long trailers": (
        HEAD + b"Authorization: Bearer %T\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000,
        {400, 413, 431}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_request_is_refused_closed_and_counted(server: Server, name: str) -> None:
    data, codes = BROKEN[name]
    token = server.create("broken")["app"].encode()
    before = sum(refused(server).values())
    answer = exchange(server, data.replace(b"%T", token))
    assert code(answer) in codes
    assert b"onnection: close" in answer
    assert sum(refused(server).values()) == before + 1


def test_a_header_line_of_10_mb_is_431_and_costs_no_memory(server: Server) -> None:
    before = memory(server)
    for _ in range(5):
        assert code(exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 10 * MB)) == 431
    assert memory(server) - before < 8 * MB


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413_without_being_read_to_its_end(server: Server, chunked: bool) -> None:
    token = server.create("large")["app"].encode()
    head = HEAD + b"Authorization: Bearer %b\r\n" % token
    before = memory(server)
    if chunked:
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (MB, b"x" * MB) * 40
    else:
        data = head + b"Content-Length: %d\r\n\r\n" % (4 << 30) + b"x" * MB
    assert code(exchange(server, data)) == 413
    assert memory(server) - before < 40 * MB


def test_bodies_that_are_cut_off_or_refused_leave_no_memory_behind(server: Server, inputs: Inputs) -> None:
    token = server.create("cut")["app"]
    head = HEAD + b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (token.encode(), 10 * MB)
    before = memory(server)
    for _ in range(15):
        assert exchange(server, head + b"x" * 9 * MB, end=True) == b""
        assert memory(server) - before < 40 * MB
    for _ in range(15):
        assert inputs.post(b"1 a" * 1000 + b"x" * 9 * MB, basic("token", token)).status == 400
        assert memory(server) - before < 40 * MB
    assert server.read("cut") == []


def test_a_bomb_is_413_in_bounded_time_and_memory(server: Server, inputs: Inputs) -> None:
    token = server.create("bomb")["app"]
    member = zlib.compressobj(9, wbits=31)
    small = b"".join(member.compress(b"\0" * MB) for _ in range(1000)) + member.flush()  # 1 GB in 1 MB
    nested = gzip.compress(small)
    before, started = memory(server), monotonic()
    headers = {"Authorization": f"Bearer {token}", "Content_Type": "application/logplex-1"}
    for bomb, expected in ((small, 413), (nested, 400), (small[:-1000], 413)):
        assert server.request("POST", "/logs", bomb, Content_Encoding="gzip", **headers)[0] == expected
    assert monotonic() - started < 5.0
    assert memory(server) - before < 64 * MB
    for broken in (b"no gzip", small[:5], gzip.compress(b"1 a")[:-1], gzip.compress(b"1 a") + b"x"):
        assert server.request("POST", "/logs", broken, Content_Encoding="gzip", **headers)[0] == 400


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[" * 60_000, 400),
        (b'{"a":' * 12_000, 400),
        (b'{"tokens":' + b"[" * 500 + b"]" * 500 + b"}", 400),
        (b'{"tokens":[' + b'"a",' * 17_000 + b'"a"]}', 413),
        (b"{" + b" " * (64 * 1024) + b"}", 413),
        (b'{"tokens":["\xff"]}', 400),
        (b'{"tokens":["\\ud800"]}', 400),
        (b'{"tokens":["\\u0000"]}', 400),
        (b'{"tokens":[1e999]}', 400),
        (b"1" * 5000, 400),
        (b"NaN", 400),
        (b'{"tokens":["a"],"tokens":7}', 400),
        (b"", 400),
    ],
)
def test_bad_json_is_refused(server: Server, body: bytes, expected: int) -> None:
    started = monotonic()
    assert server.request("PUT", "/v3/channels/json", body, Content_Type="application/json")[0] == expected
    assert monotonic() - started < 2.0
    assert server.request("GET", "/v3/channels/json")[0] == 404


def test_a_slow_header_is_408_and_a_silent_connection_is_closed(server: Server) -> None:
    before = refused(server).get("http_slow_header", 0)
    with (
        socket.create_connection(server.http, wire.WAIT_SECONDS) as slow,
        socket.create_connection(server.http, wire.WAIT_SECONDS) as silent,
    ):
        slow.sendall(b"GET / HTTP/1.1\r\nHo")
        answer = b""
        while piece := slow.recv(4096):
            answer += piece
        assert code(answer) == 408
        assert silent.recv(4096) == b""
    assert refused(server)["http_slow_header"] == before + 1


def test_every_byte_and_every_field_that_is_rubbish_passes_or_is_counted(server: Server, inputs: Inputs) -> None:
    """Whatever a frame holds, each is shown or counted, on a stream, in a body and as a datagram."""
    token = server.create("rubbish")["app"].encode()
    whole = b"<13>1 %b h %b web.1 - - text" % (T, token)
    sent = [
        whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(0, len(whole), 3) for byte in (0, 10, 13, 32, 255)
    ]
    for listener in ("syslog", "syslog_tls"):
        before, page = wire.ledger(server), wire.page(server, "rubbish")
        inputs.stream(listener, counted(*sent))
        after = wire.ledger(server)
        assert after["frames"] - before["frames"] == len(sent)
        kinds = sum(after[kind] - before[kind] for kind in ("received", "malformed", "unknown_token"))
        assert kinds == len(sent)
        assert wire.page(server, "rubbish")["received"] - page["received"] == after["received"] - before["received"]
    before = wire.ledger(server)
    assert inputs.post(counted(*sent), basic("token", token.decode())).status == 204
    assert wire.ledger(server)["received"] - before["received"] == len(sent), "the token is known: nothing is dropped"


def test_rubbish_on_a_stream_costs_its_own_connection_at_most(server: Server, inputs: Inputs) -> None:
    before, malformed = memory(server), wire.ledger(server)["malformed"]
    for rubbish in (
        b"\0" * MB,
        b"\xff" * MB,
        b"9" * MB,
        b"<" * MB,
        b"99999999999 " * 1000,
        b"65536 " + b"x" * 1000,
        b"\n" * MB,
    ):
        with inputs.connect("syslog") as connection:
            try:
                connection.sendall(rubbish)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
            except ConnectionError:
                pass  # closed before it had sent all
    assert wire.ledger(server)["malformed"] > malformed
    assert memory(server) - before < 16 * MB


def test_tls_listeners_survive_those_who_do_not_speak_it(server: Server, inputs: Inputs) -> None:
    for listener in ("syslog_tls", "https"):
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, b""):
            with socket.create_connection(server.address(listener), wire.WAIT_SECONDS) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
    token = server.create("tls")["app"]
    assert inputs.post(b"1 a", basic("token", token), tls=True).status == 204
    context = ssl.create_default_context()
    with socket.create_connection(server.address("https"), wire.WAIT_SECONDS) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("listener", ["http", "syslog"])
def test_ten_thousand_silent_connections_disturb_nobody(server: Server, inputs: Inputs, listener: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(MANY, hard - 500)
    token = server.create("crowd")["app"]
    before = memory(server)
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            held.append(socket.create_connection(server.address(listener), wire.WAIT_SECONDS))
        with Tail(server, "crowd") as tail:
            inputs.stream("syslog", counted(b"<13>1 %b h %b web.1 - - hi" % (T, token.encode())))
            assert inputs.post(counted(b"<13>1 %b h x web.1 - - ho" % T), basic("token", token)).status == 204
            assert sorted(line[-3:] for line in tail.read(2)) == [b"hi\n", b"ho\n"]
        assert memory(server) - before < count * 20_000
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_log_ins_that_fail_too_often_are_429_and_who_was_verified_goes_on(server: Server, inputs: Inputs) -> None:
    made = server.json("POST", "/v3/credentials", {"permissions": ["any_channel"], "password": "chosen-by-a-person"})
    good = basic(made["id"], "chosen-by-a-person")
    assert inputs.post(b"", good).status == 204
    answers = [inputs.post(b"", basic(made["id"], f"guess {n}")) for n in range(40)]
    assert {answer.status for answer in answers} == {401, 429}
    assert answers[0].status == 401
    assert int(answers[-1].headers["retry-after"]) > 0
    assert inputs.post(b"", good).status == 204


@pytest.mark.parametrize(
    ("headers", "expected"),
    [({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Sec_Fetch_Site": "cross-site"}, 403)],
)
def test_a_foreign_page_changes_nothing(server: Server, headers: dict[str, str], expected: int) -> None:
    assert server.request("PUT", "/v3/channels/foreign", {}, **headers)[0] == expected
    assert server.request("GET", "/v3/channels/foreign")[0] == 404


def test_a_wrong_count_is_accepted_and_counted_where_the_operator_says_so(server: Server, inputs: Inputs) -> None:
    token = server.create("lenient")["app"]
    before = wire.ledger(server)["count_mismatches"]
    body = counted(b"<13>1 %b h x web.1 - - a" % T)
    assert inputs.post(body, basic("token", token), Logplex_Msg_Count="7").status == 204
    assert len(server.read("lenient")) == 1
    assert wire.ledger(server)["count_mismatches"] == before + 1


def test_no_secret_is_in_the_log_and_nothing_crashed(server: Server) -> None:
    log = "".join(json.dumps(event) for event in server.events) + "".join(server.other_output)
    assert "Traceback" not in log
    assert not [event for event in server.events if event["level"] in ("error", "critical")]
    assert not re.findall(r"\b[td]\.[0-9a-f]{8}-[0-9a-f]{4}-", log)
    assert server.admin[1] not in log
    assert base64.b64encode(":".join(server.admin).encode()).decode() not in log
