"""The receiving end of TLS on a non-blocking socket.

Rules:

* A read of the socket takes many records, and OpenSSL then decrypts them from memory: 2.0 microseconds a record of
  220 bytes, where ssl.SSLSocket with its two system calls a record takes 4.2; for records of 16 KB both are equal.
* What OpenSSL keeps of a connection grows with its largest read: hence `READ_BYTES`, two records of the largest size.
* A peer that ends without close_notify has ended: log senders do that, and framing tells a cut-off message.
* Senders of syslog never read. A session ticket that waits unread makes their kernel reset the connection at close,
  and throw away what it had not sent yet; so there are no tickets.
"""

import socket
import ssl
from contextlib import suppress

import trio

from ..errors import SetupError

READ_BYTES = 32 * 1024
RECORD_BYTES = 16 * 1024  # of one record at most, RFC 8446 section 5.1
MAX_UNSENT_BYTES = 64 * 1024  # answers to a peer that asks for new keys and never reads


def server_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    """The context of our TLS listeners, from PEM files (no key file: the key is in the first); raises SetupError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate_file, key_file or None)
    except (OSError, ssl.SSLError) as exc:
        raise SetupError(f"cannot use the certificate {certificate_file}: {exc.strerror or exc}") from exc
    return context


class TlsReceiver:
    """One connection: `handshake`, then `receive` whenever the socket is readable. The socket stays the caller's."""

    __slots__ = ("_ended", "_error", "_incoming", "_outgoing", "_socket", "_tls", "_unsent", "drained")

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connection
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self._ended = False
        self._error: ssl.SSLError | None = None
        self.drained = False  # the last read of the socket took all that was there

    @property
    def holds_more(self) -> bool:
        """Whether `receive` knows what the socket does not tell again: an end, or what came with the handshake."""
        return self._ended or self._error is not None or self._incoming.pending > 0

    async def handshake(self) -> None:
        """Raises OSError (ssl.SSLError is one) when the peer cannot or does not; the caller limits the time."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_all()
                await self._fill()
            except ssl.SSLError:
                self._send()  # the alert that says why
                raise
            else:
                return await self._send_all()

    def receive(self, max_bytes: int) -> bytes:
        """What has arrived, b"" at the end; of the socket's bytes at most `max_bytes`, and at most `READ_BYTES`.

        Raises BlockingIOError when nothing has, other OSError (ssl.SSLError is one) when the connection is broken.
        """
        if self._incoming.pending and (pieces := self._decrypt()):
            self.drained = False
            return b"".join(pieces)
        while not self._ended:
            if self._error is not None:
                raise self._error
            most = min(max_bytes, READ_BYTES)
            data = self._socket.recv(most)
            self.drained = len(data) < most
            if data:
                self._incoming.write(data)
            else:
                self._ended = True
            if pieces := self._decrypt():
                return b"".join(pieces) if len(pieces) > 1 else pieces[0]
        return b""

    def close(self) -> None:
        """Say goodbye as far as the kernel takes it at once."""
        with suppress(OSError, ValueError):  # ssl.SSLError, always: it wants the peer's goodbye; or the peer has gone
            self._tls.unwrap()
        with suppress(OSError):
            self._send()

    def _decrypt(self) -> list[bytes]:
        pieces: list[bytes] = []
        read = self._tls.read
        try:
            while piece := read(RECORD_BYTES):
                pieces.append(piece)
            self._ended = True  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._error = exc  # raised by the next call, after what was good
        if self._outgoing.pending or self._unsent:
            self._send()
        return pieces

    async def _fill(self) -> None:
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            if not data:
                raise ConnectionResetError("closed within the handshake")
            self._incoming.write(data)
            return

    async def _send_all(self) -> None:
        self._send()
        while self._unsent:
            await trio.lowlevel.wait_writable(self._socket)
            self._send()

    def _send(self) -> None:
        data = self._unsent + self._outgoing.read()
        try:
            sent = self._socket.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]
        if len(self._unsent) > MAX_UNSENT_BYTES:
            raise ConnectionResetError("the peer does not read our answers")
