"""How results look: JSON for programs, aligned columns for people.

Lives here: `show`, `table`, `pairs`. Does not live here: what is shown, errors (`failure`), progress bars (`data`).

Tables are plain text, so that `grep` and `cut` work on them; rich draws only where a terminal is watching.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

_C1: Final = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
_PLAIN: Final = dict.fromkeys((*range(9), *range(11, 32), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")
"""Control characters but tab and line feed: reasons and names are other people's. In JSON the first 32 are escaped."""


def show(value: Any, *, as_json: bool, human: Callable[[Any], str]) -> None:
    """Prints `value`: as indented JSON, or as what `human` makes of it, without what would steer a terminal."""
    print(json.dumps(value, indent=2, ensure_ascii=False).translate(_C1) if as_json else human(value).translate(_PLAIN))


def table(rows: Iterable[Sequence[Any]], head: Sequence[str]) -> str:
    """Left-aligned columns under a head line, numbers right-aligned."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(head))]
    lines = [list(head), *cells]
    return "\n".join(
        "  ".join(cell.rjust(width) if end else cell.ljust(width)
                  for cell, width, end in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def pairs(values: Mapping[str, Any], indent: int = 0) -> str:
    """`key: value` lines; nested mappings and lists of mappings are set in below their key."""
    lines: list[str] = []
    width = max((len(str(key)) for key in values), default=0) + 2
    for key, value in values.items():
        start = " " * indent + str(key)
        if isinstance(value, Mapping) and value:
            lines += [start, pairs(value, indent + 2)]
        elif _is_table(value):
            head = list(dict.fromkeys(name for row in value for name in row))
            body = table(([row.get(name) for name in head] for row in value), head)
            lines += [start, *(" " * (indent + 2) + line for line in body.splitlines())]
        else:
            lines.append(f"{start:<{indent + width}}{_text(value)}")
    return "\n".join(lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_text(part)}" for key, part in value.items() if part not in (None, [], {})) or "-"
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value)) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit() or text == "-"
