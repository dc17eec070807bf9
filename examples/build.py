"""A build and the release that follows it. Source: app, process: api, as the platform tells an app about itself.

python examples/build.py "$(logplex channels create shop)"
"""

import time

from logs import Line, LogInput, arguments

STEPS = (
    "Build started by user dev@example.com",
    "-----> Building on the Heroku-24 stack",
    "-----> Python app detected",
    "-----> Installing python-3.11.9",
    "-----> Installing dependencies",
    "       Collecting trio",
    "       Successfully installed trio-0.25.1",
    "-----> Discovering process types",
    "       Procfile declares types -> web, worker",
    "-----> Compressing... Done: 21.4M",
    "-----> Launching... Released v42",
    "Build succeeded",
    "Deploy 1f0e2d3c by user dev@example.com",
    "Release v42 created by user dev@example.com",
)


def main() -> None:
    given = arguments("Log as a build system does.", count=len(STEPS))
    logs = LogInput(given.url)
    for step in STEPS[: given.count]:
        logs.send([Line("api", step)])
        time.sleep(given.seconds)


main()
