"""Random worlds against a second opinion: RFC 1034 §4.3.2 with 4592, 6672, 4035 §3.1.4.1, 8482, as plainly as it goes.

The oracle works on dnspython names and rdatas and knows nothing of images, nodes or wire forms: a zone is a dictionary
of what its master file would say. Every name of a small world is asked for, and the names around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import dns.name
import dns.rdata
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import pytest

from dnsd.model import RRset, ServiceView, ZoneView
from tests.golden.world import Door, endpoint, image, service

Name = dns.name.Name
ROOT = dns.name.root
SOA_TEXT = "ns1.invalid. hostmaster.invalid. 7 7200 3600 1209600 60"
MOST_ALIASES = 9
TYPES = ["A", "AAAA", "TXT", "CNAME", "DNAME", "NS", "SOA", "DS", "ANY", "MX"]


@dataclass
class World:
    """Zones as owner -> type -> texts; a service's owner has the type "service" and the one address of each family."""

    zones: dict[Name, dict[Name, dict[str, list[str]]]]

    def zone_of(self, name: Name) -> Name | None:
        """The innermost zone that holds the name."""
        return max((apex for apex in self.zones if name.is_subdomain(apex)), key=len, default=None)

    def cut(self, apex: Name, name: Name) -> Name | None:
        """The topmost cut at or above a name, inside that zone."""
        for length in range(len(apex) + 1, len(name) + 1):
            node = name.split(length)[1]
            if "NS" in self.zones[apex].get(node, {}):
                return node
        return None

    def exists(self, apex: Name, name: Name) -> bool:
        """Whether that zone has the name, if only because something below it exists, be it another zone (RFC 8020)."""
        below = [*self.zones[apex], *(inner for inner in self.zones if inner != apex and self.around(inner) == apex)]
        return any(owner.is_subdomain(name) for owner in below)

    def around(self, apex: Name) -> Name | None:
        """The zone that an apex lies in as a name."""
        return None if apex == ROOT else self.zone_of(apex.parent())


class Verdict(NamedTuple):
    """What an answer must be, as texts; sections without order."""

    rcode: int
    aa: bool
    answer: list[str]
    authority: list[str]
    additional: list[str]


def rr(owner: Name, ttl: int, type_: str, text: str) -> str:
    """One RR as `tests.golden.world.texts` writes it."""
    return f"{owner} {ttl} {type_} {text}"


def soa(apex: Name) -> str:
    """The SOA of a denial, its TTL cut to the minimum (RFC 2308 §3)."""
    return rr(apex, 60, "SOA", SOA_TEXT)


