"""Pictures of measurements: grouped bars with their intervals, as SVG, in a few lines.

Lives here: drawing. Does not live here: what is drawn (`compare`).

Legible without colour: bars of a group stand in the order of the legend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from results import Told

_COLOURS: Final = ("#0b6e4f", "#7fb69e", "#d1495b", "#edae49", "#30638e", "#8d96a3", "#6a4c93", "#c2b8a3", "#444444")
_LEFT, _TOP, _HEIGHT, _BOTTOM, _BAR, _GAP = 46, 58, 260, 34, 13, 18


def bars(title: str, groups: Mapping[str, Mapping[str, Told]], *, most: float, line: float | None = None) -> str:
    """A picture: for each group a bar for each series it has, up to `most` (what is higher is cut off, with its number
    on it); a `line` across at some value."""
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    width = _LEFT + 12 + max(sum(len(group) * _BAR + _GAP for group in groups.values()), 110 * len(series))
    parts = [_text(_LEFT, 18, title, size=14)]
    for number, name in enumerate(series):
        x = _LEFT + number * 110
        parts += [f'<rect x="{x}" y="30" width="10" height="10" fill="{_COLOURS[number % len(_COLOURS)]}"/>',
                  _text(x + 14, 39, name)]
    for value in _ticks(most):
        y = _height(value, most)
        parts += [f'<path d="M{_LEFT} {y:.1f}H{width}" stroke="#ddd"/>', _text(_LEFT - 6, y + 4, f"{value:g}", "end")]
    x = _LEFT + _GAP / 2
    for name, group in groups.items():
        parts.append(_text(x + len(group) * _BAR / 2, _TOP + _HEIGHT + 18, name, "middle"))
        for one, value in group.items():
            parts += _bar(x, value, _COLOURS[series.index(one) % len(_COLOURS)], most)
            x += _BAR
        x += _GAP
    if line is not None:
        y = _height(line, most)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{width}" stroke="#222" stroke-dasharray="4 3"/>')
    height = _TOP + _HEIGHT + _BOTTOM
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif">', f'<rect width="{width}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def _bar(x: float, value: Told, colour: str, most: float) -> Sequence[str]:
    top, middle = _height(value.middle, most), x + _BAR / 2 - 1
    height = _TOP + _HEIGHT - top
    parts = [f'<rect x="{x:.1f}" y="{top:.1f}" width="{_BAR - 2}" height="{height:.1f}" fill="{colour}"/>',
             f'<path d="M{middle:.1f} {_height(value.low, most):.1f}V{_height(value.high, most):.1f}" stroke="#222"/>']
    if value.middle > most:
        parts.append(f'<text transform="translate({middle + 3:.1f} {_TOP + 30}) rotate(-90)" font-size="10" '
                     f'fill="#fff">{value.middle:.1f}</text>')
    return parts


def _height(value: float, most: float) -> float:
    return _TOP + _HEIGHT * (1 - min(value, most) / most)


def _ticks(most: float) -> Sequence[float]:
    step = next(step for step in (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if most / step <= 10)
    return [round(step * number, 3) for number in range(int(most / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222">{escape(text)}</text>'
