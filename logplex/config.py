"""Every setting with its default, its unit and the reason for it; and the environment.

* One field of `Settings` is one option of `logplex serve`, one environment variable
  (`LOGPLEX_` and the field's name in capitals) and one line of its help.
* Only this module reads the environment; modules are handed the values that they need.
* Sizes are bytes, times are seconds, and the name says so. People may write `64MiB` or `10m`.
* No secret is an option (`ps` shows those): a secret is a variable, or the content of a file.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import SetupError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def _setting(default: Any, help: str, *, choices: tuple[str, ...] = (), metavar: str = "") -> Any:
    """A field with the text that `--help` shows for it; a tuple default may be given several times."""
    return field(default=default, metadata={"help": help, "choices": choices, "metavar": metavar})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one server runs with; immutable after the start."""

    # Where it lives and listens.
    data_dir: str = _setting("./logplex-data", "directory of config.db, the spool and the admin file", metavar="DIR")
    http: str = _setting("127.0.0.1:8001", "all HTTP: API, /logs, sessions, page", metavar="HOST:PORT")
    logs: str = _setting("", "HTTP with /logs, /sessions and health only", metavar="HOST:PORT")
    syslog: str = _setting("127.0.0.1:6001", "syslog over TCP", metavar="HOST:PORT")
    syslog_udp: str = _setting("", "syslog over UDP", metavar="HOST:PORT")
    syslog_tls: str = _setting("", "syslog over TLS", metavar="HOST:PORT")
    https: str = _setting("", "as --http, over TLS", metavar="HOST:PORT")
    tls_cert: str = _setting("", "certificate chain of the TLS listeners, PEM", metavar="FILE")
    tls_key: str = _setting("", "private key of the TLS listeners, PEM", metavar="FILE")
    admin_file: str = _setting("", "file with one line ID:PASSWORD, a credential with all permissions", metavar="FILE")
    public_url: str = _setting("", "prefix of session URLs and Location [default: the request's Host]", metavar="URL")
    log_format: str = _setting("logfmt", "format of the server's own log", choices=("logfmt", "json"))

    # What survives.
    durability: str = _setting(
        "commit", "what a 204 survives: a clean stop, kill -9, power loss", choices=("none", "commit", "fsync")
    )
    when_degraded: str = _setting(
        "accept", "with a failing disk: serve from memory, or hold and close", choices=("accept", "refuse")
    )
    group_seconds: float = _setting(
        0.02, "longest wait of a line that nobody waits for until its group commits, at less than full load"
    )
    busy_poll_seconds: float = _setting(
        0.0, "looking for work before each sleep: where lines come more often, less latency for a whole core"
    )
    commit_timeout_seconds: float = _setting(3.0, "a commit that takes longer means a degraded store")
    uncommitted_bytes: int = _setting(128 * MIB, "lines waiting for their commit; above it inputs wait")

    # History.
    history_lines: int = _setting(1500, "lines a channel keeps whatever others write (the original's number)")
    history_seconds: int = _setting(7 * 86400, "age at which lines are forgotten (a week, as Heroku)")
    channel_bytes: int = _setting(256 * MIB, "spool of one channel")
    spool_bytes: int = _setting(10 * GIB, "spool of all channels, at most half the free space; 0: none at all")
    ring_lines: int = _setting(65_536, "newest lines of a channel held in memory: what all inputs take in a few turns")
    ring_bytes: int = _setting(16 * MIB, "newest lines of a channel held in memory")
    rings_bytes: int = _setting(128 * MIB, "all rings together: some seconds of a full load")

    # Inputs.
    max_frame_bytes: int = _setting(64 * KIB, "longest frame; log-shuttle's and rsyslog's usual maximum")
    max_body_bytes: int = _setting(10 * MIB, "body of a /logs request as sent, and again as inflated")
    max_json_bytes: int = _setting(64 * KIB, "body of a management request")
    max_header_bytes: int = _setting(32 * KIB, "header section of a request")
    header_seconds: float = _setting(10.0, "a header section that takes longer is answered 408")
    body_bytes_per_second: int = _setting(1024, "a body slower than this over 10 s is answered 408")
    unfinished_body_bytes: int = _setting(256 * MIB, "unfinished request bodies together; 1/8 of it a principal")
    idle_connection_seconds: float = _setting(300.0, "an HTTP connection without a request is closed")
    count_mismatch: str = _setting(
        "strict",
        "a wrong Logplex-Msg-Count is refused, or counted (log-shuttle's lprfc5424 mode sends wrong ones)",
        choices=("strict", "lenient"),
    )
    duplicate_seconds: float = _setting(300.0, "window in which a repeated request id is not stored again")
    duplicate_ids: int = _setting(1_000_000, "request ids remembered; a full table shortens the window")
    connections: int = _setting(0, "accepted connections at once [default: from the limit of open files]")

    # Sessions.
    session_seconds: float = _setting(360.0, "a session URL lives this long after creation or its last stream")
    session_max_seconds: float = _setting(86400.0, "and at most this long")
    heartbeat_seconds: float = _setting(10.0, "silence after which an SSE tail gets a heartbeat (15 are promised)")

    # Drains.
    drain_allow: tuple[str, ...] = _setting(
        (), "address range that drains may dial beside public ones", metavar="CIDR"
    )
    drain_ports: tuple[str, ...] = _setting((), "ports that drains may dial [default: all but 0]", metavar="PORTS")
    drain_ca_file: str = _setting("", "CA certificates for drains beside the system's, PEM", metavar="FILE")
    drains_per_channel: int = _setting(6, "drains of one channel (the original's number)")
    drain_batch_bytes: int = _setting(102_400, "body of a delivery (the original's number)")
    drain_max_batch_bytes: int = _setting(MIB, "body of a delivery of a drain that is behind")
    drain_connect_seconds: float = _setting(3.0, "a drain's connect, TLS included (the original's number)")
    drain_request_seconds: float = _setting(30.0, "one delivery from first byte to answer")
    drain_idle_seconds: float = _setting(144.0, "an idle drain connection is closed (the original's number)")
    drain_life_seconds: float = _setting(5 * 3600.0, "a drain connection is renewed (the original's number)")
    drain_backoff_seconds: float = _setting(1.0, "first back-off of a failing drain")
    drain_max_backoff_seconds: float = _setting(300.0, "longest back-off of a failing drain")
    drain_rendered_bytes: int = _setting(128 * MIB, "deliveries rendered at once; 1/64 of it an app")
    drain_grace_seconds: float = _setting(10.0, "time that drains have to finish after SIGTERM")


