"""This server under measurement, as `python -m logplex serve` in a process of its own, pinned to the server's core.

Channels, tokens and drains are made through its API; more than a thousand are written into config.db before the start.
"""

import base64
import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from logplex.store import schema

from .programs import SERVER_CORE, pin_to
from .work import Running, Work

ROOT = Path(__file__).resolve().parents[2]
ADMIN = ("bench", "correct-horse-battery-staple")
START_SECONDS = 60.0
BY_API = 1000  # more channels than this are written into config.db directly: the API has its own tests


class Api:
    """The management API of one running server, over one connection."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=60)
        credential = base64.b64encode(":".join(ADMIN).encode()).decode()
        self.headers = {"Authorization": f"Basic {credential}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, body=text, headers=self.headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
        return json.loads(content) if content else None


class RunningLogplex(Running):
    """Ours, with its API."""

    def __init__(self, process: subprocess.Popen[str], events: dict[str, str], start_seconds: float) -> None:
        super().__init__(process.pid, 0, [])
        self.process = process
        self.start_seconds = start_seconds
        self.addresses = events
        self.api = Api(events["http"])
        self.authorization = self.api.headers["Authorization"]

    def port_of(self, listener: str) -> int:
        return int(self.addresses[listener].rpartition(":")[2])


@contextmanager
def serve(
    folder: Path, *, environment: dict[str, str], tls: dict[str, str] | None = None, name_server: int = 0
) -> Iterator[RunningLogplex]:
    """`logplex serve` from its `ready` event to the end of the block. `folder` holds its data directory and log."""
    program = ("tests.bench.silent_names", str(name_server)) if name_server else ("logplex",)
    options = ["--http", "127.0.0.1:0", "--syslog", "127.0.0.1:0", "--drain-allow", "127.0.0.0/8"]
    if tls:
        options += ["--syslog-tls", "127.0.0.1:0", "--tls-cert", tls["cert"], "--tls-key", tls["key"]]
        environment = {**environment, "LOGPLEX_DRAIN_CA_FILE": tls["ca"]}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *program, "serve", "--data-dir", str(folder / "data"), *options],
        cwd=ROOT,
        env={**os.environ, "LOGPLEX_ADMIN": ":".join(ADMIN), "LOGPLEX_LOG_FORMAT": "json", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
        text=True,
        preexec_fn=lambda: pin_to(SERVER_CORE),
    )
    try:
        events = _ready(process, folder / "log")
        yield RunningLogplex(process, events, time.monotonic() - started)
    finally:
        process.kill()
        process.wait()


def _ready(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and '"ready"' in line:
                return {name: str(value) for name, value in json.loads(line).items()}
        time.sleep(0.01)
    raise RuntimeError(f"the server is not ready:\n{log.read_text()[-4000:]}")


@contextmanager
def start_logplex(work: Work, folder: Path) -> Iterator[Running]:
    """This server, its channels, tokens and drains made through its API."""
    environment = {"LOGPLEX_DURABILITY": work.durability, **work.environment}
    tokens = write_channels(folder / "data", work) if work.channels > BY_API else []
    with serve(folder, environment=environment, tls=work.tls, name_server=work.name_server) as running:
        running.port = running.port_of({"tcp": "syslog", "tls": "syslog_tls", "http": "http"}[work.entrance])
        running.tokens = tokens or make_channels(running.api, work)
        yield running


def make_channels(api: Api, work: Work) -> list[tuple[str, int]]:
    """Make the channels and drains of the work; their tokens, each with the number of its channel."""
    tokens = []
    for channel in range(work.channels):
        names = [f"app-{number:05}" for number in range(channel, work.tokens, work.channels)]
        made = api("PUT", f"/v3/channels/bench-{channel:05}", {"tokens": names})
        tokens += [(token, channel) for token in made["tokens"].values()]
        for copy in range(work.drains):
            api("POST", f"/v3/channels/bench-{channel:05}/drains", {"url": drain_url(work, channel, copy)})
    return tokens


def write_channels(data: Path, work: Work) -> list[tuple[str, int]]:
    """The same, before there is a server: rows of a new config.db, with a token `app` each as a platform names it."""
    data.mkdir(mode=0o700)
    made = [(f"t.{uuid.uuid4()}", number % work.channels) for number in range(work.tokens)]
    drains = [
        (f"d.{uuid.uuid4()}", channel + 1, drain_url(work, channel, copy))
        for channel in range(work.channels)
        for copy in range(work.drains)
    ]
    with closing(schema.connect(data)) as db:
        db.execute("BEGIN")
        names = ((channel + 1, f"bench-{channel:05}") for channel in range(work.channels))
        db.executemany("INSERT INTO channels (id, name) VALUES (?, ?)", names)
        rows = ((token, channel + 1, "app") for token, channel in made)
        db.executemany("INSERT INTO tokens (id, channel_id, name) VALUES (?, ?, ?)", rows)
        columns = "token, channel_id, url, created_at, updated_at"
        db.executemany(f"INSERT INTO drains ({columns}) VALUES (?, ?, ?, 0, 0)", drains)
        db.execute("COMMIT")
    return made


def drain_url(work: Work, channel: int, copy: int) -> str:
    """Where the sink takes what a drain delivers; over HTTP the path tells which drain it is."""
    scheme = {"tcp": "syslog", "tls": "syslog+tls", "http": "http"}[work.exit]
    path = f"/{channel}/{copy}" if work.exit == "http" else ""
    place = f"127.0.0.1:{work.port}"
    if channel >= work.channels - work.bad:
        place = work.bad_places[channel % len(work.bad_places)].replace("*", str(channel))
    return f"{scheme}://{place}{path}"
