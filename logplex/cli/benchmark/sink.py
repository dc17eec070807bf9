"""Where drains deliver to: `python -m logplex.cli.benchmark.sink`, counting and checking every message.

* It listens on a port of the kernel's choice, and takes TCP drains as HTTP drains: a connection that begins with
  `POST` has its requests answered 200.
* On its pipes, a line of JSON each: in comes its order, out goes its port; in comes how many messages there are, out
  goes its report, once all of them have arrived or nothing has for a while. The end of its input ends it.
"""

import json
import os
import select
import socket
import sys
import time
from array import array
from dataclasses import asdict, dataclass

from .figures import quantiles_ms
from .marks import Marks, Requests, numbers, times
from .sequences import Sequences
from .window import Taken

RECEIVE_BYTES = 256 * 1024
TURN_SECONDS = 0.1
BACKLOG = 1024
ORDER_BYTES = 4096
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What came; `last` is nanoseconds of the monotonic clock, `p50_ms` and `p99_ms` are from sending to arrival."""

    distinct: int
    repeated: int
    reordered: int
    last: int
    cpu_seconds: float
    p50_ms: float | None
    p99_ms: float | None


class Peer:
    """One drain's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.marks = Marks()
        self.requests: Requests | None = None
        self.known = False


class Sink:
    """One run's receiver; `timed`: the messages say when they were sent."""

    def __init__(self, taken: Taken, *, timed: bool, silence_seconds: float) -> None:
        self._taken = taken
        self._timed = timed
        self._silence_seconds = silence_seconds
        self._sequences = Sequences()
        self._micros = array("q")
        self._last = time.monotonic_ns()
        self._peers: dict[int, Peer] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def serve(self, orders: int) -> Arrived | None:
        """Receive until all is there that the order on the descriptor `orders` speaks of; None when that ends."""
        expected: int | None = None
        told = 0
        spent = time.process_time()
        with select.epoll() as poller:
            poller.register(self._listener, select.EPOLLIN)
            poller.register(orders, select.EPOLLIN)
            while expected is None or not self._is_over(expected, told):
                for descriptor, _ in poller.poll(TURN_SECONDS):
                    if descriptor == orders:
                        line = os.read(orders, ORDER_BYTES)
                        if not line:
                            return None
                        expected, told = json.loads(line)["expected"], time.monotonic_ns()
                    elif descriptor == self._listener.fileno():
                        self._accept(poller)
                    else:
                        self._receive(self._peers[descriptor])
        p50, p99 = quantiles_ms(self._micros)
        return Arrived(
            distinct=self._sequences.distinct,
            repeated=self._sequences.repeated,
            reordered=self._sequences.reordered,
            last=self._last,
            cpu_seconds=time.process_time() - spent,
            p50_ms=p50,
            p99_ms=p99,
        )

    def _is_over(self, expected: int, told: int) -> bool:
        """Whether all is there, or nothing has come for a while."""
        silence = time.monotonic_ns() - max(self._last, told)
        return self._sequences.distinct >= expected or silence >= self._silence_seconds * 1e9

    def _accept(self, poller: select.epoll) -> None:
        connection, _ = self._listener.accept()
        self._peers[connection.fileno()] = Peer(connection)
        poller.register(connection, select.EPOLLIN)

    def _receive(self, peer: Peer) -> None:
        try:
            received = peer.socket.recv(RECEIVE_BYTES)
        except ConnectionResetError:
            received = b""
        if not received:
            del self._peers[peer.socket.fileno()]
            peer.socket.close()  # the poller forgets it, too
            return
        self._last = time.monotonic_ns()
        if not peer.known:
            peer.known = True
            peer.requests = Requests() if received.startswith(b"P") else None
        marks = peer.marks.feed(received)
        self._sequences.feed(numbers(marks))
        if self._timed:
            now = self._last // 1000
            self._micros.extend(now - sent for sent in times(marks))
        self._taken.write(self._sequences.distinct)
        if peer.requests is not None and (complete := peer.requests.feed(received)):
            peer.socket.sendall(ANSWER * complete)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    sink = Sink(Taken(order["taken"]), timed=order["timed"], silence_seconds=order["silence_seconds"])
    print(json.dumps({"port": sink.port}), flush=True)
    if (arrived := sink.serve(sys.stdin.fileno())) is not None:
        print(json.dumps(asdict(arrived)), flush=True)


if __name__ == "__main__":
    main()
