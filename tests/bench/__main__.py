"""`python -m tests.bench ROW…`: measure rows of the table in rows.py, and print what came out.

A ROW is a number (all its cases) or the name of a case; none means all. Peers that are not installed are left out
(`eval "$(bash .ci/peers)"` installs them). The server has core 0, generator and sink have core 1.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from .contenders import missing
from .measure import DEFECTS, Figures, Job, median
from .rows import CASES, Case

COLUMNS = (
    ("messages/s", "messages_per_second", "{:,.0f}"),
    ("CPU s/M", "cpu_seconds_per_million", "{:.2f}"),
    ("requests/s", "requests_per_second", "{:,.0f}"),
    ("p50 ms", "p50_ms", "{:.2f}"),
    ("p99 ms", "p99_ms", "{:.2f}"),
    ("peak MB", "peak_rss_mb", "{:.0f}"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when a run lost, repeated or reordered anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(case.name for case in CASES))
    parser.add_argument("--seconds", type=float, default=5, help="load of one run (default 5)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contender, interleaved (default 3)")
    parser.add_argument("--without", action="append", default=[], help="leave a contender out")
    parser.add_argument("--json", metavar="FILE", help="write every run there")
    given = parser.parse_args(arguments)
    cases = [case for case in CASES if not given.rows or any(chosen(case, row) for row in given.rows)]
    if not cases:
        parser.error(f"no such row: {' '.join(given.rows)}")
    results = [measure(case, given.seconds, given.repeat, given.without) for case in cases]
    if given.json:
        machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        with open(given.json, "w") as file:
            json.dump({"machine": machine, "seconds": given.seconds, "cases": results}, file, indent=1)
    return 0 if all(result["clean"] for result in results) else 1


def chosen(case: Case, row: str) -> bool:
    return case.name == row or case.name.split("-")[0] == row


def measure(case: Case, seconds: float, repeat: int, without: Sequence[str]) -> dict[str, Any]:
    """Measure one case with the contenders that are there, and print its table."""
    say(f"\n{case.name}. {case.title}")
    runs: dict[str, list[Figures]] = {}
    for job in case.jobs:
        if job.contender in without or missing(job.contender):
            say(f"   {job.label}: left out")
    jobs = tuple(job for job in case.jobs if job.contender not in without and not missing(job.contender))
    present = Case(case.name, case.title, jobs, case.goals, case.seconds)
    runs = present.measure(seconds, repeat, run_one)
    width = max(len(label) for label in runs)
    say(
        "   "
        + " " * width
        + "".join(f"{title:>13}" for title, _, _ in COLUMNS)
        + "  lost/repeated/reordered/misrouted"
    )
    for label, figures in runs.items():
        typical = median(figures)
        cells = [form.format(typical[name]) if name in typical else "" for _, name, form in COLUMNS]
        defects = "/".join(f"{typical.get(name, 0):.0f}" for name in DEFECTS[:4])
        say(f"   {label:<{width}}" + "".join(f"{cell:>13}" for cell in cells) + f"  {defects}")
    goals = []
    for goal in case.goals:
        value = goal.value(runs)
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[goal.met(value)]
        say(f"   {goal}: " + (f"{value:.3g}, " if value is not None else "") + verdict)
        goals.append({"goal": str(goal), "value": value, "met": goal.met(value)})
    clean = not any(run.get(name) for figures in runs.values() for run in figures for name in DEFECTS)
    return {"case": case.name, "title": case.title, "runs": runs, "goals": goals, "clean": clean}


def run_one(job: Job, seconds: float) -> Figures:
    """One run, its progress on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"   {job.label} …\033[K\r")
        sys.stderr.flush()
    return job.run(seconds)


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
