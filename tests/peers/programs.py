"""Where programs of other projects are, and how they run beside a test.

* A path in `LOGPLEX_TEST_RSYSLOG` (a folder with rsyslog's packages unpacked in it), `LOGPLEX_TEST_SYSLOG_NG` or
  `LOGPLEX_TEST_NGINX` wins over what is installed; `.ci/peers` prints what it set up.
* They run in the foreground, on loopback ports that were free, with configurations of ours, never as a service, and
  end with the block that started them.
* Ready is what the kernel says: the port accepts, or the datagram socket is there. No sleep longer than a poll.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

READY_SECONDS = 20.0


def find(name: str, variable: str) -> str | None:
    """The path of a program: the environment's word, else what is installed (daemons are not on everybody's PATH)."""
    given = os.environ.get(variable)
    path = given or shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return path if path and Path(path).exists() else None


def rsyslogd() -> list[str] | None:
    """The command that starts rsyslogd, with the folder of its modules; None when there is no rsyslog."""
    folder = os.environ.get("LOGPLEX_TEST_RSYSLOG")
    if not folder:
        installed = find("rsyslogd", "LOGPLEX_TEST_RSYSLOGD")
        return [installed] if installed else None
    modules = next(Path(folder).glob("usr/lib/*/rsyslog"), None)
    program = Path(folder, "usr/sbin/rsyslogd")
    return [str(program), "-M", str(modules)] if modules and program.exists() else None


def syslog_ng() -> list[str] | None:
    """The command that starts syslog-ng; None when there is none."""
    path = find("syslog-ng", "LOGPLEX_TEST_SYSLOG_NG")
    return [path] if path else None


def nginx() -> list[str] | None:
    """The command that starts nginx; None when there is none."""
    path = find("nginx", "LOGPLEX_TEST_NGINX")
    return [path] if path else None


def needed(command: list[str] | None, name: str) -> list[str]:
    """The command; without one the test is skipped, in CI it fails: there every peer has to be met."""
    if command is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return command


def start_rsyslog(work: Path, configuration: str) -> list[str]:
    """Write the configuration and return the command that runs it in the foreground."""
    command = needed(rsyslogd(), "rsyslog")
    (work / "rsyslog.conf").write_text(configuration)
    return [*command, "-n", "-f", str(work / "rsyslog.conf"), "-i", str(work / "rsyslog.pid")]


def start_syslog_ng(work: Path, configuration: str) -> list[str]:
    """Write the configuration and return the command that runs it in the foreground."""
    command = needed(syslog_ng(), "syslog-ng")
    (work / "syslog-ng.conf").write_text(configuration)
    files = ["-f", "syslog-ng.conf", "-R", "persist", "-c", "ctl", "-p", "pid"]
    paths = [str(work / name) if not name.startswith("-") else name for name in files]
    return [*command, "-F", "--no-caps", *paths]


def accepts(port: int) -> bool:
    """Whether something accepts TCP connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def binds_datagrams(port: int) -> bool:
    """Whether something has the UDP port: the kernel does not let us have it as well."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def certificates(folder: Path) -> dict[str, str]:
    """Files of a certificate for 127.0.0.1, its key, and the authority that signed it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    paths = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    certificate.private_key_pem.write_to_path(paths["key"])
    Path(paths["cert"]).write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return paths


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = READY_SECONDS) -> None:
    """Poll until `true`; fails, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
        time.sleep(0.01)


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    ready: Callable[[], bool],
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program from when it is ready to the end of the block; its output goes to the file `log`.

    `core` pins it to one processor. It gets SIGTERM and 10 s, then SIGKILL.
    """

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=pin, env=environment
        )

    def started() -> bool:
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-4000:]}"
        return ready()

    try:
        wait_until(started, f"{command[0]} is ready")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
