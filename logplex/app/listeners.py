"""The listening sockets of one server, by what is served on them."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..config import Settings
from ..errors import SetupError
from ..inputs.listening import listen_tcp, listen_udp

Sockets = list[socket.socket]


@dataclass(slots=True)
class Listeners:
    """Bound sockets; an option that is off has none. Who serves a socket closes it; `close` closes those left."""

    http: Sockets = field(default_factory=list)
    https: Sockets = field(default_factory=list)
    logs: Sockets = field(default_factory=list)
    syslog: Sockets = field(default_factory=list)
    syslog_tls: Sockets = field(default_factory=list)
    syslog_udp: Sockets = field(default_factory=list)

    @classmethod
    def bind(cls, settings: Settings) -> "Listeners":
        """Bind everything that the settings ask for; raises SetupError and leaves nothing bound."""
        if (settings.https or settings.syslog_tls) and not (settings.tls_cert and settings.tls_key):
            raise SetupError("--https and --syslog-tls need --tls-cert and --tls-key")
        listeners = cls()
        try:
            listeners.http = _tcp("--http", settings.http)
            listeners.https = _tcp("--https", settings.https)
            listeners.logs = _tcp("--logs", settings.logs)
            listeners.syslog = _tcp("--syslog", settings.syslog)
            listeners.syslog_tls = _tcp("--syslog-tls", settings.syslog_tls)
            if settings.syslog_udp:
                listeners.syslog_udp = listen_udp(*_place("--syslog-udp", settings.syslog_udp))
        except BaseException:
            listeners.close()
            raise
        return listeners

    def close(self) -> None:
        """Close all of them."""
        for sock in self._all():
            sock.close()

    def addresses(self) -> list[tuple[str, int]]:
        """Where we listen: drains never dial these."""
        return [sock.getsockname()[:2] for sock in self._all()]

    def names(self) -> dict[str, str]:
        """The real addresses, `HOST:PORT` by option, for the `ready` event."""
        kinds = ("http", "https", "logs", "syslog", "syslog_tls", "syslog_udp")
        return {kind: _name(getattr(self, kind)[0]) for kind in kinds if getattr(self, kind)}

    def base_url(self, public_url: str) -> str:
        """Where the commands of this machine find the API."""
        if self.http:
            return f"http://{_name(self.http[0])}"
        return f"https://{_name(self.https[0])}" if self.https else public_url

    def _all(self) -> Iterable[socket.socket]:
        yield from self.http
        yield from self.https
        yield from self.logs
        yield from self.syslog
        yield from self.syslog_tls
        yield from self.syslog_udp


def _tcp(option: str, text: str) -> Sockets:
    return listen_tcp(*_place(option, text)) if text else []


def _place(option: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise SetupError(f"{option} must be HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)


def _name(sock: socket.socket) -> str:
    """An address that can be dialled: the unspecified one is shown as loopback."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
