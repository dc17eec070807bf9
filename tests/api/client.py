"""An ASGI app driven directly, and stand-ins for the services behind it."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp

from logplex.api import Health, Services, ValidDrain, create_api
from logplex.batch import Batch, Form, raw_frame
from logplex.channel import Channel, Channels, NoHistory
from logplex.config import Settings
from logplex.errors import NotFound, TooManyFailures, Unprocessable
from logplex.registry import DrainRecord, Registry
from logplex.store.config import ConfigStore


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    pieces: list[bytes]

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@dataclass
class Client:
    """Calls `app` as one user; headers are given with `_` for `-`."""

    app: ASGIApp
    authorization: str | None = None
    host: str = "logs.example:8001"

    async def __call__(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        """One request; `body` is JSON unless it is bytes, or a list of bytes that arrive one by one."""
        path, _, query = target.partition("?")
        pieces = body if isinstance(body, list) and body and isinstance(body[0], bytes) else None
        if pieces is None:
            pieces = [b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()]
        sent = {"host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.authorization is not None:
            sent.setdefault("authorization", self.authorization)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("192.0.2.1", 5000),
            "server": ("127.0.0.1", 8001),
        }
        events = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        messages: list[Any] = []

        async def receive() -> Any:
            return events.pop(0) if events else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start, *rest = messages
        found = [message.get("body", b"") for message in rest]
        assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False]
        names = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], names, b"".join(found), found)


@dataclass
class FakeDrains:
    """What delivers: says what it was told to say, and remembers what it was asked."""

    known: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    busy: bool = False

    def status(self, drain_id: int) -> Mapping[str, Any] | None:
        return self.known.get(drain_id)

    async def test(self, drain: DrainRecord) -> Mapping[str, Any]:
        if self.busy:
            raise TooManyFailures(30)
        self.asked.append(("test", drain.id))
        return {"ok": True, "steps": []}

    async def replay(self, drain: DrainRecord, start: object) -> Mapping[str, Any]:
        if start == "never":
            raise Unprocessable("from: must be oldest, a position or a time")
        self.asked.append(("replay", drain.id, start))
        return {"from": 0, "to": 3}


class FakePages:
    def node(self) -> Mapping[str, Any]:
        return {"frames": 3}

    async def channel(self, channel_id: int) -> Mapping[str, Any]:
        return {"received": channel_id}


class RingChannels:
    """Real channels without a spool behind them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._channels = Channels(NoHistory(), ring_lines=10_000, ring_bytes=2**22, rings_bytes=2**24)

    async def get(self, channel_id: int) -> Channel:
        record = await self._registry.channel_by_id(channel_id)
        if record is None:
            raise NotFound("No such channel")
        await self._channels.load({channel_id: (record.name, record.flags)})
        channel = self._channels.get(channel_id)
        assert channel is not None
        channel.no_history = "no_history" in record.flags
        return channel


def validate_drain(url: str, options: Mapping[str, Any]) -> ValidDrain:
    if not url.startswith(("http://", "https://", "syslog://")) or "forbidden" in url:
        raise Unprocessable("Invalid drain destination: it is not")
    for name in options:
        if name not in {"linger", "headers"}:
            raise Unprocessable(f"{name}: is no option")
    return ValidDrain(url, options)


def show_options(drain: DrainRecord) -> Mapping[str, Any]:
    shown = dict(drain.options)
    if "headers" in shown:
        shown["headers"] = dict.fromkeys(shown["headers"], "***")
    return shown


@dataclass
class House:
    """A whole API over a real registry, with a client that has all permissions."""

    registry: Registry
    services: Services
    drains: FakeDrains
    channels: RingChannels
    health: list[Health]
    admin: Client

    def client(self, authorization: str | None) -> Client:
        return Client(self.admin.app, authorization)

    async def credential(self, name: str, *permissions: str) -> Client:
        _, password = await self.registry.create_credential(name, permissions)
        return self.client(basic(name, password))

    async def lines(self, app: str, *texts: str, source: str = "app", process: str = "web.1") -> Channel:
        """Write lines into an app that exists."""
        record = await self.registry.channel(app)
        assert record is not None
        channel = await self.channels.get(record.id)
        time = b"2024-05-01T12:00:00+00:00"
        data = b"".join(
            raw_frame(134, time, source.encode(), process.encode(), text.encode("utf-8", "surrogateescape"))
            for text in texts
        )
        batch = Batch(channel.head, len(texts), 1_714_564_800_000, Form.RAW, data)
        channel.append(batch)
        return channel


@asynccontextmanager
async def open_house(directory: Path, settings: Settings | None = None) -> AsyncIterator[House]:
    settings = settings or Settings()
    async with ConfigStore(directory) as store:
        registry = Registry(store, settings)
        await registry.load()
        drains, channels = FakeDrains(), RingChannels(registry)
        health = [Health(routing=True)]
        services = Services(
            registry=registry,
            channels=channels,
            drains=drains,
            ledger=FakePages(),
            settings=settings,
            health=lambda: health[-1],
            validate_drain=validate_drain,
            show_options=show_options,
        )
        _, password = await registry.create_credential("admin", ["full_api", "any_channel"])
        admin = Client(create_api(services), basic("admin", password))
        yield House(registry, services, drains, channels, health, admin)
