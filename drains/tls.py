"""TLS of drains: contexts, and the pinned certificate.

Rules:

* Chain and host name are verified (TLS 1.2 and 1.3) unless the owner said `#insecure`.
* A CA bundle of the drain's own replaces the system's. A pinned fingerprint replaces chain and name, so that a
  self-signed receiver can be trusted exactly (RFC 5425 section 4.2.2).
* A context costs about 1 MB and, with the system's certificates, tens of milliseconds: one for each distinct set of
  CA, certificate and flags, the least recently used ones forgotten, made in a thread.
* Keys never touch a disk: OpenSSL reads them from a file that lives in memory only.
"""

import hashlib
import hmac
import os
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field

import trio

MAX_CONTEXTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """What makes one drain's TLS differ from another's; PEM texts, a fingerprint in lower-case hex."""

    ca: str = ""
    client_cert: str = ""
    client_key: str = field(default="", repr=False)
    fingerprint: str = ""
    insecure: bool = False


class Contexts:
    """SSL contexts by options, shared by all drains."""

    def __init__(self, *, ca_file: str = "") -> None:
        """`ca_file` is trusted beside the system's certificates."""
        self._ca_file = ca_file
        self._contexts: OrderedDict[TlsOptions, ssl.SSLContext] = OrderedDict()
        self._limiter = trio.CapacityLimiter(1)

    async def get(self, options: TlsOptions) -> ssl.SSLContext:
        """The context of these options. Raises ssl.SSLError or OSError when they cannot be read."""
        context = self._contexts.get(options)
        if context is None:
            context = await trio.to_thread.run_sync(make_context, options, self._ca_file, limiter=self._limiter)
            self._contexts[options] = context
            while len(self._contexts) > MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        else:
            self._contexts.move_to_end(options)
        return context


def make_context(options: TlsOptions, ca_file: str = "") -> ssl.SSLContext:
    """A client's context. Raises ssl.SSLError, ValueError or OSError for what cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.insecure or options.fingerprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.ca:
        context.load_verify_locations(cadata=options.ca)
    else:
        context.load_default_certs()
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
    if options.client_cert:
        _load_client(context, options.client_cert, options.client_key)
    return context


def is_pinned(certificate: bytes | None, fingerprint: str) -> bool:
    """Whether this certificate (DER) is the one with that SHA-256."""
    return certificate is not None and hmac.compare_digest(hashlib.sha256(certificate).hexdigest(), fingerprint)


def _load_client(context: ssl.SSLContext, certificate: str, key: str) -> None:
    memory = os.memfd_create("client certificate")
    try:
        with open(memory, "w", closefd=False) as file:
            file.write(certificate + "\n" + key)
        # The password is asked for when the key is encrypted; without an answer OpenSSL would ask the terminal.
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=lambda: b"")
    finally:
        os.close(memory)
