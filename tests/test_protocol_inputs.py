"""Every form and framing of a message, through every input of the real server, as every output shows it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from . import wire
from .conftest import Server
from .wire import Authority, Inputs, T, Tail, basic, counted, drain


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Authority]]:
    with wire.running(tmp_path_factory.mktemp("inputs")) as made:
        yield made


@pytest.fixture
def server(world: tuple[Server, Authority]) -> Server:
    return world[0]


@pytest.fixture
def authority(world: tuple[Server, Authority]) -> Authority:
    return world[1]


@pytest.fixture
def inputs(world: tuple[Server, Authority]) -> Inputs:
    return Inputs(*world)


@pytest.fixture
def app(request: pytest.FixtureRequest) -> str:
    """An app of this test's own."""
    return "app-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-100:]


# What follows `<13>1 T ` of a message, and what plain text, HTTP drains and syslog drains show behind T.
# @ stands for the token. A text of None is the one before.
FORMS: list[tuple[bytes, bytes, bytes | None]] = [
    (b"h @ web.1 - - plain", b"app[web.1]: plain", None),
    (b'h @ web.1 - [timeQuality tzKnown="1" isSynced="0"] sd', b"app[web.1]: sd", None),
    (b'h @ web.1 ID7 [meta sequenceId="1"][x@1 a="q\\"\\\\\\]"] esc', b"app[web.1]: esc", None),
    (b"h @ web.1 - dialect", b"app[web.1]: dialect", None),
    (b'h @ web.1 - - [a b="c"] kept', b'app[web.1]: [a b="c"] kept', None),
    (b'h @ web.1 - [a b="c"] [d e="f"] kept', b'app[web.1]: [d e="f"] kept', None),
    (b"h @ web.1 - - - kept", b"app[web.1]: - kept", None),
    (b"h @ web.1 - - -kept", b"app[web.1]: -kept", None),
    (b"h @ web.1 - [GIN] 200", b"app[web.1]: [GIN] 200", None),
    (b"h @ web.1 - - \xef\xbb\xbfbom", b"app[web.1]: \xef\xbb\xbfbom", None),
    (b"h @ web.1 - - \xff\xc3( utf", b"app[web.1]: \xff\xc3( utf", "app web.1 - \ufffd\ufffd( utf".encode()),
    (b"h @ web.1 - -", b"app[web.1]: ", None),
    (b"h @ web.1 - - ", b"app[web.1]: ", None),
    (b"h @ - - - no process", b"app: no process", b"app - - no process"),
    (b"- @ web.1 - - no host", b"app[web.1]: no host", None),
    (b"h @ web.1 - - the token @ stays in a text", b"app[web.1]: the token @ stays in a text", None),
    (b"h\x01\xc3 @ w\xffb\x7f - - odd fields", b"app[w_b_]: odd fields", b"app w_b_ - odd fields"),
    (b"h" * 300 + b" @ " + b"p" * 200 + b" - - x", b"app[" + b"p" * 128 + b"]: x", b"app " + b"p" * 128 + b" - x"),
    (b"h @ web.1 - -  two spaces ", b"app[web.1]:  two spaces ", None),
]  # fmt: skip
# Only a counted frame or a datagram can hold these.
WHOLE: list[tuple[bytes, bytes, bytes | None]] = [
    (b"h @ web.1 - - a\nb\r\n\nc", b"app[web.1]: a\nb\r\n\nc", b"app web.1 - a b c"),
    (b"h @ web.1 - - nul\0inside", b"app[web.1]: nul\0inside", None),
    (b"h @ web.1 - - ends\r\n\0\n\n", b"app[web.1]: ends", None),
    (b"h @ web.1 - - bare\rcr", b"app[web.1]: bare\rcr", b"app web.1 - bare cr"),
]


def cases(token: str, *, whole: bool) -> tuple[list[bytes], bytes, list[bytes]]:
    """The messages, what a plain tail shows of them, and what HTTP drains get behind the host."""
    named = token.encode()
    sent, plain, http = [], b"", []
    for message, shown, delivered in FORMS + (WHOLE if whole else []):
        sent.append(b"<13>1 %b " % T + message.replace(b"@", named))
        plain += T + b" " + shown.replace(b"@", named) + b"\n"
        text = delivered or b"app web.1 - " + shown.partition(b": ")[2]
        http.append(text.replace(b"@", named) + b"\n")
    return sent, plain, http


