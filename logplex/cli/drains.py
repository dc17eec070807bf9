"""`logplex drains`: where an app's lines are sent to, and how that is going.

* A URL may hold a key: given as `-` it is read from standard input, and tables show it without userinfo and query.
* Headers, certificates and keys come from files, and travel as text: the server never opens a path that we name.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..printable import printable, shown_url
from .channels import missing
from .client import Failed, ListByDefault, Refused, Server, app_option, json_option, part, secret, server_option
from .terminal import GREEN, RED, ago, duration, note, paint, say, show_facts, show_json, show_table

FILTERS = ("source", "ps", "text", "pattern", "severity")
_PEM = (("ca", "ca_file"), ("client_cert", "cert_file"), ("client_key", "key_file"))


@click.group(cls=ListByDefault)
def drains() -> None:
    """Where an app's lines are sent to; alone it lists those of -a APP."""


@drains.command("list")
@app_option
@json_option
@server_option
def list_drains(app: str, as_json: bool, server: Server) -> None:
    """List an app's drains and how they are doing."""
    found = server.call("GET", f"/v3/channels/{part(app)}/drains", missing=missing(app))["drains"]
    if as_json:
        show_json(found)
        return
    rows = [_row(drain) for drain in found]
    headings = ("id", "url", "state", "pending", "delivered", "lost", "last error")
    show_table(headings, rows, empty=f"no drains: add one with `logplex drains add URL -a {app}`")


def _row(drain: dict[str, Any]) -> tuple[Any, ...]:
    status = drain.get("status") or {}
    lost = sum((status.get("lost") or {}).values())
    error = (status.get("error") or {}).get("text")
    return (
        drain["id"],
        shown_url(drain.get("url") or "-"),
        status.get("text"),
        status.get("pending"),
        status.get("delivered"),
        lost,
        error,
    )


