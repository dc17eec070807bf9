"""Heads of answers as bytes.

* A name that is no token, or a value with CR, LF or NUL, raises ValueError: no handler can be made to split an
  answer (RFC 9110 section 5.5).
* Framing belongs to the server: `Content-Length`, `Transfer-Encoding` and `Connection` given by a handler are left
  out, except that `Connection: close` closes, and that an answer to HEAD may tell the length that GET would have.
* Every answer has a Date (RFC 9110 section 6.6.1).
"""

import re
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

Headers = Iterable[tuple[bytes, bytes]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TEXT = (b"content-type", b"text/plain; charset=utf-8")
LAST_CHUNK = b"0\r\n\r\n"

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_NO_VALUE = re.compile(rb"[\x00\r\n]")
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def date_line(wall: float) -> bytes:
    """The line that every head of this second has."""
    return b"Date: " + formatdate(wall, usegmt=True).encode() + b"\r\n"


def start(status: int, headers: Headers, date: bytes) -> bytes:
    """Status line and fields, without framing and without the empty line."""
    lines = _lines(tuple(headers)) if headers else b""
    return b"HTTP/1.1 %d %b\r\n%b%b" % (status, _REASONS.get(status, b"Status"), date, lines)


@lru_cache(maxsize=256)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    lines = []
    for name, value in headers:
        if name.lower() in _FRAMING:
            continue
        if _NAME.fullmatch(name) is None or _NO_VALUE.search(value) is not None:
            raise ValueError(f"not a header that can be sent: {name!r}")  # its value may be a secret
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def given(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header that a handler gave."""
    return next((value for key, value in headers if key.lower() == name), None)


def has_body(status: int) -> bool:
    """Whether answers with that status have a body at all (RFC 9110 section 6.4.1)."""
    return status >= 200 and status not in (204, 304)