LISTENERS = ("http", "https", "logs", "syslog", "syslog_tls", "syslog_udp")  # the settings that are HOST:PORT


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "LOGPLEX_" + name.upper()


def from_environment(environ: Mapping[str, str] = os.environ, **given: Any) -> Settings:
    """Settings from the environment under the options `given` (None: not given).

    Repeatable settings are comma-separated in the environment. Raises SetupError that names the variable or option.
    """
    values = {name: value for name, value in given.items() if value is not None and value != ()}
    for setting in fields(Settings):
        text = environ.get(variable(setting.name))
        if setting.name not in values and text:
            values[setting.name] = convert(variable(setting.name), text, setting.default, setting.metadata["choices"])
    settings = Settings(**values)
    _check(settings)
    return settings


def convert(name: str, text: str, default: Any, choices: tuple[str, ...] = ()) -> Any:
    """`text` as a value of the type that `default` has; SetupError names the option or variable `name`."""
    if choices and text not in choices:
        raise SetupError(f"{name} must be one of {', '.join(choices)}, not {text!r}")
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, str):
        return text
    units = _TIMES if name.lower().replace("-", "_").endswith("_seconds") else _SIZES
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].lower() not in units:
        example = "10 or 10m" if units is _TIMES else "1000 or 64MiB"
        raise SetupError(f"{name} must be a number such as {example}, not {text!r}")
    number = float(match[1]) * units[match[2].lower()]
    if isinstance(default, int) and not number.is_integer():
        raise SetupError(f"{name} must be a whole number, not {text!r}")
    return type(default)(number)


_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB}


def _check(settings: Settings) -> None:
    for name in LISTENERS:
        text = getattr(settings, name)
        if text:
            address("--" + name.replace("_", "-"), text)
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SetupError("--tls-cert and --tls-key belong together: give both files")
    if (settings.https or settings.syslog_tls) and not settings.tls_cert:
        raise SetupError("--https and --syslog-tls need --tls-cert FILE and --tls-key FILE")
    if not settings.spool_bytes and settings.durability != "none":
        raise SetupError(f"--spool-bytes 0 needs --durability none: {settings.durability} promises to keep lines")


def address(name: str, text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[::1]:PORT` or `:PORT` (all addresses); port 0 is one of the kernel's choice."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not bracketed):
        raise SetupError(f"{name} must be HOST:PORT such as 127.0.0.1:8001 or [::1]:8001, not {text!r}")
    return host[1:-1] if bracketed else host, int(port)


def admin(settings: Settings, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Id and password of the admin credential that was given: LOGPLEX_ADMIN (the line itself), else --admin-file.

    None: none was given, the server makes one. Raises SetupError, which never shows the line.
    """
    line, where = environ.get("LOGPLEX_ADMIN"), "LOGPLEX_ADMIN"
    if not line and settings.admin_file:
        where = settings.admin_file
        try:
            line = Path(settings.admin_file).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
            raise SetupError(f"cannot read the admin file {where}: {reason}") from exc
    if not line:
        return None
    id_, colon, password = line.strip().partition(":")
    if not (id_ and colon and password) or "\n" in password:
        raise SetupError(f"{where} must be one line ID:PASSWORD")
    return id_, password


def without_settings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a server of our own that none of the LOGPLEX_* variables is meant for."""
    return {name: value for name, value in environ.items() if not name.startswith("LOGPLEX_")}


def client_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """`LOGPLEX_URL`, the server that client commands talk to: `http://id:password@host:8001`."""
    return environ.get("LOGPLEX_URL") or None


def logs_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """`LOGPLEX_LOGS_URL`, where `logplex ship` sends lines: `http://token:t.…@host:8001/logs`."""
    return environ.get("LOGPLEX_LOGS_URL") or None


def data_dir(environ: Mapping[str, str] = os.environ) -> str:
    """The local server's data directory, for client commands without --data-dir."""
    return environ.get(variable("data_dir")) or str(Settings().data_dir)


def no_colour(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether colours are unwanted on a terminal too (https://no-color.org, and terminals that have none)."""
    return bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
