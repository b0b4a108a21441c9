"""The built atlas against its sources, looked up independently: a build that disagrees is thrown away.

Lives here: sampling addresses and comparing. Does not live here: building (`atlas.build`), the other way of looking an
address up (`atlas.raw`).

Units that took a vote, and what the operator's prefixes or IPv6 disguises cover, may differ by right and are left out.
Half the addresses stand at the edges of prefixes, where an error by one would show. The files are asked by a process of
its own, while the atlas is built.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from tempfile import TemporaryFile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import flatten, prefixes, store
from dnsd.atlas.prefixes import U64, V4, V6, Family
from dnsd.atlas.sources import DISGUISES, Sources

SAMPLES: Final = 2000
"""Addresses of each family."""


class CheckError(Exception):
    """The built atlas and its sources disagree: a defect of the build, or files that changed while it ran."""


@contextmanager
def begin(found: Sources) -> Iterator[Callable[[store.Atlas, Mapping[int, U64]], int]]:
    """Begins to ask the files, of addresses taken from the prefixes in `found`, which are not needed later.

    What it gives compares the answers with an atlas in which these units (by family) took a vote: it returns how many
    addresses were compared and raises CheckError with the first few that differ.
    """
    keys = {family.version: _sample(found, family) for family in (V4, V6)}
    addresses = [str(_address(family, key)) for family in (V4, V6) for key in keys[family.version].tolist()]
    files = {file.role: file.path for file in found.files}
    with TemporaryFile() as task, TemporaryFile() as said:
        task.write(json.dumps({"directory": str(found.directory), "files": files, "addresses": addresses}).encode())
        task.seek(0)
        with subprocess.Popen([sys.executable, "-m", "dnsd.atlas.raw"], stdin=task, stdout=said) as asking:

            def compare(atlas: store.Atlas, votes: Mapping[int, U64]) -> int:
                if asking.wait():
                    raise CheckError(f"the files could not be asked: exit code {asking.returncode}")
                said.seek(0)
                return _compare(found, atlas, keys, votes, iter(json.load(said)))

            try:
                yield compare
            finally:
                asking.kill()


def _compare(found: Sources, atlas: store.Atlas, asked: Mapping[int, U64], votes: Mapping[int, U64],
             answers: Iterator[dict[str, Any]]) -> int:
    checked, wrong = 0, []
    for family in (V4, V6):
        keys = asked[family.version]
        judged = (flatten.at(_ruled(found, family), keys) == 0) & ~np.isin(keys >> flatten.UNIT, votes[family.version])
        built = _built(atlas, atlas.numbers(family.version, keys))
        for key, counts, origin in zip(keys.tolist(), judged.tolist(), built, strict=True):
            said = next(answers)
            checked += counts
            if counts and any(origin[name] != value for name, value in said.items()):
                wrong.append(f"{_address(family, key)}: built {origin}, files say {said}")
    if wrong:
        raise CheckError(f"{len(wrong)} of {checked} addresses differ from the files; " + "; ".join(wrong[:3]))
    return checked


def _address(family: Family, key: int) -> IPv4Address | IPv6Address:
    return IPv4Address(key) if family is V4 else IPv6Address(key << 64 | 1)


def _built(atlas: store.Atlas, numbers: NDArray[np.uint32]) -> Iterator[dict[str, Any]]:
    """What the atlas has for each origin number, by the names that `atlas.raw` has."""
    place, asn = atlas.arrays["place"][numbers], atlas.arrays["asn"][numbers]
    columns = (atlas.arrays[name][place].tolist() for name in ("latitude", "longitude", "country", "region"))
    for latitude, longitude, country, region, number in zip(*columns, asn.tolist(), strict=True):
        known = latitude == latitude  # not NaN
        yield {"latitude": latitude if known else None, "longitude": longitude if known else None,
               "country": country.decode() or None, "region": region.decode() or None, "asn": number or None}


def _sample(found: Sources, family: Family) -> U64:
    """Keys in and at the edges of the sources' prefixes, and anywhere; the same for the same files."""
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
    return prefixes.distinct(np.concatenate(keys))


def _span(lengths: prefixes.U8, family: Family) -> U64:
    """All bits behind each length."""
    return np.where(lengths == family.bits, np.uint64(0),
                    flatten.last_key(family) >> np.minimum(lengths, family.bits - 1).astype(np.uint64))


def _ruled(found: Sources, family: Family) -> flatten.Runs:
    """1 where operator prefixes or disguises rule."""
    ruled = [operator.prefix for operator in found.operators] + list(DISGUISES)
    return flatten.flatten(prefixes.columns(
        [(prefix.key, prefix.length, 1) for prefix in ruled if prefix.family is family]), family)
