"""Readers of tails: events with ids, resumed after each break; some of them slow."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from urllib.parse import urlsplit

from .journal import Event, Journal, Stream
from .lines import from_tail

_OVERFLOW = re.compile(rb"Error L11 \(Tail buffer overflow\) -> This tail session dropped ([0-9]+) messages since ")
_SILENCE_SECONDS = 8.0  # heartbeats come more often


class Tail:
    """One session that is followed to the end, whatever happens to its connections."""

    def __init__(
        self, name: str, channel: str, address: tuple[str, int], authorization: str, journal: Journal
    ) -> None:
        self.name = name
        self.channel = channel
        self.slow = 0.0  # seconds of sleep after a line
        self.last: tuple[str, int] | None = None
        self._address = address
        self._authorization = authorization
        self._journal = journal
        self._path = ""
        self._ended = threading.Event()

    def create(self) -> None:
        """Make the session: all lines that are held, then live."""
        connection = http.client.HTTPConnection(*self._address, timeout=10)
        body = json.dumps({"channel_id": self.channel, "num": 1500, "tail": True})
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        connection.request("POST", "/v3/sessions", body, headers)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        self._path = urlsplit(json.loads(answer.read())["url"]).path
        connection.close()

    def stop(self) -> None:
        """No further stream."""
        self._ended.set()

    def run(self) -> None:
        """Read until stopped."""
        while not self._ended.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._read()
            self._ended.wait(0.05)

    def _read(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=_SILENCE_SECONDS)
        headers = {"Accept": "text/event-stream"}
        if self.last is not None:
            headers["Last-Event-ID"] = f"{self.last[0]}.{self.last[1]}"
        try:
            connection.connect()
            if self.slow:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.request("GET", self._path, headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                self._journal.trouble(f"{self.name}: its session is answered {answer.status}")
                self._ended.wait(1.0)
                return
            stream = Stream(self.name, self.channel, self.last)
            self._journal.streams.append(stream)
            self._follow(answer, stream)
        finally:
            connection.close()

    def _follow(self, answer: http.client.HTTPResponse, stream: Stream) -> None:
        place, data = b"", None
        while not self._ended.is_set():
            line = answer.readline()
            if not line.endswith(b"\n"):
                return  # the end, perhaps in the midst of an event
            if line.startswith(b"id: "):
                place = line[4:-1]
            elif line.startswith(b"data: "):
                data = line[6:-1]
            elif line == b"\n":
                self._take(place, data, stream)
                data = None

    def _take(self, place: bytes, data: bytes | None, stream: Stream) -> None:
        epoch, _, position = place.decode().partition(".")
        event = Event(time.monotonic(), epoch, int(position), None)
        if data is not None:
            shown = from_tail(data)
            lost = _OVERFLOW.match(shown.text)
            if lost:
                event.lost = int(lost[1])
                self._journal.count(f"{self.name} lost", event.lost)
            else:
                event.line = shown
        stream.events.append(event)
        self.last = (epoch, event.position)
        if self.slow and data is not None:
            time.sleep(self.slow)
