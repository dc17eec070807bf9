"""`logplex status`: health and ledger of the server, or of one app."""

from typing import Any

import click

from .channels import missing
from .client import Failed, Server, json_option, part, server_option
from .terminal import BOLD, GREEN, RED, YELLOW, on_terminal, paint, show_facts, show_json

_COLOURS = {"normal": GREEN, "degraded": YELLOW, "booting": YELLOW}


@click.command()
@click.argument("app", required=False)
@json_option
@server_option
def status(app: str | None, as_json: bool, server: Server) -> int:
    """Show how the server is doing and where every line went; with APP, that app's part of it.

    Exit code 1 when the server is not in its normal state.
    """
    if app is not None:
        ledger = server.call("GET", f"/v3/channels/{part(app)}/ledger", missing=missing(app))
        if as_json:
            show_json(ledger)
        else:
            show_facts(facts(ledger))
        return 0
    answer = server.request("GET", "/v3/healthcheck")
    if answer.status not in (200, 503):
        raise Failed(server.reason(answer))
    health = answer.json() if answer.body.startswith(b"{") else {"state": "booting"}
    found = server.call("GET", "/v3/status")
    if as_json:
        show_json({"health": health, "status": found})
    else:
        state = str(health.get("state", "unknown"))
        print(f"{server.base} is {paint(state, _COLOURS.get(state, RED))}")
        ledger = found.pop("ledger", {})
        show_facts(facts({name: value for name, value in found.items() if name != "state"}))
        if on_terminal():
            print(paint("\nledger of this node", BOLD))
        show_facts(facts(ledger, "" if on_terminal() else "ledger."))
    return 0 if health.get("state") == "normal" else 1


def facts(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested objects as one list of dotted names, lists of objects numbered by their id."""
    found: list[tuple[str, Any]] = []
    for name, item in value.items():
        shown = f"{prefix}{name}"
        if isinstance(item, dict):
            found += facts(item, f"{shown}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for place, each in enumerate(item):
                found += facts(each, f"{shown}.{each.get('id', place)}.")
        else:
            found.append((shown, item))
    return found
