"""Inference: from the blocks that were measured to what any client's round trip to any site is likely to be.

Lives here: residuals over distance, which evidence is used, how sure the result is. Does not live here: the field over
the earth (`rtt.infer_field`), effects of networks (`rtt.infer_rungs`), rows of a map (`atlas.derive`).

    estimate = distance, plus the field, plus the effects of country, carrier, AS, place, AS at the place, prefix

all in log(ms + SOFT_MS): a detour stretches a long way by more milliseconds than a short one, but the last miles do
not stretch at all. Each step is asked before it is used: every measured block is predicted from the others, and a
step that does not bring the milliseconds between sites closer is left out. What is
common to all sites is taken out of the question, for no answer depends on it. If all that is left is no better than
distance, distance it is, and the check says so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt import blocks, infer_field, infer_rungs
from dnsd.rtt.infer_field import Points
from dnsd.rtt.infer_rungs import Effects
from dnsd.steer import distance

SOURCES: Final = ("measured", "prefix", "as_place", "place", "as", "carrier", "country", "model", "distance")
"""Where an estimate comes from, in order of trust."""
MEASURED, PREFIX, _, _, _, _, _, MODEL, DISTANCE = range(len(SOURCES))
RUNGS: Final = ("country", "carrier", "as", "place", "as_place", "prefix")
"""From wide to narrow; each explains what is left by those before."""
WIDE: Final = RUNGS[:3]

SOFT_MS: Final = 100.0
KM_PER_MS: Final = 200.0
"""No estimate is below distance over this; as in `rtt.intake`."""
MOST: Final = 1.0
"""A residual beyond a factor of e is taken as that: it is a block at the wrong place, or a lie."""
BLOCKS_LEAST: Final = 4
"""Fewer can be used where they were measured, but cannot be checked, so nothing follows from them elsewhere."""
ASKED_MOST: Final = 20_000
"""Blocks that steps are asked of, chosen by their numbers: more would take longer and say the same."""
GAIN: Final = {"country": 0.97, "carrier": 0.97, "as": 0.97, "prefix": 0.9}
"""A rung must leave at most this share of the error: a wide one, that speaks for clients nobody measured near, less
than all; a prefix, which costs scopes, less still."""
PREFIX_BITS: Final = (4, 8)
"""Bits of a block's number that a prefix lacks: /20 and /40."""
SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
"""Numbers multiplied by it (modulo 2^64) are in no order."""
UNSURE: Final = 0.25
"""One sigma of distance alone, where no data say otherwise: in log(ms + SOFT_MS)."""

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


class Ground(NamedTuple):
    """What the atlas knows: places with their country's number, and each origin's place, AS, carrier (0: none)."""

    places: Points
    country: I64
    place: I64
    asn: I64
    carrier: I64


class Seen(NamedTuple):
    """Measured blocks: their numbers, origins, milliseconds (blocks, sites; NaN: none) and errors in milliseconds."""

    blocks: U64
    origin: I64
    ms: F64
    error: F64


class Check(NamedTuple):
    """Mean absolute error, in ms between sites, of cells predicted without themselves, `asked` of all there are: by
    distance, by what is used; `steps` are used, `why` says why none is."""

    cells: int
    asked: int
    distance_ms: float
    inferred_ms: float
    steps: tuple[str, ...]
    why: str


class Rung(NamedTuple):
    """A rung in use: the group of each origin (prefixes: the prefixes' numbers instead), and the groups' effects."""

    name: str
    of: I64
    effects: Effects


class Inferred(NamedTuple):
    """All that follows from what was measured. `base` and `spread` (variances) are (places, sites), in logs."""

    base: F64
    spread: F64
    least_ms: F64
    rungs: tuple[Rung, ...]
    prefixes: Rung | None
    own: F64
    """(blocks, sites): what a measured block has beyond all that, in logs, at every site."""
    left: float
    """Variance of it at sites where the block was not measured."""
    check: Check