def oracle(world: World, name: Name, type_: str) -> Verdict:
    """The answer."""
    answer: list[str] = []
    seen = {name}
    if world.zone_of(name) is None:
        return Verdict(5, False, [], [], [])
    for _ in range(MOST_ALIASES + 1):
        apex = world.zone_of(name)
        if apex is None:
            break
        if type_ == "DS" and name == apex:
            above = world.around(apex)
            if above is not None and world.cut(above, name.parent()) is None:
                apex = above
        zone = world.zones[apex]
        cut = world.cut(apex, name)
        if cut is not None and not (type_ == "DS" and cut == name):
            found = [rr(cut, 300, "NS", text) for text in zone[cut]["NS"]]
            return Verdict(0, bool(answer), answer, found, glue(world, zone[cut]["NS"]))
        held, encloser = zone.get(name), name
        if held is None and not world.exists(apex, name):
            while not world.exists(apex, encloser):
                encloser = encloser.parent()
            dname = zone.get(encloser, {}).get("DNAME")
            wildcard = dns.name.from_text("*", encloser)
            if dname:
                told = rr(encloser, 300, "DNAME", dname[0])
                answer += [told] if told not in answer else []  # RFC 2181 §5: an RR is there once
                target = dns.name.from_text(dname[0])
                try:
                    name, owner = name.relativize(encloser).derelativize(target), name
                except dns.name.NameTooLong:
                    return Verdict(6, True, answer, [], [])
                answer.append(rr(owner, 300, "CNAME", name.to_text()))
                if type_ in ("CNAME", "ANY") or name in seen:
                    return Verdict(0, True, answer, [], [])
                seen.add(name)
                continue
            if not world.exists(apex, wildcard):
                return Verdict(3, True, answer, [soa(apex)], [])
            held = zone.get(wildcard)
        held = held or {}
        if "CNAME" in held and type_ != "CNAME":
            answer.append(rr(name, 300, "CNAME", held["CNAME"][0]))
            name = dns.name.from_text(held["CNAME"][0])
            if type_ == "ANY" or name in seen:
                return Verdict(0, True, answer, [], [])
            seen.add(name)
            continue
        if type_ == "ANY" and held:
            return Verdict(0, True, [*answer, rr(name, 3600, "HINFO", '"RFC8482" ""')], [], [])
        if type_ not in held:
            return Verdict(0, True, answer, [soa(apex)], [])
        ttl = 3600 if type_ == "SOA" else 8 if "service" in held and type_ in ("A", "AAAA") else 300
        return Verdict(0, True, answer + [rr(name, ttl, type_, text) for text in held[type_]], [], [])
    # A chain that goes on beyond the most aliases that are followed, or out of what is served here.
    if len(answer) and world.zone_of(name) is not None:
        answer = answer[: _alias_end(answer)]
    return Verdict(0, True, answer, [], [])


def _alias_end(answer: list[str]) -> int:
    """How many RRs the first `MOST_ALIASES` aliases have: a CNAME ends each."""
    aliases = 0
    for at, text in enumerate(answer):
        aliases += text.split()[2] == "CNAME"
        if aliases == MOST_ALIASES:
            return at + 1
    return len(answer)


def glue(world: World, servers: list[str]) -> list[str]:
    """Addresses at or below cuts, which nobody can ask for elsewhere (RFC 9471 §2)."""
    found = []
    for text in servers:
        server = dns.name.from_text(text)
        apex = world.zone_of(server)
        if apex is not None and world.cut(apex, server) is not None:
            held = world.zones[apex].get(server, {})
            found += [rr(server, 300, type_, address) for type_ in ("A", "AAAA") for address in held.get(type_, [])]
    return found


# --- worlds -----------------------------------------------------------------------------------------------------------

APEXES = [("y",), ("a", "z"), ("c", "b", "z"), ("a", "a", "z")]
KINDS = ["plain", "plain", "plain", "cname", "cname", "cut", "dname", "service", "text"]


def name_of(*parts: str) -> Name:
    """A name of labels."""
    return dns.name.Name([*(part.encode() for part in parts), b""])


def random_world(chance: Random) -> World:
    """Zones that compile takes: one kind of data at a name, nothing below a DNAME, services not below cuts."""
    apexes = [name_of("z"), *(name_of(*parts) for parts in chance.sample(APEXES, chance.randint(0, 3)))]
    if chance.random() < 0.2:
        apexes.append(ROOT)
    world = World({apex: {apex: {"SOA": [SOA_TEXT], "NS": ["ns1.elsewhere."]}} for apex in apexes})

    def some(most: int) -> list[str]:
        return chance.choices("abc*", k=chance.randint(0, most))

    def target() -> str:
        return ".".join([*some(3), *chance.choice([("z",), ("z",), ("elsewhere",), *APEXES])]) + "."

    for number in range(chance.randint(0, 14)):
        owner = name_of(*some(4), "z")
        kind = chance.choice(KINDS)
        apex = world.zone_of(owner)
        assert apex is not None
        if owner in world.zones[apex] and (owner != apex or kind != "text"):
            continue
        if kind in ("cut", "dname") and owner.labels[0] == b"*":
            continue
        fill(world.zones[apex].setdefault(owner, {}), kind, number, target)
    for inner in apexes:  # what the zone around says of a zone inside it
        above = world.around(inner)
        if above is not None and world.cut(above, inner.parent()) is None and chance.random() < 0.5:
            world.zones[above][inner] = {"NS": ["ns1.elsewhere."], "DS": [f"1 8 2 {'1' * 64}"]}
    prune(world)
    return world


