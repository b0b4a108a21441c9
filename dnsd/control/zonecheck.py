"""What makes a zone sound: apex, aliases, cuts and glue, checked over all its rrsets.

Lives here: the rules, with the place of what breaks them; which rrsets are never answered and so left out.
Does not live here: reading (`control.zonefile`), conflicts with services (`compile.zones`).

A fault keeps the zone from being used; a warning does not. The line between them: a fault has no answer that could be
right (two CNAMEs), a warning is data that nobody will see (below a cut) or that only other servers mind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dnsd.dns import names, types
from dnsd.model import Fault

ANY_TYPE: Final = 0
"""Among the types that could not be read: an entry whose type is not known either."""

MAX_RRSET: Final = 60_000
"""Octets of an rrset's rdatas with their heads: what still fits a message of 64 KiB with question and authority."""

_PRESIGNED: Final = {types.RRSIG, types.NSEC, 50, 51}
_MX, _SRV, _KEY, _DS = 15, 33, 25, types.DS
_BESIDE_CNAME: Final = {types.CNAME, types.RRSIG, types.NSEC, _KEY}
Key = tuple[bytes, int]


@dataclass(slots=True)
class Found:
    """One rrset as read: TTL and, for each rdata in order, where it stands."""

    ttl: int
    rdatas: dict[bytes, str]

    @property
    def place(self) -> str:
        """Where the first record stands."""
        return next(iter(self.rdatas.values()))


@dataclass(slots=True)
class Verdict:
    """What is wrong, what is odd, and which rrsets are not to be served."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    left_out: set[Key] = field(default_factory=set)


def check(apex: bytes, found: dict[Key, Found], file: str, unread: set[int]) -> Verdict:
    """Judge a zone's rrsets. `unread`: types of entries that could not be read; what they may hold is not missed."""
    zone = _Zone(apex, found, file, unread)
    zone.apex_data()
    zone.aliases()
    zone.sizes()
    zone.presigned()
    zone.delegations()
    zone.targets()
    return zone.verdict