def infer(ground: Ground, sites: Points, seen: Seen, between: F64) -> Inferred:
    """Everything from everything; `between` are milliseconds between sites, NaN where not known."""
    km = infer_field.kilometres(ground.places, sites)
    base = np.log(distance.BASE_MS + distance.MS_PER_KM * km + SOFT_MS)
    least = km / KM_PER_MS
    place = ground.place[seen.origin]
    with np.errstate(invalid="ignore"):
        logs = np.log(seen.ms + SOFT_MS)
    ask = _Question(seen, np.isfinite(base[place]))
    by_distance = ask.off(base[place[ask.rows]])
    residual = np.clip(logs - base[place], -MOST, MOST)
    spread = np.full(base.shape, _variance(residual))
    trials = _Trials(ground, sites, seen, ask)
    if ask.blocks < BLOCKS_LEAST:
        why = f"{ask.blocks} blocks are too few to check anything by"
        check = Check(ask.cells, ask.asked, by_distance, by_distance, (), why)
        return Inferred(base, spread, least, (), None, *_own(residual, seen, ask), check)
    steps, found, left_out = trials.climb(base, residual, between)
    inferred_ms = ask.off(left_out)
    if not steps or inferred_ms >= by_distance:
        why = f"distance is as good on what was measured: {by_distance:.1f} ms, inference {inferred_ms:.1f} ms"
        check = Check(ask.cells, ask.asked, by_distance, inferred_ms, (), why)
        return Inferred(base, spread, least, (), None, *_own(residual, seen, ask), check)
    check = Check(ask.cells, ask.asked, by_distance, inferred_ms, tuple(steps), "")
    spread = found.spread if found.spread is not None else spread
    rungs = tuple(rung for rung in found.rungs if rung.name != "prefix")
    prefixes = next((rung for rung in found.rungs if rung.name == "prefix"), None)
    return Inferred(found.base, spread, least, rungs, prefixes, *_own(found.residual, seen, ask), check)


class _Question:
    """How far predictions are off between sites: what is asked of every step."""

    def __init__(self, seen: Seen, known: NDArray[np.bool_]) -> None:
        here = np.isfinite(seen.ms) & known
        some = np.flatnonzero(here.any(axis=1))
        self.cells, self.blocks = int(here.sum()), len(some)
        if len(some) > ASKED_MOST:
            some = np.sort(some[np.argsort(seen.blocks[some] * SPREAD, kind="stable")[:ASKED_MOST]])
        self.rows = some
        """The blocks that are asked."""
        self._here = here[some]
        self._ms = np.where(self._here, seen.ms[some], 0.0)
        self._sites = np.maximum(self._here.sum(axis=1), 1)
        self.asked = int(self._here.sum())

    def off(self, logs: F64) -> float:
        """Mean absolute error in ms over cells, without what is common to a block's sites; `logs` are of `rows`."""
        if not self.asked:
            return 0.0
        error = np.where(self._here, np.exp(logs) - SOFT_MS - self._ms, 0.0)
        common = np.where(self._sites > 1, error.sum(axis=1) / self._sites, 0.0)
        return float(np.abs(error - common[:, None])[self._here].sum() / self.asked)


class _Found(NamedTuple):
    base: F64
    spread: F64 | None
    residual: F64
    rungs: list[Rung]