def fill(held: dict[str, list[str]], kind: str, number: int, target: Callable[[], str]) -> None:
    """One kind of data."""
    if kind == "plain":
        held.update(A=[f"192.0.2.{number}", f"192.0.2.{100 + number}"], AAAA=[f"2001:db8::{number + 1:x}"])
    elif kind == "text":
        held["TXT"] = [f'"{number}"']
    elif kind in ("cname", "dname"):
        held[kind.upper()] = [target()]
    elif kind == "cut":
        held["NS"] = sorted({target(), target()})
        if number % 2:
            held["DS"] = [f"{number} 8 2 {'0' * 64}"]
    else:
        held.update(service=[], A=[f"198.51.100.{number + 1}"], AAAA=[f"2001:db8::{number + 1:x}"])


def prune(world: World) -> None:
    """Take out what may not be: names of a zone below its DNAMEs, services below its cuts."""
    for apex, zone in world.zones.items():
        for owner in list(zone):
            above = [owner.split(length)[1] for length in range(len(apex), len(owner))]
            below_cut = "service" in zone[owner] and world.cut(apex, owner) is not None
            if below_cut or any("DNAME" in zone.get(node, {}) for node in above):
                del zone[owner]
        for inner in world.zones:
            if inner != apex and inner.is_subdomain(apex):
                for length in range(len(apex), len(inner)):
                    zone.get(inner.split(length)[1], {}).pop("DNAME", None)
        for owner in [owner for owner, held in zone.items() if not held]:
            del zone[owner]


def compiled(world: World) -> Door:
    """The world as an image behind a door with room for every answer."""
    zones = []
    services: list[ServiceView] = []
    for apex, zone in world.zones.items():
        rrsets = []
        for owner, held in zone.items():
            for type_, texts in held.items():
                if type_ == "service" or ("service" in held and type_ in ("A", "AAAA")):
                    continue
                number = dns.rdatatype.from_text(type_)
                rdatas = tuple(dns.rdata.from_text("IN", number, text).to_wire() for text in texts)
                rrsets.append(RRset(owner.to_digestable(), int(number), 3600 if type_ == "SOA" else 300, rdatas))
            if "service" in held:
                services.append(service(owner.to_text(), endpoint(int(held["A"][0].rpartition(".")[2]))))
        zones.append(ZoneView(apex.to_digestable(), tuple(rrsets)))
    return Door(image(zones, services), tcp=True)


def questions(world: World) -> list[Name]:
    """Every owner and apex, one and two labels below each, and its parents."""
    owners = {owner for zone in world.zones.values() for owner in zone} | {name_of("elsewhere"), name_of("z")}
    asked = set(owners)
    for owner in owners:
        asked |= {dns.name.from_text(text, owner) for text in ("a", "q", "q.b", "*")}
        while owner != ROOT:
            owner = owner.parent()
            asked.add(owner)
    return sorted(asked)


@pytest.mark.parametrize("seed", range(45))
def test_every_answer_is_the_oracles(seed: int) -> None:
    world = random_world(Random(seed))
    door = compiled(world)
    for name in questions(world):
        for type_ in {"A", "DS", "ANY", "CNAME", TYPES[seed % len(TYPES)]}:
            reply = door.ask(name.to_text(), type_)
            got = Verdict(reply.rcode, reply.aa, reply.answer, reply.authority, reply.additional)
            assert unordered(got) == unordered(oracle(world, name, type_)), (name.to_text(), type_, world.zones)


def unordered(verdict: Verdict) -> Verdict:
    """Sections sorted."""
    return Verdict(*verdict[:2], *map(sorted, verdict[2:]))
