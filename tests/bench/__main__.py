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
from .measure import DEFECTS, Figures, Measured, interleave, median, ratio
from .rows import CASES, Case

COLUMNS = (
    ("messages/s", "messages_per_second", "{:,.0f}"),
    ("CPU s/M", "cpu_seconds_per_million", "{:.2f}"),
    ("requests/s", "requests_per_second", "{:,.0f}"),
    ("p50 ms", "p50_ms", "{:.2f}"),
    ("p99 ms", "p99_ms", "{:.2f}"),
    ("bytes each", "bytes_each", "{:,.0f}"),
    ("start s", "start_seconds", "{:.2f}"),
    ("RSS MB", "rss_mb", "{:.0f}"),
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
    absent = [job for job in case.jobs if job.contender in without or missing(job.contender)]
    for job in absent:
        say(f"   {job.label}: left out")
    jobs = [job for job in case.jobs if job not in absent]
    runs = interleave(jobs, repeat=repeat, run=lambda job: run_one(job, seconds))
    show(runs)
    goals = []
    for goal in case.goals:
        value = goal.value(runs)
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[goal.met(runs)]
        say(f"   {goal}: " + (f"{value:.3g}, " if value is not None else "") + verdict)
        goals.append({"goal": str(goal), "value": value, "met": goal.met(runs)})
    clean = not any(run.get(name) for figures in runs.values() for run in figures for name in DEFECTS)
    return {"case": case.name, "title": case.title, "runs": runs, "goals": goals, "clean": clean}


def show(runs: dict[str, list[Figures]]) -> None:
    """The table: a line per contender, the columns that one of them has; CPU also as a ratio to the first one's."""
    if not runs:
        return
    shown = [column for column in COLUMNS if any(column[1] in figures[0] for figures in runs.values())]
    width = max(len(label) for label in runs)
    head = "".join(f"{title:>12}" for title, _, _ in shown)
    say(f"   {'':{width}}{head}{'CPU ratio':>12}  lost/repeated/reordered/misrouted")
    first = next(iter(runs.values()))
    for label, figures in runs.items():
        typical = median(figures)
        cells = [form.format(typical[name]) if name in typical else "" for _, name, form in shown]
        beside = ratio(figures, first, "cpu_seconds_per_million")
        cells.append("" if beside is None else f"{beside:.2f}")
        defects = "/".join(f"{typical.get(name, 0):.0f}" for name in DEFECTS[:4])
        say(f"   {label:<{width}}" + "".join(f"{cell:>12}" for cell in cells) + f"  {defects}")


def run_one(job: Measured, seconds: float) -> Figures:
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
