import itertools
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from logplex.cli.lineup import BATCH_LINES, PIECE_BYTES, Batch, Buffer, Header, Lines, Loss, timestamp
from logplex.framing import split_body

HEADER = Header(190, "host one", "token", "web.1")
AT = 1_700_000_000.25


def frames(batch: Batch | None) -> list[bytes]:
    assert batch is not None
    found = split_body(batch.body, 65536)
    assert len(found) == batch.frames == int(batch.headers()["Logplex-Msg-Count"])
    return found


def texts(batch: Batch | None) -> list[bytes]:
    return [frame.split(b" - - ", 1)[1] for frame in frames(batch)]


def filled(count: int, *, limit: int = 10**6) -> Buffer:
    buffer = Buffer(HEADER, wait=False, limit=limit)
    buffer.put([b"line %d" % number for number in range(count)], AT)
    return buffer


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))), st.data())
def test_lines_are_the_same_however_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r\n"])) for line in lines) + b"unended"
    cuts = [0, *sorted(data.draw(st.sets(st.integers(0, len(stream))))), len(stream)]
    cutter = Lines()
    found = [line for a, b in itertools.pairwise(cuts) for line in cutter.feed(stream[a:b])]
    assert found + cutter.end() == [*lines, b"unended"]


def test_a_line_without_end_is_handed_on_by_pieces_and_nothing_of_it_is_lost() -> None:
    cutter = Lines()
    text = ("é" * 300_000).encode()
    found = [piece for at in range(0, len(text), 7777) for piece in cutter.feed(text[at : at + 7777])]
    assert len(cutter._rest) <= PIECE_BYTES
    found += cutter.end()
    assert b"".join(found) == text
    assert all(piece.decode() for piece in found)


def test_a_message_has_log_shuttles_form() -> None:
    buffer = Buffer(HEADER, wait=False)
    buffer.put([b"hello"], AT)
    batch = buffer.next_batch()
    assert frames(batch) == [b"<190>1 2023-11-14T22:13:20.250000+00:00 host_one token web.1 - - hello"]
    assert batch is not None
    assert len(batch.id) == 32
    assert batch.id == batch.id.upper()


def test_a_batch_holds_at_most_500_lines_in_their_order() -> None:
    buffer = filled(BATCH_LINES + 3)
    buffer.close()
    first, second = buffer.next_batch(), buffer.next_batch()
    assert texts(first) + texts(second) == [b"line %d" % number for number in range(BATCH_LINES + 3)]
    assert len(texts(second)) == 3
    assert buffer.next_batch() is None


def test_a_full_batch_is_due_at_once_and_any_other_after_a_quarter_of_a_second() -> None:
    buffer = Buffer(HEADER, wait=False)
    now = time.time()
    start = time.monotonic()
    buffer.put([b"x"] * BATCH_LINES, now)
    buffer.next_batch()
    assert time.monotonic() - start < 0.2
    buffer.put([b"x"], time.time())
    start = time.monotonic()
    buffer.next_batch()
    assert 0.1 < time.monotonic() - start < 5


def test_a_long_line_becomes_several_messages_of_at_most_10_000_bytes() -> None:
    buffer = Buffer(HEADER, wait=False)
    text = ("ab€" * 5001).encode()
    buffer.put([text], AT)
    buffer.close()
    pieces = texts(buffer.next_batch())
    assert b"".join(pieces) == text
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= 10_000


def test_lines_over_the_bound_are_dropped_and_told_as_l12_in_front_of_the_next_batch() -> None:
    buffer = filled(5, limit=21)  # three lines of 7 bytes
    buffer.close()
    batch = buffer.next_batch()
    assert frames(batch)[0] == (
        b"<172>1 2023-11-14T22:13:20.250000+00:00 heroku token log-shuttle - - "
        b"Error L12: 2 messages dropped since 2023-11-14T22:13:20.250000+00:00"
    )
    assert texts(batch)[1:] == [b"line 0", b"line 1", b"line 2"]
    assert batch is not None
    assert batch.headers()["Logplex-Drop-Count"] == "2"
    assert buffer.lost_lines == 2


def test_a_batch_given_up_is_told_as_l13_and_the_losses_it_told_are_told_again() -> None:
    buffer = filled(5, limit=21)
    batch = buffer.next_batch()
    assert batch is not None
    buffer.give_up(batch, AT + 1)
    buffer.put([b"next"], AT + 2)
    buffer.close()
    following = buffer.next_batch()
    assert texts(following) == [
        b"Error L12: 2 messages dropped since " + timestamp(AT),
        b"Error L13: 3 messages lost since " + timestamp(AT + 1),
        b"next",
    ]
    assert following is not None
    assert following.headers()["Logplex-Lost-Count"] == "3"
    assert buffer.lost_lines == 5


def test_a_loss_at_the_very_end_is_told_by_a_batch_of_its_own() -> None:
    buffer = filled(1)
    buffer.close()
    batch = buffer.next_batch()
    assert batch is not None
    buffer.give_up(batch, AT)
    assert texts(buffer.next_batch()) == [b"Error L13: 1 messages lost since " + timestamp(AT)]
    assert buffer.next_batch() is None


def test_a_writer_that_shall_wait_waits_for_room_and_loses_nothing() -> None:
    buffer = Buffer(HEADER, wait=True, limit=50)
    lines = [b"line %d" % number for number in range(2000)]
    writer = threading.Thread(target=lambda: (buffer.put(lines, AT), buffer.close()))
    writer.start()
    found = []
    while (batch := buffer.next_batch()) is not None:
        found += texts(batch)
    writer.join()
    assert found == lines
    assert buffer.lost_lines == 0


def test_what_is_left_when_nobody_sends_any_more_is_lost() -> None:
    buffer = filled(4)
    buffer.give_up_rest()
    buffer.close()
    assert buffer.lost_lines == 4
    assert buffer.next_batch() is None


def test_a_loss_remembers_when_it_began() -> None:
    loss = Loss()
    loss.add(2, 5.0)
    loss.add(1, 7.0)
    assert loss == Loss(3, 5.0)
