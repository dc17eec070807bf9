"""Fields inside a line's text: `at=error status=503` (logfmt) or a JSON object, and conditions on them.

Rules:

* A text whose first byte that is no white space is `{`, and that is a JSON object, has the fields of that object;
  `a.b` names `b` inside `a` unless there is a field of that very name. Any other text has its logfmt words
  `name=value` and `name="value"`; the first of a name counts, in JSON the last (RFC 8259 section 4 leaves it open).
* A condition on a field that is missing, or that is an object or a list, does not hold, whatever its operator.
* `=` and `!=` compare as text, or as numbers when both are; `<`, `<=`, `>`, `>=` compare numbers only. A number may
  carry a unit as router lines do (`service=18ms`): a condition without a unit ignores it, one with a unit wants the
  same.
* The cost of a line is linear in its bytes, whatever it holds: patterns here are fixed and never backtrack, and
  JSON too deep or with too long numbers is no JSON.
"""

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import Unprocessable

MAX_VALUE_CHARACTERS = 300  # of a condition; requests are bounded, so that a stored filter is small
MAX_CONDITION_CHARACTERS = 1000  # name, operator and the value with every character escaped

_CONDITION = re.compile(r"([A-Za-z_@][A-Za-z0-9_.@/-]{0,63})\s*(>=|<=|!=|==|=|<|>)\s*(.*)", re.DOTALL)
# A word without `=` is taken whole, so that the search never starts anew inside it.
_LOGFMT = re.compile(rb'([^\s="]++)(?:=(?:"((?:[^"\\]|\\.)*+)"|([^\s"]\S*+|)))?', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_NUMBER = re.compile(r"([+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?)([A-Za-z%]{0,5})")
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`name` `operator` `value`, as `status>=500`."""

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """From `status>=500`, `at=error` or `msg="two words"`; raises Unprocessable that quotes the condition."""
        if len(text) > MAX_CONDITION_CHARACTERS:
            raise Unprocessable(f"a condition is longer than {MAX_CONDITION_CHARACTERS} characters")
        match = _CONDITION.fullmatch(text.strip())
        if match is None:
            raise Unprocessable(f"{text[:64]!r} is no condition like status>=500 or at=error")
        name, sign, value = match.groups()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = _unescape(value[1:-1])
        if len(value) > MAX_VALUE_CHARACTERS:
            raise Unprocessable(f"the value of {name} is longer than {MAX_VALUE_CHARACTERS} characters")
        if sign in _ORDER and number(value) is None:
            raise Unprocessable(f"{text[:64]!r} compares with {value[:64]!r}, which is no number")
        return cls(name, "=" if sign == "==" else sign, value)

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.name}{self.operator}"{value}"'

    def holds(self, text: bytes) -> bool:
        """Whether the field of a line's text fulfils the condition."""
        found = value_of(text, self.name)
        if found is None:
            return False
        mine, theirs = number(self.value), number(found)
        comparable = mine is not None and theirs is not None and mine[1] in ("", theirs[1])
        if self.operator in _ORDER:
            return comparable and _ORDER[self.operator](theirs[0], mine[0])  # type: ignore[index]
        equal = found == self.value or (comparable and theirs[0] == mine[0])  # type: ignore[index]
        return equal if self.operator == "=" else not equal


def number(text: str) -> tuple[float, str] | None:
    """A decimal number and its unit; None when the text is something else."""
    match = _NUMBER.fullmatch(text)
    return (float(match[1]), match[2]) if match else None


def value_of(text: bytes, name: str) -> str | None:
    """The field's value as text (JSON numbers as written, `true`, `false`, `null`); None when there is none."""
    if text.lstrip()[:1] == b"{":
        parsed = _json(text)
        if parsed is not None:
            return _json_value(parsed, name)
    wanted = name.encode()
    if wanted not in text:
        return None
    for match in _LOGFMT.finditer(text):
        if match[1] == wanted and match.lastindex != 1:
            if match[2] is not None:
                return _unescape(match[2].decode("utf-8", "replace"))
            return match[3].decode("utf-8", "replace")
    return None


def _json(text: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text.decode("utf-8", "replace"), parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _json_value(parsed: dict[str, Any], name: str) -> str | None:
    if name in parsed:
        return _scalar(parsed[name])
    value: Any = parsed
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return _scalar(value)


def _scalar(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return None


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)
