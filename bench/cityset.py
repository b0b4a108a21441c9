"""A data directory of GeoLite2 City's size, for measuring: `python bench/cityset.py OUT [--seed N]`.

3.7 million IPv4 and 2.3 million IPv6 networks, some 116,000 records with city names in four languages, copies of the
IPv4 tree for mapped, 6to4 and Teredo addresses, nodes in the order of a walk: what MaxMind's own file looks like. Made
from the bundled database by splitting networks at random and giving each place a hundred towns; the other files are
links to the bundled ones. The same seed makes the same file, octet for octet.

Lives here: making that file. Does not live here: measuring with it (`atlas`). mmdb_writer encodes the records; the tree
is written here, for six million networks would take it an hour.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from mmdb_writer import METADATA_MAGIC, Encoder
from numpy.typing import NDArray
from servers import ROOT

from dnsd.atlas import mmdb
from dnsd.atlas.prefixes import V4, V6, Family

WANTED: Final = {4: 3_700_000, 6: 2_300_000}
FINER: Final = 0.02
"""The share of splits that may go below a /24 or /56; DB-IP's file has 64,000 /24s of several places."""
TOWNS: Final = 116_000
BUILT: Final = 1_767_225_600
ALIASES: Final = ((0x2002 << 48, 16), (0x20010000 << 32, 32))
TO_V4: Final = -2  # a leaf that stands for the IPv4 tree's root


class Leaves(NamedTuple):
    """Disjoint prefixes by key: first keys, lengths, values (record numbers, or TO_V4)."""

    keys: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    values: NDArray[np.int64]


class Tree(NamedTuple):
    """Two children for each node: a node's number, or -1 (nothing), or `-2 - value` of a leaf."""

    children: NDArray[np.int64]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    make(options.out, options.seed)


