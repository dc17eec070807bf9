"""Loopback ports for programs that cannot be told to listen on port 0, and for servers that come back."""

import os
import random
import socket

_FIRST_PORT, _LAST_PORT = 20_000, 32_000  # below those that the kernel gives out by itself


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has at the moment, and that no outgoing connection takes while nobody listens there."""
    choice = random.Random(os.urandom(8))
    while True:
        port = choice.randrange(_FIRST_PORT, _LAST_PORT)
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