def _drain_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--format", type=click.Choice(("logplex-1", "rfc5424", "json", "otlp")), help="Of the lines."),
        click.option("--gzip", is_flag=True, help="Compress deliveries."),
        click.option("--linger", type=float, metavar="SECONDS", help="Wait up to so long for more lines."),
        click.option("--batch-bytes", type=int, metavar="N", help="Size of a delivery."),
        click.option("--source", help="Only lines of this source."),
        click.option("--ps", help="Only lines of this process: web.1, or web for all of web.*"),
        click.option("--text", help="Only lines that hold this text."),
        click.option("--pattern", help="Only lines that match this regular expression (RE2)."),
        click.option("--severity", help="Only lines at least this severe: error, warning, …"),
        click.option("--headers-file", metavar="FILE", help="More headers, one `Name: value` a line; - is stdin."),
        click.option("--ca-file", metavar="FILE", help="CA certificates to trust in place of the system's, PEM."),
        click.option("--cert-file", metavar="FILE", help="Our certificate for this drain, PEM."),
        click.option("--key-file", metavar="FILE", help="The private key to it, PEM."),
        click.option("--fingerprint", metavar="SHA256", help="Trust exactly the certificate with this fingerprint."),
        click.option("--start", metavar="WHERE", help="now, oldest, a position or a time [default: now]."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """The API's `options` of what was given on the command line."""
    options = {name: given[name] for name in ("format", "linger", "batch_bytes", "fingerprint")}
    options["compress"] = "gzip" if given["gzip"] else None
    options["filter"] = {name: given[name] for name in FILTERS if given[name]} or None
    options["headers"] = _headers(given["headers_file"]) if given["headers_file"] else None
    for name, file in _PEM:
        options[name] = _read(given[file]) if given[file] else None
    options["start"] = place(given["start"]) if given["start"] else None
    return {name: value for name, value in options.items() if value is not None}


def place(text: str) -> str | int:
    """A position as a number, everything else (`oldest`, a time) as it is."""
    return int(text) if text.isascii() and text.isdigit() else text


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise click.UsageError(f"cannot read {path}: {reason}") from exc


def _headers(path: str) -> dict[str, str]:
    headers = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon:
            raise click.UsageError(f"line {number} of {path} must be `Name: value`")
        headers[name.strip()] = value.strip()
    return headers


@drains.command()
@click.argument("url")
@app_option
@_drain_options
@click.option("--test/--no-test", default=True, help="Whether to try it at once, with one marked line.")
@json_option
@server_option
def add(url: str, app: str, test: bool, as_json: bool, server: Server, **given: Any) -> None:
    """Send an app's lines to URL, and say what a first try of it saw.

    URL is http(s)://…, syslog://HOST:PORT (TCP), syslog+tls://HOST:PORT or syslog+udp://HOST:PORT; one that holds a
    secret may be given as - and on standard input. The first try does not decide: a drain whose receiver is not there
    yet is kept, and tried again.
    """
    body: dict[str, Any] = {"url": secret(url)}
    options = options_of(given)
    if options:
        body["options"] = options
    path = f"/v3/channels/{part(app)}/drains"
    try:
        made = server.call("POST", path, body, missing=missing(app))
    except Refused as exc:
        if not exc.message.endswith(" address"):
            raise
        hint = "such addresses are let in by the server's option --drain-allow CIDR"
        raise Refused(f"{exc.message}; {hint}", exc.status) from exc
    if not as_json:
        say(f"drain {made['id']}  {made['token']}")
    report = server.call("POST", f"{path}/{part(made['id'])}/test") if test else None
    if as_json:
        show_json(made | ({"test": report} if report is not None else {}))
    elif report is not None and not _show_report(report):
        hint = f"`logplex drains show {made['id']} -a {app}` says how it is doing"
        note(f"the drain is kept and will be tried again: {hint}")


@drains.command()
@click.argument("drain")
@app_option
@json_option
@server_option
def show(drain: str, app: str, as_json: bool, server: Server) -> None:
    """Show a drain with its state, last error, and what it has delivered, lost and still to send."""
    found = server.call("GET", _path(app, drain), missing=_gone(app, drain))
    if as_json:
        show_json(found)
        return
    status = found.get("status") or {}
    error = status.get("error")
    waiting = status.get("oldest_pending_seconds")
    show_facts(
        [
            ("drain", found["id"]),
            ("token", found["token"]),
            ("url", shown_url(found.get("url") or "-")),
            ("options", found.get("options") or None),
            ("state", status.get("text")),
            ("since", ago(status.get("since"))),
            ("last error", f"{error['text']} ({error['class']}, {ago(error['at'])})" if error else None),
            ("last success", ago(status.get("last_success"))),
            ("delivered", status.get("delivered")),
            ("filtered", status.get("filtered")),
            ("lost", status.get("lost")),
            ("retried", status.get("retried")),
            ("replayed", status.get("replayed")),
            ("pending", status.get("pending")),
            ("oldest pending", duration(waiting) if waiting is not None else None),
            ("bytes", status.get("bytes")),
        ]
    )


@drains.command()
@click.argument("drain")
@app_option
@server_option
def remove(drain: str, app: str, server: Server) -> None:
    """Stop sending to DRAIN (its id, token or URL); what it has not got yet is counted as lost."""
    rows = server.call("GET", f"/v3/channels/{part(app)}/drains", missing=missing(app))["drains"]
    wanted = secret(drain)
    ids = [row["id"] for row in rows if wanted in (str(row["id"]), row["token"], row.get("url"))]
    if not ids:
        raise Failed(_gone(app, drain))
    server.call("DELETE", _path(app, str(ids[0])), missing=_gone(app, drain))


@drains.command()
@click.argument("drain")
@app_option
@json_option
@server_option
def test(drain: str, app: str, as_json: bool, server: Server) -> int:
    """Try a drain now: look its name up, connect, do TLS, send one marked line."""
    report = server.call("POST", f"{_path(app, drain)}/test", missing=_gone(app, drain))
    if as_json:
        show_json(report)
        return 0 if report["ok"] else 1
    return 0 if _show_report(report) else 1


def _show_report(report: dict[str, Any]) -> bool:
    """Each step with its time and what it saw, or its error; whether all went well."""
    for step in report["steps"]:
        mark = paint("ok", GREEN) if step["ok"] else paint("failed", RED)
        saw = step["detail"] if step["ok"] else step["error"]
        print(f"  {step['step']}: {mark} in {step['ms']:g} ms" + (f": {printable(saw)}" if saw else ""))
    return bool(report["ok"])


@drains.command()
@click.argument("drain")
@click.option("--from", "start", required=True, metavar="WHERE", help="oldest, a position or a time.")
@app_option
@json_option
@server_option
def replay(drain: str, start: str, app: str, as_json: bool, server: Server) -> None:
    """Send history to a drain once more; counted apart from what it gets anyway."""
    answer = server.call("POST", f"{_path(app, drain)}/replay", {"from": place(start)}, missing=_gone(app, drain))
    if as_json:
        show_json(answer)
    else:
        say(f"{answer['lines']} lines from position {answer['from']}")


def _path(app: str, drain: str) -> str:
    return f"/v3/channels/{part(app)}/drains/{part(drain)}"


def _gone(app: str, drain: str) -> str:
    return f"the app {app} has no drain {shown_url(drain)}: see `logplex drains -a {app}`"