@pytest.mark.parametrize(
    "way", ["basic", "bearer", "credential", "https", "chunked", "gzip", "tcp", "lf", "nul", "tls", "udp"]
)
def test_every_form_of_a_message_is_shown_alike_whatever_way_it_came(
    server: Server, authority: Authority, inputs: Inputs, app: str, way: str
) -> None:
    token = server.create(app)["app"]
    sent, plain, http = cases(token, whole=way not in ("lf", "nul"))
    with ExitStack() as stack:
        requests = stack.enter_context(wire.HttpReceiver())
        secure = stack.enter_context(wire.SyslogReceiver(authority.server()))
        drain(server, app, f"http://127.0.0.1:{requests.port}/")
        name = drain(server, app, f"syslog+tls://127.0.0.1:{secure.port}")["token"].encode()
        tail = stack.enter_context(Tail(server, app))
        match way:
            case "tcp":
                inputs.stream("syslog", counted(*sent))
            case "lf":
                inputs.stream("syslog", b"".join(message + b"\n" for message in sent))
            case "nul":
                inputs.stream("syslog", b"".join(message + b"\0" for message in sent))
            case "tls":
                inputs.stream("syslog_tls", counted(*sent))
            case "udp":
                inputs.datagrams(*sent)
            case _:
                authorization = {"bearer": f"Bearer {token}", "credential": server.authorization}.get(
                    way, basic("token", token)
                )
                encoding = {"Content_Encoding": "gzip"} if way == "gzip" else {}
                answer = inputs.post(
                    counted(*sent), authorization, tls=way == "https", chunked=way == "chunked",
                    Logplex_Msg_Count=str(len(sent)), **encoding,
                )  # fmt: skip
                assert (answer.status, answer.body) == (204, b"")
        shown = b"".join(tail.read(plain.count(b"\n")))
        assert shown == plain
        assert requests.lines(len(sent)) == [b"<13>1 %b host " % T + text for text in http]
        texts = [line[len(T) + 1 :] for line in re.split(rb"\n(?=%b)" % re.escape(T), shown[:-1])]
        assert secure.lines(len(sent)) == [
            b"<13>1 %b %b app %b - - %b\n" % (T, name, each.split(b" ")[1], text.partition(b": ")[2])
            for each, text in zip(http, texts, strict=True)
        ]
        export = counted(*[b"<13>1 %b host " % T + text for text in http])
        assert server.request("GET", f"/v3/channels/{app}/logs")[1] == export


TIMES = [
    (b"2026-01-02T03:04:05Z", b"2026-01-02T03:04:05Z"),
    (b"2026-01-02T03:04:05+00:00", b"2026-01-02T03:04:05+00:00"),
    (b"2026-01-02T03:04:05.1Z+00:00", b"2026-01-02T03:04:05.1+00:00"),
    (b"2026-01-02T03:04:05.123456789-03:30", b"2026-01-02T03:04:05.123456-03:30"),
    (b"2026-01-02T03:04:60Z", None),
    (b"2026-02-30T03:04:05Z", None),
    (b"yesterday", None),
]


def test_a_time_passes_unchanged_to_readers_and_reaches_drains_as_rfc_3339(
    server: Server, inputs: Inputs, app: str
) -> None:
    token = server.create(app)["app"]
    sent = [b"<13>1 %b h %b web.1 - - x" % (time, token.encode()) for time, _ in TIMES]
    before = datetime.now(UTC).replace(microsecond=0)
    with (
        wire.HttpReceiver() as http,
        wire.SyslogReceiver() as tcp,
        wire.UdpReceiver() as udp,
        Tail(server, app) as tail,
    ):
        drain(server, app, f"http://127.0.0.1:{http.port}/")
        drain(server, app, f"syslog://127.0.0.1:{tcp.port}")
        drain(server, app, f"syslog+udp://127.0.0.1:{udp.port}")
        inputs.stream("syslog", counted(*sent))
        assert [line.split(b" ")[0] for line in tail.read(len(sent))] == [time for time, _ in TIMES]
        for receiver in (http, tcp, udp):
            got = [line.split(b" ")[1] for line in receiver.lines(len(sent))]
            for time, (_, expected) in zip(got, TIMES, strict=True):
                if expected is None:
                    assert before <= datetime.fromisoformat(time.decode()) <= datetime.now(UTC)
                else:
                    assert time == expected


def test_a_nil_time_is_the_time_of_receipt(server: Server, inputs: Inputs, app: str) -> None:
    token = server.create(app)["app"]
    before = datetime.now(UTC).replace(microsecond=0)
    with Tail(server, app) as tail:
        inputs.datagrams(b"<13>1 - - %b - - - now" % token.encode())
        (line,) = tail.read(1)
    time, _, rest = line.partition(b" ")
    assert rest == b"app: now\n"
    assert before <= datetime.fromisoformat(time.decode()) <= datetime.now(UTC)


