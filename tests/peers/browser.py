"""Headless Chromium, driven through chromedriver by the WebDriver protocol (W3C WebDriver, HTTP and JSON).

* Chromium gets an empty profile and talks to nobody but the server under test.
* Waiting is asking again: `until` polls a script, bounded in time, and says what it saw last.
"""

import base64
import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..ports import free_port
from .programs import accepts, running

WAIT_SECONDS = 20.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
KEYS = {"Enter": "\ue007", "Tab": "\ue004", "Escape": "\ue00c", "End": "\ue010"}

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's reference, WebDriver section 12.1


class Browser:
    """One window."""

    def __init__(self, port: int, profile: Path, *flags: str) -> None:
        self._port = port
        options = {"args": [*FLAGS, *flags, f"--user-data-dir={profile}"], "binary": _program("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def close(self) -> None:
        self._call("DELETE", self._session)

    def open(self, url: str) -> None:
        self._call("POST", self._session + "/url", {"url": url})

    def script(self, text: str, *arguments: Any) -> Any:
        """What `text`, the body of an asynchronous function, returns."""
        body = f"return (async function () {{ {text} }}).apply(null, arguments)"
        return self._call("POST", self._session + "/execute/sync", {"script": body, "args": list(arguments)})

    def until(self, text: str, *arguments: Any, seconds: float = WAIT_SECONDS) -> Any:
        """What `text` returns as soon as that is true (in JavaScript's sense, but `[]` is false)."""
        deadline = time.monotonic() + seconds
        while not (found := self.script(text, *arguments)):
            if time.monotonic() > deadline:
                shown = self.script("return document.body.innerText")
                pytest.fail(f"never true in {seconds} s: {text}\n{found!r}\n{shown[-2000:]}\n{self.complaints()}")
            time.sleep(0.02)
        return found

    def text(self, selector: str) -> str:
        return str(self.script("return document.querySelector(arguments[0]).innerText", selector))

    def click(self, selector: str) -> None:
        """As a person does: the element has to be there, visible and not covered."""
        self._call("POST", f"{self._session}/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"{self._session}/element/{self._find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        typed = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": key} for key in typed for kind in ("keyDown", "keyUp")]
        self._call(
            "POST", self._session + "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        )

    def cookies(self) -> list[dict[str, Any]]:
        """All cookies, whatever their path."""
        found: list[dict[str, Any]] = self.devtools("Network.getAllCookies")["cookies"]
        return found

    def devtools(self, method: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol."""
        command = {"cmd": method, "params": parameters}
        return self._call("POST", self._session + "/goog/cdp/execute", command)

    def resize(self, width: int, height: int) -> None:
        """The viewport, which may be narrower than any window."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scheme(self, name: str) -> None:
        """What the reader prefers: dark or light."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def screenshot(self) -> bytes:
        """A PNG of the viewport."""
        return base64.b64decode(self._call("GET", self._session + "/screenshot"))

    def complaints(self) -> list[str]:
        """Warnings and errors of the console since the last call: refused by the policy, thrown and not caught, …"""
        entries = self._call("POST", self._session + "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in {"WARNING", "SEVERE"}]

    def _find(self, selector: str) -> str:
        found = self._call("POST", self._session + "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
            assert answer.status == 200, (method, path, value)
            return value
        finally:
            connection.close()


@contextmanager
def browser(work: Path, *flags: str) -> Iterator[Browser]:
    """A browser with an empty profile in the folder `work`; skips where there is none, in CI fails."""
    if not (_program("chromium") and _program("chromedriver")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium and chromium-driver are not installed")
    port = free_port()
    command = [_program("chromedriver"), f"--port={port}", "--allowed-ips=127.0.0.1"]
    with running(command, log=work / "chromedriver.log", ready=lambda: accepts(port)):
        window = Browser(port, work / "profile", *flags)
        try:
            yield window
        finally:
            window.close()


def _program(name: str) -> str:
    return shutil.which(name) or ""
