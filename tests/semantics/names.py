"""The rules of names, types and denial as rows: each with the section of the RFC that makes it one."""

from __future__ import annotations

from tests.semantics.world import C_SOA, GLUE, S_SOA, SUB_NS, T_SOA, U_SOA, Row

WWW = ["www.t. 300 A 192.0.2.2", "www.t. 300 A 192.0.2.3"]
REFERRAL = (SUB_NS, GLUE)
HINFO = '3600 HINFO "RFC8482" ""'


def al(owner: str, target: str, ttl: int = 300) -> str:
    """A CNAME as text."""
    return f"{owner} {ttl} CNAME {target}"


NAMES = [
    Row("1034 §4.3.2 3a: the name is there", "www.t A", "NOERROR aa", WWW),
    Row("1034 §4.3.2 3a: another type of it", "www.t AAAA", "NOERROR aa", ["www.t. 300 AAAA 2001:db8::2"]),
    Row("1035 §3.3.14: strings of a TXT stay apart", "www.t TXT", "NOERROR aa", ['www.t. 300 TXT "one" "two"']),
    Row("2181 §5.2: an rrset has one TTL, its own", "ttl.t A", "NOERROR aa", ["ttl.t. 7 A 192.0.2.4"]),
    Row("1035 §3.3.13: the SOA with its own TTL", "t SOA", "NOERROR aa", [T_SOA.replace("t. 60", "t. 3600", 1)]),
    Row("1034 §4.2.1: NS of the apex are authoritative", "t NS", "NOERROR aa", ["t. 300 NS ns1.t.", "t. 300 NS ns.u."]),
    Row("1034 §4.3.2 step 6: additional data is optional and left out (MX)", "mail.t MX", "NOERROR aa",
        ["mail.t. 300 MX 10 www.t."]),
    Row("2782 p. 5: additional data is optional and left out (SRV)", "srv.t SRV", "NOERROR aa",
        ["srv.t. 300 SRV 0 5 5060 www.t."]),
    Row("4343 §3: case is no difference", "WwW.T A", "NOERROR aa", [text.replace("www.t", "WwW.T") for text in WWW]),
    Row("1034 §3.1: the root is not ours", ". NS", "REFUSED"),
    Row("1034 §4.3.1: no zone of ours", "www.far A", "REFUSED"),
    Row("1034 §4.3.1: the zone above ours is not ours", "x A", "REFUSED"),
    Row("8914 §4.21: and why", "www.far A +edns", "REFUSED", opt="ede=20"),
    Row("1035 §4.1.1: RD comes back", "www.t A +rd", "NOERROR aa rd", WWW),
    Row("1035 §4.1.1: AA, RA and Z of a query mean nothing", "www.t A +aa +ra +z", "NOERROR aa", WWW),
    Row("4035 §3.1.6: AD and CD are cleared", "www.t A +ad +cd", "NOERROR aa", WWW),
]

NEGATIVE = [
    Row("2308 §2.1: no such name", "nothing.t A", "NXDOMAIN aa", au=[T_SOA]),
    Row("2308 §2.2: no such type", "www.t MX", "NOERROR aa", au=[T_SOA]),
    Row("2308 §3: TTL = min(SOA TTL, minimum), the minimum is less", "nothing.t A", "NXDOMAIN aa", au=[T_SOA]),
    Row("2308 §3: TTL = min(SOA TTL, minimum), the TTL is less", "nothing.u A", "NXDOMAIN aa", au=[U_SOA]),
    Row("2308 §3: the SOA of the innermost zone", "www.c.t MX", "NOERROR aa", au=[C_SOA]),
    Row("8020 §2: an empty non-terminal exists", "ent.full.t A", "NOERROR aa", au=[T_SOA]),
    Row("8020 §2: so does the one above it", "full.t A", "NOERROR aa", au=[T_SOA]),
    Row("8020 §2: and beside it nothing", "x.full.t A", "NXDOMAIN aa", au=[T_SOA]),
    Row("8020 §2: nothing is below a name that has nothing below it", "x.www.t A", "NXDOMAIN aa", au=[T_SOA]),
    Row("8020 §2: above a service", "of.t A", "NOERROR aa", au=[T_SOA]),
    Row("4035 §3.1.4.1: DS of a name that is no cut", "www.t DS", "NOERROR aa", au=[T_SOA]),
    Row("4035 §3.1.4.1: DS of an apex whose parent is not here", "t DS", "NOERROR aa", au=[T_SOA]),
    Row("6895 §3.1: type 0 is never there", "www.t TYPE0", "NOERROR aa", au=[T_SOA]),
    Row("4035 §3.1: no RRSIG in an unsigned zone", "www.t RRSIG", "NOERROR aa", au=[T_SOA]),
    Row("4035 §3.1: nor with DO", "www.t A +do", "NOERROR aa", WWW, opt="do"),
]

