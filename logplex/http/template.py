"""Heads like the one before: what one client sends again and again differs in a few values only.

Rules (tests/http/test_parser.py: with and without, a parser says the same of every sequence of requests):

* Only what llhttp has accepted becomes a template, and only a head whose every line is the same as there, but for the
  values of `_VARYING`, is one like it. Those values are printable ASCII, a length is digits.
* Whatever changes the framing or the connection (chunks, `Connection`, `Expect`, `Upgrade`, HTTP/1.0) is no template.
"""

import re
from operator import ne

from .head import Head

MAX_BYTES = 1024  # of a head: idle connections stay small

_SPECIAL = frozenset((b"transfer-encoding", b"connection", b"expect", b"upgrade"))
_VARYING = re.compile(rb"(?i:(authorization|content-length|logplex-frame-id|logplex-msg-count|x-request-id): )")
_VALUE = re.compile(rb"[!-~](?:[ -~]{0,400}[!-~])?")  # what is left of it when the spaces around it are gone
_MAX_DIGITS = 18  # llhttp looks for an overflow beyond


class Template:
    """The lines of a head, and what they mean."""

    __slots__ = ("_head", "_headers", "_lines", "_varying")

    def __init__(self, data: bytes, head: Head) -> None:
        self._lines = data.split(b"\r\n")
        self._head = head
        self._headers = head.headers.copy()  # a handler may change its own
        self._varying: dict[int, tuple[bytes, bytes]] = {}  # by line: the header's name, and what is before its value

    def read(self, data: bytes) -> Head | None:
        """The meaning of a whole head, with its empty line; None when it is not like this one."""
        lines, known = data.split(b"\r\n"), self._lines
        if len(lines) != len(known):
            return None
        before = self._head
        headers = self._headers.copy()
        differs = list(map(ne, lines, known))
        at = -1
        for _ in range(differs.count(True)):
            at = differs.index(True, at + 1)
            varying = self._varying.get(at) or self._learn(at)
            if varying is None or not lines[at].startswith(varying[1]):
                return None
            name, value = varying[0], lines[at][len(varying[1]) :]
            if _VALUE.fullmatch(value) is None:
                return None
            if name == b"content-length" and not (value.isdigit() and len(value) <= _MAX_DIGITS):
                return None
            headers[name] = value
        return Head(before.method, before.path, before.query, headers, False)

    def _learn(self, at: int) -> tuple[bytes, bytes] | None:
        """What may vary in a line."""
        match = _VARYING.match(self._lines[at])
        if match is None:
            return None
        self._varying[at] = match[1].lower(), match[0]
        return self._varying[at]


def template(data: bytes, head: Head) -> Template | None:
    """Make a template of a head that was accepted, if it can be one."""
    if len(data) > MAX_BYTES or head.length is None or head.http_1_0 or not _SPECIAL.isdisjoint(head.headers):
        return None
    return Template(data, head)
