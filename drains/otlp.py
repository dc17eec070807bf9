"""OTLP over HTTP, logs only, in the JSON encoding of ExportLogsServiceRequest, without I/O.

Rules (OpenTelemetry: OTLP specification, logs data model and its appendices, OTLP exporter):

* A drain's URL is the base URL of an `otlphttp` exporter: `/v1/logs` is added to its path, and double slashes are
  mended. A URL whose path ends in `/v1/logs` is the signal's own and stays as it is.
* A body is one document: the app as `service.name` of the one resource, and a record for each line. A record ends with
  a comma, so that requests are cut and halved as those of all formats; `enclose` puts the document around them.
* Keys are in lowerCamelCase, enums are numbers, 64-bit numbers are decimal text. Severities map as in appendix B of
  the data model.
* A time is unsigned there and mostly read as signed 64-bit nanoseconds: what does not fit is the receive time.
* An answer with `partialSuccess` is never a reason to send again. What it counts as rejected is lost for good.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from logplex.batch import Line
from logplex.message import rfc3339

CONTENT_TYPE = b"application/json"

Envelope = tuple[bytes, bytes]
"""What stands before the first and behind the last record of a body."""

_PATH = b"/v1/logs"
_SEVERITY_NUMBERS = (21, 19, 18, 17, 13, 10, 9, 5)  # FATAL, ERROR3, ERROR2, ERROR, WARN, INFO2, INFO, DEBUG
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def target(given: bytes) -> bytes:
    """The request target for a URL's path and query."""
    path, mark, query = given.partition(b"?")
    path = path.rstrip(b"/")
    return (path if path.endswith(_PATH) else path + _PATH) + mark + query


def envelope(app: str, version: str) -> Envelope:
    """What makes a document of an app's records."""
    resource = _compact({"attributes": [{"key": "service.name", "value": {"stringValue": app}}]})
    scope = _compact({"name": "logplex", "version": version})
    before = f'{{"resourceLogs":[{{"resource":{resource},"scopeLogs":[{{"scope":{scope},"logRecords":['
    return before.encode(), b"]}]}]}"


def recorder(severities: tuple[str, ...]) -> Callable[[Line, int, int | None], bytes]:
    """How lines become records; `severities` are the names of the syslog severities, 0 to 7."""
    heads = [
        b'"severityNumber":%d,"severityText":"%b","body":{"stringValue":' % (number, name.encode())
        for number, name in zip(_SEVERITY_NUMBERS, severities, strict=True)
    ]

    def record(line: Line, at: int, position: int | None) -> bytes:
        place = b"" if position is None else b',{"key":"logplex.position","value":{"intValue":"%d"}}' % position
        return b'{"timeUnixNano":"%d","observedTimeUnixNano":"%d",%b%b},"attributes":[%b%b]},' % (
            _nanoseconds(line.time, at),
            at * 1_000_000,
            heads[int(line.pri) & 7],
            _text(line.text),
            _origin(line.source, line.process),
            place,
        )

    return record


def rejected(answer: bytes) -> int:
    """How many records a 2xx answer says it rejected; 0 when it says nothing that can be read."""
    try:
        partial = json.loads(answer)["partialSuccess"]
        return max(0, int(partial["rejectedLogRecords"]))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return 0


def _nanoseconds(time: bytes, at: int) -> int:
    conforming = rfc3339(time)
    if conforming is not None:
        since = (datetime.fromisoformat(conforming.decode()) - _EPOCH) // _MICROSECOND * 1000
        if 0 < since < 2**63:  # 0 means unknown
            return since
    return at * 1_000_000


@lru_cache(maxsize=1024)
def _origin(source: bytes, process: bytes) -> bytes:
    """The attributes that many lines share."""
    named = [("logplex.source", source)] + ([] if process == b"-" else [("logplex.process", process)])
    return b",".join([b'{"key":"%b","value":{"stringValue":%b}}' % (key.encode(), _text(text)) for key, text in named])


def _text(text: bytes) -> bytes:
    return json.dumps(text.decode("utf-8", "replace"), ensure_ascii=False).encode()


def _compact(shown: object) -> str:
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
