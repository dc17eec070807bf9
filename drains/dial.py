"""From a URL to a link: look the name up, ask the policy, connect, do TLS.

Rules:

* The policy judges every address at every connect, and the address that it judged is the one that is dialled;
  of several only the allowed ones. Redirects and proxy variables mean nothing here.
* Connect and TLS together take at most `connect_seconds`; a name with several addresses shares them.
* Foreign errors become `Failure` here, in words of our own: what a peer sent is never repeated.
"""

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable

import trio

from .backoff import spread
from .limits import Limits
from .link import Link, SocketLink, TlsLink, Watch
from .policy import Policy
from .resolver import Resolver
from .spec import DrainSpec
from .status import Failure
from .tls import Contexts, TlsOptions, is_pinned
from .url import DrainUrl, Kind

Connect = Callable[[str, int, Kind], Awaitable[socket.socket]]
"""Opens a non-blocking socket to (address, port); raises OSError."""

_ERRORS = {
    errno.ECONNREFUSED: ("refused", "connection refused"),
    errno.ECONNRESET: ("reset", "connection reset by the receiver"),
    errno.EPIPE: ("reset", "connection reset by the receiver"),
    errno.ECONNABORTED: ("reset", "connection aborted"),
    errno.ETIMEDOUT: ("timeout", "the receiver no longer acknowledges"),
    errno.EHOSTUNREACH: ("unreachable", "no route to the receiver"),
    errno.ENETUNREACH: ("unreachable", "no route to the receiver's network"),
    errno.ENETDOWN: ("unreachable", "the network is down"),
    errno.EMFILE: ("resources", "this server has no file descriptor left"),
    errno.ENFILE: ("resources", "this server has no file descriptor left"),
    errno.EADDRNOTAVAIL: ("resources", "this server has no local port left"),
}
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),  # ms; bytes that nobody acknowledges for so long
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # what is sent is a batch already
)


async def open_socket(address: str, port: int, kind: Kind) -> socket.socket:
    """Connect to an address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if kind is Kind.UDP else socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if kind is not Kind.UDP:
            for level, option, value in _KEEPALIVE:
                sock.setsockopt(level, option, value)
        try:
            sock.connect((address, port))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect") from None
    except BaseException:
        sock.close()
        raise
    return sock


class Dialler:
    """Opens links for drains."""

    def __init__(
        self,
        limits: Limits,
        policy: Policy,
        resolver: Resolver,
        contexts: Contexts,
        watch: Watch,
        *,
        connect: Connect = open_socket,
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._resolver = resolver
        self._contexts = contexts
        self._watch = watch
        self._connect = connect

    async def dial(self, spec: DrainSpec, app: int) -> Link:
        """A link to the drain's receiver. Raises Failure."""
        url = spec.url
        addresses = self.allowed(await self.addresses(url, app), url)
        deadline = trio.current_time() + spread(self._limits.connect_seconds)
        sock = await self.connect(addresses, url, deadline)
        if not url.tls:
            return self.link(sock)
        return await self.secure(sock, url, spec.options.tls, deadline)

    async def addresses(self, url: DrainUrl, app: int) -> list[str]:
        """What the host stands for."""
        if url.address is not None:
            return [str(url.address)]
        return await self._resolver.resolve(url.host, app)

    def allowed(self, addresses: list[str], url: DrainUrl) -> list[str]:
        """The addresses that the policy lets through; Failure of kind `policy` when it is none."""
        refusals = [self._policy.refusal(address, url.port) for address in addresses]
        allowed = [address for address, refusal in zip(addresses, refusals, strict=True) if refusal is None]
        if not allowed:
            raise Failure("policy", refusals[0] or "the name has no address")
        return allowed

    async def connect(self, addresses: list[str], url: DrainUrl, deadline: float) -> socket.socket:
        """The first address that answers."""
        failure = Failure("timeout", f"no connection within {self._limits.connect_seconds:g} s")
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            seconds = (deadline - trio.current_time()) / left
            with trio.move_on_after(max(0.0, seconds)):
                try:
                    return await self._connect(address, url.port, url.kind)
                except OSError as exc:
                    failure = translate(exc)
        raise failure

    async def secure(self, sock: socket.socket, url: DrainUrl, options: TlsOptions, deadline: float) -> Link:
        """Do the TLS handshake and check who answers; closes the socket when that fails."""
        tls: ssl.SSLSocket | None = None
        try:
            context = await self._contexts.get(options)
            tls = context.wrap_socket(sock, server_hostname=url.host.removesuffix("."), do_handshake_on_connect=False)
            with trio.move_on_at(deadline) as scope:
                await _handshake(tls)
            if scope.cancelled_caught:
                raise Failure("timeout", f"no TLS within {self._limits.connect_seconds:g} s")
            if options.fingerprint and not is_pinned(tls.getpeercert(binary_form=True), options.fingerprint):
                raise Failure("certificate", "the certificate is not the pinned one")
        except BaseException as exc:
            (tls or sock).close()
            if isinstance(exc, OSError | ValueError):
                raise translate(exc) from exc
            raise
        return TlsLink(tls, self._watch)

    def link(self, sock: socket.socket) -> Link:
        """A plain link."""
        return SocketLink(sock, self._watch)


def described(link: Link) -> str:
    """Which TLS a link speaks, for people."""
    return link.version if isinstance(link, TlsLink) else ""


async def _handshake(tls: ssl.SSLSocket) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(tls)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(tls)
        else:
            return


def translate(exc: OSError | ValueError) -> Failure:
    """A foreign error in our own words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Failure("certificate", exc.verify_message)
    if isinstance(exc, ssl.SSLError):
        reason = (exc.reason or "the connection was broken off").replace("_", " ").lower()
        return Failure("tls", f"TLS failed: {reason}")
    if isinstance(exc, OSError) and exc.errno in _ERRORS:
        kind, text = _ERRORS[exc.errno]
        return Failure(kind, text)
    return Failure("connection", "the connection failed")
