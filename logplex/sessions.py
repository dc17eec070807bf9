"""Sessions: what one session URL shows, and for how long.

Rules (protocol sections 1 and 6):

* The URL is the right to read; it lives 360 s from its creation or from the end of its last stream, at most 24 h, and
  may be read any number of times meanwhile. A stream that is open lives on.
* A reader resumes after the id that it gives back; an id that is none of ours is ignored. `since` is such an id, or
  a time. Who gives neither gets the newest `num` lines after filtering.
* A channel that forbids tails answers L20 in place of one; its history can be read.
* A session of a channel that never was (v1, v2) reads as empty; one of a channel that was deleted is gone.
* Looking for a backlog under a filter may mean reading all that is held: only so many do at once.
"""

import time
from dataclasses import dataclass, field

import trio

from .channel import Channel
from .errors import NotFound, Unprocessable
from .fanout import Tails
from .filters import FIELDS, Filter, parse_time
from .registry import Registry, SessionRecord
from .rendering import L20, Id, View, format_id, notice, parse_id
from .tail import Sink, Start, Tail, start_after, start_at_backlog, start_at_time

SCANS = 8  # at once, each of at most 2 ms between two turns: other work waits no longer than for a slow line


@dataclass(frozen=True, slots=True)
class Session:
    """What a session's creator asked for; `channel_id` is None where there was no such channel."""

    uuid: str = field(repr=False)
    channel_id: int | None
    num: int
    tail: bool
    filter: Filter
    created_at: int
    """Unix ms."""

    @classmethod
    def of(cls, record: SessionRecord) -> "Session":
        """From its record."""
        options = record.options
        return cls(
            uuid=record.uuid,
            channel_id=record.channel_id,
            num=options["num"],
            tail=options["tail"],
            filter=Filter.parse({name: options[name] for name in FIELDS if name in options}),
            created_at=int(record.created_at * 1000),
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """One reading of a session: where it starts, and where it ends unless it follows."""

    session: Session
    channel: Channel
    view: View
    start: Start
    end: int

    @property
    def last_id(self) -> bytes:
        """The id of the last line that a reader who does not follow has seen."""
        return format_id(self.channel.epoch, self.end - 1)


def parse_since(text: str) -> Id | int:
    """An id, or a time as unix ms; raises Unprocessable."""
    place = parse_id(text)
    if place is not None:
        return place
    at = parse_time("since", text, time.time())
    if at is None:
        raise Unprocessable("since: is empty")
    return at


class Sessions:
    """All sessions, over their records in the registry and the tails of the node."""

    def __init__(self, registry: Registry, tails: Tails) -> None:
        self._registry = registry
        self._tails = tails
        self._scans = trio.CapacityLimiter(SCANS)

    async def find(self, uuid: str) -> Session:
        """The session with this id; raises NotFound when there is none or when it has expired."""
        record = await self._registry.session(uuid)
        if record is None:
            raise NotFound("Not found")
        return Session.of(record)

    async def open(
        self, session: Session, channel: Channel, *, sse: bool, after: Id | int | None, named: bool = False
    ) -> Opened:
        """Find out where a reading starts: `after` an id, at a time (unix ms), or at its backlog.

        `named`: events are named by their line's severity.
        """
        start = start_after(channel, after, session.created_at) if isinstance(after, Id) else None
        if start is None and after is None and session.filter.trivial:
            start = await start_at_backlog(channel, session.filter, session.num)  # counts back, and reads no line
        if start is None:
            async with self._scans:
                if isinstance(after, int):
                    start = await start_at_time(channel, after)
                else:
                    start = await start_at_backlog(channel, session.filter, session.num)
        return Opened(session, channel, View(session.filter, sse=sse, named=sse and named), start, channel.head)

    async def show(self, opened: Opened, sink: Sink) -> None:
        """Write all of a reading; returns at its orderly end, raises trio.BrokenResourceError at any other.

        Until then the session does not expire.
        """
        session, channel = opened.session, opened.channel
        tail = Tail(channel, sink, opened.view, opened.start)
        self._registry.stream_started(session.uuid)
        try:
            if not session.tail:
                await tail.backlog(opened.end)
            elif channel.no_tail:
                await tail.say(notice(L20, sse=opened.view.sse, epoch=channel.epoch, position=channel.head - 1))
            else:
                await self._tails.follow(tail)
        finally:
            self._registry.stream_ended(session.uuid)
