"""How far from the fastest site clients are sent, by how much of them is measured: `python bench/mapping.py`.

Ten of a hundred cities at random are sites, the others clients with five real prefixes each; the truth is the round
trips between the cities (`../shared/data/rtt`, or `DNSD_SHARED_DATA`), each measured cell off by a third of its
path's deviation of the day. Shares of the blocks are measured, at all sites: whole cities (what is asked is then known
of no neighbour in the same town, which is how figures of other work are told), or blocks wherever they are. Each
trial goes the real way: the measured table, `atlas.derive`, the map file, a compiled record, `choose`. Beside it
what needs no measurement: any site at random, the nearest, the nearest that shares the client's AS; and what is
measured believed where it is and the nearest measured city's row elsewhere. AWS regions likewise, five as sites.

The atlas is cut down to the runs that hold the clients, for the sake of speed; places are the atlas's, or (`true`) the
cities' own. Told: milliseconds over the site that is truly fastest.

Lives here: trials. Does not live here: the atlas of two hundred runs and the truth (`cities`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import cities
import nodes
import numpy as np
import plots
from results import RESULTS, Told, arguments, machine, put, table

from dnsd.atlas import derive, store, tablefile
from dnsd.compile import service
from dnsd.dns import names, types
from dnsd.image.record import Plan
from dnsd.image.table import MapTable
from dnsd.model import EndpointView, MapView, ServiceView
from dnsd.rtt.table import Table
from dnsd.steer import draw, policy

SHARES: Final = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
AIMS: Final = {0.05: 8.0, 0.2: 5.0, 0.5: 2.5, 1.0: 1.0}
"""Mean milliseconds of `latency`."""
PRESETS: Final = ("latency", "geo")
KINDS: Final = ("cities", "cities, between", "blocks", "blocks, between", "true", "true, between", "AWS",
                "AWS, between")
"""Whole cities or blocks at random, at the atlas's places or the true ones; with round trips between sites or not."""
PLAIN: Final = ("random", "distance", "country", "distance + ASN", "nearest measured")


class Trial(NamedTuple):
    """Of one choice of sites: ms over the best of each block, by way of choosing; what the map said of itself."""

    extra: dict[str, np.ndarray]
    said: dict[str, object]


def main() -> int:
    """The command."""
    parser = arguments(__doc__)
    parser.add_argument("--atlas", type=Path, default=nodes.ATLAS, help="folder of a built atlas")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--kinds", default=";".join(KINDS), help="parted by ;")
    parser.add_argument("--shares", default=",".join(f"{share:g}" for share in SHARES))
    parser.add_argument("--json", type=Path, help="figures of all trials")
    parser.add_argument("--plots", type=Path, help="folder of pictures; with --out, build/bench/plots")
    options = parser.parse_args()
    if not cities.DATA.exists():
        print(f"{cities.DATA} is not here", file=sys.stderr)
        return 1
    atlas = store.open_atlas(options.atlas)
    worlds = {"AWS": cities.regions(), "true": cities.cities(None), "": cities.cities(atlas)}
    shares, seeds = [float(share) for share in options.shares.split(",")], 5 if options.quick else options.seeds
    found: dict[tuple[str, float], list[Trial]] = {}
    for kind in options.kinds.split(";"):
        world = worlds.get(kind.split(",")[0], worlds[""])
        for share in shares:
            found[kind, share] = [_trial(world, kind, share, seed) for seed in range(seeds)]
            means = {way: np.concatenate([one.extra[way] for one in found[kind, share]]).mean()
                     for way in found[kind, share][0].extra}
            print(kind, share, *(f"{way} {mean:.2f}" for way, mean in means.items()), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(list(_figures(found)), indent=1) + "\n")
    if options.plots or options.out:
        _draw(found, shares, options.plots or RESULTS.parent.parent / "build" / "bench" / "plots")
    put(options.out, "mapping", _section(found, shares, seeds))
    return 0