class _Trials:
    """The steps, one after another, each kept only if it helps."""

    def __init__(self, ground: Ground, sites: Points, seen: Seen, ask: _Question) -> None:
        self.ground, self.sites, self.seen, self.ask = ground, sites, seen, ask
        self.place = ground.place[seen.origin]

    def climb(self, base: F64, residual: F64, between: F64) -> tuple[list[str], _Found, F64]:
        """The steps that help, what they come to, and what is predicted of the blocks that are asked."""
        steps: list[str] = []
        rows = self.ask.rows
        predicted = base[self.place[rows]]
        best, spread = self.ask.off(predicted), None
        field, at_blocks = self._field(base, residual, between)
        at_blocks = at_blocks[rows]
        off = self.ask.off(predicted + at_blocks)
        if off < best:
            steps.append(SOURCES[MODEL])
            base, residual, spread = base + field.values, residual - field.values[self.place], field.variance
            predicted, best = predicted + at_blocks, off
        rungs = []
        for name in RUNGS:
            of, group, groups = self._groups(name)
            if groups < 2:
                continue
            found = infer_rungs.sums(residual, group, groups)
            size = infer_rungs.sizes(residual, group, found)
            without = self._without(name, residual, group, found, size)
            off = self.ask.off(predicted + without)
            if off >= best * GAIN.get(name, 1.0):
                continue
            effects = infer_rungs.effects(found, size)
            steps.append(name)
            rungs.append(Rung(name, of, effects))
            taken = effects.value[group]
            taken[group == 0] = 0.0
            residual, predicted, best = residual - taken, predicted + without, off
        return steps, _Found(base, spread, residual, rungs), predicted

    def _without(self, name: str, residual: F64, group: I64, found: infer_rungs.Sums, size: infer_rungs.Sizes) -> F64:
        """What a rung says of the blocks that are asked without themselves; a wide one, which is for where nobody near
        was measured, without all that is at their place."""
        rows = self.ask.rows
        if name not in WIDE:
            return infer_rungs.without_own(residual[rows], group[rows], found, size)
        _, mine = np.unique(group << 32 | self.place, return_inverse=True)
        mine = mine.reshape(-1)
        own = infer_rungs.sums(residual, mine, int(mine.max()) + 1)
        group, mine = group[rows], mine[rows]
        rest = infer_rungs.Sums(found.cells[group] - own.cells[mine], found.total[group] - own.total[mine])
        return infer_rungs.of_rest(rest, group, size)

    def _field(self, base: F64, residual: F64, between: F64) -> tuple[infer_field.Field, F64]:
        """The field, and what it says of each block as far as it does not know the block itself."""
        known = np.isfinite(residual).any(axis=1)
        places, at = np.unique(self.place[known], return_inverse=True)
        where = Points(self.ground.places.latitude[places], self.ground.places.longitude[places])
        station_of_place, count = infer_field.gather(where, len(self.sites.latitude))
        group = np.zeros(len(self.place), np.int64)
        group[known] = station_of_place[at] + 1
        found = infer_rungs.sums(residual, group, count + 1)
        weight = np.bincount(station_of_place, minlength=count)
        stations = _stations(found, Points(
            np.bincount(station_of_place, where.latitude, count) / weight,
            np.bincount(station_of_place, where.longitude, count) / weight), self.sites, between)
        field = infer_field.krige(stations, self.sites, self.ground.places)
        others = np.where(np.isfinite(field.left_out), field.left_out, 0.0)
        at_blocks = np.zeros(residual.shape)
        mine, own = group[known] - 1, np.nan_to_num(residual[known])
        cells = found.cells[mine + 1]
        apart = (own - found.total[mine + 1] / np.maximum(cells, 1)) / np.maximum(cells - 1, 1)
        at_blocks[known] = np.where(
            cells > 1, field.values[self.place[known]] - field.leverage[mine] * apart, others[mine])
        scale = _variance(stations.residual[:count] - others) / (infer_field.NUGGET**2 + infer_field.PATH**2)
        return field._replace(variance=field.variance * min(4.0, max(0.25, scale))), at_blocks

    def _groups(self, name: str) -> tuple[I64, I64, int]:
        """Of a rung: the group of each origin (or the prefixes' numbers), of each block, and how many; 0 is none."""
        if name == "prefix":
            keys = prefix_of(self.seen.blocks)
            numbers, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
            shared = (counts > 1).astype(np.int64)
            order = np.cumsum(shared) * shared
            return numbers[shared > 0].astype(np.int64), order[which.reshape(-1)], int(shared.sum()) + 1
        key_of = self._keys(name)
        mine = key_of[self.seen.origin]
        groups = np.unique(mine[mine > 0])
        if not len(groups):
            return np.zeros(len(key_of), np.int64), np.zeros(len(mine), np.int64), 1
        at = np.minimum(np.searchsorted(groups, key_of), len(groups) - 1)
        of = np.where(groups[at] == key_of, at + 1, 0)
        return of, of[self.seen.origin], len(groups) + 1

    def _keys(self, name: str) -> I64:
        ground = self.ground
        if name == "as_place":
            return np.where((ground.asn > 0) & (ground.place > 0), ground.asn << 24 | ground.place, 0)
        if name == "country":
            return ground.country[ground.place]
        return {"carrier": ground.carrier, "as": ground.asn, "place": ground.place}[name]


