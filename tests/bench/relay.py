"""What comes in on any connection goes out on one, unread: the least that a server over trio costs in Python.

`python -m tests.bench.relay PORT TO`. It waits as the server does (logplex/poller.py): for one epoll, through trio. It
knows no frames and no tokens, keeps nothing, and drops what the receiver does not take at once: nothing to use.
"""

import select
import socket
import sys

import trio

READ_BYTES = 256 * 1024


async def relay(port: int, to: int) -> None:
    """Pass on what comes to `port`, to the port `to`, until the process is stopped."""
    with (
        socket.create_server(("127.0.0.1", port), backlog=128) as listener,
        socket.create_connection(("127.0.0.1", to)) as out,
        select.epoll() as epoll,
    ):
        listener.setblocking(False)
        out.setblocking(False)
        out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(listener, select.EPOLLIN)
        connections: dict[int, socket.socket] = {}
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for descriptor, _ in epoll.poll(0):
                if descriptor == listener.fileno():
                    connection, _ = listener.accept()
                    epoll.register(connection, select.EPOLLIN)
                    connections[connection.fileno()] = connection
                elif data := connections[descriptor].recv(READ_BYTES):
                    out.send(data)
                else:
                    connections.pop(descriptor).close()


if __name__ == "__main__":
    trio.run(relay, int(sys.argv[1]), int(sys.argv[2]))
