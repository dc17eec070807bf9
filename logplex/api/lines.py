"""Lines of a channel as an answer: `GET /v3/channels/<ch>/logs`, and the canary's plain text.

* Filter first, then the newest `num`, oldest first (protocol section 6).
* Of long histories only what is answered is held in memory: where the answer begins is found first.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..batch import Batch, http_frame
from ..channel import Channel
from ..filters import FIELDS, Filter
from ..rendering import View, render
from ..tail import STEP_BYTES, start_at_backlog

DEFAULT_NUM = 100
MAX_NUM = 1500
HISTORY_DISCARDED = "Warning: log history discarded due to excessive volume."


class Lines(Response):
    """A chunked answer of pieces that are rendered already; the connection is closed behind it."""

    def __init__(self, pieces: list[bytes], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(None, 200, {**headers, "connection": "close"}, media_type)
        self._pieces = pieces
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def parse_num(value: object) -> int:
    """How many lines are wanted: a number or a string, 0 to 1,500; rubbish and negative numbers mean 100."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return DEFAULT_NUM
    return min(value, MAX_NUM)


def parse_filter(given: Mapping[str, Any]) -> Filter:
    """The filter among the fields of a request; raises Unprocessable."""
    return Filter.parse({name: given[name] for name in FIELDS if name in given})


async def logplex_frames(channel: Channel, filter: Filter, num: int) -> Lines:
    """The newest lines as counted frames (`application/logplex-1`)."""
    frames: list[bytes] = []
    count = 0
    async for batch in _backlog(channel, filter, num):
        if filter.trivial:
            frames.append(batch.http())
            count += batch.count
            continue
        for line in batch.lines():
            if filter.match(line, batch.at):
                frames.append(http_frame(line, batch.at))
                count += 1
        await trio.lowlevel.checkpoint()
    return Lines(frames, "application/logplex-1", {"logplex-msg-count": str(count), **_warning(channel)})


async def plain_lines(channel: Channel, filter: Filter, num: int) -> Lines:
    """The newest lines as people read them."""
    view = View(filter, sse=False)
    pieces = []
    async for batch in _backlog(channel, filter, num):
        pieces.append(await render(view, [(batch, batch.lines())], channel.epoch))
    return Lines(pieces, "text/plain; charset=utf-8", _warning(channel))


async def _backlog(channel: Channel, filter: Filter, num: int) -> AsyncIterator[Batch]:
    """The batches that hold the newest `num` lines that match, ascending."""
    end = channel.head
    cursor = (await start_at_backlog(channel, filter, num)).cursor
    while cursor < end:
        reading = await channel.read(cursor, STEP_BYTES)
        if not reading.batches:
            return
        for batch in reading.batches:
            if batch.first >= end:
                return
            yield batch.cut(cursor, end)
        cursor = reading.batches[-1].end


def _warning(channel: Channel) -> dict[str, str]:
    return {"x-heroku-warning": HISTORY_DISCARDED} if channel.no_history else {}
