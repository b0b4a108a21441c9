"""A run as a timeline: one SVG file, a lane for the endpoint, each worker, and the users.

Lives here: `draw`. Does not live here: what is drawn (`trial`), the numbers beside it (`result`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from dnsd.drill.stage import FIRST, SECOND, THIRD
from dnsd.drill.trial import Trial

WIDTH, LEFT, RIGHT = 1180, 110, 20
LANE, GAP, TOP, USERS = 16, 5, 132, 34
COLORS: Final = {FIRST: "#2f6db5", SECOND: "#e08a1e", THIRD: "#7b4fa3", "several": "#6b7280", "nobody": "#c62828"}
DEAD: Final = "#c62828"
BEFORE_S: Final = 2.0
_LABEL: Final = 96
"""Room that a mark's text takes, in pixels; closer ones stand a line lower."""


class Canvas:
    """Seconds to pixels, and what has been drawn."""

    def __init__(self, first: float, last: float, lanes: int) -> None:
        self.first, self.last = first, last
        self.bottom = TOP + lanes * (LANE + GAP) + USERS
        self.parts: list[str] = []

    def x(self, at: float) -> float:
        """Where a moment is; what lies outside is at the edge."""
        share = (min(max(at, self.first), self.last) - self.first) / (self.last - self.first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def bar(self, lane: int, begin: float, end: float, color: str, title: str = "") -> None:
        """A span in a lane."""
        y, left, right = TOP + lane * (LANE + GAP), self.x(begin), self.x(end)
        if right > left:
            self.parts.append(f'<rect x="{left:.1f}" y="{y}" width="{right - left:.1f}" height="{LANE}" '
                              f'fill="{color}"><title>{escape(title)}</title></rect>')

    def text(self, x: float, y: float, text: str, more: str = "") -> None:
        """Words."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>')

    def line(self, x: float, top: float, color: str, more: str = "") -> None:
        """Upright, down to the axis."""
        self.parts.append(f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{self.bottom}" '
                          f'stroke="{color}" {more}/>')


def draw(trial: Trial) -> str:
    """The SVG text of a run that has been."""
    notes, result = trial.notes, trial.result
    workers = sorted({(turn.node, turn.worker) for turn in notes.turns})
    canvas = Canvas(-BEFORE_S, max(notes.done, notes.ended) - notes.began, len(workers) + 1)
    canvas.text(LEFT, 24, f"{result.fault}: {trial.fault.what}", 'font-size="17" font-weight="bold"')
    canvas.text(LEFT, 44, f"TTL {result.ttl} s, seed {result.seed}, run {result.run}; "
                + (f"missed: {', '.join(result.missed)}" if result.missed else "passed"))
    _legend(canvas)
    left, right = canvas.x(0), canvas.x(notes.ended - notes.began)
    canvas.parts.append(f'<rect x="{left:.1f}" y="{TOP - 4}" width="{right - left:.1f}" '
                        f'height="{canvas.bottom - TOP + 4}" fill="#fde8e8"/>')
    _axis(canvas)
    _endpoint(canvas, trial)
    for lane, (node, worker) in enumerate(workers, 1):
        _worker(canvas, trial, lane, node, worker)
    _users(canvas, trial, len(workers) + 1)
    _marks(canvas, trial)
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{canvas.bottom + 30}" '
        f'viewBox="0 0 {WIDTH} {canvas.bottom + 30}" font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>', *canvas.parts, "</svg>", ""))


def _legend(canvas: Canvas) -> None:
    x = LEFT
    for name, color in COLORS.items():
        canvas.parts.append(f'<rect x="{x}" y="54" width="12" height="12" fill="{color}"/>')
        canvas.text(x + 17, 64, name if name in ("several", "nobody") else f"answers {name}")
        x += 120
    canvas.text(x, 64, "x  a request that failed", f'fill="{DEAD}"')


def _axis(canvas: Canvas) -> None:
    for second in range(int(canvas.first), int(canvas.last) + 1):
        canvas.line(canvas.x(second), TOP - 4, "#e2e2e2")
        if second % 2 == 0:
            canvas.text(canvas.x(second), canvas.bottom + 16, f"{second} s", 'text-anchor="middle"')


def _endpoint(canvas: Canvas, trial: Trial) -> None:
    _name(canvas, 0, "first endpoint")
    end = trial.notes.ended - trial.notes.began
    for begin, until, dead in ((canvas.first, 0.0, False), (0.0, end, trial.fault.dies), (end, canvas.last, False)):
        canvas.bar(0, begin, until, DEAD if dead else COLORS[FIRST], "dead" if dead else "alive")


def _worker(canvas: Canvas, trial: Trial, lane: int, node: str, worker: str) -> None:
    began = trial.notes.began
    _name(canvas, lane, f"{node} {worker}")
    turns = [turn for turn in trial.notes.turns
             if (turn.node, turn.worker, turn.name) == (node, worker, trial.stage.api)]
    ends = [*(turn.at - began for turn in turns[1:]), canvas.last]
    for turn, end in zip(turns, ends, strict=True):
        who = _who(trial, turn.addresses)
        canvas.bar(lane, turn.at - began, end, COLORS[who], f"{turn.at - began:.2f} s: {who}")


def _users(canvas: Canvas, trial: Trial, lane: int) -> None:
    y = TOP + lane * (LANE + GAP)
    canvas.text(8, y + 14, "users")
    for request in trial.notes.requests:
        at = request.start - trial.notes.began
        if not canvas.first <= at <= canvas.last:
            continue
        who = _who(trial, [request.address] if request.address else [])
        title = f"<title>{at:.2f} s: {who}, {request.took * 1000:.0f} ms</title>"
        x = canvas.x(at)
        if request.ok:
            canvas.parts.append(f'<circle cx="{x:.1f}" cy="{y + 8}" r="2.5" fill="{COLORS[who]}">{title}</circle>')
        else:
            canvas.parts.append(f'<path d="M{x - 3:.1f} {y + 19}l6 6m0 -6l-6 6" stroke="{DEAD}" stroke-width="1.6">'
                                f"{title}</path>")


def _marks(canvas: Canvas, trial: Trial) -> None:
    """What the numbers are, in the picture; where two are close the later one's words stand lower."""
    rows = [0.0] * 3
    for at, text in sorted(_moments(trial)):
        x = canvas.x(at)
        row = next((i for i, end in enumerate(rows) if end <= x), len(rows) - 1)
        rows[row] = x + _LABEL
        y = 84 + 15 * row
        canvas.line(x, y + 3, "#111", 'stroke-dasharray="4 3"')
        if x + _LABEL > WIDTH:
            canvas.text(x - 3, y, text, 'text-anchor="end"')
        else:
            canvas.text(x + 3, y, text)


def _moments(trial: Trial) -> Iterator[tuple[float, str]]:
    result, end = trial.result, trial.notes.ended - trial.notes.began
    yield 0.0, "fault"
    yield end, "fault ends"
    for name, at in (("detected", result.detect), ("published", result.publish), ("last failed", result.last_failed),
                     ("all back", None if result.back is None else end + result.back)):
        if at is not None:
            yield at, f"{name} {at:.2f} s"


def _name(canvas: Canvas, lane: int, text: str) -> None:
    canvas.text(8, TOP + lane * (LANE + GAP) + LANE - 4, text)


def _who(trial: Trial, addresses: Iterable[str]) -> str:
    names = {server.address: name for name, server in trial.stage.tiers.items()}
    found = {names.get(address, "several") for address in addresses}
    return found.pop() if len(found) == 1 else "several" if found else "nobody"
