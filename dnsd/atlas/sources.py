"""What a directory of data files holds, read whole, with every fault in every file named at once.

Lives here: which files there are, the CSV tables, the operator's own prefixes. Does not live here: mmdb trees
(`atlas.mmdb`), prefix text (`atlas.prefixes`), what is made of it (`atlas.build`).

    geo/*.mmdb                     one City or Country database                      required
    asn/*.dat[.gz] or asn/*.mmdb   one pyasn table or ASN database                   asn/asnames.json[.gz]: names
    providers/asn_providers.csv    AS number -> provider (cloud, cdn) or carrier
    providers/carrier_lists.csv    prefix list file -> carrier; a list beats the AS number, but for a prefix that
                                   lists of several carriers claim the AS number decides
    sources.toml                   licence, attribution, version of each file: carried along, never needed
    and, from wherever the operator keeps it, a CSV `prefix,country,latitude,longitude,asn,carrier,provider,tag`
"""

from __future__ import annotations

import csv
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final, TypeVar

from dnsd.atlas import mmdb, prefixes
from dnsd.atlas.mmdb import Places
from dnsd.atlas.prefixes import V6, Prefix, Prefixes, SourceError
from dnsd.model import Fault

OPERATOR_COLUMNS: Final = ("prefix", "country", "latitude", "longitude", "asn", "carrier", "provider", "tag")
DISGUISES: Final = tuple(prefixes.parse(text) for text in ("::/64", "64:ff9b::/64", "2002::/16", "2001::/32"))
"""IPv6 that only carries IPv4 (mapped, NAT64, 6to4, Teredo): judged by the IPv4 inside, these have no origin of their
own. ::ffff:0:0/96 and 64:ff9b::/96 are all that is in use of their /64."""

_TAG: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_ROLES: Final = {"cloud": "provider", "cdn": "provider", "hosting": "provider", "carrier": "carrier"}
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that was read: path below the directory, octets, SHA-256, date (ISO), networks in it, and its terms."""

    path: str
    role: str
    size: int
    sha256: str
    date: str
    networks4: int = 0
    networks6: int = 0
    version: str = ""
    licence: str = ""
    attribution: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """One line of the operator's prefixes; None leaves what other sources or a wider line say."""

    place: str
    prefix: Prefix
    country: str | None
    position: tuple[float, float] | None
    asn: int | None
    carrier: str | None
    provider: str | None
    tag: str | None


def _none() -> dict[int, Prefixes]:
    return {4: prefixes.columns([]), 6: prefixes.columns([])}


@dataclass(slots=True)
class Sources:
    """All that was read. Values of `geo` index `places`, those of `carriers` `carrier_names`; `asn` has AS numbers."""

    directory: Path
    geo: dict[int, Prefixes] = field(default_factory=_none)
    places: Places = field(default_factory=Places)
    asn: dict[int, Prefixes] = field(default_factory=_none)
    carriers: dict[int, Prefixes] = field(default_factory=_none)
    carrier_names: list[str] = field(default_factory=lambda: [""])
    asn_carrier: dict[int, str] = field(default_factory=dict)
    asn_provider: dict[int, str] = field(default_factory=dict)
    as_names: dict[int, str] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    files: list[SourceFile] = field(default_factory=list)


def read(directory: Path, cidrs: Path | None = None) -> Sources:
    """Everything in the directory, and the operator's prefixes; SourceError with every fault of every file."""
    faults: list[Fault] = []
    sources = Sources(directory)
    terms: list[dict[str, str]] = []
    _guarded(faults, lambda: terms.extend(_terms(directory / "sources.toml")))
    places, others = Sources(directory), list[Fault]()
    with ThreadPoolExecutor(1) as beside:  # the largest file by far is read beside the others
        geo = beside.submit(_guarded, faults, partial(_geo, places, terms, faults))
        for step in (_asn, _as_names, _asn_providers, _carrier_lists):
            _guarded(others, partial(step, sources, terms, others))
        geo.result()
    sources.geo, sources.places, sources.files = places.geo, places.places, places.files + sources.files
    faults += others
    if cidrs is not None:
        _guarded(faults, partial(_operators, sources, cidrs, faults))
    if faults:
        raise SourceError(faults)
    return sources


def _guarded(faults: list[Fault], step: Callable[[], None]) -> None:
    """One file's reading; where it fails its faults join the others' and reading goes on."""
    try:
        step()
    except SourceError as problem:
        faults += problem.faults


def _geo(sources: Sources, terms: list[dict[str, str]], faults: list[Fault]) -> None:
    path = _only(sources.directory / "geo", ("*.mmdb",), required=True)
    if path is None:
        return
    networks = mmdb.read(path)
    if not any(kind in networks.kind for kind in ("City", "Country", "Enterprise")):
        raise SourceError([Fault(str(path), f"is a database of kind {networks.kind!r}, not City or Country")])
    sources.geo, sources.places = mmdb.places(path, networks, faults)
    _note(sources, terms, path, "geo", sources.geo, networks.built)


