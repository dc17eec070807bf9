"""`logplex credentials`: who may use the API, and the admin credential when it was lost.

A password is printed once, when it is made: the server keeps a hash of it.
"""

from pathlib import Path
from typing import Any

import click

from .. import config
from .client import Failed, ListByDefault, Server, json_option, part, secret, server_option
from .terminal import ago, note, on_terminal, say, show_json, show_table


@click.group(cls=ListByDefault)
def credentials() -> None:
    """Who may use the API; alone it lists them."""


@credentials.command("list")
@json_option
@server_option
def list_credentials(as_json: bool, server: Server) -> None:
    """List all credentials, without passwords."""
    found = server.pages("/v3/credentials", "credentials", by="id")
    if as_json:
        show_json(found)
        return
    rows = [(row["id"], row.get("permissions", []), ago(row.get("created_at"))) for row in found]
    show_table(("id", "permissions", "made"), rows)


@credentials.command()
@click.argument("name", required=False)
@click.option("--app", "apps", multiple=True, metavar="APP", help="May read this app: lines, sessions, drains.")
@click.option("--write", "channels", multiple=True, metavar="APP", help="May write into this app.")
@click.option("--write-any", is_flag=True, help="May write into all apps.")
@click.option("--full", is_flag=True, help="May do everything.")
@click.option("--password", metavar="-", help="`-`: a chosen password from standard input [default: a made-up one].")
@json_option
@server_option
def create(
    name: str | None,
    apps: tuple[str, ...],
    channels: tuple[str, ...],
    write_any: bool,
    full: bool,
    password: str | None,
    as_json: bool,
    server: Server,
) -> None:
    """Make a credential and print ID:PASSWORD, once.

    The same line is the key of the Heroku CLI: HEROKU_API_KEY=ID:PASSWORD, best with --app APP, which sees that app
    alone.
    """
    permissions = [f"app:{app}" for app in apps] + [f"channel:{app}" for app in channels]
    permissions += ["any_channel"] * write_any + ["full_api"] * full
    if not permissions:
        raise click.UsageError("say what it may do: --app APP, --write APP, --write-any or --full")
    if password not in (None, "-"):
        raise click.UsageError("a password on the command line can be read by everybody (ps): give it as -")
    body: dict[str, Any] = {"permissions": permissions}
    if name is not None:
        body["id"] = name
    if password is not None:
        body["password"] = secret(password)
    made = server.call("POST", "/v3/credentials", body)
    if as_json:
        show_json(made)
        return
    if on_terminal():
        note("shown once:")
    say(f"{made['id']}:{made.get('password') or body.get('password')}")


@credentials.command()
@click.argument("name")
@server_option
def delete(name: str, server: Server) -> None:
    """Delete a credential; it is gone at once."""
    gone = f"there is no credential {name}: see `logplex credentials`"
    server.call("DELETE", f"/v3/credentials/{part(name)}", missing=gone)


@credentials.command("reset-admin")
@click.option("--data-dir", metavar="DIR", help="The server's data directory.")
def reset_admin(data_dir: str | None) -> None:
    """Make a new admin password, when the old one was lost or seen.

    It works on the data directory of a server that is stopped, and needs no credential.
    """
    directory = Path(data_dir or config.data_dir())
    if not (directory / "config.db").exists():
        raise Failed(f"no server has run on {directory}: name its data directory with --data-dir")

    from ..app import reset_admin as reset
    from .serve import out_of_groups

    with out_of_groups():
        line = reset(directory)
    if on_terminal():
        note("the admin credential:")
    say(line)
