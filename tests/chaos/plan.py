"""What is done to the server, its drains and its disk, and when: a function of the seed and the seconds.

* A replay does the same things at the same times; what the machine does in between is its own.
* Every trouble ends before the plan does, so that what follows can be judged at rest.
"""

import random
from typing import NamedTuple

from .receivers import HTTP_MODES, SYSLOG_MODES

_TROUBLES = ("kill", "kill twice", "stop", "disk fails", "disk is dead", "disk hangs", "quiet", "move")
_WEIGHTS = (7, 1, 3, 3, 1, 2, 2, 1)


class Step(NamedTuple):
    """At `at` seconds, do `what` to `whom` for so many `seconds` (0: it has no end of its own)."""

    at: float
    what: str
    whom: str = ""
    seconds: float = 0.0


class Conditions(NamedTuple):
    """With which settings the server runs."""

    durability: str
    when_degraded: str


def conditions(seed: int) -> Conditions:
    """Most runs are with the defaults."""
    chance = random.Random(f"conditions {seed}")
    durability = chance.choices(("commit", "fsync", "none"), (4, 1, 1))[0]
    return Conditions(durability, chance.choices(("accept", "refuse"), (3, 1))[0])


def plan(seed: int, seconds: float, http_drains: list[str], syslog_drains: list[str]) -> list[Step]:
    """All steps in the order of time."""
    steps = _server(random.Random(f"server {seed}"), seconds)
    for drain in http_drains:
        steps += _drain(random.Random(f"{drain} {seed}"), seconds, drain, HTTP_MODES)
    for drain in syslog_drains:
        steps += _drain(random.Random(f"{drain} {seed}"), seconds, drain, SYSLOG_MODES)
    return sorted(steps, key=lambda step: step.at)


def _server(chance: random.Random, seconds: float) -> list[Step]:
    """Ends of the server, troubles of its disk, and times without new lines; one after the other."""
    steps = []
    at = chance.uniform(1.5, 3.0)
    while at < seconds - 1.0:
        left = seconds - at
        what = chance.choices(_TROUBLES, _WEIGHTS)[0]
        match what:
            case "disk fails" | "disk is dead" | "disk hangs":
                lasts = min(left, chance.uniform(0.3, 2.5))
                steps.append(Step(at, what, seconds=lasts))
                end = chance.choices(("", "kill", "stop"), (5, 4, 1))[0]
                if end:
                    steps.append(Step(at + lasts * chance.random(), end))
                at += lasts
            case "quiet":
                lasts = min(left, chance.uniform(3.0, 5.0))
                steps.append(Step(at, what, seconds=lasts))
                steps.append(Step(at + lasts - 0.2, "kill"))
                at += lasts
            case _:
                steps.append(Step(at, what))
        at += chance.uniform(0.8, 5.0)
    return steps


def _drain(chance: random.Random, seconds: float, drain: str, modes: tuple[str, ...]) -> list[Step]:
    """Good and bad times of one receiver; some are long, so that lines leave the spool before they are read."""
    steps = []
    at = chance.uniform(0.5, 3.0)
    while at < seconds - 0.5:
        lasts = chance.uniform(0.3, 2.5) if chance.random() < 0.8 else chance.uniform(4.0, 9.0)
        lasts = min(lasts, seconds - at)
        steps.append(Step(at, chance.choice(modes[1:]), drain, lasts))
        at += lasts + chance.uniform(0.2, 2.7)
    return steps
