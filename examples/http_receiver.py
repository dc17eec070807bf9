"""A receiver for HTTP drains: takes deliveries, removes repeats, prints the lines.

python examples/http_receiver.py --listen 127.0.0.1:9000
logplex drains add http://127.0.0.1:9000/ -a shop        (the server needs --drain-allow 127.0.0.0/8)

* A delivery is at least once: after a crash or a broken connection it may come again, and then under the same
  `Logplex-Frame-Id`. `Logplex-Range: EPOCH/FIRST-LAST` says which positions of the app's stream it covers, so that
  what overlaps with the past can be taken out. Keep the place that is remembered here where you keep the lines, in
  the same transaction.
* Answer 2xx when the lines are safe with you. 400, 413 and 422 refuse them for ever; everything else is tried again.
* `Logplex-Drain-Token` is the drain's own secret: whoever does not send it is not your drain (--token).
"""

import argparse
import contextlib
import hmac
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def frames(body: bytes) -> list[bytes]:
    """The messages of a body: `LENGTH MESSAGE`, one after another. Raises ValueError when the framing is broken."""
    found = []
    while body:
        length, _, rest = body.partition(b" ")
        count = int(length)
        if count > len(rest):
            raise ValueError("a frame is cut off")
        found.append(rest[:count])
        body = rest[count:]
    return found


class Places:
    """How far each drain has come: the newest frame id, and for an epoch the position after the last line taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, str] = {}
        self._next: dict[tuple[str, str], int] = {}

    def new_of(self, drain: str, frame_id: str, covered: str, messages: list[bytes]) -> list[bytes]:
        """Those of the messages that did not come before, and remember them."""
        if not covered:
            return messages  # a line of `logplex drains test` has no place in the stream
        epoch, _, positions = covered.partition("/")
        first, last = (int(position) for position in positions.split("-"))
        with self._lock:
            if self._ids.get(drain) == frame_id:
                return []
            self._ids[drain] = frame_id
            after = self._next.get((drain, epoch), first)
            self._next[drain, epoch] = max(after, last + 1)
        return messages if first >= after else messages[len(messages) - max(0, last + 1 - after) :]


class Receiver(BaseHTTPRequestHandler):
    """One connection of a drain."""

    protocol_version = "HTTP/1.1"
    places = Places()
    token: str | None = None
    left: int | None = None  # lines until we end; None: for ever
    printing = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        drain = self.headers.get("Logplex-Drain-Token", "")
        if self.token is not None and not hmac.compare_digest(drain, self.token):
            return self.answer(403)
        try:
            messages = frames(body)
            if len(messages) != int(self.headers["Logplex-Msg-Count"]):
                return self.answer(400)
            frame_id, covered = self.headers["Logplex-Frame-Id"], self.headers.get("Logplex-Range", "")
            new = self.places.new_of(drain, frame_id, covered, messages)
        except (ValueError, TypeError, KeyError):
            return self.answer(400)
        with self.printing:
            for message in new:
                sys.stdout.buffer.write(message)
            sys.stdout.flush()
            self.answer(204)
            if Receiver.left is not None:
                Receiver.left -= len(new)
                if Receiver.left <= 0:
                    threading.Thread(target=self.server.shutdown).start()

    def answer(self, status: int) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Only the lines are printed."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Receive the deliveries of HTTP drains and print their lines.")
    parser.add_argument("--listen", default="127.0.0.1:9000", metavar="HOST:PORT")
    parser.add_argument("--token", help="take deliveries of the drain with this token only: d.…")
    parser.add_argument("--lines", type=int, help="end after so many lines")
    given = parser.parse_args()
    Receiver.token, Receiver.left = given.token, given.lines
    host, _, port = given.listen.rpartition(":")
    with ThreadingHTTPServer((host, int(port)), Receiver) as server:
        print(f"listening on http://{host}:{server.server_port}/", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)


main()