WILDCARDS = [
    Row("4592 §3.3.1: a name that is not there", "x.w.t TXT", "NOERROR aa", ['x.w.t. 300 TXT "wild"']),
    Row("4592 §2.1.1: of any depth", "z.y.x.w.t TXT", "NOERROR aa", ['z.y.x.w.t. 300 TXT "wild"']),
    Row("4592 §2.2.1: NODATA", "x.w.t A", "NOERROR aa", au=[T_SOA]),
    Row("4592 §2.2.1: a name that is there has its own types", "real.w.t TXT", "NOERROR aa", au=[T_SOA]),
    Row("4592 §2.2.1: and nothing below it", "x.real.w.t TXT", "NXDOMAIN aa", au=[T_SOA]),
    Row("4592 §2.2.2: an empty non-terminal is there too", "ent.w.t TXT", "NOERROR aa", au=[T_SOA]),
    Row("4592 §2.2.2: and blocks below it", "y.ent.w.t TXT", "NXDOMAIN aa", au=[T_SOA]),
    Row("4592 §2.2.1: the name above a wildcard", "w.t TXT", "NOERROR aa", au=[T_SOA]),
    Row("4592 §2.3: the wildcard asked for itself", "*.w.t TXT", "NOERROR aa", ['*.w.t. 300 TXT "wild"']),
    Row("4592 §2.1.1: a * that is not the first label is none", "x.*.w.t TXT", "NXDOMAIN aa", au=[T_SOA]),
    Row("4592 §2.1.3: a wildcard below a label *", "x.*.ww.t A", "NOERROR aa", ["x.*.ww.t. 300 A 192.0.2.8"]),
    Row("4592 §2.1.3: which stands for no other label", "x.y.ww.t A", "NOERROR aa", au=[T_SOA]),
    Row("4592 §3.3.3: CNAME at a wildcard", "x.wc.t A", "NOERROR aa", [al("x.wc.t.", "www.t."), *WWW]),
    Row("4592 §3.3.3: asked for as such", "x.wc.t CNAME", "NOERROR aa", [al("x.wc.t.", "www.t.")]),
    Row("6604 §2: and where it leads nowhere", "x.wx.t A", "NXDOMAIN aa", [al("x.wx.t.", "nothing.t.")], [T_SOA]),
    Row("4592 §4.5: DS at a wildcard's name", "x.w.t DS", "NOERROR aa", au=[T_SOA]),
    Row("4592 §3.3.1: below the apex of an inner zone", "x.c.t TXT", "NOERROR aa", ['x.c.t. 300 TXT "below an apex"']),
    Row("4592 §4.1: a service", "x.svc.t A", "NOERROR aa", ["x.svc.t. 8 A 198.51.100.3"]),
    Row("4592 §4.1: a service, of any depth", "y.x.svc.t AAAA", "NOERROR aa", ["y.x.svc.t. 8 AAAA 2001:db8::3"]),
    Row("4592 §4.1: a service, NODATA", "x.svc.t TXT", "NOERROR aa", au=[T_SOA]),
    Row("4592 §4.1: a name that is there blocks the service", "free.svc.t A", "NOERROR aa", au=[T_SOA]),
    Row("4592 §4.1: so does one that is there empty", "ent.svc.t A", "NOERROR aa", au=[T_SOA]),
    Row("4592 §4.1: and whatever would be below it", "x.ent.svc.t A", "NXDOMAIN aa", au=[T_SOA]),
    Row("4592 §4.1: the name above is no instance of it", "svc.t A", "NOERROR aa", au=[T_SOA]),
    Row("4592 §4.1: the service asked for itself", "*.svc.t A", "NOERROR aa", ["*.svc.t. 8 A 198.51.100.3"]),
]

