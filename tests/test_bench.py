"""The benchmark's own programs: what they count must be right, however fast they are. Nothing here is timed.

* The sink is shown streams with planted losses, repeats, and lines out of order or in the wrong place.
* The generator and the sink against each other, and with servers between them, for a moment: nothing may be lost.
"""

import shutil
import socket
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .bench.measure import DEFECTS, Job, Measured, interleave, median, ratio
from .bench.programs import Program, Report, load, sink
from .bench.rows import CASES, Goal
from .bench.work import Work
from .peers.programs import certificates

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the programs are compiled with gcc")

TOKENS = [(f"t.{uuid.UUID(int=number)}", number) for number in range(10)]


def message(n: int, *, connection: int = 0, channel: int = 0) -> bytes:
    text = f"#c={connection:04} k={channel:05} n={n:010} t={0:016} and words"
    frame = f"<190>1 2026-01-02T03:04:05Z host app web.1 - - {text}\n".encode()
    return b"%d %s" % (len(frame), frame)


def sunk(*streams: bytes, expect: int, **options: Any) -> Report:
    """What the sink says to streams, one connection each, one after the other."""
    program, port = sink(connections=2, channels=3, **options)
    with program:
        for stream in streams:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(stream)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
        return program.report(expect=expect)


def posted(path: str, *messages: bytes, count: int | None = None) -> bytes:
    body = b"".join(messages)
    head = f"POST {path} HTTP/1.1\r\nLogplex-Msg-Count: {len(messages) if count is None else count}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def defects(report: Report) -> dict[str, int]:
    return {name: report[name] for name in ("repeated", "reordered", "misrouted", "other", "miscounted")}


CLEAN = dict.fromkeys(("repeated", "reordered", "misrouted", "other", "miscounted"), 0)


@pytest.mark.parametrize(
    ("numbers", "received", "wrong"),
    [
        ([0, 1, 2], 3, {}),
        ([0, 2], 2, {}),
        ([0, 1, 1, 2], 3, {"repeated": 1}),
        ([0, 2, 1], 3, {"reordered": 1}),
        ([700, 3, 699], 3, {"reordered": 2}),
    ],
)
def test_the_sink_counts_what_is_repeated_and_out_of_order(
    numbers: Sequence[int], received: int, wrong: dict[str, int]
) -> None:
    report = sunk(b"".join(message(n) for n in numbers), expect=received)
    assert report["received"] == received
    assert defects(report) == CLEAN | wrong


def test_the_sink_numbers_each_connection_and_orders_each_channel_apart() -> None:
    stream = message(5, channel=1) + message(2, channel=2) + message(2, connection=1, channel=1) + b"7 <1>no m"
    report = sunk(stream, message(6, channel=1), expect=4)
    assert report["received"] == 4
    assert defects(report) == CLEAN | {"other": 1}


def test_the_sink_knows_a_stream_that_mixes_channels() -> None:
    streams = message(0, channel=1) + message(1, channel=1), message(2, channel=2) + message(3, channel=1)
    assert sunk(*streams, expect=4, one_channel=1)["misrouted"] == 1


def test_the_sink_answers_requests_and_knows_which_drain_they_belong_to() -> None:
    program, port = sink(connections=1, channels=3, copies=2)
    with program, socket.create_connection(("127.0.0.1", port)) as connection:
        right = posted("/1/0", message(0, channel=1), message(1, channel=1)) + posted("/1/1", message(0, channel=1))
        wrong = posted("/2/1", message(1, channel=1)), posted("/1/1", message(2, channel=1), count=2)
        connection.sendall(right + b"".join(wrong))
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK\r\n") < 4:
            answers += connection.recv(4096)
        report = program.report(expect=5)
    assert report["received"] == 5
    assert report["requests"] == 4
    assert defects(report) == CLEAN | {"misrouted": 1, "miscounted": 1}


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
@pytest.mark.parametrize("sse", [False, True])
def test_the_readers_check_every_line_however_it_is_cut_into_chunks(tmp_path: Path, size: int, sse: bool) -> None:
    texts = [message(n).split(b"- - ")[1].rstrip() for n in (0, 1, 3, 2, 2)]
    form = b"id: 1\ndata: 2026-01-02T03:04:05Z app[web.1]: %s\n\n" if sse else b"2026-01-02T03:04:05Z app[web.1]: %s\n"
    body = b"".join(form % text for text in texts)
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    (tmp_path / "paths").write_text("/sessions/a\n/sessions/b\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"paths": tmp_path / "paths", "connections": 1, "idle_ms": 5000, "sse": sse}
        with Program("tails", port=listener.getsockname()[1], **options) as program:
            for path in (b"/sessions/a", b"/sessions/b"):
                connection, _ = listener.accept()
                with connection:
                    request = connection.recv(4096)
                    assert request.startswith(b"GET " + path)
                    assert (b"Accept: text/event-stream\r\n" in request) == sse
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    connection.sendall(b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks))
            assert program.line() == "ready\n"
            report = program.report(expect=8)
    assert (report["received"], report["readers"]) == (8, 2)
    assert (report["repeated"], report["reordered"], report["other"]) == (2, 2, 0)


