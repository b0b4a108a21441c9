"""Zone import: any text is a zone, or refused with faults that name file and line; what is read can be served."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest.mock import patch

from dnsd.compile import image as compiler
from dnsd.compile.zones import CompileError
from dnsd.control import zonefile, zonetext
from dnsd.image.reading import Image
from dnsd.model import Stamp
from tests.golden.world import EXAMPLE, NESTED

# Bounds that are right for a zone let an input take minutes; small ones are enforced by the same lines.
RECORDS: Final = 400
STEPS: Final = 50

_HEAD: Final = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 3600 1209600 60\n@ NS ns1\nns1 A 192.0.2.1\n"
_TEXTS: Final = r"""
a ( IN
  300 A
  192.0.2.1 )
---
$ORIGIN sub
b A 192.0.2.1
$GENERATE 1-9/2 h${0,3,d} A 192.0.2.$
---
$INCLUDE zone
$INCLUDE /etc/hostname
---
c CAA 0 issue "x"
c TLSA 3 1 1 00000000000000000000000000000000
d SVCB 1 . alpn=h2 ipv4hint=192.0.2.1
d HTTPS 0 e
e LOC 42 21 54 N 71 06 18 W 24m
f NAPTR 1 1 a b c .
---
g TYPE65400 \# 3 010203
h\.i\000 TXT "a;b" c\"d
j SSHFP 1 1 abababababababababababababababababababab
k DNSKEY 256 3 8 AwEAAQ==
l 1w2d A 192.0.2.1
m CLASS1 TYPE1 \# 4 c0000201
---
n NSEC o A
o RRSIG A 8 2 300 20300101000000 20200101000000 1 . AAAA
p APL 1:192.0.2.0/24 !2:2001:db8::/32
q URI 1 1 "x"
r EUI48 00-00-5e-00-53-2a
---
$DATE 1
(
---
é A 1
	s
"""
_HOME: Final = tempfile.TemporaryDirectory()


def seeds() -> Iterator[bytes]:
    """Zones that are sound, with every kind of record and directive."""
    for text in ("", *_TEXTS.split("---\n"), EXAMPLE, NESTED):
        yield (_HEAD + text).encode()


def check(data: bytes) -> None:
    """A zone or ZoneFault; a zone compiles or says why not, and its rdata has a text."""
    path = Path(_HOME.name) / "zone"
    path.write_bytes(data)
    try:
        with patch.object(zonefile, "MAX_RECORDS", RECORDS), patch.object(zonetext, "GENERATE_STEPS", STEPS):
            found = zonefile.load(path, "example.com")
    except zonefile.ZoneFault as refused:
        assert refused.faults
        assert all(fault.place and fault.message for fault in refused.faults)
        return
    for rrset in found.view.rrsets:
        for rdata in rrset.rdatas:
            assert zonefile.rdata_text(rrset.type, rdata)
    try:
        built = compiler.build([found.view], [], [], Stamp(1, 1, 1), 0)
    except CompileError as refused:
        assert refused.faults
        return
    held = Image(built.data)
    for name in held.index:
        held.unfold(name)
