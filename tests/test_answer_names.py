"""What names come to: every branch of `chase` and of the static part of `answer`, a table by RFC section.

One row is one question without EDNS; besides the counters named in the row nothing may move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from dnsd import metrics as m
from tests.golden.world import Door, image, query, service, standard, zone

SOA = "example.com. 60 SOA ns1.example.com. hostmaster.example.com. 1 7200 3600 1209600 60"
NESTED_SOA = "nested.example.com. 60 SOA ns1.nested.example.com. hostmaster.nested.example.com. 1 7200 3600 1209600 60"
DS = f"sub.example.com. 300 DS 4711 8 2 {'00' * 32}"
NESTED_DS = f"nested.example.com. 300 DS 4712 8 2 {'11' * 32}"
WWW = ["192.0.2.2", "192.0.2.3"]
SUB_NS = [f"sub.example.com. 300 NS {ns}" for ns in (
    "ns.far.example.org.", "ns.nods.example.com.", "ns.sub.example.com.", "ns1.example.com.")]
SUB_GLUE = ["ns1.example.com. 300 A 192.0.2.1",
            "ns.nods.example.com. 300 A 192.0.2.7", "ns.sub.example.com. 300 A 192.0.2.6",
            "ns.sub.example.com. 300 AAAA 2001:db8::6"]


class Row(NamedTuple):
    """One question and everything its answer has; sections are compared without order."""

    rfc: str
    name: str
    type: str
    kind: int
    answer: Sequence[str] = ()
    authority: Sequence[str] = ()
    additional: Sequence[str] = ()
    rcode: int = 0
    aa: bool = True
    class_: str = "IN"
    also: Sequence[int] = ()


def a(owner: str, *addresses: str, ttl: int = 300) -> list[str]:
    """A records."""
    return [f"{owner} {ttl} A {address}" for address in addresses]


def cname(owner: str, target: str) -> str:
    """A CNAME record."""
    return f"{owner} 300 CNAME {target}"


E = "example.com."
NX, YX, SERVFAIL, REFUSED, NOTAUTH = 3, 6, 2, 5, 9

STATIC = [
    Row("1034 §4.3.2 3a", f"www.{E}", "A", m.KIND_STATIC, a(f"www.{E}", *WWW)),
    Row("3596 §2.1", f"www.{E}", "AAAA", m.KIND_STATIC, [f"www.{E} 300 AAAA 2001:db8::2"]),
    Row("1035 §3.3.14", f"www.{E}", "TXT", m.KIND_STATIC, [f'www.{E} 300 TXT "hello"']),
    Row("3597 §5", f"odd.{E}", "TYPE65400", m.KIND_STATIC, [f"odd.{E} 300 TYPE65400 \\# 3 010203"]),
    Row("1035 §3.2.1 TTL", f"txt.{E}", "TXT", m.KIND_STATIC, [f'txt.{E} 30 TXT "short lived"']),
    Row("1035 §3.3.13", E, "SOA", m.KIND_STATIC, [SOA.replace(" 60 SOA", " 3600 SOA")]),
    Row("1034 §4.2.1", E, "NS", m.KIND_STATIC, [f"{E} 300 NS ns1.{E}"]),
    Row("1034 §4.2.1 glue's owner", f"ns1.{E}", "A", m.KIND_STATIC, a(f"ns1.{E}", "192.0.2.1")),
    Row("2181 §11 any octet", f"nul\\000octet.{E}", "A", m.KIND_STATIC, a(f"nul\\000octet.{E}", "192.0.2.13")),
    Row("beside a service", f"api.{E}", "TXT", m.KIND_STATIC, [f'api.{E} 300 TXT "beside a service"']),
    Row("6672 §2.4 at the DNAME", f"d.{E}", "TXT", m.KIND_STATIC, [f'd.{E} 300 TXT "at the DNAME"']),
    Row("6672 §3.2 at the DNAME", f"d.{E}", "DNAME", m.KIND_STATIC, [f"d.{E} 300 DNAME t.{E}"]),
    Row("1034 §4.3.2 nested zone", f"www.nested.{E}", "A", m.KIND_STATIC, a(f"www.nested.{E}", "192.0.2.50")),
    Row("1034 §4.3.2 nested apex", f"nested.{E}", "NS", m.KIND_STATIC, [f"nested.{E} 300 NS ns1.nested.{E}"]),
]

NEGATIVE = [
    Row("2308 §2.1", f"nothing.{E}", "A", m.KIND_NXDOMAIN, authority=[SOA], rcode=NX),
    Row("2308 §2.1 many labels", f"{'x.' * 100}{E}", "A", m.KIND_NXDOMAIN, authority=[SOA], rcode=NX),
    Row("2308 §2.2", f"www.{E}", "MX", m.KIND_NODATA, authority=[SOA]),
    Row("2308 §2.2 type 0", f"www.{E}", "TYPE0", m.KIND_NODATA, authority=[SOA]),
    Row("2308 §2.2 unsigned", f"www.{E}", "RRSIG", m.KIND_NODATA, authority=[SOA]),
    Row("2308 §2.2 apex", E, "A", m.KIND_NODATA, authority=[SOA]),
    Row("8020 §2 empty", f"b.{E}", "A", m.KIND_NODATA, authority=[SOA]),
    Row("8020 §2 empty, ANY", f"b.{E}", "ANY", m.KIND_NODATA, authority=[SOA]),
    Row("8020 §2 above a wildcard", f"w.{E}", "TXT", m.KIND_NODATA, authority=[SOA]),
    Row("8020 §2 above a service", f"service.tree.{E}", "A", m.KIND_NODATA, authority=[SOA]),
    Row("8020 §2 above a nested apex", f"away.nested2.{E}", "A", m.KIND_NODATA, authority=[SOA]),
    Row("8020 §2 above a nested apex", f"nested2.{E}", "A", m.KIND_NODATA, authority=[SOA]),
    Row("2308 §2.1 beside a nested apex", f"x.nested2.{E}", "A", m.KIND_NXDOMAIN, authority=[SOA], rcode=NX),
    Row("2308 §2.1 nested zone", f"nothing.nested.{E}", "A", m.KIND_NXDOMAIN, authority=[NESTED_SOA], rcode=NX),
    Row("2308 §2.2 nested zone", f"nested.{E}", "MX", m.KIND_NODATA, authority=[NESTED_SOA]),
    Row("2308 §2.2 service", f"api.{E}", "MX", m.KIND_NODATA, authority=[SOA]),
    Row("types are the service's", f"v4only.{E}", "AAAA", m.KIND_NODATA, authority=[SOA]),
    Row("1034 §4.3.2 no NODATA below a name", f"x.www.{E}", "A", m.KIND_NXDOMAIN, authority=[SOA], rcode=NX),
    Row("4035 §3.1.4.1 DS not at a cut", f"www.{E}", "DS", m.KIND_NODATA, authority=[SOA]),
    Row("4035 §3.1.4.1 DS of an apex, parent's denial", f"far.away.nested2.{E}", "DS", m.KIND_NODATA, authority=[SOA]),
    Row("4035 §3.1.4.1 DS of an apex without its parent", "example.org.", "DS", m.KIND_NODATA, authority=[
        "example.org. 60 SOA ns1.example.org. hostmaster.example.org. 1 7200 3600 1209600 60"]),
]

WILDCARD = [
    Row("4592 §3.3.1", f"x.w.{E}", "TXT", m.KIND_WILDCARD, [f'x.w.{E} 300 TXT "wild"']),
    Row("4592 §2.1.1 several labels", f"z.y.x.w.{E}", "A", m.KIND_WILDCARD, a(f"z.y.x.w.{E}", "192.0.2.5")),
    Row("4592 §2.2.1 NODATA", f"x.w.{E}", "MX", m.KIND_WILDCARD, authority=[SOA]),
    Row("4592 §2.2.1 existing name", f"real.w.{E}", "A", m.KIND_NODATA, authority=[SOA]),
    Row("4592 §2.2.1 below an existing name", f"x.real.w.{E}", "A", m.KIND_NXDOMAIN, authority=[SOA], rcode=NX),
    Row("4592 §2.3 asked for itself", f"*.w.{E}", "TXT", m.KIND_STATIC, [f'*.w.{E} 300 TXT "wild"']),
    Row("4592 §2.2.1 below itself", f"x.*.w.{E}", "TXT", m.KIND_NXDOMAIN, authority=[SOA], rcode=NX),
    Row("4592 §3.3.3 CNAME", f"x.wc.{E}", "A", m.KIND_WILDCARD, [cname(f"x.wc.{E}", f"www.{E}"), *a(f"www.{E}", *WWW)]),
    Row("4592 §3.3.3 CNAME asked", f"x.wc.{E}", "CNAME", m.KIND_WILDCARD, [cname(f"x.wc.{E}", f"www.{E}")]),
    Row("8482 §4.2 ANY", f"x.w.{E}", "ANY", m.KIND_WILDCARD, [f'x.w.{E} 3600 HINFO "RFC8482" ""']),
    Row("4592 §4.1 service", f"x.svc.{E}", "A", m.KIND_WILDCARD, a(f"x.svc.{E}", "198.51.100.2", ttl=8),
        also=[m.NO_PLACE]),
    Row("4592 §4.1 beside a service", f"x.svc.{E}", "TXT", m.KIND_WILDCARD,
        [f'x.svc.{E} 300 TXT "beside a wildcard service"']),
    Row("4592 §2.3 service itself", f"*.svc.{E}", "AAAA", m.KIND_SERVICE, [f"*.svc.{E} 8 AAAA 2001:db8::2"],
        also=[m.NO_PLACE]),
]

REFERRAL = [
    Row("1034 §4.3.2 3b", f"x.sub.{E}", "A", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("1034 §4.3.2 3b at the cut", f"sub.{E}", "A", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("1034 §4.3.2 3b NS", f"sub.{E}", "NS", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("1034 §4.3.2 3b ANY", f"sub.{E}", "ANY", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("9471 §3 glue asked", f"ns.sub.{E}", "A", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("1034 §4.2.1 cut below a cut", f"x.deep.sub.{E}", "A", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("4035 §3.1.4.1 DS below", f"x.sub.{E}", "DS", m.KIND_REFERRAL, [], SUB_NS, SUB_GLUE, aa=False),
    Row("4035 §3.1.4.1 DS", f"sub.{E}", "DS", m.KIND_STATIC, [DS]),
    Row("4035 §3.1.4.1 no DS", f"nods.{E}", "DS", m.KIND_NODATA, authority=[SOA]),
    Row("4035 §3.1.4.1 DS of a nested zone", f"nested.{E}", "DS", m.KIND_STATIC,
        [NESTED_DS]),
    Row("9471 §3 one server", f"nods.{E}", "A", m.KIND_REFERRAL, [], [f"nods.{E} 300 NS ns.nods.{E}"],
        a(f"ns.nods.{E}", "192.0.2.7"), aa=False),
]

CHAIN = [
    Row("1034 §3.6.2", f"al.{E}", "A", m.KIND_CNAME, [cname(f"al.{E}", f"www.{E}"), *a(f"www.{E}", *WWW)]),
    Row("1034 §3.6.2 two", f"al2.{E}", "A", m.KIND_CNAME,
        [cname(f"al2.{E}", f"al.{E}"), cname(f"al.{E}", f"www.{E}"), *a(f"www.{E}", *WWW)]),
    Row("1034 §3.6.2 CNAME asked", f"al2.{E}", "CNAME", m.KIND_STATIC, [cname(f"al2.{E}", f"al.{E}")]),
    Row("8482 §4.2 ANY at a CNAME", f"al2.{E}", "ANY", m.KIND_CNAME, [cname(f"al2.{E}", f"al.{E}")]),
    Row("6604 §2 NXDOMAIN", f"al3.{E}", "A", m.KIND_CNAME, [cname(f"al3.{E}", f"nothing.{E}")], [SOA], rcode=NX),
    Row("2308 §2.2 NODATA", f"al.{E}", "MX", m.KIND_CNAME, [cname(f"al.{E}", f"www.{E}")], [SOA]),
    Row("2308 §2.2 empty", f"al4.{E}", "A", m.KIND_CNAME, [cname(f"al4.{E}", f"b.{E}")], [SOA]),
    Row("1034 §4.3.2 into a cut", f"al5.{E}", "A", m.KIND_CNAME, [cname(f"al5.{E}", f"a.sub.{E}")], SUB_NS, SUB_GLUE),
    Row("1034 §4.3.2 to a cut", f"al6.{E}", "A", m.KIND_CNAME, [cname(f"al6.{E}", f"sub.{E}")], SUB_NS, SUB_GLUE),
    Row("4035 §3.1.4.1 DS at a cut", f"al6.{E}", "DS", m.KIND_CNAME,
        [cname(f"al6.{E}", f"sub.{E}"), DS]),
    Row("4035 §3.1.4.1 DS below a cut", f"al5.{E}", "DS", m.KIND_CNAME,
        [cname(f"al5.{E}", f"a.sub.{E}")], SUB_NS, SUB_GLUE),
    Row("4035 §3.1.4.1 DS of a nested zone", f"al14.{E}", "DS", m.KIND_CNAME,
        [cname(f"al14.{E}", f"nested.{E}"), NESTED_DS]),
    Row("1034 §3.6.2 out of bailiwick", f"al7.{E}", "A", m.KIND_CNAME, [cname(f"al7.{E}", "www.other.example.net.")]),
    Row("to a service", f"al8.{E}", "A", m.KIND_CNAME,
        [cname(f"al8.{E}", f"api.{E}"), *a(f"api.{E}", "198.51.100.1", ttl=8)], also=[m.NO_PLACE]),
    Row("to a service's NODATA", f"al8.{E}", "MX", m.KIND_CNAME, [cname(f"al8.{E}", f"api.{E}")], [SOA]),
    Row("to a wildcard", f"al9.{E}", "A", m.KIND_CNAME,
        [cname(f"al9.{E}", f"anything.w.{E}"), *a(f"anything.w.{E}", "192.0.2.5")]),
    Row("to a wildcard CNAME", f"al15.{E}", "A", m.KIND_CNAME,
        [cname(f"al15.{E}", f"x.wc.{E}"), cname(f"x.wc.{E}", f"www.{E}"), *a(f"www.{E}", *WWW)]),
    Row("into a nested zone", f"al10.{E}", "A", m.KIND_CNAME,
        [cname(f"al10.{E}", f"www.nested.{E}"), *a(f"www.nested.{E}", "192.0.2.50")]),
    Row("out of a nested zone", f"up.nested.{E}", "A", m.KIND_CNAME,
        [cname(f"up.nested.{E}", f"www.{E}"), *a(f"www.{E}", *WWW)]),
    Row("denial of the last zone", f"al10.{E}", "MX", m.KIND_CNAME,
        [cname(f"al10.{E}", f"www.nested.{E}")], [NESTED_SOA]),
    Row("into another zone", f"al12.{E}", "A", m.KIND_CNAME,
        [cname(f"al12.{E}", "www.example.org."), *a("www.example.org.", "192.0.2.60")]),
    Row("from another zone", "loop.example.org.", "A", m.KIND_CNAME,
        [cname("loop.example.org.", f"al12.{E}"), cname(f"al12.{E}", "www.example.org."),
         *a("www.example.org.", "192.0.2.60")]),
    Row("1034 §3.6.2 loop", f"loop1.{E}", "A", m.KIND_CNAME,
        [cname(f"loop1.{E}", f"loop2.{E}"), cname(f"loop2.{E}", f"loop1.{E}")]),
    Row("1034 §3.6.2 to itself", f"self.{E}", "A", m.KIND_CNAME, [cname(f"self.{E}", f"self.{E}")]),
    Row("9 aliases are followed", f"chain0.{E}", "A", m.KIND_CNAME,
        [cname(f"chain{n}.{E}", f"chain{n + 1}.{E}") for n in range(9)]),
    Row("8 aliases and an answer", f"chain4.{E}", "A", m.KIND_CNAME,
        [*(cname(f"chain{n}.{E}", f"chain{n + 1}.{E}") for n in range(4, 12)), *a(f"chain12.{E}", "192.0.2.12")]),
    Row("to a service without an address", f"al13.{E}", "A", m.KIND_CNAME, [cname(f"al13.{E}", f"dark.{E}")],
        rcode=SERVFAIL, aa=False, also=[m.LADDER_EMPTY]),
]

W = "w" * 60
D = f"d.{E} 300 DNAME t.{E}"
LONG = ".".join(["a" * 63, "b" * 63, "c" * 63]) + ".example.net."
DNAME = [
    Row("6672 §3.2", f"www.d.{E}", "A", m.KIND_DNAME,
        [D, cname(f"www.d.{E}", f"www.t.{E}"), *a(f"www.t.{E}", "192.0.2.8")]),
    Row("6672 §3.2 more labels, NXDOMAIN", f"y.x.d.{E}", "A", m.KIND_DNAME,
        [D, cname(f"y.x.d.{E}", f"y.x.t.{E}")], [SOA], rcode=NX),
    Row("6672 §3.2 to a CNAME", f"al.d.{E}", "A", m.KIND_DNAME,
        [D, cname(f"al.d.{E}", f"al.t.{E}"), cname(f"al.t.{E}", f"www.{E}"), *a(f"www.{E}", *WWW)]),
    Row("6672 §3.2 from a CNAME", f"al11.{E}", "A", m.KIND_CNAME,
        [cname(f"al11.{E}", f"www.d.{E}"), D, cname(f"www.d.{E}", f"www.t.{E}"), *a(f"www.t.{E}", "192.0.2.8")]),
    Row("6672 §3.2 CNAME is the answer", f"al.d.{E}", "CNAME", m.KIND_DNAME, [D, cname(f"al.d.{E}", f"al.t.{E}")]),
    Row("8482 §4.1 ANY", f"www.d.{E}", "ANY", m.KIND_DNAME, [D, cname(f"www.d.{E}", f"www.t.{E}")]),
    Row("6672 §3.2 out of bailiwick", f"x.dout.{E}", "A", m.KIND_DNAME,
        [f"dout.{E} 300 DNAME example.net.", cname(f"x.dout.{E}", "x.example.net.")]),
    Row("6672 §3.2 loop", f"x.dloop.{E}", "A", m.KIND_DNAME,
        [f"dloop.{E} 300 DNAME dloop2.{E}", cname(f"x.dloop.{E}", f"x.dloop2.{E}"),
         f"dloop2.{E} 300 DNAME dloop.{E}", cname(f"x.dloop2.{E}", f"x.dloop.{E}")]),
    Row("2181 §5 a DNAME is told once", f"x.twice.{E}", "A", m.KIND_DNAME,
        [f"twice.{E} 300 DNAME y.twice.{E}", *(
            cname(f"x{'.y' * n}.twice.{E}", f"x{'.y' * (n + 1)}.twice.{E}") for n in range(9))]),
    Row("6672 §2.2 too long after a while", f"{'z' * 60}.grows.{E}", "A", m.KIND_DNAME,
        [f"grows.{E} 300 DNAME {'w' * 60}.grows.{E}", *(
            cname(f"{'z' * 60}{f'.{W}' * n}.grows.{E}", f"{'z' * 60}{f'.{W}' * (n + 1)}.grows.{E}") for n in range(2))],
        rcode=YX),
    Row("6672 §2.2 too long", f"{'z' * 51}.dlong.{E}", "A", m.KIND_DNAME, [f"dlong.{E} 300 DNAME {LONG}"], rcode=YX),
    Row("6672 §2.2 just fits", f"{'z' * 49}.dlong.{E}", "A", m.KIND_DNAME,
        [f"dlong.{E} 300 DNAME {LONG}", cname(f"{'z' * 49}.dlong.{E}", f"{'z' * 49}.{LONG}")]),
    Row("6672 §2.2 one octet too long", f"{'z' * 50}.dlong.{E}", "A", m.KIND_DNAME, [f"dlong.{E} 300 DNAME {LONG}"],
        rcode=YX),
    Row("6672 §2.3 not at its owner", f"d.{E}", "A", m.KIND_NODATA, authority=[SOA]),
]

ELSEWHERE = [
    Row("8482 §4.2", f"www.{E}", "ANY", m.KIND_ANY, [f'www.{E} 3600 HINFO "RFC8482" ""']),
    Row("8482 §4.2 service", f"api.{E}", "ANY", m.KIND_ANY, [f'api.{E} 3600 HINFO "RFC8482" ""']),
    *(Row("not ours", name, type_, m.KIND_REFUSED, rcode=REFUSED, aa=False)
      for name in ("example.net.", "com.", ".", "www.example.comx.") for type_ in ("A", "ANY")),
    Row("5936 §2.2.1", E, "AXFR", m.KIND_REFUSED, rcode=REFUSED, aa=False),
    Row("5936 §2.2.1 nested", f"nested.{E}", "AXFR", m.KIND_REFUSED, rcode=REFUSED, aa=False),
    *(Row("5936 §2.2.1 no apex", name, type_, m.KIND_REFUSED, rcode=NOTAUTH, aa=False) for type_ in ("AXFR", "IXFR")
      for name in (f"www.{E}", f"nothing.{E}", f"x.sub.{E}", f"www.d.{E}", f"nul\\000octet.{E}", "example.net.")),
    Row("5936 §2.2.1 under a wildcard", f"x.w.{E}", "AXFR", m.KIND_REFUSED, rcode=NOTAUTH, aa=False),
    Row("1995 §4", E, "IXFR", m.KIND_REFUSED, rcode=REFUSED, aa=False),
    *(Row("1035 §3.2.4 class", name, "TXT", m.KIND_REFUSED, rcode=REFUSED, aa=False, class_=class_)
      for name in (f"www.{E}", f"api.{E}", f"nothing.{E}", f"x.w.{E}", f"x.sub.{E}", f"sub.{E}", f"www.d.{E}",
                   "id.server.", f"b.{E}")
      for class_ in ("CH", "HS", "NONE", "ANY", "CLASS0")),
]


@pytest.fixture(scope="module")
def door() -> Door:
    """The standard world."""
    return Door(standard(), tcp=True)


@pytest.mark.parametrize("row", [*STATIC, *NEGATIVE, *WILDCARD, *REFERRAL, *CHAIN, *DNAME, *ELSEWHERE],
                         ids=lambda row: f"{row.rfc}: {row.name[-40:]} {row.class_} {row.type}")
def test_answer_is_what_the_rfc_says(door: Door, row: Row) -> None:
    reply = door.ask(row.name, row.type, row.class_)
    assert (reply.rcode, reply.aa, reply.tc) == (row.rcode, row.aa, False)
    assert sorted(reply.answer) == sorted(row.answer)
    assert sorted(reply.authority) == sorted(row.authority)
    assert sorted(reply.additional) == sorted(row.additional)
    assert reply.message.opt is None
    assert reply.moved == dict.fromkeys([row.kind, m.RCODE + row.rcode, *row.also], 1)


def test_aliases_come_in_the_order_they_are_followed(door: Door) -> None:
    owners = [text.split()[0] for text in door.ask(f"chain4.{E}").answer]
    assert owners == [f"chain{n}.{E}" for n in range(4, 13)]


@pytest.mark.parametrize("name", ["WwW.eXaMpLe.CoM", "NoThInG.example.COM", "X.W.example.com", "Al.Example.com",
                                  "Api.Example.com", "X.SUB.example.com", "wWw.D.example.com", "EXAMPLE.NET"])
def test_question_comes_back_in_the_case_it_came(door: Door, name: str) -> None:
    packet = query(name)
    reply = door.send(packet)
    assert reply.octets[12 : len(packet)] == packet[12:]
    lower = door.ask(name.lower())
    assert list(map(str.lower, reply.answer)) == list(map(str.lower, lower.answer))
    assert reply.rcode == lower.rcode


def test_root_zone_answers_below_it() -> None:
    door = Door(image([zone(".", "@ NS ns1\nns1 A 192.0.2.1\nwww A 192.0.2.2\n*.w TXT x\n")]))
    assert door.ask("www").addresses == ["192.0.2.2"]
    assert door.ask("a.b.w", "TXT").answer == ['a.b.w. 300 TXT "x"']
    assert door.ask("nothing.at.all").authority == [". 60 SOA ns1. hostmaster. 1 7200 3600 1209600 60"]
    assert door.ask(".", "SOA").rcode == 0
    assert door.ask(".", "DS").authority
    assert door.ask(".", "A").rcode == 0


def test_inner_zone_below_a_cut_of_the_outer() -> None:
    outer = zone("example.com", "sub NS ns.sub\nns.sub A 192.0.2.6\n")
    door = Door(image([outer, zone("a.sub.example.com", "www A 192.0.2.50")]))
    assert door.ask("www.a.sub.example.com").addresses == ["192.0.2.50"]
    assert door.ask("b.sub.example.com").authority == ["sub.example.com. 300 NS ns.sub.example.com."]
    # The parent of the inner zone is not here, so its own zone says that there is no DS.
    assert door.ask("a.sub.example.com", "DS").authority[0].startswith("a.sub.example.com. 60 SOA")


def test_the_widest_chain_to_an_answer_wider_than_pointers_reach() -> None:
    """Its owners point at the last alias, which lies before offset 0x4000 (RFC 1035 §4.1.4)."""
    label = "x" * 60
    wide = "\n".join(f"c{n}.{label}.{label}.{label} CNAME c{n + 1}.{label}.{label}.{label}" for n in range(8))
    fat = "\n".join(f"c8.{label}.{label}.{label} TXT {' '.join([chr(34) + f'{n:03d}' + 'y' * 240 + chr(34)] * 4)}"
                    for n in range(20))
    door = Door(image([zone("example.com", f"{wide}\n{fat}")]), tcp=True)
    reply = door.ask(f"c0.{label}.{label}.{label}.example.com", "TXT")
    assert len(reply.octets) > 0x4000
    assert len(reply.answer) == 28


def test_services_beside_every_kind_of_name_keep_their_types() -> None:
    door = Door(image([zone("example.com", "api MX 10 ns1\n")], [service("api.example.com", types=[1])]))
    assert door.ask("api.example.com", "MX").answer == ["api.example.com. 300 MX 10 ns1.example.com."]
    assert door.ask("api.example.com", "AAAA").rcode == 0
    assert door.ask("api.example.com", "A").rcode == SERVFAIL
