"""`dnsd simulate`: what a change would do to clients, before it is made.

Lives here: the question from options and files, clients from a list or a query log, the table. Does not live here:
simulating (the daemon does it), the page and the pictures (`simulate_page`).
"""

from __future__ import annotations

import csv
import ipaddress
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer

from dnsd.cli.client import Admin
from dnsd.cli.display import show, table
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.fleet import read_object
from dnsd.cli.options import Session, command
from dnsd.model import Fault

PATIENCE_S: Final = 90.0
CLIENTS: Final = 10_000
OCTETS: Final = 1_000_000
"""Of all clients together, below what a body may have."""

HEAVIEST: Final = 1e15
TOLD: Final = 100
TYPES: Final = ("A", "AAAA", "HTTPS")
GROUPS: Final = ("countries", "networks", "carriers")
SHOWN: Final = 12


@command
def simulate(
    session: Session,
    file: Annotated[str, typer.Argument(help="a .toml or .json file as for `apply`; - is JSON")] = "",
    *,
    services: Annotated[list[str] | None, typer.Option("--service", help="look at this service; else at all")] = None,
    lose: Annotated[list[str] | None, typer.Option(help="SITE is lost")] = None,
    add: Annotated[list[str] | None, typer.Option(help="SITE=LAT,LON,COUNTRY,REGION is added")] = None,
    move: Annotated[list[str] | None, typer.Option(help="SITE=LAT,LON")] = None,
    weight: Annotated[list[str] | None, typer.Option(help="SITE=N or SERVICE/ENDPOINT=N")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="SERVICE:key=value,…, as preset=latency,band_ms=10")] = None,
    capacity: Annotated[list[str] | None, typer.Option(help="SITE=UNITS")] = None,
    rtt: Annotated[list[str] | None, typer.Option(help="SITE=+MS or SITE=-MS: so much farther from everybody")] = None,
    clients: Annotated[Path | None, typer.Option(help="CSV of prefix,weight[,service]")] = None,
    column: Annotated[str, typer.Option(help="the CSV's column of weights")] = "weight",
    log: Annotated[Path | None, typer.Option(help="a query log of dnsd: who asked, and how often")] = None,
    load: Annotated[float | None, typer.Option(help="units of load of all clients; else what sites report")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with pictures")] = None,
    png: Annotated[Path | None, typer.Option(help="write a picture; needs matplotlib")] = None,
) -> None:
    """Say who would be sent elsewhere, how far everybody would be, how full sites would be. Nothing is changed."""
    admin = session.admin()
    question = {
        "change": read_object(file) if file else {}, "services": services or [], "lost": lose or [],
        "added": [_added(text) for text in add or ()],
        "moved": {site: dict(zip(("latitude", "longitude"), _numbers(value, 2), strict=True))
                  for site, value in _pairs(move, "--move")},
        "weights": {name: int(_number(value)) for name, value in _pairs(weight, "--weight")},
        "policies": dict(_policy(text) for text in policy or ()),
        "capacities": {site: int(_number(value)) for site, value in _pairs(capacity, "--capacity")},
        "rtt_ms": {site: _number(value) for site, value in _pairs(rtt, "--rtt")}, "load": load}
    left = 0.0
    if clients is not None or log is not None:
        question["clients"], left = heaviest(
            weights(clients, column) if clients is not None else
            logged(log or Path(), services or [*_services(admin)]))
    found = replace(admin, patience=PATIENCE_S).call("POST", "/v1/simulate", body=question).body
    if left:
        found["clients"]["left_out"] = round(left, 6)
    if html is not None:
        from dnsd.cli import simulate_page
        _write(html, simulate_page.page(found).encode())
    if png is not None:
        from dnsd.cli import simulate_page
        _write(png, simulate_page.png(found))
    show(found, as_json=session.as_json, human=text)


# --- who asks ---

Row = dict[str, Any]


Who = tuple[str, str | None, bool]
"""A prefix, the one service it asks for, whether its resolver tells of it."""


