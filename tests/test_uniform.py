"""That all ways agree is in tests/test_fastpath.py; here is what the quickest one is there for."""

import pytest

from logplex.batch import HOLE, Batch, Form
from logplex.uniform import LEAST_BYTES, MOST_BYTES, Head, first_head, is_worth_it, render

TIME = "2026-11-22T02:50:00.123456+00:00"
APP = "t.00000001-0000-4000-8000-000000000001"
RENDERED = {Form.HTTP: " host app {} - ", Form.SYSLOG: f" {HOLE.decode()} app {{}} - - "}
COUNTED = [f"text {'y' * number} - - [z]" for number in (*range(100), 900, 1000)]  # counts of 2, 3 and 4 digits
TEXTS = ["x", f"> shuttle {APP} web.1 - - x", f"{APP} web.1", "\1", *COUNTED]


def body(*texts: str, end: str = " - - ", host: str = "shuttle", processes: tuple[str, ...] = ("web.1",)) -> bytes:
    lines = []
    for number, text in enumerate(texts):
        process = processes[number % len(processes)]
        line = f"<{100 + number % 92}>1 {TIME} {host} {APP} {process}{end}{text}\n"
        lines.append(f"{len(line)} {line}")
    return "".join(lines).encode()


def rendered(data: bytes, form: Form) -> Batch | None:
    head = first_head(data)
    assert head is not None
    found = render(data, head, RENDERED[form].format(head.process.decode()), form)
    return None if found is None else Batch(0, found[0], 0, form, found[1], clean=True)


@pytest.mark.parametrize("form", [Form.HTTP, Form.SYSLOG])
@pytest.mark.parametrize("end", [" - - ", " - "])
def test_all_lines_of_one_process_are_rendered_together(form: Form, end: str) -> None:
    batch = rendered(body(*TEXTS, end=end), form)
    assert batch is not None
    assert [line.text.decode() for line in batch.lines()] == TEXTS
    assert {(line.source, line.process) for line in batch.lines()} == {(b"app", b"web.1")}
    parsed = Batch(0, batch.count, 0, form, batch.data)
    assert (batch.http(), batch.syslog(HOLE)) == (parsed.http(), parsed.syslog(HOLE))
    assert [line.pri for line in batch.lines()] == [b"%d" % (100 + number % 92) for number in range(len(TEXTS))]


@pytest.mark.parametrize(("form", "end"), [(Form.HTTP, " - "), (Form.SYSLOG, " - - ")])
def test_where_heads_end_as_they_are_kept_processes_may_differ(form: Form, end: str) -> None:
    processes = ("web.1", "router", "-", "p" * 17)
    batch = rendered(body(*TEXTS, end=end, processes=processes), form)
    assert batch is not None
    assert [line.process.decode() for line in batch.lines()[:4]] == list(processes)
    assert [line.text.decode() for line in batch.lines()] == TEXTS


@pytest.mark.parametrize("most_known", [2, 10_000])
def test_what_was_seen_before_changes_nothing(most_known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logplex.uniform._MOST_KNOWN", most_known)
    for round_ in range(3):
        for number in range(100, 120):
            good = body(*(f"{letter}{round_}" for letter in "abcdefghij" * 5), processes=(f"web.{number}",))
            assert (batch := rendered(good, Form.SYSLOG)) is not None
            assert {line.process for line in batch.lines()} == {f"web.{number}".encode()}
            for odd in (good.replace(b"web.", b"web ", 1), good.replace(b" - - a", b" - -x ", 1)):
                assert odd != good
                assert rendered(good + odd, Form.SYSLOG) is None


def test_a_process_much_longer_than_the_first_leaves_the_body_to_the_others() -> None:
    assert rendered(body(*TEXTS, processes=("web.1", "p" * 60)), Form.SYSLOG) is None
    assert rendered(body(*TEXTS, processes=("p" * 60, "web.1")), Form.SYSLOG) is not None


@pytest.mark.parametrize(
    "odd",
    [
        body("x", host="other"),
        body("x").replace(b"web.1", b"web.2"),  # the count still fits
        body("x").replace(b"<100>", b"<192>"),
        body("xx").replace(b"<100>", b"<13>").replace(b"xx", b"xxx"),  # the count still fits
        body("x").replace(b"2026-11-22", b"2026-11-31"),
        body("xx").replace(b".123456", b".12345").replace(b"xx", b"xxx"),
        body(f"shuttle {APP} x") + body("x", host="other"),
        body("x").replace(b"shuttle", b"SHUTTLE").replace(b"- x", b"- x shuttle " + APP.encode()),
        body("x" * 3000),
        body("ö"),
        body("x")[:-1],
        body("x") + b"\n",
        body("two\nlines"),
        body(""),
        b"1" + body("x"),
        b"0" + body("x"),
    ],
)
def test_one_odd_line_leaves_the_body_to_the_others(odd: bytes) -> None:
    usual = body(*TEXTS[:20])
    like = Head(f"<100>1 {TIME}".encode(), f"shuttle {APP} web.1".encode(), b" - - ")
    for data in (odd + usual, usual + odd, usual + odd + usual):
        if is_worth_it(data) and first_head(data) == like:
            assert rendered(data, Form.HTTP) is None


@pytest.mark.parametrize(("form", "end"), [(Form.HTTP, " - "), (Form.SYSLOG, " - - ")])
def test_what_stands_for_a_time_and_looks_like_the_rest_of_a_line_is_for_the_others(form: Form, end: str) -> None:
    odd = body("x", end=end).replace(TIME.encode(), end.encode()[1:].ljust(len(TIME), b"f"))
    assert rendered(body(*TEXTS, end=end) + odd, form) is None


@pytest.mark.parametrize("text", ["- x", "[x] y", "-"])
def test_in_the_dialect_what_could_be_structured_data_is_for_the_others(text: str) -> None:
    for form in (Form.HTTP, Form.SYSLOG):
        assert rendered(body(*TEXTS, text, end=" - "), form) is None


def test_small_and_very_large_bodies_are_not_looked_at() -> None:
    one = body("x" * 501)
    assert not is_worth_it(one * (LEAST_BYTES // len(one)))
    assert is_worth_it(one * (LEAST_BYTES // len(one) + 1))
    assert is_worth_it(one * (MOST_BYTES // len(one)))
    assert not is_worth_it(one * (MOST_BYTES // len(one) + 1))
