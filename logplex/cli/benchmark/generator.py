"""The load: `python -m logplex.cli.benchmark.generator`, its order and its report a line of JSON on its pipes.

* As fast as the peer takes them over TCP, at a rate over TCP, or by `POST /logs`, where a connection sends its next
  request when the last one was answered 204. Any other answer, and a connection that breaks, ends it with a reason.
* It ends after the seconds of its order, once the peer has read everything. Whoever started it bounds that wait.
"""

import base64
import json
import select
import socket
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import cycle

from .figures import quantiles_ms
from .frames import BLOCK, Bodies, Frames
from .window import Taken

PACE_SECONDS = 0.001
ANSWER_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send: `mode` is flood, pace or post."""

    mode: str
    port: int
    tokens: list[str]
    connections: int
    seconds: float
    taken: str  # the file of the sink's count
    rate: int = 0  # pace: messages a second over all connections
    per_request: int = 0  # post: messages in a request; tokens sign in turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was sent; times are nanoseconds of the monotonic clock, `p50_ms` and `p99_ms` those of answers."""

    messages: int
    began: int
    cpu_seconds: float
    wall_seconds: float
    p50_ms: float | None
    p99_ms: float | None


class Generator:
    """One run of one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._taken = Taken(order.taken)
        self._moment = datetime.now(UTC)
        self._messages = 0
        self._answer_micros = array("q")
        self._spent = 0.0
        self._began = 0
        self._end = 0.0

    def run(self) -> Sent:
        """Connect, send, and wait until all of it was read."""
        sockets = [_connect(self._order.port) for _ in range(self._order.connections)]
        modes = {"flood": self._flood, "pace": self._pace, "post": self._post}
        modes[self._order.mode](sockets)
        cpu, wall = time.process_time() - self._spent, (time.monotonic_ns() - self._began) / 1e9
        for each in sockets:
            _finish(each)
        p50, p99 = quantiles_ms(self._answer_micros)
        return Sent(
            messages=self._messages,
            began=self._began,
            cpu_seconds=cpu,
            wall_seconds=wall,
            p50_ms=p50,
            p99_ms=p99,
        )

    def _begin(self) -> None:
        """Everything is rendered: time and cost count from here."""
        self._began, self._spent = time.monotonic_ns(), time.process_time()
        self._end = time.monotonic() + self._order.seconds

    def _goes_on(self) -> bool:
        """Whether there is time for more, once there is room in the window."""
        self._taken.wait(self._messages, self._end)
        return time.monotonic() < self._end

    def _flood(self, sockets: list[socket.socket]) -> None:
        """As fast as the peer takes it."""
        lines = [(each, self._frames(place)) for place, each in enumerate(sockets)]
        self._begin()
        while True:
            for each, frames in lines:
                if not self._goes_on():
                    return
                each.sendall(frames.take(BLOCK))
                self._messages += BLOCK

    def _pace(self, sockets: list[socket.socket]) -> None:
        """At a rate, every message with its time."""
        lines = cycle([(each, self._frames(place)) for place, each in enumerate(sockets)])
        self._begin()
        while self._goes_on():
            due = int((time.monotonic_ns() - self._began) * self._order.rate / 1e9)
            while self._messages < due:
                each, frames = next(lines)
                each.sendall(frames.take_stamped(time.monotonic_ns() // 1000))
                self._messages += 1
            time.sleep(PACE_SECONDS)

    def _frames(self, connection: int) -> Frames:
        return Frames(self._order.tokens, connection, moment=self._moment)

    def _post(self, sockets: list[socket.socket]) -> None:
        """Every connection asks again when it was answered."""
        order = self._order
        posters = {}
        for place, each in enumerate(sockets):
            turn = place * len(order.tokens) // len(sockets)  # at any time they write to different apps
            tokens = order.tokens[turn:] + order.tokens[:turn]
            bodies = Bodies(tokens, place, per_request=order.per_request, moment=self._moment)
            posters[each.fileno()] = Poster(each, bodies, tokens, number=place)
        self._begin()
        with select.epoll() as poller:
            for descriptor, poster in posters.items():
                poller.register(descriptor, select.EPOLLIN)
                self._ask(poster)
            asking = len(posters)
            while asking:
                for descriptor, _ in poller.poll():
                    micros = posters[descriptor].answered()
                    if micros is None:
                        continue
                    self._answer_micros.append(micros)
                    if self._goes_on():
                        self._ask(posters[descriptor])
                    else:
                        asking -= 1

    def _ask(self, poster: "Poster") -> None:
        poster.ask()
        self._messages += self._order.per_request


class Poster:
    """One connection that posts, request after request."""

    def __init__(self, connection: socket.socket, bodies: Bodies, tokens: list[str], *, number: int) -> None:
        self._socket = connection
        self._bodies = bodies
        self._heads = [
            (
                "POST /logs HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: logplex-bench\r\n"
                f"Authorization: Basic {base64.b64encode(f'token:{token}'.encode()).decode()}\r\n"
                f"Content-Type: application/logplex-1\r\nLogplex-Msg-Count: {bodies.messages}\r\n"
                f"Content-Length: {bodies.size}\r\nLogplex-Frame-Id: {number:08}-0000-4000-8000-"
            ).encode()
            for token in tokens
        ]
        self._requests = 0
        self._asked = 0
        self._answer = b""

    def ask(self) -> None:
        """Send the next request."""
        head = b"%b%012d\r\n\r\n" % (self._heads[self._requests % len(self._heads)], self._requests)
        request = head + self._bodies.body(self._requests)
        self._requests += 1
        self._asked = time.monotonic_ns()
        self._socket.sendall(request)

    def answered(self) -> int | None:
        """Read of the answer what is there; microseconds since the request once that was the rest."""
        received = self._socket.recv(ANSWER_BYTES)
        self._answer += received
        if received and b"\r\n\r\n" not in self._answer:
            return None
        if not self._answer.startswith(b"HTTP/1.1 204 "):
            said = self._answer[:200].decode("latin-1") or "nothing"
            raise ConnectionError(f"the server answered {said!r}")
        self._answer = b""
        return (time.monotonic_ns() - self._asked) // 1000


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _finish(connection: socket.socket) -> None:
    """Close it when the peer has read all."""
    with connection:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(ANSWER_BYTES):
            pass


def main() -> None:
    order = Order(**json.loads(sys.stdin.readline()))
    print(json.dumps(asdict(Generator(order).run())), flush=True)


if __name__ == "__main__":
    main()
