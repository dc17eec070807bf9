"""Real programs take what drains deliver: every line once, in order, with every field where it belongs.

rsyslog and syslog-ng over TCP, TLS with a verified certificate, and UDP; nginx over HTTPS. The drain token stands in
HOSTNAME, the source in APP-NAME; a message that begins like structured data, or with a hyphen, keeps its beginning.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Server
from ..ports import free_port
from .lines import follow, numbered, post, received
from .programs import (
    accepts,
    binds_datagrams,
    certificates,
    needed,
    nginx,
    running,
    start_rsyslog,
    start_syslog_ng,
)

COUNT = 1000
FEW = 200  # over UDP, where nobody waits for a slow receiver

RSYSLOG = """
global(workDirectory="{work}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off"
  defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")
{module}
template(name="j" type="list" option.jsonf="on") {{
  property(outname="pri" name="pri" format="jsonf") property(outname="host" name="hostname" format="jsonf")
  property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="source" name="app-name" format="jsonf") property(outname="process" name="procid" format="jsonf")
  property(outname="msgid" name="msgid" format="jsonf") property(outname="sd" name="structured-data" format="jsonf")
  property(outname="text" name="msg" format="jsonf") }}
ruleset(name="r") {{ action(type="omfile" file="{work}/received" template="j") }}
input({input} address="127.0.0.1" port="{port}" ruleset="r")
"""
RSYSLOG_TLS = 'module(load="imtcp" StreamDriver.Name="{}" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")'
RSYSLOG_INPUTS = {
    "tcp": ('type="imtcp"', 'module(load="imtcp")'),
    "ptcp": ('type="imptcp"', 'module(load="imptcp")'),
    "gtls": ('type="imtcp"', RSYSLOG_TLS.format("gtls")),
    "ossl": ('type="imtcp"', RSYSLOG_TLS.format("ossl")),
    "udp": ('type="imudp" rcvbufSize="1m"', 'module(load="imudp")'),
}
SYSLOG_NG = """
@version: 3.38
options {{ keep-hostname(yes); stats-freq(0); log-msg-size(65536); frac-digits(6); }};
source s {{ {source} }};
destination d {{ file("{work}/received" template("$(format-json pri=$PRI host=$HOST time=$ISODATE source=$PROGRAM\
 process=$PID msgid=$MSGID sd=$SDATA text=$MESSAGE)\\n")); }};
log {{ source(s); destination(d); }};
"""
SYSLOG_NG_TLS = 'tls(key-file("{key}") cert-file("{cert}") peer-verify(optional-untrusted))'
SYSLOG_NG_SOURCES = {
    "tcp": 'syslog(ip("127.0.0.1") port({port}) transport("tcp"));',
    "tls": 'syslog(ip("127.0.0.1") port({port}) transport("tls") ' + SYSLOG_NG_TLS + ");",
    "udp": 'syslog(ip("127.0.0.1") port({port}) transport("udp") so-rcvbuf(1048576));',
}
SCHEMES = {"gtls": "syslog+tls", "ossl": "syslog+tls", "tls": "syslog+tls", "udp": "syslog+udp"}


def ready(transport: str, port: int) -> Callable[[], bool]:
    return partial(binds_datagrams if transport == "udp" else accepts, port)


def free(transport: str) -> int:
    return free_port(socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)


@contextmanager
def rsyslog_receiving(work: Path, transport: str, files: dict[str, str]) -> Iterator[int]:
    """An rsyslog that writes what it receives into the file `received`; its port."""
    port = free(transport)
    options, module = RSYSLOG_INPUTS[transport]
    command = start_rsyslog(work, RSYSLOG.format(work=work, port=port, input=options, module=module, **files))
    with running(command, log=work / "rsyslog.log", ready=ready(transport, port)):
        yield port


@contextmanager
def syslog_ng_receiving(work: Path, transport: str, files: dict[str, str]) -> Iterator[int]:
    """A syslog-ng that writes what it receives into the file `received`; its port."""
    port = free(transport)
    source = SYSLOG_NG_SOURCES[transport].format(port=port, **files)
    command = start_syslog_ng(work, SYSLOG_NG.format(work=work, source=source))
    with running(command, log=work / "syslog-ng.log", ready=ready(transport, port)):
        yield port


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A certificate for 127.0.0.1, its key, and the authority that signed it."""
    return certificates(tmp_path)


@pytest.fixture
def trusting(make_server: Callable[..., Server], files: dict[str, str]) -> Server:
    """A server whose drains trust that authority."""
    return make_server("--drain-allow", "127.0.0.0/8", LOGPLEX_DRAIN_CA_FILE=files["ca"]).start()


def drain(server: Server, url: str) -> tuple[str, str]:
    """An app with a drain to the URL: the tokens of the app and of the drain."""
    token = server.create("shop")["app"]
    return token, server.json("POST", "/v3/channels/shop/drains", {"url": url})["token"]


