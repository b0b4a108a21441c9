"""Zones, services, maps and images for tests of the pure core, and a door to ask them through.

Lives here: builders, a map table written straight from `image.layout`, the standard world that tables of tests ask.
Does not live here: any test. Zone text and replies are read by dnspython, never by a codec of ours.
"""

from __future__ import annotations

import ipaddress
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.zone

from dnsd import metrics
from dnsd.answer import respond
from dnsd.compile import image as compiler
from dnsd.context import Context
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import EndpointView, MapView, Policy, RRset, ServiceView, Stamp, ZoneView

STAMP = Stamp(0xE0, 7, 3)
NOW = 1_700_000_000
RESOLVER = bytes((192, 0, 2, 53))


# --- what is compiled -------------------------------------------------------------------------------------------------

def wire(text: str) -> bytes:
    """A lower-case wire name, by dnspython."""
    return dns.name.from_text(text).to_digestable()


def zone(origin: str, text: str) -> ZoneView:
    """A zone from master file text; SOA (minimum 60) and NS are added where the text has none."""
    if " SOA " not in text:
        text = f"@ 3600 IN SOA ns1 hostmaster 1 7200 3600 1209600 60\n{text}"
    if "\n@ NS " not in text:
        text = f"{text}\n@ NS ns1\nns1 A 192.0.2.1\n"
    read = dns.zone.from_text(f"$TTL 300\n{text}", dns.name.from_text(origin), relativize=False, check_origin=False)
    return zone_view(read)


def zone_view(read: dns.zone.Zone) -> ZoneView:
    """A zone as dnspython holds it, as compile takes it."""
    assert read.origin is not None
    return ZoneView(read.origin.to_digestable(), tuple(
        RRset(owner.to_digestable(), int(rdataset.rdtype), rdataset.ttl, tuple(rdata.to_wire() for rdata in rdataset))
        for owner, rdataset in read.iterate_rdatasets()))


def endpoint(number: int, site: str = "s0", *, a: bool = True, aaaa: bool = True, **values: int) -> EndpointView:
    """Endpoint e<number> with the addresses 198.51.100.<number> and 2001:db8::<number>."""
    return EndpointView(f"e{number:03d}", site, bytes((198, 51, 100, number)) if a else None,
                        ipaddress.IPv6Address(f"2001:db8::{number:x}").packed if aaaa else None, **values)


def service(owner: str, *live: EndpointView, policy: Policy | None = None, ttl: int = 8, types: Iterable[int] = (1, 28),
            fallback: Sequence[str] = (), last_good: Sequence[str] = (), map_id: int = 0, panic: bool = False,
            ) -> ServiceView:
    """A service; `fallback` and `last_good` are addresses of both families."""
    def packed(texts: Sequence[str], version: int) -> tuple[bytes, ...]:
        addresses = [ipaddress.ip_address(text) for text in texts]
        return tuple(address.packed for address in addresses if address.version == version)

    return ServiceView(
        wire(owner), policy or Policy(), ttl, frozenset(types), live, packed(fallback, 4), packed(fallback, 6),
        packed(last_good, 4), packed(last_good, 6), map_id, panic)


def image(zones: Sequence[ZoneView], services: Sequence[ServiceView] = (), maps: Sequence[MapView] = (),
          tables: dict[int, MapTable] | None = None) -> Image:
    """The compiled image, read back."""
    built = Image(compiler.build(zones, services, maps, STAMP, 0).data)
    for number, table in (tables or {}).items():
        built.set_map(number, table)
    return built


# --- map tables -------------------------------------------------------------------------------------------------------

Row = Sequence[tuple[int, int]]
"""For each site its level and its match bits."""
Runs = Sequence[tuple[int, int]]
"""First key and row, ascending, the first key 0."""


def table_bytes(sites: int, rows: Sequence[Row], runs4: Runs, runs6: Runs = ((0, 0),),
                fine4: Sequence[tuple[int, int, int]] = (), fine6: Sequence[tuple[int, int, int]] = ()) -> bytes:
    """A map table's file; fine prefixes are (first, last, row)."""
    arrays = {
        "level_ms": [*layout.LEVEL_MS, *[layout.LEVEL_MS[-1]] * (layout.LEVELS - len(layout.LEVEL_MS))],
        "rows": [value for row in rows for value in (*(level for level, _ in row), *(bits for _, bits in row))],
        "starts4": [start for start, _ in runs4], "rows4": [row for _, row in runs4],
        "index4": _index(runs4, 0, layout.INDEX4_SHIFT, layout.INDEX4_SLOTS),
        "starts6": [start for start, _ in runs6], "rows6": [row for _, row in runs6],
        "index6": _index(runs6, layout.INDEX6_BASE, layout.INDEX6_SHIFT, layout.INDEX6_SLOTS),
        "fine4": [edge for low, high, _ in fine4 for edge in (low, high)], "fine_rows4": [row for *_, row in fine4],
        "fine6": [edge for low, high, _ in fine6 for edge in (low, high)], "fine_rows6": [row for *_, row in fine6],
    }
    sections = layout.map_sections(sites, len(rows), len(runs4), len(runs6), len(fine4), len(fine6))
    end = sections.pop("end")[0]
    data = bytearray(end)
    for name, (offset, count, code) in sections.items():
        assert len(arrays[name]) == count, name
        struct.pack_into(f"<{count}{code}", data, offset, *arrays[name])
    layout.MAP_HEADER.pack_into(
        data, 0, layout.MAP_MAGIC, layout.LAYOUT, sites, len(rows), len(runs4), len(runs6), len(fine4), len(fine6),
        crc32(memoryview(data)[layout.MAP_HEADER.size :]), 1, 2, end)
    return bytes(data)


