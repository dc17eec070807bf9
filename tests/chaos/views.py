"""The oracle's look at what readers saw and what the ledger said (oracle.py).

* A tail shows position after position; a gap is told by L11 with its exact number.
* A history is a run of positions up to the head, as long as was promised.
* The pages of the ledger balance at every moment; no head goes back within an epoch.
"""

from typing import Any

from .journal import History, Journal, Stream
from .timeline import Timeline


def check_tails(journal: Journal, timeline: Timeline) -> None:
    """Every stream of every tail of the channel."""
    for stream in journal.streams:
        if stream.channel == timeline.channel:
            _check_stream(stream, timeline)


def _check_stream(stream: Stream, timeline: Timeline) -> None:
    place = stream.after
    for event in stream.events:
        expected = None if place is None or place[0] != event.epoch else place[1] + 1
        if event.line is not None:
            good = expected is None or event.position == expected
        else:
            good = expected is None or event.position == expected - 1 + event.lost
        if not good:
            timeline.faults.append(
                f"{stream.tail}: {event.epoch}/{event.position} (line: {event.line}, lost: {event.lost}) "
                f"came behind {place}"
            )
        place = (event.epoch, event.position)


def check_histories(journal: Journal, timeline: Timeline) -> None:
    """Every history that was read of the channel."""
    for history in journal.histories:
        if history.channel != timeline.channel:
            continue
        where = f"history of {history.channel} at {history.after['epoch']}/{history.after['head']}"
        begins = [_begin(history, head, timeline) for head in range(history.before["head"], history.after["head"] + 1)]
        found = [begin for begin in begins if begin is not None]
        if not found:
            timeline.faults.append(f"{where}: its {len(history.lines)} lines do not go back from the head")
        elif max(found) + history.after["memory"] < min(journal.history_lines, history.before["head"]):
            timeline.faults.append(f"{where}: only {len(history.lines)} lines")


def _begin(history: History, head: int, timeline: Timeline) -> int | None:
    """How many positions the history spans when it ends at `head`; None when it does not.

    It may leave out what a failing disk never got, which the ledger counts as `memory`.
    """
    holes = history.after["memory"]
    position = head - 1
    for found in reversed(history.lines):
        while timeline.known(position) and not timeline.matches(position, found):
            position -= 1
            holes -= 1
            if holes < 0:
                return None
        position -= 1
    return head - 1 - position


def check_ledgers(journal: Journal, faults: list[str]) -> None:
    """Every page that was looked at, and that the last ones came through a clean restart."""
    heads: dict[str, tuple[str, int]] = {}
    for channel, page in journal.pages:
        _check_page(channel, page, faults)
        epoch, head = heads.get(channel, ("", 0))
        if epoch == page["epoch"] and page["head"] < head:
            faults.append(f"{channel}: the head went back from {head} to {page['head']} in epoch {epoch}")
        heads[channel] = (page["epoch"], page["head"])
    for node in journal.nodes:
        came = node["received"] - node["split"] + node["malformed"] + node["unknown_token"]
        if node["frames"] != came + sum(node["refused"].values()):
            faults.append(f"the node's page does not balance: {node}")
    for channel, page in journal.final.items():
        for drain in page["drains"]:
            if drain["pending"]:
                faults.append(f"{channel}: drain {drain['id']} still has {drain['pending']} lines to deliver")
        again = journal.reopened.get(channel)
        if again is not None and _lasting(page) != _lasting(again):
            faults.append(f"{channel}: the ledger was {_lasting(page)}, after a restart {_lasting(again)}")


def _check_page(channel: str, page: dict[str, Any], faults: list[str]) -> None:
    stored = page["stored"] + page["memory"] + page["writing"] + sum(page["dropped"].values())
    if page["received"] + page["own"] != stored:
        faults.append(f"{channel}: the channel's page does not balance: {page}")
    for drain in page["drains"]:
        away = drain["delivered"] + drain["filtered"] + sum(drain["lost"].values()) + drain["pending"]
        if drain["head"] - drain["start"] != away or drain["pending"] < 0:
            faults.append(f"{channel}: the page of drain {drain['id']} does not balance: {drain}")


def _lasting(page: dict[str, Any]) -> dict[str, Any]:
    """Without what may change when nothing happens."""
    drains = [{key: value for key, value in drain.items() if key != "retried"} for drain in page["drains"]]
    return {key: value for key, value in page.items() if key != "oldest"} | {"drains": drains}
