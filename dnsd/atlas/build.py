"""The atlas from data files: every address's origin, checked, and only then put in the old one's place.

Lives here: the order of the layers and how an origin is made of them. Does not live here: reading (`atlas.sources`),
nesting (`atlas.flatten`), the file (`atlas.store`), the check (`atlas.check`).

Layers, each cut to units by itself: place, AS number, carrier by prefix list; above them the operator's prefixes, one
layer for each field, so that an empty field leaves what lies below. Carrier and provider by AS number follow the AS
number that comes out. Operator prefixes finer than a unit go into a second table that only whole resolver addresses
are looked up in. What is worked out is worked out once for each distinct combination of layers, not for each run.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import check, flatten, prefixes, sources, store
from dnsd.atlas.flatten import Cells, Runs
from dnsd.atlas.mmdb import Places
from dnsd.atlas.prefixes import U32, U64, V4, V6, Family, Prefixes
from dnsd.atlas.sources import Operator, SourceFile, Sources

OPERATOR_FIELDS: Final = ("country", "position", "asn", "carrier", "provider", "tag")
BASE: Final = ("geo", "asn", "carriers")
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built: content digest, octets, distinct origins and places, runs, fine pieces, AS numbers with a name;
    units that took a vote; addresses checked; files; seconds; this process's peak resident MiB so far."""

    atlas: str
    digest: str
    size: int
    origins: int
    places: int
    runs4: int
    runs6: int
    fine4: int
    fine6: int
    votes: int
    checked: int
    sources: tuple[SourceFile, ...]
    seconds: float
    peak_mib: int


class Fine(NamedTuple):
    """First and last keys of pieces finer than a unit, and for each the value of every layer: those of BASE, then of
    OPERATOR_FIELDS."""

    starts: U64
    ends: U64
    layers: list[U32]


