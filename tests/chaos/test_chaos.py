"""The real server under kill -9, restarts, failing disks and bad receivers; the oracle judges (oracle.py).

The short run has one seed, so that it does the same things at the same times. The long one takes its own from
LOGPLEX_CHAOS_SEED and LOGPLEX_CHAOS_SECONDS; `python -m tests.chaos --seconds N --seed S` runs it by hand.
"""

import os
import random
from pathlib import Path

import pytest

from .conductor import Conductor
from .oracle import judge
from .plan import plan

SHORT_SEED = 452  # its plan has each trouble of a disk, and crashes in the midst of them
SHORT_SECONDS = 15.0
LONG_SECONDS = 300.0


def run(directory: Path, seed: int, seconds: float) -> None:
    print(f"chaos: python -m tests.chaos --seconds {seconds:g} --seed {seed}")
    journal = Conductor(directory / "data", seed, seconds, print).run()
    print(dict(journal.counts))
    assert judge(journal) == []


def test_nothing_acknowledged_is_lost_whatever_is_killed_refused_or_full(tmp_path: Path) -> None:
    run(tmp_path, SHORT_SEED, SHORT_SECONDS)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_in_the_long_run_either(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "long" not in request.config.getoption("markexpr"):
        pytest.skip("takes minutes: run it with -m long")
    seed = int(os.environ.get("LOGPLEX_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    run(tmp_path, seed, float(os.environ.get("LOGPLEX_CHAOS_SECONDS") or LONG_SECONDS))


def test_a_plan_is_a_function_of_its_seed() -> None:
    drains = (["a"], ["b"])
    assert plan(1, 60.0, *drains) == plan(1, 60.0, *drains) != plan(2, 60.0, *drains)


def test_every_trouble_of_a_plan_ends_with_it() -> None:
    for seed in range(50):
        assert all(step.at + step.seconds <= 60.0 for step in plan(seed, 60.0, ["a"], ["b"]))
