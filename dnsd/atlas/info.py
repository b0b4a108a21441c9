"""What the atlas and the maps are, how old, from what; and what they say of one address.

`info(atlas_dir, maps_dir) -> dict` and `lookup(atlas_dir, address) -> dict`, both ready for JSON; AtlasError where
there is no atlas. For many look-ups keep `store.open_atlas(dir)` and ask its `origin(address)`: some ten microseconds.

Lives here: reports. Does not live here: the data (`atlas.store`, `atlas.tablefile`), how they are shown (`cli.data`).
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from dnsd.atlas import raw, store, tablefile


def info(atlas_dir: Path, maps_dir: Path) -> dict[str, Any]:
    """`atlas`: path, digest, made (ISO), age in seconds, octets, prefixes read, runs, fine pieces, origins, places;
    `sources`: each file with its date and terms; `credits`: the lines that must be shown; `maps`: see `map_info`."""
    atlas = store.open_atlas(atlas_dir)
    sources: list[dict[str, Any]] = atlas.about["sources"]
    count = {name: len(array) for name, array in atlas.arrays.items()}
    return {
        "atlas": {
            "path": str(atlas.path), "digest": f"{atlas.digest:016x}", **_made(atlas.made),
            "size": atlas.path.stat().st_size, "directory": atlas.about["directory"], "cidrs": atlas.about["cidrs"],
            "prefixes4": sum(source["networks4"] for source in sources),
            "prefixes6": sum(source["networks6"] for source in sources),
            "runs4": count["starts4"], "runs6": count["starts6"],
            "fine4": count["fine_origins4"], "fine6": count["fine_origins6"],
            "origins": count["asn"], "places": count["latitude"]},
        "sources": sources,
        "credits": list(dict.fromkeys(
            f"{source['attribution']} ({source['licence']}) {source['url']}".strip()
            for source in sources if source["attribution"])),
        "maps": [map_info(path, atlas.digest) for path in sorted(maps_dir.glob("[!.]*")) if path.is_file()],
    }


def map_info(path: Path, atlas_digest: int) -> dict[str, Any]:
    """A map table's columns (`sites`), rows, runs, largest aligned scope blocks, octets, age, and whether it is derived
    from this atlas (`current`); `problem` alone where the file is damaged."""
    try:
        head, table = tablefile.read(path)
    except (OSError, ValueError) as problem:
        return {"file": path.name, "problem": str(problem)}
    blocks4, blocks6 = table.blocks()
    counts = {name: head[name] for name in ("sites", "rows", "runs4", "runs6", "fine4", "fine6", "size")}
    return {
        "file": path.name, **counts, "blocks4": blocks4, "blocks6": blocks6, **_made(head["made_ms"] // 1000),
        "current": head["atlas"] == atlas_digest}


def lookup(atlas_dir: Path, address: IPv4Address | IPv6Address) -> dict[str, Any]:
    """`address`, `inside` (the IPv4 it carries, or None), `origin` (as `store.Origin`), and `files`: what the source
    files themselves say, through geoip2 and pyasn; None, with `problem`, where they cannot be read any more."""
    atlas = store.open_atlas(atlas_dir)
    inside = store.unwrapped(address)
    said: dict[str, Any] | None = None
    problem = None
    try:
        files = {source["role"]: source["path"] for source in atlas.about["sources"]}
        with raw.lookup(Path(atlas.about["directory"]), files) as look:
            said = look(inside)
    except (OSError, ValueError) as error:
        problem = f"the source files cannot be read: {error}"
    return {"address": str(address), "inside": str(inside) if inside != address else None,
            "origin": asdict(atlas.origin(address)), "files": said, "problem": problem}


def _made(seconds: int) -> dict[str, Any]:
    return {"made": datetime.fromtimestamp(seconds, UTC).isoformat(), "age": max(0, int(time.time()) - seconds)}
