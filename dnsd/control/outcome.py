"""What a simulation comes to: who would move from where to where, how far everybody is, how full sites are.

Lives here: adding up clients, one after another, to figures as JSON. Does not live here: what a client gets
(`simulating` asks), how it is shown (`cli.simulate`).

A client that is given several addresses is at each of their sites with an equal share. Shares are of the weight of all
clients. A site that is lost to a client moves it because it *had to*; every other move is one that it could do without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

LISTED: Final = 40
"""Countries, networks, carriers and flows listed, those with the most that moves first."""

CURVE: Final = 20
"""Parts the distribution of round trips is told in."""

FALLBACK: Final = "(fallback)"
NOBODY: Final = "(no answer)"
Shares = Mapping[str, float]
"""Site -> part of a client's answers, 1 altogether."""


class Told(NamedTuple):
    """Where a client is sent, and milliseconds to each site, as far as they are known."""

    shares: Shares
    ms: Mapping[str, float]

    def mean_ms(self) -> float | None:
        """Milliseconds to what it is sent to; None where one of these is not known."""
        if any(site not in self.ms for site in self.shares):
            return None
        return sum(share * self.ms[site] for site, share in self.shares.items())


class Asked(NamedTuple):
    """One client of one service: its weight, what it is a part of (kind -> name), what it gets before and after."""

    weight: float
    groups: Mapping[str, str]
    before: Told
    after: Told


@dataclass(slots=True)
class Sum:
    """Weight, what of it moves and had to, and milliseconds × weight of those whose milliseconds are known."""

    weight: float = 0.0
    moved: float = 0.0
    had_to: float = 0.0
    placed: float = 0.0
    before_ms: float = 0.0
    after_ms: float = 0.0
    flows: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def add(self, asked: Asked, flows: Mapping[tuple[str, str], float], had_to: float) -> None:
        """One client more."""
        before, after = asked.before.mean_ms(), asked.after.mean_ms()
        self.weight += asked.weight
        self.moved += asked.weight * sum(flows.values())
        self.had_to += asked.weight * had_to
        for flow, share in flows.items():
            self.flows[flow] += asked.weight * share
        if before is not None and after is not None:
            self.placed += asked.weight
            self.before_ms += asked.weight * before
            self.after_ms += asked.weight * after

    def told(self, name: str, whole: float) -> dict[str, Any]:
        """The sum as JSON: its share of `whole`, the part of itself that moves, and the largest way it takes."""
        largest = max(self.flows, key=lambda flow: (self.flows[flow], flow), default=None)
        return {
            "name": name, "share": _share(self.weight, whole), "moved": _share(self.moved, self.weight),
            "from": largest[0] if largest else None, "to": largest[1] if largest else None,
            "before_ms": _ms(self.before_ms, self.placed), "after_ms": _ms(self.after_ms, self.placed)}


