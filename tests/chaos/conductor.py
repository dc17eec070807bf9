"""One run of chaos: starts everything, follows the plan, brings it to rest, and returns the journal."""

import contextlib
import http.client
import json
import queue
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Server
from ..ports import free_port
from . import lines
from .disk import Disk
from .journal import History, Journal, Run
from .plan import Step, conditions, plan
from .readers import Tail
from .receivers import HttpReceiver, SyslogReceiver
from .shippers import Gate, HttpShipper, TcpShipper

CHANNELS = ("shop", "blog", "flood")
REST_SECONDS = 45.0  # for everything to be delivered once all is well
_LOOK_SECONDS = 0.5  # between two looks at the ledger
_OPTIONS = {
    "--drain-allow": "127.0.0.0/8",
    "--drain-backoff-seconds": "0.1",
    "--drain-max-backoff-seconds": "0.4",
    "--drain-request-seconds": "3",
    "--drain-connect-seconds": "2",
    "--drain-grace-seconds": "0.5",
    "--commit-timeout-seconds": "0.5",
    "--heartbeat-seconds": "1",
    "--channel-bytes": "400KiB",
    "--ring-lines": "1500",
    "--ring-bytes": "96KiB",
}


class Conductor:
    """Everything of one run, in one place."""

    def __init__(
        self, directory: Path, seed: int, seconds: float, say: Callable[[str], None], without: str = ""
    ) -> None:
        self.journal = Journal()
        self._seed = seed
        self._seconds = seconds
        self._say = say
        self._without = without
        self._chance = random.Random(f"conductor {seed}")
        self._conditions = conditions(seed)
        self.journal.promises = self._conditions.durability != "none"
        self._address = ("127.0.0.1", free_port())
        self._syslog_address = ("127.0.0.1", free_port())
        options = [part for option in _OPTIONS.items() for part in option]
        options += ["--http", f"127.0.0.1:{self._address[1]}", "--syslog", f"127.0.0.1:{self._syslog_address[1]}"]
        options += ["--durability", self._conditions.durability, "--when-degraded", self._conditions.when_degraded]
        self.server = Server(directory, *options)
        self._disk = Disk(directory)
        self._events = 0  # of the server's log, before its current run
        self._begun = 0.0
        self._receivers: dict[str, HttpReceiver | SyslogReceiver] = {}
        self._tails: list[Tail] = []
        self._shipping: list[threading.Thread] = []
        self._gate = Gate(threading.Event(), threading.Event(), threading.Event())

    def run(self) -> Journal:
        """The whole of it; the server is down afterwards."""
        with self.server:
            self._start()
            self._prepare()
            self._say(f"{self._conditions}")
            self._begun = time.monotonic()
            http = [name for name, receiver in self._receivers.items() if isinstance(receiver, HttpReceiver)]
            syslog = [name for name in self._receivers if name not in http]
            self._follow(plan(self._seed, self._seconds, http, syslog))
            self._rest()
            self._stop()
            self._start()
            self.journal.reopened = {channel: self._page(channel) for channel in CHANNELS}
            self._look_at_histories()
            self._stop()
        return self.journal

    # Before.

    def _prepare(self) -> None:
        journal, server, seed = self.journal, self.server, self._seed
        tokens = {channel: server.create(channel)["app"] for channel in CHANNELS}
        for number, channel in enumerate(CHANNELS):
            picky = channel == "blog"
            self._drain(HttpReceiver(f"{channel}.http", journal, seed=seed + number, picky=picky), channel)
        for channel in ("shop", "flood"):
            self._drain(SyslogReceiver(f"{channel}.tcp", journal), channel)
        for channel in CHANNELS:
            self._tails.append(Tail(f"tail of {channel}", channel, self._address, server.authorization, journal))
        slow = Tail("slow tail of flood", "flood", self._address, server.authorization, journal)
        slow.slow = 0.004
        self._tails.append(slow)
        self._note_places()
        for tail in self._tails:
            tail.create()
            threading.Thread(target=tail.run, daemon=True).start()

        def http_shipper(name: str, *channels: str, rate: float, most: int, **options: Any) -> HttpShipper:
            own = {channel: tokens[channel] for channel in channels}
            return HttpShipper(
                name, self._address, own, journal, seed=seed, lines_per_second=rate, most=most, **options
            )

        shippers: list[HttpShipper | TcpShipper] = [
            http_shipper("h1", "shop", rate=120, most=40),
            http_shipper("h2", "shop", rate=40, most=3, chunked=True),
            http_shipper("poison", "blog", rate=60, most=20),
            http_shipper("m", "shop", "blog", rate=30, most=8, authorization=server.authorization),
            http_shipper("f1", "flood", rate=900, most=400),
            TcpShipper("t1", self._syslog_address, "shop", tokens["shop"], journal, seed=seed, lines_per_second=100),
            TcpShipper("t2", self._syslog_address, "flood", tokens["flood"], journal, seed=seed, lines_per_second=300),
        ]
        self._gate.running.set()
        for shipper in shippers:
            self._shipping.append(threading.Thread(target=shipper.run, args=(self._gate,), daemon=True))
            self._shipping[-1].start()

    def _drain(self, receiver: HttpReceiver | SyslogReceiver, channel: str) -> None:
        receiver.become("ok")
        made = self.server.json("POST", f"/v3/channels/{channel}/drains", {"url": receiver.url})
        self.journal.drains[receiver.name] = channel
        self.journal.drain_ids[receiver.name] = made["id"]
        self._receivers[receiver.name] = receiver

    # The plan.

    def _follow(self, steps: list[Step]) -> None:
        """Do each step at its time, and end it at its own; look at the ledger in between."""
        agenda: queue.PriorityQueue[tuple[float, int, Step]] = queue.PriorityQueue()
        for number, step in enumerate(steps):
            agenda.put((step.at, number, step))
        number = len(steps)
        end = self._begun + self._seconds
        while (now := time.monotonic()) < end or not agenda.empty():
            if agenda.empty() or self._begun + agenda.queue[0][0] > now:
                self._look_at_ledger()
                until = end if agenda.empty() else self._begun + agenda.queue[0][0]
                time.sleep(max(0.0, min(until - time.monotonic(), _LOOK_SECONDS)))
                continue
            _, _, step = agenda.get()
            self._do(step)
            if step.seconds:
                number += 1
                agenda.put((step.at + step.seconds, number, Step(0.0, "end " + step.what, step.whom)))

    def _do(self, step: Step) -> None:
        if self._without and step.what.removeprefix("end ").startswith(self._without):
            return
        now = time.monotonic()
        self._say(f"{now - self._begun:6.2f} ({now:.2f})  {step.what} {step.whom} {step.seconds or '':.4}")
        match step.what:
            case "kill":
                self._kill()
                self._start()
            case "kill twice":
                self._kill()
                if self.journal.promises:  # else each start has an epoch, and nobody could ask that one for its own
                    self._die_at_start()
                self._start()
            case "stop":
                self._stop()
                self._start()
            case "disk fails" | "disk is dead":
                self._disk.fail(self.server.pid, dead=step.what == "disk is dead")
            case "disk hangs":
                self._disk.hang()
            case "end disk fails" | "end disk is dead" | "end disk hangs":
                self._disk.heal()
            case "quiet":
                self._gate.running.clear()
            case "end quiet":
                self._gate.running.set()
            case "move":
                self._move_a_drain()
            case mode if step.whom:
                self._receivers[step.whom].become("ok" if mode.startswith("end ") else mode)

    def _start(self) -> None:
        self._disk.heal()  # a new process has no limit, and must be able to begin
        self._events = len(self.server.events)
        self.journal.runs.append(Run(time.monotonic(), {}))
        self.server.start()
        self.journal.most("slowest start, ms", round((time.monotonic() - self.journal.runs[-1].started) * 1000))
        if self.journal.drains:
            self._note_places()
            self._look_at_histories()

    def _note_places(self) -> None:
        for channel in CHANNELS:
            page = self._page(channel)
            self.journal.runs[-1].places[channel] = (page["epoch"], page["head"])

    def _kill(self) -> None:
        self.server.kill()
        self._note_end(killed=True)

    def _die_at_start(self) -> None:
        """Start it, and kill it at a random moment, before it is ready or soon after."""
        self._events = len(self.server.events)
        self.journal.runs.append(Run(time.monotonic(), {}))
        timer = threading.Timer(self._chance.uniform(0.1, 0.8), lambda: self.server.process.kill())
        timer.start()
        with contextlib.suppress(pytest.fail.Exception):
            self.server.start()
        timer.join()
        self._kill()

    def _move_a_drain(self) -> None:
        """Give a drain another URL of the same receiver: it goes on where it was."""
        name, receiver = self._chance.choice(list(self._receivers.items()))
        path = f"/v3/channels/{self.journal.drains[name]}/drains/{self.journal.drain_ids[name]}"
        if isinstance(receiver, HttpReceiver):
            self.server.json("PUT", path, {"url": f"{receiver.url}?{self._chance.random()}"})
            self.journal.moves.append((name, time.monotonic()))

    def _stop(self) -> None:
        begun = time.monotonic()
        self.server.stop(signal.SIGTERM)
        self.journal.most("slowest stop, ms", round((time.monotonic() - begun) * 1000))
        self._note_end(killed=False)

    def _note_end(self, *, killed: bool) -> None:
        run = self.journal.runs[-1]
        run.ended = time.monotonic()
        run.killed = killed
        events = [event.get("event") for event in self.server.events[self._events :]]
        states = [event for event in events if event in ("degraded", "healed")]
        lacks = not self.journal.promises or states[-1:] == ["degraded"]
        run.in_memory = "stopped_with_lines_in_memory" in events or (killed and lacks)
        self.journal.count("kills" if killed else "stops")
        self.journal.count("crashes with lines in memory", killed and run.in_memory)
        for event in self.server.events[self._events :]:
            if event.get("event") in ("drain_crashed", "spool_damaged", "http_crashed") or "exception" in event:
                self.journal.trouble(f"the server logged {event}")

    # Looks.

    def _page(self, channel: str) -> dict[str, Any]:
        page: dict[str, Any] = self.server.json("GET", f"/v3/channels/{channel}/ledger")
        return page

    def _look_at_ledger(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            channel = self._chance.choice(CHANNELS)
            self.journal.pages.append((channel, self._page(channel)))
            self.journal.nodes.append(self.server.json("GET", "/v3/status")["ledger"])

    def _look_at_histories(self) -> None:
        """What is still there, as soon after a start as can be."""
        for channel in CHANNELS:
            before = self._page(channel)
            at = time.monotonic()
            status, body = self.server.request("GET", f"/v3/channels/{channel}/logs?num={self.journal.history_lines}")
            if status != 200:
                self.journal.trouble(f"the history of {channel} is answered {status}: {body!r}")
                continue
            shown = [lines.from_http(message) for message in lines.frames(body)]
            self.journal.histories.append(History(channel, at, before, self._page(channel), shown))

    # After.

    def _rest(self) -> None:
        """All is well: wait until every line is where it belongs."""
        self._say(f"{time.monotonic() - self._begun:6.2f}  rest")
        self._disk.heal()
        for receiver in self._receivers.values():
            receiver.become("ok")
        self._gate.running.set()
        self._gate.stopping.set()
        deadline = time.monotonic() + REST_SECONDS
        for thread in self._shipping:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.journal.trouble("a shipper still tries: a batch is not accepted though all is well")
        self._gate.given_up.set()
        while time.monotonic() < deadline:
            self._look_at_ledger()
            pages = {channel: self._page(channel) for channel in CHANNELS}
            if all(self._is_quiet(channel, page) for channel, page in pages.items()):
                break
            time.sleep(0.2)
        else:
            behind = [tail.name for tail in self._tails if not self._has_all(tail, pages[tail.channel])]
            self.journal.trouble(f"not everything was at rest in {REST_SECONDS:g} s; tails behind: {behind}")
        self.journal.final = pages
        self._say(json.dumps(pages))
        for tail in self._tails:
            tail.stop()
        self._look_at_histories()

    def _is_quiet(self, channel: str, page: dict[str, Any]) -> bool:
        tails = [tail for tail in self._tails if tail.channel == channel]
        drained = all(drain["pending"] == 0 for drain in page["drains"])
        return page["writing"] == 0 and drained and all(self._has_all(tail, page) for tail in tails)

    def _has_all(self, tail: Tail, page: dict[str, Any]) -> bool:
        tail.slow = 0.0  # from here on
        return tail.last is not None and tail.last == (page["epoch"], page["head"] - 1)
