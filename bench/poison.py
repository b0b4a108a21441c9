"""What one lying reporter of ten can do to answers: `python bench/poison.py --atlas FOLDER`.

Ten of a hundred cities at random are sites (`../shared/data/rtt`, or `DNSD_SHARED_DATA`); each has an agent that
measures all the others' client blocks from there, five in each city, with noise, each five seconds. One agent lies.
All goes the real way: what is faster than light is dropped, the child folds, judges and decides, a map is derived
from its table. Told is the share of blocks whose best site by the map is another; clients weigh alike.
"""

from __future__ import annotations

import csv
import gzip
import os
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from results import arguments, machine, put, table
from servers import ROOT

from dnsd.atlas import derive, store
from dnsd.atlas.positions import positions
from dnsd.atlas.tablefile import Table as MapTable
from dnsd.registry.roundtrips import RoundTrip
from dnsd.rtt import blocks, frames, intake, items, shards
from dnsd.rtt.cells import EPOCH_S
from dnsd.rtt.child import Engine

CITIES: Final = Path(os.environ.get("DNSD_SHARED_DATA", ROOT.parent / "shared" / "data")) / "rtt"
SITES: Final = 10
Lie = Callable[[np.ndarray, np.random.Generator], np.ndarray]
LIES: Final[dict[str, Lie]] = {
    "everything is 1 ms away": lambda ms, rng: np.ones(len(ms)),
    "as near as light allows": lambda ms, rng: np.full(len(ms), np.nan),
    "half": lambda ms, rng: ms / 2,
    "a fifth less": lambda ms, rng: ms * 0.8,
    "100 ms more": lambda ms, rng: ms + 100,
    "30 ms more": lambda ms, rng: ms + 30,
    "three times": lambda ms, rng: ms * 3,
    "anything": lambda ms, rng: rng.uniform(1, 400, len(ms)),
    "the other way round": lambda ms, rng: np.maximum(300 - ms, 1),
    "a third of the clients 1 ms": lambda ms, rng: np.where(rng.random(len(ms)) < 1 / 3, 1.0, ms),
}


class World(NamedTuple):
    """Cities' ids and places, ms[from, to], each city's blocks."""

    places: list[tuple[float, float]]
    ms: np.ndarray
    clients: list[list[str]]


def main() -> int:
    """The command."""
    parser = arguments(__doc__)
    parser.add_argument("--atlas", type=Path, required=True, help="folder of a built atlas")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    if not CITIES.exists():
        print(f"{CITIES} is not here", file=sys.stderr)
        return 1
    world, atlas = _world(), store.open_atlas(options.atlas)
    lines = [
        "## One lying reporter of ten", "", machine(), "",
        "Ten of a hundred cities as sites, each agent measuring all clients of the others; one of the ten lies, for a "
        "minute. Blocks whose best site by the derived map is another then: where it was honest before, against its "
        "honest word; where it lies from the start, against a fleet without it. The mean, and the worst trial."]
    for nodes, head in ((False, "Agents alone"), (True, "Sites also have nodes, which measure each other")):
        lines += ["", f"### {head}", *table(
            ("the lie", "turns", "from the start", "not believed", "honest ones not believed"),
            _rows(world, atlas, range(1 if options.quick else options.seeds), nodes=nodes))]
    put(options.out, "poison", lines)
    return 0


def _rows(world: World, atlas: store.Atlas, seeds: range, *, nodes: bool) -> list[tuple[str, ...]]:
    """What each lie did."""
    found: dict[str, list[Trial]] = {name: [] for name in LIES}
    for seed in seeds:
        scene = Scene.of(world, atlas, seed, nodes=nodes)
        before = scene.answers()
        cut = scene.answers(silent=True)
        for name, lie in LIES.items():
            turned, who = scene.turned(lie)
            new, _ = scene.begun(lie)
            found[name].append(Trial(_share(turned, before), _share(new, cut), "agent-0" in who,
                                     len(who.keys() - {"agent-0"})))
    return [(name, *(f"{100 * np.mean([getattr(one, part) for one in some]):.1f} % "
                     f"({100 * max(getattr(one, part) for one in some):.1f})" for part in ("turned", "new")),
             f"{sum(one.caught for one in some)} of {len(some)}", str(sum(one.honest for one in some)))
            for name, some in found.items()]


class Trial(NamedTuple):
    """Shares of answers that moved; whether the liar was found; how many others were taken for one."""

    turned: float
    new: float
    caught: bool
    honest: int


