"""`logplex ship`: every line of standard input, or of a command's output, to `/logs`.

* The command's signals, exit code and, with --tee, its output are as if we were not there: a full buffer drops lines
  rather than make it wait, and what could not be sent is told in the app's own stream (L12, L13).
* A Ctrl-C at the terminal reaches the command by itself; signals that only we were sent are handed on.
* Exit code: the command's (128 + n after signal n, 127 and 126 when it cannot be run); of standard input 0, or 1 when
  lines were lost.
"""

import os
import selectors
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

import click

from .. import config
from .channels import logs_url, missing
from .client import Failed, Server, find_server, parse_url, part
from .lineup import Buffer, Header, Lines
from .sender import Sender
from .terminal import note

READ_BYTES = 65536
AFTER_EXIT_SECONDS = 1.0  # for output that a command's children still hold when it has gone
GRACE_SECONDS = 30.0
LOCAL7 = 23 * 8  # the facility that log-shuttle uses
SEVERITIES = ("emerg", "alert", "crit", "error", "warning", "notice", "info", "debug")
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ENDING = (signal.SIGTERM, signal.SIGINT)
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


class Stopped(Exception):
    """A signal asks us to end; its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("command", nargs=-1)
@click.option("-a", "--app", metavar="APP", help="The app to write into [default: that of LOGPLEX_LOGS_URL].")
@click.option("--source", default="app", show_default=True, help="With -a: the token's name.")
@click.option("--ps", "process", default="ship", show_default=True, help="The process that readers see: web.1.")
@click.option("--severity", type=click.Choice(SEVERITIES), default="info", show_default=True)
@click.option("--tee", is_flag=True, help="Show the lines here too.")
@click.option("--wait/--drop", default=None, help="When the buffer is full [default: --drop, but --wait for a file].")
@click.option("--grace", type=click.FloatRange(min=0), default=GRACE_SECONDS, show_default=True, metavar="SECONDS",
              help="Time for what is left after the end of the input.")  # fmt: skip
@click.option("--data-dir", metavar="DIR", help="With -a: talk to the server that runs on this directory.")
def ship(
    command: tuple[str, ...],
    app: str | None,
    source: str,
    process: str,
    severity: str,
    tee: bool,
    wait: bool | None,
    grace: float,
    data_dir: str | None,
) -> int:
    """Send lines: those of standard input, or of COMMAND's output (`logplex ship -a shop -- ./server --port 80`).

    Where to: the app of -a, or the log input URL in LOGPLEX_LOGS_URL (as `logplex channels create` prints it).
    """
    logs = _find_logs(app, source, data_dir)
    header = Header(LOCAL7 + SEVERITIES.index(severity), socket.gethostname(), "token", process)
    if wait is None:
        wait = not command and stat.S_ISREG(os.fstat(0).st_mode)
    buffer = Buffer(header, wait=wait)
    sender = Sender(logs, buffer, grace_seconds=grace)
    code = _ship_command(command, buffer, sender, tee=tee) if command else _ship_input(buffer, sender, tee=tee)
    if buffer.lost_lines:
        note(f"{buffer.lost_lines} lines were lost")
        return code or (0 if command else 1)
    return code


def _find_logs(app: str | None, source: str, data_dir: str | None) -> Server:
    """Where lines go, with the token that may write there."""
    url = config.logs_url()
    if app is None:
        if url is None:
            raise click.UsageError("say where to send: -a APP, or LOGPLEX_LOGS_URL=http://token:t.…@host:8001/logs")
        hint = "check LOGPLEX_LOGS_URL"
    else:
        server = find_server(data_dir)
        found = server.call("GET", f"/v3/channels/{part(app)}", missing=missing(app)).get("tokens", {})
        if source not in found:
            raise Failed(f"the app {app} has no token {source}: `logplex tokens create {source} -a {app}`")
        url, hint = logs_url(server, found[source]), server.hint
    if "//token:t." not in url:
        raise Failed("LOGPLEX_LOGS_URL must hold a token: http://token:t.…@host:8001/logs")
    return parse_url(url, "LOGPLEX_LOGS_URL", hint)


def _ship_input(buffer: Buffer, sender: Sender, *, tee: bool) -> int:
    def stop(number: int, _frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_DFL)  # the second one ends us at once
        raise Stopped(number)

    for number in ENDING:
        signal.signal(number, stop)
    sender.start()
    code = 0
    lines = Lines()
    try:
        while received := os.read(0, READ_BYTES):
            if tee:
                tee = _write(1, received)
            buffer.put(lines.feed(received), time.time())
        buffer.put(lines.end(), time.time())
    except Stopped as exc:
        code = 128 + exc.number
        buffer.put(lines.end(), time.time(), wait=False)
    sender.finish()
    return code


def _ship_command(command: Sequence[str], buffer: Buffer, sender: Sender, *, tee: bool) -> int:
    """Run it and ship what it writes; one pipe keeps the order of both its outputs, --tee needs them apart."""
    try:
        process = subprocess.Popen(  # noqa: S603 - running what the user names is the command's purpose
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE if tee else subprocess.STDOUT, bufsize=0
        )
    except OSError as exc:
        note(f"cannot run {command[0]}: {exc.strerror}")
        return 127 if isinstance(exc, FileNotFoundError) else 126

    def forward(number: int, _frame: FrameType | None) -> None:
        if number not in FROM_TERMINAL or not _in_foreground():
            process.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    sender.start()
    _copy_outputs(process, buffer, tee=tee)
    code = process.wait()
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)  # there is nobody left to hand them on to
    sender.finish()
    return 128 - code if code < 0 else code


def _in_foreground() -> bool:
    """Whether the terminal sends its signals to our whole group, the command included."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _copy_outputs(process: "subprocess.Popen[bytes]", buffer: Buffer, *, tee: bool) -> None:
    """Read until the end of all outputs, or until a while after the command has gone."""
    exited = os.pidfd_open(process.pid)
    open_outputs = 0
    timeout = None
    with selectors.DefaultSelector() as selector:
        selector.register(exited, selectors.EVENT_READ)
        for number, output in ((1, process.stdout), (2, process.stderr)):
            if output is not None:
                selector.register(output, selectors.EVENT_READ, (Lines(), number))
                open_outputs += 1
        while open_outputs:
            ready = selector.select(timeout)
            if not ready:
                break
            for key, _ in ready:
                if key.data is None:
                    selector.unregister(exited)
                    timeout = AFTER_EXIT_SECONDS
                    continue
                lines, number = key.data
                received = os.read(key.fd, READ_BYTES)
                if tee and received:
                    _write(number, received)
                buffer.put(lines.feed(received) if received else lines.end(), time.time())
                if not received:
                    selector.unregister(key.fileobj)
                    open_outputs -= 1
    os.close(exited)


def _write(descriptor: int, data: bytes) -> bool:
    """Show what was read; whether somebody still reads it."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True
