"""The oracle sees what it must: a journal of a sound run is judged sound, and one planted violation is found each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from .journal import Answer, Connection, Delivery, End, Event, History, Journal, Run, Sent, Stream
from .lines import Line, Name, line
from .oracle import _see_all, _walk, judge
from .timeline import Timeline

EPOCH = "00000000000000aa"
COUNT = 30
TELLS = Line(b"2026-01-01T00:00:00Z", b"heroku", b"logplex", b"Drain 1 fails.")


def told(count: int) -> Line:
    text = b"Error L10 (output buffer overflow): %d messages dropped since 2026-01-01T00:00:00+00:00." % count
    return Line(b"2026-01-01T00:00:00Z", b"heroku", b"logplex", text)


def at(position: int) -> Line:
    """Two producers take turns; at the end there is a line of the server's own."""
    return TELLS if position == COUNT - 1 else line(Name("ab"[position % 2] + ".shop", position // 2))


def post(first: int, end: int, at_: float, answer: Answer = Answer.TAKEN, lost: int = 0, **fields: Any) -> Delivery:
    lines = [at(position) for position in range(first, end)]
    frame_id = f"{EPOCH}/{first}-{end}"
    made = Delivery("http", at_, EPOCH, first, end - 1, frame_id, len(lines) + (lost > 0), lines, lost, answer, 204)
    return replace(made, **fields)


def page(head: int = COUNT) -> dict[str, Any]:
    drain = {"start": 0, "head": head, "delivered": head, "filtered": 0, "lost": {}, "pending": 0, "retried": 1}
    return {
        "epoch": EPOCH,
        "head": head,
        "oldest": 0,
        "received": head - 1,
        "own": 1,
        "stored": head,
        "memory": 0,
        "writing": 0,
        "dropped": {},
        "drains": [drain | {"id": 1}, drain | {"id": 2}],
    }


def sound() -> Journal:
    """A run with a crash at 10 s, a failed try and a repetition of what was under way."""
    journal = Journal(drains={"http": "shop", "tcp": "shop"}, drain_ids={"http": 1, "tcp": 2})
    journal.runs = [
        Run(0.0, {"shop": (EPOCH, 0)}, 10.0, killed=True),
        Run(11.0, {"shop": (EPOCH, 20)}, 20.0),
    ]
    for producer, end in (("a.shop", COUNT // 2), ("b.shop", COUNT // 2 - 1)):
        journal.sent.append(Sent(producer, "shop", 0, 10, acknowledged=9.0))
        journal.sent.append(Sent(producer, "shop", 10, end, acknowledged=13.0))
    journal.deliveries = [
        post(0, 10, 5.0, Answer.REFUSED, status=500),
        post(0, 10, 5.5),
        post(10, 20, 9.5),
        post(10, 20, 11.5),
        post(20, COUNT, 14.0),
    ]
    journal.connections = [
        Connection("tcp", 1.0, [(position / 2, at(position)) for position in range(20)], 10.0),
        Connection("tcp", 11.2, [(12.0, at(position)) for position in range(15, COUNT)], 20.0),
    ]
    journal.streams = [
        Stream("tail", "shop", None, [Event(6.0, EPOCH, position, at(position)) for position in range(8)]),
        Stream("tail", "shop", (EPOCH, 7), [Event(12.0, EPOCH, position, at(position)) for position in range(8, 20)]),
    ]
    journal.histories = [History("shop", 18.0, page(), page(), [at(position) for position in range(COUNT)])]
    journal.pages = [("shop", page(10)), ("shop", page())]
    node = {"frames": 30, "received": 29, "split": 0, "malformed": 1, "unknown_token": 0, "refused": {}}
    journal.nodes = [node]
    journal.final = {"shop": page()}
    journal.reopened = {"shop": page()}
    return journal


def test_a_sound_run_is_judged_sound() -> None:
    assert judge(sound()) == []


def drop_a_line(journal: Journal) -> None:
    del journal.deliveries[-1].lines[3]


def drop_a_batch(journal: Journal) -> None:
    del journal.deliveries[-1]


def refuse_a_batch(journal: Journal) -> None:
    journal.deliveries[-1].answer = Answer.REFUSED


def swap_two(journal: Journal) -> None:
    found = journal.deliveries[-1].lines
    found[0], found[2] = found[2], found[0]


def swap_two_on_a_stream(journal: Journal) -> None:
    found = journal.connections[-1].lines
    found[-3], found[-5] = found[-5], found[-3]


def drop_one_on_a_stream(journal: Journal) -> None:
    del journal.connections[-1].lines[7]


def renumber(journal: Journal) -> None:
    journal.streams[1].events[4].position += 1


def renumber_all_behind_a_restart(journal: Journal) -> None:
    for event in journal.streams[1].events:
        event.position += 1


def skip_in_a_tail(journal: Journal) -> None:
    del journal.streams[0].events[3]


def repeat_in_a_tail(journal: Journal) -> None:
    journal.streams[0].events.insert(3, journal.streams[0].events[2])


def tell_a_tail_a_wrong_loss(journal: Journal) -> None:
    events = journal.streams[0].events
    events[2:5] = [Event(6.0, EPOCH, 4, None, lost=2)]


def invent_a_line(journal: Journal) -> None:
    journal.deliveries[-1].lines[0] = line(Name("a.shop", 999))


def change_a_byte(journal: Journal) -> None:
    journal.connections[-1].lines[-2] = (12.0, at(COUNT - 2)._replace(text=at(COUNT - 2).text + b"!"))
    journal.deliveries[-1].lines[-2] = at(COUNT - 2)._replace(text=at(COUNT - 2).text + b"!")


def store_a_retry_twice(journal: Journal) -> None:
    journal.deliveries[-1].lines[-1] = at(COUNT - 2)


def repeat_without_a_failure(journal: Journal) -> None:
    journal.deliveries.append(post(20, COUNT, 19.0))


def repeat_more_than_was_under_way(journal: Journal) -> None:
    journal.deliveries[3:3] = [post(0, 10, 11.4)]


def go_back_too_far_on_a_stream(journal: Journal) -> None:
    journal.connections[-1].lines[:0] = [(11.9, at(position)) for position in range(2, 15)]


def cut_a_retry_anew(journal: Journal) -> None:
    journal.deliveries[1:2] = [post(0, 5, 5.5), post(5, 10, 5.6)]


def give_one_id_to_two_ranges(journal: Journal) -> None:
    journal.deliveries[-1].frame_id = journal.deliveries[0].frame_id


def lose_what_was_acknowledged(journal: Journal) -> None:
    journal.sent.append(Sent("c.shop", "shop", 0, 1, acknowledged=9.0))


def lose_the_midst_of_a_stream(journal: Journal) -> None:
    journal.sent.append(Sent("c.shop", "shop", 0, 3, stream=True))
    for found, number in ((COUNT - 4, 0), (COUNT - 2, 2)):
        journal.deliveries[-1].lines[found - 20] = line(Name("c.shop", number))
        journal.connections[-1].lines[found - 15] = (12.0, line(Name("c.shop", number)))
    journal.histories = []
    for sent in journal.sent:
        sent.acknowledged = None


def tell_a_loss_that_was_none(journal: Journal) -> None:
    journal.deliveries[-1] = post(20, COUNT, 14.0, lost=3)


def count_a_loss_wrongly(journal: Journal) -> None:
    del journal.deliveries[2:4]
    journal.deliveries[-1] = post(20, COUNT, 14.0, lost=10)
    drain = journal.final["shop"]["drains"][0]
    drain.update(delivered=COUNT - 9, lost={"overrun": 9})
    journal.reopened = {}


def forget_what_was_seen(journal: Journal) -> None:
    journal.runs[1].places["shop"] = (EPOCH, 15)


def change_the_epoch_for_nothing(journal: Journal) -> None:
    journal.runs[1].places["shop"] = ("00000000000000bb", 20)


def unbalance_a_channel(journal: Journal) -> None:
    journal.pages[0][1]["received"] += 1


def unbalance_a_drain(journal: Journal) -> None:
    journal.pages[0][1]["drains"][1]["delivered"] -= 1


def unbalance_the_node(journal: Journal) -> None:
    journal.nodes[0]["malformed"] = 0


def change_the_ledger_in_a_restart(journal: Journal) -> None:
    journal.reopened["shop"]["received"] += 1
    journal.reopened["shop"]["stored"] += 1


def set_a_head_back(journal: Journal) -> None:
    journal.pages.append(("shop", page(COUNT - 1)))


def shorten_a_history(journal: Journal) -> None:
    del journal.histories[0].lines[:4]


def punch_a_hole_into_a_history(journal: Journal) -> None:
    del journal.histories[0].lines[10]


def end_a_history_before_the_head(journal: Journal) -> None:
    del journal.histories[0].lines[-1]


PLANTED: list[Callable[[Journal], None]] = [
    drop_a_line,
    drop_a_batch,
    refuse_a_batch,
    swap_two,
    swap_two_on_a_stream,
    drop_one_on_a_stream,
    renumber,
    renumber_all_behind_a_restart,
    skip_in_a_tail,
    repeat_in_a_tail,
    tell_a_tail_a_wrong_loss,
    invent_a_line,
    change_a_byte,
    store_a_retry_twice,
    repeat_without_a_failure,
    repeat_more_than_was_under_way,
    go_back_too_far_on_a_stream,
    cut_a_retry_anew,
    give_one_id_to_two_ranges,
    lose_what_was_acknowledged,
    lose_the_midst_of_a_stream,
    tell_a_loss_that_was_none,
    count_a_loss_wrongly,
    forget_what_was_seen,
    change_the_epoch_for_nothing,
    unbalance_a_channel,
    unbalance_a_drain,
    unbalance_the_node,
    change_the_ledger_in_a_restart,
    set_a_head_back,
    shorten_a_history,
    punch_a_hole_into_a_history,
    end_a_history_before_the_head,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_found(plant: Callable[[Journal], None]) -> None:
    journal = sound()
    plant(journal)
    assert judge(journal) != []


def test_a_loss_that_was_told_and_counted_is_none() -> None:
    journal = sound()
    del journal.deliveries[2:4]
    journal.deliveries[-1] = post(20, COUNT, 14.0, lost=10)
    for pages in (journal.final, journal.reopened):
        pages["shop"]["drains"][0].update(delivered=COUNT - 10, lost={"overrun": 10})
    assert judge(journal) == []


def test_what_a_receiver_threw_away_itself_is_not_the_servers_loss() -> None:
    journal = sound()
    journal.connections[0].end = End.RESET
    del journal.connections[0].lines[10:]
    assert judge(journal) == []


def test_what_a_connection_had_that_was_never_read_stood_before_what_came_next() -> None:
    """Also where another epoch has numbered other lines so, which were read."""
    journal = sound()
    journal.connections.insert(1, Connection("tcp", 11.1, [], 11.15, End.RESET))
    timeline = Timeline("shop", journal, [])
    _see_all(journal, timeline)
    assert _walk(journal, "tcp", timeline).excused == set(range(15))
    journal.connections[1].end = End.SERVER
    assert _walk(journal, "tcp", timeline).excused == set()


def test_a_crash_with_lines_in_memory_may_change_the_epoch() -> None:
    journal = sound()
    journal.runs[0].in_memory = True
    journal.runs[1].places["shop"] = ("00000000000000bb", 20)
    journal.deliveries[-1] = replace(post(20, COUNT, 14.0), epoch="00000000000000bb")
    assert judge(journal) == []


def test_without_a_promise_a_crash_may_take_what_was_acknowledged_and_a_stop_may_not() -> None:
    journal = sound()
    journal.promises = False
    lose_what_was_acknowledged(journal)
    faults = judge(journal)
    assert len(faults) == 1
    assert "accepted lines are nowhere" in faults[0]
    journal.runs[0].in_memory = True
    assert judge(journal) == []


def test_what_only_a_stream_saw_before_a_crash_took_it_stood_in_the_epoch_before() -> None:
    def walked(opened: float) -> list[str]:
        journal = sound()
        journal.runs[1].places["shop"] = ("00000000000000bb", 15)
        late = [at(position + 5) for position in range(15, 25)]
        journal.deliveries = [post(0, 10, 5.5), replace(post(15, 25, 12.0), epoch="00000000000000bb", lines=late)]
        journal.streams.clear()
        del journal.connections[1:]
        journal.connections[0].opened = opened
        timeline = Timeline("shop", journal, [])
        _see_all(journal, timeline)
        _walk(journal, "tcp", timeline)
        return timeline.faults

    assert walked(1.0) == []
    assert "came where" in walked(11.5)[0]


def test_a_connection_with_nothing_but_a_line_without_a_number_is_placed_where_others_saw_it() -> None:
    """After a crash that took lines, positions go on before those that a stream had."""
    journal = sound()
    journal.connections[1:] = [Connection("tcp", 11.1, [(11.2, TELLS)], 11.3, End.SHUT)]
    timeline = Timeline("shop", journal, [])
    _see_all(journal, timeline)
    assert (EPOCH, COUNT - 1) in _walk(journal, "tcp", timeline).places
