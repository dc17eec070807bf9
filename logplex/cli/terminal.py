"""Writing for people and for programs: tables, colours, JSON.

* Tables with headings and colours only on a terminal; a pipe gets one row a line, its cells between tabs.
* Every cell is shown with control characters escaped; JSON is ASCII.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from .. import config
from ..printable import printable

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


def on_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person reads what we print."""
    stream = sys.stdout if stream is None else stream
    return stream is not None and stream.isatty()


def coloured(stream: TextIO | None = None) -> bool:
    return on_terminal(stream) and not config.no_colour()


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour (an SGR parameter) where the stream shows colours."""
    return f"\x1b[{colour}m{text}\x1b[0m" if coloured(stream) else text


def say(text: str) -> None:
    """One line for a person, on standard output."""
    print(printable(text))


def note(text: str) -> None:
    """One line beside the output, on standard error."""
    print(paint(printable(f"logplex: {text}"), DIM, sys.stderr), file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """What is going on, for a person, in a line that the next call overwrites; without text it is gone."""
    if on_terminal(sys.stderr):
        shown = paint(printable(text), DIM, sys.stderr) if text else ""
        print(f"\r\x1b[K{shown}", end="", file=sys.stderr, flush=True)


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2 if on_terminal() else None))


def show_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str = "") -> None:
    """Rows under headings on a terminal (`empty` when there are none), tab-separated values elsewhere."""
    cells = [[printable(_cell(value)) for value in row] for row in rows]
    if not on_terminal():
        for row in cells:
            print("\t".join(row))
        return
    if not cells:
        if empty:
            print(empty)
        return
    widths = [max(len(row[column]) for row in [list(headings), *cells]) for column in range(len(headings))]
    print(paint(_aligned(headings, widths), BOLD))
    for row in cells:
        print(_aligned(row, widths))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def show_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Names and values below each other, None left out; tab-separated when it is not a terminal."""
    shown = [(name, printable(_cell(value))) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{paint(name.ljust(width), BOLD)}  {value}" if on_terminal() else f"{name}\t{value}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `5 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def ago(moment: str | float | None) -> str | None:
    """A time (RFC 3339 or unix seconds) as its distance from now, for a table."""
    if moment is None:
        return None
    try:
        when = datetime.fromisoformat(moment) if isinstance(moment, str) else datetime.fromtimestamp(moment, UTC)
    except ValueError:
        return str(moment)
    seconds = (datetime.now(UTC) - when.astimezone(UTC)).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"
