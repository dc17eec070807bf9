import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.http.parser import MAX_FIELDS, RequestParser
from logplex.http.refusal import Refusal

LIMIT = 2000

WHOLE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\nGET /a%20b?c=d HTTP/1.1\r\nHost: a:80\r\nX-Trailing: x \t \r\nEmpty:\r\n\r\n",
    b"POST /logs HTTP/1.1\r\nHost: [::1]:8001\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nxx",
    b"POST /logs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n"
    b"6\r\n\r\n\r\nxx\r\n0\r\nT: v\r\n\r\n",
    b"POST /logs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"PUT http://b:8001/c?d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nok",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
]

Parsed = tuple[bytes, bytes, bytes, dict[bytes, bytes], bytes, bool]


def parse(data: bytes, cuts: list[int], limit: int = LIMIT) -> list[Parsed]:
    """All requests in `data`, given to one parser in the pieces that the cuts make."""
    parser = RequestParser(limit)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        at = start
        while at < end:
            before, at = at, parser.feed(data, at, end)
            assert at > before
            if parser.complete:
                head = parser.head
                assert head is not None
                body = b"".join(parser.body)
                assert parser.body_bytes == len(body)
                found.append((head.method, head.path, head.query, head.headers, body, head.keep_alive))
                parser.reset()
    return found


def refused(data: bytes, limit: int = LIMIT) -> int:
    """The status of the refusal, which must be the same however the bytes come in."""
    statuses = set()
    for cuts in ([], list(range(1, len(data)))):
        with pytest.raises(Refusal) as caught:
            parse(data, cuts, limit)
        statuses.add(caught.value.status)
    assert len(statuses) == 1
    return int(statuses.pop())


@pytest.mark.parametrize("data", WHOLE)
def test_a_request_is_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    whole = parse(data, [])
    assert len(whole) == 1
    assert parse(data, list(range(1, len(data)))) == whole


LASTING = [request for request in WHOLE if b"1.0" not in request and b"Close" not in request]


