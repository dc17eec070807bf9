"""Make the pictures of README: the page, light and on a phone in the dark, and `logplex tail` on a terminal.

    .venv/bin/python examples/screenshots.py

Needs chromium and chromedriver (Debian: chromium, chromium-driver). Starts a server of its own with an app that logs
and two drains, and writes examples/*.png; the lines are made up, the same ones every time, but for their times.
"""

import contextlib
import html
import http.server
import os
import pty
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from logs import ERROR, Line, LogInput  # noqa: E402  # beside this file; the others are found from here on

from tests.conftest import Server, environment  # noqa: E402
from tests.peers.browser import Browser, browser  # noqa: E402

COLOURS = {30: "#555", 31: "#ff8d82", 32: "#8ccb78", 33: "#e0a15a", 34: "#8fb0f2", 35: "#e390cb", 36: "#5fc3d8"}
PATHS = ("/", "/products/42", "/cart", "/search?q=socks", "/login", "/checkout")


def main() -> None:
    """Write the pictures."""
    random.seed(7)
    with tempfile.TemporaryDirectory() as work, Server(Path(work, "data"), "--drain-allow", "127.0.0.0/8") as server:
        server.start()
        inputs = apps(server)
        with drains(server), browser(Path(work)) as window, logging(inputs):
            take(window, server)
            terminal(window, Path(work), server)


def apps(server: Server) -> dict[str, dict[str, LogInput]]:
    """Some apps with the log inputs of their sources."""
    made = {}
    for app in ("admin", "billing", "search", "shop", "shop-staging", "www"):
        tokens = server.create(app, "app", "heroku")
        url = server.url.removeprefix("http://")
        made[app] = {name: LogInput(f"http://token:{token}@{url}/logs") for name, token in tokens.items()}
    return made


@contextlib.contextmanager
def drains(server: Server) -> Iterator[None]:
    """A drain that takes everything, and one whose receiver is overloaded."""

    class Overloaded(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            pass

    listener = socket.create_server(("127.0.0.1", 0))
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Overloaded)
    threading.Thread(target=swallow, args=(listener,), daemon=True).start()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    for url in (f"syslog://127.0.0.1:{listener.getsockname()[1]}", f"http://127.0.0.1:{receiver.server_port}/in"):
        server.json("POST", "/v3/channels/shop/drains", {"url": url})
    yield
    receiver.shutdown()
    listener.close()


def swallow(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        while connection.recv(65536):
            pass


@contextlib.contextmanager
def logging(inputs: dict[str, dict[str, LogInput]]) -> Iterator[None]:
    """The apps log until the end of the block."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(0.15):
            for number, sources in enumerate(inputs.values()):
                if random.random() < 0.15 + 0.15 * number:
                    request(sources)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def request(sources: dict[str, LogInput]) -> None:
    """What one request to an app logs: the router's line and the dyno's."""
    method, path, dyno = random.choice(("GET", "GET", "POST")), random.choice(PATHS), f"web.{random.randint(1, 2)}"
    ms, chance = random.randint(4, 180), random.random()
    if chance < 0.07:
        text = f'at=error code=H12 desc="Request timeout" method={method} path="{path}" dyno={dyno} status=503'
        sources["heroku"].send([Line("router", text)])
        return
    status = 500 if chance < 0.12 else random.choice((200, 200, 200, 302, 404))
    text = f'at=info method={method} path="{path}" dyno={dyno} connect=1ms service={ms}ms status={status}'
    sources["heroku"].send([Line("router", text)])
    if status == 500:
        trace = ["  shop/views.py:31 in checkout", "  shop/carts.py:7 in find", "KeyError: 'cart'"]
        sources["app"].send([Line(dyno, text, ERROR) for text in trace])
    elif chance > 0.85:
        sources["app"].send(
            [Line("worker.1", f'{{"level":"info","job":"SendReceipt","id":{random.randint(1, 9999)}}}')]
        )
    else:
        sources["app"].send([Line(dyno, f"{method} {path} {status} in {ms} ms")])


def take(window: Browser, server: Server) -> None:
    """The page at a desk and on a phone."""
    window.resize(1000, 600)
    window.open(server.url)
    window.until("return document.activeElement.id === 'id'")
    window.type("#id", ":".join(server.admin))
    window.press("Enter")
    window.until("return document.querySelector('#app-list li')")
    time.sleep(60)  # the curves of the rates
    window.open(server.url + "/#/apps/shop")
    window.until("return document.querySelectorAll('.line').length > 50 && document.querySelector('.drain.bad')")
    window.until("return [...document.querySelectorAll('.line')].slice(-9).some(line => line.matches('.error'))")
    (HERE / "page.png").write_bytes(window.screenshot())
    window.scheme("dark")
    window.resize(400, 620)
    window.click("#drains-toggle")
    window.click("#wrap")
    window.type("#query", "status>=500")
    window.until("return [...document.querySelectorAll('.message')].every(m => m.textContent.includes('status=5'))")
    window.script("document.activeElement.blur()")
    time.sleep(1)
    (HERE / "page-phone.png").write_bytes(window.screenshot())


def terminal(window: Browser, work: Path, server: Server) -> None:
    """`logplex tail` on a terminal, as it is coloured there."""
    url = server.url.replace("://", "://" + ":".join(server.admin) + "@")
    command = ["logplex", "tail", "shop", "-n", "14"]
    shown = on_terminal([sys.executable, "-m", *command], lines=16, LOGPLEX_URL=url)
    text = "$ " + " ".join(command[:3]) + "\n" + "\n".join(shown.splitlines()[:15])
    page = work / "terminal.html"
    page.write_text(f"""<!doctype html><meta charset="utf-8"><style>
        body {{ margin: 0; background: #14191a; color: #d7dedc; overflow: hidden }}
        pre {{ margin: 16px 18px; font: 13px/1.5 "DejaVu Sans Mono", monospace }}
        </style><pre>{coloured(text)}</pre>""")
    window.resize(1040, 16 * 20 + 28)
    window.open(page.as_uri())
    (HERE / "tail.png").write_bytes(window.screenshot())


def on_terminal(command: list[str], *, lines: int, **variables: str) -> str:
    """What the command has written once there are that many lines; then Ctrl-C."""
    ours, theirs = pty.openpty()
    written = b""
    env = environment(TERM="xterm", **variables)
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env) as process:  # noqa: S603  # our own command
        os.close(theirs)
        while written.count(b"\n") < lines:
            written += os.read(ours, 65536)
        process.send_signal(2)
    os.close(ours)
    return written.decode("utf-8", "replace").replace("\r", "")


def coloured(text: str) -> str:
    """SGR sequences as spans."""
    made, is_open = "", False
    for number, part in enumerate(re.split(r"\x1b\[([0-9;]*)m", text)):
        if number % 2 == 0:
            made += html.escape(part)
            continue
        codes = [int(code or 0) for code in part.split(";")]
        made += "</span>" if is_open else ""
        colour = next((COLOURS[code] for code in codes if code in COLOURS), "inherit")
        is_open = codes != [0]
        made += f'<span style="color: {colour}; font-weight: {600 if 1 in codes else 400}">' if is_open else ""
    return made + ("</span>" if is_open else "")


if __name__ == "__main__":
    main()
