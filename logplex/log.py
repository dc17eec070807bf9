"""Our own log: events of lower-case words with keys, in logfmt or JSON, on standard error.

* One event is one line. WARN: nothing lost, we recover. ERROR: something lost, or someone must act.
* Nothing per message: an event costs 8 to 18 µs to render.
* No secrets and no control characters: both are removed here, whatever a caller hands over (printable.py).
  Only `request_id` keeps its whole uuid: it is everybody's correlation id, and opens nothing.
* A log that cannot be written never stops the server.
"""

import json
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from .printable import printable, without_secrets


def configure(format: str = "logfmt", stream: TextIO | None = None) -> None:
    """Set structlog up for the whole process; loggers made before follow too. `stream`: standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            remove_secrets,
            render_json if format == "json" else render_logfmt,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: _Lines(stream or sys.stderr),
        cache_logger_on_first_use=False,  # so that a logger of module level follows this call
    )


def remove_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: `time`, `level` and `event` first, no secret in any text, bytes as text."""
    ordered = {key: event[key] for key in ("time", "level", "event") if key in event} | dict(event)
    return {key: value if key == "request_id" else _without_secrets(value) for key, value in ordered.items()}


def _without_secrets(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(item) for item in value]
    return without_secrets(str(value))


def render_json(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    """One object; ASCII only, so that no control character of any kind is written as it is."""
    return json.dumps(event, default=str)


def render_logfmt(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    """`key=value`, quoted where a space, `=` or `"` would end the value; None is left out, a list has commas."""
    return " ".join(f"{_key(key)}={_value(value)}" for key, value in event.items() if value is not None)


def _key(key: str) -> str:
    return printable(key).replace(" ", "_").replace("=", "_")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    text = printable(json.dumps(value, default=str) if isinstance(value, Mapping) else str(value))
    if text and not any(character in text for character in ' ="'):
        return text
    return '"' + text.replace('"', '\\"') + '"'


class _Lines:
    """What structlog writes to: one `write` a line, and no error ever."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe, a closed file: routing lines matters more
            pass

    log = debug = info = warn = warning = error = err = fatal = critical = exception = msg
