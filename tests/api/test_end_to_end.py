"""The management APIs of the real server, over real sockets."""

import http.client
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ..conftest import Server
from ..peers.programs import wait_until


def send(server: Server, token: str, *texts: str) -> None:
    """Lines into an app, acknowledged."""
    bodies = [f"<134>1 2024-05-01T12:00:00+00:00 host x web.1 - - {text}".encode() for text in texts]
    body = b"".join(b"%d %b" % (len(each), each) for each in bodies)
    status, answer = server.request(
        "POST", "/logs", body, Authorization=f"Bearer {token}", Content_Type="application/logplex-1"
    )
    assert (status, answer) == (204, b"")


def test_an_app_is_made_used_changed_and_deleted_over_a_restart(server: Server) -> None:
    token = server.create("shop")["app"]
    send(server, token, "one", "two")
    status, body = server.request("GET", "/v3/channels/shop/logs?num=1")
    assert (status, body) == (200, b"54 <134>1 2024-05-01T12:00:00+00:00 host app web.1 - two\n")
    key = server.json("POST", "/v3/credentials", {"permissions": ["app:shop"]})
    drain = server.json("POST", "/v3/channels/shop/drains", {"url": "http://127.0.0.1:9/"})
    assert server.stop() == 0
    server.start()
    shown = server.json("GET", "/v3/channels/shop")
    assert shown == {"channel": "shop", "tokens": {"app": token}, "drains": [drain]}
    send(server, token, "three")
    as_key = {"Authorization": f"Bearer {key['id']}:{key['password']}"}
    status, body = server.request("GET", "/v3/channels/shop/logs", **as_key)
    assert status == 200
    assert [line[-5:] for line in body.splitlines()] == [b"- one", b"- two", b"three"]
    assert server.request("GET", "/v3/status", **as_key)[0] == 403
    assert server.json("GET", f"/v3/channels/shop/drains/{drain['id']}")["status"]["delivered"] == 0
    ledger = server.json("GET", "/v3/channels/shop/ledger")
    assert ledger["received"] + ledger["own"] == ledger["stored"] + ledger["memory"] + ledger["writing"] >= 3, ledger
    server.json("DELETE", "/v3/channels/shop")
    status, _ = server.request("POST", "/logs", b"", Authorization=f"Bearer {token}")
    assert status == 401, "a token is dead from the answer on"
    server.create("shop")
    assert server.read("shop") == [], "nothing of the old one is shown"


def test_a_canary_reads_what_a_v1_channel_got(server: Server) -> None:
    made = server.json("POST", "/channels", {"tokens": ["app"]})
    send(server, made["tokens"]["app"], "hello")
    url = server.json("POST", "/v2/canary-sessions", {"channel_id": made["channel_id"]})["url"]
    assert url.startswith(server.url)
    status, body = server.request("GET", urlsplit(url).path)
    assert (status, body) == (200, b"2024-05-01T12:00:00+00:00 app[web.1]: hello\n")


@contextmanager
def collector(answer: bytes) -> Iterator[tuple[str, "queue.SimpleQueue[tuple[str, Any, Any]]"]]:
    """Takes OTLP and answers so: its base URL, and the path, headers and document of each request."""
    seen: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.put((self.path, self.headers, json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", seen
        listening.shutdown()


def test_a_telemetry_drain_sends_records_to_a_collector_until_it_is_deleted(server: Server) -> None:
    def shown() -> Any:
        (known,) = server.json("GET", "/v3/channels/shop/drains")["drains"]
        return known

    token = server.create("shop")["app"]
    rejecting = b'{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"one is too old"}}'
    with collector(rejecting) as (url, seen), collector(b"{}") as (other_url, other_seen):
        drain = server.json(
            "POST",
            "/telemetry-drains",
            {
                "owner": {"id": "shop", "type": "app"},
                "signals": ["traces", "metrics", "logs"],
                "exporter": {"type": "otlphttp", "endpoint": url, "headers": {"X-Team": "secret"}},
            },
        )
        assert drain["exporter"] == {"type": "otlphttp", "endpoint": url, "headers": {"X-Team": "***"}}
        send(server, token, "one", "two")
        path, headers, document = seen.get(timeout=10)
        assert (path, headers["Content-Type"], headers["X-Team"]) == ("/v1/logs", "application/json", "secret")
        (resource,) = document["resourceLogs"]
        assert resource["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "shop"}}]
        records = resource["scopeLogs"][0]["logRecords"]
        assert [record["body"]["stringValue"] for record in records] == ["one", "two"]
        assert {record["timeUnixNano"] for record in records} == {"1714564800000000000"}
        assert {record["severityText"] for record in records} == {"info"}

        wait_until(lambda: shown()["status"]["lost"] == {"permanent": 1}, "the rejected line")
        assert shown()["status"]["delivered"] == 1

        change = {"exporter": {"endpoint": other_url + "/x"}}
        changed = server.json("PATCH", f"/telemetry-drains/{drain['id']}", change)
        assert changed["exporter"]["endpoint"] == other_url + "/x"
        assert server.stop() == 0
        server.start()
        assert server.json("GET", "/apps/shop/telemetry-drains") == [changed]
        send(server, token, "three")
        path, headers, document = other_seen.get(timeout=10)
        assert (path, headers["X-Team"]) == ("/x/v1/logs", "secret")
        records = document["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        assert [record["body"]["stringValue"] for record in records] == ["three"]
        assert records[0]["attributes"][-1] == {"key": "logplex.position", "value": {"intValue": "2"}}
        wait_until(lambda: shown()["status"]["delivered"] == 2, "the new line")
        assert shown()["options"] == {"format": "otlp", "headers": {"X-Team": "***"}}
        assert shown()["status"]["lost"] == {"permanent": 1}

        assert server.json("DELETE", f"/telemetry-drains/{drain['id']}")["id"] == drain["id"]
        assert server.request("GET", f"/telemetry-drains/{drain['id']}")[0] == 404
        assert server.json("GET", "/apps/shop/telemetry-drains") == []
        send(server, token, "four")
        assert seen.empty()
        assert other_seen.empty()


def test_bad_requests_leave_the_connection_or_close_it_but_never_the_server(server: Server) -> None:
    for body, expected in ((b"[" * 60_000, 400), (b"{" + b" " * 70_000 + b"}", 413), (b"null", 400)):
        assert server.request("PUT", "/v3/channels/shop", body)[0] == expected
    connection = http.client.HTTPConnection(*server.http, timeout=10)
    headers = {"Authorization": server.authorization, "Request-Id": "mine"}
    for method, path, status in (
        ("GET", "/v3/channels/none", 404),
        ("POST", "/v3/channels", 405),
        ("GET", "/nothing", 404),
        ("HEAD", "/v3/status", 200),
        ("GET", "/v3/healthcheck?ready", 200),
    ):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.getheader("Request-Id")) == (status, "mine")
    connection.request("PUT", "/v3/channels/shop", json.dumps({}), headers | {"Origin": "http://evil.example"})
    assert connection.getresponse().status == 403
    connection.close()


def test_the_audit_log_names_who_did_what(server: Server) -> None:
    server.create("shop")
    server.request("DELETE", "/v3/channels/shop", Authorization="Bearer no:body")
    server.stop()
    seen = [(e["who"], e["what"], e["result"]) for e in server.events if e["event"] == "audit"]
    assert seen == [(server.admin[0], "PUT /v3/channels/shop", 201), ("-", "DELETE /v3/channels/shop", 401)]
