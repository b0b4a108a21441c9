"""The built atlas against its sources, looked up independently: a build that disagrees is thrown away.

Lives here: sampling addresses and comparing. Does not live here: building (`atlas.build`).

geoip2 and pyasn look an address up in the files as they are, by longest prefix, and share no code with the walk and
the flattening. Units that took a vote, and what the operator's prefixes or IPv6 disguises cover, may differ by right
and are left out. Half the addresses stand at the edges of prefixes, where an error by one would show.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any, Final

import geoip2.database
import geoip2.errors
import maxminddb
import numpy as np
import pyasn

from dnsd.atlas import flatten, prefixes, store
from dnsd.atlas.prefixes import U64, V4, V6, Family
from dnsd.atlas.sources import DISGUISES, Sources

SAMPLES: Final = 2000
"""Addresses of each family."""

Answer = dict[str, Any]
Address = IPv4Address | IPv6Address


class CheckError(Exception):
    """The built atlas and its sources disagree: a defect of the build, or files that changed while it ran."""


def check(found: Sources, atlas: store.Atlas, votes: Mapping[int, U64]) -> int:
    """Compares sampled addresses; returns how many, raises CheckError with the first few that differ."""
    with raw_lookup(found.directory, {file.role: file.path for file in found.files}) as lookup:
        checked, wrong = 0, []
        for family in (V4, V6):
            for address in _sample(found, family, votes[family.version]):
                origin, said = atlas.origin(address), lookup(address)
                said = {key: value for key, value in said.items() if not key.endswith("network")}
                built = {key: getattr(origin, key) for key in said}
                checked += 1
                if built != said:
                    wrong.append(f"{address}: built {built}, the files say {said}")
    if wrong:
        raise CheckError(f"{len(wrong)} of {checked} addresses differ from the files; " + "; ".join(wrong[:3]))
    return checked


@contextmanager
def raw_lookup(directory: Path, files: Mapping[str, str]) -> Iterator[Callable[[Address], Answer]]:
    """A function that looks an address up in the source files themselves: geo through geoip2, AS through pyasn.

    `files` are the paths by role (`geo`, `asn`). Answers have `latitude longitude country region geo_network` and
    `asn asn_network`, None where a file has nothing.
    """
    with ExitStack() as stack:
        readers = [_geo(stack, directory / files["geo"])] if "geo" in files else []
        if "asn" in files:
            readers.append(_asn(stack, directory / files["asn"]))
        yield lambda address: {key: value for read in readers for key, value in read(address).items()}


def _geo(stack: ExitStack, path: Path) -> Callable[[Address], Answer]:
    reader = stack.enter_context(geoip2.database.Reader(str(path)))
    kind = reader.metadata().database_type
    method = next(getattr(reader, name.lower()) for name in ("City", "Country", "Enterprise") if name in kind)

    def look(address: Address) -> Answer:
        try:
            said = method(address)
        except geoip2.errors.AddressNotFoundError:
            return dict.fromkeys(("latitude", "longitude", "country", "region", "geo_network"))
        location = getattr(said, "location", None)
        country = said.country.iso_code or said.registered_country.iso_code
        return {"latitude": location and location.latitude, "longitude": location and location.longitude,
                "country": country and country.upper(), "region": said.continent.code and said.continent.code.lower(),
                "geo_network": str(said.traits.network)}

    return look


def _asn(stack: ExitStack, path: Path) -> Callable[[Address], Answer]:
    if path.suffix == ".mmdb":
        reader = stack.enter_context(maxminddb.open_database(str(path)))  # geoip2 takes MaxMind's own kind only

        def look(address: Address) -> Answer:
            record, length = reader.get_with_prefix_len(address)
            number = record.get("autonomous_system_number") if isinstance(record, dict) else None
            return {"asn": number or None, "asn_network": str(ip_network((address, length), False)) if number else None}

        return look
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pyasn leaves the file open
        table = pyasn.pyasn(str(path))

    def look_up(address: Address) -> Answer:
        asn, network = table.lookup(str(address))
        return {"asn": asn or None, "asn_network": network}

    return look_up


def _sample(found: Sources, family: Family, votes: U64) -> Iterator[Address]:
    """Addresses in and at the edges of the sources' prefixes, and anywhere; the same ones for the same files."""
    random = np.random.default_rng(family.bits)
    keys = [random.integers(0, flatten.last_key(family), SAMPLES // 4, np.uint64, endpoint=True)]
    for table in (found.geo, found.asn):
        rows = table[family.version]
        if not len(rows):
            continue
        chosen = random.integers(0, len(rows), SAMPLES // 2)
        low, span = rows.keys[chosen], _span(rows.lengths[chosen], family)
        part = len(chosen) // 4
        keys += [low[:part], low[part : 2 * part] | span[part : 2 * part],
                 low[2 * part :] | random.integers(0, span[2 * part :], dtype=np.uint64, endpoint=True)]
    sampled = prefixes.distinct(np.concatenate(keys))
    skipped = _span_runs(found, family)
    sampled = sampled[(flatten.at(skipped, sampled) == 0) & ~np.isin(sampled >> flatten.UNIT, votes)]
    for key in sampled:
        yield IPv4Address(int(key)) if family is V4 else IPv6Address(int(key) << 64 | 1)


def _span(lengths: prefixes.U8, family: Family) -> U64:
    """All bits behind each length."""
    return np.where(lengths == family.bits, np.uint64(0),
                    flatten.last_key(family) >> np.minimum(lengths, family.bits - 1).astype(np.uint64))


def _span_runs(found: Sources, family: Family) -> flatten.Runs:
    """1 where operator prefixes or disguises rule."""
    ruled = [operator.prefix for operator in found.operators] + list(DISGUISES)
    return flatten.flatten(prefixes.columns(
        [(prefix.key, prefix.length, 1) for prefix in ruled if prefix.family is family]), family)