def _stations(found: infer_rungs.Sums, at: Points, sites: Points, between: F64) -> infer_field.Stations:
    """Where clients were measured, then the sites themselves, where they know one another."""
    count = found.cells[1:]
    residual = np.where(count > 0, found.total[1:] / np.maximum(count, 1), np.nan)
    variance = infer_field.NUGGET**2 / np.maximum(count, 1)
    apart = np.log(distance.BASE_MS + distance.MS_PER_KM * infer_field.kilometres(sites, sites) + SOFT_MS)
    mutual = np.clip(np.log(between + SOFT_MS) - apart, -MOST, MOST)
    np.fill_diagonal(mutual, np.nan)
    return infer_field.Stations(
        Points(np.append(at.latitude, sites.latitude), np.append(at.longitude, sites.longitude)),
        np.vstack((residual, mutual)), np.vstack((variance, np.zeros(mutual.shape))), len(residual))


def _own(residual: F64, seen: Seen, ask: _Question) -> tuple[F64, float]:
    """What a block has beyond all that: at sites where it was not measured what is common, as far as that is sure."""
    here = np.isfinite(residual)
    group = np.arange(1, len(residual) + 1)
    size = infer_rungs.sizes(residual, group, _padded(residual, here)) if here.any() else infer_rungs.Sizes(0, 0, 0)
    measured = np.where(here, (seen.error / (np.where(here, seen.ms, 0.0) + SOFT_MS)) ** 2, 0.0)
    weight = np.where(here, 1.0 / (size.own + measured + infer_rungs.TINY), 0.0)
    total = (weight * np.where(here, residual, 0.0)).sum(axis=1)
    shared = total / (weight.sum(axis=1) + 1.0 / (size.common + infer_rungs.TINY))
    return np.repeat(shared[:, None], residual.shape[1], axis=1), size.own + size.common


def _padded(residual: F64, here: NDArray[np.bool_]) -> infer_rungs.Sums:
    """Each block as a group of its own."""
    none = np.zeros((1, residual.shape[1]))
    return infer_rungs.Sums(
        np.vstack((none, here.astype(np.float64))), np.vstack((none, np.where(here, residual, 0.0))))


def _variance(residual: F64) -> float:
    """Of residuals without what is common to their row."""
    sites = np.isfinite(residual).sum(axis=1)
    rows = sites > 1
    if not rows.any():
        return UNSURE**2
    total = np.nansum(residual[rows], axis=1)
    return float(np.nanmean((residual[rows] - (total / sites[rows])[:, None]) ** 2)) + infer_rungs.TINY


def prefix_of(numbers: U64) -> U64:
    """The /20 or /40 of blocks, as a number."""
    six = (numbers & np.uint64(blocks.SIX)) > 0
    return np.where(six, numbers >> np.uint64(PREFIX_BITS[1]) | np.uint64(blocks.SIX), numbers >> np.uint64(
        PREFIX_BITS[0]))