def test_one_connection_may_mix_all_framings_and_survives_rubbish_between_them(
    server: Server, inputs: Inputs, app: str
) -> None:
    token = server.create(app)["app"]

    def message(text: bytes) -> bytes:
        return b"<13>1 %b h %b web.1 - - %b" % (T, token.encode(), text)

    before = wire.ledger(server)["malformed"]
    data = (
        counted(message(b"1"), message(b"2\n"))
        + message(b"3\n")
        + message(b"4\0")
        + counted(message(b"5"))
        + message(b"6\r\n")
        + b"rubbish without framing\n"  # resynchronised at its LF
        + message(b"7\n")
        + b"70000 over the limit\n"
        + counted(message(b"8"))
        + b"<13>no syslog\n"
        + message(b"9 unterminated")
    )
    with Tail(server, app) as tail:
        inputs.stream("syslog", *[data[at : at + 1] for at in range(len(data))])
        got = [line.partition(b": ")[2] for line in tail.read(9)]
    assert got == [b"%d\n" % n for n in range(1, 9)] + [b"9 unterminated\n"]
    assert wire.ledger(server)["malformed"] - before == 3


@pytest.mark.parametrize("listener", ["syslog", "syslog_tls"])
def test_a_counted_frame_that_the_end_cuts_off_is_malformed(server: Server, inputs: Inputs, listener: str) -> None:
    token = server.create("cut")["app"]
    message = b"<13>1 %b h %b web.1 - - whole" % (T, token.encode())
    before = wire.ledger(server)["malformed"]
    with Tail(server, "cut") as tail:
        inputs.stream(listener, counted(message) + b"%d %b" % (len(message) + 1, message))
        inputs.stream(listener, counted(message[:-5] + b"next"))
        assert [line.partition(b": ")[2] for line in tail.read(2)] == [b"whole\n", b"next\n"]
    assert wire.ledger(server)["malformed"] - before == 1


def test_a_half_closed_connection_is_read_to_its_end_and_then_closed(server: Server, inputs: Inputs, app: str) -> None:
    token = server.create(app)["app"]
    with Tail(server, app) as tail, inputs.connect("syslog") as connection:
        connection.sendall(b"<13>1 %b h %b web.1 - - the end" % (T, token.encode()))
        connection.shutdown(1)
        assert connection.recv(1) == b"", "closed by the server"
        assert tail.read(1) == [T + b" app[web.1]: the end\n"]


LEGACY = [
    (b"<34>Oct 11 22:14:15 mymachine su[77]: 'su root' failed", b"app[su.77]: 'su root' failed"),
    (b"<34>Oct  1 22:14:15 cron: no host", b"app[cron]: no host"),
]
RUBBISH = [
    b"no syslog at all",
    b"<192>1 - - - - - - x",
    b"<013>1 - - - - - - x",
    b"<13>2 - - - - - - x",
    b"<13>1 - - -",
    b"\xff\xfe",
]


def test_with_a_named_token_rfc_3164_is_read_and_what_is_no_syslog_is_kept(
    server: Server, inputs: Inputs, app: str
) -> None:
    token = server.create(app)["app"]
    body = counted(*[message for message, _ in LEGACY], *RUBBISH)
    with wire.HttpReceiver() as http, Tail(server, app) as tail:
        drain(server, app, f"http://127.0.0.1:{http.port}/")
        assert inputs.post(body, basic("token", token)).status == 204
        lines = tail.read(len(LEGACY) + len(RUBBISH))
        delivered = http.lines(len(lines))
    assert [line.partition(b" ")[2] for line in lines] == [shown + b"\n" for _, shown in LEGACY] + [
        b"app: " + raw + b"\n" for raw in RUBBISH
    ]
    assert re.fullmatch(rb"\d{4}-10-11T22:14:15\+00:00", lines[0].split(b" ")[0])
    assert [frame[:4] for frame in delivered] == [b"<34>"] * 2 + [b"<13>"] * len(RUBBISH)
    assert [frame.split(b" ", 2)[2] for frame in delivered[2:4]] == [
        b"host app - - no syslog at all\n", b"host app - - <192>1 - - - - - - x\n"
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["credential", "tcp", "udp"])
def test_without_a_named_token_what_is_no_syslog_is_dropped_and_counted(
    server: Server, inputs: Inputs, app: str, way: str
) -> None:
    token = server.create(app)["app"]
    good = b"<13>1 %b h %b web.1 - - good" % (T, token.encode())
    unknown = b"<13>1 %b h t.00000000-0000-4000-8000-000000000000 web.1 - - lost" % T
    sent = [*RUBBISH, unknown, good]
    before = wire.ledger(server)
    with Tail(server, app) as tail:
        if way == "credential":
            assert inputs.post(counted(*sent), server.authorization).status == 204
        elif way == "tcp":
            inputs.stream("syslog", counted(*sent))
        else:
            inputs.datagrams(*sent)
        assert tail.read(1) == [T + b" app[web.1]: good\n"]
    after = wire.ledger(server)
    assert after["malformed"] - before["malformed"] == len(RUBBISH)
    assert after["unknown_token"] - before["unknown_token"] == 1
    assert after["frames"] - before["frames"] == len(sent)


