"""Answers: whole, byte by byte, and with rubbish behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drains.answer import Answer

ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, True, True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, True, True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True, True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n", 202, True, True),
    (b"HTTP/1.1 103 Early\r\nRetry-After: 5\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 503, True, True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, True, True),
    (b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 500, True, False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, True, False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 200, True, True),
    (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, False, False),
]


@pytest.mark.parametrize(("data", "status", "complete", "reusable"), ANSWERS)
@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_an_answer_is_the_same_in_any_pieces(
    data: bytes, status: int, complete: bool, reusable: bool, step: int
) -> None:
    answer = Answer(10_000)
    for _ in range(3 if reusable else 1):
        for at in range(0, len(data), step):
            assert answer.feed(data[at : at + step])
        assert (answer.known, answer.status) == (True, status)
        assert (answer.complete, answer.reusable) == (complete, reusable)
        assert answer.retry_after is None
        answer.next()
        assert not answer.known
    answer.close()


@given(st.sampled_from(ANSWERS), st.binary(min_size=1, max_size=50))
def test_rubbish_behind_an_answer_does_not_change_its_status(
    case: tuple[bytes, int, bool, bool], rubbish: bytes
) -> None:
    data, status, complete, _ = case
    answer = Answer(10_000)
    answer.feed(data)
    answer.feed(rubbish)
    assert (answer.known, answer.status, answer.complete) == (True, status, complete)
    if complete and rubbish.strip(b"\r\n"):
        assert not answer.reusable


@given(st.binary(max_size=300))
def test_rubbish_is_no_answer(rubbish: bytes) -> None:
    answer = Answer(10_000)
    answer.feed(rubbish)
    assert not answer.known or rubbish.startswith(b"HTTP/")


def test_the_body_is_kept_where_it_matters_and_only_that_of_the_final_answer() -> None:
    data = (
        b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    )
    answer, other = Answer(10_000, keeps=True), Answer(10_000)
    for _ in range(2):
        assert answer.feed(data)
        assert (answer.complete, answer.body) == (True, b"hello")
        answer.next()
        assert answer.body == b""
    assert other.feed(data)
    assert other.body == b""
    answer.feed(data + data)
    assert answer.body == b"hello"


def test_retry_after_of_the_final_answer_is_kept() -> None:
    answer = Answer(10_000)
    answer.feed(b"HTTP/1.1 429 Slow down\r\nRETRY-AFTER: 17\r\nContent-Length: 0\r\n\r\n")
    assert answer.retry_after == b"17"
    answer.next()
    assert answer.retry_after is None


@pytest.mark.parametrize("size", [9_000, 11_000])
def test_no_more_than_the_limit_is_read(size: int) -> None:
    headers = Answer(10_000)
    assert headers.feed(b"HTTP/1.1 200 OK\r\nA: " + b"b" * size) is (size < 10_000)
    body = Answer(10_000)
    assert body.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"b" * size)
    assert body.reusable is (size < 10_000)
