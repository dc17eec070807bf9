"""Passwords, the Authorization header, and the limit on failed log-ins; none of it does I/O.

* Generated passwords have 256 bits: one SHA-256 is enough, because there is nothing to guess. Chosen ones go
  through scrypt (16 MiB, about 50 ms), which callers run in a thread.
* Hashes are compared with `compare_digest`.
* A header is Basic (`token` and `t.<uuid>`, or id and password) or Bearer (`t.<uuid>`, or `id:password`).
* Failures are counted per id and per address in tables of a bounded size; an attempt counts before its password
  is checked and is taken back when that was right, so that a burst cannot be checked in parallel.
"""

import base64
import binascii
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from typing import Literal, NamedTuple

from ..errors import TooManyFailures

PASSWORD_BYTES = 32
MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 1024
MAX_HEADER_BYTES = 4096

FAILURES_PER_ID = 10
FAILURES_PER_ADDRESS = 100
"""More than per id: behind a proxy everybody has one address."""
FAILURE_SECONDS = 60.0
FAILURE_ENTRIES = 10_000

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1  # the parameters of RFC 7914 section 2 for interactive log-ins


class Login(NamedTuple):
    """What an Authorization header says."""

    kind: Literal["token", "credential"]
    id: str
    password: str


def parse_authorization(header: bytes) -> Login | None:
    """Read a header; None for what is none of ours: another scheme, bad base64, no colon, control characters."""
    if len(header) > MAX_HEADER_BYTES:
        return None
    scheme, _, value = header.strip().partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"bearer":
            text = value
        case b"basic":
            try:
                text = base64.b64decode(value, validate=True)
            except binascii.Error:
                return None
        case _:
            return None
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return None
    name, colon, password = decoded.partition(":")
    if scheme.lower() == b"bearer" and not colon and name.startswith("t."):
        return Login("token", name, "")
    if not colon or not name:
        return None
    if name == "token":
        return Login("token", password, "")
    return Login("credential", name, password)


def new_password() -> str:
    """256 random bits in 43 characters that need no escaping in a URL."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def hash_generated(password: str) -> str:
    return "sha256$" + hashlib.sha256(password.encode()).hexdigest()


def hash_chosen(password: str) -> str:
    """Takes about 50 ms: run it in a thread."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_SCRYPT_N}${_SCRYPT_R}${_SCRYPT_P}${salt.hex()}${_scrypt(password, salt).hex()}"


def is_slow(stored: str) -> bool:
    """Whether `verify` has to run in a thread."""
    return stored.startswith("scrypt$")


def verify(stored: str, password: str) -> bool:
    """Whether `password` is the one that was stored."""
    scheme, *fields = stored.split("$")
    if scheme == "sha256":
        return compare_digest(fields[0], hashlib.sha256(password.encode()).hexdigest())
    n, r, p, salt, digest = fields
    made = _scrypt(password, bytes.fromhex(salt), n=int(n), r=int(r), p=int(p))
    return compare_digest(digest, made.hex())


def _scrypt(password: str, salt: bytes, n: int = _SCRYPT_N, r: int = _SCRYPT_R, p: int = _SCRYPT_P) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=64 * 1024 * 1024, dklen=32)


class FailureLimits:
    """Failed log-ins of the last minute, per id and per address; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ids = _Windows(FAILURES_PER_ID)
        self._addresses = _Windows(FAILURES_PER_ADDRESS)

    def begin(self, login_id: str, address: str) -> None:
        """Count an attempt; raises TooManyFailures while the id or the address is limited."""
        now = self._clock()
        network = _network(address)
        wait = max(self._ids.wait(login_id, now), self._addresses.wait(network, now))
        if wait > 0:
            raise TooManyFailures(int(wait) + 1)
        self._ids.add(login_id, now)
        self._addresses.add(network, now)

    def succeeded(self, login_id: str, address: str) -> None:
        """Take the attempt back."""
        self._ids.take_back(login_id)
        self._addresses.take_back(_network(address))


class _Windows:
    """Counts by key within a window of `FAILURE_SECONDS` from its first one; the oldest windows go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: OrderedDict[str, list[float]] = OrderedDict()  # key -> [start, count]

    def wait(self, key: str, now: float) -> float:
        window = self._windows.get(key)
        if window is None:
            return 0.0
        if now - window[0] >= FAILURE_SECONDS:
            del self._windows[key]
            return 0.0
        return window[0] + FAILURE_SECONDS - now if window[1] >= self._limit else 0.0

    def add(self, key: str, now: float) -> None:
        window = self._windows.setdefault(key, [now, 0])
        window[1] += 1
        if len(self._windows) > FAILURE_ENTRIES:
            self._windows.popitem(last=False)

    def take_back(self, key: str) -> None:
        window = self._windows.get(key)
        if window is not None:
            window[1] -= 1
            if window[1] <= 0:
                del self._windows[key]


def _network(address: str) -> str:
    """The address as it is limited: of IPv6 the /64, which one host usually has for itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return str(parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else str(parsed)