def weights(path: Path, column: str) -> dict[Who, float]:
    """Weights by who asks, of a CSV with a head line, or of plain lines `prefix,weight`."""
    found: defaultdict[Who, float] = defaultdict(float)
    with _opened(path) as lines:
        rows: Iterator[list[str]] = iter(csv.reader(lines))
        head = next(rows, [])
        named = {name.strip(): number for number, name in enumerate(head)}
        if "prefix" not in named:
            named, rows = {"prefix": 0, column: 1, "service": 2}, chain([head], rows)
        if column not in named:
            raise Failure(Exit.USAGE, f"{path}: no column {column}; there are {', '.join(named)}")
        wrong: list[Fault] = []
        for number, row in enumerate(rows, 1):
            if not row or row[0].startswith("#"):
                continue
            try:
                prefix = str(ipaddress.ip_network(row[named["prefix"]].strip(), strict=False))
                weight = float(row[named[column]])
                if not 0 <= weight < HEAVIEST:
                    raise ValueError(f"a weight is 0 or more, not {row[named[column]]}")
            except (ValueError, IndexError) as error:
                wrong.append(Fault(f"row {number}", str(error)))
                continue
            at = named.get("service", len(row))
            found[prefix, (row[at].strip() or None) if at < len(row) else None, True] += weight
    _refuse(path, wrong)
    return found


def logged(path: Path, services: Sequence[str]) -> dict[Who, float]:
    """The same of a query log: each line stands for `every` queries of a service; other types and names are nothing."""
    found: defaultdict[Who, float] = defaultdict(float)
    wanted = {name.lower().removesuffix(".") for name in services}
    wrong: list[Fault] = []
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                told = json.loads(line)
                name = (told["qname"] or "").lower().removesuffix(".")
                while name and name not in wanted:  # a wildcard's, perhaps
                    name = "*." + name.removeprefix("*.").partition(".")[2] if name != "*." else ""
                ecs = told["ecs"] if told["ecs"] and not told["ecs"].endswith("/0") else None
                if told["client"] is None or told["qtype"] not in TYPES or name not in wanted:
                    continue
                network = ipaddress.ip_network(ecs or told["client"], strict=False)
                longest = 56 if network.version == 6 else 24
                if network.prefixlen > longest:
                    network = network.supernet(new_prefix=longest)
                found[str(network), name, ecs is not None] += int(told["every"] or 1)
            except (ValueError, KeyError, TypeError) as error:
                wrong.append(Fault(f"line {number}", f"not a line of a query log: {error!r}"))
    _refuse(path, wrong)
    return found


def _refuse(path: Path, wrong: Sequence[Fault]) -> None:
    """All that is wrong with a file at once, as far as anybody reads that."""
    if wrong:
        told = [*wrong[:TOLD], *([Fault("", f"and {len(wrong) - TOLD} more")] if len(wrong) > TOLD else [])]
        raise Failure(Exit.USAGE, f"{path} is wrong in {len(wrong)} places", told)


def heaviest(found: Mapping[Who, float]) -> tuple[list[Row], float]:
    """As many clients as one simulation takes, the heaviest, and the share of the weight that is left out."""
    order = sorted(found.items(), key=lambda one: (-one[1], one[0][0], one[0][1] or ""))
    rows: list[Row] = []
    size = 0
    for (prefix, service, ecs), weight in order[:CLIENTS]:
        row = {"prefix": prefix, "weight": weight} | ({"service": service} if service else {})
        rows.append(row if ecs else row | {"ecs": False})
        size += len(json.dumps(rows[-1])) + 2
        if weight <= 0 or size > OCTETS:
            rows.pop()
            break
    if not rows:
        raise Failure(Exit.USAGE, "nobody asks: no client with a weight")
    return rows, max(0.0, 1 - sum(row["weight"] for row in rows) / sum(w for w in found.values() if w > 0))


