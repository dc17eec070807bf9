"""What the bodies of management calls may say, and the session that some of them ask for."""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ClientError, NotFound
from ..registry.records import is_token_name
from .guard import BadPayload
from .lines import parse_filter, parse_num

_NUMBER = re.compile(r"[0-9]{1,18}")
"""Ids that fit the database; longer ones are of nothing."""

_DECIMAL_NAME = re.compile(r"0|[1-9][0-9]{0,127}")


def number(text: str) -> int:
    """A drain's id in a path; raises NotFound."""
    if not _NUMBER.fullmatch(text):
        raise NotFound("Not found")
    return int(text)


def is_decimal_name(text: str) -> bool:
    """Whether v1 and v2 can name a channel so: digits as an integer is printed (`007` would be shown as 7)."""
    return _DECIMAL_NAME.fullmatch(text) is not None


def token_names(given: Mapping[str, Any]) -> list[str]:
    """The `tokens` of a channel; raises BadPayload."""
    names = given.get("tokens")
    if names is None and "tokens" not in given:
        return []
    if not isinstance(names, list) or not all(is_token_name(name) for name in names):
        raise BadPayload
    return names


def session_options(given: Mapping[str, Any], refuse: type[ClientError] = BadPayload) -> dict[str, Any]:
    """What a session shows, ready to be stored: `num`, `tail` and the filter's fields.

    Wrong types of num, source and ps raise `refuse`; a bad filter raises Unprocessable.
    """
    num = given.get("num")
    if not (num is None or isinstance(num, str | int | float)) or isinstance(num, bool):
        raise refuse("num must be a number or a string")
    for name in ("source", "ps"):
        if not isinstance(given.get(name, ""), str):
            raise refuse(f"{name} must be a string")
    tail = given.get("tail")
    filter = parse_filter(given)
    return {"num": parse_num(num), "tail": tail is not None and tail is not False, **filter.to_mapping()}
