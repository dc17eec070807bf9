"""Judges a journal: what must hold whatever was injected.

* Nobody saw a line that was never sent, a line at two places, or two lines at one place.
* A line that was acknowledged stands at a place that stayed, and every drain took it or was told that it is lost;
  what is lost is counted with the right number.
* What came from one producer stands in its order; of a stream all that stands is a beginning of it.
* A line that anybody saw is neither gone nor renumbered after a restart, but for a crash with lines in memory only,
  which changes the epoch.
* A line comes again only when the try before it failed, or when it was under way as the server ended.
* The ledger balances whenever it is looked at, and is the same after a clean restart.

Tested with planted violations (tests/chaos/test_oracle.py).
"""

from collections.abc import Iterable

from .journal import Answer, Connection, Delivery, End, Journal, Sent
from .lines import Line, Name, name_of, told
from .timeline import Timeline
from .views import check_histories, check_ledgers, check_tails

UNDER_WAY_SECONDS = 2.5  # before an end: what a receiver got then may come again
STREAM_END_SECONDS = (
    3.0  # a sender that pauses sees the end of its connection later, and its lines are committed later
)
EXCUSED_BYTES = 256 * 1024  # what a receiver that resets a connection may have had in its buffer
MOST_SHOWN = 30

__all__ = ["judge"]


def judge(journal: Journal) -> list[str]:
    """What is wrong; empty when all holds. The first of very many."""
    faults = list(journal.troubles)
    channels = sorted(set(journal.drains.values()) | {stream.channel for stream in journal.streams})
    for channel in channels:
        timeline = Timeline(channel, journal, faults)
        _see_all(journal, timeline)
        timeline.check_order()
        walked = {drain: _walk(journal, drain, timeline) for drain, of in journal.drains.items() if of == channel}
        check_tails(journal, timeline)
        check_histories(journal, timeline)
        _check_senders(journal, timeline)
        _check_runs(journal, timeline)
        for drain, taken in walked.items():
            _check_complete(journal, drain, timeline, taken)
    check_ledgers(journal, faults)
    if len(faults) > MOST_SHOWN:
        faults = [*faults[:MOST_SHOWN], f"… and {len(faults) - MOST_SHOWN} more"]
    return faults


def _see_all(journal: Journal, timeline: Timeline) -> None:
    for delivery in journal.deliveries:
        if journal.drains[delivery.drain] == timeline.channel:
            for position, found in enumerate(delivery.lines, delivery.first):
                timeline.see(delivery.epoch, position, found, delivery.at, delivery.drain)
    for stream in journal.streams:
        if stream.channel == timeline.channel:
            for event in stream.events:
                if event.line is not None:
                    timeline.see(event.epoch, event.position, event.line, event.at, stream.tail)


