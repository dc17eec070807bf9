"""One POST of protocol section 7: which positions it carries, and its bytes.

* A body ends at a frame's end, at most at the target: the channel's own rendering has one LF a frame, so that the cut
  is a search for a byte.
* An OTLP body is one document around its frames, which end with a comma each.
* The frame id is a hash of the drain's token and the range: the same on every retry, also after a restart. A replay
  has ids of its own, because receivers remember those of the first delivery.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import trio

from logplex.batch import Batch

from . import otlp
from .delivery import L10_PRI, l10_text
from .rendering import CONTENT_TYPES, Render, own_line, pieces, wanted
from .spec import DrainSpec, Format
from .state import Untold

_DEFLATE_BYTES = 32 * 1024  # under a millisecond of work


@dataclass(slots=True)
class Request:
    """Positions `first` to `end` (exclusive) in `count` frames, of which `own` are ours (L10)."""

    first: int
    end: int
    count: int
    own: int
    filtered: int
    at: int
    body: list[bytes]
    size: int
    untold: Untold | None

    @property
    def lines(self) -> int:
        """Frames that have a position."""
        return self.count - self.own


def compose(batches: Sequence[Batch], target: int) -> Request:
    """What fits the target (at least one frame) of batches that begin at the cursor, as the channel rendered them."""
    first = end = batches[0].first
    count = filtered = size = at = 0
    body: list[bytes] = []
    for batch in batches:
        if batch.tails_only:
            filtered += batch.count
            end = batch.end
            continue
        data = batch.http()
        if size + len(data) > target:
            if not body:  # else a later request takes it whole
                cut = data.rfind(b"\n", 0, target) + 1 or data.index(b"\n") + 1  # one frame may be longer
                body.append(data[:cut])
                size = cut
                count = body[0].count(b"\n")
                end = batch.first + count
                at = batch.at
            break
        body.append(data)
        size += len(data)
        count += batch.count
        end = batch.end
        at = batch.at
    return Request(first, end, count, 0, filtered, at, body, size, None)


async def compose_lines(batches: Sequence[Batch], target: int, spec: DrainSpec, render: Render) -> Request:
    """As `compose`, line by line, for a drain with options; others have their turn in between."""
    first = end = batches[0].first
    count = size = at = 0
    body: list[bytes] = []
    full = False
    for batch in pieces(batches):
        await trio.lowlevel.checkpoint()
        for frame in wanted(spec, render, batch):
            if body and size + len(frame.data) > target:
                full = True
                break
            body.append(frame.data)
            size += len(frame.data)
            count += 1
            end = frame.end
            at = frame.at
        if full:
            break
        end = batch.end
    filtered = end - first - count
    return Request(first, end, count, 0, filtered, at, [b"".join(body)], size, None)


def add_loss(request: Request, untold: Untold, render: Render) -> None:
    """Tell a loss in the first frame."""
    frame = render(own_line(L10_PRI, untold.noticed, l10_text(untold)), untold.noticed, None)
    request.body.insert(0, frame)
    request.size += len(frame)
    request.count += 1
    request.own = 1
    request.untold = untold


def enclose(request: Request, envelope: otlp.Envelope) -> None:
    """Make one document of the frames."""
    before, after = envelope
    last = request.body.pop()
    request.body = [before, *request.body, last[:-1], after]
    request.size += len(before) - 1 + len(after)


async def compress(request: Request) -> None:
    """Make the body gzip; others have their turn in between."""
    deflate = zlib.compressobj(6, wbits=31)
    view = memoryview(b"".join(request.body))
    parts = []
    for at in range(0, len(view), _DEFLATE_BYTES):
        parts.append(deflate.compress(view[at : at + _DEFLATE_BYTES]))
        await trio.lowlevel.checkpoint()
    parts.append(deflate.flush())
    request.body = parts
    request.size = sum(map(len, parts))


def fixed_head(spec: DrainSpec, version: str) -> bytes:
    """The part of the head that is the same in every request of a drain."""
    options, url = spec.options, spec.url
    target = otlp.target(url.target) if options.format is Format.OTLP else url.target
    lines = [
        b"POST %b HTTP/1.1" % target,
        b"Host: %b" % url.authority,
        b"User-Agent: Logplex/%b" % version.encode(),
        b"Content-Type: %b" % CONTENT_TYPES[options.format or Format.LOGPLEX],
        b"Logplex-Drain-Token: %b" % spec.token.encode(),
    ]
    names = {name.lower() for name, _ in options.headers}
    if url.authorization is not None and "authorization" not in names:
        lines.append(b"Authorization: %b" % url.authorization)
    if options.compress:
        lines.append(b"Content-Encoding: gzip")
    lines.extend(f"{name}: {value}".encode() for name, value in options.headers)
    return b"\r\n".join(lines) + b"\r\n"


def frame_id(token: bytes, epoch: str, first: int, last: int, replay: int = 0) -> str:
    """32 upper-case hexadecimal digits."""
    name = b"%b %b/%d-%d %d" % (token, epoch.encode(), first, last, replay)
    return blake2b(name, digest_size=16).hexdigest().upper()


def head(fixed: bytes, request: Request, token: bytes, epoch: str, replay: int = 0) -> bytes:
    """The whole head of a request."""
    first, last = request.first, request.end - 1
    text = (
        f"Logplex-Msg-Count: {request.count}\r\n"
        f"Logplex-Frame-Id: {frame_id(token, epoch, first, last, replay)}\r\n"
        f"Logplex-Range: {epoch}/{first}-{last}\r\n"
        f"Content-Length: {request.size}\r\n\r\n"
    )
    return fixed + text.encode()
