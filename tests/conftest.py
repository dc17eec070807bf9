"""What every test may use: Hypothesis' profile, and the real server in a process of its own.

* Hypothesis has no deadline (the machines of a CI are shared), and the same examples every time there.
* `server` is `python -m logplex serve` on loopback ports of the kernel's choice. It is known to listen by its own
  `ready` event, never by a sleep, and everything about it is bounded in time.
"""

import base64
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import hypothesis
import pytest

from logplex.config import LISTENERS

hypothesis.settings.register_profile("developer", deadline=None, max_examples=100)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "developer")

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0  # generous: several test runs may share a core
STOP_SECONDS = 20.0  # the drains' grace of 10 s, and as much again


def environment(**variables: str) -> dict[str, str]:
    """Ours, able to import the checkout, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOGPLEX_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}


class Server:
    """`logplex serve` in a process of its own, from `start` to `stop` or `kill`; may be started again after either.

    `events` collects its log, an object a line. `addresses` holds HOST:PORT by listener (`http`, `syslog`, …).
    """

    def __init__(self, data_dir: Path, *options: str, **variables: str) -> None:
        self.data_dir = data_dir
        self.options = options
        self.variables = variables
        self.events: list[dict[str, Any]] = []
        self.other_output: list[str] = []
        self.addresses: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self, *options: str) -> Self:
        """Start it and return when it is ready; `options` come after those given to the constructor."""
        seen: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        command = [sys.executable, "-m", "logplex", "serve", "--log-format", "json", "--data-dir", str(self.data_dir)]
        listeners = ["--http", "127.0.0.1:0", "--syslog", "127.0.0.1:0"]
        self._process = subprocess.Popen(
            [*command, *listeners, *self.options, *options],
            env=environment(**self.variables),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process, seen), daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                event = seen.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.kill()
                pytest.fail(f"the server was not ready in {START_SECONDS} s:\n{self.output()}")
            if event is None:
                self._process.wait(STOP_SECONDS)
                pytest.fail(f"the server ended with {self._process.returncode}:\n{self.output()}")
            if event.get("event") == "ready":
                self.addresses = {name: event[name] for name in LISTENERS if name in event}
                return self

    def _read_log(self, process: subprocess.Popen[str], seen: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                self.other_output.append(line)
                continue
            self.events.append(event)
            seen.put(event)
        seen.put(None)

    def output(self) -> str:
        """The end of what it wrote, for a failure's message."""
        return "".join(f"{event}\n" for event in self.events[-20:]) + "".join(self.other_output[-40:])

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """The base URL of its HTTP listener."""
        return f"http://{self.addresses['http']}"

    @property
    def http(self) -> tuple[str, int]:
        return self.address("http")

    @property
    def syslog(self) -> tuple[str, int]:
        return self.address("syslog")

    def address(self, listener: str) -> tuple[str, int]:
        host, _, port = self.addresses[listener].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def admin(self) -> tuple[str, str]:
        """Id and password of the credential with all permissions."""
        id_, _, password = (self.data_dir / "admin").read_text().strip().partition(":")
        return id_, password

    @property
    def authorization(self) -> str:
        return "Basic " + base64.b64encode(":".join(self.admin).encode()).decode()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """One request as the admin; `body` is JSON unless it is bytes. Headers are given with `_` for `-`."""
        connection = http.client.HTTPConnection(*self.http, timeout=STOP_SECONDS)
        sent = {"Authorization": self.authorization} | {k.replace("_", "-"): v for k, v in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """As `request`, for an answer that must be a success with JSON, or without a body (None)."""
        status, answer = self.request(method, path, body)
        assert 200 <= status < 300, (method, path, status, answer)
        return json.loads(answer) if answer else None

    def create(self, app: str, *names: str) -> dict[str, str]:
        """A channel with these tokens, by name."""
        tokens: dict[str, str] = self.json("PUT", f"/v3/channels/{app}", {"tokens": list(names or ("app",))})["tokens"]
        return tokens

    def read(self, app: str, num: int = 1500) -> list[bytes]:
        """The newest lines of a channel as a session without tail shows them."""
        url = self.json("POST", "/v3/sessions", {"channel_id": app, "num": num})["url"]
        status, body = self.request("GET", urlsplit(url).path)
        assert status == 200, body
        return body.splitlines(keepends=True)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """End it in an orderly way; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self._ended()

    def kill(self) -> int:
        """`kill -9`."""
        if self.process.poll() is None:
            self.process.kill()
        return self._ended()

    def _ended(self) -> int:
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
            pytest.fail(f"the server did not stop in {STOP_SECONDS} s:\n{self.output()}")
        assert self._reader is not None
        self._reader.join(STOP_SECONDS)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that makes servers, not yet started, all on one data directory; killed after the test.

    Its arguments are options of `serve`, its keywords environment variables.
    """
    made: list[Server] = []

    def make(*options: str, **variables: str) -> Server:
        made.append(Server(tmp_path / "data", *options, **variables))
        return made[-1]

    yield make
    for server in made:
        server.__exit__(None, None, None)


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A running server on an empty data directory, which may send drains to loopback addresses."""
    return make_server("--drain-allow", "127.0.0.0/8").start()
