"""An app's processes that log: web.1 answers requests, worker.1 works jobs off. Source: app.

python examples/dyno.py "$(logplex channels create shop)"
"""

import random
import time

from logs import ERROR, Line, LogInput, arguments

PATHS = ("/", "/cart", "/checkout", "/products/42", "/search?q=socks")
JOBS = ("SendReceipt", "ResizeImage", "SyncStock")


def web() -> list[Line]:
    """What one request writes, now and then with a stack trace."""
    path, took = random.choice(PATHS), random.randint(3, 400)
    if random.random() < 0.1:
        return [
            Line("web.1", f"ERROR method=GET path={path} status=500 duration={took}ms", ERROR),
            Line("web.1", "Traceback (most recent call last):", ERROR),
            Line("web.1", '  File "shop/views.py", line 31, in checkout', ERROR),
            Line("web.1", "KeyError: 'cart'", ERROR),
        ]
    return [Line("web.1", f"INFO method=GET path={path} status=200 duration={took}ms")]


def worker() -> list[Line]:
    job, number = random.choice(JOBS), random.randint(1000, 9999)
    return [Line("worker.1", f'{{"level":"info","job":"{job}","id":{number},"msg":"performed"}}')]


def main() -> None:
    given = arguments("Log as the processes of an app do.", count=20)
    logs = LogInput(given.url)
    logs.send([Line("web.1", "Listening on 0.0.0.0:5000")])
    written = 1
    while written < given.count:
        lines = random.choice((web, web, worker))()[: given.count - written]
        logs.send(lines)
        written += len(lines)
        time.sleep(given.seconds)


main()
