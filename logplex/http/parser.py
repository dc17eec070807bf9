"""Requests of HTTP/1.1 and 1.0 from bytes, without I/O: llhttp (httptools) and the rules that it leaves to us.

Rules of ours (RFC 9112 unless said otherwise):

* Never past the end of a message: llhttp is fed piecewise, up to each empty line (a head, and a chunked body, end
  with one) or to the end of a counted body, so a client that pipelines makes us hold bytes, never parsed requests.
* The bytes of a header section are counted as they are fed, also those of trailers and chunk extensions: 431 above
  `max_header_bytes`, as RFC 6585 section 5.
* Exactly one Host in 1.1, at most one in 1.0, and one that can be part of a URL (section 3.2): 400.
* Fields that mean one thing may come once; of others the values are joined by a comma (RFC 9110 section 5.3).
* `_` twins (`Content_Length`) of fields that we know are refused: behind a gateway that maps `-` to `_` they would
  be the real ones. Two lengths, a length beside chunked, bare LF or CR and folded lines are refused by llhttp.
* `Upgrade` is ignored and the body still read (RFC 9110 section 7.8), although llhttp would end the message there.
* A connection persists only in 1.1 without `Connection: close`; a 1.0 client gets its answer and the end.
* A request that is all there, and has a head like the one before, is understood without llhttp (template.py).
* Trailers are read and dropped. CONNECT has no place here: 405.
"""

import re
from typing import Final

import httptools

from .head import Head
from .refusal import Refusal
from .template import Template, template

SMALL_PIECE_BYTES = 4096  # pieces of a chunked body below it are put together: an object each takes 20 times as much
MAX_FIELDS = 100  # Apache's LimitRequestFields

# Fields that we, Starlette or a gateway in front act on, and that may come only once.
_SINGLE: Final = frozenset(
    b"authorization content-length content-type expect host last-event-id logplex-drain-token logplex-drop-count "
    b"logplex-frame-id logplex-lost-count logplex-msg-count origin range sec-fetch-site x-request-id".split()
)
_KNOWN: Final = _SINGLE | frozenset(
    b"accept accept-encoding connection content-encoding cookie forwarded keep-alive proxy-authorization te trailer "
    b"transfer-encoding upgrade user-agent via x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip".split()
)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")  # RFC 3986 section 3.2.2
_ABSOLUTE = re.compile(rb"[hH][tT][tT][pP][sS]?://([^/?]*)(.*)", re.DOTALL)
_END = b"\r\n\r\n"
_FEW = 64  # CRs that are looked at one by one

# Names as sent -> in lower case; so that a name costs one look-up. Bounded: clients invent names.
_names: dict[bytes, bytes] = {}
_MAX_NAMES = 1000
# Hosts that were found good, for the same reason.
_hosts: set[bytes | None] = set()
_MAX_HOSTS = 1000


