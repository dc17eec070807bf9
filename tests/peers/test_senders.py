"""What real programs send arrives: every line once, in order, under the token's name.

rsyslog and syslog-ng over TCP (octet-counted, LF-terminated) and TLS, util-linux' logger and Python's SysLogHandler
over TCP and UDP. The token stands in APP-NAME; each sender is configured as its users would do it.
"""

import logging
import logging.handlers
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import Server
from ..ports import free_port
from .lines import follow, numbered, text_of
from .programs import accepts, certificates, needed, running, start_rsyslog, start_syslog_ng

COUNT = 1000
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* app(\[[!-~]+\])?: ")

RSYSLOG = """
global(workDirectory="{work}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off" {ca})
module(load="imptcp" threads="1")
template(name="logplex" type="list") {{
  constant(value="<") property(name="pri") constant(value=">1 ") property(name="timereported" dateFormat="rfc3339")
  constant(value=" ") property(name="hostname") constant(value=" {token} ") property(name="procid")
  constant(value=" ") property(name="msgid") constant(value=" ") property(name="structured-data")
  constant(value=" ") property(name="msg") }}
ruleset(name="out") {{
  action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" template="logplex" action.resumeRetryCount="-1"
         action.resumeInterval="1" {how})
}}
input(type="imptcp" address="127.0.0.1" port="{entrance}" ruleset="out")
"""
SYSLOG_NG = """
@version: 3.38
options {{ keep-hostname(yes); stats-freq(0); frac-digits(6); ts-format(iso); log-msg-size(65536); }};
source s {{ file("{lines}" flags(no-parse)); }};
rewrite r {{ set("{token}" value("PROGRAM")); set("web.1" value("PID")); }};
destination d {{ {how} }};
log {{ source(s); rewrite(r); destination(d); flags(flow-control); }};
"""
TLS = (
    'StreamDriver="{driver}" StreamDriverMode="1" StreamDriverAuthMode="x509/name" '
    'StreamDriverPermittedPeers="localhost"'
)


@contextmanager
def rsyslog_sending(work: Path, texts: list[str], **words: object) -> Iterator[None]:
    """An rsyslog that has been handed the lines over TCP, and passes them on with `how`."""
    entrance = free_port()
    configuration = RSYSLOG.format(work=work, entrance=entrance, **{"ca": "", **words})
    command = start_rsyslog(work, configuration)
    with running(command, log=work / "rsyslog.log", ready=lambda: accepts(entrance)):
        with socket.create_connection(("127.0.0.1", entrance)) as connection:
            head = "<190>1 2026-01-02T03:04:05.678901+00:00 host whoever web.1 - - "
            connection.sendall("".join(f"{head}{text}\n" for text in texts).encode())
        yield


@contextmanager
def syslog_ng_sending(work: Path, texts: list[str], **words: object) -> Iterator[None]:
    """A syslog-ng that reads the lines from a file, and passes them on with `how`."""
    (work / "lines").write_text("".join(text + "\n" for text in texts))
    command = start_syslog_ng(work, SYSLOG_NG.format(lines=work / "lines", **words))
    with running(command, log=work / "syslog-ng.log", ready=(work / "ctl").exists):
        yield


def check(server: Server, texts: list[str]) -> None:
    lines = follow(server, "shop", len(texts))
    assert [text_of(line) for line in lines] == texts
    assert all(LINE.match(line) for line in lines)
    assert [line.decode() for line in server.read("shop")] == lines


@pytest.mark.peer
@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
def test_lines_of_rsyslog_arrive(server: Server, tmp_path: Path, framing: str) -> None:
    token, texts = server.create("shop")["app"], numbered(COUNT)
    how = f'TCP_Framing="{framing}"'
    with rsyslog_sending(tmp_path, texts, token=token, port=server.syslog[1], how=how):
        check(server, texts)


@pytest.mark.peer
@pytest.mark.parametrize("driver", ["gtls", "ossl"])
def test_lines_of_rsyslog_arrive_over_tls(make_server: Callable[..., Server], tmp_path: Path, driver: str) -> None:
    files = certificates(tmp_path)
    server = tls_server(make_server, files)
    token, texts = server.create("shop")["app"], numbered(COUNT)
    how = 'TCP_Framing="octet-counted" ' + TLS.format(driver=driver)
    ca = f'defaultNetstreamDriverCAFile="{files["ca"]}"'
    with rsyslog_sending(tmp_path, texts, token=token, port=server.address("syslog_tls")[1], how=how, ca=ca):
        check(server, texts)


@pytest.mark.peer
@pytest.mark.parametrize(
    "how",
    [
        'syslog("127.0.0.1" port({port}) transport("tcp"));',
        'network("127.0.0.1" port({port}) transport("tcp") flags(syslog-protocol));',
    ],
    ids=["octet-counted", "LF"],
)
def test_lines_of_syslog_ng_arrive(server: Server, tmp_path: Path, how: str) -> None:
    token, texts = server.create("shop")["app"], numbered(COUNT)
    with syslog_ng_sending(tmp_path, texts, token=token, how=how.format(port=server.syslog[1])):
        check(server, texts)


@pytest.mark.peer
def test_lines_of_syslog_ng_arrive_over_tls(make_server: Callable[..., Server], tmp_path: Path) -> None:
    files = certificates(tmp_path)
    server = tls_server(make_server, files)
    token, texts = server.create("shop")["app"], numbered(COUNT)
    tls = f'tls(ca-file("{files["ca"]}") peer-verify(required-trusted))'
    how = f'syslog("127.0.0.1" port({server.address("syslog_tls")[1]}) transport("tls") {tls});'
    with syslog_ng_sending(tmp_path, texts, token=token, how=how):
        check(server, texts)


def tls_server(make_server: Callable[..., Server], files: dict[str, str]) -> Server:
    listener = ["--syslog-tls", "127.0.0.1:0", "--tls-cert", files["cert"], "--tls-key", files["key"]]
    return make_server(*listener).start()


@pytest.mark.peer
@pytest.mark.parametrize("transport", [["--tcp"], ["--tcp", "--octet-count"], ["--udp"]], ids=" ".join)
def test_lines_of_logger_arrive(make_server: Callable[..., Server], tmp_path: Path, transport: list[str]) -> None:
    logger = shutil.which("logger")
    command = needed([logger] if logger else None, "logger")
    server = make_server("--syslog-udp", "127.0.0.1:0").start()
    token, texts = server.create("shop")["app"], [text for text in numbered(200) if not text.startswith("<")]
    port = server.address("syslog_udp" if transport == ["--udp"] else "syslog")[1]
    (tmp_path / "lines").write_text("".join(text + "\n" for text in texts))
    where = ["--server", "127.0.0.1", "--port", str(port), *transport, "--rfc5424", "--tag", token, "--id=4711"]
    subprocess.run([*command, *where, "--file", str(tmp_path / "lines")], check=True, timeout=20)
    check(server, texts)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
def test_lines_of_pythons_sysloghandler_arrive(make_server: Callable[..., Server], kind: socket.SocketKind) -> None:
    server = make_server("--syslog-udp", "127.0.0.1:0").start()
    token, texts = server.create("shop")["app"], numbered(200)
    address = server.address("syslog" if kind == socket.SOCK_STREAM else "syslog_udp")
    handler = logging.handlers.SysLogHandler(address, socktype=kind)
    handler.setFormatter(logging.Formatter(f"1 - host {token} worker.1 - - %(message)s"))
    for text in texts:
        handler.handle(logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "levelname": "INFO"}))
    handler.close()
    check(server, texts)
