"""Framing of streams and bodies: each case whole, byte by byte, in random pieces, and with rubbish behind it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.errors import MalformedBody
from logplex.framing import (
    BAD_COUNT,
    COUNT_ABOVE_LIMIT,
    CUT_OFF,
    LINE_ABOVE_LIMIT,
    NO_FRAMING,
    RESYNC_FRAMES,
    Frame,
    Malformed,
    StreamDecoder,
    body_frames,
    split_body,
)

LIMIT = 30

CASES: dict[str, tuple[bytes, list[Frame | Malformed]]] = {
    "an octet count": (b"5 <1>1x", [b"<1>1x"]),
    "counted frames back to back": (b"2 <a3 <bc", [b"<a", b"<bc"]),
    "a counted frame with LF inside the count": (b"3 <a\n3 <b\n", [b"<a", b"<b"]),
    "a counted frame with LF outside the count": (b"2 <a\n2 <b\n", [b"<a", b"<b"]),
    "an inner LF and NUL of a counted frame": (b"6 <a\n\0b\n", [b"<a\n\0b"]),
    "a counted frame of nothing but line ends": (b"3 \n\r\n", [b""]),
    "a counted frame without PRI": (b"3 foo", [b"foo"]),
    "LF": (b"<a\n<b\n", [b"<a", b"<b"]),
    "CR LF": (b"<a\r\n<b\r\n", [b"<a", b"<b"]),
    "NUL": (b"<a\0<b\0", [b"<a", b"<b"]),
    "NUL and LF": (b"<a\0\n<b\n\0<c\r\n\r\n\n", [b"<a", b"<b", b"<c"]),
    "all framings mixed": (b"<a\n2 <b<c\x002 <d\n<e\r\n", [b"<a", b"<b", b"<c", b"<d", b"<e"]),
    "the longest counted frame": (b"30 <" + b"x" * 29, [b"<" + b"x" * 29]),
    "the longest line": (b"<" + b"x" * 29 + b"\n", [b"<" + b"x" * 29]),
    "a count above the limit": (b"31 <" + b"x" * 30 + b"\n<b\n", [Malformed(COUNT_ABOVE_LIMIT, 35), b"<b"]),
    "a count with too many digits": (b"1234567 x\n<b\n", [Malformed(COUNT_ABOVE_LIMIT, 10), b"<b"]),
    "a count that is no number": (b"1x <a\n<b\n", [Malformed(BAD_COUNT, 6), b"<b"]),
    "a count above the limit that is no number": (b"99x <a\n<b\n", [Malformed(BAD_COUNT, 7), b"<b"]),
    "an LF in place of a count's space": (b"12\n<b\n", [Malformed(BAD_COUNT, 3), b"<b"]),
    "a count with a leading zero": (b"02 <a\n<b\n", [Malformed(NO_FRAMING, 6), b"<b"]),
    "a first byte of no framing": (b"hello <1>\n<b\n", [Malformed(NO_FRAMING, 10), b"<b"]),
    "an LF alone behind rubbish": (b"x\nx\n\nx\n", [Malformed(NO_FRAMING, 2)] * 3),
    "a NUL behind rubbish": (b"x\0<a\n<b\n", [Malformed(NO_FRAMING, 2), b"<a", b"<b"]),
    "SysLogHandler's traceback": (b"<a\n  b\n  c\0<d\0", [b"<a", *[Malformed(NO_FRAMING, 4)] * 2, b"<d"]),
    "a NUL behind a count above the limit": (b"99 x\0<a\n<b\n", [Malformed(COUNT_ABOVE_LIMIT, 8), b"<b"]),
    "a line above the limit": (b"<" + b"x" * 30 + b"\n<b\n", [Malformed(LINE_ABOVE_LIMIT, 32), b"<b"]),
    "a line above the limit up to NUL": (b"<" + b"x" * 40 + b"\0<b\0", [Malformed(LINE_ABOVE_LIMIT, 42), b"<b"]),
    "a count that is too short": (b"2 <abc\n<b\n", [b"<a", Malformed(NO_FRAMING, 3), b"<b"]),
}


def naive(data: bytes, limit: int) -> list[Frame | Malformed]:
    """What protocol.md says, slowly: all of the stream is there, and each frame is cut from its front."""
    found: list[Frame | Malformed] = []
    while data := data.lstrip(b"\r\n\0"):
        reason = ends = ""
        if data[:1] == b"<":
            line = data.replace(b"\0", b"\n").split(b"\n")[0]
            if len(line) <= limit:
                found.append(line.rstrip(b"\r\n\0"))
                data = data[len(line) + 1 :]
                continue
            reason, ends = LINE_ABOVE_LIMIT, "\n\0"
        elif data[0] in b"123456789":
            digits = next((at for at, byte in enumerate(data) if byte not in b"0123456789"), len(data))
            if digits > len(str(limit)):
                reason = COUNT_ABOVE_LIMIT
            elif digits == len(data):
                return [*found, Malformed(CUT_OFF, len(data))]
            elif data[digits : digits + 1] != b" ":
                reason = BAD_COUNT
            elif int(data[:digits]) > limit:
                reason = COUNT_ABOVE_LIMIT
            else:
                frame = data[digits + 1 :][: int(data[:digits])]
                if len(frame) < int(data[:digits]):
                    return [*found, Malformed(CUT_OFF, len(data))]
                found.append(frame.rstrip(b"\r\n\0"))
                data = data[digits + 1 + len(frame) :]
                continue
        else:
            reason, ends = NO_FRAMING, "\n\0"
        size = next((at + 1 for at, byte in enumerate(data) if chr(byte) in (ends or "\n")), len(data))
        found.append(Malformed(reason, size))
        data = data[size:]
    return found


PIECES = st.lists(
    st.one_of(
        st.sampled_from([b"<13>1 a b", b"\n", b"\r\n", b"\0", b"2 <a", b"31 ", b"30 ", b"5 ab", b"x", b"0", b"12345"]),
        st.binary(max_size=40),
        st.binary(min_size=1, max_size=30).map(lambda frame: b"%d %s" % (len(frame), frame)),
        st.text("<12 a\n\r\0", max_size=12).map(str.encode),
    ),
    max_size=20,
)


def decode(*pieces: bytes) -> list[Frame | Malformed]:
    decoder = StreamDecoder(LIMIT)
    found = [item for piece in pieces for item in decoder.feed(piece)]
    assert decoder.broken is None
    return found


def in_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("name", CASES)
def test_each_framing_is_read_whole(name: str) -> None:
    data, expected = CASES[name]
    assert decode(data) == expected


@pytest.mark.parametrize("name", CASES)
def test_each_framing_is_read_byte_by_byte(name: str) -> None:
    data, expected = CASES[name]
    assert decode(*in_bytes(data)) == expected


@pytest.mark.parametrize("name", CASES)
def test_each_framing_is_read_with_rubbish_behind(name: str) -> None:
    data, expected = CASES[name]
    rubbish = b"\n?%s\xff 3 rubbish\n" % (b"r" * 50)
    assert decode(data + rubbish) == [*expected, Malformed(NO_FRAMING, len(rubbish) - 1)]


ENDS: dict[str, tuple[bytes, list[Frame | Malformed]]] = {
    "nothing": (b"", []),
    "complete frames": (b"<a\n2 <b", [b"<a", b"<b"]),
    "an unterminated line": (b"<a\n<b\r", [b"<a", b"<b"]),
    "a counted frame cut off": (b"<a\n9 <b", [b"<a", Malformed(CUT_OFF, 4)]),
    "a count cut off": (b"<a\n12", [b"<a", Malformed(CUT_OFF, 2)]),
    "rubbish": (b"<a\nrubbish", [b"<a", Malformed(NO_FRAMING, 7)]),
    "a line above the limit": (b"<" + b"a" * 99, [Malformed(LINE_ABOVE_LIMIT, 100)]),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_stream_completes_a_line_and_refuses_a_cut_off_count(name: str) -> None:
    data, expected = ENDS[name]
    for pieces in ([data], in_bytes(data)):
        decoder = StreamDecoder(LIMIT)
        found = [item for piece in pieces for item in decoder.feed(piece)]
        assert found + decoder.end() == expected
        assert decoder.end() == []


@given(PIECES)
def test_the_rest_of_a_counted_frame_may_be_taken_and_fed_again(pieces: list[bytes]) -> None:
    decoder = StreamDecoder(LIMIT)
    rest = b""
    found: list[Frame | Malformed] = []
    for piece in pieces:
        found += decoder.feed(rest + piece)
        rest = decoder.take_rest(1 << 20) or b""
    found += decoder.feed(rest)
    assert found + decoder.end() == naive(b"".join(pieces), LIMIT)


@pytest.mark.parametrize(
    ("data", "rest"),
    [(b"<a\n", b""), (b"<a\n12", b"12"), (b"9 <a\n", b"9 <a\n"), (b"<a", None), (b"x", None), (b"<" * 31, None)],
)
def test_only_a_counted_frame_may_be_taken_out_of_the_decoder(data: bytes, rest: bytes | None) -> None:
    decoder = StreamDecoder(LIMIT)
    decoder.feed(data)
    assert not rest or decoder.take_rest(len(rest) - 1) is None
    assert decoder.take_rest(LIMIT) == rest
    if rest is not None:
        assert decoder.end() == []


@pytest.mark.parametrize("start", [b"<", b"x", b"99 ", b"1x"])
def test_a_stream_without_line_ends_is_told_once_as_broken(start: bytes) -> None:
    decoder = StreamDecoder(LIMIT)
    bound = LIMIT * RESYNC_FRAMES
    pieces = [start, *[b"<" * LIMIT] * (RESYNC_FRAMES + 1)]
    found = [item for piece in pieces for item in decoder.feed(piece)]
    assert len(found) == 1
    assert isinstance(found[0], Malformed)
    assert bound < found[0].bytes <= bound + LIMIT
    assert decoder.broken is not None
    assert decoder.feed(b"\n<a\n") == decoder.end() == []


def test_a_long_line_is_given_up_without_being_kept() -> None:
    decoder = StreamDecoder(LIMIT)
    for _ in range(LIMIT):
        decoder.feed(b"<" * (RESYNC_FRAMES - 1))
        assert len(decoder._pending) <= LIMIT
    assert decoder.feed(b"\n<a\n") == [Malformed(LINE_ABOVE_LIMIT, LIMIT * (RESYNC_FRAMES - 1) + 1), b"<a"]


@pytest.mark.parametrize("frame", [b"<" + b"x" * 65_534 + b"\n", b"65536 " + b"x" * 65_536, b"x" * 65_536 + b"\n"])
def test_feeding_byte_by_byte_copies_nothing_twice(frame: bytes) -> None:
    """A quadratic decoder copies 2 GB a frame here: that is minutes, and this is a fraction of a second."""
    decoder = StreamDecoder(65_536)
    started = time.process_time()
    assert sum(len(decoder.feed(byte)) for byte in in_bytes(frame) * 3) == 3
    assert time.process_time() - started < 20


@given(PIECES)
def test_however_a_stream_is_cut_the_frames_are_those_of_the_naive_model(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    expected = naive(data, LIMIT)
    for cut in ([data], pieces, in_bytes(data)):
        decoder = StreamDecoder(LIMIT)
        found = [item for piece in cut for item in decoder.feed(piece)]
        assert found + decoder.end() == expected


@given(st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=10))
def test_the_frames_of_a_body_are_what_was_counted(frames: list[bytes]) -> None:
    body = b"".join(b"%d %s" % (len(frame), frame) for frame in frames)
    expected = [frame.rstrip(b"\r\n\0") for frame in frames]
    assert split_body(body, LIMIT) == list(body_frames(body, LIMIT)) == expected


@given(st.lists(st.binary(min_size=1, max_size=LIMIT), min_size=1, max_size=5), st.data())
def test_a_body_that_ends_within_a_frame_is_malformed(frames: list[bytes], data: st.DataObject) -> None:
    encoded = [b"%d %s" % (len(frame), frame) for frame in frames]
    cut = data.draw(st.integers(1, len(encoded[-1]) - 1))
    with pytest.raises(MalformedBody):
        split_body(b"".join(encoded)[:-cut], LIMIT)


@pytest.mark.parametrize(
    "body",
    [
        b"\n",
        b"<a",
        b"<a\n",
        b"2 <a\n2 <b",
        b"02 <a",
        b"0 ",
        b" <a",
        b"2<a",
        b"31 " + b"x" * 31,
        b"99999",
        b"1",
        b"2 <",
        b"-1 a",
        b"+1 a",
        b"1_0 aaaaaaaaaa",
        b"\xb2 aa",
    ],
)
def test_in_a_body_only_counted_frames_are_framing(body: bytes) -> None:
    for whole in (body, b"2 <a" + body, body + b"2 <a"):
        with pytest.raises(MalformedBody):
            split_body(whole, LIMIT)


def test_an_empty_body_has_no_frames() -> None:
    assert split_body(b"", LIMIT) == []
