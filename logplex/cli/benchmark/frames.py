"""The generator's messages: rendered once by the block, and renumbered at next to no cost.

* A message is RFC 5424 in a counted frame, 200 bytes, and its text opens with its mark: `#SSSSNNNNNNNNNN t=MICROS `,
  the number of its stream, its number in that stream, and when it was sent (microseconds of the monotonic clock, zeros
  where nobody times it). No `#` stands anywhere else, so that the mark is found without parsing.
* A stream is what keeps its order on the whole way: one connection's messages to one app. Numbers begin at 0 and
  have no gaps.
* The frames of a block are all of one length. Their low digits are 0, 1, 2, …; all else that changes is the same in
  all frames, and a digit of all frames is written by one assignment to a slice with a step.
"""

from collections.abc import Sequence
from datetime import datetime

BLOCK = 1000  # messages rendered at once
MESSAGE_BYTES = 200
STREAM_DIGITS, NUMBER_DIGITS, TIME_DIGITS = 4, 10, 16
MARK_DIGITS = STREAM_DIGITS + NUMBER_DIGITS
NUMBERS: int = 10**NUMBER_DIGITS
"""A mark's digits as one integer: the stream times this, plus the number."""

TIME_AT = MARK_DIGITS + len(" t=")
MARK_BYTES = TIME_AT + TIME_DIGITS
"""What follows the `#`: time and all."""

_TEXT = b'at=info method=GET path="/orders" host=shop.example.com status=200 bytes=5120 service=12ms ' * 3


class Block:
    """The frames of a connection from number 0 on, for streams that take turns by the frame.

    The number of streams must be one digit 1 and zeros, so that every stream has as many frames as its low digits say.
    """

    def __init__(self, names: Sequence[str], *, first_stream: int, moment: datetime, lf: bool) -> None:
        """`names`: the APP-NAMEs that go with the streams. `moment`: the timestamp, up to the second.

        `lf`: frames end in LF, inside the count, as log-shuttle's do.
        """
        self.low_digits = len(str(BLOCK // len(names))) - 1
        assert len(names) * 10**self.low_digits == BLOCK, f"{len(names)} streams do not divide a block"
        date = moment.strftime("%Y-%m-%dT%H:%M:%S").encode()
        end = b"\n" if lf else b""
        frames = []
        for place in range(BLOCK):
            number, turn = divmod(place, len(names))
            name, process, micros = names[turn].encode(), number % 4 + 1, place * (1_000_000 // BLOCK)
            header = b"<190>1 %s.%06d+00:00 host %s web.%d - - " % (date, micros, name, process)
            message = header + b"#%04d%010d t=%016d " % (first_stream + turn, number, 0) + _TEXT
            frames.append(b"%d %s" % (MESSAGE_BYTES, message[: MESSAGE_BYTES - len(end)] + end))
        self.size = len(frames[0])
        """Bytes of one frame."""

        self.stream_at = frames[0].index(b"#") + 1
        self.number_at = self.stream_at + STREAM_DIGITS
        self.time_at = self.stream_at + TIME_AT
        self._bytes = bytearray(b"".join(frames))
        self._view = memoryview(self._bytes)

    def part(self, first: int, count: int) -> memoryview:
        """So many frames, from that one on; good until they are written to."""
        return self._view[first * self.size : (first + count) * self.size]

    def number(self, high: int) -> None:
        """Give all frames numbers with these high digits."""
        self._write(self.number_at, b"%0*d" % (NUMBER_DIGITS - self.low_digits, high))

    def stream(self, stream: int) -> None:
        """Give all frames to one stream."""
        self._write(self.stream_at, b"%0*d" % (STREAM_DIGITS, stream))

    def _write(self, at: int, digits: bytes) -> None:
        """Write that into every frame; what the first one has already, all have."""
        for place, digit in enumerate(digits, at):
            if self._bytes[place] != digit:
                self._bytes[place :: self.size] = bytes((digit,)) * BLOCK


class Frames:
    """A TCP connection's messages: every frame is for the next token."""

    def __init__(self, tokens: Sequence[str], connection: int, *, moment: datetime) -> None:
        self._block = Block(tokens, first_stream=connection * len(tokens), moment=moment, lf=False)
        self._high = 0
        self._place = 0

    def take(self, count: int) -> memoryview:
        """The next `count` frames, which must divide a block; good until the call after the block's last one."""
        if self._place == BLOCK:
            self._place = 0
            self._high += 1
            self._block.number(self._high)
        first, self._place = self._place, self._place + count
        return self._block.part(first, count)

    def take_stamped(self, micros: int) -> memoryview:
        """The next frame, with its time."""
        frame, at = self.take(1), self._block.time_at
        frame[at : at + TIME_DIGITS] = b"%0*d" % (TIME_DIGITS, micros)
        return frame


class Bodies:
    """An HTTP connection's requests: the messages of each are for the next token, which signs it.

    The frames' own APP-NAME is `token`, as log-shuttle writes it.
    """

    def __init__(self, tokens: Sequence[str], connection: int, *, per_request: int, moment: datetime) -> None:
        """`per_request` must divide a block."""
        self._tokens = len(tokens)
        self._first_stream = connection * len(tokens)
        self.messages = per_request
        """Messages of one body."""

        self._block = Block(["token"], first_stream=self._first_stream, moment=moment, lf=True)
        self.size = per_request * self._block.size
        """Bytes of one body."""

    def body(self, request: int) -> memoryview:
        """The body of that request, counted from 0; good until the next call. Its token is `request` modulo tokens."""
        turn, token = divmod(request, self._tokens)
        high, part = divmod(turn, BLOCK // self.messages)
        self._block.stream(self._first_stream + token)
        self._block.number(high)
        return self._block.part(part * self.messages, self.messages)
