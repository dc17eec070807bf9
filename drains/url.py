"""Drain URLs: what users may write, and what it means.

Rules:

* The scheme picks the kind; ports default to 80, 443, 601, 6514 (RFC 5425) and 514.
* A host is a name, an IPv4 address in dotted decimal or an IPv6 address in brackets. Every other spelling of an
  address (decimal, octal, hexadecimal, short, full-width digits) is refused: C libraries dial those, people misread
  them. Zone ids are refused: they mean something on one machine only.
* Userinfo becomes HTTP Basic authentication; path and query are sent as written; a fragment is never sent, and
  `#insecure` means that the certificate of a TLS destination is not verified.
* `shown` is what logs, errors and tables may hold: no userinfo, no query (many services take their key there).
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote_to_bytes

from logplex.errors import Unprocessable

MAX_URL_CHARACTERS = 4096  # twice what browsers and proxies take for granted


class Kind(Enum):
    """How a drain speaks."""

    HTTP = "http"
    SYSLOG = "syslog"
    UDP = "udp"


_SCHEMES = {
    "http": (Kind.HTTP, False, 80),
    "https": (Kind.HTTP, True, 443),
    "syslog": (Kind.SYSLOG, False, 601),
    "tcpsyslog": (Kind.SYSLOG, False, 601),
    "syslog+tcp": (Kind.SYSLOG, False, 601),
    "syslog+tls": (Kind.SYSLOG, True, 6514),
    "syslog+udp": (Kind.UDP, False, 514),
    "udpsyslog": (Kind.UDP, False, 514),
}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_KEPT = "%/?:@!$&'()*+,;=-._~[]"  # what stands in paths and queries as it is; the rest is percent-encoded
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")  # RFC 1123, and the underscore that real names hold
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")  # a last label like this makes C libraries read an address


@dataclass(frozen=True, slots=True)
class DrainUrl:
    """A destination, taken apart; `host` without brackets, `address` set when it is a literal."""

    kind: Kind
    tls: bool
    insecure: bool
    scheme: str
    host: str
    port: int
    address: IPv4Address | IPv6Address | None
    target: bytes = field(repr=False)
    authorization: bytes | None = field(repr=False)
    shown: str

    @property
    def authority(self) -> bytes:
        """The Host header: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _SCHEMES[self.scheme][2] else f"{host}:{self.port}").encode()


def parse(text: str) -> DrainUrl:
    """Take a drain URL apart. Raises Unprocessable with `Invalid drain destination: …`, which repeats no secret."""
    if len(text) > MAX_URL_CHARACTERS:
        raise _invalid(f"longer than {MAX_URL_CHARACTERS} characters")
    if any(c <= " " or c in '\\"<>^`{|}' or "\x7f" <= c <= "\xa0" or "\ud800" <= c <= "\udfff" for c in text):
        raise _invalid("spaces, control characters, backslashes and quotes must be percent-encoded")
    match = _URL.fullmatch(text)
    if match is None:
        raise _invalid("not of the form scheme://host[:port]")
    scheme, authority, path, query, fragment = (part or "" for part in match.groups())
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise _invalid(f"unknown scheme, use one of {', '.join(_SCHEMES)}")
    kind, tls, default_port = _SCHEMES[scheme]
    userinfo, at, place = authority.rpartition("@")
    host, address, port = _place(place, default_port)
    if kind is not Kind.HTTP and (at or path not in ("", "/") or query):
        raise _invalid("a syslog destination is a host and a port only")
    insecure = fragment == "#insecure"
    if fragment and not insecure and kind is not Kind.HTTP:
        raise _invalid("the only fragment that means something is #insecure")
    if insecure and not tls:
        raise _invalid("#insecure is for destinations with TLS")
    path, query = quote(path, safe=_KEPT), quote(query, safe=_KEPT)
    if kind is not Kind.HTTP:
        path = ""
    shown_host = f"[{host}]" if ":" in host else host
    return DrainUrl(
        kind=kind,
        tls=tls,
        insecure=insecure,
        scheme=scheme,
        host=host,
        port=port,
        address=address,
        target=((path or "/") + query).encode(),
        authorization=b"Basic " + b64encode(_userinfo(userinfo)) if at else None,
        shown=f"{scheme}://{shown_host}:{port}{path}",
    )


def _place(text: str, default_port: int) -> tuple[str, IPv4Address | IPv6Address | None, int]:
    """Host, literal address and port of what stands between userinfo and path."""
    address: IPv4Address | IPv6Address | None = None
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _invalid("an IPv6 address needs its closing bracket")
        if "%" in literal:
            raise _invalid("zone ids mean something on one machine only")
        try:
            address = IPv6Address(literal)
        except ValueError:
            raise _invalid("what stands in brackets is no IPv6 address") from None
        host, port = str(address), rest[1:]
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise _invalid("an IPv6 address needs brackets")
        host, address = _name(host)
    if not port:
        return host, address, default_port
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise _invalid("the port must be a number from 1 to 65535")
    return host, address, int(port)


def _name(host: str) -> tuple[str, IPv4Address | None]:
    """A host name in its ASCII form, or a dotted decimal address."""
    if not host:
        raise _invalid("the host is missing")
    try:
        name = host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError:
        raise _invalid("the host is no valid name") from None
    labels = name.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            if host == name:
                return name, IPv4Address(name)
        except ValueError:
            pass
        raise _invalid("write an IPv4 address as four decimal numbers")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid("the host is no valid name")
    return name.lower(), None


def _userinfo(text: str) -> bytes:
    user, _, password = text.partition(":")
    pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    if b":" in unquote_to_bytes(user) or any(byte < 32 or byte == 127 for byte in pair):
        raise _invalid("user and password must not hold control characters, nor the user a colon")
    return pair


def _invalid(why: str) -> Unprocessable:
    return Unprocessable(f"Invalid drain destination: {why}")
