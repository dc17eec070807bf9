"""The unmodified Heroku CLI, versions 10 and 11, against `logplex serve` (protocol section 10).

`LOGPLEX_TEST_HEROKU` is a folder with `v10` and `v11`, each with the npm package `heroku` in its `node_modules`.
"""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..conftest import Server
from ..ports import free_port
from .lines import post
from .programs import needed, running, wait_until

pytestmark = pytest.mark.peer

CLI_SECONDS = 60.0  # it starts in 1 to 2 s on an idle machine
DRAIN = "https://user:pass@127.0.0.1:9/in?app=shop&x=%2F"


class Proxy:
    """Forwards TCP connections to a server, and can end the bodies of all streams in order."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._clients: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._clients)

    def end_bodies(self) -> None:
        """Between two chunks: the reader sees the end of a whole answer."""
        for client, server in self._clients:
            try:
                client.sendall(b"0\r\n\r\n")
                client.shutdown(socket.SHUT_RDWR)
                server.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._clients.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class Cli:
    """One version of the CLI with a key for one app, in a home of its own."""

    def __init__(self, version: int, home: Path, server: Server, key: str) -> None:
        folder = Path(os.environ.get("LOGPLEX_TEST_HEROKU", "/nonexistent"))
        program = folder / f"v{version}" / "node_modules" / ".bin" / "heroku"
        self.command = needed([str(program)] if program.exists() else None, f"heroku {version}")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HEROKU_HOST": server.url,
            "HEROKU_API_KEY": key,
            "HEROKU_PARTICLEBOARD_URL": server.url,  # else it asks a host of Heroku's about the account, with the key
            "HEROKU_ANALYTICS_URL": server.url,
            "HEROKU_SKIP_NEW_VERSION_CHECK": "true",
            "npm_config_registry": server.url,
            "DISABLE_TELEMETRY": "true",
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """One command to its end: what it wrote to stdout and to stderr."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLI_SECONDS,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout, done.stderr


class Shop:
    """A server with the app `shop`, which has some history, and with a key for it."""

    def __init__(self, make_server: Callable[..., Server]) -> None:
        host, port = "127.0.0.1", free_port()
        self.proxy = Proxy((host, port))
        self.server = make_server(
            "--http", f"{host}:{port}", "--drain-allow", "127.0.0.0/8", "--public-url", self.proxy.url
        )
        self.server.start()
        self.tokens = self.server.create("shop", "app", "heroku")
        self.server.create("other", "app")
        made = self.server.json("POST", "/v3/credentials", {"id": "shop-key", "permissions": ["app:shop"]})
        self.key = f"{made['id']}:{made['password']}"

    def write(self, *texts: str, source: str = "app") -> None:
        post(self.server, self.tokens[source], list(texts))


@pytest.fixture
def shop(make_server: Callable[..., Server]) -> Iterator[Shop]:
    shop = Shop(make_server)
    yield shop
    shop.proxy.close()


@pytest.fixture(params=[10, 11])
def cli(request: pytest.FixtureRequest, tmp_path: Path, shop: Shop) -> Cli:
    return Cli(request.param, tmp_path, shop.server, shop.key)


def texts(output: str) -> list[str]:
    return [line.partition(": ")[2] for line in output.splitlines()]


def test_logs_shows_what_was_asked_for(cli: Cli, shop: Shop) -> None:
    shop.write("first", "second", "third")
    shop.write("by the platform", source="heroku")
    newest = ["--num", "2", "--source", "app", "--dyno-name", "web.1"]
    with ThreadPoolExecutor() as pool:  # each spends most of its time asleep
        everything = pool.submit(cli.run, "logs", "-a", "shop")
        filtered = pool.submit(cli.run, "logs", "-a", "shop", *newest)
        processes = pool.submit(cli.run, "logs", "-a", "shop", "--process-type", "web", "--num", "1")
        forbidden = pool.submit(cli.run, "logs", "-a", "other", code=2)
    output, _ = everything.result()
    assert texts(output) == ["first", "second", "third", "by the platform"]
    assert output.splitlines()[0] == "2026-01-02T03:04:05.678901+00:00 app[web.1]: first"
    assert texts(filtered.result()[0]) == ["second", "third"]
    assert texts(processes.result()[0]) == ["by the platform"]
    assert "Couldn't find that app." in forbidden.result()[1]


