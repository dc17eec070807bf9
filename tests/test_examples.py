"""Every example runs as it stands, against the real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import ROOT, Server, environment

EXAMPLES = ROOT / "examples"
LIMIT_SECONDS = 60.0


def url_of(server: Server, token: str) -> str:
    return f"http://token:{token}@{server.addresses['http']}/logs"


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_SECONDS,
    )


@contextmanager
def receiver(name: str, *arguments: str) -> Iterator["tuple[str, subprocess.Popen[str]]"]:
    """A receiver on a port of the kernel's choice: where it listens, and its process."""
    command = [sys.executable, str(EXAMPLES / name), "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stderr is not None
            listening = process.stderr.readline()
            assert listening.startswith("listening on "), listening
            yield listening.removeprefix("listening on ").strip(), process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "source", "processes"),
    [("dyno.py", "app", {"web.1", "worker.1"}), ("router.py", "heroku", {"router"}), ("build.py", "app", {"api"})],
)
def test_a_sender_logs_realistic_lines_and_stops_by_itself(
    name: str, source: str, processes: set[str], server: Server
) -> None:
    tokens = server.create("shop", "app", "heroku")
    ended = run(name, url_of(server, tokens[source]), "--count", "14", "--seconds", "0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    lines = [line.decode() for line in server.read("shop")]
    assert len(lines) == 14
    headers = {line.split(" ")[1] for line in lines}
    assert headers <= {f"{source}[{process}]:" for process in processes}


def test_a_sender_says_when_the_server_refuses_it(server: Server) -> None:
    ended = run("build.py", url_of(server, "t.00000000-0000-4000-8000-000000000000"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("the server answered 401")


def test_the_http_receiver_prints_every_line_once(server: Server) -> None:
    tokens = server.create("shop")
    with receiver("http_receiver.py", "--lines", "30") as (url, process):
        server.json("POST", "/v3/channels/shop/drains", {"url": url})
        assert run("dyno.py", url_of(server, tokens["app"]), "--count", "30", "--seconds", "0").returncode == 0
        printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0
    assert texts(printed) == [line.decode().split(": ", 1)[1].rstrip("\n") for line in server.read("shop")]


def texts(printed: str) -> list[str]:
    """MSG of what a receiver printed: `<PRI>1 TIME HOST SOURCE PROCESS - TEXT`."""
    return [line.split(" ", 6)[6] for line in printed.splitlines()]


def test_the_syslog_receiver_prints_every_line_in_order(server: Server) -> None:
    tokens = server.create("shop")
    with receiver("syslog_receiver.py", "--lines", "30") as (address, process):
        drain = server.json("POST", "/v3/channels/shop/drains", {"url": f"syslog://{address}"})
        assert run("dyno.py", url_of(server, tokens["app"]), "--count", "30", "--seconds", "0").returncode == 0
        printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0
    lines = printed.splitlines()
    assert all(line.startswith(drain["token"][:10] + " ") for line in lines)
    assert drain["token"] not in printed
    expected = [line.decode().split(" ", 1)[1].rstrip("\n") for line in server.read("shop")]
    assert [line.split(" ", 2)[2] for line in lines] == expected


def body(*texts: str) -> bytes:
    messages = [f"<190>1 2024-05-01T12:00:00Z host app web.1 - {text}\n".encode() for text in texts]
    return b"".join(b"%d %s" % (len(message), message) for message in messages)


def test_the_http_receiver_removes_repeats_by_id_and_by_range() -> None:
    import http.client

    deliveries = [
        ("A", "e/0-1", body("zero", "one")),
        ("A", "e/0-1", body("zero", "one")),  # the same again
        ("B", "e/0-3", body("zero", "one", "two", "three")),  # cut anew after a crash
        ("C", "e/2-3", body("two", "three")),
        ("D", "f/0-0", body("a new epoch")),
    ]
    with receiver("http_receiver.py", "--lines", "5", "--token", "d.x") as (url, process):
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
        for frame_id, covered, content in deliveries:
            headers = {"Logplex-Frame-Id": frame_id, "Logplex-Range": covered, "Logplex-Drain-Token": "d.x"}
            count = str(len(re.findall(rb"<190>", content)))
            connection.request("POST", "/", content, headers | {"Logplex-Msg-Count": count})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 204
        printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert texts(printed) == ["zero", "one", "two", "three", "a new epoch"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Logplex-Drain-Token": "d.y"}, 403),
        ({"Logplex-Msg-Count": "3"}, 400),
        ({"Logplex-Range": "nonsense"}, 400),
    ],
)
def test_the_http_receiver_refuses_what_is_not_its_drains(headers: dict[str, str], status: int) -> None:
    import http.client

    good = {"Logplex-Frame-Id": "A", "Logplex-Range": "e/0-0", "Logplex-Drain-Token": "d.x", "Logplex-Msg-Count": "1"}
    with receiver("http_receiver.py", "--token", "d.x") as (url, _):
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
        connection.request("POST", "/", body("x"), good | headers)
        assert connection.getresponse().status == status


def test_quickstart_shows_it_all_and_stops_by_itself(tmp_path: Path) -> None:
    logplex = tmp_path / "logplex"
    logplex.write_text(f'#!/bin/sh\nexec {sys.executable} -m logplex "$@"\n')
    logplex.chmod(0o755)
    ended = subprocess.run(
        ["bash", str(EXAMPLES / "quickstart.sh")],
        capture_output=True,
        text=True,
        env={**environment(), "LOGPLEX": str(logplex), "PYTHON": sys.executable, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        timeout=LIMIT_SECONDS,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    for shown in ("event=ready", "http://token:t.…@127.0.0.1:", "app[api]: Release v42", "app[shell.1]: hello from"):
        assert shown in ended.stdout
    assert os.listdir(tmp_path) == ["logplex"]
