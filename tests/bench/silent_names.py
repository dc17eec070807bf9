"""`python -m tests.bench.silent_names PORT …`: `logplex …` where nobody answers for some names.

They are asked for at a name server on loopback, as the C library would: twice, five seconds each, in the thread that
asks. All other names are looked up as ever.
"""

import runpy
import socket
import sys
from typing import Any

DOMAIN = "silent.test"
TRIES, TRY_SECONDS = 2, 5.0  # of the C library (resolv.conf(5))

_real = socket.getaddrinfo


def ask(port: int) -> None:
    """Ask the name server and wait for its answer. Raises socket.gaierror."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(TRY_SECONDS)
        for _ in range(TRIES):
            sock.send(b"who is that?")
            try:
                sock.recv(512)
            except TimeoutError:
                continue
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def main() -> None:
    """Run the server's command line with the rest of the arguments."""
    port = int(sys.argv.pop(1))

    def getaddrinfo(host: Any, *given: Any, **more: Any) -> Any:
        if str(host).endswith(DOMAIN):
            ask(port)
        return _real(host, *given, **more)

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    runpy.run_module("logplex", run_name="__main__")


if __name__ == "__main__":
    main()
