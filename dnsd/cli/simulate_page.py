"""A simulation as a page: pictures drawn in the page itself, tables below, nothing fetched from anywhere.

Lives here: HTML with inline SVG, and a PNG where matplotlib is installed. Does not live here: the figures
(`control.outcome`), the table on a terminal (`simulate`).

Everything shown is escaped, but what is formatted as a number: names come from data files and operators, and all of it
from whatever answers at the address that was given.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any, Final

from dnsd.cli.failure import Exit, Failure

WIDTH, LEFT, ROW, GAP = 760, 120, 22, 8
BEFORE, AFTER, FULL = "#8d96a3", "#0b6e4f", "#d1495b"
COLORS: Final = ("#0b6e4f", "#30638e", "#edae49", "#d1495b", "#6a4c93", "#7fb69e", "#c2b8a3", "#444444", "#8d96a3",
                 "#b5651d", "#2f9e9e", "#a33b6f")
CURVE_HEIGHT, FLOW_HEIGHT, FLOW_LEAST = 220, 320, 0.002
CREDIT: Final = ('<a href="https://db-ip.com">IP Geolocation by DB-IP</a>, AS data by Route Views and NRO '
                 "(where the bundled data are used)")
_STYLE: Final = """body{font:14px/1.45 sans-serif;color:#222;max-width:820px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:.7em 0 1.6em}td,th{padding:.15em .8em .15em 0;text-align:left}
td.n,th.n{text-align:right}tr+tr{border-top:1px solid #eee}svg{max-width:100%;height:auto}
.full{color:#d1495b;font-weight:bold}footer{color:#777;font-size:12px}"""


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    changes = "".join(f"<li>{escape(change)}</li>" for change in found["changes"]) or "<li>no change</li>"
    clients = found["clients"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dnsd simulate</title>',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style></head><body><h1>What would be</h1><ul>{changes}</ul>",
        f"<p><b>{found['moved']:.2%}</b> of the clients move, {found['had_to']:.2%} had to. "
        f"{escape(str(clients['number']))} clients: {escape(clients['source'])}. Version "
        f"{escape(str(found['version']))}; round trips ",
        f"from table {escape(str(found['table']))}." if found["table"] else "by distance.", "</p>", "<h2>Sites</h2>",
        sites(found), _sites_table(found)]
    for one in found["services"]:
        parts += [f"<h2>{escape(one['service'])}</h2>",
                  f"<p>{one['moved']:.2%} move, {one['had_to']:.2%} had to.</p>", flows(one), curve(one), _trips(one),
                  _flows(one)]
        parts += [_groups(kind, one[kind]) for kind in ("countries", "networks", "carriers") if one.get(kind)]
    parts.append(f"<footer>{CREDIT}</footer></body></html>\n")
    return "\n".join(parts)


# --- pictures ---


def sites(found: dict[str, Any]) -> str:
    """Two bars for each site: before and after; of capacity where the load is known, else of all clients."""
    used = any(one["used_after"] is not None for one in found["sites"])
    values = [(one["site"], *((one["used_before"], one["used_after"]) if used else (one["before"], one["after"])),
               one["full"]) for one in found["sites"]]
    most = max([1.0 if used else 0.01, *(value or 0.0 for _, *pair, _ in values for value in pair)])
    scale, parts = (WIDTH - LEFT - 60) / most, []
    for number, (name, before, after, full) in enumerate(values):
        y = number * (ROW + GAP) + 24
        parts.append(_text(LEFT - 8, y + 15, name, "end"))
        for offset, value, color in ((0, before, BEFORE), (ROW / 2, after, FULL if full else AFTER)):
            if value is None:
                continue
            parts.append(f'<rect x="{LEFT}" y="{y + offset:.0f}" width="{value * scale:.1f}" '
                         f'height="{ROW / 2 - 1:.0f}" fill="{color}"/>')
            parts.append(_text(LEFT + value * scale + 4, y + offset + 9, f"{value:.1%}", size=9))
    height = len(values) * (ROW + GAP) + 30
    if used:
        parts.append(f'<path d="M{LEFT + scale:.1f} 20V{height - 6}" stroke="#222" stroke-dasharray="4 3"/>')
    title = "of capacity, before and after" if used else "of all clients, before and after"
    return _svg(height, [_text(LEFT, 12, title), *parts], "sites before and after")


def flows(one: dict[str, Any]) -> str:
    """Where clients are and go: a ribbon for every flow, from sites before to sites after."""
    before, after = (_blocks(one[side]["sites"]) for side in ("before", "after"))
    names = list(dict.fromkeys([*before, *after]))
    color = {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}
    right, parts = WIDTH - LEFT - 14, []
    start, end = ({name: y for name, (y, _) in blocks.items()} for blocks in (before, after))
    moved = [(flow["from"], flow["to"], flow["share"]) for flow in one["flows"] if flow["share"] >= FLOW_LEAST]
    lost = {name: sum(share for source, _, share in moved if source == name) for name in names}
    stay = [(name, name, one["before"]["sites"].get(name, 0.0) - lost[name]) for name in names]
    for source, target, share in sorted([*stay, *moved], key=lambda flow: flow[0] != flow[1]):
        if share < FLOW_LEAST or source not in start or target not in end:
            continue
        y0, y1, height = start[source], end[target], share * FLOW_HEIGHT
        start[source] += height
        end[target] += height
        middle = (LEFT + 14 + right) / 2
        parts.append(
            f'<path d="M{LEFT + 14} {y0:.1f}C{middle} {y0:.1f} {middle} {y1:.1f} {right} {y1:.1f}v{height:.1f}'
            f'C{middle} {y1 + height:.1f} {middle} {y0 + height:.1f} {LEFT + 14} {y0 + height:.1f}z" '
            f'fill="{color[source]}" opacity="{0.18 if source == target else 0.75}">'
            f"<title>{escape(source)} to {escape(target)}: {share:.2%}</title></path>")
    for blocks, x, at, anchor in ((before, LEFT, LEFT - 6, "end"), (after, right, right + 20, "start")):
        for name, (y, share) in blocks.items():
            parts.append(f'<rect x="{x}" y="{y:.1f}" width="14" height="{max(share * FLOW_HEIGHT, 0.5):.1f}" '
                         f'fill="{color[name]}"/>')
            if share >= 0.01:
                parts.append(_text(at, y + share * FLOW_HEIGHT / 2 + 4, f"{name} {share:.1%}", anchor))
    height = int(FLOW_HEIGHT + 3 * max(len(before), len(after)) + 30)
    return _svg(height, [_text(LEFT, 12, "who goes where"), *parts], "flows between sites")


def curve(one: dict[str, Any]) -> str:
    """The share of clients within so many milliseconds, before and after."""
    sides = [(one[side]["rtt_ms"], color) for side, color in (("before", BEFORE), ("after", AFTER))]
    known = [(trips["curve"], color) for trips, color in sides if trips]
    if not known:
        return ""
    most = max(max(values) for values, _ in known) or 1.0
    parts = [_text(LEFT, 12, "share of clients within so many milliseconds: grey before, green after")]
    for step in range(5):
        y, x = 24 + CURVE_HEIGHT * (1 - step / 4), LEFT + (WIDTH - LEFT - 60) * step / 4
        parts += [f'<path d="M{LEFT} {y:.0f}H{WIDTH - 60}" stroke="#eee"/>',
                  _text(LEFT - 8, y + 4, f"{step / 4:.0%}", "end"),
                  _text(x, CURVE_HEIGHT + 40, f"{most * step / 4:.0f} ms", "middle")]
    for values, color in known:
        points = [(0.0, 0.0), *((ms, (number + 1) / len(values)) for number, ms in enumerate(values))]
        path = " ".join(f"{LEFT + (WIDTH - LEFT - 60) * ms / most:.1f},{24 + CURVE_HEIGHT * (1 - share):.1f}"
                        for ms, share in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
    return _svg(CURVE_HEIGHT + 50, parts, "round trips before and after")


def png(found: dict[str, Any]) -> bytes:
    """Sites and round trips as a picture; a `Failure` where matplotlib is not installed."""
    try:
        import matplotlib.figure as figures  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise Failure(Exit.FAILED, "a PNG needs matplotlib, which is not installed; --html needs nothing") from None
    services = [one for one in found["services"] if one["before"]["rtt_ms"] or one["after"]["rtt_ms"]]
    figure = figures.Figure(figsize=(9, 3.2 * (1 + len(services))), layout="constrained")
    axes = figure.subplots(1 + len(services), 1, squeeze=False)[:, 0]
    names, places = [one["site"] for one in found["sites"]], range(len(found["sites"]))
    axes[0].bar([x - 0.2 for x in places], [one["before"] for one in found["sites"]], 0.4, color=BEFORE, label="before")
    axes[0].bar([x + 0.2 for x in places], [one["after"] for one in found["sites"]], 0.4, label="after",
                color=[FULL if one["full"] else AFTER for one in found["sites"]])
    axes[0].set_xticks(list(places), names, rotation=30, ha="right")
    axes[0].set_ylabel("share of clients")
    axes[0].legend()
    for axis, one in zip(axes[1:], services, strict=True):
        for side, color in (("before", BEFORE), ("after", AFTER)):
            values = (one[side]["rtt_ms"] or {}).get("curve", [])
            axis.plot(values, [(number + 1) / len(values) for number in range(len(values))], color=color, label=side)
        axis.set_title(one["service"])
        axis.set_xlabel("ms")
        axis.set_ylabel("share of clients")
    octets = io.BytesIO()
    figure.savefig(octets, format="png", dpi=110)
    return octets.getvalue()


def _blocks(shares: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Site -> top and share, one below the other, the largest first."""
    found, y = {}, 24.0
    for name, share in sorted(shares.items(), key=lambda one: (-one[1], one[0])):
        found[name] = y, share
        y += share * FLOW_HEIGHT + 3
    return found


def _svg(height: int, parts: Iterable[str], title: str) -> str:
    return (f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
            f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>{"".join(parts)}</svg>')


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#222">{escape(text)}</text>'


# --- tables ---


def _sites_table(found: dict[str, Any]) -> str:
    rows = [(one["site"], f"{one['before']:.2%}", f"{one['after']:.2%}", _plain(one["load_after"]),
             _plain(one["capacity_after"]), "-" if one["used_after"] is None else f"{one['used_after']:.0%}")
            for one in found["sites"]]
    return _table(("site", "before", "after", "load", "capacity", "used"), rows,
                  ["full" if one["full"] else "" for one in found["sites"]])


def _trips(one: dict[str, Any]) -> str:
    rows = [(side, *(f"{one[side]['rtt_ms'][name]:.1f}" for name in ("mean", "p50", "p95", "p99")))
            for side in ("before", "after") if one[side]["rtt_ms"]]
    return _table(("ms", "mean", "p50", "p95", "p99"), rows)


def _flows(one: dict[str, Any]) -> str:
    return _table(("from", "to", "share", "ms before", "ms after"), [
        (flow["from"], flow["to"], f"{flow['share']:.2%}", _plain(flow["before_ms"]), _plain(flow["after_ms"]))
        for flow in one["flows"]])


def _groups(kind: str, groups: Sequence[dict[str, Any]]) -> str:
    return _table((kind, "share", "moves", "from", "to", "ms before", "ms after"), [
        (group["name"], f"{group['share']:.2%}", f"{group['moved']:.1%}", _plain(group["from"]), _plain(group["to"]),
         _plain(group["before_ms"]), _plain(group["after_ms"])) for group in groups])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    if not rows:
        return ""
    lines = list(_lines(rows, classes or [""] * len(rows)))
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{''.join(lines)}</table>"


def _lines(rows: Sequence[Sequence[str]], classes: Sequence[str]) -> Iterator[str]:
    for row, kind in zip(rows, classes, strict=True):
        cells = "".join(f"<td{' class=n' if cell[:1].isdigit() else ''}>{escape(cell)}</td>" for cell in row)
        yield f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>"


def _plain(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
