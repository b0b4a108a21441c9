"""Coverage-guided fuzzing: `python -m fuzz.run [--seconds S | --runs N] [--seed N] [TARGET ...]`; `make fuzz` is all.

Lives here: starting atheris on a target, its corpus, saying what was found. Does not live here: what is called and what
must hold (`fuzz.targets.*`, one module each), the test that CI runs (tests/hostile/test_fuzz.py).

A target is a module with `check(data)`, which raises when something does not hold, and `seeds()`, inputs to begin with.
`fuzz/corpus/TARGET.txt` holds inputs worth keeping, one a line in hex: whatever once broke something, and what a long
run found to reach new code (`--keep`). Each target runs in a process of its own, because atheris never returns.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
CORPUS: Final = ROOT / "fuzz" / "corpus"
FOUND: Final = ROOT / "build" / "fuzz"
"""Where runs by the clock leave the inputs that reached new code, for the next one to begin with."""

MAX_LEN: Final = 4096
KEPT_LEN: Final = 300
SLOWEST_S: Final = 10
_DONE = re.compile(r"^(?:Done|#)\s?(\d+)\s(?:DONE|runs).*?(?:cov: (\d+)|$)", re.MULTILINE)


def names() -> list[str]:
    """The targets there are."""
    return sorted(path.stem for path in (ROOT / "fuzz" / "targets").glob("*.py"))


def kept(name: str) -> Iterator[bytes]:
    """The inputs of a target's corpus file."""
    file = CORPUS / f"{name}.txt"
    for line in file.read_text(encoding="ascii").splitlines() if file.exists() else ():
        text = line.partition("#")[0].strip()
        if text:
            yield bytes.fromhex(text)


def main() -> int:
    """The command; 1 when a target broke."""
    parser = argparse.ArgumentParser(description="fuzz targets: " + ", ".join(names()))
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS", "60")), help="each target")
    parser.add_argument("--runs", type=int, default=0, help="so many inputs instead, reproducibly, from kept ones only")
    parser.add_argument("--seed", type=int, default=1, help="for --runs")
    parser.add_argument("--keep", action="store_true", help="write what reaches most code into the corpus file")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("target", nargs="*", help="all, if none is named")
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.target[0], options.inside.split())
    broken = [name for name in options.target or names() if not _run(name, options)]
    return bool(broken)


def _run(name: str, options: argparse.Namespace) -> bool:
    """One target in a process of its own; whether everything held. A find is printed in hex, ready to be kept."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus" if options.runs else FOUND / name
        folder.mkdir(parents=True, exist_ok=True)
        fill(name, folder)
        limit = f"-runs={options.runs} -seed={options.seed}" if options.runs else f"-max_total_time={options.seconds}"
        done = atheris(name, f"{limit} -artifact_prefix={scratch}/ {folder}", Path(scratch))
        if done.returncode == 0 and options.keep:
            _keep(name, folder, Path(scratch))
        found = _DONE.findall(done.stderr)
        print(f"{name}: {f'{found[-1][0]} inputs' if found else 'no input'}, exit code {done.returncode}", flush=True)
        if done.returncode:
            noise = re.compile(r"^(INFO|WARNING): .*\n", re.MULTILINE)
            print(done.stdout[-6000:], noise.sub("", done.stderr)[-3000:], sep="\n")
        for find in Path(scratch).glob("*-*"):
            what = find.name.partition("-")[0]
            print(f"{what} in {name}, to be kept in fuzz/corpus/{name}.txt:\n{find.read_bytes().hex()}")
    return not done.returncode


def fill(name: str, folder: Path) -> None:
    """Seeds and kept inputs as the files that libFuzzer begins with."""
    target = import_module(f"fuzz.targets.{name}")
    for data in (*target.seeds(), *kept(name)):
        (folder / sha256(data).hexdigest()[:16]).write_bytes(data)


def atheris(name: str, arguments: str, scratch: Path, called: str = "fuzz") -> subprocess.CompletedProcess[str]:
    """A target under atheris with these arguments of libFuzzer, to its end."""
    env = os.environ | {"PYTHONHASHSEED": "0", "TMPDIR": str(scratch)}
    inside = f"-max_len={MAX_LEN} -timeout={SLOWEST_S} {arguments}"
    command = [sys.executable, "-m", "fuzz.run", f"--inside={called} {inside}", name]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def _keep(name: str, folder: Path, scratch: Path) -> None:
    """Replaces the unmarked lines of the corpus file by the fewest, smallest inputs that reach what all of them do."""
    least = scratch / "least"
    least.mkdir()
    again = scratch / "again"  # libFuzzer merges in processes that it starts itself, by the name it was called by
    again.write_text(f'#!/bin/sh\nexec {sys.executable} -m fuzz.run --inside="$0 $*" {name}\n', encoding="ascii")
    again.chmod(0o755)
    done = atheris(name, f"-merge=1 {least} {folder}", scratch, called=str(again))
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    file = CORPUS / f"{name}.txt"
    CORPUS.mkdir(exist_ok=True)
    marked = [line for line in file.read_text().splitlines() if "#" in line] if file.exists() else []
    target: Any = import_module(f"fuzz.targets.{name}")
    known = {data.hex() for data in target.seeds()}
    found = {path.read_bytes().hex() for path in least.iterdir() if path.stat().st_size <= KEPT_LEN}
    lines = sorted(found - known, key=lambda text: (len(text), text))
    file.write_text("\n".join([*marked, *filter(None, lines)]) + "\n", encoding="ascii")


def _fuzz(name: str, arguments: list[str]) -> None:
    """Instruments dnsd, imports the target and runs it with libFuzzer's argv; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["dnsd"]):
        target = import_module(f"fuzz.targets.{name}")
    atheris.Setup(arguments, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