def _services(admin: Admin) -> Iterator[str]:
    """Names of all services that there are."""
    token: str | None = ""
    while token is not None:
        page = admin.call("GET", "/v1/services", query={"page_size": 1000, "page_token": token or None}).body
        yield from (item["key"] for item in page["items"])
        token = page["next_page_token"]


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            yield lines
    except OSError as error:
        raise Failure(Exit.USAGE, f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Failure(Exit.USAGE, f"{path} is no such list: {error}") from None


# --- what would be different ---


def _pairs(texts: Iterable[str] | None, option: str) -> Iterator[tuple[str, str]]:
    for one in texts or ():
        name, sign, value = one.rpartition("=")
        if not sign or not name:
            raise Failure(Exit.USAGE, f"{option} {one!r}: NAME=VALUE is wanted")
        yield name, value


def _number(value: str) -> float:
    try:
        number = float(value)
        if math.isfinite(number):
            return number
    except ValueError:
        pass
    raise Failure(Exit.USAGE, f"{value!r} is no number")


def _numbers(value: str, count: int) -> list[float]:
    parts = [_number(part) for part in value.split(",")]
    if len(parts) != count:
        raise Failure(Exit.USAGE, f"{value!r}: {count} numbers are wanted")
    return parts


def _added(one: str) -> Row:
    id_, _, value = one.partition("=")
    parts = value.split(",")
    if len(parts) != 4:
        raise Failure(Exit.USAGE, f"--add {one!r}: SITE=LAT,LON,COUNTRY,REGION is wanted")
    return {"id": id_, "latitude": _number(parts[0]), "longitude": _number(parts[1]), "country": parts[2].upper(),
            "region": parts[3]}


def _policy(one: str) -> tuple[str, Row]:
    name, sign, rest = one.partition(":")
    if not sign:
        raise Failure(Exit.USAGE, f"--policy {one!r}: SERVICE:key=value,… is wanted")
    return name, {key: int(value) if value.lstrip("-").isdigit() else value
                  for key, value in _pairs(rest.split(","), "--policy")}


# --- what comes of it ---


def text(found: Row) -> str:
    """The result as tables."""
    clients, parts = found["clients"], []
    left = f", {clients['left_out']:.1%} of the weight left out" if clients.get("left_out") else ""
    parts.append("\n".join([
        *(found["changes"] or ["no change"]),
        f"{clients['number']} clients: {clients['source']}{left}; version {found['version']}; "
        + (f"round trips: table {found['table']}" if found["table"] else "round trips: by distance"),
        f"{found['moved']:.2%} move, {found['had_to']:.2%} had to"]))
    parts += [_service(one) for one in found["services"]]
    head = ("site", "before", "after", *(("load", "of capacity", "used", "") if found["load"]["units"] else ()))
    parts.append(table([_site(one, len(head)) for one in found["sites"]], head))
    return "\n\n".join(parts)


def _service(one: Row) -> str:
    lines = [f"{one['service']}: {one['moved']:.2%} move, {one['had_to']:.2%} had to"]
    trips = [(side, one[side]["rtt_ms"]) for side in ("before", "after") if one[side]["rtt_ms"]]
    lines.append(table([(side, *(f"{ms[name]:.1f}" for name in ("mean", "p50", "p95", "p99"))) for side, ms in trips],
                       ("ms", "mean", "p50", "p95", "p99")))
    if one["flows"]:
        lines.append(table([(flow["from"], flow["to"], f"{flow['share']:.2%}", *_ways(flow))
                            for flow in one["flows"][:SHOWN]], ("from", "to", "share", "ms before", "after")))
    for kind in GROUPS:
        moved = [group for group in one.get(kind, ()) if group["moved"] and group["name"] != "-"][:SHOWN]
        if moved:
            lines.append(table([
                (group["name"], f"{group['share']:.2%}", f"{group['moved']:.1%}", group["from"], group["to"],
                 *_ways(group)) for group in moved], (kind, "share", "moves", "from", "to", "ms before", "after")))
    return "\n\n".join(lines)


def _ways(one: Row) -> list[str]:
    return ["-" if one[side] is None else f"{one[side]:.1f}" for side in ("before_ms", "after_ms")]


def _site(one: Row, columns: int) -> Sequence[Any]:
    line = [one["site"], f"{one['before']:.2%}", f"{one['after']:.2%}"]
    if columns > 3:
        used = one["used_after"]
        line += [f"{one['load_after']:.1f}", one["capacity_after"], "-" if used is None else f"{used:.0%}",
                 "too much" if one["full"] else ""]
    return line


def _write(path: Path, octets: bytes) -> None:
    try:
        path.write_bytes(octets)
    except OSError as error:
        raise Failure(Exit.FAILED, f"{path}: {error.strerror}") from None
