"""The server that commands talk to: where it is, who we are, and requests over the standard library's HTTP.

* `--data-dir` wins over LOGPLEX_URL, which wins over LOGPLEX_DATA_DIR and `./logplex-data`.
* A running server leaves two files in its data directory that only its owner can read: `http` with its base URL,
  and `admin` with `ID:PASSWORD`. So a command on the same machine needs no set-up.
* The userinfo of a URL becomes the Authorization header and is shown nowhere.
* Whatever goes wrong is a `Failed`: one line that says what to do.
"""

import base64
import functools
import http.client
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import click

from .. import __version__, config

TIMEOUT_SECONDS = 30.0
PAGE = 1000  # rows asked for at once, the most that the server gives
MAX_ANSWER_BYTES = 64 * config.MIB  # a server we do not trust more than our memory


class Failed(click.ClickException):
    """A request that failed: exit code 1."""


class Refused(Failed):
    """The server answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        """None for an empty body."""
        try:
            return json.loads(self.body) if self.body.strip() else None
        except ValueError as exc:
            raise Failed("the answer is not JSON: is this URL a logplex server?") from exc


@dataclass(frozen=True, slots=True)
class Server:
    """A base URL without userinfo, and what authenticates us there."""

    base: str
    authorization: str | None = field(repr=False)
    hint: str = "check LOGPLEX_URL"
    """What to look at when it does not answer, or refuses us."""

    def connect(self, timeout: float = TIMEOUT_SECONDS) -> http.client.HTTPConnection:
        """A connection, not yet opened; the caller closes it."""
        parts = urlsplit(self.base)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(parts.netloc, timeout=timeout)

    def headers(self) -> dict[str, str]:
        found = {"User-Agent": f"logplex-cli/{__version__}"}
        if self.authorization is not None:
            found["Authorization"] = self.authorization
        return found

    def target(self, path: str) -> str:
        """The request target of a path of ours: below the base URL's own path."""
        return urlsplit(self.base).path.rstrip("/") + path

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request, its answer whatever the status; raises Failed when there is none."""
        sent = self.headers() | {"Accept": "application/json"} | dict(headers or {})
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = self.connect()
        try:
            with translated(self):
                connection.request(method, self.target(path), body=data, headers=sent)
                answer = connection.getresponse()
                content = answer.read(MAX_ANSWER_BYTES)
        finally:
            connection.close()
        return Answer(answer.status, content)

    def call(self, method: str, path: str, body: Any = None, *, missing: str = "") -> Any:
        """The JSON of a success, None when it has no body; otherwise raises Refused.

        `missing` is what a 404 means here.
        """
        answer = self.request(method, path, body)
        if 200 <= answer.status < 300:
            return answer.json()
        raise Refused(self.reason(answer, missing), answer.status)

    def pages(self, path: str, name: str, *, by: str) -> list[dict[str, Any]]:
        """All rows of a listing that comes by pages; `by` is the field that a page goes on behind."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            rows = self.call("GET", f"{path}?limit={PAGE}" + (f"&after={part(after)}" if after else ""))[name]
            found += rows
            if len(rows) < PAGE:
                return found
            after = str(rows[-1][by])

    def reason(self, answer: Answer, missing: str = "") -> str:
        """Why a request was refused, and what to do about it."""
        if answer.status == 401:
            return f"the server does not know this credential: {self.hint}"
        said = ""
        try:
            parsed = json.loads(answer.body)
            if isinstance(parsed, dict):
                said = str(parsed.get("error") or parsed.get("message") or "")
        except ValueError:
            said = answer.body[:200].decode("utf-8", "replace").strip()
        said = said or http.client.responses.get(answer.status, "error")
        if missing and (answer.status == 404 or said == "channel not found"):  # the latter is a session's 422
            return missing
        if answer.status == 403:
            return f"this credential may not do that: {said}"
        return f"the server answered {answer.status}: {said}"


@contextmanager
def translated(server: Server) -> Iterator[None]:
    """What the network raises, as Failed that names the server."""
    try:
        yield
    except ConnectionRefusedError as exc:
        raise Failed(f"no server listens at {server.base}: start it with `logplex serve`, or {server.hint}") from exc
    except TimeoutError as exc:
        raise Failed(f"{server.base} did not answer in time: try again, or {server.hint}") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Failed(f"the certificate of {server.base} is not trusted ({exc.verify_message})") from exc
    except (socket.gaierror, UnicodeError) as exc:  # a label of a name that is empty or too long
        raise Failed(f"the host of {server.base} is unknown: {server.hint}") from exc
    except BrokenPipeError as exc:
        raise Failed(f"{server.base} closed the connection: try again") from exc
    except (OSError, http.client.HTTPException) as exc:
        reason = (isinstance(exc, OSError) and exc.strerror) or str(exc) or type(exc).__name__
        raise Failed(f"the request to {server.base} failed ({reason}): {server.hint}") from exc


def parse_url(url: str, name: str, hint: str) -> Server:
    """A server from a URL with userinfo; Failed names the variable or file, and does not show the URL."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Failed(f"{name} must be a URL such as http://id:password@localhost:8001")
    userinfo, at, location = parts.netloc.rpartition("@")
    authorization = basic(*(unquote(part) for part in userinfo.partition(":")[::2])) if at else None
    return Server(f"{parts.scheme}://{location}{parts.path.rstrip('/')}", authorization, hint)


def basic(user: str, password: str) -> str:
    """The Authorization header of HTTP Basic (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def find_server(data_dir: str | None) -> Server:
    """The server of a command; `data_dir` is what its option says, None when it was not given."""
    url = config.client_url()
    if data_dir is None and url is not None:
        return parse_url(url, "LOGPLEX_URL", "check LOGPLEX_URL")
    directory = Path(data_dir or config.data_dir())
    hint = f"check the data directory {directory}"
    try:
        base = (directory / "http").read_text().strip()
        admin = (directory / "admin").read_text().strip()
    except FileNotFoundError as exc:
        raise Failed(
            f"no server has run on {directory}: start one with `logplex serve`, or name its data directory with "
            "--data-dir, or set LOGPLEX_URL=http://id:password@host:8001"
        ) from exc
    except OSError as exc:
        raise Failed(f"cannot read {exc.filename}: {exc.strerror}; run this as the owner of the server") from exc
    server = parse_url(base, str(directory / "http"), hint)
    return Server(server.base, basic(*admin.partition(":")[::2]), hint)


def server_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command its `server`: adds --data-dir, and hands over what `find_server` finds."""

    @functools.wraps(command)
    def with_server(*args: Any, data_dir: str | None, **options: Any) -> Any:
        return command(*args, server=find_server(data_dir), **options)

    return click.option("--data-dir", metavar="DIR", help="Talk to the server that runs on this directory.")(
        with_server
    )


def app_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("-a", "--app", required=True, metavar="APP", help="The app (channel).")(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def part(name: str | int) -> str:
    """A name as one segment of a path; `.` and `..` would be another path, and name nothing anyway."""
    text = str(name)
    if text in ("", ".", ".."):
        raise click.UsageError(f"{text!r} is no name")
    return quote(text, safe="")


def secret(argument: str) -> str:
    """An argument that may be a secret: `-` is a line of standard input, so that `ps` does not show it."""
    if argument != "-":
        return argument
    line = sys.stdin.readline().strip()
    if not line:
        raise click.UsageError("`-` reads a line of standard input, and there is none")
    return line


class ListByDefault(click.Group):
    """A group that without a subcommand means `list`: `logplex drains -a shop`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)
