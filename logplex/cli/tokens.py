"""`logplex tokens`: the rights to write into an app; a token's name is the source that readers see."""

import click

from .channels import logs_url, missing
from .client import ListByDefault, Server, app_option, json_option, part, server_option
from .terminal import say, show_json, show_table


@click.group(cls=ListByDefault)
def tokens() -> None:
    """The rights to write lines into an app; alone it lists those of -a APP.

    A token's name is the source that readers see: app, heroku, heroku-postgres.
    """


@tokens.command("list")
@app_option
@json_option
@server_option
def list_tokens(app: str, as_json: bool, server: Server) -> None:
    """List the tokens of an app, with their log input URLs."""
    found = server.call("GET", f"/v3/channels/{part(app)}", missing=missing(app)).get("tokens", {})
    if as_json:
        show_json([{"name": name, "token": token, "url": logs_url(server, token)} for name, token in found.items()])
        return
    rows = [(name, logs_url(server, token)) for name, token in found.items()]
    show_table(("source", "log input (a secret)"), rows, empty=f"no tokens: `logplex tokens create NAME -a {app}`")


@tokens.command()
@click.argument("name")
@app_option
@json_option
@server_option
def create(name: str, app: str, as_json: bool, server: Server) -> None:
    """Give out a new right to write, as the source NAME, and print its log input URL."""
    made = server.call("POST", f"/v3/channels/{part(app)}/tokens", {"name": name}, missing=missing(app))
    if as_json:
        show_json(made | {"url": logs_url(server, made["token"])})
    else:
        say(logs_url(server, made["token"]))


@tokens.command()
@click.argument("name")
@app_option
@server_option
def delete(name: str, app: str, server: Server) -> None:
    """Take the right away; it is gone at once for whoever still sends with it."""
    gone = f"the app {app} has no token {name}: see `logplex tokens -a {app}`"
    server.call("DELETE", f"/v3/channels/{part(app)}/tokens/{part(name)}", missing=gone)
