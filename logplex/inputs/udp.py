"""Syslog over UDP: datagrams in, frames to the router.

Rules (protocol section 11):

* One datagram is one message, whatever is in it: a counted frame whose count the kernel knows. So datagrams go to the
  router as counted frames of one stream, many at once, by the same quick path as TCP.
* A turn takes at most `DATAGRAMS_PER_TURN` or `TURN_BYTES`: some 2 ms; then the router flushes and others have
  their turn. The kernel's buffer holds what comes meanwhile.
* While memory is full nothing is read, and the kernel drops; what it drops is counted, as refused frames, where it
  tells (SO_MEMINFO, Linux 4.12; unlike SO_RXQ_OVFL it tells without a further datagram).
* Empty datagrams, and those above the frame limit, are malformed.
"""

import socket
import struct
from collections.abc import Sequence
from typing import Protocol

import trio

from ..ledger import Ledger
from ..registry.records import Token
from . import connection
from .notices import Notices

DATAGRAMS_PER_TURN = 512
TURN_BYTES = 256 * 1024
DATAGRAM_BYTES = 64 * 1024  # more than UDP can carry

_SO_MEMINFO = 55  # Linux, asm-generic/socket.h; Python has no name for it
_MEMINFO = struct.Struct("=9I")  # linux/sock_diag.h: the last one is SK_MEMINFO_DROPS


class Router(connection.Router, Protocol):
    """What this input needs of the router (logplex.router.Router)."""

    ledger: Ledger


async def serve_udp(
    sockets: Sequence[socket.socket],
    router: Router,
    *,
    max_frame_bytes: int,
    bound: Token | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve bound, non-blocking sockets (listening.listen_udp) until cancelled, and close them.

    `bound` takes everything that comes to that token.
    """
    notices = Notices()
    try:
        async with trio.open_nursery() as nursery:
            for bound_socket in sockets:
                receiver = _Receiver(bound_socket, router, bound, max_frame_bytes, notices)
                nursery.start_soon(receiver.run)
            task_status.started()
    finally:
        for bound_socket in sockets:
            bound_socket.close()


class _Receiver:
    """Reads one socket."""

    def __init__(
        self, bound_socket: socket.socket, router: Router, bound: Token | None, max_frame_bytes: int, notices: Notices
    ) -> None:
        self._socket = bound_socket
        self._router = router
        self._stream = router.stream(bound=bound)
        self._max_frame_bytes = max_frame_bytes
        self._notices = notices
        self._kernel_drops = 0

    async def run(self) -> None:
        while True:
            frames, drained = self._read()
            if frames:
                further = self._stream.take(b"".join(frames))
                if further is not None:
                    await further()
                self._router.flush()
            self._count_kernel_drops()
            if drained:
                await trio.lowlevel.wait_readable(self._socket)
            else:
                await trio.lowlevel.checkpoint()

    def _read(self) -> tuple[list[bytes], bool]:
        """The datagrams of one turn as counted frames, and whether there are no more."""
        frames: list[bytes] = []
        size = 0
        receive = self._socket.recv
        try:
            while len(frames) < DATAGRAMS_PER_TURN and size < TURN_BYTES:
                data = receive(DATAGRAM_BYTES)
                if 0 < len(data) <= self._max_frame_bytes:
                    frames.append(b"%d %s" % (len(data), data))
                    size += len(data)
                else:
                    self._router.ledger.drop("malformed")
                    size += DATAGRAM_BYTES // DATAGRAMS_PER_TURN  # so that a flood of empty ones ends the turn too
        except BlockingIOError:
            return frames, True
        except OSError as exc:  # an ICMP error, or memory is short: the next datagram may be fine
            self._notices.warn("datagram_not_received", reason=exc.strerror)
            return frames, True
        return frames, False

    def _count_kernel_drops(self) -> None:
        try:
            info = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            drops = _MEMINFO.unpack(info)[-1]
        except (OSError, struct.error):
            return
        if drops != self._kernel_drops:
            lost = (drops - self._kernel_drops) & 0xFFFFFFFF
            self._kernel_drops = drops
            self._router.ledger.drop("kernel", lost)
            self._notices.warn("datagrams_dropped", datagrams=lost)
