"""The strict reading of messages, and what outputs ask of times and texts."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.message import Message, field, http_text, parse, parse_rfc3164, rfc3339, split

TIME = b"2026-11-22T03:00:00.123456+00:00"
TOKEN = b"t.01234567-89ab-cdef-0123-456789abcdef"
HEADER = b"<13>1 %s shop %s web.1 - " % (TIME, TOKEN)

TEXTS: dict[bytes, bytes] = {
    # The dialect: no structured data.
    b"hello world": b"hello world",
    b"": b"",
    b" indented": b" indented",
    b"-dash": b"-dash",
    b"--": b"--",
    b"\xef\xbb\xbfBOM": b"\xef\xbb\xbfBOM",
    b"nul\0inside \xff": b"nul\0inside \xff",
    b"two\nlines": b"two\nlines",
    # Nil.
    b"-": b"",
    b"- ": b"",
    b"- hello": b"hello",
    b"-  indented": b" indented",
    b"- - dash": b"- dash",
    b"- [GIN] text": b"[GIN] text",
    b'- [a b="c"] text': b'[a b="c"] text',
    b"- \xef\xbb\xbfBOM": b"\xef\xbb\xbfBOM",
    # Structured data.
    b'[timeQuality tzKnown="1" isSynced="0"] hello': b"hello",
    b'[meta sequenceId="1"]': b"",
    b'[meta sequenceId="1"] ': b"",
    b'[meta sequenceId="1"] - dash': b"- dash",
    b'[meta sequenceId="1"] [GIN] text': b"[GIN] text",
    b'[meta sequenceId="1"]  indented': b" indented",
    b'[a b="c"][d e="f"] text': b"text",
    b'[a b="c"] [d e="f"] text': b'[d e="f"] text',
    b'[a b="c"][GIN] text': b"[GIN] text",
    b'[a@32473 b="\\"\\\\\\]"] text': b"text",
    b'[a b="\\x"] text': b"text",
    b'[a b="x[0]"] text': b"text",
    b'[a b=""] text': b"text",
    b'[a  b="c"  d="e" ] text': b"text",
    b'[a b="spaces and\nline ends"] text': b"text",
    b'[a b="\xe2\x82\xac\xff"] text': b"text",
    # Text that looks like it.
    b"[GIN] 2026/11/22 | 200": b"[GIN] 2026/11/22 | 200",
    b"[GIN]": b"[GIN]",
    b'[GIN][a b="c"] text': b'[GIN][a b="c"] text',
    b'[a b="c"]text': b'[a b="c"]text',
    b'[a b="c"][d e="f"]text': b'[a b="c"][d e="f"]text',
    b'[a b="c"': b'[a b="c"',
    b'[a b="c] text': b'[a b="c] text',
    b'[a b="c\\"] text': b'[a b="c\\"] text',
    b"[a b=c] text": b"[a b=c] text",
    b'[a="b"] text': b'[a="b"] text',
    b'["a"] json': b'["a"] json',
    b"[": b"[",
    b"[]": b"[]",
}


@pytest.mark.parametrize("rest", TEXTS)
def test_the_text_is_what_follows_structured_data_if_there_is_any(rest: bytes) -> None:
    assert parse(HEADER + rest) == Message(13, TIME, b"shop", TOKEN, b"web.1", TEXTS[rest])


@pytest.mark.parametrize("rest", TEXTS)
def test_line_ends_behind_a_message_are_no_part_of_it(rest: bytes) -> None:
    for end in (b"\n", b"\r\n", b"\0", b"\n\0\r\n\n"):
        assert parse(HEADER + rest + end) == parse(HEADER + rest)


@pytest.mark.parametrize("rest", TEXTS)
def test_rubbish_behind_a_message_stays_in_its_text(rest: bytes) -> None:
    rubbish = b' \xff\0[x y="z"] <13>1 - - - - - - 5 <1>1\x80'
    message = parse(HEADER + rest + rubbish)
    assert message is not None
    assert message.text.endswith(rubbish[1:])


def test_a_header_may_end_at_its_last_field() -> None:
    assert parse(b"<0>1 - - - - -") == Message(0, b"", b"-", b"-", b"-", b"")


def test_nil_fields_are_told_by_the_empty_time_and_the_dash() -> None:
    assert parse(b"<191>1 - - %s - ID47 - text" % TOKEN) == Message(191, b"", b"-", TOKEN, b"-", b"text")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"hello",
        b"<13>",
        b"<>1 - - a - - -",
        b"<192>1 - - a - - -",
        b"<013>1 - - a - - -",
        b"<-1>1 - - a - - -",
        b"<13>2 - - a - - -",
        b"<13>10 - - a - - -",
        b"<13> - - a - - -",
        b"13>1 - - a - - -",
        b" <13>1 - - a - - -",
        b"<13>1",
        b"<13>1 -",
        b"<13>1 - - a",
        b"<13>1 - - a p",
        b"<13>1  - a p - -",
        b"<13>1 - - a p  x",
        b"<13>1 - - a p ",
        b"<\xb2>1 - - a - - -",
        b"<13>Nov 22 03:00:00 shop web: hello",
    ],
)
def test_a_frame_whose_header_fails_is_no_syslog_message(frame: bytes) -> None:
    assert parse(frame) is None


@pytest.mark.parametrize("pri", range(192))
def test_every_priority_is_read(pri: int) -> None:
    message = parse(b"<%d>1 - - a - - text" % pri)
    assert message is not None
    assert message.pri == pri


@pytest.mark.parametrize(
    "time",
    [b"2026-11-22T03:00:00Z", b"2026-11-22T03:00:00+00:00", b"2026-11-22T03:00:00.5Z+00:00", b"yesterday"],
)
def test_the_time_is_the_senders_text(time: bytes) -> None:
    message = parse(b"<13>1 %s - a - - text" % time)
    assert message is not None
    assert message.time == time


def test_other_bytes_in_the_header_become_underscores() -> None:
    frame = b"<13>1 n\x00w h\xc3\xb6st a\nb w\x7feb\t1 - text \x00\xff"
    assert parse(frame) == Message(13, b"n_w", b"h__st", b"a_b", b"w_eb_1", b"text \x00\xff")


def test_long_fields_are_cut() -> None:
    message = parse(b"<13>1 %s %s %s %s - text" % (b"t" * 65, b"h" * 256, b"a" * 500, b"p" * 129))
    assert message == Message(13, b"t" * 64, b"h" * 255, b"a" * 500, b"p" * 128, b"text")


def test_one_long_field_alone_is_cut() -> None:
    assert parse(b"<13>1 %s - - - - x" % (b"t" * 65)) == Message(13, b"t" * 64, b"-", b"-", b"-", b"x")
    assert parse(b"<13>1 - %s - - - x" % (b"h" * 256)) == Message(13, b"", b"h" * 255, b"-", b"-", b"x")
    assert parse(b"<13>1 - - - %s - x" % (b"p" * 129)) == Message(13, b"", b"-", b"-", b"p" * 128, b"x")


def naive_text(rest: bytes) -> bytes:
    """Structured data read byte by byte: RFC 5424 section 6.3, as protocol section 11 bends it."""
    if rest == b"-" or rest[:2] == b"- ":
        return rest[2:]
    kept = rest
    while (after := naive_element(kept)) is not None:
        kept = after
    if kept is rest or kept[:1] not in (b"", b" ", b"["):
        return rest
    return kept.removeprefix(b" ")


def naive_element(text: bytes) -> bytes | None:
    """What follows the element with parameters that `text` begins with; None when it begins with none."""

    def name(at: int) -> int:
        while at < len(text) and 0x21 <= text[at] <= 0x7E and text[at] not in b'="]':
            at += 1
        return at

    if text[:1] != b"[" or (at := name(1)) == 1:
        return None
    parameters = 0
    while True:
        spaces = 0
        while text[at : at + 1] == b" ":
            at, spaces = at + 1, spaces + 1
        if text[at : at + 1] == b"]":
            return text[at + 1 :] if parameters else None
        start, at = at, name(at)
        if not spaces or start == at or text[at : at + 2] != b'="':
            return None
        at += 2
        while text[at : at + 1] != b'"':
            if at >= len(text):
                return None
            at += 2 if text[at : at + 1] == b"\\" else 1
        at, parameters = at + 1, parameters + 1


SD_LIKE = st.lists(
    st.sampled_from(
        [b"[", b"]", b"a", b"b=", b'"', b'\\"', b"\\", b" ", b'[a b="c"]', b' b="c"', b"-", b"\xff", b"\n"]
    ),
    max_size=14,
).map(b"".join)


@given(st.one_of(SD_LIKE, SD_LIKE.map(lambda tail: b"[a" + tail)))
def test_structured_data_is_what_the_naive_reader_finds(rest: bytes) -> None:
    message = parse(HEADER + rest + b".")
    assert message is not None
    assert message.text == naive_text(rest + b".")


@pytest.mark.parametrize(
    "rest",
    [
        b"[a" + b' b="c"' * 200_000,
        b'[a b="' + b"\\" * 1_000_001,
        b'[a b="c"]' * 200_000 + b"x",
        b"[" * 1_000_000,
        b"[a" + b" " * 1_000_000,
        b'[a b="' + b"x" * 1_000_000,
    ],
)
def test_no_structured_data_takes_more_than_linear_time(rest: bytes) -> None:
    """Backtracking would take hours here."""
    assert parse(HEADER + rest) is not None


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
RFC3164: dict[bytes, tuple[bytes, bytes, bytes, bytes]] = {
    b"Nov 22 03:00:00 shop sshd[12]: text": (b"2026-11-22T03:00:00+00:00", b"shop", b"sshd.12", b"text"),
    b"Nov  2 03:00:00 shop sshd: text": (b"2026-11-02T03:00:00+00:00", b"shop", b"sshd", b"text"),
    b"Nov 02 03:00:00 shop sshd: text": (b"2026-11-02T03:00:00+00:00", b"shop", b"sshd", b"text"),
    b"Nov 2 03:00:00 sshd[12]: a b: c": (b"2026-11-02T03:00:00+00:00", b"-", b"sshd.12", b"a b: c"),
    b"Nov 22 03:00:00.25 sshd: text": (b"2026-11-22T03:00:00+00:00", b"-", b"sshd", b"text"),
    b"Nov 22 03:00:00 sshd:": (b"2026-11-22T03:00:00+00:00", b"-", b"sshd", b""),
    b"Nov 22 03:00:00 sshd[]: text": (b"2026-11-22T03:00:00+00:00", b"-", b"sshd", b"text"),
    b"Nov 22 03:00:00 fe80::1 sshd: text": (b"2026-11-22T03:00:00+00:00", b"fe80::1", b"sshd", b"text"),
    b"Nov 22 03:00:00 h\xf6st w\xe9b: text": (b"2026-11-22T03:00:00+00:00", b"h_st", b"w_b", b"text"),
    b"Nov 22 03:00:00 a text without tag": (b"2026-11-22T03:00:00+00:00", b"-", b"-", b"a text without tag"),
    b"Nov 22 03:00:00": (b"2026-11-22T03:00:00+00:00", b"-", b"-", b""),
    b"Feb 30 03:00:00 shop sshd: text": (b"", b"shop", b"sshd", b"text"),
    b"Nov 22 03:00:60 shop sshd: text": (b"", b"shop", b"sshd", b"text"),
    b"2026-11-22T03:00:00.5+02:00 shop sshd[12]: text": (b"2026-11-22T03:00:00.5+02:00", b"shop", b"sshd.12", b"text"),
}


@pytest.mark.parametrize("rest", RFC3164)
def test_rfc_3164_is_read_with_or_without_host_and_tag(rest: bytes) -> None:
    time, host, process, text = RFC3164[rest]
    message = parse_rfc3164(b"<13>" + rest + b"\r\n", now=NOW)
    assert message == Message(13, time, host, process.split(b".")[0], process, text)
    assert parse(b"<13>" + rest) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"<13>",
        b"<13>text",
        b"<192>Nov 22 03:00:00 x",
        b"<013>Nov 22 03:00:00 x",
        b"Nov 22 03:00:00 x",
        b"<13>Foo 22 03:00:00 x",
        b"<13>Nov 22 3:00:00 x",
        b"<13>2026-02-30T03:00:00Z x",
        b"<13>Nov 22 03:00:00x",
        b"<13>1 - - a p - -",
    ],
)
def test_what_does_not_begin_with_priority_and_time_is_not_rfc_3164(frame: bytes) -> None:
    assert parse_rfc3164(frame, now=NOW) is None


@pytest.mark.parametrize(
    ("now", "rest", "expected"),
    [
        (datetime(2027, 1, 1, tzinfo=UTC), b"Dec 31 23:59:59", b"2026-12-31T23:59:59+00:00"),
        (datetime(2026, 12, 31, 23, tzinfo=UTC), b"Jan  1 00:00:10", b"2027-01-01T00:00:10+00:00"),
        (datetime(2025, 2, 1, tzinfo=UTC), b"Feb 29 00:00:00", b"2024-02-29T00:00:00+00:00"),
        (NOW.astimezone(timezone(timedelta(hours=2))), b"Nov 22 03:00:00", b"2026-11-22T03:00:00+02:00"),
    ],
)
def test_an_rfc_3164_time_gets_the_year_and_zone_nearest_to_now(now: datetime, rest: bytes, expected: bytes) -> None:
    message = parse_rfc3164(b"<13>" + rest + b" x: y", now=now)
    assert message is not None
    assert message.time == expected


@given(st.integers(0, 13 * 10**9), st.timedeltas(-timedelta(180), timedelta(180)))
def test_an_rfc_3164_time_of_the_last_or_next_half_year_is_understood(seconds: int, off: timedelta) -> None:
    now = datetime.fromtimestamp(seconds, UTC)
    sent = (now + off).replace(microsecond=0)
    stamp = f"{sent:%b} {sent.day:2} {sent:%H:%M:%S}".encode()
    message = parse_rfc3164(b"<13>%s x: y" % stamp, now=now)
    assert message is not None
    assert message.time == sent.isoformat().encode()


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (b"2026-11-22T03:00:00Z", b"2026-11-22T03:00:00Z"),
        (b"2026-11-22T03:00:00.123456-11:30", b"2026-11-22T03:00:00.123456-11:30"),
        (b"2026-11-22T03:00:00.123456789Z", b"2026-11-22T03:00:00.123456Z"),
        (b"2026-11-22T03:00:00Z+00:00", b"2026-11-22T03:00:00+00:00"),
        (b"2026-11-22T03:00:00.1234567Z+00:00", b"2026-11-22T03:00:00.123456+00:00"),
        (b"2024-02-29T23:59:59Z", b"2024-02-29T23:59:59Z"),
        *[
            (time, None)
            for time in (b"", b"-", b"2026-02-29T00:00:00Z", b"2026-04-31T00:00:00Z", b"2026-13-01T00:00:00Z")
        ],
        *[
            (b"2026-11-22T" + rest, None)
            for rest in (b"24:00:00Z", b"00:60:00Z", b"00:00:60Z", b"00:00:00", b"0:0:0Z")
        ],
        *[(b"2026-11-22T00:00:00" + rest, None) for rest in (b"z", b".Z", b",5Z", b"+24:00", b"+00:60", b"+0000")],
        *[(time, None) for time in (b"2026-11-22 00:00:00Z", b"2026-11-22T00:00:00Z\n", b"2026-00-22T00:00:00Z")],
        *[
            (time, None)
            for time in (b"0000-01-01T00:00:00Z", b"2026-11-00T00:00:00Z", "２026-11-22T00:00:00Z".encode())
        ],
    ],
)
def test_a_time_is_rfc_3339_or_none(time: bytes, expected: bytes | None) -> None:
    assert rfc3339(time) == expected


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))])))
def test_a_time_that_conforms_is_returned_as_it_is(moment: datetime) -> None:
    time = moment.isoformat().encode()
    assert rfc3339(time) is time


@given(st.integers(1900, 2104), st.integers(0, 13), st.integers(0, 32))
def test_a_date_is_valid_when_the_calendar_has_it(year: int, month: int, day: int) -> None:
    time = f"{year}-{month:02}-{day:02}T00:00:00Z"
    try:
        datetime.fromisoformat(time)
    except ValueError:
        assert rfc3339(time.encode()) is None
    else:
        assert rfc3339(time.encode()) == time.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"plain", b"plain"),
        (b"a\r\n\n\rb\nc\r", b"a b c "),
        (b"nul\0", b"nul\0"),
        (b"\xe2\x82\xac", b"\xe2\x82\xac"),
        (b"\xe2\x82", b"\xef\xbf\xbd"),
        (b"\xff\n\xfe", b"\xef\xbf\xbd \xef\xbf\xbd"),
        (b"\xed\xa0\x80", b"\xef\xbf\xbd" * 3),
    ],
)
def test_a_text_for_http_is_one_line_of_utf_8(text: bytes, expected: bytes) -> None:
    assert http_text(text) == expected


# Weighted towards what breaks a splitter: long sequences, broken ones, stray continuations.
TEXT_PIECES = st.lists(
    st.sampled_from(
        [b"a", b"bcd", "é".encode(), "€".encode(), "😀".encode(), b"\xff", b"\x80", b"\xe2\x82", b"\xf0\x9f"]
    )
    | st.binary(max_size=6),
    max_size=60,
).map(b"".join)


@given(TEXT_PIECES, st.integers(12, 40))
def test_a_split_text_loses_nothing_and_keeps_its_sequences(text: bytes, limit: int) -> None:
    pieces = split(text, limit)
    assert b"".join(pieces) == text
    assert all(len(piece.decode(errors="replace").encode()) <= limit for piece in pieces)
    assert "".join(piece.decode(errors="replace") for piece in pieces) == text.decode(errors="replace")
    if len(text.decode(errors="replace").encode()) <= limit:
        assert pieces == [text]
    else:
        assert all(pieces)


@given(st.text(max_size=80), st.integers(12, 40))
def test_pieces_of_valid_text_are_as_long_as_the_limit_allows(text: str, limit: int) -> None:
    encoded = text.encode(errors="replace")
    for piece, following in zip(split(encoded, limit), split(encoded, limit)[1:], strict=False):
        assert len(piece) + len(following.decode()[0].encode()) > limit


def test_a_message_of_10_000_bytes_is_whole_and_one_more_byte_is_another_piece() -> None:
    assert split(b"x" * 10_000) == [b"x" * 10_000]
    assert split(b"x" * 10_001) == [b"x" * 10_000, b"x"]
    assert split(b"\xff" * 3333) == [b"\xff" * 3333]
    assert len(split(b"\xff" * 3334)) == 2
    assert [len(piece) for piece in split("é".encode() * 5001)] == [10_000, 2]
    assert [len(piece) for piece in split(b"x" + "é".encode() * 5000)] == [9_999, 2]


@given(st.binary(max_size=40), st.integers(0, 40))
def test_a_field_is_printable_and_short(value: bytes, limit: int) -> None:
    found = field(value, limit)
    assert len(found) == min(len(value), limit)
    assert all(a == b if 0x21 <= b <= 0x7E else a == 0x5F for a, b in zip(found, value, strict=False))
