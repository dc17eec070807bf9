"""Trying a drain out: each step with its time and its error, so that an owner sees what a delivery would meet.

* The steps are those of a delivery, by the same code: resolve, policy, connect, TLS, send. The first one that fails
  is the last.
* What is sent is one line, marked as a test; it has no position and appears on no ledger.
* A test tells what happened in our own words and never what the receiver sent: it is no port scanner and no proxy.
  At most ten a minute for an app.
"""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from logplex.errors import ClientError

from . import otlp
from .answer import Answer
from .dial import Dialler, described, translate
from .limits import Limits
from .link import Link
from .rendering import own_line, renderer
from .request import Request, compress, enclose, fixed_head
from .spec import DrainSpec, Format
from .status import Failure
from .url import Kind

TEST_PRI = 174  # local5.info, as the original's own lines
_LOOK_SECONDS = 0.02
_MAX_APPS = 10_000


class TooManyTests(ClientError):
    """This app's drains were tested too often; `retry_after` seconds."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many tests of drains, try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(slots=True)
class Step:
    """One step of a test."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    detail: str = ""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "ok": self.ok,
            "ms": round(self.seconds * 1000, 1),
            "detail": self.detail or None,
            "error": self.error or None,
        }


@dataclass(slots=True)
class TestReport:
    """What a test saw; `ok` when the receiver took the line."""

    __test__ = False  # for pytest, which collects what is called Test…

    url: str
    steps: list[Step] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, "url": self.url, "steps": [step.to_dict() for step in self.steps]}


class Probe:
    """Tests drains, within the limits."""

    def __init__(self, dialler: Dialler, limits: Limits, version: str, now_ms: Callable[[], int]) -> None:
        self._dialler = dialler
        self._limits = limits
        self._version = version
        self._now_ms = now_ms
        self._times: dict[int, deque[float]] = {}

    async def test(self, spec: DrainSpec, app: int, app_name: str) -> TestReport:
        """Send one line and report. Raises TooManyTests."""
        self._count(app)
        report = TestReport(spec.url.shown)
        with suppress(Failure):  # it is in the report
            await self._steps(spec, app, app_name, report)
        return report

    async def _steps(self, spec: DrainSpec, app: int, app_name: str, report: TestReport) -> None:
        url, dialler = spec.url, self._dialler
        async with _step(report, "resolve") as step:
            addresses = await dialler.addresses(url, app)
            step.detail = ", ".join(addresses)
        async with _step(report, "policy") as step:
            addresses = dialler.allowed(addresses, url)
            step.detail = ", ".join(addresses)
        deadline = trio.current_time() + self._limits.connect_seconds
        async with _step(report, "connect") as step:
            sock = await dialler.connect(addresses, url, deadline)
            link = None if url.tls else dialler.link(sock)
        if link is None:
            async with _step(report, "tls") as step:
                link = await dialler.secure(sock, url, spec.options.tls, deadline)
                step.detail = described(link)
        try:
            async with _step(report, "send") as step:
                step.detail = await self._send(spec, app_name, link)
        finally:
            link.close()

    async def _send(self, spec: DrainSpec, app_name: str, link: Link) -> str:
        now = self._now_ms()
        text = f"Test of drain {spec.id}: this line was sent to try the drain out."
        frame = renderer(spec, app_name)(own_line(TEST_PRI, now, text.encode()), now, None)
        with trio.move_on_after(self._limits.request_seconds / 3):
            if spec.url.kind is Kind.HTTP:
                return await self._post(spec, app_name, link, frame)
            await _send_all(link, frame)
            if spec.url.kind is Kind.UDP:
                return "sent; nobody acknowledges a datagram"
            while link.unacknowledged():  # noqa: ASYNC110 - the kernel tells nobody, one has to look
                await trio.sleep(_LOOK_SECONDS)
            await trio.sleep(_LOOK_SECONDS)
            if link.recv() == b"":
                raise Failure("closed", "the receiver closed the connection")
            return "acknowledged"
        raise Failure("timeout", "no answer in time")

    async def _post(self, spec: DrainSpec, app_name: str, link: Link, frame: bytes) -> str:
        request = Request(0, 1, 1, 0, 0, 0, [frame], len(frame), None)
        if spec.options.format is Format.OTLP:
            enclose(request, otlp.envelope(app_name, self._version))
        if spec.options.compress:
            await compress(request)
        first = fixed_head(spec, self._version) + (
            b"Logplex-Msg-Count: 1\r\nLogplex-Frame-Id: %b\r\nContent-Length: %d\r\n\r\n"
            % (secrets.token_hex(16).upper().encode(), request.size)
        )
        await _send_all(link, first + b"".join(request.body))
        answer = Answer(self._limits.answer_bytes)
        event = trio.Event()
        link.on_readable = lambda: event.set()  # noqa: PLW0108 - the event of that moment
        try:
            while not answer.known:
                data = link.recv()
                if data is None:
                    event = trio.Event()
                    link.watch()
                    await event.wait()
                    link.pause()
                elif not data:
                    raise Failure("closed", "the receiver closed the connection without an answer")
                elif not answer.feed(data):
                    raise Failure("protocol", "what came back is no HTTP answer")
        finally:
            answer.close()
        if not 200 <= answer.status < 300:
            raise Failure("http", f"answered {answer.status}", status=answer.status)
        return f"answered {answer.status}"

    def _count(self, app: int) -> None:
        now = trio.current_time()
        times = self._times.setdefault(app, deque())
        while times and now - times[0] >= 60.0:
            times.popleft()
        if len(times) >= self._limits.tests_per_minute:
            raise TooManyTests(max(1, round(60.0 - (now - times[0]))))
        times.append(now)
        if len(self._times) > _MAX_APPS:
            self._times = {app: times for app, times in self._times.items() if now - times[-1] < 60.0}


@asynccontextmanager
async def _step(report: TestReport, name: str) -> AsyncIterator[Step]:
    step = Step(name)
    report.steps.append(step)
    start = trio.current_time()
    try:
        yield step
        step.ok = True
    except OSError as exc:
        failure = translate(exc)
        step.error = failure.text
        raise failure from exc
    except Failure as exc:
        step.error = exc.text
        raise
    finally:
        step.seconds = trio.current_time() - start


async def _send_all(link: Link, data: bytes) -> None:
    view = memoryview(data)
    while True:
        view = view[link.send(view) :]
        if not view:
            return
        await link.wait_writable()