def check(objects: list[dict[str, Any]], texts: list[str], drain_token: str) -> None:
    assert [entry["text"] for entry in objects] == texts
    for entry in objects:
        assert (entry["host"], entry["source"], entry["process"]) == (drain_token, "app", "web.1")
        assert str(entry["pri"]) == "190"
        assert entry["time"].startswith("2026-01-02T03:04:05")
        assert entry.get("sd", "-") in ("", "-")


@pytest.mark.peer
@pytest.mark.parametrize("transport", RSYSLOG_INPUTS)
def test_rsyslog_receives_every_line_of_a_drain(
    trusting: Server, files: dict[str, str], tmp_path: Path, transport: str
) -> None:
    texts = numbered(FEW if transport == "udp" else COUNT)
    with rsyslog_receiving(tmp_path, transport, files) as port:
        token, drain_token = drain(trusting, f"{SCHEMES.get(transport, 'syslog')}://127.0.0.1:{port}")
        post(trusting, token, texts)
        check(received(tmp_path / "received", len(texts)), texts, drain_token)


@pytest.mark.peer
@pytest.mark.parametrize("transport", SYSLOG_NG_SOURCES)
def test_syslog_ng_receives_every_line_of_a_drain(
    trusting: Server, files: dict[str, str], tmp_path: Path, transport: str
) -> None:
    texts = numbered(FEW if transport == "udp" else COUNT)
    with syslog_ng_receiving(tmp_path, transport, files) as port:
        token, drain_token = drain(trusting, f"{SCHEMES.get(transport, 'syslog')}://127.0.0.1:{port}")
        post(trusting, token, texts)
        check(received(tmp_path / "received", len(texts)), texts, drain_token)


@pytest.mark.peer
def test_a_certificate_that_nobody_vouches_for_is_told_and_gets_no_line(
    server: Server, files: dict[str, str], tmp_path: Path
) -> None:
    with syslog_ng_receiving(tmp_path, "tls", files) as port:
        token, _ = drain(server, f"syslog+tls://127.0.0.1:{port}")
        post(server, token, ["a line"])
        lines = follow(server, "shop", 2)
        assert any(re.search(r"heroku\[logplex\]: Error L14 \(certificate validation\)", line) for line in lines), (
            lines
        )
        assert not (tmp_path / "received").exists()


NGINX = """
daemon off; master_process off; pid {work}/pid; error_log {work}/nginx-error.log;
events {{ worker_connections 64; }}
http {{
  log_format j escape=json '{{"method":"$request_method","target":"$request_uri","type":"$content_type",'
    '"count":"$http_logplex_msg_count","token":"$http_logplex_drain_token","frame":"$http_logplex_frame_id",'
    '"range":"$http_logplex_range","user":"$remote_user","body":"$request_body"}}';
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  client_max_body_size 2m; client_body_buffer_size 2m; client_body_in_single_buffer on; access_log off;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
    location / {{ access_log {work}/received j; proxy_pass http://127.0.0.1:{inner}; }}
  }}
  server {{ listen 127.0.0.1:{inner}; return 200 "thanks"; }}
}}
"""


@pytest.mark.peer
def test_nginx_receives_every_line_of_an_https_drain(trusting: Server, files: dict[str, str], tmp_path: Path) -> None:
    port, inner = free_port(), free_port()
    (tmp_path / "nginx.conf").write_text(NGINX.format(work=tmp_path, port=port, inner=inner, **files))
    command = [*needed(nginx(), "nginx"), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    texts = numbered(COUNT)
    with running(command, log=tmp_path / "nginx.log", ready=lambda: accepts(port)):
        token, drain_token = drain(trusting, f"https://user:secret@127.0.0.1:{port}/logs?app=shop")
        post(trusting, token, texts)
        requests = all_of(tmp_path / "received", len(texts))
    bodies = "".join(request["body"] for request in requests).encode()
    assert [text for _, text in frames(bodies)] == [text.encode() for text in texts]
    heads = {head for head, _ in frames(bodies)}
    assert heads == {b"<190>1 2026-01-02T03:04:05.678901+00:00 host app web.1 -"}
    end = 0
    for request in requests:
        assert (request["method"], request["target"], request["user"]) == ("POST", "/logs?app=shop", "user")
        assert (request["type"], request["token"]) == ("application/logplex-1", drain_token)
        assert re.fullmatch("[0-9A-F]{32}", request["frame"])
        first, last = map(int, request["range"].partition("/")[2].split("-"))
        assert (first, last - first + 1) == (end, int(request["count"]))
        end = last + 1


def all_of(path: Path, count: int) -> list[dict[str, Any]]:
    """The requests that nginx logged, once they hold `count` messages."""
    requests = received(path, 1)
    while sum(int(request["count"]) for request in requests) < count:
        requests = received(path, len(requests) + 1)
    return requests


def frames(body: bytes) -> list[tuple[bytes, bytes]]:
    """The head and the text of every frame."""
    found = []
    while body:
        digits, _, rest = body.partition(b" ")
        message, body = rest[: int(digits)], rest[int(digits) :]
        *head, text = message.removesuffix(b"\n").split(b" ", 6)
        found.append((b" ".join(head), text))
    return found