def _index(runs: Runs, base: int, shift: int, slots: int) -> list[int]:
    """For each slot, and one more, the number of the run that holds its first key."""
    starts = [start for start, _ in runs]
    index: list[int] = []
    for number in range(bisect_right(starts, base) - 1, len(runs)):
        following = starts[number + 1] if number + 1 < len(runs) else 1 << 65
        below = min(slots + 1, (following - base + (1 << shift) - 1) >> shift)  # slots whose first key is before it
        index += [number] * (below - len(index))
    return index


def v4(text: str) -> int:
    """The key of an IPv4 address: its first 24 bits."""
    return int(ipaddress.IPv4Address(text)) >> 8


def v6(text: str) -> int:
    """The key of an IPv6 address: its upper 64 bits."""
    return int(ipaddress.IPv6Address(text)) >> 64


# --- asking -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Reply:
    """A reply as dnspython reads it, its octets, and the counters that moved with the step each made."""

    message: dns.message.Message
    octets: bytes
    moved: dict[int, int]

    @property
    def rcode(self) -> int:
        """The whole rcode, extended bits too."""
        return int(self.message.rcode())

    @property
    def aa(self) -> bool:
        """The AA bit."""
        return bool(self.message.flags & dns.flags.AA)

    @property
    def tc(self) -> bool:
        """The TC bit."""
        return bool(self.message.flags & dns.flags.TC)

    @property
    def answer(self) -> list[str]:
        """The answer section, one text per RR, in order."""
        return texts(self.message.answer)

    @property
    def authority(self) -> list[str]:
        """The authority section."""
        return texts(self.message.authority)

    @property
    def additional(self) -> list[str]:
        """The additional section without its OPT."""
        return texts(self.message.additional)

    @property
    def addresses(self) -> list[str]:
        """The last field of every answer RR."""
        return [text.split()[-1] for text in self.answer]

    def option(self, code: int) -> dns.edns.Option | None:
        """The reply's one option of that code, if it has it."""
        found = [option for option in self.message.options if option.otype == code]
        assert len(found) < 2
        return found[0] if found else None

    @property
    def scope(self) -> int | None:
        """The scope of the client subnet option, None without one."""
        option = self.option(dns.edns.OptionType.ECS)
        assert option is None or isinstance(option, dns.edns.ECSOption)
        return None if option is None else option.scopelen


def texts(section: Iterable[dns.rrset.RRset]) -> list[str]:
    """`owner ttl type rdata` of each RR."""
    return [
        f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata.to_text(chunksize=0)}"
        for rrset in section for rdata in rrset]


class Door:
    """`respond` over one image with counters of its own."""

    def __init__(self, held: Image, *, tcp: bool = False, client: bytes = RESOLVER, now: int = NOW) -> None:
        self.image = held
        self.client = client
        self.now = now
        self.count = [0] * metrics.SLOTS
        self.context = Context(self.count, tcp=tcp, node="node1.w0")

    def octets(self, packet: bytes) -> tuple[bytes | None, dict[int, int]]:
        """The reply's octets and the counters that moved."""
        before = self.count.copy()
        reply = respond(packet, self.client, self.image, self.now, self.context)
        return reply, {i: n - before[i] for i, n in enumerate(self.count) if n != before[i]}

    def send(self, packet: bytes) -> Reply:
        """The reply to a packet. Every reply is checked for what holds always: id, QR, RD, RA, AD, CD, size."""
        octets, moved = self.octets(packet)
        assert octets is not None
        message = dns.message.from_wire(octets, one_rr_per_rrset=True)
        assert octets[:2] == packet[:2]
        assert message.flags & dns.flags.QR
        assert message.flags & (dns.flags.RA | dns.flags.AD | dns.flags.CD) == 0
        assert message.flags & dns.flags.RD == (packet[2] & 1) << 8
        assert len(octets) <= self.context.limit
        return Reply(message, octets, moved)

    def ask(self, name: str, type_: str = "A", class_: str = "IN", *, ecs: str | None = None, do: bool = False,
            nsid: bool = False, payload: int = 1232) -> Reply:
        """The reply to a question. `ecs`: `address/source`; without it, DO and NSID the query has no OPT."""
        return self.send(query(name, type_, class_, ecs=ecs, do=do, nsid=nsid, payload=payload))