def make(out: Path, seed: int = 1) -> Path:
    """Writes the directory; returns it."""
    random = np.random.default_rng(seed)
    bundled = next((ROOT / "data" / "geo").glob("*.mmdb"))
    networks = mmdb.read(bundled)
    towns = _towns(networks)
    leaves = {family.version: _split(networks, family, towns, random) for family in (V4, V6)}
    tree4 = _tree(leaves[4], V4.bits)
    tree6 = _tree(_with_aliases(leaves[6]), V6.bits)
    nodes = _joined(tree6, tree4)
    encoder = Encoder(cache=True, float_type="f64")
    offsets = _records(encoder, networks.records, towns, random)
    (out / "geo").mkdir(parents=True, exist_ok=True)
    for name in ("asn", "providers", "sources.toml"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(ROOT / "data" / name)
    _write(out / "geo" / "city.mmdb", nodes, offsets, encoder)
    return out


def _towns(networks: mmdb.Networks) -> NDArray[np.int64]:
    """Where each record's towns begin in the numbering of all towns; a place of many networks has many."""
    count = sum(np.bincount(found.values, minlength=len(networks.records)) for found in networks.prefixes.values())
    share = np.sqrt(count)
    return np.concatenate(([0], np.cumsum(np.maximum(1, np.ceil(share / share.sum() * TOWNS).astype(np.int64)))))


def _split(networks: mmdb.Networks, family: Family, towns: NDArray[np.int64], random: np.random.Generator) -> Leaves:
    """The bundled networks, halved at random places until there are enough; the halves differ in their town."""
    found = networks.prefixes[family.version]
    order = np.argsort(found.keys, kind="stable")
    keys, lengths = found.keys[order], found.lengths[order].astype(np.int64)
    places = found.values[order].astype(np.int64)
    if family is V6:  # what lies under the copies of the IPv4 tree has to go
        keep = keys >= np.uint64(1 << 32)
        for alias, length in ALIASES:
            keep &= (keys >> np.uint64(64 - length)) != np.uint64(alias >> (64 - length))
        keys, lengths, places = keys[keep], lengths[keep], places[keep]
    room = towns[places + 1] - towns[places]
    near = keys >> np.uint64(family.bits - (14 if family is V4 else 32))  # neighbours share their town
    values = towns[places] + (near * np.uint64(2_654_435_761) >> np.uint64(7)).astype(np.int64) % room
    while len(keys) < WANTED[family.version]:
        limit = np.where(random.random(len(keys)) < FINER, family.bits, family.unit_bits)
        able = np.flatnonzero(lengths < limit)
        count = min(len(able), WANTED[family.version] - len(keys), max(1, len(keys) // 4))
        chosen = np.sort(random.choice(able, count, replace=False))
        lengths[chosen] += 1
        half = np.uint64(1) << (family.bits - lengths[chosen]).astype(np.uint64)
        first, room = towns[places[chosen]], towns[places[chosen] + 1] - towns[places[chosen]]
        step = random.choice([-1, 1], count)
        other = first + (values[chosen] - first + step) % room
        at = chosen + 1
        keys = np.insert(keys, at, keys[chosen] | half)
        lengths, places = np.insert(lengths, at, lengths[chosen]), np.insert(places, at, places[chosen])
        values = np.insert(values, at, other)
    return Leaves(keys, lengths, values)


def _with_aliases(leaves: Leaves) -> Leaves:
    """IPv6 leaves and, as leaves, the places where the IPv4 tree hangs; `::/64` stands for the path to it."""
    roots = [(0, 64), *ALIASES]
    keys = np.concatenate((np.array([key for key, _ in roots], np.uint64), leaves.keys))
    order = np.argsort(keys, kind="stable")
    lengths = np.concatenate((np.array([length for _, length in roots]), leaves.lengths))
    values = np.concatenate((np.full(len(roots), TO_V4), leaves.values))
    return Leaves(keys[order], lengths[order], values[order])


def _tree(leaves: Leaves, bits: int) -> Tree:
    """The search tree, its nodes numbered as a walk meets them.

    From the longest prefixes upwards every level's nodes are the distinct parents of the level below; then, from the
    root down, a node's left child follows it and the right one follows the left one's whole subtree.
    """
    below_keys = np.empty(0, np.uint64)  # nodes of the level below
    sizes = np.empty(0, np.int64)
    levels: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for depth in range(bits, 0, -1):
        mine = leaves.lengths == depth
        shift = np.uint64(bits - depth)
        keys = np.concatenate((below_keys, leaves.keys[mine] >> shift))
        refs = np.concatenate((np.arange(len(below_keys)), -2 - np.flatnonzero(mine)))
        order = np.argsort(keys, kind="stable")
        keys, refs = keys[order], refs[order]
        parents, which = np.unique(keys >> np.uint64(1), return_inverse=True)
        children = np.full((len(parents), 2), -1)
        children[which, (keys & np.uint64(1)).astype(np.intp)] = refs
        inner = np.where(children >= 0, np.append(sizes, 0)[np.maximum(children, 0)], 0)
        levels.append((children, inner))
        below_keys, sizes = parents, 1 + inner.sum(axis=1)
    total = int(sizes[0])
    out = np.full((total, 2), -1)
    place = np.zeros(1, np.int64)
    for children, inner in reversed(levels):
        left, right = place + 1, place + 1 + inner[:, 0]
        numbers = np.stack((left, right), axis=1)
        is_leaf = children < -1
        out[place] = np.where(children >= 0, numbers, children)
        out_leaf = out[place]
        out_leaf[is_leaf] = -2 - leaves.values[-2 - children[is_leaf]]
        out[place] = out_leaf
        kept = children >= 0
        below_place = np.zeros(int(kept.sum()), np.int64)
        below_place[children[kept]] = numbers[kept]
        place = below_place
    return Tree(out)


def _joined(six: Tree, four: Tree) -> NDArray[np.int64]:
    """One tree: the IPv6 nodes, the path from ::/64 to ::/96 and to ::ffff:0:0/96, the IPv4 nodes."""
    zero, mapped = len(six.children), len(six.children) + 32
    root = mapped + 15
    path = np.full((47, 2), -1)
    path[:32, 0] = np.arange(zero + 1, zero + 33)
    path[31, 0] = root
    path[16, 1] = mapped  # the 81st bit
    path[32:, 1] = np.arange(mapped + 1, mapped + 16)
    children = np.concatenate((six.children, path, np.where(four.children >= 0, four.children + root, four.children)))
    to_v4 = -2 - TO_V4
    holes = np.argwhere(children[:zero] == to_v4)
    for node, side in holes:
        children[node, side] = root
    first = 0  # ::/64 is found by its path, sixty-four times the left child
    for _ in range(63):
        first = int(children[first, 0])
    children[first, 0] = zero
    return children


def _records(encoder: Encoder, records: list[Any], towns: NDArray[np.int64], random: np.random.Generator) -> list[int]:
    """Each town's record, encoded; returns their offsets."""
    offsets = []
    for number, record in enumerate(records):
        for town in range(int(towns[number]), int(towns[number + 1])):
            if record is None:
                offsets.append(encoder.encode({"city": {"names": {"en": "Nowhere"}}}, return_offset=True))
                continue
            offsets.append(encoder.encode(_town(record, town, random), return_offset=True))
    return offsets


def _town(record: dict[str, Any], town: int, random: np.random.Generator) -> dict[str, Any]:
    where = record["location"]
    latitude, longitude = random.normal(0, 0.7, 2).tolist()
    names = {language: f"{begin}{town:x}" for language, begin in (
        ("de", "Stadt-"), ("en", "Town "), ("fr", "Ville "), ("ru", "Город "))}
    return {
        "city": {"geoname_id": 100_000 + town, "names": names},
        "continent": {**record["continent"], "names": {"en": record["continent"]["code"]}},
        "country": {**record["country"], "names": {"en": f"Land {record['country']['iso_code']}"}},
        "location": {
            "accuracy_radius": int(random.choice([5, 10, 20, 50, 100])),
            "latitude": round(max(-90.0, min(90.0, where["latitude"] + latitude)), 4),
            "longitude": round(math.remainder(where["longitude"] + longitude, 360), 4),
            "time_zone": "Etc/UTC"},
        "postal": {"code": f"{town % 99_999:05}"},
        "registered_country": {**record["country"], "names": {"en": f"Land {record['country']['iso_code']}"}},
        "subdivisions": record.get("subdivisions", []),
    }


def _write(path: Path, children: NDArray[np.int64], offsets: list[int], encoder: Encoder) -> None:
    """The file: nodes of 28-bit records, 16 zero octets, data, metadata (MaxMind DB format 2.0)."""
    nodes = len(children)
    data = b"".join(encoder.data_list)
    pointers = np.array(offsets, np.int64) + nodes + 16
    leaf = children < -1
    children[children == -1] = nodes
    children[leaf] = pointers[-2 - children[leaf]]
    if children.max() >= 1 << 28:
        raise ValueError("the tree does not fit in records of 28 bits")
    octets = np.zeros((nodes, 7), np.uint8)
    left, right = children[:, 0], children[:, 1]
    for i in range(3):
        octets[:, i] = left >> (16 - 8 * i) & 255
        octets[:, 4 + i] = right >> (16 - 8 * i) & 255
    octets[:, 3] = left >> 24 << 4 | right >> 24
    meta = Encoder(cache=False).encode_meta({
        "node_count": nodes, "record_size": 28, "ip_version": 6, "database_type": "Measuring-City", "languages": ["en"],
        "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": BUILT,
        "description": {"en": "made by bench/cityset.py; no real places"}})
    path.write_bytes(octets.tobytes() + bytes(16) + data + METADATA_MAGIC + meta)
    print(f"{path}: {nodes:,} nodes, {len(offsets):,} records, {path.stat().st_size:,} octets", file=sys.stderr)


if __name__ == "__main__":
    main()