DELEGATIONS = [
    Row("1034 §4.3.2 3b: below a cut", "x.sub.t A", "NOERROR", [], *REFERRAL),
    Row("1034 §4.3.2 3b: at it", "sub.t A", "NOERROR", [], *REFERRAL),
    Row("1034 §4.3.2 3b: its NS", "sub.t NS", "NOERROR", [], *REFERRAL),
    Row("1034 §4.3.2 3b: its SOA", "sub.t SOA", "NOERROR", [], *REFERRAL),
    Row("9471 §3.1: its glue", "ns.sub.t A", "NOERROR", [], *REFERRAL),
    Row("1034 §4.2.1: a cut below a cut is not ours", "x.below.sub.t A", "NOERROR", [], *REFERRAL),
    Row("1034 §4.3.2 3b: no address to add", "x.bare.t A", "NOERROR", [], ["bare.t. 300 NS ns.far."]),
    Row("9471 §3.1: in-domain glue", "x.side.t A", "NOERROR", [], ["side.t. 300 NS ns.side.t."],
        ["ns.side.t. 300 A 192.0.2.10"]),
    Row("4035 §3.1.4.1: DS at a cut is the parent's", "sub.t DS", "NOERROR aa",
        [f"sub.t. 300 DS 4711 13 2 {'00' * 32}"]),
    Row("4035 §3.1.4.1: and so is its absence", "side.t DS", "NOERROR aa", au=[T_SOA]),
    Row("4035 §3.1.4.1: DS below a cut", "x.sub.t DS", "NOERROR", [], *REFERRAL),
    Row("4035 §3.1.4.1: DS of a zone served here beside its parent", "c.t DS", "NOERROR aa",
        [f"c.t. 300 DS 4712 13 2 {'11' * 32}"]),
    Row("1034 §4.3.2 step 2: the nearest zone, not the cut in its parent", "www.c.t A", "NOERROR aa",
        ["www.c.t. 300 A 192.0.2.14"]),
    Row("1034 §4.3.2 step 2: its NS", "c.t NS", "NOERROR aa", ["c.t. 300 NS ns.c.t."]),
]

ALIASES = [
    Row("1034 §3.6.2: CNAME", "al.t A", "NOERROR aa", [al("al.t.", "www.t."), *WWW]),
    Row("1034 §3.6.2: of a CNAME", "al2.t A", "NOERROR aa", [al("al2.t.", "al.t."), al("al.t.", "www.t."), *WWW]),
    Row("1034 §3.6.2: asked for as such", "al2.t CNAME", "NOERROR aa", [al("al2.t.", "al.t.")]),
    Row("6604 §2: the rcode is the last name's", "alnx.t A", "NXDOMAIN aa", [al("alnx.t.", "nothing.t.")], [T_SOA]),
    Row("2308 §2.2.1: NODATA behind an alias", "al.t MX", "NOERROR aa", [al("al.t.", "www.t.")], [T_SOA]),
    Row("8020 §2: an empty name behind an alias", "alempty.t A", "NOERROR aa", [al("alempty.t.", "ent.full.t.")],
        [T_SOA]),
    Row("1034 §4.3.2 3b: a cut behind an alias", "alcut.t A", "NOERROR aa", [al("alcut.t.", "x.sub.t.")], *REFERRAL),
    Row("1034 §3.6.2: out of our zones", "alfar.t A", "NOERROR aa", [al("alfar.t.", "www.far.")]),
    Row("1034 §4.3.2 step 1: into another zone", "alu.t A", "NOERROR aa",
        [al("alu.t.", "www.u."), "www.u. 300 A 198.51.100.2"]),
    Row("6604 §2: the rcode and SOA of that zone", "alunx.t A", "NXDOMAIN aa", [al("alunx.t.", "nothing.u.")], [U_SOA]),
    Row("1034 §4.3.2 step 1: into a zone inside", "alc.t A", "NOERROR aa",
        [al("alc.t.", "www.c.t."), "www.c.t. 300 A 192.0.2.14"]),
    Row("1034 §3.6.2: loops are told once", "loop1.t A", "NOERROR aa",
        [al("loop1.t.", "loop2.t."), al("loop2.t.", "loop1.t.")]),
    Row("1034 §3.6.2: to itself", "self.t A", "NOERROR aa", [al("self.t.", "self.t.")]),
    Row("1034 §3.6.2: loops through two zones", "cross.t A", "NOERROR aa",
        [al("cross.t.", "cross.u."), al("cross.u.", "cross.t.")]),
    Row("1034 §3.6.2: nine are followed", "n0.t A", "NOERROR aa", [al(f"n{i}.t.", f"n{i + 1}.t.") for i in range(9)]),
    Row("1034 §3.6.2: eight and an answer", "n4.t A", "NOERROR aa",
        [*(al(f"n{i}.t.", f"n{i + 1}.t.") for i in range(4, 12)), "n12.t. 300 A 192.0.2.12"]),
    Row("1034 §3.6.2: to a service", "alapi.t TXT", "NOERROR aa",
        [al("alapi.t.", "api.t."), 'api.t. 300 TXT "beside a service"']),
    Row("4592 §3.3.1: to a wildcard service", "alwild.t A", "NOERROR aa",
        [al("alwild.t.", "x.svc.t."), "x.svc.t. 8 A 198.51.100.3"]),
    Row("1034 §3.6.2: to a service at an apex", "www.s A", "NOERROR aa", [al("www.s.", "s."), "s. 8 A 198.51.100.4"]),
    Row("2181 §10.1: to a service that has nothing to give; not authoritative", "aldark.t A", "SERVFAIL",
        [al("aldark.t.", "dark.t.")]),
]

