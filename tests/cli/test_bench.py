"""`logplex bench` as its users run it: what it says must be so, and it leaves nothing behind, however it ends."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from logplex.cli import bench
from logplex.cli.bench import Machine, filesystem, notes
from logplex.cli.benchmark.cases import CASES, Case
from logplex.cli.benchmark.run import Result

from ..conftest import ROOT, environment
from .conftest import Run

LIMIT_SECONDS = 60.0
MACHINE = Machine(
    processor="A processor", processors=4, python="3.11.7", logplex="0.1.0", directory="/tmp", filesystem="ext4"
)
RESULT = Result(
    case="tcp",
    title="TCP in, TCP out",
    messages=1_234_000,
    seconds=4.0,
    messages_per_second=308_500.0,
    cpu_seconds_per_million=2.5,
    p50_ms=None,
    p99_ms=None,
    peak_bytes=115_000_000,
    lost=0,
    repeated=0,
    reordered=0,
    degraded=False,
    server_cpu_share=1.0,
    generator_cpu_share=0.1,
    sink_cpu_share=0.2,
    others_cpu_share=0.0,
    limit="server",
)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the command makes its directories: TMPDIR of every process of its own, by which they are known."""
    made = tmp_path / "temporary"
    made.mkdir()
    return made


def command(temporary: Path, *options: str, **variables: str) -> dict[str, Any]:
    """The arguments of subprocess for `logplex bench`, with settings around that would stop any server."""
    settings = {"LOGPLEX_HTTP": "nonsense", "LOGPLEX_DURABILITY": "nonsense", "LOGPLEX_URL": "nonsense"}
    return {
        "args": [sys.executable, "-m", "logplex", "bench", *options],
        "env": environment(TMPDIR=str(temporary), **settings, **variables),
        "cwd": temporary.parent,
        "stdin": subprocess.DEVNULL,
    }


def processes(temporary: Path) -> list[int]:
    """The processes that still run with that TMPDIR."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"TMPDIR={temporary}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has gone, or belongs to somebody else
    return found


def test_every_case_runs_and_loses_nothing_whatever_the_environment_says(temporary: Path) -> None:
    options = ("--seconds", "0.2", "--json", "--dir", temporary.name)
    ended = subprocess.run(**command(temporary, *options), capture_output=True, timeout=LIMIT_SECONDS)
    assert ended.stderr == b""
    assert ended.returncode == 0
    assert os.listdir(temporary.parent) == ["temporary"]
    assert os.listdir(temporary) == []
    assert processes(temporary) == []
    said = json.loads(ended.stdout)
    assert (said["clean"], said["seconds"], said["durability"]) == (True, 0.2, "commit")
    assert set(said["machine"]) == set(Machine.__dataclass_fields__)
    assert said["machine"]["directory"] == str(temporary)
    assert isinstance(said["notes"], list)
    assert [result["case"] for result in said["cases"]] == [case.name for case in CASES]
    for case, result in zip(CASES, said["cases"], strict=True):
        check(case, result)


def check(case: Case, result: dict[str, Any]) -> None:
    """That a result has the figures that its case has, and that each may be true."""
    assert set(result) == set(Result.__dataclass_fields__)
    assert [result[name] for name in ("lost", "repeated", "reordered")] == [0, 0, 0]
    assert not result["degraded"]
    assert result["messages"] >= 1
    assert result["messages_per_second"] == pytest.approx(result["messages"] / result["seconds"])
    for name in ("cpu_seconds_per_million", "peak_bytes", "server_cpu_share"):
        assert (result[name] is not None) == case.server
        assert result[name] is None or result[name] > 0
    measured = case.mode in ("post", "pace")
    assert (result["p50_ms"] is not None) == measured
    assert not measured or 0 < result["p50_ms"] <= result["p99_ms"]
    assert (result["limit"] is None) == (case.mode == "pace")
    if case.mode == "flood":
        assert result["messages"] % 1000 == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_everything_down(temporary: Path, number: int) -> None:
    ended, shown = interrupted(temporary, number)
    assert ended == 128 + number
    assert shown.endswith("\r\x1b[K")
    assert os.listdir(temporary) == []
    wait_for_their_end(temporary)


def test_after_kill_9_no_process_goes_on(temporary: Path) -> None:
    ended, _ = interrupted(temporary, signal.SIGKILL)
    assert ended == -signal.SIGKILL
    wait_for_their_end(temporary)


def wait_for_their_end(temporary: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while left := processes(temporary):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def interrupted(temporary: Path, number: int) -> tuple[int, str]:
    """Send the command a signal while its first server has work; exit code, and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(**command(temporary, "--seconds", "60"), stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while b"2 of 6" not in shown:
            shown += os.read(ours, 4096)
        while {path.name for path in temporary.glob("*/*.log")} != {"sink.log", "server.log", "generator.log"}:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        code = process.wait(LIMIT_SECONDS)
        try:
            while received := os.read(ours, 4096):
                shown += received
        except OSError:
            pass  # Linux: the other side is closed
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, shown.decode()


def test_a_server_that_cannot_start_is_one_line_that_says_why_and_exit_code_1(temporary: Path) -> None:
    broken = temporary.parent / "broken"
    broken.mkdir()
    (broken / "trio.py").write_text("raise ImportError('this trio is broken')")
    path = os.pathsep.join((str(ROOT), str(broken)))
    ended = subprocess.run(
        **command(temporary, "--seconds", "0.1", PYTHONPATH=path), capture_output=True, timeout=LIMIT_SECONDS
    )
    assert ended.stderr.decode() == "logplex: the server could not start: ImportError: this trio is broken\n"
    assert (ended.stdout, ended.returncode) == (b"", 1)
    assert os.listdir(temporary) == []
    assert processes(temporary) == []


def test_a_directory_that_cannot_be_used_is_one_line_and_exit_code_1(call: Run, tmp_path: Path) -> None:
    ended = call("bench", "--dir", str(tmp_path / "nothing"))
    assert (ended.stdout, ended.returncode) == (b"", 1)
    assert ended.stderr.decode() == f"logplex: cannot work in {tmp_path}/nothing: No such file or directory\n"


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan", "many"])
def test_the_seconds_are_bounded(call: Run, seconds: str) -> None:
    ended = call("bench", "--seconds", seconds)
    assert (ended.stdout, ended.returncode) == (b"", 2)
    assert b"Invalid value for '--seconds'" in ended.stderr


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Result]:
    """The results that the command gets, by case; unknown ones are as `RESULT` says."""
    results: dict[str, Result] = {}

    def measure(case: Case, **_: Any) -> Result:
        return results.get(case.name) or replace(RESULT, case=case.name, title=case.title)

    monkeypatch.setattr(bench, "measure", measure)
    return results


