"""Numbered lines through the server, and the check of what comes out: nothing lost, repeated or out of order."""

import base64
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..conftest import Server
from .programs import wait_until

ARRIVE_SECONDS = 20.0


def numbered(count: int) -> list[str]:
    """Texts that tell their number, of many lengths, with the characters that syslog parsers stumble over."""
    odd = ("[not=data] ", "- ", '{"at": "info"} ', "grün – ", "a [x] b ", "<13>1 ", "")
    return [f"{odd[n % len(odd)]}line {n} {'x' * (n * 37 % 400)}" for n in range(count)]


def frame(text: str, *, token: str = "-", process: str = "web.1", priority: int = 190) -> bytes:
    """A counted frame with all fields of RFC 5424: without SD a text that begins with a hyphen would lose it."""
    message = f"<{priority}>1 2026-01-02T03:04:05.678901+00:00 host {token} {process} - - {text}\n".encode()
    return b"%d %s" % (len(message), message)


def post(server: Server, token: str, texts: list[str], *, per_request: int = 100) -> None:
    """Send the lines as a log shipper does: one connection, a batch a request, each acknowledged."""
    connection = http.client.HTTPConnection(*server.http, timeout=ARRIVE_SECONDS)
    headers = {"Authorization": "Basic " + base64.b64encode(f"token:{token}".encode()).decode()}
    for first in range(0, len(texts), per_request):
        batch = texts[first : first + per_request]
        headers |= {"Content-Type": "application/logplex-1", "Logplex-Msg-Count": str(len(batch))}
        connection.request("POST", "/logs", body=b"".join(frame(text) for text in batch), headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (204, b"")
    connection.close()


def follow(server: Server, app: str, count: int) -> list[str]:
    """The first `count` lines that a tail of the app shows, as they arrive."""
    url = server.json("POST", "/v3/sessions", {"channel_id": app, "num": 1500, "tail": True})["url"]
    connection = http.client.HTTPConnection(*server.http, timeout=ARRIVE_SECONDS)
    connection.request("GET", urlsplit(url).path)
    answer = connection.getresponse()
    assert answer.status == 200
    lines: list[str] = []
    while len(lines) < count:
        line = answer.readline()
        assert line, f"the tail ended after {len(lines)} lines"
        lines.append(line.decode())
    connection.close()
    return lines


def text_of(line: str) -> str:
    """What a line of a session shows behind `TIME SOURCE[PROCESS]: `."""
    return line.split(": ", 1)[1].removesuffix("\n")


def received(path: Path, count: int) -> list[dict[str, Any]]:
    """The objects of a receiver's file, one a line, once there are `count`."""

    def complete() -> bool:
        return path.exists() and path.read_bytes().count(b"\n") >= count

    wait_until(complete, f"{count} lines in {path.name}", seconds=ARRIVE_SECONDS)
    return [json.loads(line) for line in path.read_bytes().splitlines()]
