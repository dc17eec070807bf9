"""`logplex serve`: the settings as options, and the server under trio until a signal ends it.

* The options are made from the table in config.py: an option, its variable and its line of help are one entry.
* The log goes to standard error. On a terminal a person is greeted on standard output: the admin credential, once,
  when it has just been made, and three lines to paste.
* Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot start, 2 for wrong options.
"""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import config
from ..errors import SetupError
from .terminal import BOLD, on_terminal, paint

if TYPE_CHECKING:
    from trio import TaskStatus

_UNITS = ((config.GIB, "GiB"), (config.MIB, "MiB"), (config.KIB, "KiB"))
_TIMES = ((86400, "d"), (3600, "h"), (60, "min"))


def _option(setting: "Field[Any]") -> str:
    return "--" + setting.name.replace("_", "-")


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting, in the order of the table."""
    for setting in reversed(fields(config.Settings)):
        repeatable = isinstance(setting.default, tuple)
        command = click.option(
            _option(setting),
            setting.name,
            callback=partial(_convert, setting),
            metavar=_metavar(setting),
            multiple=repeatable,
            default=None,
            help=_help(setting),
        )(command)
    return command


def _convert(setting: "Field[Any]", ctx: click.Context, _option_: click.Parameter, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return config.convert(_option(setting), value, setting.default, setting.metadata["choices"])
    except SetupError as exc:
        raise click.UsageError(str(exc), ctx) from exc


def _metavar(setting: "Field[Any]") -> str:
    choices = setting.metadata["choices"]
    if choices:
        return "|".join(choices)
    return setting.metadata["metavar"] or ("SECONDS" if setting.name.endswith("_seconds") else "N")


def _help(setting: "Field[Any]") -> str:
    text: str = setting.metadata["help"]
    if isinstance(setting.default, tuple):
        text += " (may be given several times)"
    if "[default:" not in text:
        text += f" [default: {shown_default(setting)}]"
    return f"{text} [{config.variable(setting.name)}]"


def shown_default(setting: "Field[Any]") -> str:
    """A default as a person writes it: `64 MiB`, `7 d`, `off`."""
    value = setting.default
    if value in ("", ()):
        return "off" if setting.name in config.LISTENERS else "none"
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        return str(value)
    sizes = _TIMES if setting.name.endswith("_seconds") else _UNITS if "bytes" in setting.name else ()
    for size, unit in sizes:
        if value >= size and value % size == 0:
            return f"{value / size:g} {unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


@click.command()
@settings_options
def serve(**given: Any) -> None:
    """Run the server.

    Without options it keeps its data in ./logplex-data and listens on loopback. Sizes may be written as 64MiB, times
    as 10m. The admin credential is made on the first start, unless --admin-file or LOGPLEX_ADMIN (the line
    ID:PASSWORD itself) names one.
    """
    try:
        settings = config.from_environment(**given)
    except SetupError as exc:
        raise click.UsageError(str(exc), click.get_current_context()) from exc
    admin = config.admin(settings)

    import trio

    from .. import log

    log.configure(settings.log_format)
    with out_of_groups():
        trio.run(_serve, settings, admin, strict_exception_groups=True)


@contextmanager
def out_of_groups() -> Iterator[None]:
    """Raises a SetupError itself, out of the groups that nurseries put around it."""
    try:
        yield
    except* SetupError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _serve(settings: config.Settings, admin: tuple[str, str] | None) -> None:
    import trio

    from .. import app

    directory = Path(settings.data_dir)
    known = admin is not None or (directory / "admin").exists()

    async def run(task_status: "TaskStatus[Any]" = trio.TASK_STATUS_IGNORED) -> None:
        await app.serve(settings, admin=admin, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        if on_terminal():
            await trio.to_thread.run_sync(partial(greet, settings, known=known))


def greet(settings: config.Settings, *, known: bool) -> None:
    """What a person at a terminal needs next; `known`: the admin credential is not new."""
    directory = Path(settings.data_dir)
    program = _program()
    where = "" if settings.data_dir == config.Settings().data_dir else f" --data-dir {shlex.quote(settings.data_dir)}"
    lines = []
    if not known:
        admin = (directory / "admin").read_text().strip()
        lines += [f"admin credential (shown once; kept in {directory / 'admin'}): {paint(admin, BOLD)}", ""]
    lines += [
        "make an app, send a line, follow it (in another terminal):",
        "",
        f"  {program} channels create shop{where}",
        f"  echo hello | {program} ship -a shop{where}",
        f"  {program} tail shop{where}",
    ]
    print("\n" + "\n".join(lines) + "\n", flush=True)


def _program() -> str:
    """How to call us again: `logplex` when the search path finds it, else the path that was used."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m logplex"
    found = shutil.which("logplex")
    return "logplex" if found and Path(found).resolve() == Path(called).resolve() else shlex.quote(called)
