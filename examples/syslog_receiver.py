"""A receiver for syslog drains over TCP: reads counted frames and prints them, an app's drain token in front.

python examples/syslog_receiver.py --listen 127.0.0.1:9601
logplex drains add syslog://127.0.0.1:9601 -a shop       (the server needs --drain-allow 127.0.0.0/8)

* A frame is `LENGTH MESSAGE` (RFC 6587 section 3.4.1), a message (RFC 5424) is
  `<PRIORITY>1 TIME DRAIN-TOKEN SOURCE PROCESS - - TEXT`.
* The drain token in HOSTNAME says whose lines they are; it is a secret, so only its start is shown.
* With --cert and --key it speaks TLS, for `syslog+tls://` drains.
"""

import argparse
import contextlib
import socketserver
import ssl
import sys
import threading
from typing import BinaryIO

MAX_FRAME_BYTES = 65536


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message; None at the end. Raises ValueError when the framing is broken."""
    length = b""
    while (byte := stream.read(1)) not in (b" ", b""):
        length += byte
        if not length.isdigit() or int(length) > MAX_FRAME_BYTES:
            raise ValueError("no length in front of a frame")
    if not byte:
        return None
    message = stream.read(int(length))
    return message if len(message) == int(length) else None


class Connection(socketserver.StreamRequestHandler):
    """One drain's connection."""

    left: int | None = None  # lines until we end; None: for ever
    printing = threading.Lock()

    def handle(self) -> None:
        while (message := read_frame(self.rfile)) is not None:
            header, _, text = message.rstrip(b"\n").partition(b" - - ")
            _, time, drain, source, process = header.split(b" ", 4)
            with self.printing:
                sys.stdout.buffer.write(b"%s %s %s[%s]: %s\n" % (drain[:10], time, source, process, text))
                sys.stdout.flush()
                if Connection.left is not None:
                    Connection.left -= 1
                    if Connection.left == 0:
                        threading.Thread(target=self.server.shutdown).start()


class Server(socketserver.ThreadingTCPServer):
    """Listens; TLS when it has a context."""

    allow_reuse_address = True
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: object, client_address: object) -> None:
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
        super().finish_request(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description="Receive the lines of syslog drains over TCP and print them.")
    parser.add_argument("--listen", default="127.0.0.1:9601", metavar="HOST:PORT")
    parser.add_argument("--cert", help="speak TLS with this certificate chain, PEM")
    parser.add_argument("--key", help="its private key, PEM")
    parser.add_argument("--lines", type=int, help="end after so many lines")
    given = parser.parse_args()
    Connection.left = given.lines
    host, _, port = given.listen.rpartition(":")
    with Server((host, int(port)), Connection) as server:
        if given.cert:
            server.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            server.context.load_cert_chain(given.cert, given.key)
        print(f"listening on {host}:{server.server_address[1]}", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)


main()
