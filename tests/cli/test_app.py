"""The command line as a whole: its verbs, help, exit codes as documented, and what starting it costs."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dnsd import __version__
from dnsd.cli import app
from dnsd.cli.display import pairs, table
from dnsd.cli.failure import Exit

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.parametrize("verb", app.VERBS)
def test_every_verb_has_help_and_is_documented(verb: str) -> None:
    done = CliRunner().invoke(app.build(list(app.VERBS)), [verb, "--help"])
    assert done.exit_code == 0, done.output
    assert re.search(rf"\b{verb}\b", DOCS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_documented(code: Exit) -> None:
    assert re.search(rf"^\| {code.value} \| ", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


def test_version_imports_little_and_starts_fast() -> None:
    program = "import sys; sys.argv = ['dnsd', 'version']\nfrom dnsd.cli.app import main\ntry: main()\nfinally: " \
              "print(*sorted(sys.modules), file=sys.stderr)"
    best = 9.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.startswith(f"dnsd {__version__} "), done.stderr
    loaded = set(done.stderr.split())
    assert not loaded & {"aiohttp", "redis", "numpy", "rich", "dnslib", "dns", "uvloop", "dnsd.config"}
    assert best < 0.4, f"{best:.3f} s of CPU; 0.14 s on an idle machine"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "dnsd", "version", "--json"], capture_output=True, text=True,
                          timeout=30, check=False)
    assert f'"dnsd": "{__version__}"' in done.stdout


def test_table_aligns_text_left_and_numbers_right() -> None:
    assert table([("a", 5, None), ("long", 12, ["x", "y"])], ("id", "n", "list")).splitlines() == [
        "id     n  list", "a      5  -", "long  12  x,y"]
    assert table([], ("id", "n")) == "id  n"


def test_pairs_sets_nested_values_in() -> None:
    values = {
        "version": 3, "ready": True, "store": {"state": "up", "age": None}, "workers": [{"slot": 0}, {"slot": 1}]}
    assert pairs(values).splitlines() == [
        "version  3", "ready    yes", "store", "  state  up", "  age    -", "workers", "  slot", "     0", "     1"]