def _trial(world: cities.World, kind: str, share: float, seed: int) -> Trial:
    rng = np.random.default_rng(seed)
    sites = rng.choice(len(world.ms), world.sites, replace=False)
    block = np.flatnonzero(~np.isin(world.city, sites) & np.isfinite(world.ms[world.city][:, sites]).all(axis=1))
    truth = world.ms[world.city[block]][:, sites]
    chosen = _measured(world.city[block], share, rng, whole="blocks" not in kind)
    noise = rng.normal(0, 1, truth.shape) * world.deviation[world.city[block]][:, sites] / 3
    seen = np.maximum(truth + noise, 0.1)[chosen]
    specs = [derive.SiteSpec(f"s{n}", world.at[city][0], world.at[city][1], asns=world.asns[city])
             for n, city in enumerate(sites)]
    measured = _table(specs, world.numbers[block[chosen]], seen, world.ms[np.ix_(sites, sites)]
                      if "between" in kind else None)
    extra = truth - truth.min(axis=1, keepdims=True)
    ways = _plain(world, sites, block, extra, (chosen, seen), rng)
    found, report = _answers(world.atlas, specs, measured, world.numbers[block])
    ways |= {preset: np.take_along_axis(extra, at[:, None], 1)[:, 0] for preset, at in found.items()}
    return Trial(ways, report)


def _measured(city: np.ndarray, share: float, rng: np.random.Generator, *, whole: bool) -> np.ndarray:
    """Which blocks are: a share of the cities with all theirs, or a share of the blocks; one at least unless 0."""
    units = np.unique(city) if whole else np.arange(len(city))
    count = round(share * len(units)) if not share else max(1, round(share * len(units)))
    some = rng.permutation(units)[:count]
    return np.flatnonzero(np.isin(city, some)) if whole else np.sort(some)


def _table(specs: Sequence[derive.SiteSpec], numbers: np.ndarray, seen: np.ndarray, between: np.ndarray | None,
           ) -> Table | None:
    """What is decided of these blocks; none where nothing is known at all."""
    if not len(numbers):
        return None
    measured = Table.zeros(tuple(spec.id for spec in specs), np.sort(numbers), number=1, at_ms=1)
    order = np.argsort(numbers)
    measured.ms[:] = np.clip(np.rint(seen[order] * 10), 1, 50_000)
    measured.error[:], measured.count[:], measured.reporters[:], measured.weight[:] = 1, 30, 1, 1.0
    if between is not None:
        measured.between[:] = np.rint(np.nan_to_num(between) * 10)
    return measured


