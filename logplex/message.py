"""Syslog messages: from a frame to its fields, and the rules that outputs put on times and texts. No I/O.

Rules (protocol sections 2, 7 and 11; RFC 5424, RFC 3164, RFC 3339):

* This is the strict reference: any faster way through the router must agree with it on every input.
* `<PRI>1 TIME HOST APP PROC MSGID [SD] MSG`; PRI is 0-191 without leading zeros, fields are separated by one space and
  not empty. Anything else is no RFC 5424 message.
* Structured data may be absent (the Logplex dialect). `-` alone is nil. Elements with at least one `name="value"` are
  removed; `[GIN]` and its like have none: they are text, and text begins with them.
* In header fields bytes outside `[!-~]` become `_`. HOST is cut to 255 and PROC to 128 bytes; TIME to 64, which no
  known format of time reaches, so that no header outgrows its line.
* MSG stays as it is, BOM, invalid UTF-8 and NUL included; only LF, CR and NUL at its end go.
* RFC 3164 is for senders whose token is known otherwise: its tag cannot hold one.
"""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

HOST_BYTES = 255  # RFC 5424 section 6
PROCESS_BYTES = 128  # RFC 5424 section 6
TIME_BYTES = 64
TEXT_BYTES = 10_000  # Heroku's documented limit; with its header a frame stays below promtail's 10,240

_TRAILING = b"\n\r\0"
_PRIORITIES = {b"<%d>1" % pri: pri for pri in range(192)}
_PRINTABLE = bytes(range(0x21, 0x7F))
_SANITISED = bytes(byte if byte in _PRINTABLE else ord("_") for byte in range(256))
_LINE_ENDS = re.compile(rb"[\r\n]+")

# RFC 5424 section 6.3, but the `]` in a value may stand without its backslash, as senders of paths and queries do.
# Possessive throughout: no input makes it try twice.
_STRUCTURED_DATA = re.compile(
    rb'(?:\[[!#-<>-\\^-~]++(?: ++[!#-<>-\\^-~]++="[^"\\]*+(?:\\.[^"\\]*+)*+")++ *+\])++(?= |\[|\Z)', re.DOTALL
)

# RFC 3164 section 4.1; the time may also be RFC 3339's (rsyslog's RSYSLOG_ForwardFormat), the host be missing
# (syslog(3)). A host is only known by the tag behind it: without a tag all is text, and no word is lost.
_RFC3164 = re.compile(
    rb"<(0|[1-9][0-9]{0,2})>(?:([A-Z][a-z]{2}) ([ 0-3]?[0-9]) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    rb"|([0-9]{4}-[0-9]{2}-[0-9]{2}T[!-~]+))(?: |\Z)"
)
_TAG = re.compile(rb"(?:([^ ]++) ++)?([^ :\[\]]++)(?:\[([^ \[\]]*+)\])?:(?: |\Z)")
_MONTHS = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}

_HALF_A_YEAR = timedelta(days=180)

_RFC3339 = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
    rb"(Z\+00:00|Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


class Message(NamedTuple):
    """The fields of one message; `time` is b"" and `process` is b"-" when the sender gave none."""

    pri: int
    time: bytes
    host: bytes
    app: bytes
    process: bytes
    text: bytes


def parse(frame: bytes) -> Message | None:
    """The RFC 5424 message in `frame`, strict form or dialect; None when it is none."""
    parts = frame.rstrip(_TRAILING).split(b" ", 6)
    pri = _PRIORITIES.get(parts[0])
    if pri is None or len(parts) < 6:
        return None
    time, host, app, process = parts[1:5]
    if not (time and host and app and process and parts[5]):
        return None
    header = b"".join((time, host, app, process))
    if len(header) > PROCESS_BYTES or len(time) > TIME_BYTES or header.translate(None, _PRINTABLE):
        time, host = field(time, TIME_BYTES), field(host, HOST_BYTES)
        app, process = field(app, len(app)), field(process, PROCESS_BYTES)
    text = parts[6] if len(parts) == 7 else b""
    if text.startswith((b"-", b"[")):
        text = _after_structured_data(text)
    return Message(pri, b"" if time == b"-" else time, host, app, process, text)


def _after_structured_data(rest: bytes) -> bytes:
    if rest.startswith(b"- ") or rest == b"-":
        return rest[2:]
    if match := _STRUCTURED_DATA.match(rest):
        end = match.end()
        return rest[end + 1 :] if rest[end : end + 1] == b" " else rest[end:]
    return rest


