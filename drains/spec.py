"""What a drain is made of: id, token, URL and the options that its owner chose.

Rules:

* Nonsense is Unprocessable, and the text begins with the option's name.
* `to_dict` is what is stored and parsed again; `shown` is what anybody may see: values of headers and the client's
  key are `***`.
* A drain whose lines go out as the channel rendered them is `plain`: it shares those bytes with others. Any of
  `format`, `filter` and `compress` makes lines be rendered for that drain alone.
* Certificates and keys are PEM text, never paths: a path would be one of the server's files.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from logplex.errors import Unprocessable
from logplex.filters import Filter

from . import url as drain_url
from .tls import TlsOptions, make_context
from .url import DrainUrl, Kind

MIN_BATCH_BYTES = 16 * 1024  # room for one frame of the longest kind
MAX_BATCH_BYTES = 1024 * 1024
MAX_LINGER_SECONDS = 60.0
MAX_HEADERS = 20
MAX_HEADER_BYTES = 4096
MAX_PEM_CHARACTERS = 64 * 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110 5.6.2
_OWN_HEADERS = re.compile(
    r"(?i)content-.*|logplex-.*|host|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect|user-agent"
)
_FINGERPRINT = re.compile(r"(?i)(?:sha-?256:)?([0-9a-f]{64}|[0-9a-f]{2}(?::[0-9a-f]{2}){31})")


class Format(Enum):
    """How a line looks on the way out."""

    LOGPLEX = "logplex-1"
    RFC5424 = "rfc5424"
    JSON = "json"
    OTLP = "otlp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an owner may choose; every field has a default."""

    format: Format | None = None
    compress: bool = False
    linger_seconds: float = 0.0
    batch_bytes: int = 0
    filter: Filter | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    start: str | int = "now"
    tls: TlsOptions = field(default_factory=TlsOptions)

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None, url: DrainUrl) -> "Options":
        """From the `options` of a request or of the store, for a drain with this URL. Raises Unprocessable."""
        given = given or {}
        if not isinstance(given, Mapping):
            raise Unprocessable("options: must be an object")
        unknown = [name for name in given if name not in _OPTIONS]
        if unknown:
            raise Unprocessable(f"{str(unknown[0])[:64]!r} is no option of drains: use {', '.join(_OPTIONS)}")
        values = {name: value for name, value in given.items() if value is not None}
        http_only = [name for name in ("compress", "headers", "linger", "batch_bytes") if name in values]
        if http_only and url.kind is not Kind.HTTP:
            raise Unprocessable(f"{http_only[0]}: is for drains over HTTP only")
        return cls(
            format=_format(values.get("format"), url),
            compress=_compress(values.get("compress")),
            linger_seconds=_number(values, "linger", 0.0, MAX_LINGER_SECONDS),
            batch_bytes=int(_number(values, "batch_bytes", 0, MAX_BATCH_BYTES, least=MIN_BATCH_BYTES)),
            filter=_filter(values.get("filter")),
            headers=_headers(values.get("headers")),
            start=_start(values.get("start")),
            tls=_tls(values, url),
        )

    def to_dict(self) -> dict[str, Any]:
        """What `parse` makes the same options of; JSON-able. Holds secrets."""
        stored: dict[str, Any] = {
            "format": self.format.value if self.format else None,
            "compress": "gzip" if self.compress else None,
            "linger": self.linger_seconds or None,
            "batch_bytes": self.batch_bytes or None,
            "filter": self.filter.to_mapping() if self.filter else None,
            "headers": dict(self.headers) or None,
            "start": None if self.start == "now" else self.start,
            "ca": self.tls.ca or None,
            "client_cert": self.tls.client_cert or None,
            "client_key": self.tls.client_key or None,
            "fingerprint": self.tls.fingerprint or None,
        }
        return {name: value for name, value in stored.items() if value is not None}

    def shown(self) -> dict[str, Any]:
        """As `to_dict`, without secrets."""
        shown = self.to_dict()
        if self.headers:
            shown["headers"] = {name: "***" for name, _ in self.headers}
        if self.tls.client_key:
            shown["client_key"] = "***"
        return shown

    @property
    def plain(self) -> bool:
        """Whether the channel's own rendering serves."""
        return self.format is None and self.filter is None and not self.compress