def test_a_message_over_10_000_bytes_comes_out_in_pieces_and_whole(server: Server, inputs: Inputs, app: str) -> None:
    token = server.create(app)["app"]
    text = ("ä€𝄞x" * 3000).encode() + b"\xff" * 5000
    with wire.HttpReceiver() as http, wire.SyslogReceiver() as tcp:
        drain(server, app, f"http://127.0.0.1:{http.port}/")
        drain(server, app, f"syslog://127.0.0.1:{tcp.port}")
        body = counted(b"<13>1 %b h %b %b - - %b" % (T, token.encode(), b"p" * 128, text))
        assert inputs.post(body, basic("token", token), Logplex_Msg_Count="1").status == 204, (
            "counted before the split"
        )
        found = wire.page(server, app)["received"]
        raw = [line.split(b" ", 7)[7][:-1] for line in tcp.lines(found)]
        delivered = http.lines(found)
    assert found >= 5
    assert b"".join(raw) == text
    assert all(len(frame) <= 10_240 for frame in delivered), "promtail's limit"
    pieces = [frame.split(b" ", 6)[6][:-1] for frame in delivered]
    assert all(len(piece) <= 10_000 for piece in pieces)
    assert b"".join(pieces) == text.decode(errors="replace").encode(), "no sequence is broken"


# Requests


REFUSED = [
    ("framing is broken", b"5 <13>1 x\n3 ab", {}, 400, b"Malformed log messages"),
    ("a line feed between frames", b"1 a\n1 b", {}, 400, b"Malformed log messages"),
    ("no count", b"<13>1 - h t - - - x\n", {}, 400, b"Malformed log messages"),
    ("a count over the limit", b"65537 " + b"x" * 65_537, {}, 400, b"Malformed log messages"),
    ("a leading zero", b"01 a", {}, 400, b"Malformed log messages"),
    ("malformed wins over the count", b"9 a", {"Logplex_Msg_Count": "7"}, 400, b"Malformed log messages"),
    ("another count", b"1 a", {"Logplex_Msg_Count": "2"}, 400, b"Message count mismatch"),
    ("a count that is no number", b"1 a", {"Logplex_Msg_Count": "one"}, 400, b"Message count mismatch"),
    ("a type of another kind", b"1 a", {"Content_Type": "text/plain"}, 415, None),
    ("an unknown encoding", b"1 a", {"Content_Encoding": "br"}, 415, None),
    ("too large", b"x" * (10 * 1024 * 1024 + 1), {}, 413, None),
    ("a bomb", b"\0" * (11 * 1024 * 1024), {"Content_Encoding": "gzip"}, 413, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers", "code", "text"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_of_a_refused_request_nothing_is_accepted(
    server: Server, inputs: Inputs, body: bytes, headers: dict[str, Any], code: int, text: bytes | None
) -> None:
    token = server.create("refused")["app"]
    whole = body if code in (413, 415) else b"4 good" + body
    if "Logplex_Msg_Count" in headers and headers["Logplex_Msg_Count"].isdigit():
        headers = {"Logplex_Msg_Count": "5"}
    answer = inputs.post(whole, basic("token", token), **headers)
    assert answer.status == code
    if text is not None:
        assert answer.body.strip() == text
    assert server.read("refused") == []


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", 401),
        (basic("token", "t.00000000-0000-4000-8000-000000000000"), 401),
        ("Bearer t.00000000-0000-4000-8000-000000000000", 401),
        ("Basic %%%", 401),
        ("Basic", 401),
        ("Digest x", 401),
        (basic("nobody", "x"), 401),
    ],
)
def test_who_is_unknown_is_401_with_the_realm(server: Server, inputs: Inputs, authorization: str, code: int) -> None:
    answer = inputs.post(b"1 a", authorization)
    assert answer.status == code
    assert answer.headers["www-authenticate"] == "Basic realm=Logplex"