def _asn(sources: Sources, terms: list[dict[str, str]], faults: list[Fault]) -> None:
    path = _only(sources.directory / "asn", ("*.dat", "*.dat.gz", "*.mmdb"))
    if path is None:
        return
    built = None
    if path.suffix == ".mmdb":
        networks = mmdb.read(path)
        built = networks.built
        sources.asn = mmdb.as_numbers(path, networks, faults)
    else:
        sources.asn = prefixes.read_table(path, faults)
    _note(sources, terms, path, "asn", sources.asn, built)


def _as_names(sources: Sources, terms: list[dict[str, str]], faults: list[Fault]) -> None:
    path = _only(sources.directory / "asn", ("asnames.json", "asnames.json.gz"))
    if path is None:
        return
    try:
        names = json.loads(prefixes.contents(path))
    except ValueError as problem:
        raise SourceError([Fault(str(path), f"is no JSON: {problem}")]) from None
    if not isinstance(names, dict):
        raise SourceError([Fault(str(path), "is no object of AS number to name")])
    digits = "".join(names)
    if digits.isascii() and digits.isdigit() and "" not in names and set(map(type, names.values())) == {str}:
        sources.as_names = dict(zip(map(int, names), names.values(), strict=True))
    else:
        faults += prefixes.bounded(path, [
            Fault(f"{path}:/{number}", f"{name!r} is no name of an AS number") for number, name in names.items()
            if not (number.isascii() and number.isdigit() and isinstance(name, str))])
    _note(sources, terms, path, "asn names", None)


def _asn_providers(sources: Sources, terms: list[dict[str, str]], faults: list[Fault]) -> None:
    path = sources.directory / "providers" / "asn_providers.csv"
    if not path.exists():
        return
    for place, row in _rows(path, ("provider", "kind", "asn"), faults):
        try:
            asn, name, role = prefixes.as_number(row["asn"]), _tag(row, "provider"), _ROLES.get(row["kind"])
            if role is None:
                raise ValueError(f"kind {row['kind']!r} is none of {', '.join(_ROLES)}")
            table = sources.asn_provider if role == "provider" else sources.asn_carrier
            if name and table.setdefault(asn, name) != name:
                raise ValueError(f"AS{asn} already has the {role} {table[asn]}")
        except ValueError as problem:
            faults.append(Fault(place, str(problem)))
    _note(sources, terms, path, "providers", None)


def _carrier_lists(sources: Sources, terms: list[dict[str, str]], faults: list[Fault]) -> None:
    path = sources.directory / "providers" / "carrier_lists.csv"
    if not path.exists():
        return
    found: dict[int, dict[tuple[int, int], int]] = {4: {}, 6: {}}
    for place, row in _rows(path, ("file", "carrier"), faults):
        try:
            name = _tag(row, "carrier")
            if not name:
                raise ValueError("carrier is empty")
            if name not in sources.carrier_names:
                sources.carrier_names.append(name)
            listed = prefixes.read_list(path.parent / row["file"], sources.carrier_names.index(name), faults)
        except ValueError as problem:
            faults.append(Fault(place, str(problem)))
            continue
        except SourceError as problem:
            faults += problem.faults
            continue
        mine: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
        for prefix, value in listed:
            mine[prefix.family.version].append((prefix.key, prefix.length, value))
            claims = found[prefix.family.version]
            if claims.setdefault((prefix.key, prefix.length), value) != value:
                claims[prefix.key, prefix.length] = 0
        _note(sources, terms, path.parent / row["file"], "carrier list",
              {version: prefixes.columns(rows) for version, rows in mine.items()})
    _note(sources, terms, path, "carrier lists", None)
    sources.carriers = {version: prefixes.columns([(key, length, value) for (key, length), value in claims.items()])
                        for version, claims in found.items()}


def _operators(sources: Sources, path: Path, faults: list[Fault]) -> None:
    seen: dict[Prefix, str] = {}
    for place, row in _rows(path, OPERATOR_COLUMNS, faults):
        try:
            operator = _operator(place, row)
            if seen.setdefault(operator.prefix, place) != place:
                raise ValueError(f"{row['prefix']} is already at {seen[operator.prefix]}")
            sources.operators.append(operator)
        except ValueError as problem:
            faults.append(Fault(place, str(problem)))
    counts = {version: prefixes.columns([(o.prefix.key, o.prefix.length, 1) for o in sources.operators
                                         if o.prefix.family.version == version]) for version in (4, 6)}
    _note(sources, [], path, "operator prefixes", counts)