class Taken:
    """What a drain has: places, and the positions that it was told are lost."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, int], float] = {}  # → when it came last
        self.lost: set[int] = set()
        self.permanent: set[int] = set()
        self.excused: set[int] = set()  # thrown away by the receiver itself


def _walk(journal: Journal, drain: str, timeline: Timeline) -> Taken:
    posts = [delivery for delivery in journal.deliveries if delivery.drain == drain]
    connections = [connection for connection in journal.connections if connection.drain == drain]
    if connections:
        return _walk_connections(journal, connections, timeline)
    return _walk_posts(journal, posts, timeline)


def _walk_posts(journal: Journal, posts: list[Delivery], timeline: Timeline) -> Taken:
    taken = Taken()
    faults = timeline.faults
    ids: dict[str, tuple[str, int, int]] = {}
    unsure: set[tuple[str, int]] = set()
    before: Delivery | None = None
    for post in sorted(posts, key=lambda post: post.at):
        where = f"{post.drain} {post.epoch}/{post.first}-{post.last}"
        if len(post.lines) != post.last - post.first + 1 or post.count != len(post.lines) + (post.told > 0):
            faults.append(f"{where}: {len(post.lines)} lines and a count of {post.count}")
        span = (post.epoch, post.first, post.last)
        if ids.setdefault(post.frame_id, span) != span:
            faults.append(f"{where}: the frame id of {ids[post.frame_id]}")
        if before is not None and _must_repeat(journal, before, post):
            faults.append(
                f"{where} (at {post.at:.2f}, told {post.told}): the failed try before it (at {before.at:.2f}, "
                f"status {before.status}, told {before.told}) was {before.first}-{before.last}"
            )
        before = post
        if post.answer is Answer.REFUSED:
            if post.status == 400 and len(post.lines) == 1 and not post.told:
                taken.permanent.add(post.first)
            continue
        for position in range(post.first, post.last + 1):
            place = (post.epoch, position)
            last = taken.places.get(place)
            moved = any(drain == post.drain and last and abs(at - last) < 1.0 for drain, at in journal.moves)
            if last is not None and not moved and place not in unsure and not _was_under_way(journal, last, post.at):
                faults.append(f"{where}: {position} came again, {post.at - last:.2f} s later, without a failure")
                break
        for position in range(post.first, post.last + 1):
            place = (post.epoch, position)
            taken.places[place] = post.at
            if post.answer is Answer.UNSURE:
                unsure.add(place)
            else:
                unsure.discard(place)
        taken.lost.update(range(post.first - post.told, post.first))
    return taken


def _must_repeat(journal: Journal, before: Delivery, post: Delivery) -> bool:
    """Whether `post` begins where a failed try began and is not the same."""
    same_start = (before.epoch, before.first) == (post.epoch, post.first)
    failed = before.answer is Answer.REFUSED and before.status not in (400, 413, 422)
    one_run = not any(before.at <= run.ended <= post.at for run in journal.runs)
    return same_start and failed and one_run and before.frame_id != post.frame_id


def _was_under_way(journal: Journal, last: float, now: float) -> bool:
    """Whether the server ended soon after `last`; cursors that could not be stored may be older."""
    return any(
        last - 0.1 <= run.ended <= now and (run.in_memory or run.ended - last <= UNDER_WAY_SECONDS)
        for run in journal.runs
    )


def _walk_connections(journal: Journal, connections: list[Connection], timeline: Timeline) -> Taken:
    taken = Taken()
    read_at: dict[int, float] = {}  # position → when it was read last, in any epoch
    end = 0  # behind the last position of the connection before
    before: Connection | None = None
    unread = False  # one was reset before anything was read from it: which lines it had is not known
    for connection in sorted(connections, key=lambda connection: connection.opened):
        lines = [found for _, found in connection.lines]
        position = _anchor(lines, timeline)
        if position is None and lines and timeline.matches(end, lines[0]):
            position = end  # only lines of the server's own, which have no number
        if position is None and lines:
            position = timeline.position_of(lines[0])  # after a crash that took lines, positions go on before `end`
        if position is None:
            if connection.end is End.RESET:
                before = connection  # what it had was thrown away unread
                unread = True
            continue
        first = position
        for at, found in connection.lines:
            lost = told(found)
            if lost:
                taken.lost.update(range(position, position + lost))
                position += lost
                continue
            epoch = timeline.matches(position, found)
            if epoch is None and (gone := timeline.gone_with(position, connection.opened)):
                epoch = gone  # nobody else saw it there
                timeline.see(epoch, position, found, at, connection.drain)
            if epoch is None and timeline.known(position):
                timeline.faults.append(
                    f"{connection.drain}: {found} came where {timeline.lasting(position)} was to come"
                )
                break
            if epoch is None:
                epoch = timeline.epochs[-1]
                timeline.see(epoch, position, found, at, connection.drain)
            taken.places[epoch, position] = at
            read_at.setdefault(position, at)
            position += 1
        if before is not None:
            read = read_at.get(first, before.ended)
            late = before.ended - read > UNDER_WAY_SECONDS
            if first < end and late and not _was_under_way(journal, read, connection.opened):
                timeline.faults.append(
                    f"{connection.drain}: {first} came again, read {before.ended - read_at[first]:.2f} s "
                    f"before the connection with it ended"
                )
            if before.end is End.RESET:
                taken.excused.update(_unread(range(end, first), timeline))
                if unread:  # in a new epoch they may stand where others were read before
                    taken.excused.update(_unread(reversed(range(first)), timeline))
        unread = False
        for at, index in zip((at for at, _ in connection.lines), range(first, position), strict=False):
            read_at[index] = at
        before, end = connection, position
    return taken


def _unread(positions: Iterable[int], timeline: Timeline) -> list[int]:
    """Those of these positions that fit a receiver's buffer."""
    found = []
    size = 0
    for position in positions:
        place = timeline.lasting(position)
        size += len(timeline.at[place].text) + 90 if place else 0
        if size > EXCUSED_BYTES:
            break
        found.append(position)
    return found


def _anchor(lines: list[Line], timeline: Timeline) -> int | None:
    """The position of the first of these lines, from the first of them whose place is known."""
    behind = 0
    for found in lines:
        name = name_of(found)
        place = timeline.newest_place(name) if name is not None else None
        if place is not None:
            return place[1] - behind
        behind += told(found) or 1
    return None