@pytest.mark.parametrize("options", [{}, {"lf": 1}, {"dialect": 1}, {"tls": 1}, {"rate": 20_000}])
def test_all_that_the_generator_sends_reaches_the_sink(options: dict[str, int], tmp_path: Path) -> None:
    files = certificates(tmp_path) if "tls" in options else {}
    timed = "rate" in options
    program, port = sink(channels=10, timed=timed, **{name: files[name] for name in files if name != "ca"})
    with program:
        sent = load(TOKENS, tmp_path, port=port, seconds=5, messages=10_000, **options)
        report = program.report(expect=sent["sent"])
    assert sent["sent"] >= 10_000
    assert report["received"] == sent["sent"]
    assert defects(report) == CLEAN
    assert (report["max_ms"] > 0) == timed


def short(name: str, label: str) -> Job:
    """A job of the table with a tenth of its channels and a bounded number of messages."""
    job = next(job for case in CASES if case.name == name for job in case.jobs if job.label == label)
    assert isinstance(job, Job)
    work = replace(job.work, channels=min(job.work.channels, 5), tokens=10)
    return replace(job, work=work, load={**job.load, "messages": 5_000})


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("1", "logplex"),
        ("1-lf", "logplex"),
        ("2", "logplex"),
        ("3-500", "logplex"),
        ("3-500-mixed", "logplex"),
        ("4", "logplex"),
        ("5-100", "5 drains"),
        ("6", "TLS"),
        ("8-70000", "none"),
    ],
)
def test_this_server_passes_on_every_message_of_a_short_run(name: str, label: str) -> None:
    found = short(name, label).run(2)
    assert found["messages"] >= 5_000
    assert {defect: found[defect] for defect in DEFECTS} == dict.fromkeys(DEFECTS, 0)
    assert found["cpu_seconds_per_million"] > 0


def test_drains_to_peers_that_hurt_lose_nothing_of_the_others() -> None:
    (case,) = [case for case in CASES if case.name == "11"]
    _, job = case.jobs
    assert isinstance(job, Job)
    work = replace(job.work, channels=12, tokens=12, busy=3, bad=8, settle_seconds=0)
    found = replace(job, work=work, load={**job.load, "messages": 2_000}).run(2)
    assert found["messages"] >= 2_000
    assert {defect: found[defect] for defect in DEFECTS} == dict.fromkeys(DEFECTS, 0)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["1", "2"])
def test_rsyslog_passes_on_every_message_of_a_short_run(name: str) -> None:
    found = short(name, "rsyslog").run(2)
    assert {defect: found[defect] for defect in DEFECTS} == dict.fromkeys(DEFECTS, 0)


def test_runs_are_interleaved_and_their_ratio_is_the_median_of_pairs() -> None:
    order: list[str] = []
    times = {"a": iter([1.0, 10.0, 100.0]), "b": iter([2.0, 10.0, 400.0])}

    def run(job: Measured) -> dict[str, float]:
        order.append(job.label)
        return {"time": next(times[job.label]), "lost": 1}

    runs = interleave([Job(label="a", work=Work()), Job(label="b", work=Work())], repeat=3, run=run)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert ratio(runs["b"], runs["a"], "time") == 2.0
    assert median(runs["b"]) == {"time": 10.0, "lost": 3}
    assert Goal("b", "time", 2.5, "a").met(runs)
    assert not Goal("b", "time", 1.9, "a").met(runs)
    assert Goal("b", "time", 1.9, "a", or_more=1).met(runs)  # the differences of the pairs are 1, 0 and 300
    assert not Goal("b", "time", 1.9, "a", or_more=0.5).met(runs)
    assert Goal("b", "time", 2.5, "c").met(runs) is None
    assert Goal("b", "other", 1, "a").value(runs) is None
