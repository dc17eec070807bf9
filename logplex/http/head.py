"""The head of a request, as it was understood."""


class Head:
    """The head of a request: names of headers are in lower case, `path` and `query` as sent, still escaped."""

    __slots__ = (
        "chunked",
        "expects_continue",
        "headers",
        "http_1_0",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
    )

    def __init__(self, method: bytes, path: bytes, query: bytes, headers: dict[bytes, bytes], http_1_0: bool) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.http_1_0 = http_1_0
        length = headers.get(b"content-length")
        self.length = None if length is None else int(length)
        self.chunked = b"transfer-encoding" in headers
        connection = headers.get(b"connection")
        self.keep_alive = not http_1_0 and (connection is None or b"close" not in _tokens(connection))
        self.expects_continue = b"expect" in headers and not http_1_0


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]
