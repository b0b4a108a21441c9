"""The one-way rule and the budgets of ARCHITECTURE.md, read off the source with `ast`: nothing is imported or run.

Lives here: who may import whom, where each third-party package is at home, what pure rooms must not touch, sizes.
Does not live here: what a running worker really has loaded (`tests/e2e`), style (ruff), types (mypy).

A room is the first part of a module's name below `dnsd`. An import counts wherever it stands, also inside a function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "dnsd").rglob("*.py"))

L0 = {"model", "metrics"}
L1 = {"dns", "steer"}
L2 = {"image"}
L3 = {"answer", "chase", "choose", "context", "odd", "compile"}
PURE = L0 | L1 | L2 | L3

# room -> the rooms of ours it may import. What is not in the table does not exist.
MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "metrics": set(),
    "disk": set(),
    "dns": L0,
    "steer": L0,
    "image": L0 | L1,
    "choose": L0 | L1 | L2,
    "chase": L0 | L1 | L2 | {"choose"},
    "context": L0 | L1 | L2,
    "odd": L0 | L1 | L2 | {"chase", "context"},
    "answer": L0 | L1 | L2 | {"chase", "choose", "context", "odd"},
    "compile": L0 | L1 | L2,
    "engine": L0 | L1 | L2 | {"answer", "chase", "choose"},
    "serve": L0 | L1 | L2 | {"answer", "context", "cookiefile", "disk", "engine"},
    "registry": {"model"},
    "rtt": {"model", "disk", "steer"},
    "atlas": {"model", "image", "steer", "disk", "rtt"},
    "watch": L0 | L1,
    "control": PURE | {"disk", "registry", "atlas", "rtt", "watch"},
    "admin": L0 | {"disk", "registry", "control"},
    "drill": {"model"},
    "agent": set(),
    "cookiefile": {"disk", "dns"},
    "option_types": {"dns"},
    "options": {"disk", "option_types"},
    "config": {"model", "options", "option_types"},
    "sockets": {"model"},
    "children": set(),
    "supervisor": PURE | {"children", "cookiefile", "disk", "options", "option_types", "sockets", "registry"},
    "cli": PURE | {
        "cookiefile", "disk", "config", "options", "option_types", "supervisor", "registry", "atlas", "control",
        "admin", "agent", "drill", "engine"},
    "__main__": {"cli"},
}

# package -> the rooms it may be spoken in
HOMES: dict[str, set[str]] = {
    "redis": {"registry"},
    "aiohttp": {"admin", "cli", "watch"},
    "maxminddb": {"atlas"},
    "geoip2": {"atlas"},
    "pyasn": {"atlas"},
    "numpy": {"atlas", "rtt"},
    "pydantic": {"config", "options", "option_types", "registry", "admin", "control"},
    "pydantic_core": {"config", "options", "option_types", "registry", "admin", "control"},
    "pydantic_settings": {"config", "options"},
    "dns": {"control"},
    "dnslib": {"cli", "watch"},
    "dnstap_pb": {"control"},
    "fstrm": {"control"},
    "siphash24": {"dns"},  # makes cookies the same on all servers (RFC 9018 §4.4); octets in, octets out
    "uvloop": {"serve", "control"},
    "rich": {"cli"},
    "pyroute2": {"agent"},  # where it is installed
    "matplotlib": {"cli"},  # where it is installed
    "typer": {"cli"},
}

# what a value-in, value-out module has no use for: I/O, clocks, chance, other threads, the machine
IMPURE = {
    "asyncio", "concurrent", "ctypes", "fcntl", "http", "io", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "now", "today", "utcnow"}

# called for every query, where a keyword costs; many parameters instead of a tuple that would be built and taken apart
ONCE_A_QUERY = {"dnsd.choose.choose", "dnsd.choose._declared", "dnsd.dns.wire.heads"}

VAGUE = {"base", "common", "core", "handler", "helper", "helpers", "manager", "misc", "stuff", "util", "utils"}
VAGUE_SUFFIXES = ("Manager", "Helper", "Util", "Utils")


class Budget(NamedTuple):
    module: int = 400
    function: int = 60
    parameters: int = 6


class Import(NamedTuple):
    target: str
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, *, running: bool = False) -> Iterator[Import]:
    """Every import of a file; `from dnsd.dns import wire` counts as `dnsd.dns.wire`.

    With `running` only those that happen when the module is loaded: none in functions, none for the type checker alone.
    """
    for node in _loading(parsed(path)) if running else ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides the room"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _loading(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _loading(child)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_rooms_import_only_downward() -> None:
    wrong = []
    for path in SOURCES:
        here = room(module_name(path))
        if not here:
            continue  # dnsd/__init__.py, checked below
        assert here in MAY_IMPORT, f"{path}: the room {here} is not in the picture"
        for target, line in imports(path):
            parts = target.split(".")
            if parts[0] != "dnsd" or len(parts) < 2 or parts[1].startswith("__"):
                continue
            if parts[1] != here and parts[1] not in MAY_IMPORT[here]:
                wrong.append(f"{at(path, line)}: {here} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_oracles_learn_nothing_from_what_they_judge() -> None:
    """They score from the raw data files and ask a running server: a fault in ours must not be theirs as well."""
    files = sorted((ROOT / "tests" / "oracle").rglob("*.py"))
    assert len(files) > 5
    wrong = [at(path, one.line) for path in [*files, ROOT / "tests" / "node.py"] for one in imports(path)
             if one.target.split(".")[0] == "dnsd"]
    assert not wrong, f"imports what it judges: {wrong}"


def test_modules_have_no_cycles() -> None:
    known = {module_name(path) for path in SOURCES}
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        name = module_name(path)
        targets = (target for target, _ in imports(path, running=True))
        named = {module for target in targets for module in (target, target.rpartition(".")[0])}
        graph[name] = named & known - {"dnsd", name}
    assert not cycle(graph), f"import cycle: {' -> '.join(cycle(graph))}"


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_third_parties_stay_at_home() -> None:
    wrong = []
    for path in SOURCES:
        here = room(module_name(path))
        for target, line in imports(path):
            package = target.split(".")[0]
            if package in HOMES and here not in HOMES[package]:
                wrong.append(f"{at(path, line)}: {package} is at home in {sorted(HOMES[package])}")
    assert not wrong, "\n".join(wrong)


def test_every_import_is_known() -> None:
    import sys

    known = set(sys.stdlib_module_names) | set(HOMES) | {"dnsd"}
    wrong = [f"{at(path, line)}: {target}" for path in SOURCES for target, line in imports(path)
             if target.split(".")[0] not in known]
    assert not wrong, "third parties without a home in HOMES:\n" + "\n".join(wrong)


def test_pure_rooms_are_pure() -> None:
    wrong = []
    for path in SOURCES:
        here = room(module_name(path))
        if here not in PURE:
            continue
        strangers = {package for package, homes in HOMES.items() if here not in homes}
        wrong += [f"{at(path, line)}: imports {target}" for target, line in imports(path)
                  if target.split(".")[0] in IMPURE | strangers]
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
                if called in IMPURE_CALLS:
                    wrong.append(f"{at(path, node.lineno)}: calls {called}()")
            elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global):
                wrong.append(f"{at(path, node.lineno)}: {type(node).__name__}")
    assert not wrong, "\n".join(wrong)


def test_modules_and_functions_stay_small() -> None:
    budget, wrong = Budget(), []
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > budget.module:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines, {budget.module} at most")
        for function in functions(path):
            size = (function.end_lineno or function.lineno) - function.lineno + 1
            if size > budget.function:
                wrong.append(f"{at(path, function.lineno)}: {function.name}: {size} lines, {budget.function} at most")
            named = [a.arg for a in function.args.posonlyargs + function.args.args if a.arg not in ("self", "cls")]
            if len(named) > budget.parameters and f"{module_name(path)}.{function.name}" not in ONCE_A_QUERY:
                wrong.append(f"{at(path, function.lineno)}: {function.name}: {len(named)} parameters, "
                             f"{budget.parameters} at most; make some keyword-only")
    assert not wrong, "\n".join(wrong)


def test_every_package_is_worth_its_folder() -> None:
    wrong = []
    for init in (path for path in SOURCES if path.name == "__init__.py"):
        modules = [p for p in init.parent.iterdir() if p.suffix in (".py", ".pyx") and not p.name.startswith("__")]
        folders = [p for p in init.parent.iterdir() if (p / "__init__.py").exists()]
        if len(modules) + len(folders) < 2:
            wrong.append(f"{init.parent.relative_to(ROOT)}: a package with {len(modules)} module")
        for node in parsed(init).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            version = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__"
            if not (docstring or version):
                wrong.append(f"{at(init, node.lineno)}: re-exports; write `from dnsd.room import module`")
    assert not wrong, "\n".join(wrong)


def test_names_say_something() -> None:
    wrong = []
    for path in SOURCES:
        if path.stem in VAGUE:
            wrong.append(str(path.relative_to(ROOT)))
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef) and node.name.endswith(VAGUE_SUFFIXES):
                wrong.append(f"{at(path, node.lineno)}: {node.name}")
    assert not wrong, "\n".join(wrong)


def test_every_module_opens_with_what_it_is() -> None:
    wrong = []
    for path in SOURCES:
        if path.name.startswith("__"):
            continue
        text = " ".join((ast.get_docstring(parsed(path)) or "").split())
        if not ("Lives here" in text and "Does not live here" in text):
            wrong.append(f"{path.relative_to(ROOT)}: says not what lives here and what does not")
    assert not wrong, "\n".join(wrong)


def test_the_picture_has_no_room_that_is_gone() -> None:
    rooms = {room(module_name(path)) for path in SOURCES} - {""}
    assert set(MAY_IMPORT) == rooms
    spoken = {target.split(".")[0] for path in SOURCES for target, _ in imports(path)}
    assert set(HOMES) <= spoken, f"nobody imports {sorted(set(HOMES) - spoken)}: take them out of pyproject.toml too"
