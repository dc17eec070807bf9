"""Post lines to a log input URL with the standard library alone; the other examples use this.

A body of `application/logplex-1` is one frame after another, each `LENGTH <PRIORITY>1 TIME HOST APP PROCESS - - TEXT`.
The URL (`http://token:t.…@host:8001/logs`, as `logplex channels create` prints it) says which app and which source.
"""

import argparse
import base64
import http.client
import uuid
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

INFO, ERROR = 190, 187  # local7.info, local7.error: facility × 8 + severity (RFC 5424 section 6.2.1)


class Line(NamedTuple):
    process: str
    text: str
    priority: int = INFO


class LogInput:
    """One connection to a log input URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.username is None:
            raise SystemExit("the log input URL must be http://token:t.…@host:8001/logs")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=30)
        self._path = parts.path
        login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/logplex-1"}

    def send(self, lines: list[Line]) -> None:
        """One request; the same id on a retry would keep the server from storing the lines twice."""
        now = datetime.now(UTC).isoformat()
        messages = [f"<{line.priority}>1 {now} host token {line.process} - - {line.text}".encode() for line in lines]
        body = b"".join(b"%d %s" % (len(message), message) for message in messages)
        headers = {"Logplex-Msg-Count": str(len(messages)), "Logplex-Frame-Id": uuid.uuid4().hex.upper()}
        self._connection.request("POST", self._path, body, self._headers | headers)
        answer = self._connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        if answer.status != 204:
            raise SystemExit(f"the server answered {answer.status}: {text}")


def arguments(description: str, *, count: int) -> argparse.Namespace:
    """`URL`, `--count` and `--seconds`, the arguments of all examples that log."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("url", help="log input URL: http://token:t.…@host:8001/logs")
    parser.add_argument("--count", type=int, default=count, help="lines to write (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.05, help="pause between lines (default: %(default)s)")
    return parser.parse_args()
