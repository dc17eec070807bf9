"""The platform's HTTP router: one logfmt line for each request. Source: heroku, process: router.

python examples/router.py "$(logplex tokens create heroku -a shop)"
"""

import random
import time
import uuid

from logs import ERROR, Line, LogInput, arguments

PATHS = ("/", "/cart", "/checkout", "/products/42", "/search?q=socks")


def request() -> Line:
    took = random.randint(3, 900)
    failed = random.random() < 0.1
    status = 503 if failed else random.choice((200, 200, 200, 302, 404))
    line = (
        f'method=GET path="{random.choice(PATHS)}" host=shop.example.com request_id={uuid.uuid4()} '
        f'fwd="203.0.113.{random.randint(1, 254)}" dyno=web.1 connect=1ms service={took}ms status={status} '
        f"bytes={random.randint(200, 90_000)} protocol=https"
    )
    if failed:
        return Line("router", f'at=error code=H12 desc="Request timeout" {line}', ERROR)
    return Line("router", f"at=info {line}")


def main() -> None:
    given = arguments("Log as the router of a platform does.", count=20)
    logs = LogInput(given.url)
    for _ in range(given.count):
        logs.send([request()])
        time.sleep(given.seconds)


main()
