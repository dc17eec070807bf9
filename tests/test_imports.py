"""The direction of imports, read from the syntax tree of every module.

* A module imports from its own row and from those below; no import, not even one for types or inside a function,
  points up. Modules that need each other to run are one module; to name each other's types is fine.
* The bottom row does no I/O: neither trio nor a socket, so that it can be fed byte by byte in a test.
* `drains` knows a channel's reading side and nothing else of logplex; only `logplex.app` builds drains, and the API
  and the command line may check a URL before there is a drain.
* Only config reads the environment; only cli prints.
* The checker is tested on planted violations: a rule that finds nothing proves nothing otherwise.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("logplex", "drains")

COMMIT = "commit trouble writes behind catchup"
STREAMS = (
    f"router bodies small_reads streams routing group entries {COMMIT} registry tail rendering fanout sessions channel"
)
LOOP = "poller idle"
LINES = "ring batch joining filling framing message fastpath uniform fields filters dedupe"
VALUES = f"{LINES} ledger printable log config errors"
# From the top to the bottom; a package stands for all its modules.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"logplex.__main__"}),
    frozenset({"logplex.cli"}),
    frozenset({"logplex.app"}),
    frozenset({"logplex.inputs", "logplex.api", "logplex.store", "logplex.http", "drains"}),
    frozenset(f"logplex.{name}" for name in f"{STREAMS} {LOOP}".split()),
    frozenset(f"logplex.{name}" for name in VALUES.split()),
)
BOTTOM = len(ROWS) - 1
DOES_IO = frozenset({"trio", "socket", "ssl", "selectors", "asyncio", "sqlite3", "httptools", "starlette", "anyio"})
SEEN_BY_DRAINS = frozenset(
    f"logplex.{name}" for name in ("channel", "batch", "ring", "message", "errors", "filters", "__init__")
)
# Who else than app may import what of drains: checking a drain's URL or options before there is one.
SEES_DRAINS = {
    "logplex.api": frozenset({"drains.url", "drains.policy", "drains.spec"}),
    "logplex.cli": frozenset({"drains.url"}),
}
NOT_SEEN_BY = {"logplex.http": frozenset({"logplex.router", "logplex.api"})}


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    for_types: bool


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def row_of(module: str) -> int | None:
    for number, row in enumerate(ROWS):
        if any(within(module, name) for name in row):
            return number
    return None


def sources() -> dict[str, str]:
    """The source of every module, by dotted name; a package itself is the module `package.__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path.read_text()
    return found


def imports(module: str, source: str, known: set[str]) -> Iterator[Import]:
    """What a module imports, relative names made absolute; `from package import module` names the module."""
    tree = ast.parse(source)
    checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for_types = {inner for node in checked for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, named(alias.name, known), node.lineno, node in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # one dot is the package that holds the module, each further dot the one around it
                parent = ".".join(module.split(".")[: -node.level])
                base = f"{parent}.{base}".rstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                name = named(inner if is_module(inner, known) else base, known)
                yield Import(module, name, node.lineno, node in for_types)


def is_module(name: str, known: set[str]) -> bool:
    return name in known or f"{name}.__init__" in known


def named(name: str, known: set[str]) -> str:
    return f"{name}.__init__" if f"{name}.__init__" in known else name


def violations(modules: dict[str, str]) -> list[str]:
    """Every broken rule, one sentence each; `modules` is source by dotted name."""
    known = set(modules)
    found = []
    edges: dict[str, set[str]] = {}
    for module, source in modules.items():
        if row_of(module) is None and not module.endswith("__init__"):
            found.append(f"{module}: stands in no row; give it one")
        for entry in imports(module, source, known):
            if not entry.for_types:
                edges.setdefault(module, set()).add(entry.imported)
            found += [f"{module}:{entry.line}: {rule}" for rule in broken_by(entry)]
        found += [f"{module}:{line}: {rule}" for line, rule in side_doors(module, source)]
    return found + [f"{' → '.join(ring)}: import each other" for ring in rings(edges)]


def broken_by(entry: Import) -> Iterator[str]:
    importer, imported = entry.importer, entry.imported
    above, below = row_of(importer), row_of(imported)
    if above is not None and below is not None and below < above:
        yield f"imports {imported}, which stands above it"
    if above == BOTTOM and imported.split(".")[0] in DOES_IO:
        yield f"imports {imported}: the bottom row does no I/O"
    if within(importer, "drains") and within(imported, "logplex") and imported not in SEEN_BY_DRAINS:
        yield f"imports {imported}: drains see a channel's reading side alone"
    if within(importer, "logplex") and within(imported, "drains") and not may_see(importer, imported):
        yield f"imports {imported}: only app builds drains"
    for package, hidden in NOT_SEEN_BY.items():
        if within(importer, package) and any(within(imported, name) for name in hidden):
            yield f"imports {imported}: {package} knows neither router nor api"


def may_see(importer: str, imported: str) -> bool:
    if within(importer, "logplex.app"):
        return True
    return any(within(importer, package) and imported in names for package, names in SEES_DRAINS.items())


def side_doors(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Reading the environment outside config, printing outside cli."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "putenv"):
                door = "environment"
            case ast.ImportFrom(module="os", names=names) if {"environ", "environb", "getenv"} & {
                alias.name for alias in names
            }:
                door = "environment"
            case ast.keyword(arg="envvar" | "auto_envvar_prefix"):
                door = "environment"
            case ast.Call(func=ast.Name(id="print")) | ast.Attribute(value=ast.Name(id="sys"), attr="stdout"):
                door = "print"
            case ast.Import(names=[ast.alias(name="click")]) | ast.ImportFrom(module="click"):
                door = "print"
            case _:
                continue
        if door == "environment" and module != "logplex.config":
            yield node.lineno, "only config reads the environment"
        if door == "print" and not within(module, "logplex.cli") and module != "logplex.__main__":
            yield node.lineno, "only cli prints"


def rings(edges: dict[str, set[str]]) -> list[list[str]]:
    """Cycles of imports, each once, from its alphabetically first module (depth-first, colours as in any textbook)."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            ring = path[path.index(module) :]
            first = ring.index(min(ring))
            found.append([*ring[first:], *ring[:first], ring[first]])
        elif module not in done:
            for imported in sorted(edges.get(module, ())):
                visit(imported, [*path, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def test_imports_of_every_module_keep_the_rules() -> None:
    assert violations(sources()) == []


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("logplex.ring", "from .router import Router", "imports logplex.router, which stands above it"),
        ("logplex.ring", "from . import router", "imports logplex.router, which stands above it"),
        ("logplex.ring", "import logplex.channel", "imports logplex.channel, which stands above it"),
        ("logplex.ring", "def f():\n    import trio", "the bottom row does no I/O"),
        ("logplex.ring", "from socket import AF_INET", "the bottom row does no I/O"),
        ("logplex.router", "from logplex.app import App", "imports logplex.app, which stands above it"),
        ("logplex.router", "from drains.http import Client", "only app builds drains"),
        ("logplex.router", "import drains", "only app builds drains"),
        ("logplex.api.v3", "from drains.deliveries import Deliveries", "only app builds drains"),
        ("logplex.http.server", "from ..api import v3", "imports logplex.api.v3: logplex.http knows neither"),
        ("logplex.http.server", "from ..router import Router", "logplex.http knows neither router nor api"),
        ("drains.http", "from logplex.registry import Registry", "drains see a channel's reading side alone"),
        ("drains.http", "from logplex.config import MIB", "drains see a channel's reading side alone"),
        ("logplex.router", "import os\nos.environ['HOME']", "only config reads the environment"),
        ("logplex.router", "from os import getenv", "only config reads the environment"),
        ("logplex.cli.serve", "option(envvar='LOGPLEX_X')", "only config reads the environment"),
        ("logplex.router", "print('x')", "only cli prints"),
        ("drains.http", "import sys\nsys.stdout.write('x')", "only cli prints"),
        ("logplex.app", "from click import echo", "only cli prints"),
        ("logplex.novelty", "", "stands in no row"),
        ("logplex.registry", "from .tail import x", "logplex.registry → logplex.tail → logplex.registry: import each"),
    ],
)
def test_a_planted_violation_is_found(module: str, line: str, rule: str) -> None:
    house = {
        "logplex.__init__": "",
        "logplex.config": "import os\nos.environ",
        "logplex.api.__init__": "",
        "logplex.api.v3": "from drains.url import parse",
        "logplex.app": "import drains.http",
        "logplex.router": "from .ring import Ring",
        "logplex.tail": "if True:\n    from .registry import Registry",
        "logplex.registry": "if TYPE_CHECKING:\n    from .tail import Tail",
        "logplex.channel": "",
        "logplex.ring": "from .errors import X",
        "logplex.cli.main": "print('fine here')",
        "drains.__init__": "",
        "drains.url": "",
        "drains.http": "from logplex.channel import Channel",
        "drains.deliveries": "",
    }
    assert violations(house) == []
    found = violations({**house, module: line})
    assert any(rule in sentence for sentence in found), found
