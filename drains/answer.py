"""What a receiver answers, without I/O: feed bytes, ask what is known.

Rules:

* A whole answer that is the one before, byte for byte, is understood without llhttp.
* The status is known once the header section is complete; what comes before (1xx) is passed over.
* The body of an answer is kept only where it says something about a delivery (`keeps`, OTLP).
* At most `max_bytes` of an answer are read; more, an upgrade, or bytes behind the answer make the connection useless
  for another request, but do not change a status that is known.
"""

from typing import Any

import httptools


class Answer:
    """The answers of one connection, one after the other; `next` before each request."""

    __slots__ = (
        "_bytes",
        "_keeps",
        "_max_bytes",
        "_parser",
        "_usual",
        "body",
        "complete",
        "known",
        "retry_after",
        "reusable",
        "speaking",
        "status",
    )

    def __init__(self, max_bytes: int, *, keeps: bool = False) -> None:
        self._max_bytes = max_bytes
        self._keeps = keeps
        self._parser: Any = httptools.HttpResponseParser(self)
        self._usual: tuple[bytes | None, int] = None, 0
        self.next()

    def next(self) -> None:
        """Forget the answer before."""
        self._bytes = 0
        self.body = b""
        self.status = 0
        self.known = False
        self.complete = False
        self.reusable = True
        self.speaking = self._keeps  # the rest of the body is still worth reading
        self.retry_after: bytes | None = None

    def close(self) -> None:
        """Let the parser go, which refers to this object."""
        self._parser = None

    def feed(self, data: bytes) -> bool:
        """More bytes; False when they are no HTTP, or too many before the status was known."""
        first = not self._bytes
        self._bytes += len(data)
        if first and data == self._usual[0]:
            self.status = self._usual[1]
            self.known = self.complete = True
            return True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.reusable = self.speaking = False
            return self.known
        if self._bytes > self._max_bytes and not self.complete:
            self.reusable = self.speaking = False
            return self.known
        if first and self.complete and self.reusable and self.retry_after is None and not self._keeps:
            self._usual = data, self.status
        return True

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False  # bytes that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.known and len(name) == 11 and name.lower() == b"retry-after":
            self.retry_after = value

    def on_headers_complete(self) -> None:
        if self.known:
            return
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self.known = True
            self.reusable = self.reusable and self._parser.should_keep_alive()
        else:
            self.retry_after = None

    def on_body(self, data: bytes) -> None:
        if self.speaking and self.known and not self.complete:
            self.body += data

    def on_message_complete(self) -> None:
        if self.known:
            self.complete = True