class Scene(NamedTuple):
    """One choice of sites, and what their agents measure: ms and km [agent, block] (NaN: its own city's)."""

    atlas: store.Atlas
    specs: list[derive.SiteSpec]
    clients: list[str]
    numbers: np.ndarray
    ms: np.ndarray
    light: np.ndarray
    rng: np.random.Generator
    between: dict[str, dict[str, float]]

    @classmethod
    def of(cls, world: World, atlas: store.Atlas, seed: int, *, nodes: bool) -> Scene:
        """A scene by its seed; `nodes`: each site also has a node, which measures the other sites."""
        rng = np.random.default_rng(seed)
        cities = rng.choice(len(world.places), SITES, replace=False)
        specs = [derive.SiteSpec(f"s{n}", *world.places[city]) for n, city in enumerate(cities)]
        flat = [(city, block) for city, some in enumerate(world.clients) for block in some]
        clients = [block for _, block in flat]
        at = np.array([city for city, _ in flat])
        ms = world.ms[at][:, cities].T * np.exp(rng.normal(0, 0.03, (SITES, len(flat))))
        ms[at == cities[:, None]] = np.nan
        numbers = np.array([blocks.of(ip_network(one).network_address) for one in clients], np.uint64)
        light = np.array([_light(atlas, clients, spec) for spec in specs])
        between = {f"s{n}": {f"s{m}": float(world.ms[one, other]) for m, other in enumerate(cities) if m != n}
                   for n, one in enumerate(cities)} if nodes else {}
        return cls(atlas, specs, clients, numbers, ms, light, rng, between)

    def answers(self, *, silent: bool = False) -> np.ndarray:
        """The best sites when all are honest; or when the first says nothing at all."""
        state = State(self.between)
        self._minute(state, None, silent=silent)
        return self._answers(state)

    def turned(self, lie: Lie) -> tuple[np.ndarray, dict[str, str]]:
        """After the first was honest, and then is not."""
        state = State(self.between)
        self._minute(state, None)
        self._minute(state, lie)
        return self._answers(state), state.why

    def begun(self, lie: Lie) -> tuple[np.ndarray, dict[str, str]]:
        """When it lies from the start."""
        state = State(self.between)
        self._minute(state, lie)
        return self._answers(state), state.why

    def _minute(self, state: State, lie: Lie | None, *, silent: bool = False) -> None:
        """Twelve batches of each agent and as many rounds, as the child has them."""
        places = {spec.id: intake.Place(n, spec.latitude, spec.longitude) for n, spec in enumerate(self.specs)}
        for _ in range(12):
            state.now_s += 5
            for number, spec in enumerate(self.specs):
                if silent and not number:
                    continue
                seen = self.ms[number]
                if lie is not None and not number:
                    seen = lie(seen, self.rng)
                    seen = np.where(np.isnan(seen) & ~np.isnan(self.ms[0]), self.light[0], seen)
                told = [RoundTrip(client=block, rtt_ms=ms, count=9, site=spec.id)
                        for block, ms in zip(self.clients, seen.tolist(), strict=True) if ms == ms]
                sifted = intake.sift(told, None, places, lambda some: positions(self.atlas, some))
                gathered = items.Gathered()
                gathered.add(f"agent-{number}", tuple(places), sifted.rows, sifted.fast)
                state.take(gathered.entries("n", (EPOCH_S + state.now_s) * 1000))
            state.round()

    def _answers(self, state: State) -> np.ndarray:
        parts = [shards.read(part) for part in state.parts.values() if part]
        measured = shards.joined(parts, [spec.id for spec in self.specs], {}, number=1, at_ms=1)
        return _best(derive.make(self.atlas, self.specs, measured), self.clients)


class State:
    """The child's engine and the parts it has written."""

    def __init__(self, between: dict[str, dict[str, float]]) -> None:
        self.engine, self.now_s = Engine(), 1000
        self.parts: dict[int, bytes] = {}
        self.why: dict[str, str] = {}
        self._ask("begin", number=0, between=between)

    def take(self, entries: list[bytes]) -> None:
        """Entries of the log."""
        self._ask("fold", entries)

    def round(self) -> None:
        """Decide."""
        told = self._ask("round")
        self.parts |= dict(zip(told.head.get("written", ()), told.parts, strict=True))
        self.why = {name: one["distrusted"] for name, one in told.head["reporters"].items() if "distrusted" in one}

    def _ask(self, do: str, parts: list[bytes] | None = None, **head: object) -> frames.Frame:
        octets = self.engine.answer(frames.Frame(
            {"do": do, "now_ms": (EPOCH_S + self.now_s) * 1000, **head}, parts or []))
        text, body = frames.sizes(octets[:8])
        return frames.unpacked(octets[8 : 8 + text], octets[8 + text : 8 + text + body])


def _share(one: np.ndarray, other: np.ndarray) -> float:
    return float((one != other).mean())


def _light(atlas: store.Atlas, clients: list[str], spec: derive.SiteSpec) -> np.ndarray:
    """The least that is not dropped."""
    numbers = np.array([blocks.of(ip_network(one).network_address) for one in clients], np.uint64)
    latitude, longitude = (np.radians(part) for part in positions(atlas, numbers))
    there = np.radians((spec.latitude, spec.longitude))
    half = np.sin((there[0] - latitude) / 2) ** 2 + np.cos(latitude) * np.cos(there[0]) * np.sin(
        (there[1] - longitude) / 2) ** 2
    return np.nan_to_num(2 * 6371 * np.arcsin(np.sqrt(half)) / intake.KM_PER_MS, nan=0.0) * 1.01 + 0.2


def _best(derived: MapTable, clients: list[str]) -> np.ndarray:
    """The site with the least level in each block's row."""
    keys = np.array([int(ip_network(one).network_address) for one in clients], np.uint64)
    shift = np.uint64(8 if int(derived.starts4.max()) < 1 << 24 else 0)
    at = np.searchsorted(derived.starts4.astype(np.uint64), keys >> shift, "right") - 1
    rows = derived.rows[derived.rows4[at]]
    return rows[:, : rows.shape[1] // 2].argmin(axis=1)


def _world() -> World:
    rows = list(csv.DictReader((CITIES / "cities.csv").read_text(encoding="utf-8").splitlines()))
    at = {row["id"]: number for number, row in enumerate(rows)}
    ms = np.full((len(rows), len(rows)), np.nan)
    with gzip.open(CITIES / "city_rtt.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ms[at[row["from"]], at[row["to"]]] = float(row["avg_ms"])
    clients: list[list[str]] = [[] for _ in rows]
    for row in csv.DictReader((CITIES / "city_prefixes.csv").read_text(encoding="utf-8").splitlines()):
        clients[at[row["server_id"]]].append(row["client_prefix"])
    return World([(float(row["latitude"]), float(row["longitude"])) for row in rows], ms, clients)


if __name__ == "__main__":
    sys.exit(main())
