"""How records look in JSON, where several APIs show them alike."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..registry import DrainRecord

MASK = "***"
"""What stands where a secret is not shown."""


def drain_fields(drain: DrainRecord) -> dict[str, Any]:
    """A drain as its owner made it; a reserved one has no URL."""
    fields: dict[str, Any] = {"id": drain.id, "token": drain.token}
    if drain.url is not None:
        fields["url"] = drain.url
    return fields


def unmasked(given: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the secrets that were shown as `***` put back from `stored`."""
    restored = dict(given)
    for name, value in given.items():
        before = stored.get(name)
        if value == MASK and before is not None:
            restored[name] = before
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            restored[name] = unmasked(value, before)
    return restored


def rfc3339(at: float) -> str:
    """Unix seconds for people and programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
