"""The zones that dnsd and its neighbours serve side by side: a part written by hand, a part drawn at random.

Lives here: master file texts, all that is known of their names. Does not live here: asking (`questions`), servers.

Every feature that zones have is in the hand-written part, on purpose beside the things it interferes with. The drawn
part is a thicket of small labels, so that wildcards, cuts, aliases and empty names meet in ways nobody thought of.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

COM: Final = "example.com."
ORG: Final = "example.org."
CHILD: Final = "child.example.com."
DEEP: Final = "in.ent.example.com."

_FAT = "\n".join(f'fat TXT "{n:02d}{"f" * 200}"' for n in range(12))
_GLUED = "\n".join(
    f"wide NS ns{n}.wide\nns{n}.wide A 192.0.2.{n}\nns{n}.wide AAAA 2001:db8::{n:x}" for n in range(1, 14))
_CHAIN = "\n".join(f"chain{n} CNAME chain{n + 1}" for n in range(7))
_LONG = ".".join(["l" * 63, "m" * 63, "n" * 63])

_COM_HAND = f"""\
$TTL 300
@ 3600 SOA ns1 hostmaster 2024010101 7200 3600 1209600 900
@ NS ns1
@ NS ns2
@ NS ns.example.org.
@ NS ns.far.test.
@ A 192.0.2.1
@ MX 10 mail
@ MX 20 mail.example.org.
@ TXT "v=spf1 -all"
@ CAA 0 issue "ca.test"
@ HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
@ TYPE65534 \\# 4 00010203
ns1 A 192.0.2.11
ns1 AAAA 2001:db8::11
ns2 60 A 192.0.2.12
mail A 192.0.2.13
mail AAAA 2001:db8::13
www A 192.0.2.14
www A 192.0.2.15
www AAAA 2001:db8::14
www TXT "hello" "world"
www HTTPS 1 svc alpn=h2 port=8443 ipv6hint=2001:db8::14
Upper.Case A 192.0.2.16
svc SVCB 0 www
old SVCB 1 svc key65333=hex
odd TYPE65400 \\# 3 010203
odd TYPE65534 \\# 0
_sip._tcp SRV 0 5 5060 www
_sip._tcp SRV 1 5 5060 ns.sub
zero 0 A 192.0.2.17
old.ttl 2147483647 A 192.0.2.18
esc\\.dot A 192.0.2.19
nul\\000octet A 192.0.2.20
hi\\255octet A 192.0.2.20
a.b.c A 192.0.2.21
ptr PTR www
naptr NAPTR 1 1 "u" "E2U+sip" "!^.*$!sip:a@example.com!" .
rp RP hostmaster www
sshfp SSHFP 1 1 {"ab" * 20}
tlsa TLSA 3 1 1 {"cd" * 32}
uri URI 1 1 "https://example.com/"
loc LOC 50 6 0.000 N 8 42 0.000 E 100m 1m 10000m 10m
hinfo HINFO "cpu" "os"
big TXT "{"b" * 250}" "{"c" * 250}" "{"d" * 150}"
{_FAT}
*.w A 192.0.2.30
*.w TXT "wild"
*.w MX 10 mail
real.w TXT "real"
deep.below.w A 192.0.2.31
*.below.w AAAA 2001:db8::31
*.wc CNAME www
here.wc A 192.0.2.32
*.wout CNAME far.elsewhere.test.
*.wnx CNAME nothing
*.wloop CNAME x.wloop
*.wcut CNAME host.sub
*.wd CNAME a.dn
w.*.mid A 192.0.2.33
*.*.two A 192.0.2.34
sub NS ns.sub
sub NS ns1
sub NS ns.lame
sub NS ns.example.org.
sub NS ns1.child
sub NS ns.far.test.
sub DS 4711 13 2 {"00" * 32}
ns.sub A 192.0.2.40
ns.sub AAAA 2001:db8::40
lame NS ns.lame
ns.lame A 192.0.2.41
out NS ns.far.test.
out NS ns.away.test.
ours NS ns1
ours NS www
ours DS 4712 13 2 {"11" * 32}
{_GLUED}
below.cut.ent NS ns1
child NS ns1.child
child NS ns2
child DS 4713 13 2 {"22" * 32}
ns1.child A 192.0.2.50
in.ent NS ns1.in.ent
ns1.in.ent A 192.0.2.51
al CNAME www
al2 CNAME al
alnx CNAME nothing
alnodata CNAME hinfo
alent CNAME b.c
alcut CNAME sub
albelow CNAME x.y.sub
alout CNAME www.elsewhere.test.
alapex CNAME @
alorg CNAME www.example.org.
alorgnx CNAME nothing.example.org.
alchild CNAME www.child
alchildcut CNAME child
alwild CNAME x.y.w
aldn CNAME www.dn
loop1 CNAME loop2
loop2 CNAME loop3
loop3 CNAME loop1
self CNAME self
cross CNAME cross.example.org.
{_CHAIN}
chain7 A 192.0.2.60
dn DNAME t
dn TXT "at the DNAME"
www.t A 192.0.2.61
al.t CNAME www
*.deep.t TXT "wild below the target"
sub.t NS ns1
dnorg DNAME example.org.
dnout DNAME elsewhere.test.
dnnx DNAME nowhere
dnloop DNAME dnloop2
dnloop2 DNAME dnloop
dnlong DNAME {_LONG}.test.
dnchild DNAME child
dncut DNAME sub
"""

_ORG_HAND = """\
$TTL 600
@ 60 SOA ns hostmaster 7 7200 3600 1209600 3600
@ NS ns
@ NS ns1.example.com.
@ MX 10 mail
ns A 198.51.100.1
ns AAAA 2001:db8:1::1
mail A 198.51.100.2
www A 198.51.100.3
www TXT "org"
cross CNAME cross.example.com.
back CNAME al.example.com.
toloop CNAME loop1.example.com.
nx CNAME nothing.example.com.
*.wild CNAME www.example.com.
com DNAME example.com.
sub NS ns.sub
sub NS ns.sub.example.com.
ns.sub A 198.51.100.9
"""

_CHILD_HAND = """\
$TTL 120
@ SOA ns1 hostmaster 3 7200 3600 1209600 120
@ NS ns1
@ NS ns2.example.com.
@ TXT "child"
ns1 A 192.0.2.50
www A 192.0.2.52
up CNAME www.example.com.
*.w CNAME www
grand NS ns.grand
grand DS 4714 13 2 """ + "33" * 32 + """
ns.grand A 192.0.2.53
"""

_DEEP_HAND = """\
$TTL 120
@ SOA ns1 hostmaster 3 7200 3600 1209600 120
@ NS ns1
ns1 A 192.0.2.51
www A 192.0.2.54
* TXT "a wildcard below an apex"
"""

AIMED: Final = [
    *(f"{'x' * length}.dnlong.{COM}" for length in (40, 50, 51, 52, 60)),
    *(f"{owner}.{COM}" for owner in ("sub", "ours", "child", "in.ent", "alcut", "alchildcut")),
    *(f"a.{owner}.{COM}" for owner in (
        "dn", "dnorg", "dnout", "dnnx", "dnloop", "dnchild", "dncut", "w", "wc", "wnx", "wcut", "below.w", "mid", "sub",
        "wide")),
]
"""Names a draw by chance rarely meets: targets about as long as names may be, names below aliases and wildcards."""


def texts(seed: int = 1) -> dict[str, str]:
    """The master files by apex."""
    rnd = random.Random(seed)
    return {COM: _COM_HAND + "\n".join(_drawn(rnd, COM)) + "\n", ORG: _ORG_HAND + "\n".join(_drawn(rnd, ORG)) + "\n",
            CHILD: _CHILD_HAND, DEEP: _DEEP_HAND}


def owners(text: str, apex: str) -> set[str]:
    """Absolute names that a master file has as owners or targets, as they are written."""
    found = {apex}
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("$"):
            continue
        found.add(_absolute(fields[0], apex))
        if fields[1] in ("CNAME", "DNAME", "NS"):
            found.add(_absolute(fields[2], apex))
    return found


def _absolute(name: str, apex: str) -> str:
    if name == "@":
        return apex
    return name if name.endswith(".") and not name.endswith("\\.") else f"{name}.{apex}"


# --- the drawn part ---------------------------------------------------------------------------------------------------

_LABELS = ("a", "b", "c", "d", "*")


def _drawn(rnd: random.Random, apex: str) -> Iterator[str]:
    """About 150 names below `g`, each with something; what cannot be beside or below another is not drawn."""
    kinds: dict[tuple[str, ...], str] = {}
    for _ in range(400):
        name = (*(rnd.choice(_LABELS) for _ in range(rnd.randint(1, 4))), "g")
        kind = rnd.choices(("data", "cname", "dname", "cut"), (10, 8, 1, 2))[0]
        above = [kinds.get(name[n:]) for n in range(1, len(name))]
        below = any(len(other) > len(name) and other[-len(name) :] == name for other in kinds)
        if name in kinds or {"dname", "cut"} & set(above):
            continue
        if kind in ("dname", "cut") and (below or name[0] == "*"):
            continue
        kinds[name] = kind
    for name, kind in kinds.items():
        yield from _records(rnd, ".".join(name), kind, apex)


def _records(rnd: random.Random, owner: str, kind: str, apex: str) -> Iterator[str]:
    if kind == "cname":
        yield f"{owner} {rnd.randint(1, 900)} CNAME {_target(rnd, apex)}"
    elif kind == "dname":
        yield f"{owner} DNAME {_target(rnd, apex)}"
    elif kind == "cut":
        yield f"{owner} NS {rnd.choice(('ns1.example.com.', 'ns.example.org.', 'ns.far.test.'))}"
        if rnd.random() < 0.7:
            yield f"{owner} NS ns.{owner}"
            yield f"ns.{owner} A 203.0.113.{rnd.randint(1, 254)}"
        if rnd.random() < 0.5:
            yield f"{owner} DS {rnd.randint(1, 65535)} 13 2 {'44' * 32}"
    else:
        for type_ in rnd.sample(("A", "AAAA", "TXT", "MX", "TYPE65534"), rnd.randint(1, 3)):
            data = {"A": f"203.0.113.{rnd.randint(1, 254)}", "AAAA": f"2001:db8:2::{rnd.randint(1, 9999):x}",
                    "TXT": f'"{owner}"', "MX": "10 mail.example.org.", "TYPE65534": "\\# 2 abcd"}[type_]
            yield f"{owner} {rnd.randint(1, 900)} {type_} {data}"


def _target(rnd: random.Random, apex: str) -> str:
    labels = ".".join(rnd.choice("abcd") for _ in range(rnd.randint(1, 4)))
    zone = rnd.choices((apex, COM, ORG, "elsewhere.test."), (6, 2, 2, 1))[0]
    return f"{labels}.g.{zone}" if zone != "elsewhere.test." else f"{labels}.{zone}"
