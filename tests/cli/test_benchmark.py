"""What `logplex bench` measures with: if its numbers were wrong, its figures would be. Nothing here is timed."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.cli.benchmark.figures import quantiles_ms
from logplex.cli.benchmark.frames import BLOCK, NUMBERS, Bodies, Frames
from logplex.cli.benchmark.marks import Marks, Requests, numbers, times
from logplex.cli.benchmark.parts import Part
from logplex.cli.benchmark.processors import busy
from logplex.cli.benchmark.run import limit
from logplex.cli.benchmark.sequences import Sequences
from logplex.cli.benchmark.window import WINDOW, Taken, make
from logplex.cli.client import Failed
from logplex.framing import StreamDecoder, split_body
from logplex.message import parse

LIMIT_SECONDS = 30.0
SINK = {"timed": False, "silence_seconds": LIMIT_SECONDS}
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKENS = [f"t.00000000-0000-4000-8000-{number:012}" for number in range(100)]

arrivals = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=40)


@given(arrivals, st.lists(st.integers(0, 40), max_size=4))
def test_what_is_missing_repeated_and_late_is_what_a_naive_model_says(
    arrived: list[tuple[int, int]], cuts: list[int]
) -> None:
    seen: set[tuple[int, int]] = set()
    highest: dict[int, int] = {}
    repeated = reordered = 0
    for stream, number in arrived:
        if (stream, number) in seen:
            repeated += 1
        elif number < highest.get(stream, -1):
            reordered += 1
        seen.add((stream, number))
        highest[stream] = max(number, highest.get(stream, -1))
    sequences = Sequences()
    bounds = [0, *sorted(cuts), len(arrived)]
    for first, end in pairwise(bounds):
        sequences.feed([stream * NUMBERS + number for stream, number in arrived[first:end]])
    assert (sequences.distinct, sequences.repeated, sequences.reordered) == (len(seen), repeated, reordered)


def frames_of(data: bytes) -> list[bytes]:
    """The messages in a stream as the server's own framing finds them; nothing of it is malformed."""
    found = StreamDecoder(65536).feed(data)
    assert all(isinstance(frame, bytes) for frame in found)
    return [frame for frame in found if isinstance(frame, bytes)]


