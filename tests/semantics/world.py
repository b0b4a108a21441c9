"""The world that the rules are tried on, and a row of the tables: a question as dig would take it, an answer in words.

Lives here: zones, services and their map, `Row`, asking. Does not live here: the rules (`names`, `edns`).

Zones are `t.` and `u.`, and `c.t.` inside the first; short names keep the tables readable.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode

from dnsd.dns.cookies import Cookies
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import MapView, Policy
from tests.golden.world import Door, endpoint, image, service, table_bytes, texts, v4, v6, wire, zone

SECRET = bytes(range(16))
CLIENT = ipaddress.ip_address("198.18.0.1").packed

T = f"""\
@ 3600 SOA ns1 h 1 7200 3600 1209600 60
@ NS ns1
@ NS ns.u.
@ TXT "apex"
ns1 A 192.0.2.1
www A 192.0.2.2
www A 192.0.2.3
www AAAA 2001:db8::2
www TXT "one" "two"
ttl 7 A 192.0.2.4
mail MX 10 www
srv SRV 0 5 5060 www
odd TYPE65534 \\# 3 010203
zero TYPE65534 \\# 0
web HTTPS 1 . alpn=h2 ipv4hint=192.0.2.2
web SVCB 2 www port=8443 key65400=x
a.ent.full A 192.0.2.5
*.w TXT "wild"
*.w MX 10 www
real.w A 192.0.2.6
x.ent.w A 192.0.2.7
*.wc CNAME www
*.wx CNAME nothing
*.\\*.ww A 192.0.2.8
sub NS ns.sub
sub NS ns.side
sub NS ns1
sub NS ns.u.
sub NS ns.far.
sub DS 4711 13 2 {"00" * 32}
ns.sub A 192.0.2.9
ns.sub AAAA 2001:db8::9
below.sub NS ns.sub
side NS ns.side
ns.side A 192.0.2.10
bare NS ns.far.
c NS ns.c
c DS 4712 13 2 {"11" * 32}
ns.c A 192.0.2.11
al CNAME www
al2 CNAME al
alnx CNAME nothing
alempty CNAME ent.full
alcut CNAME x.sub
alfar CNAME www.far.
alu CNAME www.u.
alunx CNAME nothing.u.
alc CNAME www.c
alapi CNAME api
aldark CNAME dark
alwild CNAME x.svc
aldn CNAME www.dn
loop1 CNAME loop2
loop2 CNAME loop1
self CNAME self
cross CNAME cross.u.
{"".join(f"n{i} CNAME n{i + 1}" + chr(10) for i in range(12))}
n12 A 192.0.2.12
dn DNAME www.tree
dn TXT "beside"
dnlong DNAME {".".join(["l" * 63, "m" * 63, "n" * 63])}.far.
x.www.tree A 192.0.2.13
dnu DNAME u.
big TXT {' '.join(f'"{"b" * 240}"' for _ in range(4))}
api TXT "beside a service"
free.svc TXT "a name that is there"
deep.ent.svc TXT "and one above it"
"""
U = "@ 30 SOA ns h 1 7200 3600 1209600 600\n@ NS ns\nns A 198.51.100.1\nwww A 198.51.100.2\ncross CNAME cross.t.\n"
C = "@ SOA ns h 1 7200 3600 1209600 90\n@ NS ns\nns A 192.0.2.11\nwww A 192.0.2.14\n* TXT \"below an apex\"\n"

T_SOA = "t. 60 SOA ns1.t. h.t. 1 7200 3600 1209600 60"
U_SOA = "u. 30 SOA ns.u. h.u. 1 7200 3600 1209600 600"
C_SOA = "c.t. 90 SOA ns.c.t. h.c.t. 1 7200 3600 1209600 90"
S_SOA = "s. 60 SOA ns1.s. hostmaster.s. 1 7200 3600 1209600 60"
SUB_NS = ["sub.t. 300 NS ns.sub.t.", "sub.t. 300 NS ns.side.t.", "sub.t. 300 NS ns1.t.", "sub.t. 300 NS ns.u.",
          "sub.t. 300 NS ns.far."]
GLUE = ["ns.sub.t. 300 A 192.0.2.9", "ns.sub.t. 300 AAAA 2001:db8::9", "ns.side.t. 300 A 192.0.2.10",
        "ns1.t. 300 A 192.0.2.1"]

_LEFT, _RIGHT = endpoint(1, "s0"), endpoint(2, "s1")
_BLIND = Policy(uses_client=False)
_ROWS = [[(0, 0), (0, 0)], [(0, 0), (13, 0)], [(13, 0), (0, 0)]]
_RUNS4 = [(0, 0), (v4("10.0.0.0"), 1), (v4("10.0.6.0"), 2), (v4("10.1.0.0"), 0)]
_RUNS6 = [(0, 0), (v6("2400::"), 1), (v6("2400:0:0:600::"), 2), (v6("2401::"), 0)]


def world() -> Image:
    """The zones and services; clients in 10.0.0.0-10.0.5.255 are near the first endpoint, those behind near the other.
    """
    services = [
        service("api.t", _LEFT, _RIGHT), service("same.t", _LEFT, policy=_BLIND),
        service("sticky.t", _LEFT, policy=Policy(split4=20, split6=40)),
        service("*.svc.t", endpoint(3), policy=_BLIND), service("s", endpoint(4), policy=_BLIND),
        service("v4.t", endpoint(5, aaaa=False), policy=_BLIND, types=[1]),
        service("half.t", endpoint(5, aaaa=False), policy=_BLIND),
        service("fall.t", fallback=["203.0.113.1"]), service("stale.t", last_good=["203.0.113.2"]), service("dark.t"),
        service("panic.t", endpoint(6), policy=_BLIND, panic=True),
        service("tree.of.t", endpoint(7), policy=_BLIND)]
    zones = [zone("t.", T), zone("u.", U), zone("c.t.", C), zone("s.", 'www CNAME s.\n@ TXT "beside"\n')]
    table = MapTable(table_bytes(2, _ROWS, _RUNS4, _RUNS6))
    return image(zones, services, [MapView(0, "all", ("s0", "s1"))], {0: table})


def door(held: Image, *, tcp: bool = False) -> Door:
    """A door to it with everything on that can be asked for."""
    one = Door(held, tcp=tcp, client=CLIENT)
    one.context.cookies = Cookies([SECRET])
    one.context.chaos = {wire("id.server"): None, wire("version.bind"): b"dnsd x"}
    one.context.keepalive = 300
    return one


class Row(NamedTuple):
    """`ask`: `name type [class] [+word[=value]...]`, with `+tcp` over TCP; `says`: rcode and flags; then the sections.

    `opt` is the reply's OPT: None without EDNS, else its words. Sections are compared without their order but the
    answer of an alias, which leads from owner to target.
    """

    rfc: str
    ask: str
    says: str
    an: Sequence[str] = ()
    au: Sequence[str] = ()
    ad: Sequence[str] = ()
    opt: str | None = None


def ask(through: dict[bool, Door], row: Row) -> tuple[str, list[str], list[str], list[str], str | None]:
    """What the row's question is answered, in the row's terms."""
    packet = build(row.ask)
    reply = through["+tcp" in row.ask.split()].send(packet)
    message = reply.message
    words = [dns.rcode.to_text(message.rcode()), *dns.flags.to_text(message.flags).lower().split()]
    opt = None if message.edns < 0 else _opt_words(message)
    assert reply.octets[12 : 12 + _question(packet)] == packet[12 : 12 + _question(packet)], "the question, as it came"
    answer, authority, additional = ([text.strip() for text in texts(section)] for section in message.sections[1:])
    return " ".join(word for word in words if word != "qr"), answer, authority, additional, opt


def build(line: str) -> bytes:
    """The octets of a question written as in a row; id 4711."""
    name, type_, *more = line.split()
    class_ = more.pop(0) if more and more[0][0] != "+" else "IN"
    words = dict(word[1:].partition("=")[::2] for word in more)
    message = dns.message.make_query(name, type_, class_, use_edns=False, id=4711, flags=0)
    packet = bytearray(message.to_wire())
    packet[12 : 12 + len(wire(name))] = dns.name.from_text(name).to_wire()  # in the case it is written
    flags = sum(bit for word, bit in (("rd", 0x100), ("ad", 0x20), ("cd", 0x10), ("aa", 0x400), ("ra", 0x80),
                                      ("z", 0x40)) if word in words)
    packet[2:4] = flags.to_bytes(2, "big")
    if not words.keys() & {"edns", "do", "bufsize", "subnet", "ecs", "nsid", "cookie", "keepalive", "option", "flags",
                           "padding"}:
        return bytes(packet)
    packet[11] = 1
    options = b"".join(_option(word, value) for word, value in words.items())
    bits = int(words.get("flags", "0"), 16) | (0x8000 if "do" in words else 0)
    return bytes(packet) + b"\0" + struct.pack(
        ">HHBBHH", 41, int(words.get("bufsize", 1232)), 0, int(words.get("edns") or 0), bits, len(options)) + options


def _option(word: str, value: str) -> bytes:
    match word:
        case "subnet":
            network = ipaddress.ip_network(value)
            octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
            code, data = 8, struct.pack(">HBB", 1 if network.version == 4 else 2, network.prefixlen, 0) + octets
        case "ecs":  # any octets
            code, data = 8, bytes.fromhex(value)
        case "nsid":
            code, data = 3, b""
        case "cookie":
            code, data = 10, bytes.fromhex(value)
        case "keepalive":
            code, data = 11, bytes.fromhex(value)
        case "padding":
            code, data = 12, bytes(int(value))
        case "option":
            number, _, octets_hex = value.partition(":")
            code, data = int(number), bytes.fromhex(octets_hex)
        case _:
            return b""
    return struct.pack(">HH", code, len(data)) + data


def _opt_words(message: dns.message.Message) -> str:
    words = ["do"] if message.ednsflags & dns.flags.DO else []
    assert message.edns == 0
    assert message.payload == 1232
    assert message.ednsflags & 0x7FFF == 0
    for option in message.options:
        match option:
            case dns.edns.ECSOption():
                words.append(f"subnet={option.address}/{option.srclen}/{option.scopelen}")
            case dns.edns.EDEOption():
                words.append(f"ede={int(option.code)}")
            case dns.edns.NSIDOption():
                words.append("nsid")
            case _ if option.otype == 10:
                words.append(f"cookie={len(option.to_wire() or b'')}")
            case _ if option.otype == 11:
                words.append(f"keepalive={int.from_bytes(option.to_wire() or b'', 'big')}")
            case _:
                words.append(f"option={int(option.otype)}")
    return " ".join(words)


def _question(packet: bytes) -> int:
    end = 12
    while packet[end]:
        end += packet[end] + 1
    return end - 7
