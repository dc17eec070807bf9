"""Lines in the form that one drain wants, for drains with options and for lines that have no position.

Rules (protocol sections 7 and 8; the plain forms of a whole batch are `Batch.http` and `Batch.syslog`):

* `logplex-1` over HTTP: the dialect, `host` as HOSTNAME, text without CR, LF and invalid UTF-8, one LF at the end.
  Over syslog: the dialect with the drain token as HOSTNAME.
* `rfc5424`: MSGID and SD as `-`, the drain token as HOSTNAME, LF inside the count.
* `json`: one object a line (app, source, process, time, severity, position, message). Over HTTP an object and LF,
  over syslog the MSG of an RFC 5424 frame.
* `otlp`: a record of an OTLP document (drains/otlp.py), over HTTP.
* Over UDP one datagram is one message: no count, no LF at the end.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from logplex.batch import Batch, Line, timestamp
from logplex.message import http_text, rfc3339

from . import otlp
from .spec import DrainSpec, Format
from .url import Kind

SEVERITIES = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")  # RFC 5424 6.2.1

CONTENT_TYPES = {
    Format.LOGPLEX: b"application/logplex-1",
    Format.RFC5424: b"application/syslog",
    Format.JSON: b"application/x-ndjson",
    Format.OTLP: otlp.CONTENT_TYPE,
}

_LINES_AT_ONCE = 256  # a millisecond, with a usual filter

Render = Callable[[Line, int, int | None], bytes]
"""(line, receive time in unix ms, position) → the bytes of one frame."""


class Frame(NamedTuple):
    """One rendered line: the position after it, and its receive time."""

    end: int
    at: int
    data: bytes


def renderer(spec: DrainSpec, app: str) -> Render:
    """How this drain's lines are rendered one by one."""
    chosen = spec.options.format
    kind = spec.url.kind
    token = spec.token.encode()
    if kind is Kind.HTTP:
        if chosen is Format.JSON:
            return lambda line, at, position: _json(line, at, position, app) + b"\n"
        if chosen is Format.OTLP:
            return otlp.recorder(SEVERITIES)
        if chosen is Format.RFC5424:
            return lambda line, at, position: _counted(_rfc5424(line, at, token))
        return lambda line, at, position: _counted(_dialect(line, at, b"host", http_text(line.text)))
    if chosen is Format.JSON:

        def message(line: Line, at: int, position: int | None) -> bytes:
            return _rfc5424(line._replace(text=_json(line, at, position, app)), at, token)
    elif chosen is Format.LOGPLEX:

        def message(line: Line, at: int, position: int | None) -> bytes:
            return _dialect(line, at, token, line.text)
    else:

        def message(line: Line, at: int, position: int | None) -> bytes:
            return _rfc5424(line, at, token)

    if kind is Kind.UDP:
        return lambda line, at, position: message(line, at, position)[:-1]
    return lambda line, at, position: _counted(message(line, at, position))


def wanted(spec: DrainSpec, render: Render, batch: Batch) -> list[Frame]:
    """The rendered lines of a batch that the drain's filter lets through."""
    if batch.tails_only:
        return []
    filter_ = spec.options.filter
    at = batch.at
    return [
        Frame(position + 1, at, render(line, at, position))
        for position, line in enumerate(batch.lines(), batch.first)
        if filter_ is None or filter_.match(line, at)
    ]


def pieces(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same lines in batches of a few hundred: what is rendered between two turns of the others."""
    for batch in batches:
        for first in range(batch.first, batch.end, _LINES_AT_ONCE):
            yield batch.cut(first, first + _LINES_AT_ONCE)


def own_line(pri: int, at: int, text: bytes) -> Line:
    """A line of ours that has no position: L10, or a test."""
    return Line(b"%d" % pri, timestamp(at), b"heroku", b"logplex", text)


def _dialect(line: Line, at: int, host: bytes, text: bytes) -> bytes:
    time = rfc3339(line.time) or timestamp(at)
    return b"<%b>1 %b %b %b %b - %b\n" % (line.pri, time, host, line.source, line.process, text)


def _rfc5424(line: Line, at: int, host: bytes) -> bytes:
    time = rfc3339(line.time) or timestamp(at)
    return b"<%b>1 %b %b %b %b - - %b\n" % (line.pri, time, host, line.source, line.process, line.text)


def _counted(frame: bytes) -> bytes:
    return b"%d %b" % (len(frame), frame)


def _json(line: Line, at: int, position: int | None, app: str) -> bytes:
    shown = {
        "app": app,
        "source": line.source.decode("utf-8", "replace"),
        "process": None if line.process == b"-" else line.process.decode("utf-8", "replace"),
        "time": (rfc3339(line.time) or timestamp(at)).decode(),
        "severity": SEVERITIES[int(line.pri) & 7],
        "position": position,
        "message": line.text.decode("utf-8", "replace"),
    }
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()