@pytest.mark.parametrize("count", [1, 10, 100])
def test_a_connection_s_frames_are_messages_for_its_tokens_in_turn_numbered_for_each(count: int) -> None:
    frames = Frames(TOKENS[:count], 7, moment=MOMENT)
    blocks = 12
    data = b"".join(bytes(frames.take(BLOCK)) for _ in range(blocks))
    messages = [parse(frame) for frame in frames_of(data)]
    assert len(messages) == blocks * BLOCK
    expected = [(7 * count + place % count, place // count) for place in range(blocks * BLOCK)]
    assert numbers(Marks().feed(data)) == [stream * NUMBERS + number for stream, number in expected]
    for place, message in enumerate(messages):
        assert message is not None
        assert message.app == TOKENS[place % count].encode()
        assert message.text.startswith(b"#%04d%010d t=" % expected[place])
        assert message.time.startswith(b"2026-01-02T03:04:05.")


def test_a_frame_says_when_it_was_sent() -> None:
    frames = Frames(TOKENS[:1], 0, moment=MOMENT)
    data = b"".join(bytes(frames.take_stamped(1000 + place)) for place in range(2 * BLOCK))
    assert times(Marks().feed(data)) == list(range(1000, 1000 + 2 * BLOCK))
    assert numbers(Marks().feed(data)) == list(range(2 * BLOCK))


@pytest.mark.parametrize(("count", "per_request"), [(1, 1), (3, 500), (100, 250)])
def test_the_bodies_of_a_connection_are_for_its_tokens_in_turn_numbered_for_each(count: int, per_request: int) -> None:
    bodies = Bodies(TOKENS[:count], 2, per_request=per_request, moment=MOMENT)
    sent: dict[int, list[int]] = {stream: [] for stream in range(2 * count, 3 * count)}
    requests = count * 2 * BLOCK // per_request
    for request in range(requests):
        body = bytes(bodies.body(request))
        assert len(body) == bodies.size
        messages = split_body(body, 65536)
        assert len(messages) == per_request
        assert all(parse(message) is not None for message in messages)
        marked = [divmod(each, NUMBERS) for each in numbers(Marks().feed(body))]
        assert {stream for stream, _ in marked} == {2 * count + request % count}
        sent[2 * count + request % count] += [number for _, number in marked]
    assert all(found == list(range(2 * BLOCK)) for found in sent.values())


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[first:end] for first, end in pairwise(bounds)]


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_marks_are_found_however_a_stream_is_cut(cuts: list[int]) -> None:
    frames = Frames(TOKENS[:10], 3, moment=MOMENT)
    data = b"".join(bytes(frames.take_stamped(5 * place)) for place in range(20))
    marks, found, sent = Marks(), [], []
    for piece in pieces(data, cuts):
        whole = marks.feed(piece)
        found += numbers(whole)
        sent += times(whole)
    assert found == [(30 + place % 10) * NUMBERS + place // 10 for place in range(20)]
    assert sent == [5 * place for place in range(20)]


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.lists(st.integers(0, 1000), max_size=12))
def test_requests_are_counted_however_a_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    head = "POST / HTTP/1.1\r\nHost: sink\r\nContent-Length: {}\r\nLogplex-Msg-Count: 1\r\n\r\n"
    data = b"".join(head.format(len(body)).encode() + body for body in bodies)
    requests, ends, place = Requests(), [], 0
    for body in bodies:
        place += len(head.format(len(body))) + len(body)
        ends.append(place)
    fed = 0
    complete = 0
    for piece in pieces(data, cuts):
        fed += len(piece)
        complete += requests.feed(piece)
        assert complete == sum(end <= fed for end in ends)


def test_a_request_without_content_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="without Content-Length"):
        Requests().feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_both_sides_of_a_window_see_one_count_and_the_generator_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = make(tmp_path / "taken")
    sink, generator = Taken(path), Taken(path)
    assert generator.read() == 0
    sink.write(12_345_678_901)
    assert generator.read() == 12_345_678_901
    generator.wait(12_345_678_901 + WINDOW, until=float("inf"))
    generator.wait(12_345_678_902 + WINDOW, until=0.0)
    waiting = threading.Thread(target=generator.wait, args=(12_345_678_902 + WINDOW, float("inf")))
    waiting.start()
    sink.write(12_345_678_902)
    waiting.join(LIMIT_SECONDS)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("shares", "others", "processors", "what"),
    [
        ({"server": 1.1, "generator": 0.3, "sink": 0.9}, 0.0, 2, "server"),
        ({"server": 0.6, "generator": 0.3, "sink": 0.95}, 0.1, 4, "sink"),
        ({"server": 0.6, "generator": 0.9, "sink": 0.5}, 0.1, 4, "generator"),
        ({"generator": 0.2, "sink": 0.99}, 0.0, 2, "sink"),
        ({"server": 0.7, "generator": 0.1, "sink": 0.2}, 0.0, 1, "processors"),
        ({"server": 0.7, "generator": 0.1, "sink": 0.2}, 0.9, 2, "others"),
        ({"server": 0.3, "generator": 0.1, "sink": 0.1}, 0.9, 4, "waiting"),
    ],
)
def test_the_limit_is_what_was_busy_all_the_time(
    shares: dict[str, float], others: float, processors: int, what: str
) -> None:
    assert limit(shares, others=others, processors=processors) == what


def test_the_busy_time_is_that_of_the_processors_that_we_may_use() -> None:
    lines = ["cpu  99 99 99 99 99 99 99 99 0 0", "cpu0 1 2 4 1000 1000 8 16 32 64 64", "cpu1 100 0 0 5 5 0 0 0 0 0"]
    assert busy(lines, {0}) == 63
    assert busy(lines, {0, 1}) == 163


