import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logplex.cli.serve import shown_default
from logplex.config import Settings

from ..conftest import Server, environment

LIMIT_SECONDS = 30.0


def test_the_ready_event_names_the_addresses_that_the_kernel_chose(server: Server) -> None:
    for listener in ("http", "syslog"):
        host, port = server.address(listener)
        assert host == "127.0.0.1"
        assert port != 0
        socket.create_connection((host, port), timeout=LIMIT_SECONDS).close()


def test_sigterm_and_sigint_end_it_with_exit_code_0(make_server: Callable[..., Server]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        assert make_server().start().stop(number) == 0


def test_only_the_owner_can_read_what_the_server_leaves_for_the_other_commands(server: Server) -> None:
    for name in ("admin", "http"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600, name
    assert re.fullmatch(r"[^:\s]+:\S{40,}\n?", (server.data_dir / "admin").read_text())
    assert (server.data_dir / "http").read_text().strip() == server.url


def test_a_second_server_on_the_same_data_is_one_line_and_exit_code_1(server: Server) -> None:
    ended = serve(server.data_dir)
    assert ended.returncode == 1
    assert ended.stderr.count("logplex: ") == 1
    assert ended.stderr.splitlines()[-1].startswith("logplex: ")


def test_an_address_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = serve(tmp_path / "data", "--http", address)
    assert ended.returncode == 1
    assert address in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_the_admin_credential_may_be_given(make_server: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text("ops:a long enough password\n")
    server = make_server("--admin-file", str(file)).start()
    status, _ = server.request("GET", "/v3/status", Authorization=basic("ops", "a long enough password"))
    assert status == 200
    server.stop()
    server = make_server(LOGPLEX_ADMIN="boss:another long password").start()
    status, _ = server.request("GET", "/v3/status", Authorization=basic("boss", "another long password"))
    assert status == 200


def basic(name: str, password: str) -> str:
    from logplex.cli.client import basic

    return basic(name, password)


def serve(data_dir: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """A server that is expected to end by itself."""
    given = ("--http", "127.0.0.1:0", "--syslog", "127.0.0.1:0", "--data-dir", str(data_dir))
    return subprocess.run(
        [sys.executable, "-m", "logplex", "serve", *given, *options],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_SECONDS,
    )


def test_a_person_at_a_terminal_is_greeted_with_the_credential_once_and_lines_that_work(tmp_path: Path) -> None:
    first, second = greeting(tmp_path), greeting(tmp_path)
    admin = (tmp_path / "data" / "admin").read_text().strip()
    assert admin in first
    assert admin not in second
    for shown in (first, second):
        lines = [line.strip() for line in shown.splitlines() if f"--data-dir {tmp_path / 'data'}" in line]
        assert [re.search(r"logplex (\w+)", line)[1] for line in lines] == ["channels", "ship", "tail"]  # type: ignore[index]


def greeting(directory: Path) -> str:
    """What a terminal shows of a server that is stopped when it has said how to follow an app."""
    ours, theirs = pty.openpty()
    given = ("--http", "127.0.0.1:0", "--syslog", "127.0.0.1:0", "--data-dir", str(directory / "data"))
    server = subprocess.Popen(
        [sys.executable, "-m", "logplex", "serve", *given],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**environment(), "NO_COLOR": "1"},
    )
    os.close(theirs)
    shown = b""
    try:
        while b" tail shop" not in shown or not shown.endswith(b"\n"):
            shown += os.read(ours, 65536)
    finally:
        server.terminate()
        server.wait(LIMIT_SECONDS)
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("http", "127.0.0.1:8001"),
        ("syslog_udp", "off"),
        ("tls_cert", "none"),
        ("history_seconds", "7 d"),
        ("group_seconds", "0.02"),
        ("max_body_bytes", "10 MiB"),
        ("drain_batch_bytes", "100 KiB"),
        ("history_lines", "1500"),
    ],
)
def test_help_shows_defaults_as_people_write_them(setting: str, shown: str) -> None:
    assert shown_default(Settings.__dataclass_fields__[setting]) == shown


def test_a_lost_admin_password_is_replaced_while_the_server_is_stopped(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    lost = server.authorization
    refused = reset_admin(server.data_dir)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    server.stop()
    made = reset_admin(server.data_dir)
    assert made.returncode == 0, made.stderr
    server.start()
    assert made.stdout.strip() == ":".join(server.admin)
    assert server.request("GET", "/v3/status")[0] == 200
    assert server.request("GET", "/v3/status", Authorization=lost)[0] == 401


def reset_admin(data_dir: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "logplex", "credentials", "reset-admin", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_SECONDS,
    )