@pytest.mark.parametrize("defect", ["lost", "repeated", "reordered"])
def test_a_defect_is_exit_code_1_and_said(call: Run, measured: dict[str, Result], defect: str) -> None:
    counts = {"lost": 0, "repeated": 0, "reordered": 0, defect: 7}
    measured["tcp"] = replace(RESULT, **counts)
    ended = call("bench")
    assert ended.returncode == 1
    said = f"{counts['lost']} lost, {counts['repeated']} repeated, {counts['reordered']} out of order"
    assert f"logplex: tcp: of 1234000 messages {said}\n" in ended.stderr.decode()
    assert not json.loads(call("bench", "--json").stdout)["clean"]


def test_into_a_pipe_a_row_is_its_values_between_tabs(call: Run, measured: dict[str, Result]) -> None:
    ended = call("bench")
    assert ended.returncode == 0
    rows = [line.split("\t") for line in ended.stdout.decode().splitlines()]
    assert rows[1] == ["tcp", "308500.0", "2.5", "-", "-", "115.0", "0", "0", "0"]
    assert [row[0] for row in rows] == [case.name for case in CASES]


def test_on_a_terminal_figures_stand_below_their_headings_and_every_case_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    results = [RESULT, replace(RESULT, case="post", p50_ms=1.25, p99_ms=10.5, title="POST in, TCP out")]
    bench.show(results, MACHINE, "commit")
    assert capsys.readouterr().out.splitlines() == [
        "A processor, 4 processors, Python 3.11.7, logplex 0.1.0",
        "data in /tmp (ext4), durability commit",
        "",
        "case  messages/s  CPU s/M  p50 ms  p99 ms  peak MB  lost  repeated  reordered",
        "tcp      308,500     2.50       -       -      115     0         0          0",
        "post     308,500     2.50    1.25   10.50      115     0         0          0",
        "",
        "tcp   TCP in, TCP out",
        "post  POST in, TCP out",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, []),
        ({"limit": "sink"}, ["tcp: the sink was the limit, the server would have carried more"]),
        ({"limit": "sink", "server_cpu_share": None}, []),
        ({"degraded": True}, ["tcp: the disk failed or was full, the server kept lines in memory"]),
        ({"limit": "waiting"}, ["tcp: the server waited, most likely for its disk"]),
        (
            {"limit": "others", "others_cpu_share": 1.26},
            [
                "tcp: other programs took 1.3 of 4 processors meanwhile; without them the server would have carried "
                "more"
            ],
        ),
    ],
)
def test_notes_say_when_a_figure_is_not_the_server_s_limit(change: dict[str, Any], says: list[str]) -> None:
    assert notes([replace(RESULT, **change)], MACHINE) == says


def test_data_in_memory_is_told() -> None:
    (said,) = notes([RESULT], replace(MACHINE, filesystem="tmpfs"))
    assert said == "the server's data was in memory (tmpfs): --dir names a directory on a disk"


def test_the_file_system_of_a_directory_is_that_of_the_nearest_mount() -> None:
    mounts = ["/dev/a / ext4 rw 0 0", "tmpfs /tmp tmpfs rw 0 0", "/dev/b /tmp/a\\040disk xfs rw 0 0"]
    assert filesystem(Path("/home/ops"), mounts) == "ext4"
    assert filesystem(Path("/tmp/x"), mounts) == "tmpfs"
    assert filesystem(Path("/tmp/a disk/x"), mounts) == "xfs"
    assert filesystem(Path("/tmpx"), []) == "unknown"