def test_quantiles_leave_the_warm_up_out() -> None:
    assert quantiles_ms([]) == (None, None)
    assert quantiles_ms([9_000_000] * 10 + list(range(90))) == (0.045, 0.089)
    assert quantiles_ms([2000]) == (2.0, 2.0)


@contextmanager
def part(name: str, folder: Path, order: dict[str, Any]) -> Iterator[Part]:
    make(folder / "taken")
    with Part(name, folder, [f"logplex.cli.benchmark.{name}"]) as process:
        process.tell({"taken": str(folder / "taken"), **order})
        yield process


def test_the_sink_counts_what_came_twice_and_late_on_several_connections(tmp_path: Path) -> None:
    frames = Frames(TOKENS[:1], 0, moment=MOMENT)
    lines = [bytes(frames.take(1)) for _ in range(6)]
    with part("sink", tmp_path, SINK) as sink:
        port = sink.answer(LIMIT_SECONDS)["port"]
        for sent in ([0, 1, 3, 2], [5, 1, 4]):
            with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as connection:
                connection.sendall(b"".join(lines[number] for number in sent))
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
        sink.tell({"expected": 6})
        report = sink.answer(LIMIT_SECONDS)
    assert (report["distinct"], report["repeated"], report["reordered"]) == (6, 1, 2)
    assert Taken(tmp_path / "taken").read() == 6


def test_the_sink_gives_up_what_does_not_come_after_a_silence(tmp_path: Path) -> None:
    frames = Frames(TOKENS[:1], 0, moment=MOMENT)
    with part("sink", tmp_path, {**SINK, "silence_seconds": 0}) as sink:
        port = sink.answer(LIMIT_SECONDS)["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as connection:
            frames.take(1)
            connection.sendall(frames.take(1))
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        sink.tell({"expected": 2})
        assert sink.answer(LIMIT_SECONDS)["distinct"] == 1


def test_the_sink_answers_requests(tmp_path: Path) -> None:
    body = bytes(Bodies(TOKENS[:1], 0, per_request=2, moment=MOMENT).body(0))
    with part("sink", tmp_path, SINK) as sink:
        port = sink.answer(LIMIT_SECONDS)["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        sink.tell({"expected": 2})
        assert sink.answer(LIMIT_SECONDS)["distinct"] == 2


def test_the_sink_ends_with_whoever_started_it(tmp_path: Path) -> None:
    with part("sink", tmp_path, SINK) as sink:
        sink.answer(LIMIT_SECONDS)
        assert sink.running
        assert sink._process.stdin is not None
        sink._process.stdin.close()
        with pytest.raises(Failed, match="the sink ended: exit code 0"):
            sink.answer(LIMIT_SECONDS)


def test_a_refused_request_ends_the_generator_with_the_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        order = {"mode": "post", "port": listener.getsockname()[1], "tokens": TOKENS[:1], "connections": 1}
        with part("generator", tmp_path, {**order, "seconds": LIMIT_SECONDS, "per_request": 1}) as generator:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(65536).startswith(b"POST /logs HTTP/1.1\r\n")
                connection.sendall(b"HTTP/1.1 413 Too Large\r\n\r\n")
                with pytest.raises(
                    Failed, match=r"^the generator ended: ConnectionError: the server answered 'HTTP/1\.1 413"
                ):
                    generator.answer(LIMIT_SECONDS)


def test_a_part_that_does_not_answer_in_time_is_an_error(tmp_path: Path) -> None:
    with part("sink", tmp_path, SINK) as sink:
        sink.answer(LIMIT_SECONDS)
        with pytest.raises(Failed, match="the sink did not finish within 0 s"):
            sink.answer(0)


def test_a_part_sees_none_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGPLEX_DURABILITY", "nonsense")
    code = "import os, json; print(json.dumps({'seen': [name for name in os.environ if 'LOGPLEX' in name]}))"
    (tmp_path / "shown.py").write_text(code)
    with Part("shown", tmp_path, ["shown"]) as shown:
        assert shown.answer(LIMIT_SECONDS) == {"seen": []}
