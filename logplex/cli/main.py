"""`logplex`: finds the command, runs it, and ends with an exit code.

* 0: done. 1: the request failed, or the server cannot start. 2: wrong use. 130: interrupted (as a shell counts it).
* An error is one line on standard error that says what to do; a traceback is a bug of ours.
* A command's module is imported when that command is called: `logplex --help` imports click and nothing of ours.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import LogplexError
from ..printable import printable

COMMANDS = {
    "serve": "Run the server.",
    "tail": "Follow an app's lines.",
    "ship": "Send lines of standard input or of a command.",
    "status": "How the server, or one app, is doing.",
    "channels": "Apps: create, list, show, set, delete.",
    "tokens": "The rights to write lines into an app.",
    "drains": "Where an app's lines are sent to.",
    "credentials": "Who may use the API.",
    "bench": "Measure what a server carries on this machine.",
}


class Commands(click.Group):
    """The commands of the table above, each the function of its own name in the module of its own name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"logplex.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Commands,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 119},
)
@click.version_option(__version__, prog_name="logplex")
@click.pass_context
def logplex(ctx: click.Context) -> int:
    """Route log lines: syslog in, tails and drains out.

    All but `serve` and `bench` talk to the server of LOGPLEX_URL (http://id:password@host:8001), or else to the one
    that runs on the data directory (--data-dir, LOGPLEX_DATA_DIR, ./logplex-data).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    return 2  # the code of the subcommand when there is one


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    try:
        result: Any = logplex.main(list(arguments), prog_name="logplex", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "logplex"
        return _fail(f"{exc.format_message().rstrip('.')} (see `{path} --help`)", 2)
    except click.ClickException as exc:
        return _fail(exc.format_message(), exc.exit_code)
    except LogplexError as exc:
        return _fail(str(exc), 1)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 0  # whoever read us has enough
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"logplex: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def main() -> NoReturn:
    """The console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # the interpreter would flush it again, and complain
    sys.exit(code)