class _Zone:
    """The zone being judged: its rrsets by owner, its cuts."""

    def __init__(self, apex: bytes, found: dict[Key, Found], file: str, unread: set[int]) -> None:
        self.apex, self.found, self.file = apex, found, file
        self.unread = unread
        self.verdict = Verdict()
        self.owners: dict[bytes, set[int]] = {}
        for owner, type_ in found:
            self.owners.setdefault(owner, set()).add(type_)
        self.cuts = {owner for owner, held in self.owners.items() if types.NS in held and owner != apex}
        self.targets_of_ns = {
            target for (_, type_), rrset in found.items() if type_ == types.NS for target in map(_lower, rrset.rdatas)}

    def apex_data(self) -> None:
        """Exactly one SOA, at the apex; an NS rrset there (RFC 1035 §5.2)."""
        soa = self.found.get((self.apex, types.SOA))
        if soa is None and not self._may_be_unread(types.SOA):
            self._fault(self.file, f"no SOA at {_text(self.apex)}")
        for rdata in list(soa.rdatas)[1:] if soa else ():
            self._fault(soa.rdatas[rdata] if soa else "", f"a second SOA, the first is at {soa.place if soa else ''}")
        for owner, held in self.owners.items():
            if types.SOA in held and owner != self.apex:
                self._fault(self.found[owner, types.SOA].place, f"SOA at {_text(owner)}, which is not the apex")
        ns = self.found.get((self.apex, types.NS))
        if ns is None and not self._may_be_unread(types.NS):
            self._fault(self.file, f"no NS at {_text(self.apex)}")
        elif ns is not None and len(ns.rdatas) == 1:
            self._warn(ns.place, "only one name server (RFC 2182 §5 asks for two or more)")

    def aliases(self) -> None:
        """CNAME alone at its owner and only one (RFC 1034 §3.6.2), one DNAME and nothing below it (RFC 6672 §2.4)."""
        dnames = set()
        for owner, held in self.owners.items():
            for type_ in held & {types.CNAME, types.DNAME}:
                places = list(self.found[owner, type_].rdatas.values())
                what = types.type_text(type_)
                for place in places[1:]:
                    self._fault(place, f"{_text(owner)}: a second {what}, the first is at {places[0]}")
            if types.CNAME in held:
                for type_ in sorted(held - _BESIDE_CNAME):
                    place = self.found[owner, type_].place
                    cname = self.found[owner, types.CNAME].place
                    self._fault(place, f"{_text(owner)}: {types.type_text(type_)} beside the CNAME at {cname}")
            if types.DNAME in held:
                dnames.add(owner)
                for target, place in self.found[owner, types.DNAME].rdatas.items():
                    if names.under(_lower(target), owner):
                        self._warn(place, f"{_text(owner)}: the DNAME leads below itself, to names without end")
        for owner in self.owners if dnames else ():
            above = next((name for name in names.parents(owner) if name in dnames), None)
            if above is not None:
                dname = self.found[above, types.DNAME].place
                self._fault(self._first(owner), f"{_text(owner)} lies below the DNAME at {dname}")

    def sizes(self) -> None:
        """An rrset must fit a message."""
        for (owner, type_), rrset in self.found.items():
            size = sum(12 + len(rdata) for rdata in rrset.rdatas)
            if size > MAX_RRSET:
                self._fault(rrset.place, f"{_text(owner)} {types.type_text(type_)}: {size} octets do not fit a message")

    def presigned(self) -> None:
        """Signatures and denial records of a signed file do not fit what is answered: left out, said once per type."""
        said = set()
        for key, rrset in self.found.items():
            if key[1] not in _PRESIGNED:
                continue
            self.verdict.left_out.add(key)
            if key[1] not in said:
                said.add(key[1])
                what = types.type_text(key[1])
                self._warn(rrset.place, f"{what} records are left out: signed files are served unsigned")

    def delegations(self) -> None:
        """At a cut only NS, DS and glue are served, below it only glue (RFC 1034 §4.2.1); the rest is left out."""
        for owner, held in self.owners.items():
            for type_ in held & {types.NS, types.DNAME} if owner.startswith(b"\x01*") else ():
                what = types.type_text(type_)
                self._fault(self.found[owner, type_].place, f"{what} at a wildcard has no meaning (RFC 4592 §4)")
            if _DS in held and owner not in self.cuts:
                self._warn(self.found[owner, _DS].place, f"{_text(owner)}: DS without NS is never asked for")
            cut = self._cut(owner)
            if cut is None:
                continue
            kept = {types.NS, _DS} if owner == cut else set()
            if owner in self.targets_of_ns:
                kept |= {types.A, types.AAAA}
            for type_ in sorted(held - kept - _PRESIGNED):
                where = "at" if owner == cut else "below"
                self.verdict.left_out.add((owner, type_))
                self._warn(
                    self.found[owner, type_].place,
                    f"{_text(owner)} {types.type_text(type_)} {where} the cut {_text(cut)} is never answered: left out")

    def targets(self) -> None:
        """What NS, MX and SRV point to inside the zone: no alias (RFC 2181 §10.3), and an address."""
        for (owner, type_), rrset in self.found.items():
            skip = {types.NS: 0, _MX: 2, _SRV: 6}.get(type_)
            if skip is None or (owner, type_) in self.verdict.left_out:
                continue
            for rdata, place in rrset.rdatas.items():
                self._target(owner, type_, _lower(rdata[skip:]), place)

    def _target(self, owner: bytes, type_: int, target: bytes, place: str) -> None:
        if target == b"\0" or not names.under(target, self.apex):
            return
        what = f"{_text(owner)} {types.type_text(type_)} {_text(target)}"
        held = self.owners.get(target, set())
        if types.CNAME in held:
            report = self._fault if type_ == types.NS else self._warn
            report(place, f"{what}: the target is an alias (RFC 2181 §10.3)")
            return
        if held & {types.A, types.AAAA} or self._may_be_unread(types.A) or self._may_be_unread(types.AAAA):
            return
        cut = self._cut(target)
        if type_ == types.NS and owner in self.cuts and cut == owner:
            self._fault(place, f"{what}: no glue, the cut could not be reached (RFC 1034 §4.2.1)")
        elif cut is None and not self._under_wildcard(target):
            self._warn(place, f"{what}: no address in the zone (a service may own it)")

    def _under_wildcard(self, owner: bytes) -> bool:
        return any(b"\x01*" + parent in self.owners for parent in names.parents(owner))

    def _cut(self, owner: bytes) -> bytes | None:
        """The topmost cut at or above the owner, inside the zone."""
        found = owner if owner in self.cuts else None
        for parent in names.parents(owner):
            if parent == self.apex:
                break
            if parent in self.cuts:
                found = parent
        return found if owner != self.apex else None

    def _first(self, owner: bytes) -> str:
        return min((self.found[owner, type_].place for type_ in self.owners[owner]), key=_by_line)

    def _may_be_unread(self, type_: int) -> bool:
        return type_ in self.unread or ANY_TYPE in self.unread

    def _fault(self, place: str, message: str) -> None:
        self.verdict.faults.append(Fault(place, message))

    def _warn(self, place: str, message: str) -> None:
        self.verdict.warnings.append(Fault(place, message))


def _by_line(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line)


def _lower(wire: bytes) -> bytes:
    """A wire name for comparison; length octets are below 64, so lower-casing the whole leaves them alone."""
    return wire.lower()


def _text(wire: bytes) -> str:
    return names.to_text(wire)