def _plain(world: cities.World, sites: np.ndarray, block: np.ndarray, extra: np.ndarray,
           known: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What others do."""
    km = cities.kilometres(world.place[block], np.array(world.at)[sites])
    alike = np.array([[world.asn[one] in world.asns[city] for city in sites] for one in block])
    home = world.country[block][:, None] == world.country_of[sites]
    found = {"random": rng.integers(0, len(sites), len(block)), "distance": km.argmin(axis=1),
             "country": np.where(home.any(axis=1), np.where(home, km, np.inf).argmin(axis=1),
                                 rng.integers(0, len(sites), len(block))),
             "distance + ASN": np.where(alike, km - 1e5, km).argmin(axis=1)}
    chosen, seen = known
    found["nearest measured"] = found["distance"]
    if len(chosen):
        nearest = cities.kilometres(world.place[block], world.place[block[chosen]])
        nearest[chosen, np.arange(len(chosen))] = -1
        found["nearest measured"] = seen[nearest.argmin(axis=1)].argmin(axis=1)
    return {way: np.take_along_axis(extra, at[:, None], 1)[:, 0] for way, at in found.items()}


def _answers(atlas: cities.Atlas, specs: Sequence[derive.SiteSpec], measured: Table | None, numbers: np.ndarray,
             ) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The site that each block gets by each preset."""
    with tempfile.TemporaryDirectory(prefix="dnsd-mapping-") as folder:
        derived, vectors = derive.fill(atlas, specs, measured)  # type: ignore[arg-type]
        tablefile.write(Path(folder) / "map", derived, atlas=1, made_ms=1)
        maps = MapTable((Path(folder) / "map").read_bytes())
    view = MapView(0, "map", tuple(spec.id for spec in specs))
    live = tuple(EndpointView(spec.id, spec.id, bytes((192, 0, 2, n)), None) for n, spec in enumerate(specs))
    found = {}
    for preset in PRESETS:
        plan = Plan(service.record(ServiceView(names.to_wire("api.example."), policy.PRESETS[preset], 60, frozenset(
            {types.A}), live), {0: view}))
        chosen = np.zeros(len(numbers), np.int64)
        for at, number in enumerate(numbers.tolist()):
            group = plan.top(0, maps.find4(number)[0], maps)
            chosen[at] = draw.first(plan.seed(number, 1), group, plan.keys, plan.weights)  # endpoint n is of site n
        found[preset] = chosen
    return found, derive.told(vectors)


def _mean(trials: Sequence[Trial], way: str) -> Told:
    """The mean of all clients of all trials, and its 95 % interval by drawing trials again and again."""
    means, rng = np.array([one.extra[way].mean() for one in trials]), np.random.default_rng(1)
    drawn = np.sort(rng.choice(means, (1000, len(means))).mean(axis=1))
    return Told(float(means.mean()), float(drawn[25]), float(drawn[975]))


def _figures(found: Mapping[tuple[str, float], Sequence[Trial]]) -> Iterator[dict[str, object]]:
    for (kind, share), trials in found.items():
        for way in trials[0].extra:
            extra, told = np.concatenate([one.extra[way] for one in trials]), _mean(trials, way)
            yield {"kind": kind, "share": share, "way": way, "mean_ms": round(told.middle, 3),
                   "interval_ms": [round(told.low, 3), round(told.high, 3)],
                   **{f"p{p}_ms": round(float(np.percentile(extra, p)), 2) for p in (50, 95, 99)},
                   "not_optimal": round(float((extra > 0).mean()), 4), "trials": len(trials),
                   "used": sum(bool(one.said["used"]) for one in trials)}


def _draw(found: Mapping[tuple[str, float], Sequence[Trial]], shares: Sequence[float], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in dict.fromkeys(kind for kind, _ in found):
        groups = {f"{100 * share:g} %": {way: _mean(found[kind, share], way) for way in (
            "distance", "distance + ASN", "nearest measured", *PRESETS)} for share in shares}
        name = "mapping-" + kind.lower().replace(", ", "-")
        (folder / f"{name}.svg").write_text(plots.bars(
            f"ms over the fastest site by the share that is measured: {kind}", groups, most=25.0), encoding="utf-8")


def _section(found: Mapping[tuple[str, float], Sequence[Trial]], shares: Sequence[float], seeds: int) -> list[str]:
    lines = ["## Milliseconds over the fastest site", "", machine(), "", (
        f"{seeds} random choices of ten of 100 cities as sites, the others' 5 prefixes each as clients; the mean of "
        "all, with a 95 % interval, by the share of blocks that is measured. `cities`: these are all of some cities' "
        "blocks; `blocks`: wherever they are; `true`: whole cities, at their own places instead of the atlas's; `AWS`: "
        "five of 21 regions; `between`: round trips between sites are known. "
        f"Aims for `latency`: {', '.join(f'{ms:g} ms at {100 * share:g} %' for share, ms in AIMS.items())}.")]
    for kind in dict.fromkeys(kind for kind, _ in found):
        lines += [f"### {kind}", *table(
            ("ms", *(f"{100 * share:g} %" for share in shares)),
            [(way, *(f"{_mean(found[kind, share], way):.1f}" for share in shares)) for way in (*PLAIN, *PRESETS)])]
    lines += ["### 95th and 99th percentile, and the share that is not sent to the fastest", *table(
        ("", *(f"{100 * share:g} %" for share in shares)),
        [(f"{kind}: {way}", *(_tail(np.concatenate([one.extra[way] for one in found[kind, share]]))
                              for share in shares))
         for kind in dict.fromkeys(kind for kind, _ in found) for way in ("distance", "nearest measured", *PRESETS)])]
    return lines


def _tail(extra: np.ndarray) -> str:
    return f"{np.percentile(extra, 95):.0f} / {np.percentile(extra, 99):.0f} / {100 * (extra > 0).mean():.0f} %"


if __name__ == "__main__":
    sys.exit(main())