def _operator(place: str, row: dict[str, str]) -> Operator:
    """A checked line; ValueError tells everything wrong in it."""
    wrong: list[str] = []

    def checked(convert: Callable[[], _Result]) -> _Result | None:
        try:
            return convert()
        except ValueError as problem:
            wrong.append(str(problem))
            return None

    prefix = checked(lambda: _operator_prefix(row["prefix"]))
    country = checked(lambda: _country(row["country"]))
    position = checked(lambda: _position(row["latitude"], row["longitude"]))
    asn = checked(lambda: prefixes.as_number(row["asn"])) if row["asn"] else None
    carrier, provider, tag = (checked(partial(_tag, row, name)) for name in ("carrier", "provider", "tag"))
    if wrong or prefix is None:
        raise ValueError("; ".join(wrong))
    return Operator(place, prefix, country, position, asn, carrier, provider, tag)


def _operator_prefix(text: str) -> Prefix:
    prefix = prefixes.parse(text)
    if prefix.family is V6:
        if prefix.length > V6.bits:
            raise ValueError(f"{text!r} is finer than /{V6.bits}, which no IPv6 look-up tells apart")
        for disguise in DISGUISES:
            if prefix.length >= disguise.length and prefix.key >> (64 - disguise.length) == disguise.key >> (
                    64 - disguise.length):
                raise ValueError(f"{text!r} only carries IPv4: write the IPv4 prefix instead")
    return prefix


def _country(text: str) -> str | None:
    if text and not re.fullmatch(r"[A-Za-z]{2}", text):
        raise ValueError(f"country {text!r} is not two letters")
    return text.upper() or None


def _position(latitude: str, longitude: str) -> tuple[float, float] | None:
    if not latitude and not longitude:
        return None
    try:
        here = float(latitude), float(longitude)
    except ValueError:
        raise ValueError(f"position {latitude!r}, {longitude!r} is not two numbers") from None
    if not (math.isfinite(here[0]) and abs(here[0]) <= 90 and abs(here[1]) <= 180):
        raise ValueError(f"position {latitude}, {longitude} is not on Earth")
    return here


def _tag(row: dict[str, str], name: str) -> str | None:
    text = row[name]
    if text and not _TAG.fullmatch(text):
        raise ValueError(f"{name} {text!r} is not 1 to 32 of a-z 0-9 _ -")
    return text or None


def _rows(path: Path, columns: Sequence[str], faults: list[Fault]) -> Iterator[tuple[str, dict[str, str]]]:
    """A CSV's rows with their `file:line`; the first line names the columns, of which these must be there."""
    mine: list[Fault] = []
    names: list[str] | None = None
    for number, line in prefixes.lines(path, prefixes.contents(path), mine):
        fields = [cell.strip() for cell in next(csv.reader([line]))]
        if names is None:
            names = fields
            missing = [name for name in columns if name not in names]
            if missing:
                raise SourceError([*mine, Fault(f"{path}:{number}", f"columns missing: {', '.join(missing)}")])
        elif len(fields) != len(names):
            mine.append(Fault(f"{path}:{number}", f"{len(fields)} fields, the first line names {len(names)}"))
        else:
            yield f"{path}:{number}", dict(zip(names, fields, strict=True))
    if names is None:
        mine.append(Fault(f"{path}:1", "has no line that names the columns"))
    faults += prefixes.bounded(path, mine)


def _only(folder: Path, patterns: Sequence[str], *, required: bool = False) -> Path | None:
    """The one file of these patterns in a folder; several, or none where one is required, are a fault."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if len(found) > 1:
        raise SourceError([Fault(str(folder), f"several files, keep one: {', '.join(path.name for path in found)}")])
    if not found and required:
        raise SourceError([Fault(str(folder), f"no file {' or '.join(patterns)}")])
    return found[0] if found else None


def _terms(path: Path) -> list[dict[str, str]]:
    """The `[[source]]` tables of sources.toml."""
    if not path.exists():
        return []
    try:
        tables: Any = tomllib.loads(path.read_text()).get("source", [])
        return [{key: str(value) for key, value in table.items()} for table in tables]
    except (OSError, ValueError, AttributeError) as problem:
        raise SourceError([Fault(str(path), str(problem))]) from None


def _note(sources: Sources, terms: list[dict[str, str]], path: Path, role: str, found: dict[int, Prefixes] | None,
          built: int | None = None) -> None:
    """Remembers a file that was read, with its terms and its date: built, else declared, else last changed."""
    name = str(path.relative_to(sources.directory)) if path.is_relative_to(sources.directory) else str(path)
    term = next((term for term in terms if fnmatch(name, term.get("file", ""))), {})
    stat = path.stat()
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    when = datetime.fromtimestamp(stat.st_mtime if built is None else built, UTC).date().isoformat()
    date = when if built is not None else term.get("date", when)
    sources.files.append(SourceFile(
        name, role, stat.st_size, digest, date,
        len(found[4]) if found else 0, len(found[6]) if found else 0,
        *(term.get(key, "") for key in ("version", "licence", "attribution", "url"))))
