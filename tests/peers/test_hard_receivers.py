"""Receivers that ask for a certificate, and an nginx that refuses in all its ways: what their owners are shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Server
from ..ports import free_port
from .lines import numbered, post, received
from .programs import (
    accepts,
    certificates,
    needed,
    nginx,
    running,
    start_rsyslog,
    start_syslog_ng,
    wait_until,
)

COUNT = 200
STATE_SECONDS = 20.0

NGINX = """
daemon off; master_process off; pid {work}/pid; error_log {work}/nginx-error.log;
events {{ worker_connections 64; }}
http {{
  log_format j escape=json '{{"count":"$http_logplex_msg_count","status":"$status"}}';
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  client_body_buffer_size 2m; access_log {work}/received j;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
    ssl_client_certificate {ca}; ssl_verify_client optional;
    location /moved {{ return 301 https://127.0.0.1:{port}/; }}
    location /busy {{ return 503; }}
    location /silent {{ return 444; }}
    location /gateway {{ proxy_pass http://127.0.0.1:{closed}; }}
    location /small {{ client_max_body_size 2k; proxy_pass http://127.0.0.1:{inner}; }}
    location /certified {{ if ($ssl_client_verify != SUCCESS) {{ return 403; }} proxy_pass http://127.0.0.1:{inner}; }}
  }}
  server {{ listen 127.0.0.1:{inner}; access_log off; return 200 "thanks"; }}
}}
"""
SYSLOG_NG = """
@version: 3.38
options {{ keep-hostname(yes); stats-freq(0); log-msg-size(65536); }};
source s {{ syslog(ip("127.0.0.1") port({port}) transport("tls")
  tls(key-file("{key}") cert-file("{cert}") ca-file("{ca}") peer-verify(required-trusted))); }};
destination d {{ file("{work}/received" template("$(format-json host=$HOST text=$MESSAGE)\\n")); }};
log {{ source(s); destination(d); }};
"""
RSYSLOG = """
global(workDirectory="{work}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off"
  defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
template(name="j" type="list" option.jsonf="on") {{
  property(outname="host" name="hostname" format="jsonf") property(outname="text" name="msg" format="jsonf") }}
ruleset(name="r") {{ action(type="omfile" file="{work}/received" template="j") }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="r")
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return certificates(tmp_path)


@pytest.fixture
def trusting(make_server: Callable[..., Server], files: dict[str, str]) -> Server:
    """A server whose drains trust that authority, and try again soon."""
    options = ("--drain-allow", "127.0.0.0/8", "--drain-backoff-seconds", "0.2", "--drain-max-backoff-seconds", "0.5")
    return make_server(*options, LOGPLEX_DRAIN_CA_FILE=files["ca"]).start()


@contextmanager
def nginx_serving(work: Path, files: dict[str, str]) -> Iterator[int]:
    """The nginx above; its port."""
    port, inner, closed = free_port(), free_port(), free_port()
    (work / "nginx.conf").write_text(NGINX.format(work=work, port=port, inner=inner, closed=closed, **files))
    command = [*needed(nginx(), "nginx"), "-p", str(work), "-c", str(work / "nginx.conf")]
    with running(command, log=work / "nginx.log", ready=lambda: accepts(port)):
        yield port


@contextmanager
def syslog_receiving(kind: str, work: Path, files: dict[str, str]) -> Iterator[int]:
    """An rsyslog or a syslog-ng that takes lines only from who has a certificate of the authority; its port."""
    port = free_port()
    text = {"rsyslog": RSYSLOG, "syslog-ng": SYSLOG_NG}[kind].format(work=work, port=port, **files)
    command = start_rsyslog(work, text) if kind == "rsyslog" else start_syslog_ng(work, text)
    with running(command, log=work / f"{kind}.log", ready=lambda: accepts(port)):
        yield port


def drain(server: Server, url: str, **options: Any) -> tuple[str, int]:
    """An app with a drain: the app's token, and the drain's id."""
    token = server.create("shop")["app"]
    return token, server.json("POST", "/v3/channels/shop/drains", {"url": url, "options": options})["id"]


def status(server: Server, number: int) -> dict[str, Any]:
    found: dict[str, Any] = server.json("GET", f"/v3/channels/shop/drains/{number}")["status"]
    return found


def wait_for_error(server: Server, number: int) -> dict[str, Any]:
    """The drain's last error, once it has one."""
    wait_until(lambda: status(server, number)["error"] is not None, "an error", seconds=STATE_SECONDS)
    error: dict[str, Any] = status(server, number)["error"]
    return error


def delivered(server: Server, number: int, count: int) -> dict[str, Any]:
    """The drain's status once it has delivered so many."""
    wait_until(lambda: status(server, number)["delivered"] >= count, f"{count} lines", seconds=STATE_SECONDS)
    return status(server, number)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("path", "answered"), [("moved", 301), ("busy", 503), ("gateway", 502), ("certified", 403), ("silent", None)]
)
def test_an_answer_that_people_or_time_can_mend_is_shown_and_tried_again(
    trusting: Server, files: dict[str, str], tmp_path: Path, path: str, answered: int | None
) -> None:
    with nginx_serving(tmp_path, files) as port:
        token, number = drain(trusting, f"https://127.0.0.1:{port}/{path}")
        post(trusting, token, ["a line"])
        assert wait_for_error(trusting, number)["status"] == answered
        received(tmp_path / "received", 3)
        shown = status(trusting, number)
    assert (shown["delivered"], shown["pending"] > 0, shown["lost"]) == (0, True, {})
    assert shown["retried"] >= 1


@pytest.mark.peer
def test_a_body_that_is_too_large_for_the_receiver_is_halved_until_it_fits(
    trusting: Server, files: dict[str, str], tmp_path: Path
) -> None:
    with nginx_serving(tmp_path, files) as port:
        token, number = drain(trusting, f"https://127.0.0.1:{port}/small")
        post(trusting, token, numbered(COUNT))
        shown = delivered(trusting, number, COUNT)
    assert (shown["delivered"], shown["pending"], shown["lost"]) == (COUNT, 0, {})
    requests = received(tmp_path / "received", 2)
    assert "413" in {request["status"] for request in requests}
    assert sum(int(request["count"]) for request in requests if request["status"] == "200") == COUNT


@pytest.mark.peer
def test_nginx_takes_lines_from_a_drain_that_shows_its_certificate(
    trusting: Server, files: dict[str, str], tmp_path: Path
) -> None:
    own = {"client_cert": Path(files["cert"]).read_text(), "client_key": Path(files["key"]).read_text()}
    with nginx_serving(tmp_path, files) as port:
        token, number = drain(trusting, f"https://127.0.0.1:{port}/certified", **own)
        post(trusting, token, numbered(COUNT))
        assert delivered(trusting, number, COUNT)["error"] is None
    assert own["client_key"] not in trusting.output()


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["rsyslog", "syslog-ng"])
def test_a_syslog_receiver_that_asks_for_a_certificate_gets_every_line_only_with_one(
    trusting: Server, files: dict[str, str], tmp_path: Path, kind: str
) -> None:
    own = {"client_cert": Path(files["cert"]).read_text(), "client_key": Path(files["key"]).read_text()}
    texts = numbered(COUNT)
    with syslog_receiving(kind, tmp_path, files) as port:
        token, number = drain(trusting, f"syslog+tls://127.0.0.1:{port}")
        post(trusting, token, texts)
        wait_for_error(trusting, number)
        assert not (tmp_path / "received").exists()
        trusting.json(
            "PUT", f"/v3/channels/shop/drains/{number}", {"url": f"syslog+tls://127.0.0.1:{port}", "options": own}
        )
        found = [entry["text"] for entry in received(tmp_path / "received", len(texts))]
    assert set(texts) <= set(found)
    assert [text for text in found if text in set(texts)] == texts