def parse_rfc3164(frame: bytes, *, now: datetime) -> Message | None:
    """The RFC 3164 message in `frame`, or None when it does not begin with `<PRI>Mon dd hh:mm:ss`.

    The time is given as RFC 3339, in the zone of `now` (aware) and the year that brings it nearest to `now`.
    The process is `tag.pid` or `tag`: the tag would be lost as APP-NAME, and `ps` filters know this form as `web.1`.
    """
    frame = frame.rstrip(_TRAILING)
    head = _RFC3164.match(frame)
    if head is None or int(head[1]) > 191:
        return None
    if head[5] is None:
        if (month := _MONTHS.get(head[2])) is None:
            return None
        time = _nearest(now, month, int(head[3]), head[4].decode())
    elif rfc3339(head[5]) is None:
        return None
    else:
        time = head[5]
    text = frame[head.end() :]
    host = tag = process = b"-"
    if match := _TAG.match(text):
        host, tag = field(match[1] or b"-", HOST_BYTES), field(match[2], len(match[2]))
        process = field(tag + b"." + match[3] if match[3] else tag, PROCESS_BYTES)
        text = text[match.end() :]
    return Message(int(head[1]), time, host, tag, process, text)


def _nearest(now: datetime, month: int, day: int, clock: str) -> bytes:
    """The moment without year as RFC 3339, or b"" when it does not exist: then the receive time is used."""
    found = []
    for year in (now.year, now.year - 1, now.year + 1):
        try:
            moment = datetime.fromisoformat(f"{year:04}-{month:02}-{day:02}T{clock}")
        except ValueError:
            continue  # 29 February in another year, or no date at all
        found.append(moment.replace(tzinfo=now.tzinfo or UTC))
        if abs(found[-1] - now) < _HALF_A_YEAR:
            break
    if not found:
        return b""
    return min(found, key=lambda candidate: abs(candidate - now)).isoformat().encode()


def rfc3339(time: bytes) -> bytes | None:
    """`time` as every receiver of drains reads it, the same object when it already is; None when it is no such time.

    Second at most 59, fraction of at most 6 digits, offset `Z` or `±hh:mm`; the original's `Z+00:00` is mended.
    """
    match = _RFC3339.fullmatch(time)
    if match is None or not _is_date(time[:10]):
        return None
    fraction, zone = match.groups()
    if (fraction is None or len(fraction) <= 7) and zone != b"Z+00:00":
        return time
    return time[:19] + (fraction or b"")[:7] + (b"+00:00" if zone == b"Z+00:00" else zone)


@lru_cache(maxsize=1024)  # senders' clocks show very few different days
def _is_date(text: bytes) -> bool:
    try:
        date(int(text[:4]), int(text[5:7]), int(text[8:10]))
    except ValueError:
        return False
    return True


def http_text(text: bytes) -> bytes:
    """`text` as HTTP drains take it: valid UTF-8 (U+FFFD for what is not), one space for a run of CR and LF.

    NUL stays: it is valid UTF-8 and ends no line for any receiver, so nothing forbids it.
    """
    if not text.isascii():
        text = text.decode(errors="replace").encode()
    if b"\n" in text or b"\r" in text:
        text = _LINE_ENDS.sub(b" ", text)
    return text


def split(text: bytes, limit: int = TEXT_BYTES) -> list[bytes]:
    """`text` in pieces of at most `limit` (≥ 12) bytes as counted after `http_text`'s replacement of invalid UTF-8.

    Pieces join to `text`, and none ends inside a UTF-8 sequence, nor inside a broken one. They are as long as the
    limit allows, and somewhat shorter where much of the text is invalid.
    """
    if len(text) * 3 <= limit or _replaced_size(text) <= limit:  # a replaced byte becomes three
        return [text]
    pieces = []
    start = 0
    while start < len(text):
        end = _sequence_start(text, start + limit)
        over = _replaced_size(text[start:end]) - limit
        if over > 0:  # each byte taken off takes off one or more; a third of the limit always fits
            end = _sequence_start(text, max(end - over, start + limit // 3))
        pieces.append(text[start:end])
        start = end
    return pieces


def _replaced_size(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode(errors="replace").encode())


def _sequence_start(text: bytes, position: int) -> int:
    """The start of the UTF-8 sequence that `position` falls into; itself between two, and the end behind the end."""
    if position >= len(text):
        return len(text)
    for back in range(1, 4):
        byte = text[position - back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return position - back if length > back else position
    return position


def field(value: bytes, limit: int) -> bytes:
    """`value` as a header field: bytes outside `[!-~]` become `_`, and what is over `limit` is cut off."""
    return value[:limit].translate(_SANITISED)