class RequestParser:
    """One request at a time: `feed` until `complete`, then `reset`.

    `head` is there when the head was read, `body` holds the pieces of the body so far, `body_bytes` counts them.
    After a Refusal the parser is of no more use.
    """

    __slots__ = (
        "_error",
        "_fed",
        "_fields",
        "_headers",
        "_llhttp",
        "_max_header_bytes",
        "_tail",
        "_target",
        "_template",
        "body",
        "body_bytes",
        "complete",
        "head",
    )

    def __init__(self, max_header_bytes: int) -> None:
        self._max_header_bytes = max_header_bytes
        self._llhttp = httptools.HttpRequestParser(self)
        self._template: Template | None = None
        self.reset()

    def reset(self) -> None:
        """Be ready for the next request of the connection."""
        self.head: Head | None = None
        self.body: list[bytes | bytearray] = []
        self.body_bytes = 0
        self.complete = False
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._fields = 0
        self._error: Refusal | None = None
        self._fed = 0  # bytes since the start of the head, or since the last byte of a body
        self._tail = b""  # the last bytes fed, in which an empty line may have begun

    @property
    def started(self) -> bool:
        """Whether a byte of the request was seen."""
        return self._fed > 0 or self.head is not None

    def feed(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Parse `data[start:end]` up to the end of the request at most; returns where it stopped.

        Raises Refusal: 400, 405, 431, 501, 505.
        """
        view = memoryview(data)
        if self._fed == 0 and self.head is None:  # the usual case: a whole head at once, and no byte counted twice
            stop = data.find(_END, start, min(end, start + self._max_header_bytes)) + 4
            if stop > 3:
                whole = bytes(view[start:stop])
                if self._template is not None and (after := self._repeat(whole, view, stop, end)):
                    return after
                self._parse(view[start:stop])
                if self.head is not None:
                    self._template = template(whole, self.head)
                start = stop
        while start < end and not self.complete:
            if self.head is not None and self.head.length is not None:
                stop = min(end, start + self.head.length - self.body_bytes)
                self._parse(view[start:stop])
            else:
                stop = self._feed_counted(data, view, start, end)
            start = stop
        return start

    def _repeat(self, whole: bytes, view: memoryview, start: int, end: int) -> int:
        """Read a request that is all there, if its head is like the one before: where it ends, or 0."""
        head = self._template.read(whole) if self._template is not None else None
        if head is None or head.length is None or head.length > end - start:
            return 0
        stop = start + head.length
        self.head = head
        self.body_bytes = head.length
        if head.length:
            self.body.append(bytes(view[start:stop]))
        self.complete = True
        return stop

    def _feed_counted(self, data: bytes | bytearray, view: memoryview, start: int, end: int) -> int:
        """Feed a part of a head or of a chunked body, up to an empty line, and count it."""
        stop = self._next_empty_line(data, start, end)
        had_head, body_bytes = self.head is not None, self.body_bytes
        if not had_head:  # a byte over the limit tells as much as all
            stop = min(stop, start + self._max_header_bytes + 1 - self._fed)
        self._tail = (self._tail + bytes(view[max(start, stop - 3) : stop]))[-3:]
        self._fed += stop - start
        self._parse(view[start:stop])
        if self.body_bytes > body_bytes:
            self._fed = 0
        if self._fed > self._max_header_bytes:
            raise Refusal(431, "header_too_large", "Request header too large")
        if self.head is not None and not had_head:
            self._fed = 0
        return stop

    def _next_empty_line(self, data: bytes | bytearray, start: int, end: int) -> int:
        if self._tail:
            seam = self._tail + data[start : min(end, start + 3)]
            found = seam.find(_END)
            if found >= 0:
                return start + found + 4 - len(self._tail)
        # Lines of logs have no CR: looking for one byte is several times quicker than looking for four.
        for _ in range(_FEW):
            start = data.find(b"\r", start, end)
            if start < 0:
                return end
            if data.startswith(_END, start, end):
                return start + 4
            start += 1
        found = data.find(_END, start, end)
        return end if found < 0 else found + 4

    def _parse(self, piece: memoryview) -> None:
        try:
            self._llhttp.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._pass_over_upgrade()
        except httptools.HttpParserInvalidMethodError as exc:
            raise Refusal(501, "http_method", "Unknown method") from exc
        except httptools.HttpParserError as exc:
            if self._error is not None:
                raise self._error from exc
            raise Refusal(400, "http_malformed", f"Bad request: {exc}") from exc
        if self._error is not None:
            raise self._error

    def _pass_over_upgrade(self) -> None:
        # llhttp has ended the message at its head, and pieces end there too. A new parser takes the body.
        head = self.head
        if self._error is not None or head is None:
            return
        self.complete = False
        self._llhttp = httptools.HttpRequestParser(self)
        framing = b"Transfer-Encoding: chunked" if head.chunked else b"Content-Length: %d" % (head.length or 0)
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\n" + framing + _END)  # the callbacks pass over a second head

    # What llhttp calls. An exception in here would lose its place, so errors are kept in `_error`.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is not None:
            return  # a trailer
        lower = _names.get(name) or self._learn(name)
        self._fields += 1
        if value and value[-1] in b" \t":
            value = value.rstrip(b" \t")
        headers = self._headers
        if lower in headers:
            if lower in _SINGLE:
                self._error = Refusal(400, "http_malformed", f"{lower.decode('latin-1')} more than once")
            elif self._fields <= MAX_FIELDS:
                value = headers[lower] + b", " + value
        headers[lower] = value

    def _learn(self, name: bytes) -> bytes:
        lower = name.lower()
        if b"_" in lower and lower.replace(b"_", b"-") in _KNOWN:
            self._error = Refusal(400, "http_malformed", f"{lower.decode('latin-1')} is not a header's name")
        elif len(_names) < _MAX_NAMES and len(name) <= 64:
            _names[name] = lower
        return lower

    def on_headers_complete(self) -> None:
        if self.head is not None:
            return  # the second head of `_pass_over_upgrade`
        version = self._llhttp.get_http_version()
        method = self._llhttp.get_method()
        headers = self._headers
        host = headers.get(b"host")
        path, mark, query = self._target.partition(b"?")
        if path[:1] != b"/":
            path, query, host = self._absolute(method, path + mark + query, host)
        if self._fields > MAX_FIELDS:
            self._error = Refusal(431, "header_too_large", "Too many header fields")
        elif version not in ("1.1", "1.0"):
            self._error = Refusal(505, "http_version", "HTTP/1.1 is spoken here")
        elif method == b"CONNECT":
            self._error = Refusal(405, "http_method", "No tunnels here")
        elif host not in _hosts and not self._is_host(host, version):
            self._error = Refusal(400, "http_malformed", "Exactly one valid Host is needed")
        elif not path or b"#" in self._target:
            self._error = Refusal(400, "http_malformed", "Bad request target")
        elif b"transfer-encoding" in headers and version == "1.0":
            self._error = Refusal(400, "http_malformed", "HTTP/1.0 has no transfer encodings")
        elif b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            self._error = Refusal(501, "http_transfer_encoding", "The only transfer encoding is chunked")
        elif b"expect" in headers and headers[b"expect"].lower() != b"100-continue":
            self._error = Refusal(417, "http_expect", "Only 100-continue can be expected")
        self.head = Head(method, path, query, headers, version == "1.0")

    def _is_host(self, host: bytes | None, version: str) -> bool:
        if host is None:
            return version == "1.0"
        if _HOST.fullmatch(host) is None:
            return False
        if len(_hosts) < _MAX_HOSTS and len(host) <= 64:
            _hosts.add(host)
        return True

    def _absolute(self, method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes, bytes | None]:
        if target == b"*" and method == b"OPTIONS":
            return target, b"", host
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            return b"", b"", host
        # The target's authority wins over Host (section 3.2.2), which has to be there all the same.
        if host is not None:
            host = self._headers[b"host"] = match[1]
        path, _, query = match[2].partition(b"?")
        return path or b"/", query, host

    def on_body(self, piece: bytes) -> None:
        body = self.body
        if len(piece) >= SMALL_PIECE_BYTES or not body:
            body.append(piece)
        elif isinstance(body[-1], bytearray):
            body[-1] += piece
        else:
            body.append(bytearray(piece))
        self.body_bytes += len(piece)

    def on_message_complete(self) -> None:
        self.complete = True
