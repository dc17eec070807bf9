"""Which addresses drains may dial.

Rules:

* Refused unless the operator allows the range: everything that is not ordinary public unicast. A table of our own,
  because `ipaddress.is_global` differs between patch levels of Python.
* An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, ISATAP) is judged as that IPv4 address.
* The server's own listeners are refused always, also where their range is allowed: a drain to them is a loop.
* The check happens at every connect, on the address that is then dialled; URLs with literal addresses are checked
  when the drain is made as well, so that the owner hears of it at once.

Sources: the IANA registries of IPv4 and IPv6 special-purpose addresses (RFC 6890 and its updates), RFC 4291, RFC
6052, RFC 3056, RFC 5214; 168.63.129.16 is the metadata server of one cloud, in public space.
"""

import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from logplex.errors import SetupError, Unprocessable

from .url import DrainUrl

Address = IPv4Address | IPv6Address

_REFUSED_4 = tuple(
    (IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a metadata service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "reserved for benchmarks"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_REFUSED_6 = tuple(
    (IPv6Network(network), why)
    for network, why in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),  # Teredo, ORCHID and other protocol assignments
        ("2001:db8::/32", "documentation"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "documentation"),
    )
)
_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out; the rest of IPv6 is not on the Internet
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_ISATAP = (0x00005EFE, 0x02005EFE)


class Policy:
    """The operator's choice: ranges and ports that drains may dial; and the listeners they never may."""

    def __init__(
        self,
        allow: Iterable[str] = (),
        own_listeners: Iterable[tuple[str, int]] = (),
        *,
        ports: Iterable[str] = (),
    ) -> None:
        """`ports` are numbers or ranges (`443`, `1024-65535`); none means all. Raises SetupError.

        An unspecified host among `own_listeners` stands for every address of this machine.
        """
        try:
            self._allowed = tuple(ip_network(network.strip()) for network in allow)
        except ValueError as exc:
            raise SetupError(f"--drain-allow: {exc}") from exc
        self._ports = tuple(_port_range(text) for text in ports)
        self._own = {(ip_address(host), port) for host, port in own_listeners}

    def refusal(self, address: str, port: int) -> str | None:
        """Why `address` (as a resolver gave it) must not be dialled; None when it may."""
        try:
            parsed, special = _judged(address)
        except ValueError:
            return "not an address"
        if not self._port_allowed(port):
            return f"port {port} is not open to drains"
        if isinstance(parsed, IPv6Address):
            if parsed.scope_id is not None:
                return "an address with a zone id"
            parsed = parsed.ipv4_mapped or parsed
        if self._is_own(parsed, port):
            return "a listener of this server"
        if any(parsed.version == network.version and parsed in network for network in self._allowed):
            return None
        return None if special is None else f"{special} address"

    def check(self, url: DrainUrl) -> None:
        """Refuse a URL for what it says itself, without a look-up. Raises Unprocessable."""
        if not self._port_allowed(url.port):
            raise Unprocessable(f"Invalid drain destination: port {url.port} is not open to drains")
        if url.address is not None:
            why = self.refusal(str(url.address), url.port)
            if why is not None:
                raise Unprocessable(f"Invalid drain destination: {why}")

    def _port_allowed(self, port: int) -> bool:
        return port != 0 and (not self._ports or any(low <= port <= high for low, high in self._ports))

    def _is_own(self, address: Address, port: int) -> bool:
        for host, own_port in self._own:
            if own_port == port and (host == address or (host.is_unspecified and _is_local(address))):
                return True
        return False


@lru_cache(maxsize=4096)
def _judged(address: str) -> tuple[Address, str | None]:
    """An address, and what keeps it from being ordinary public unicast: the table alone says so. Raises ValueError."""
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return parsed, _special(mapped or parsed)


def _special(address: Address) -> str | None:
    """What keeps an address from being ordinary public unicast."""
    if isinstance(address, IPv4Address):
        return next((why for network, why in _REFUSED_4 if address in network), None)
    why = next((why for network, why in _REFUSED_6 if address in network), None)
    if why is not None:
        return why
    number = int(address)
    if address in _NAT64:
        return _special(IPv4Address(number & 0xFFFFFFFF))
    if address in _SIX_TO_FOUR:
        return _special(IPv4Address(number >> 80 & 0xFFFFFFFF))
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        return _special(IPv4Address(number & 0xFFFFFFFF))
    return None if address in _UNICAST else "reserved"


def _is_local(address: Address) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _port_range(text: str) -> tuple[int, int]:
    low, _, high = text.strip().partition("-")
    try:
        ports = int(low), int(high or low)
    except ValueError as exc:
        raise SetupError(f"--drain-ports: {text!r} is neither a port nor a range") from exc
    if not 0 < ports[0] <= ports[1] <= 65535:
        raise SetupError(f"--drain-ports: {text!r} is not within 1 to 65535")
    return ports