LONG = ".".join(["l" * 63, "m" * 63, "n" * 63])
DN = "dn.t. 300 DNAME www.tree.t."
DNAMES = [
    Row("6672 §3.2 3C: a DNAME and the CNAME made of it", "x.dn.t A", "NOERROR aa",
        [DN, al("x.dn.t.", "x.www.tree.t."), "x.www.tree.t. 300 A 192.0.2.13"]),
    Row("6672 §3.1: the CNAME's TTL is the DNAME's", "x.dn.t CNAME", "NOERROR aa",
        [DN, al("x.dn.t.", "x.www.tree.t.")]),
    Row("6672 §2.3: its owner is not redirected", "dn.t TXT", "NOERROR aa", ['dn.t. 300 TXT "beside"']),
    Row("6672 §2.3: its owner has a DNAME", "dn.t DNAME", "NOERROR aa", [DN]),
    Row("6672 §2.3: its owner, another type", "dn.t A", "NOERROR aa", au=[T_SOA]),
    Row("6604 §2: where it leads nowhere", "y.dn.t A", "NXDOMAIN aa", [DN, al("y.dn.t.", "y.www.tree.t.")], [T_SOA]),
    Row("6672 §2.2: to a name longer than 255 octets", f"{'z' * 63}.dnlong.t A", "YXDOMAIN aa",
        [f"dnlong.t. 300 DNAME {LONG}.far."]),
    Row("6672 §3.2: behind a CNAME", "aldn.t A", "NXDOMAIN aa",
        [al("aldn.t.", "www.dn.t."), DN, al("www.dn.t.", "www.www.tree.t.")], [T_SOA]),
    Row("6672 §3.2: into another zone", "www.dnu.t A", "NOERROR aa",
        ["dnu.t. 300 DNAME u.", al("www.dnu.t.", "www.u."), "www.u. 300 A 198.51.100.2"]),
]

