"""What measurements have in common when they are told: medians with intervals, tables, the machine, bench/RESULTS.md.

Lives here: statistics and Markdown. Does not live here: pictures (`plots`), measuring.

RESULTS.md is made of sections, each between two comments with its program's name; a program replaces its own and leaves
the others as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from servers import ROOT

RESULTS: Final = ROOT / "bench" / "RESULTS.md"
_DRAWS: Final = 2000
_HEAD: Final = """\
# Measurements

What `make bench` found, each section by one program of `bench/`. Compare ratios, never microseconds of different runs.
A ratio is taken round by round and told as its median with a 95 % interval (bootstrap of the median).
"""


class Told(NamedTuple):
    """A median and its 95 % interval."""

    middle: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        middle, low, high = (_number(value, form) for value in self)
        return f"{middle} ({low}-{high})" if self.low != self.high else middle


def _number(value: float, form: str) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:{form}}"


def told(values: Sequence[float]) -> Told:
    """The median of paired values and its 95 % interval, by drawing as many of them again and again."""
    rnd = random.Random(1)
    drawn = sorted(median(rnd.choices(values, k=len(values))) for _ in range(_DRAWS))
    return Told(median(values), drawn[int(0.025 * _DRAWS)], drawn[int(0.975 * _DRAWS)])


def ratios(mine: Iterable[float], theirs: Iterable[float]) -> Told:
    """The ratio round by round."""
    return told([a / b for a, b in zip(mine, theirs, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def verdict(value: float, must: float, aim: float) -> str:
    """Whether a value is as low as it must be, or as is aimed at."""
    return "aim reached" if value <= aim else "holds" if value <= must else "**missed**"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["", *(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)), ""]


def machine() -> str:
    """The machine and the day."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return (f"{os.cpu_count()} CPUs, {model}, Linux {platform.release()}, CPython {platform.python_version()}, "
            f"{time.strftime('%Y-%m-%d')}")


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The options that all programs have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a look: few and short rounds")
    parser.add_argument("--out", type=Path, help=f"file whose section is replaced, as {RESULTS.relative_to(ROOT)}")
    return parser


def put(out: Path | None, name: str, lines: Iterable[str]) -> None:
    """Prints a section and replaces it in a file."""
    text = "\n".join(lines).strip()
    print(text)
    if out is None:
        return
    before = out.read_text(encoding="utf-8") if out.exists() else ""
    if "<!-- begin " not in before:
        before = _HEAD
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(pattern.sub(lambda _: section, before) if begin in before else f"{before.rstrip()}\n\n{section}\n",
                   encoding="utf-8")