def test_a_tail_is_live_and_goes_on_without_gap_or_repeat_when_its_body_ends(
    cli: Cli, shop: Shop, tmp_path: Path
) -> None:
    shop.write("line 0", "line 1")
    log = tmp_path / "log"
    command = [*cli.command, "logs", "-a", "shop", "--tail", "--num", "1"]

    def shown() -> list[str]:
        return [text for text in texts(log.read_text()) if text.startswith("line ")]

    with running(command, log=log, ready=lambda: shown() == ["line 1"], environment=cli.environment):
        shop.write("line 2")
        wait_until(lambda: len(shown()) == 2, "the live line")
        before = shop.proxy.connections
        shop.proxy.end_bodies()
        shop.write("line 3", "line 4")
        wait_until(lambda: shop.proxy.connections > before, "the tail connects again")
        wait_until(lambda: len(shown()) == 4, "the lines of the meantime")
        shop.write("line 5")
        wait_until(lambda: len(shown()) == 5, "a line after it")
        assert shown() == ["line 1", "line 2", "line 3", "line 4", "line 5"]


def test_drains_are_added_listed_and_removed(cli: Cli, shop: Shop) -> None:
    output, _ = cli.run("drains:add", DRAIN, "-a", "shop")
    assert output == f"Successfully added drain {DRAIN}\n"
    (drain,) = json.loads(cli.run("drains", "-a", "shop", "--json")[0])
    assert (drain["url"], drain["addon"]) == (DRAIN, None)
    output, _ = cli.run("drains", "-a", "shop", "--extended")
    (known,) = shop.server.json("GET", "/v3/channels/shop/drains")["drains"]
    assert f"{DRAIN} ({drain['token']}) drain_id={known['id']}" in output
    assert cli.run("drains:remove", DRAIN, "-a", "shop")[0] == f"Successfully removed drain {DRAIN}\n"
    assert shop.server.json("GET", "/v3/channels/shop/drains") == {"drains": []}
    _, error = cli.run("drains:add", "ftp://127.0.0.1/", "-a", "shop", code=2)
    assert "invalid_params" in error


def test_telemetry_drains_are_added_shown_changed_and_removed(cli: Cli, shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        url = f"http://127.0.0.1:{collector.getsockname()[1]}/otlp"
        headers = ["--headers", '{"X-Team":"secret"}']
        output, _ = cli.run("telemetry:add", url, "--app", "shop", *headers)
        assert url in output
        (drain,) = shop.server.json("GET", "/apps/shop/telemetry-drains")
        assert drain["id"] in cli.run("telemetry", "--app", "shop")[0]
        assert url in cli.run("telemetry:info", drain["id"])[0]
        shop.write("measured")
        connection, _ = collector.accept()
        with connection, connection.makefile("rb") as request:
            assert request.readline() == b"POST /otlp/v1/logs HTTP/1.1\r\n"
        cli.run("telemetry:update", drain["id"], "--endpoint", url + "/2")
        assert url + "/2" in cli.run("telemetry", "--app", "shop")[0] + cli.run("telemetry:info", drain["id"])[0]
        cli.run("telemetry:remove", drain["id"])
        assert shop.server.json("GET", "/apps/shop/telemetry-drains") == []
        _, error = cli.run("telemetry:add", url, "--app", "shop", "--transport", "grpc", code=2)
        assert "type must be otlphttp" in error


def test_a_key_shows_who_it_is_and_its_app_alone(cli: Cli) -> None:
    assert cli.run("auth:whoami")[0] == "shop-key\n"
    assert [app["name"] for app in json.loads(cli.run("apps", "--all", "--json")[0])] == ["shop"]
