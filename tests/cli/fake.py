"""A small HTTP server on loopback that answers as it is told and remembers what it was asked."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """`body`: bytes, anything JSON, or a function that writes to the handler itself after the headers."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012 - read only


Handler = BaseHTTPRequestHandler


class FakeServer:
    """`answers` maps `METHOD PATH` to an Answer, or to a list of which each is given once and the last for ever.

    An Answer of None closes the connection without a word.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer | None] | None] = {}
        self.asked: list[Asked] = []
        self.arrived = threading.Condition()
        fake = self

        class Handling(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                fake._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any  # noqa: N815 - http.server looks for these

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handling)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handle(self, handler: Handler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self.arrived:
            self.asked.append(Asked(handler.command, handler.path, dict(handler.headers.items()), body))
            self.arrived.notify_all()
            path = handler.path.partition("?")[0]
            answer = self.answers.get(f"{handler.command} {path}", Answer(404, {"error": "not faked"}))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if callable(answer.body):
            handler.send_header("Connection", "close")
            handler.end_headers()
            answer.body(handler)
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        content = b"" if answer.body is None else content
        if answer.status != 204:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def wait_for(self, condition: Callable[[list[Asked]], bool], seconds: float = 20.0) -> None:
        """Until what was asked fulfils `condition`; fails after `seconds`."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: condition(self.asked), seconds), self.asked


def stream(*chunks: bytes) -> Callable[[Handler], None]:
    """A body that is written chunk by chunk, and ends by closing the connection."""

    def write(handler: Handler) -> None:
        for chunk in chunks:
            handler.wfile.write(chunk)
            handler.wfile.flush()

    return write