def _check_complete(journal: Journal, drain: str, timeline: Timeline, taken: Taken) -> None:
    """Every position that stayed was taken or told as lost, and the ledger says how many."""
    faults = timeline.faults
    page = journal.final[timeline.channel]
    own = next(entry for entry in page["drains"] if entry["id"] == journal.drain_ids[drain])
    missing = []
    for position in range(max(0, own["start"]), page["head"]):  # below 0: lines that are gone were delivered
        place = timeline.lasting(position)
        # A tail sees what is older than the present epoch under that one's name, a drain under its own.
        if place is None or not taken.places.keys() & timeline.same_line(place):
            missing.append(position)
    unexplained = [p for p in missing if p not in taken.lost | taken.permanent | taken.excused]
    if unexplained:
        faults.append(
            f"{drain}: {len(unexplained)} positions never came and were not told as lost, the first "
            f"{unexplained[0]}: {timeline.at.get(timeline.lasting(unexplained[0]) or ('', 0))}"
        )
    journal.count(f"{drain} missing", len(missing))
    lost = own["lost"].get("overrun", 0)
    told_lost = len({position for position in taken.lost if own["start"] <= position < page["head"]})
    if len(timeline.epochs) == 1 and lost != told_lost:
        faults.append(f"{drain}: {told_lost} lines were told as lost, the ledger says {lost}")
    if own["lost"].get("permanent", 0) < len(set(missing) & taken.permanent):
        faults.append(f"{drain}: {len(taken.permanent)} lines were refused for good, the ledger says {own['lost']}")
    if lost + own["lost"].get("permanent", 0) + len(taken.excused & set(missing)) < len(missing):
        faults.append(f"{drain}: {len(missing)} lines are missing, the ledger says {own['lost']}")


def _check_senders(journal: Journal, timeline: Timeline) -> None:
    """What was acknowledged is there; of a stream, a beginning."""
    head = journal.final[timeline.channel]["head"]
    unknown = sum(1 for position in range(head) if not timeline.known(position))
    absent: list[tuple[Name, Sent]] = []
    for sent in journal.sent:
        if sent.channel != timeline.channel:
            continue
        names = [Name(sent.producer, number) for number in range(sent.first, sent.end)]
        if _is_promised(journal, sent):
            absent += [(name, sent) for name in names if not timeline.stays(name)]
        elif sent.stream:
            there = [index for index, name in enumerate(names) if name in timeline.places]
            behind = names[: there[-1] if there else 0]
            absent += [(name, sent) for name in behind if name not in timeline.places]
    if len(absent) > unknown:
        timeline.faults.append(
            f"{timeline.channel}: {len(absent)} accepted lines are nowhere, and {unknown} positions are unknown; "
            f"the first is {absent[0][0]} of {absent[0][1]}; the server ended at "
            f"{', '.join(f'{run.ended:.2f}' + ' with lines in memory' * run.in_memory for run in journal.runs)}"
        )


def _is_promised(journal: Journal, sent: Sent) -> bool:
    """Whether it was accepted, and no crash came before it was on disk."""
    at, runs = sent.acknowledged, journal.runs
    if at is None or (sent.stream and any(at - STREAM_END_SECONDS <= run.ended <= at for run in runs)):
        return False  # its end may have been the server's
    if sent.durable and journal.promises:
        return True
    return not any(run.started <= at <= run.ended + 0.5 and run.in_memory for run in runs)


def _check_runs(journal: Journal, timeline: Timeline) -> None:
    """What was seen before a restart is there after it, unless the epoch changed, for which there must be a reason."""
    channel = timeline.channel
    old_epoch, in_memory = "", False
    for after in journal.runs:
        if channel not in after.places:  # killed before it was ready, or before there was a channel
            in_memory |= after.in_memory
            continue
        epoch, head = after.places[channel]
        if epoch != old_epoch and old_epoch and not in_memory:
            timeline.faults.append(f"{channel}: epoch {old_epoch} became {epoch}, though nothing was in memory only")
        old_epoch, in_memory = epoch, after.in_memory
        gone = [
            place
            for place, at in timeline.first_seen.items()
            if place[0] == epoch and place[1] >= head and at < after.started
        ]
        if gone:
            timeline.faults.append(
                f"{channel}: {len(gone)} places from {min(gone)} on were seen before a restart, which begins at {head}"
            )
