"""Golden packets: queries over one fixed world, their replies octet by octet, and the counters each moves.

Lives here: the world, the questions, the file's form; `python -m tests.golden.packets` writes packets.txt anew after a
change that is meant. Does not live here: what is right (the tables of tests/test_answer*.py say that).

They hold what tables cannot: the very octets, draws among them. A compiled engine must give the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dnsd import metrics
from dnsd.compile import image as compiler
from dnsd.dns import types
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import EndpointView, Fence, MapView, Policy, ServiceView
from tests.golden.world import (
    EXAMPLE,
    STAMP,
    Door,
    endpoint,
    query,
    service,
    standard_services,
    table_bytes,
    v4,
    v6,
    zone,
)

FILE = Path(__file__).with_name("packets.txt")
_TAIL = b"\0\1\0\1"

NAMES = """
www.example.com A | www.example.com MX | WwW.ExAmPlE.cOm AAAA | nothing.example.com A | b.example.com A
x.y.w.example.com TXT | x.wc.example.com A | x.sub.example.com A | sub.example.com DS | nods.example.com DS
al2.example.com A | al3.example.com A | al5.example.com A | al6.example.com DS | al7.example.com A
al8.example.com AAAA
loop1.example.com A | chain0.example.com A | www.d.example.com A | x.dloop.example.com A | d.example.com DNAME
www.example.com ANY | al.example.com ANY | example.com AXFR | example.com SOA | example.com NS | example.net A
odd.example.com TYPE65400 | nul\\000octet.example.com A | huge.example.com TXT
api.example.com A | x.svc.example.com AAAA | v4only.example.com AAAA | dark.example.com A | half.example.com A
fall.example.com A | fall.example.com AAAA | stale.example.com A | panic.example.com A | all.example.com A
web.example.com HTTPS | rest.example.com HTTPS | both.example.com HTTPS | api.example.com HTTPS
alweb.example.com HTTPS
all.example.com AAAA | geo.example.com A | geo.example.com AAAA | region.example.com A | sticky.example.com AAAA
"""
SUBNETS = ["10.0.0.0/24", "10.0.6.0/23", "10.1.7.0/24", "10.0.0.0/8", "11.22.33.0/24", "0.0.0.0/0", "192.0.2.53/32",
           "2400::/56", "2400:0:0:600::/56", "3000::/32", "::ffff:10.0.6.1/128", "64:ff9b::a01:700/120", "::/0"]
ODD = {
    "stump": b"\x12\x67\0\0\0\1\0\0\0\0\0",
    "reply": b"\x12\x67\x80\0\0\1\0\0\0\0\0\0\3www\7example\3com\0" + _TAIL,
    "notify": b"\x12\x67\x24\0\0\1\0\0\0\0\0\0\7example\3com\0\0\6\0\1",
    "no question": b"\x12\x67\1\0\0\0\0\0\0\0\0\0",
    "pointer": b"\x12\x67\1\0\0\1\0\0\0\0\0\0\xc0\x0c" + _TAIL,
    "trailing": b"\x12\x67\1\0\0\1\0\0\0\0\0\0\3www\7example\3com\0" + _TAIL + b"\0",
    "badvers": b"\x12\x67\1\0\0\1\0\0\0\0\0\1\3www\7example\3com\0" + _TAIL + b"\0\0\x29\4\xd0\0\1\x80\0\0\0",
    "bad subnet": b"\x12\x67\1\0\0\1\0\0\0\0\0\1\3api\7example\3com\0" + _TAIL
    + b"\0\0\x29\4\xd0\0\0\0\0\0\x0b\0\x08\0\7\0\1\x18\1\x0a\0\0",
    "no family": b"\x12\x67\1\0\0\1\0\0\0\0\0\1\3geo\7example\3com\0" + _TAIL
    + b"\0\0\x29\4\xd0\0\0\0\0\0\x08\0\x08\0\4\0\0\0\0",
}


class Case(NamedTuple):
    """One query, its reply (None: none is sent) and the counters that moved, as `metric{label}`."""

    name: str
    packet: bytes
    reply: bytes | None
    moved: list[str]


def door() -> Door:
    """The standard services beside four that a map of three sites tells apart."""
    told = services()
    rows = [[(0, 0)] * 3, [(0, 24), (5, 16), (13, 0)], [(13, 0), (5, 1), (0, 16)]]
    runs4 = [(0, 0), (v4("10.0.0.0"), 1), (v4("10.0.6.0"), 2), (v4("10.2.0.0"), 0)]
    runs6 = [(0, 0), (v6("2400::"), 1), (v6("2400:0:0:600::"), 2), (v6("2401::"), 0)]
    zones = [zone("example.com", EXAMPLE + "alweb CNAME web\n"), zone("nested.example.com", "www A 192.0.2.50\n"),
             zone("far.away.nested2.example.com", ""), zone("example.org", "www A 192.0.2.60\n")]
    built = compiler.build(zones, told, [MapView(0, "map", ("s0", "s1", "s2"))], STAMP, 0)
    held = Image(built.data)
    fine = [(0xC0000235, 0xC0000235, 2)]
    held.set_map(0, MapTable(table_bytes(3, rows, runs4, runs6, fine)))
    return Door(held)


def services() -> list[ServiceView]:
    """The services: standard ones, then those of three sites."""
    three = [endpoint(20, "s0"), endpoint(21, "s1"), endpoint(22, "s2"), endpoint(23, "s2", weight=300)]
    return [
        *standard_services(), service("geo.example.com", *three),
        service("region.example.com", *three, policy=Policy(fence=Fence.REGION, take=2), fallback=["203.0.113.7"]),
        service("sticky.example.com", *three, policy=Policy(split4=20, split6=40)),
        web("web.example.com", *three), web("rest.example.com", last_good=["203.0.113.8"]),
        web("both.example.com", *three, policy=Policy(take=2), panic=True),
    ]


def web(owner: str, *live: EndpointView, **more: Any) -> ServiceView:
    """A service with an HTTPS record that says all it can."""
    made = service(owner, *live, types=[types.A, types.AAAA, types.HTTPS], **more)
    return replace(made, https=((1, b"\2h2\2h3"), (3, b"\x20\xfb"), (5, b"\0\x08\xfe\x0d\0\4abcd")))


def questions() -> Iterator[tuple[str, bytes]]:
    """Every question's name and packet."""
    for entry in NAMES.replace("|", "\n").strip().splitlines():
        name, type_ = entry.split()
        yield entry.strip(), query(name, type_)
        yield f"{entry.strip()} +dnssec +nsid", query(name, type_, do=True, nsid=True)
    for subnet in SUBNETS:
        for name in ("geo", "region", "sticky", "all", "www"):
            yield f"{name} +subnet={subnet}", query(f"{name}.example.com", ecs=subnet)
        yield f"web HTTPS +subnet={subnet}", query("web.example.com", "HTTPS", ecs=subnet)
    yield from ODD.items()


def answered() -> Iterator[Case]:
    """The cases as this source answers them."""
    asked = door()
    for name, packet in questions():
        reply, moved = asked.octets(packet)
        yield Case(name, packet, reply, [f"{label(slot)}" for slot in moved])


def label(slot: int) -> str:
    """A counter as it is shown: `metric` or `metric{value}`."""
    found = metrics.TABLE[slot]
    values = ",".join(value for _, value in found.labels)
    return f"{found.metric}{{{values}}}" if values else found.metric


def read() -> list[Case]:
    """The cases of the file."""
    cases = []
    for block in FILE.read_text(encoding="utf-8").split("\n\n"):
        name, packet, reply, moved = block.strip().splitlines()
        cases.append(Case(name.removeprefix("# "), bytes.fromhex(packet[2:]),
                          None if reply == "< none" else bytes.fromhex(reply[2:]), moved[2:].split()))
    return cases


def write() -> None:
    """The file anew."""
    blocks = [f"# {case.name}\n> {case.packet.hex()}\n< {'none' if case.reply is None else case.reply.hex()}\n"
              f"= {' '.join(case.moved)}" for case in answered()]
    FILE.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
