"""Zones and services to one tree of names: what exists, where the cuts are, what may not stand together.

Lives here: the tree and its checks (every fault at once). Does not live here: bytes (`compile.image`), master files
(`control.zonefile` has told file and line before), records (`compile.service`).

A service owns A and AAAA, and HTTPS where it says so, at its owner; other static types may stand beside it. Every name
between an owner and its apex exists, if only as an empty non-terminal (RFC 8020 §2). Where one zone of the server lies
inside another, the inner one has the names; of the outer one only the DS at the inner apex is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dnsd.dns import names, types
from dnsd.model import Fault, RRset, ServiceView, ZoneView


class CompileError(ValueError):
    """Zones and services that cannot be served together; `faults` names every place."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in faults))
        self.faults = list(faults)


@dataclass(slots=True)
class Branch:
    """A name of the tree. `cut` is the owner of the topmost cut at or above it, `service` the index of its service."""

    name: bytes
    zone: int
    rrsets: dict[int, RRset] = field(default_factory=dict)
    service: int | None = None
    cut: bytes | None = None


Tree = dict[bytes, Branch]


def tree(zones: Sequence[ZoneView], services: Sequence[ServiceView]) -> Tree:
    """Every name that exists, ancestors before descendants; CompileError with all faults."""
    faults: list[Fault] = []
    apexes = {zone.apex: number for number, zone in enumerate(zones)}
    if len(apexes) != len(zones):
        twice = [zone for number, zone in enumerate(zones) if apexes[zone.apex] != number]
        faults += [Fault(names.to_text(zone.apex), "zone is there twice") for zone in twice]
    found: Tree = {zone.apex: Branch(zone.apex, number) for number, zone in enumerate(zones)}
    for apex in apexes:
        _grow_above(found, apexes, apex)
    for number, zone in enumerate(zones):
        for rrset in zone.rrsets if apexes[zone.apex] == number else ():
            _place(found, apexes, number, zone, rrset, faults)
    for number, service in enumerate(services):
        _place_service(found, apexes, number, service, faults)
    _apexes_complete(found, zones, faults)
    ordered = dict(sorted(found.items(), key=lambda item: names.labels(item[0])))
    _cuts(ordered, apexes, faults)
    if faults:
        raise CompileError(faults)
    return ordered


def check(zones: Sequence[ZoneView], services: Sequence[ServiceView]) -> list[Fault]:
    """Everything that is wrong with these together; empty when they can be compiled."""
    try:
        tree(zones, services)
    except CompileError as error:
        return error.faults
    return []


def zone_of(owner: bytes, apexes: dict[bytes, int]) -> int | None:
    """The number of the innermost zone that holds a name."""
    if owner in apexes:
        return apexes[owner]
    return next((apexes[parent] for parent in names.parents(owner) if parent in apexes), None)


def _place(
    found: Tree, apexes: dict[bytes, int], number: int, zone: ZoneView, rrset: RRset, faults: list[Fault],
) -> None:
    text = names.to_text(rrset.owner)
    if not names.under(rrset.owner, zone.apex):
        faults.append(Fault(text, f"is outside of zone {names.to_text(zone.apex)}"))
        return
    inner = zone_of(rrset.owner, apexes)
    if inner != number:
        if rrset.type == types.DS and rrset.owner in apexes:
            found[rrset.owner].rrsets.setdefault(types.DS, rrset)
        elif rrset.type not in (types.NS, types.A, types.AAAA):
            what = types.type_text(rrset.type)
            faults.append(Fault(text, f"{what} of zone {names.to_text(zone.apex)} lies in the zone inside it"))
        return
    branch = _grow(found, rrset.owner, number)
    if rrset.type in branch.rrsets:
        faults.append(Fault(text, f"{types.type_text(rrset.type)} rrset is there twice"))
    if rrset.type == types.NS and rrset.owner.startswith(b"\x01*"):
        faults.append(Fault(text, "NS at a wildcard has no meaning (RFC 4592 §4.2)"))
    if not rrset.rdatas:
        faults.append(Fault(text, f"{types.type_text(rrset.type)} rrset is empty"))
    if rrset.type in (types.CNAME, types.DNAME, types.SOA) and len(rrset.rdatas) > 1:
        faults.append(Fault(text, f"more than one {types.type_text(rrset.type)}"))
    if rrset.type == types.SOA and rrset.owner != zone.apex:
        faults.append(Fault(text, "SOA at a name that is not the apex"))
    branch.rrsets[rrset.type] = rrset
    if types.CNAME in branch.rrsets and branch.rrsets.keys() - {types.CNAME, types.RRSIG, types.NSEC}:
        faults.append(Fault(text, "CNAME and other data (RFC 1034 §3.6.2)"))


def _place_service(
    found: Tree, apexes: dict[bytes, int], number: int, service: ServiceView, faults: list[Fault],
) -> None:
    text = names.to_text(service.owner)
    zone = zone_of(service.owner, apexes)
    if zone is None:
        faults.append(Fault(text, "service is in no zone of this server"))
        return
    branch = _grow(found, service.owner, zone)
    if branch.service is not None:
        faults.append(Fault(text, "service is there twice"))
    branch.service = number
    owned = {types.A, types.AAAA} | (service.types & {types.HTTPS})
    clash = branch.rrsets.keys() & (owned | {types.CNAME})
    if clash:
        listed, ours = (
            ", ".join(map(types.type_text, sorted(each))) for each in (clash, owned))
        faults.append(Fault(text, f"service owns {ours} here, but the zone has static {listed}"))


def _grow(found: Tree, owner: bytes, zone: int) -> Branch:
    """The branch of a name inside that zone, made with all above it where it is not there yet."""
    above = owner
    while above not in found:  # ends at the apex
        found[above] = Branch(above, zone)
        above = next(names.parents(above))
    return found[owner]


def _grow_above(found: Tree, apexes: dict[bytes, int], apex: bytes) -> None:
    """The names between an apex and the zone around it, if there is one: they exist in that zone."""
    above = next(names.parents(apex), None)
    around = None if above is None else zone_of(above, apexes)
    if above is not None and around is not None:
        _grow(found, above, around)


def _apexes_complete(found: Tree, zones: Sequence[ZoneView], faults: list[Fault]) -> None:
    for zone in zones:
        have = found[zone.apex].rrsets
        for type_ in (types.SOA, types.NS):
            if type_ not in have:
                faults.append(Fault(names.to_text(zone.apex), f"zone has no {types.type_text(type_)} at its apex"))


def _cuts(ordered: Tree, apexes: dict[bytes, int], faults: list[Fault]) -> None:
    for name, branch in ordered.items():
        if name in apexes:
            continue
        branch.cut = ordered[next(names.parents(name))].cut or (name if types.NS in branch.rrsets else None)
        if branch.service is not None and branch.cut is not None:
            faults.append(Fault(names.to_text(name), f"service lies at or below the cut {names.to_text(branch.cut)}"))
        hidden = next((p for p in names.parents(name) if p in ordered and types.DNAME in ordered[p].rrsets), None)
        if hidden is not None and ordered[hidden].zone == branch.zone and branch.cut in (None, name):
            faults.append(Fault(names.to_text(name), f"lies below the DNAME {names.to_text(hidden)} (RFC 6672 §2.4)"))
