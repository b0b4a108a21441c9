"""Master files as text: lines to logical entries, and the entries a `$GENERATE` stands for.

Lives here: where an entry begins and ends, `$GENERATE` ranges and substitution, the limits on both.
Does not live here: what an entry means (`control.zonefile`), whether the zone makes sense (`control.zonecheck`).

The idea: a reader that stops at the first error cannot name them all, so the file is cut into entries first, and each
is read by itself. An opening parenthesis that is never closed would swallow the rest of the file; then the entry ends
before the next line that starts in column one, and only that entry is bad.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

ENTRY_LINES: Final = 500
GENERATE_STEPS: Final = 65_536
GENERATE_WIDTH: Final = 127

# What matters for the depth of parentheses: escapes, quoted strings, comments, and the parentheses left over.
_MARKS = re.compile(r'\\.|"(?:[^"\\]|\\.)*"?|;.*|[()]')
_GENERATE = re.compile(r"\$generate[ \t]+(\S+)[ \t]+(\S+)[ \t]+(.*)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"(\d{1,10})-(\d{1,10})(?:/(\d{1,10}))?")
_MODIFIER = re.compile(r"\{([+-]?\d{1,10})(?:,(\d{1,4})(?:,([doxXnN]))?)?\}")


class Entry(NamedTuple):
    """One logical entry: the number of its first line, and its text with the line breaks inside parentheses."""

    line: int
    text: str


def entries(text: str) -> Iterator[Entry]:
    """The entries of a master file's text in order; blank lines and lines that are only a comment are left out."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at = 0
    while at < len(lines):
        line, first = lines[at], at
        at += 1
        stripped = line.lstrip(" \t")
        if not stripped or stripped[0] == ";":
            continue
        if "(" in line:
            at = _end(lines, first)
        yield Entry(first + 1, line if at == first + 1 else "\n".join(lines[first:at]))


def generated(entry: Entry) -> Iterator[Entry]:
    """The entries a `$GENERATE` stands for, all with its line number. ValueError says what is wrong with it."""
    match = _GENERATE.fullmatch(entry.text.strip(" \t\n"))
    if match is None:
        raise ValueError("$GENERATE needs a range, an owner, a type and data")
    bounds, owner, rest = match.groups()
    steps = _steps(bounds)
    for value in steps:
        yield Entry(entry.line, f"{substitute(owner, value)} {substitute(rest, value)}")


def substitute(template: str, value: int) -> str:
    r"""`$` becomes the value, `${offset,width,base}` a formed one, `$$` a dollar sign; `\$` stays (as BIND does it)."""
    parts = []
    at = 0
    while at < len(template):
        char = template[at]
        if char == "\\":
            parts.append(template[at:at + 2])
            at += 2
        elif char != "$":
            parts.append(char)
            at += 1
        elif template.startswith("$", at + 1):
            parts.append("$")
            at += 2
        else:
            text, at = _formed(template, at + 1, value)
            parts.append(text)
    return "".join(parts)


def _end(lines: list[str], first: int) -> int:
    """The index behind the last line of the entry that starts at `first` and opens a parenthesis."""
    depth = 0
    stop = min(len(lines), first + ENTRY_LINES)
    for at in range(first, stop):
        for mark in _MARKS.finditer(lines[at]):
            if mark[0] == "(":
                depth += 1
            elif mark[0] == ")":
                depth -= 1
        if depth <= 0:
            return at + 1
    for at in range(first + 1, stop):
        if lines[at] and lines[at][0] not in " \t;)":
            return at
    return stop


def _steps(bounds: str) -> range:
    match = _RANGE.fullmatch(bounds)
    if match is None:
        raise ValueError(f"$GENERATE range `{bounds}` is not start-stop or start-stop/step")
    start, stop, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step == 0 or stop < start:
        raise ValueError(f"$GENERATE range `{bounds}` is empty")
    steps = range(start, stop + 1, step)
    if len(steps) > GENERATE_STEPS:
        raise ValueError(f"$GENERATE range `{bounds}` has more than {GENERATE_STEPS} steps")
    return steps


def _formed(template: str, at: int, value: int) -> tuple[str, int]:
    """The text for a `$` whose modifier, if any, starts at `at`, and where the template goes on."""
    offset, width, base = 0, 0, "d"
    if template.startswith("{", at):
        match = _MODIFIER.match(template, at)
        if match is None:
            raise ValueError(f"$GENERATE modifier `{template[at:at + 20]}` is not {{offset,width,base}}")
        offset, width, base = int(match[1]), int(match[2] or 0), match[3] or "d"
        at = match.end()
    if width > GENERATE_WIDTH:
        raise ValueError(f"$GENERATE width {width} is above {GENERATE_WIDTH}")
    number = value + offset
    if base not in "nN":
        return format(number, base).zfill(width), at
    if number < 0:
        raise ValueError("$GENERATE cannot write a negative value as nibbles")
    return _nibbles(number, width, base), at


def _nibbles(number: int, width: int, base: str) -> str:
    """Hexadecimal digits, least first, with dots between; `width` counts both, an even one ends with a dot (BIND)."""
    digits = format(number, "X" if base == "N" else "x")[::-1].ljust((width + 1) // 2, "0")
    return ".".join(digits) + ("." if width == 2 * len(digits) else "")