TYPES = [
    Row("3597 §3: an unknown type is a type", "odd.t TYPE65534", "NOERROR aa", ["odd.t. 300 TYPE65534 \\# 3 010203"]),
    Row("3597 §3: without data too", "zero.t TYPE65534", "NOERROR aa", ["zero.t. 300 TYPE65534 \\# 0"]),
    Row("3597 §3: NODATA", "www.t TYPE65280", "NOERROR aa", au=[T_SOA]),
    Row("9460 §2.2: HTTPS as written", "web.t HTTPS", "NOERROR aa",
        ['web.t. 300 HTTPS 1 . alpn="h2" ipv4hint="192.0.2.2"']),
    Row("9460 §2.2: SVCB with an unknown key", "web.t SVCB", "NOERROR aa",
        ['web.t. 300 SVCB 2 www.t. port="8443" key65400="x"']),
    Row("8482 §4.2: ANY", "www.t ANY", "NOERROR aa", [f"www.t. {HINFO}"]),
    Row("8482 §4.2: ANY of a service", "api.t ANY", "NOERROR aa", [f"api.t. {HINFO}"]),
    Row("8482 §4.2: ANY of a wildcard", "x.w.t ANY", "NOERROR aa", [f"x.w.t. {HINFO}"]),
    Row("8482 §4.1: ANY of an alias", "al.t ANY", "NOERROR aa", [al("al.t.", "www.t.")]),
    Row("8482 §4: ANY of nothing", "nothing.t ANY", "NXDOMAIN aa", au=[T_SOA]),
    Row("8482 §4: ANY of an empty name", "ent.full.t ANY", "NOERROR aa", au=[T_SOA]),
    Row("8482 §4: ANY below a cut", "x.sub.t ANY", "NOERROR", [], *REFERRAL),
    Row("8482 §4.4: ANY over TCP is no more", "www.t ANY +tcp", "NOERROR aa", [f"www.t. {HINFO}"]),
    Row("1035 §3.2.3: MAILA and MAILB are types that no name has", "www.t MAILA", "NOERROR aa", au=[T_SOA]),
    Row("5936 §2.2.1: a transfer is refused", "t AXFR +tcp", "REFUSED"),
    Row("8914 §4.19: and why", "t AXFR +tcp +edns", "REFUSED", opt="ede=18"),
    Row("8914 §4.21: of what is no zone of ours, and why", "www.t IXFR +tcp +edns", "NOTAUTH", opt="ede=20"),
    Row("5936 §4.2: over UDP too", "t AXFR", "REFUSED"),
    Row("1995 §2: IXFR without the SOA it starts from", "t IXFR", "REFUSED"),
    Row("5936 §2.2.1: of what is no zone of ours", "www.t AXFR +tcp", "NOTAUTH"),
    Row("5936 §2.2.1: nor below ours", "nothing.t AXFR +tcp", "NOTAUTH"),
    Row("5936 §2.2.1: nor anywhere", "far AXFR +tcp", "NOTAUTH"),
    Row("1035 §3.2.4: class CH", "www.t A CH", "REFUSED"),
    Row("1035 §3.2.4: class HS", "www.t A HS", "REFUSED"),
    Row("1035 §3.2.5: class ANY", "www.t A ANY", "REFUSED"),
    Row("2136 §2.4: class NONE", "www.t A NONE", "REFUSED"),
    Row("4892 §2: who answers", "id.server TXT CH", "NOERROR aa",
        ['id.server. 0 TXT "node1.w0 00000000000000e0.7.3"']),
    Row("4892 §2: in any case", "ID.Server TXT CH", "NOERROR aa", ['ID.Server. 0 TXT "node1.w0 00000000000000e0.7.3"']),
    Row("4892 §2: what answers", "version.bind TXT CH", "NOERROR aa", ['version.bind. 0 TXT "dnsd x"']),
    Row("4892 §2: only as TXT", "version.bind A CH", "REFUSED"),
    Row("4892 §2: only in CH", "version.bind TXT IN", "REFUSED"),
    Row("4892 §2: no other name", "authors.bind TXT CH", "REFUSED"),
]

SERVICES = [
    Row("a service at the apex", "s A", "NOERROR aa", ["s. 8 A 198.51.100.4"]),
    Row("a service at the apex, its AAAA", "s AAAA", "NOERROR aa", ["s. 8 AAAA 2001:db8::4"]),
    Row("a service at the apex: the SOA is beside it", "s SOA", "NOERROR aa",
        [S_SOA.replace("s. 60", "s. 3600", 1)]),
    Row("a service at the apex: static types beside it", "s TXT", "NOERROR aa", ['s. 300 TXT "beside"']),
    Row("a service at the apex: NODATA", "s MX", "NOERROR aa", au=[S_SOA]),
    Row("a service at the apex: DS", "s DS", "NOERROR aa", au=[S_SOA]),
    Row("a service at the apex: names below are not it", "x.s A", "NXDOMAIN aa", au=[S_SOA]),
    Row("static types beside a service", "api.t TXT", "NOERROR aa", ['api.t. 300 TXT "beside a service"']),
    Row("2308 §2.2: a type that the service does not own", "v4.t AAAA", "NOERROR aa", au=[T_SOA]),
    Row("never NODATA for an owned type: SERVFAIL", "half.t AAAA +edns", "SERVFAIL", opt="ede=0"),
    Row("8914 §4.1: the fallback is an answer like any", "fall.t A +edns", "NOERROR aa",
        ["fall.t. 8 A 203.0.113.1"], opt=""),
    Row("8914 §4.4: the last good answer is stale", "stale.t A +edns", "NOERROR aa",
        ["stale.t. 8 A 203.0.113.2"], opt="ede=3"),
    Row("8914 §4.1: panic is told", "panic.t A +edns", "NOERROR aa", ["panic.t. 8 A 198.51.100.6"], opt="ede=0"),
    Row("1035 §4.1.1: nothing to give, and no AA", "dark.t A", "SERVFAIL"),
    Row("8914 §4.1: and why", "dark.t A +edns", "SERVFAIL", opt="ede=0"),
    Row("2308 §2.2: nothing to give is no reason to deny other types", "dark.t MX", "NOERROR aa", au=[T_SOA]),
]

TABLES = {"names": NAMES, "negative": NEGATIVE, "wildcards": WILDCARDS, "delegations": DELEGATIONS, "aliases": ALIASES,
          "DNAME": DNAMES, "types": TYPES, "services": SERVICES}