def test_a_credential_writes_where_it_may_and_log_shuttle_is_known_by_its_token_as_password(
    server: Server, inputs: Inputs
) -> None:
    mine, other = server.create("mine")["app"], server.create("other")["app"]
    one = server.json("POST", "/v3/credentials", {"permissions": ["channel:mine"]})
    reader = server.json("POST", "/v3/credentials", {"permissions": ["app:mine"]})
    body = counted(*[b"<13>1 %b h %b web.1 - - to %b" % (T, to.encode(), to[:4].encode()) for to in (mine, other)])
    assert inputs.post(body, basic(one["id"], one["password"])).status == 204
    assert len(server.read("mine")) == 1
    assert server.read("other") == []
    assert inputs.post(body, f"Bearer {one['id']}:{one['password']}").status == 204, "the same as a bearer key"
    assert len(server.read("mine")) == 2
    assert inputs.post(body, basic(reader["id"], reader["password"])).status == 403
    assert inputs.post(body, basic("token", other)).status == 204
    assert len(server.read("other")) == 2, "whatever their APP-NAME says"


def test_a_repeated_request_is_stored_once_and_the_shippers_own_losses_do_not_make_it_another(
    server: Server, inputs: Inputs, app: str
) -> None:
    tokens = server.create(app, "app", "web")
    mine, other = basic("token", tokens["app"]), basic("token", tokens["web"])

    def body(text: bytes, *first: bytes) -> bytes:
        return counted(*first, b"<13>1 %b h t web.1 - - %b" % (T, text))

    def l12(count: int) -> bytes:
        return b"<172>1 %b heroku t log-shuttle - - Error L12: %d messages dropped since %b\n" % (T, count, T)

    ids: dict[str, Any] = {"X_Request_Id": "r"}
    for sent, authorization, headers, stored in [
        (body(b"a"), mine, ids, 1),
        (body(b"a"), mine, ids, 1),  # the same again
        (body(b"a", l12(3)), mine, ids, 1),  # rendered anew on the retry
        (body(b"b"), mine, ids, 2),  # another body
        (body(b"a"), other, ids, 3),  # another principal
        (body(b"a"), mine, {"X_Request_Id": ""}, 4),  # an empty id is none
        (body(b"a"), mine, {"X_Request_Id": ""}, 5),
        (body(b"a"), mine, {"X_Request_Id": "r", "Logplex_Frame_Id": "f"}, 6),  # the frame id wins
        (body(b"a"), mine, {"X_Request_Id": "q", "Logplex_Frame_Id": "f"}, 6),
        (body(b"b"), mine, {"X_Request_Id": "r", "Content_Encoding": "gzip"}, 6),  # as inflated
    ]:
        assert inputs.post(sent, authorization, **headers).status == 204
        assert wire.page(server, app)["received"] == stored
    assert inputs.post(body(b"z", l12(1)), mine, Logplex_Drop_Count="8", Logplex_Lost_Count="2").status == 204
    found = wire.page(server, app)
    assert (found["shipper_dropped"], found["shipper_lost"]) == (8, 2)


def test_what_one_of_our_drains_sent_is_refused_as_a_loop(server: Server, inputs: Inputs, app: str) -> None:
    token = server.create(app)["app"]
    reserved = server.json("POST", f"/v3/channels/{app}/drains", {})["token"]
    answer = inputs.post(b"1 a", basic("token", token), Logplex_Drain_Token=reserved)
    assert (answer.status, answer.body.strip()) == (403, b"loop")
    foreign = "d.00000000-0000-4000-8000-000000000000"
    assert inputs.post(b"1 a", basic("token", token), Logplex_Drain_Token=foreign).status == 204
    messages = [b"<13>1 %b %b %b web.1 - - x" % (T, host.encode(), token.encode()) for host in (reserved, foreign)]
    with Tail(server, app) as tail:
        inputs.stream("syslog", counted(*messages))
        tail.read(1)
    assert wire.page(server, app)["dropped"] == {"loop": 1}


def test_while_ingress_is_denied_the_answer_is_503(server: Server, inputs: Inputs) -> None:
    token = server.create("denied")["app"]
    server.json("PUT", "/v3/status", {"ingress": False})
    assert inputs.post(b"1 a", basic("token", token)).status == 503
    server.json("PUT", "/v3/status", {"ingress": True})
    assert inputs.post(b"1 a", basic("token", token)).status == 204