@given(st.lists(st.sampled_from(LASTING), min_size=1, max_size=4), st.data())
def test_requests_in_a_row_are_told_apart_wherever_they_are_cut(requests: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    assert parse(stream, cuts) == [parse(request, [])[0] for request in requests]


def test_parsing_stops_at_the_end_of_a_request() -> None:
    for first in WHOLE:
        parser = RequestParser(LIMIT)
        data = first + WHOLE[0] + b"rubbish"
        assert parser.feed(data, 0, len(data)) in (len(first), 4)  # 4: the empty lines before a request
        if not parser.complete:
            assert parser.feed(data, 4, len(data)) == len(first)
        assert parser.complete


def test_names_are_lower_case_and_values_without_their_padding() -> None:
    [(_, path, query, headers, _, keep_alive)] = parse(WHOLE[1], [])
    assert (path, query, keep_alive) == (b"/a%20b", b"c=d", True)
    assert headers == {b"host": b"a:80", b"x-trailing": b"x", b"empty": b""}


def test_repeated_fields_are_joined() -> None:
    [(_, _, _, headers, _, _)] = parse(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: b\r\nACCEPT: c\r\n\r\n", [])
    assert headers[b"accept"] == b"b, c"


def test_a_full_url_is_taken_apart_and_its_host_wins() -> None:
    [(_, path, query, headers, body, keep_alive)] = parse(WHOLE[6], [])
    assert (path, query, headers[b"host"], body, keep_alive) == (b"/c", b"d", b"b:8001", b"ok", False)


def test_an_upgrade_is_ignored_and_the_body_read() -> None:
    stream = b"".join(WHOLE[8:])
    assert [found[4] for found in parse(stream, [])] == [b"hello", b"abc", b""]


def test_trailers_change_nothing() -> None:
    [(_, _, _, headers, body, _)] = parse(WHOLE[3], [])
    assert set(headers) == {b"host", b"transfer-encoding"}
    assert body == b"hello\r\n\r\nxx"


H = b"POST / HTTP/1.1\r\nHost: a\r\n"
REFUSED = {
    "two equal lengths": (H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
    "two lengths": (H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", 400),
    "a list of lengths": (H + b"Content-Length: 1, 1\r\n\r\nx", 400),
    "a signed length": (H + b"Content-Length: +1\r\n\r\nx", 400),
    "an empty length": (H + b"Content-Length:\r\n\r\n", 400),
    "an endless length": (H + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "a length and chunked": (H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and a length": (H + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked first": (H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "gzip as a transfer encoding": (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a tab in chunked": (H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a space before the colon": (H + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a folded line": (H + b"X: a\r\n b\r\n\r\n", 400),
    "bare LF": (b"POST / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF after a field": (b"POST / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare CR": (b"POST / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "NUL": (H + b"X: a\0b\r\n\r\n", 400),
    "a field without a name": (H + b": a\r\n\r\n", 400),
    "bare LF in chunks": (H + b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n", 400),
    "a chunk longer than told": (H + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n", 400),
    "a chunk without end": (H + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx", 400),
    "a negative chunk": (H + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "a Host with userinfo": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "a Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a bad Host in 1.0": (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
    "two log-ins": (H + b"Authorization: Basic a\r\nAuthorization: Basic b\r\n\r\n", 400),
    "a twin of Content-Length": (H + b"Content_Length: 1\r\n\r\nx", 400),
    "a twin of a header of ours": (H + b"Logplex_Msg_Count: 1\r\n\r\n", 400),
    "a half twin": (H + b"X-Request_Id: 1\r\n\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a relative target": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "raw UTF-8 in the target": ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    "a star for GET": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tunnel": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "an unknown method": (b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", 501),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "an expectation": (H + b"Expect: miracles\r\n\r\n", 417),
    "many fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * MAX_FIELDS + b"\r\n", 431),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_http_or_can_be_read_in_two_ways_is_refused(name: str) -> None:
    data, status = REFUSED[name]
    assert refused(data) == status


def padded(size: int) -> bytes:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


def test_a_head_may_be_as_long_as_the_limit_and_no_longer() -> None:
    for cuts in ([], [1], [1000, 1500]):
        assert len(parse(padded(LIMIT), cuts)) == 1
        with pytest.raises(Refusal) as caught:
            parse(padded(LIMIT + 1), cuts)
        assert caught.value.status == 431


def test_no_more_than_the_limit_is_kept_of_an_endless_header_line() -> None:
    parser = RequestParser(LIMIT)
    data = H + b"X: " + b"x" * 10_000_000
    with pytest.raises(Refusal) as caught:
        parser.feed(data, 0, len(data))
    assert caught.value.status == 431


@pytest.mark.parametrize("endless", [b"1;", b"0\r\nX: ", b"5\r\nhello\r\n0\r\nX: a\r\nY: "])
def test_chunk_extensions_and_trailers_are_bounded_as_heads_are(endless: bytes) -> None:
    data = H + b"Transfer-Encoding: chunked\r\n\r\n" + endless + b"x" * (3 * LIMIT)
    for step in (1, 1000):
        with pytest.raises(Refusal) as caught:
            parse(data, list(range(step, len(data), step)))
        assert caught.value.status == 431


def test_the_second_request_has_a_limit_of_its_own() -> None:
    assert len(parse(padded(LIMIT) * 3, [])) == 3
    with pytest.raises(Refusal):
        parse(padded(LIMIT) * 2 + padded(LIMIT + 1), [])


@given(st.binary(max_size=300), st.integers(0, len(WHOLE) - 1), st.data())
def test_rubbish_is_refused_or_read_and_nothing_else_happens(rubbish: bytes, which: int, data: st.DataObject) -> None:
    good = WHOLE[which]
    at = data.draw(st.integers(0, len(good)))
    until = data.draw(st.integers(at, len(good)))
    stream = good[:at] + rubbish + good[until:]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=4)))
    cuts = [cut for cut in cuts if cut < len(stream)]
    with suppress(Refusal):
        parse(stream, cuts)


def again(name: bytes, value: bytes, rest: bytes = b"hello") -> bytes:
    """A request of a client that sends nearly the same each time."""
    lines = {
        b"Host": b"a",
        b"Authorization": b"Basic dA==",
        b"Content-Length": b"5",
        b"X-Request-Id": b"1",
        b"X": b"y",
    }
    head = b"".join(b"%b: %b\r\n" % field for field in (lines | {name: value}).items())
    return b"POST /logs?a HTTP/1.1\r\n" + head + b"\r\n" + rest


values = st.one_of(
    st.sampled_from(
        [b"5", b"05", b"0", b"6", b"+5", b"5 ", b" 5", b"5, 5", b"", b"\xb2", b"a b", b"9" * 19, b"x" * 500]
    ),
    st.text(alphabet="5 \t\0\x7f\n\rab:\xe4", max_size=8).map(lambda text: text.encode("latin-1")),
)
names = st.sampled_from(
    b"Host Authorization authorization Content-Length CONTENT-LENGTH Content_Length X X-Request-Id X-Request-ID "
    b"Logplex-Msg-Count Connection Upgrade Transfer-Encoding".split()
)


@given(st.lists(st.builds(again, names, values), max_size=3), st.integers(0, 5))
def test_a_head_like_the_one_before_says_what_it_says_alone(requests: list[bytes], cut: int) -> None:
    usual = again(b"X-Request-Id", b"2")
    parser = RequestParser(LIMIT)
    for data in (usual, *requests, usual, usual[: len(usual) - cut]):
        alone = told(RequestParser(LIMIT), data)
        assert told(parser, data) == alone
        if not parser.complete or parser.head is None or not parser.head.keep_alive:
            return
        parser.reset()


def told(parser: RequestParser, data: bytes) -> list[object]:
    """All that a parser says of a request and what is behind it."""
    said: list[object] = []
    try:
        said.append(parser.feed(data, 0, len(data)))
    except Refusal as refusal:
        return [refusal.status, str(refusal)]
    head = parser.head
    if head is not None:
        said += [head.method, head.path, head.query, head.headers, head.length, head.chunked]
        said += [head.keep_alive, head.http_1_0, head.expects_continue]
    return [*said, b"".join(parser.body), parser.body_bytes, parser.complete, parser.started]


def test_a_body_in_tiny_chunks_takes_about_its_own_memory() -> None:
    count = 50_000
    parser = RequestParser(32768)
    data = b"POST /logs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * count
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for at in range(0, len(data), 65536):
            piece = data[at : at + 65536]
            assert parser.feed(piece, 0, len(piece)) == len(piece)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert parser.body_bytes == 2 * count
    assert b"".join(parser.body) == b"ab" * count
    assert held < 3 * parser.body_bytes
