"""Filters on lines: what a session, a request for history, `logplex tail` or a drain wants to see.

Rules (protocol section 6 for `source` and `ps`):

* All given fields must match. A field that is absent, null or empty filters nothing.
* `source` is equality. `ps` (or `process`, the same) without a dot matches `web` and `web.*`, with one exactly.
* `text` is a substring, byte by byte; `pattern` is RE2 searched anywhere in the text (`(?i)` ignores case).
* `severity` is the least one shown: `error` shows error and all that is worse.
* `since` and `until` bound the receive time, `until` exclusive: RFC 3339, unix seconds, or `10m` = ten minutes ago.
* `fields` is one condition or a list of them (`status>=500`, `at=error`; see fields.py).
* What a user gives is bounded, and RE2 runs in time linear in the line (`re` can hold the interpreter for seconds);
  re2 is imported when the first pattern comes.
* A bad filter is Unprocessable (422), and the text begins with the field's name.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .batch import Line
from .errors import Unprocessable
from .fields import Condition

FIELDS = ("source", "ps", "process", "text", "pattern", "severity", "since", "until", "fields")
"""The names that `Filter.parse` takes."""

MAX_NAME_BYTES = 255  # a source has 48, a process 128; longer ones match nothing
MAX_TEXT_BYTES = 1000
MAX_PATTERN_BYTES = 1000
MAX_PATTERN_PROGRAM = 500  # RE2 instructions: a text of 10,000 bytes costs some 20 ms at worst, by their product
MAX_PATTERN_MEMORY = 256 * 1024  # bytes of a pattern's automata; RE2 falls back to less memory and more time
MAX_CONDITIONS = 10

SEVERITIES = {
    "emerg": 0, "emergency": 0, "panic": 0,
    "alert": 1,
    "crit": 2, "critical": 2, "fatal": 2,
    "err": 3, "error": 3,
    "warning": 4, "warn": 4,
    "notice": 5,
    "info": 6, "informational": 6,
    "debug": 7,
}  # fmt: skip
"""Names of RFC 5424 section 6.2.1 and the ones in use beside them."""

_RELATIVE = re.compile(r"([0-9]{1,9})\s*(s|m|h|d|w)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_UNIX = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")
_LATEST_SECONDS = 253402300799  # 9999-12-31T23:59:59Z, the last second that RFC 3339 can name

Search = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Filter:
    """What lines to show; equal filters show the same, and hash alike. Made by `parse`."""

    source: bytes = b""
    ps: bytes = b""
    text: bytes = b""
    pattern: str = ""
    severity: int = 7
    since: int | None = None
    until: int | None = None
    conditions: tuple[Condition, ...] = ()
    trivial: bool = field(init=False, compare=False)
    _search: Search | None = field(init=False, compare=False, repr=False)
    _ps_prefix: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = self.source or self.ps or self.text or self.pattern or self.conditions or self.severity < 7
        bounded = self.since is not None or self.until is not None
        object.__setattr__(self, "trivial", not (given or bounded))
        object.__setattr__(self, "_search", _compile(self.pattern) if self.pattern else None)
        object.__setattr__(self, "_ps_prefix", b"" if b"." in self.ps else self.ps + b".")

    @classmethod
    def parse(cls, given: Mapping[str, Any], *, now: float | None = None) -> "Filter":
        """From the fields of a request; `10m` counts back from `now` (unix seconds, default: the present).

        Raises Unprocessable that names the field and says where it is wrong; unknown names too.
        """
        unknown = [name for name in given if name not in FIELDS]
        if unknown:
            raise Unprocessable(f"{str(unknown[0])[:64]!r} is no filter: use {', '.join(FIELDS)}")
        if given.get("ps") and given.get("process"):
            raise Unprocessable("process: the same as ps, which is given too")
        now = time.time() if now is None else now
        return cls(
            source=_bytes(given, "source", MAX_NAME_BYTES),
            ps=_bytes(given, "ps", MAX_NAME_BYTES) or _bytes(given, "process", MAX_NAME_BYTES),
            text=_bytes(given, "text", MAX_TEXT_BYTES),
            pattern=_bytes(given, "pattern", MAX_PATTERN_BYTES).decode(),
            severity=_severity(given.get("severity")),
            since=parse_time("since", given.get("since"), now),
            until=parse_time("until", given.get("until"), now),
            conditions=_conditions(given.get("fields")),
        )

    def to_mapping(self) -> dict[str, Any]:
        """What `parse` makes the same filter of, at any later time; JSON-able, to be stored."""
        stored: dict[str, Any] = {
            "source": self.source.decode(),
            "ps": self.ps.decode(),
            "text": self.text.decode(),
            "pattern": self.pattern,
            "severity": None if self.severity == 7 else self.severity,
            "since": None if self.since is None else self.since / 1000,
            "until": None if self.until is None else self.until / 1000,
            "fields": [str(condition) for condition in self.conditions],
        }
        return {name: value for name, value in stored.items() if value not in ("", None, [])}

    def match(self, line: Line, at: int) -> bool:
        """Whether a line received at `at` (unix ms) is wanted."""
        if self.trivial:
            return True
        if self.source and line.source != self.source:
            return False
        if self.ps and line.process != self.ps and not (self._ps_prefix and line.process.startswith(self._ps_prefix)):
            return False
        if self.severity < 7 and int(line.pri) & 7 > self.severity:
            return False
        if not self.covers(at):
            return False
        if self.text and self.text not in line.text:
            return False
        if self._search is not None and self._search(line.text) is None:
            return False
        return all(condition.holds(line.text) for condition in self.conditions)

    def covers(self, at: int) -> bool:
        """Whether lines received at `at` (unix ms) may be wanted at all."""
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def parse_time(name: str, value: object, now: float) -> int | None:
    """Unix ms of RFC 3339, unix seconds or `10m` before `now` (unix seconds); None for null and an empty text.

    Raises Unprocessable that begins with `name`.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and len(value) <= 64:
        value = value.strip()
        relative = _RELATIVE.fullmatch(value)
        if relative:
            return max(0, round((now - int(relative[1]) * _UNIT_SECONDS[relative[2]]) * 1000))
        if _UNIX.fullmatch(value):
            value = float(value)
        else:
            return _rfc3339(value, name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LATEST_SECONDS:
        return round(value * 1000)
    raise Unprocessable(f"{name}: must be a time like 2024-05-01T12:00:00Z, 10m (ago) or unix seconds")


def _compile(pattern: str) -> Search:
    import re2

    options = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.log_errors = False  # it would write to stderr
    options.never_capture = True
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as exc:
        reason = exc.args[0] if exc.args else b"cannot be read"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise Unprocessable(f"pattern: {text}") from exc
    if compiled.programsize > MAX_PATTERN_PROGRAM:
        raise Unprocessable("pattern: too costly: use fewer or smaller repetitions")
    search: Search = compiled.search
    return search


def _bytes(given: Mapping[str, Any], name: str, limit: int) -> bytes:
    value = given.get(name)
    if value is None:
        return b""
    if not isinstance(value, str):
        raise Unprocessable(f"{name}: must be a string")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as exc:
        raise Unprocessable(f"{name}: holds half a surrogate pair at character {exc.start + 1}") from exc
    if len(encoded) > limit:
        raise Unprocessable(f"{name}: longer than {limit} bytes")
    return encoded


def _severity(value: object) -> int:
    if value is None or value == "":
        return 7
    if isinstance(value, str):
        if value.lower() in SEVERITIES:
            return SEVERITIES[value.lower()]
        value = int(value) if value in tuple("01234567") else value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 7:
        return value
    raise Unprocessable("severity: must be 0 to 7 or one of emerg, alert, crit, error, warning, notice, info, debug")


def _rfc3339(text: str, name: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, round(moment.timestamp() * 1000))
    except (ValueError, OverflowError) as exc:
        raise Unprocessable(f"{name}: {text[:64]!r} is no time like 2024-05-01T12:00:00Z or 10m (ago)") from exc


def _conditions(given: object) -> tuple[Condition, ...]:
    if given is None or given == "":
        return ()
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise Unprocessable("fields: must be a string like status>=500, or a list of them")
    if len(texts) > MAX_CONDITIONS:
        raise Unprocessable(f"fields: more than {MAX_CONDITIONS} conditions")
    conditions = []
    for place, text in enumerate(texts, 1):
        try:
            conditions.append(Condition.parse(text))
        except Unprocessable as exc:
            raise Unprocessable(f"fields: condition {place}: {exc}") from exc
    return tuple(conditions)