def query(name: str, type_: str = "A", class_: str = "IN", *, ecs: str | None = None, do: bool = False,
          nsid: bool = False, payload: int = 1232, edns: bool = False) -> bytes:
    """A query's octets, id 4711, RD clear."""
    options: list[dns.edns.Option] = []
    if nsid:
        options.append(dns.edns.GenericOption(dns.edns.OptionType.NSID, b""))
    if ecs is not None:
        options.append(dns.edns.ECSOption.from_text(f"{ecs}/0"))
    message = dns.message.make_query(
        name, type_, class_, use_edns=0 if options or do or edns else False, want_dnssec=do, payload=payload,
        options=options or None, id=4711, flags=0)
    return message.to_wire()


def with_client(door: Door, client: str) -> Door:
    """The same image asked from another address."""
    return Door(door.image, tcp=door.context.tcp, client=ipaddress.ip_address(client).packed, now=door.now)


# --- the standard world -----------------------------------------------------------------------------------------------

_LONG = ".".join(["a" * 63, "b" * 63, "c" * 63])

EXAMPLE = f"""
www A 192.0.2.2
www A 192.0.2.3
www AAAA 2001:db8::2
www TXT "hello"
odd TYPE65400 \\# 3 010203
txt 30 TXT "short lived"
a.b A 192.0.2.4                 ; b exists, empty
*.w TXT "wild"                  ; w exists, empty
*.w A 192.0.2.5
real.w TXT "real"
*.wc CNAME www
*.ws MX 10 www
sub NS ns.sub
sub NS ns.far.example.org.
sub NS ns.nods                  ; glue below another cut
sub NS ns1                      ; no glue, the name is ours
sub DS 4711 8 2 {'00' * 32}
ns.sub A 192.0.2.6
ns.sub AAAA 2001:db8::6
deep.sub NS ns.deep.sub         ; below a cut nothing counts
ns.deep.sub A 192.0.2.66
nods NS ns.nods
ns.nods A 192.0.2.7
al CNAME www
al2 CNAME al
al3 CNAME nothing
al4 CNAME b
al5 CNAME a.sub
al6 CNAME sub
al7 CNAME www.other.example.net.
al8 CNAME api
al9 CNAME anything.w
al10 CNAME www.nested
al11 CNAME www.d
al12 CNAME www.example.org.
al13 CNAME dark
al14 CNAME nested
al15 CNAME x.wc
loop1 CNAME loop2
loop2 CNAME loop1
self CNAME self
""" + "".join(f"chain{n} CNAME chain{n + 1}\n" for n in range(12)) + f"""
chain12 A 192.0.2.12
d DNAME t
d TXT "at the DNAME"
www.t A 192.0.2.8
al.t CNAME www
dout DNAME example.net.
dloop DNAME dloop2
dloop2 DNAME dloop
dlong DNAME {_LONG}.example.net.
twice DNAME y.twice
grows DNAME {'w' * 60}.grows
nested NS ns.nested
nested DS 4712 8 2 {'11' * 32}
ns.nested A 192.0.2.99
far.away.nested2 NS ns.far.away.nested2
nul\\000octet A 192.0.2.13
*.svc TXT "beside a wildcard service"
big TXT {' '.join(chr(34) + 'x' * 250 + chr(34) for _ in range(3))}
huge TXT {' '.join(chr(34) + 'y' * 250 + chr(34) for _ in range(8))}
api TXT "beside a service"
"""

NESTED = """
www A 192.0.2.50
up CNAME www.example.com.
"""

LAST = Policy(uses_client=False)


def standard_services() -> list[ServiceView]:
    """Services of example.com: one endpoint each where nothing else is said, so that answers are known."""
    return [
        service("api.example.com", endpoint(1)),
        service("*.svc.example.com", endpoint(2)),
        service("v4only.example.com", endpoint(3, aaaa=False), types=[1]),
        service("dark.example.com"),
        service("half.example.com", endpoint(4, aaaa=False)),
        service("fall.example.com", fallback=["203.0.113.1", "203.0.113.2", "2001:db8:f::1"]),
        service("stale.example.com", last_good=["203.0.113.3"], fallback=["2001:db8:f::2"]),
        service("panic.example.com", endpoint(5), panic=True),
        service("in.service.tree.example.com", endpoint(6)),
        service("example.org", endpoint(7)),
        service("all.example.com", *[endpoint(n) for n in range(10, 14)], policy=replace(LAST, take=3)),
    ]


def standard_bytes() -> bytes:
    """The standard world's image: example.com, two zones nested in it, example.org."""
    return compiler.build(
        [zone("example.com", EXAMPLE), zone("nested.example.com", NESTED), zone("far.away.nested2.example.com", NESTED),
         zone("example.org", "www A 192.0.2.60\nloop CNAME al12.example.com.\n")],
        standard_services(), [], STAMP, 0).data


def standard() -> Image:
    """The standard world, read back."""
    return Image(standard_bytes())