@dataclass(frozen=True, slots=True)
class DrainSpec:
    """One drain as its owner made it; `token` is `d.<uuid>`."""

    id: int
    token: str = field(repr=False)
    url: DrainUrl
    options: Options = field(default_factory=Options)

    @classmethod
    def parse(cls, id: int, token: str, url: str, options: Mapping[str, Any] | None = None) -> "DrainSpec":
        """Take URL and options apart. Raises Unprocessable."""
        parsed = drain_url.parse(url)
        return cls(id, token, parsed, Options.parse(options, parsed))


_OPTIONS = (
    "format",
    "compress",
    "linger",
    "batch_bytes",
    "filter",
    "headers",
    "start",
    "ca",
    "client_cert",
    "client_key",
    "fingerprint",
)
_USUAL_FORMAT = {Kind.HTTP: Format.LOGPLEX, Kind.SYSLOG: Format.RFC5424, Kind.UDP: Format.RFC5424}


def _format(value: object, url: DrainUrl) -> Format | None:
    if value is None:
        return None
    try:
        chosen = Format(value)
    except ValueError:
        raise Unprocessable(f"format: must be one of {', '.join(each.value for each in Format)}") from None
    if chosen is Format.OTLP and url.kind is not Kind.HTTP:
        raise Unprocessable("format: otlp is for drains over HTTP only")
    return None if chosen is _USUAL_FORMAT[url.kind] else chosen


def _compress(value: object) -> bool:
    if value in (None, False, "none"):
        return False
    if value in (True, "gzip"):
        return True
    raise Unprocessable("compress: must be gzip or none")


def _number(values: Mapping[str, Any], name: str, default: float, most: float, least: float = 0.0) -> float:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Unprocessable(f"{name}: must be a number from {least:g} to {most:g}")
    return float(value)


def _filter(value: object) -> Filter | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise Unprocessable("filter: must be an object")
    try:
        parsed = Filter.parse(value)
    except Unprocessable as exc:
        raise Unprocessable(f"filter: {exc}") from exc
    return None if parsed.trivial else parsed


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping) or len(value) > MAX_HEADERS:
        raise Unprocessable(f"headers: must be an object of at most {MAX_HEADERS} names and values")
    headers = []
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise Unprocessable(f"headers: {str(name)[:64]!r} is no name of a header")
        if _OWN_HEADERS.fullmatch(name):
            raise Unprocessable(f"headers: {name} is set by the drain itself")
        printable = isinstance(text, str) and all(" " <= c <= "~" or c == "\t" for c in text)
        if not printable or len(text) > MAX_HEADER_BYTES:
            raise Unprocessable(
                f"headers: the value of {name} must be printable ASCII, at most {MAX_HEADER_BYTES} bytes"
            )
        headers.append((name, text.strip()))
    return tuple(headers)


def _start(value: object) -> str | int:
    """`now`, `oldest`, a position, or a time as RFC 3339 text."""
    if value is None or value == "now":
        return "now"
    if value == "oldest":
        return "oldest"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            if moment.tzinfo is not None:
                return value
    raise Unprocessable("start: must be now, oldest, a position or a time like 2026-01-31T12:00:00Z")


def _tls(values: Mapping[str, Any], url: DrainUrl) -> TlsOptions:
    given = [name for name in ("ca", "client_cert", "client_key", "fingerprint") if name in values]
    if given and not url.tls:
        raise Unprocessable(f"{given[0]}: is for drains over TLS only")
    ca, cert, key = (_pem(values, name) for name in ("ca", "client_cert", "client_key"))
    if key and not cert:
        raise Unprocessable("client_key: needs its client_cert")
    fingerprint = ""
    if "fingerprint" in values:
        match = _FINGERPRINT.fullmatch(str(values["fingerprint"]))
        if match is None:
            raise Unprocessable("fingerprint: must be the SHA-256 of the certificate, 64 hexadecimal digits")
        fingerprint = match[1].replace(":", "").lower()
    options = TlsOptions(ca=ca, client_cert=cert, client_key=key, fingerprint=fingerprint, insecure=url.insecure)
    if cert or ca:
        try:
            make_context(options)
        except (ssl.SSLError, ValueError, OSError) as exc:
            name = "client_cert" if cert else "ca"
            raise Unprocessable(f"{name}: cannot be read as PEM, or does not fit its key") from exc
    return options


def _pem(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str) or len(value) > MAX_PEM_CHARACTERS or (value and "-----BEGIN " not in value):
        raise Unprocessable(f"{name}: must be PEM text of at most {MAX_PEM_CHARACTERS} characters")
    return value
