"""Every setting with its default, its unit and the reason for it; and the environment.

* One field of `Settings` is one option of `logplex serve`, one environment variable
  (`LOGPLEX_` and the field's name in capitals) and one line of its help.
* Only this module reads the environment; modules are handed the values that they need.
* Sizes are bytes, times are seconds, and the name says so.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
    data_dir: str = _setting("./logplex-data", "directory of config.db, spool.db and the admin file", metavar="DIR")
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
        "commit", "what a 204 survives: nothing, kill -9, power loss", choices=("none", "commit", "fsync")
    )
    when_degraded: str = _setting(
        "accept", "with a failing disk: serve from memory, or hold and close", choices=("accept", "refuse")
    )
    group_seconds: float = _setting(0.02, "longest wait of a line that nobody waits for until its group commits")
    commit_timeout_seconds: float = _setting(3.0, "a commit that takes longer means a degraded store")
    uncommitted_bytes: int = _setting(64 * MIB, "lines waiting for their commit; above it inputs wait")

    # History.
    history_lines: int = _setting(1500, "lines a channel keeps whatever others write (the original's number)")
    history_seconds: int = _setting(7 * 86400, "age at which lines are forgotten (a week, as Heroku)")
    channel_bytes: int = _setting(256 * MIB, "spool of one channel")
    spool_bytes: int = _setting(10 * GIB, "spool of all channels; at most half the free space is taken")
    ring_lines: int = _setting(20_000, "newest lines of a channel held in memory")
    ring_bytes: int = _setting(4 * MIB, "newest lines of a channel held in memory")
    rings_bytes: int = _setting(256 * MIB, "all rings together")

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


def from_environment(environ: Mapping[str, str] = os.environ, **given: Any) -> Settings:
    """Settings from the environment under the options `given` (None: not given).

    Repeatable settings are comma-separated in the environment. Raises SetupError that names the variable.
    """
    values = {name: value for name, value in given.items() if value is not None and value != ()}
    for setting in fields(Settings):
        variable = "LOGPLEX_" + setting.name.upper()
        text = environ.get(variable)
        if setting.name in values or not text:
            continue
        choices = setting.metadata["choices"]
        if choices and text not in choices:
            raise SetupError(f"{variable} must be one of {', '.join(choices)}")
        values[setting.name] = _convert(variable, text, setting.default)
    return Settings(**values)


def _convert(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return type(default)(text)
    except ValueError as exc:
        raise SetupError(f"{variable} must be a number, not {text!r}") from exc


def client_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """`LOGPLEX_URL`, the server that client commands talk to."""
    return environ.get("LOGPLEX_URL")


def admin_line(environ: Mapping[str, str] = os.environ) -> str | None:
    """`LOGPLEX_ADMIN`, the line `ID:PASSWORD` itself (secrets are never options: `ps` shows those)."""
    return environ.get("LOGPLEX_ADMIN")