def build(source_dir: Path, out: Path, *, cidrs: Path | None = None, progress: Progress | None = None) -> BuildReport:
    """Builds the atlas of a directory of data files (`atlas.sources` says which) into the directory `out`.

    `progress` is called with what is being done and how much is done, 0 to 1. SourceError (faults in files) and
    CheckError leave the atlas that is there.
    """
    began, tell = time.monotonic(), progress or (lambda _stage, _share: None)
    tell("reading sources", 0.0)
    found = sources.read(source_dir, cidrs)
    tell("flattening prefixes", 0.5)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = out / f".new.{os.getpid()}"
    about = {"directory": str(source_dir.resolve()), "cidrs": str(cidrs.resolve()) if cidrs else None,
             "sources": [asdict(file) for file in found.files]}
    with check.begin(found) as compare:
        arrays, votes = assemble(found)
        tell("writing", 0.75)
        try:
            size = store.write(beside, arrays, about)
            tell("checking against geoip2 and pyasn", 0.8)
            count = {name: len(array) for name, array in arrays.items()}
            arrays.clear()  # from here on the file is what counts
            atlas = store.Atlas(beside)
            checked = compare(atlas, votes)
            os.replace(beside, out / store.FILE)
        finally:
            beside.unlink(missing_ok=True)
    tell("done", 1.0)
    return BuildReport(
        str(out / store.FILE), f"{atlas.digest:016x}", size, count["asn"], count["latitude"], count["starts4"],
        count["starts6"], count["fine_origins4"], count["fine_origins6"], sum(len(units) for units in votes.values()),
        checked, tuple(found.files), round(time.monotonic() - began, 3),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def assemble(found: Sources) -> tuple[dict[str, NDArray[Any]], dict[int, U64]]:
    """The atlas's arrays, and for each family the units that took a vote. Uses up the prefixes in `found`: millions of
    them need not lie beside what is made of them."""
    with ThreadPoolExecutor(2) as both:
        tables = list(both.map(partial(_tables, found), (V4, V6)))
    layers = [_joined(parts)
              for parts in zip(*(part.layers for main, fine, _ in tables for part in (main, fine)), strict=True)]
    arrays, origin_of = _origins(found, layers)
    at = 0
    for family, (main, fine, _) in zip((V4, V6), tables, strict=True):
        combinations = len(main.layers[0])
        starts: Any = (main.starts >> flatten.UNIT).astype(np.uint32) if family is V4 else main.starts
        version = family.version
        arrays[f"starts{version}"], arrays[f"origins{version}"] = flatten.merged(
            starts, main.which, origin_of[at : at + combinations])
        at += combinations
        arrays[f"fine{version}"] = np.stack((fine.starts, fine.ends), axis=1).reshape(-1)
        arrays[f"fine_origins{version}"] = origin_of[at : at + len(fine.starts)]
        at += len(fine.starts)
    arrays.update(_names(found, arrays["asn"]))
    return arrays, {family.version: votes for family, (_, _, votes) in zip((V4, V6), tables, strict=True)}


def _tables(found: Sources, family: Family) -> tuple[Cells, Fine, U64]:
    """A family's runs of whole units, its finer pieces, and the units that took a vote."""
    base, votes = _base(found, family)
    return _main(found, family, base), _fine(found, family, base), votes


def _base(found: Sources, family: Family) -> tuple[list[Runs], U64]:
    """Place, AS number and carrier list as runs of whole units, and the units that took a vote."""
    layers, votes = [], []
    for name in BASE:
        table: Prefixes = getattr(found, name).pop(family.version)
        votes.append(table.clamped >> flatten.UNIT)
        runs, units = flatten.units(table, family)
        layers.append(runs)
        votes.append(units)
    return layers, prefixes.distinct(np.concatenate(votes))


def _main(found: Sources, family: Family, base: Sequence[Runs]) -> Cells:
    """The whole space in runs of units: the base under the operator's prefixes that are whole units."""
    mine = [(i, operator) for i, operator in enumerate(found.operators, 1)
            if operator.prefix.family is family and operator.prefix.length <= family.unit_bits]
    return flatten.cells([*base, *_operator_layers(mine, family)], _disguises(family))


def _operator_layers(operators: Sequence[tuple[int, Operator]], family: Family) -> list[Runs]:
    """For each field, the number of the operator line that decides it (0: none)."""
    return [flatten.flatten(prefixes.columns([
        (operator.prefix.key, operator.prefix.length, number) for number, operator in operators
        if getattr(operator, name) is not None]), family) for name in OPERATOR_FIELDS]


def _disguises(family: Family) -> Runs:
    """1 where IPv6 only carries IPv4."""
    mine = [prefix for prefix in sources.DISGUISES if prefix.family is family]
    return flatten.flatten(prefixes.columns([(prefix.key, prefix.length, 1) for prefix in mine]), family)


def _fine(found: Sources, family: Family, base: Sequence[Runs]) -> Fine:
    """The pieces of operator prefixes finer than a unit, over what the rest says of their unit."""
    mine = [(i, operator) for i, operator in enumerate(found.operators, 1) if operator.prefix.family is family]
    finer = [(operator.prefix.key, operator.prefix.length, 1) for _, operator in mine
             if operator.prefix.length > family.unit_bits]
    if not finer:
        empty = np.empty(0, np.uint64)
        return Fine(empty, empty, [np.empty(0, np.uint32) for _ in (*BASE, *OPERATOR_FIELDS)])
    covered = flatten.flatten(prefixes.columns(finer), family)
    starts, layers = flatten.overlay([covered, *_operator_layers(mine, family)])
    inside = layers[0] != 0
    starts, ends = starts[inside], _ends(starts, family)[inside]
    layers = [*(flatten.at(layer, starts) for layer in base), *(layer[inside] for layer in layers[1:])]
    return Fine(starts, ends, layers)


def _joined(parts: Sequence[U32]) -> U32:
    """One column; where all is 0 it takes no memory."""
    return np.concatenate(parts) if any(part.any() for part in parts) else np.zeros(sum(map(len, parts)), np.uint32)


def _ends(starts: U64, family: Family) -> U64:
    return np.append(starts[1:] - np.uint64(1), flatten.last_key(family))


def _origins(found: Sources, layers: Sequence[U32]) -> tuple[dict[str, NDArray[Any]], U32]:
    """The origin and place columns, and the origin of each combination; origin 0 is the unknown one."""
    place_of, asn, carrier_list, *by_operator = layers
    lines: dict[str, U32] = dict(zip(OPERATOR_FIELDS, by_operator, strict=True))
    texts = _Texts()
    places, place_of = _places(found, place_of, lines)
    asn = _said(found, lines["asn"], lambda operator: operator.asn, asn)
    carrier = _by_asn(asn, found.asn_carrier, texts)
    listed = np.array([texts.number(name) for name in found.carrier_names], np.uint32)[carrier_list]
    carrier = np.where(listed != 0, listed, carrier)
    columns = [
        place_of, asn,
        _said(found, lines["carrier"], lambda operator: texts.number(operator.carrier), carrier),
        _said(found, lines["provider"], lambda operator: texts.number(operator.provider),
              _by_asn(asn, found.asn_provider, texts)),
        _said(found, lines["tag"], lambda operator: texts.number(operator.tag), np.zeros_like(asn)),
    ]
    columns = [np.insert(column, 0, 0) for column in columns]  # nothing known sorts first and so becomes origin 0
    distinct, number = flatten.groups(columns)
    arrays: dict[str, NDArray[Any]] = {name: column[distinct] for name, column in zip(
        ("place", "asn", "carrier", "provider", "tag"), columns, strict=True)}
    arrays.update(
        latitude=places.latitude, longitude=places.longitude, country=places.country, region=places.region,
        texts=np.frombuffer("\n".join(texts.all).encode(), np.uint8))
    return arrays, number[1:].astype(np.uint32)


class _Texts:
    """Carrier, provider and tag names by number; 0 is none."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}

    @property
    def all(self) -> list[str]:
        """The names in the order of their numbers."""
        return list(self.numbers)

    def number(self, text: str | None) -> int:
        return self.numbers.setdefault(text or "", len(self.numbers))


def _said(found: Sources, lines: U32, field: Callable[[Operator], int | None], otherwise: U32) -> U32:
    """What the operator's lines say in a field, else what is there."""
    if not lines.any():
        return otherwise
    values = np.zeros(len(found.operators) + 1, np.uint32)
    for number in prefixes.distinct(lines[lines != 0]):
        values[number] = field(found.operators[number - 1]) or 0
    return np.where(lines != 0, values[lines], otherwise)


def _by_asn(asn: U32, table: Mapping[int, str], texts: _Texts) -> U32:
    """The text number of each AS number's name in a table."""
    if not table:
        return np.zeros_like(asn)
    values = np.zeros(max(table) + 2, np.uint32)  # the last for all greater numbers
    for number in sorted(table):
        values[number] = texts.number(table[number])
    return values[np.minimum(asn, len(values) - 1)]


def _places(found: Sources, place_of: U32, lines: Mapping[str, U32]) -> tuple[Places, U32]:
    """Places as the operator's countries and positions change them, and each combination's place."""
    changing = np.flatnonzero(lines["country"] | lines["position"])
    if not len(changing):
        return found.places, place_of
    known = [found.places[number] for number in range(len(found.places))]
    places = {place: number for number, place in enumerate(known)}
    columns = [place_of[changing], lines["country"][changing], lines["position"][changing]]
    first, which = flatten.groups(columns)
    numbers = []
    for place, country, position in zip(*(column[first].tolist() for column in columns), strict=True):
        changed = known[place]
        if country:
            changed = changed._replace(country=found.operators[country - 1].country or "")
        if position:
            latitude, longitude = found.operators[position - 1].position or (0.0, 0.0)
            changed = changed._replace(latitude=latitude, longitude=longitude)
        numbers.append(places.setdefault(changed, len(places)))
    place_of = place_of.copy()
    place_of[changing] = np.array(numbers, np.uint32)[which]
    return Places(list(places)), place_of


def _names(found: Sources, asns: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The names of the AS numbers that occur."""
    numbers = [asn for asn in prefixes.distinct(asns).tolist() if asn in found.as_names]
    names = [found.as_names[asn].encode() for asn in numbers]
    return {"name_asn": np.array(numbers, np.uint32), "names": np.frombuffer(b"".join(names), np.uint8),
            "name_at": np.cumsum([0, *map(len, names)])}