class Tally:
    """Clients added up. `alive`: sites that can still be answered afterwards."""

    def __init__(self, alive: Iterable[str]) -> None:
        self.alive = frozenset(alive) | {FALLBACK, NOBODY}
        self.whole = Sum()
        self.sites: tuple[defaultdict[str, float], ...] = (defaultdict(float), defaultdict(float))
        self.ways: defaultdict[tuple[str, str], Sum] = defaultdict(Sum)
        self.groups: defaultdict[str, defaultdict[str, Sum]] = defaultdict(lambda: defaultdict(Sum))
        self.trips: tuple[list[tuple[float, float]], ...] = ([], [])

    def add(self, asked: Asked) -> None:
        """One client more."""
        flows = moves(asked.before.shares, asked.after.shares)
        had_to = sum(share for (source, _), share in flows.items() if source not in self.alive)
        self.whole.add(asked, flows, had_to)
        for kind, name in asked.groups.items():
            self.groups[kind][name].add(asked, flows, had_to)
        for side, told in enumerate((asked.before, asked.after)):
            for site, share in told.shares.items():
                self.sites[side][site] += asked.weight * share
            ms = told.mean_ms()
            if ms is not None:
                self.trips[side].append((ms, asked.weight))
        for (source, target), share in flows.items():
            way, weight = self.ways[source, target], asked.weight * share
            way.weight += weight
            if source in asked.before.ms and target in asked.after.ms:
                way.placed += weight
                way.before_ms += weight * asked.before.ms[source]
                way.after_ms += weight * asked.after.ms[target]

    def told(self) -> dict[str, Any]:
        """The figures as JSON."""
        whole = self.whole
        ways = sorted(self.ways.items(), key=lambda way: (-way[1].weight, way[0]))
        return {
            "clients_weight": whole.weight, "moved": _share(whole.moved, whole.weight),
            "had_to": _share(whole.had_to, whole.weight),
            "before": {"sites": _shares(self.sites[0], whole.weight), "rtt_ms": trips(self.trips[0], whole.weight)},
            "after": {"sites": _shares(self.sites[1], whole.weight), "rtt_ms": trips(self.trips[1], whole.weight)},
            "flows": [{
                "from": source, "to": target, "share": _share(way.weight, whole.weight),
                "before_ms": _ms(way.before_ms, way.placed), "after_ms": _ms(way.after_ms, way.placed)}
                for (source, target), way in ways[:LISTED]],
            **{kind: self._listed(groups) for kind, groups in sorted(self.groups.items())}}

    def _listed(self, groups: Mapping[str, Sum]) -> list[dict[str, Any]]:
        order = sorted(groups.items(), key=lambda one: (-one[1].moved, -one[1].weight, one[0]))
        return [group.told(name, self.whole.weight) for name, group in order[:LISTED]]


def moves(before: Shares, after: Shares) -> dict[tuple[str, str], float]:
    """What goes from which site to which: what a site loses, spread over those that gain as they gain."""
    lost = {site: share - after.get(site, 0.0) for site, share in before.items() if share > after.get(site, 0.0)}
    won = {site: share - before.get(site, 0.0) for site, share in after.items() if share > before.get(site, 0.0)}
    total = sum(won.values())
    return {(source, target): loss * gain / total for source, loss in lost.items() for target, gain in won.items()}


def trips(found: Sequence[tuple[float, float]], whole: float) -> dict[str, Any] | None:
    """Mean and quantiles of (milliseconds, weight), by weight, and the share of all weight they are known of."""
    weight = sum(weight for _, weight in found)
    if not weight:
        return None
    steps = [0.5, 0.95, 0.99, *(number / CURVE for number in range(1, CURVE + 1))]
    values = quantiles(found, steps)
    return {
        "mean": round(sum(ms * weight for ms, weight in found) / weight, 2),
        "p50": values[0], "p95": values[1], "p99": values[2], "curve": values[3:], "known_of": _share(weight, whole)}


def quantiles(found: Sequence[tuple[float, float]], steps: Sequence[float]) -> list[float]:
    """The least milliseconds that so much of the weight does not exceed, for each step."""
    ordered = sorted(found)
    weight, at, below = sum(weight for _, weight in ordered), 0, 0.0
    values = dict.fromkeys(steps, 0.0)
    for step in sorted(values):
        while at < len(ordered) - 1 and below + ordered[at][1] < step * weight * (1 - 1e-12):
            below += ordered[at][1]
            at += 1
        values[step] = round(ordered[at][0], 2)
    return [values[step] for step in steps]


def filled(site: Mapping[str, Any], before: float, after: float, *, load: float | None) -> dict[str, Any]:
    """A site's line: shares of all clients, and where the load of all is known, units against its capacity."""
    found: dict[str, Any] = {"site": site["id"], "before": round(before, 6), "after": round(after, 6)}
    for side, share in (("before", before), ("after", after)):
        capacity = site[f"capacity_{side}"]
        units = None if load is None else share * load
        found |= {f"capacity_{side}": capacity, f"load_{side}": None if units is None else round(units, 3),
                  f"used_{side}": round(units / capacity, 4) if units is not None and capacity else None}
    found["full"] = found["used_after"] is not None and found["used_after"] > 1
    return found


def _shares(sites: Mapping[str, float], whole: float) -> dict[str, float]:
    return {site: _share(weight, whole) for site, weight in sorted(sites.items())}


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def _ms(total: float, weight: float) -> float | None:
    return round(total / weight, 2) if weight else None
