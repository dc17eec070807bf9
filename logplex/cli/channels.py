"""`logplex channels`: apps, each a channel with its tokens and drains."""

from typing import Any
from urllib.parse import urlsplit

import click

from ..printable import shown_url
from .client import Failed, ListByDefault, Server, json_option, part, server_option
from .terminal import note, on_terminal, say, show_facts, show_json, show_table


@click.group(cls=ListByDefault)
def channels() -> None:
    """Apps; alone it lists them.

    An app is a channel: one stream of lines. Its name is any of letters, digits and _ . : -
    """


@channels.command()
@click.argument("app")
@click.option("--token", "names", multiple=True, metavar="NAME", help="A source that may write [default: app].")
@json_option
@server_option
def create(app: str, names: tuple[str, ...], as_json: bool, server: Server) -> None:
    """Make an app, and print its log input URL.

    The URL holds the token, a secret: whoever has it may write into the app, as the source NAME. It fits log-shuttle,
    LOGPLEX_LOGS_URL of `logplex ship`, curl, and everything else that knows Logplex.
    """
    if _exists(server, app):
        raise Failed(f"the app {app} exists already: see `logplex channels show {app}`")
    made = server.call("PUT", f"/v3/channels/{part(app)}", {"tokens": list(names or ("app",))})
    if as_json:
        show_json(with_urls(made, server))
        return
    for name, token in made.get("tokens", {}).items():
        if on_terminal():
            note(f"log input of {app} as the source {name} (a secret):")
        say(logs_url(server, token))


def _exists(server: Server, app: str) -> bool:
    answer = server.request("GET", f"/v3/channels/{part(app)}")
    if answer.status in (200, 404):
        return answer.status == 200
    raise Failed(server.reason(answer))


@channels.command("list")
@json_option
@server_option
def list_channels(as_json: bool, server: Server) -> None:
    """List all apps."""
    found = server.pages("/v3/channels", "channels", by="channel")
    if as_json:
        show_json(found)
        return
    rows = [(row["channel"], ", ".join(row.get("flags", [])) or "-") for row in found]
    show_table(("app", "flags"), rows, empty="no apps yet: make one with `logplex channels create APP`")


@channels.command()
@click.argument("app")
@json_option
@server_option
def show(app: str, as_json: bool, server: Server) -> None:
    """Show an app with the log input URLs of its tokens, and its drains."""
    found = with_urls(server.call("GET", f"/v3/channels/{part(app)}", missing=missing(app)), server)
    if as_json:
        show_json(found)
        return
    facts: list[tuple[str, Any]] = [("app", found["channel"])]
    if found.get("flags"):
        facts.append(("flags", found["flags"]))
    facts += [(f"log input as {name}", url) for name, url in found["urls"].items()]
    facts += [(f"drain {drain.get('id')}", shown_url(str(drain.get("url")))) for drain in found.get("drains", [])]
    show_facts(facts)


@channels.command("set")
@click.argument("app")
@click.option("--tail/--no-tail", default=None, help="Whether its lines can be followed live.")
@click.option("--history/--no-history", default=None, help="Whether its past lines are kept to be read.")
@server_option
def set_flags(app: str, tail: bool | None, history: bool | None, server: Server) -> None:
    """Forbid or allow live tails and history of an app that is too loud for them."""
    if tail is None and history is None:
        raise click.UsageError("say what to set: --no-tail, --tail, --no-history or --history")
    path = f"/v3/channels/{part(app)}"
    flags = set(server.call("GET", path, missing=missing(app)).get("flags", []))
    for wanted, flag in ((tail, "no_tail"), (history, "no_history")):
        if wanted is not None:
            flags = flags - {flag} if wanted else flags | {flag}
    server.call("PATCH", path, {"flags": sorted(flags)}, missing=missing(app))


@channels.command()
@click.argument("app")
@server_option
def delete(app: str, server: Server) -> None:
    """Delete an app with its tokens, drains and lines."""
    server.call("DELETE", f"/v3/channels/{part(app)}", missing=missing(app))


def missing(app: str) -> str:
    """What a 404 of an app's path means."""
    return f"there is no app {app}: see `logplex channels list`, or make it with `logplex channels create {app}`"


def logs_url(server: Server, token: str) -> str:
    """Where lines go in, with the right to write them."""
    parts = urlsplit(server.base)
    return f"{parts.scheme}://token:{token}@{parts.netloc}{parts.path}/logs"


def with_urls(channel: dict[str, Any], server: Server) -> dict[str, Any]:
    """A channel as the API shows it, and the log input URL of each token by name."""
    return channel | {"urls": {name: logs_url(server, token) for name, token in channel.get("tokens", {}).items()}}
