"""The rules of EDNS, client subnet, cookies and size as rows."""

from __future__ import annotations

from tests.semantics.world import GLUE, SUB_NS, T_SOA, Row

WWW = ["www.t. 300 A 192.0.2.2", "www.t. 300 A 192.0.2.3"]
LEFT, RIGHT = ["api.t. 8 A 198.51.100.1"], ["api.t. 8 A 198.51.100.2"]
LEFT6 = ["api.t. 8 AAAA 2001:db8::1"]
BIG = ["big.t. 300 TXT " + " ".join(f'"{"b" * 240}"' for _ in range(4))]
SAME = ["same.t. 8 A 198.51.100.1"]

EDNS = [
    Row("6891 §6.1.1: no OPT for no OPT", "www.t A", "NOERROR aa", WWW),
    Row("6891 §6.1.1: an OPT for an OPT", "www.t A +edns", "NOERROR aa", WWW, opt=""),
    Row("6891 §7: also with a denial", "nothing.t A +edns", "NXDOMAIN aa", au=[T_SOA], opt=""),
    Row("6891 §6.1.4: DO comes back", "www.t A +do", "NOERROR aa", WWW, opt="do"),
    Row("6891 §6.1.4: no other flag does", "www.t A +flags=7fff", "NOERROR aa", WWW, opt=""),
    Row("6891 §6.1.2: an unknown option is passed over", "www.t A +option=65001:010203", "NOERROR aa", WWW, opt=""),
    Row("6891 §6.1.2: an empty one too", "www.t A +option=65001", "NOERROR aa", WWW, opt=""),
    Row("6891 §6.1.3: version 1", "www.t A +edns=1", "BADVERS", opt=""),
    Row("6891 §6.1.3: version 255, wherever", "www.far A +edns=255", "BADVERS", opt=""),
    Row("6891 §6.1.3: before the options are read", "www.t A +edns=1 +ecs=ffff", "BADVERS", opt=""),
    Row("6891 §6.2.3: a size below 512 is 512", "big.t TXT +bufsize=0", "NOERROR aa tc", opt=""),
    Row("6891 §6.2.5: a size that is enough", "big.t TXT +bufsize=1200", "NOERROR aa", BIG, opt=""),
    Row("9715 §3.1: at most 1232 whatever is offered", "big.t TXT +bufsize=65535", "NOERROR aa", BIG, opt=""),
    Row("1035 §4.2.1: 512 without EDNS", "big.t TXT", "NOERROR aa tc"),
    Row("2181 §9: what is cut is empty", "big.t TXT +bufsize=900", "NOERROR aa tc", opt=""),
    Row("7766 §5: TCP has room", "big.t TXT +tcp", "NOERROR aa", BIG),
    Row("7766 §5: whatever size is offered", "big.t TXT +tcp +bufsize=512", "NOERROR aa", BIG, opt=""),
    Row("5001 §2.3: NSID", "www.t A +nsid", "NOERROR aa", WWW, opt="nsid"),
    Row("5001 §2.3: with an error", "www.far A +nsid", "REFUSED", opt="ede=20 nsid"),
    Row("7828 §3.2.2: keepalive over UDP is passed over", "www.t A +keepalive", "NOERROR aa", WWW, opt=""),
    Row("7828 §3.3.2: keepalive over TCP", "www.t A +keepalive +tcp", "NOERROR aa", WWW, opt="keepalive=300"),
    Row("7830 §4: no padding without encryption", "www.t A +padding=40 +tcp", "NOERROR aa", WWW, opt=""),
]

_C = "0102030405060708"
COOKIES = [
    Row("7873 §5.2.3: a client cookie gets a server cookie", f"www.t A +cookie={_C}", "NOERROR aa", WWW,
        opt="cookie=24"),
    Row("7873 §5.2.4: an invalid one is answered with a good one", f"www.t A +cookie={_C}{'00' * 16}", "NOERROR aa",
        WWW, opt="cookie=24"),
    Row("7873 §5.2.4: of another length too", f"www.t A +cookie={_C}{'00' * 32}", "NOERROR aa", WWW, opt="cookie=24"),
    Row("7873 §5.2.2: too short", "www.t A +cookie=01020304050607", "FORMERR", opt=""),
    Row("7873 §5.2.2: a server cookie too short", f"www.t A +cookie={_C}01020304050607", "FORMERR", opt=""),
    Row("7873 §5.2.2: too long", f"www.t A +cookie={_C}{'00' * 33}", "FORMERR", opt=""),
]


def formerr(rule: str, octets: str, name: str = "www.t A") -> Row:
    """A client subnet that is none (RFC 7871 §7.1.2)."""
    return Row(rule, f"{name} +ecs={octets}", "FORMERR", opt="")


SUBNET = [
    Row("7871 §7.2.1: the client decides; scope is how far the answer is good", "api.t A +subnet=10.0.0.0/24",
        "NOERROR aa", LEFT, opt="subnet=10.0.0.0/24/22"),
    Row("7871 §7.2.1: another client", "api.t A +subnet=10.0.7.0/24", "NOERROR aa", RIGHT, opt="subnet=10.0.7.0/24/23"),
    Row("7871 §7.2.1: scope may be longer than source", "api.t A +subnet=10.0.0.0/16", "NOERROR aa", LEFT,
        opt="subnet=10.0.0.0/16/22"),
    Row("7871 §7.2.1: or much shorter than it", "api.t A +subnet=10.0.5.255/32", "NOERROR aa", LEFT,
        opt="subnet=10.0.5.255/32/23"),
    Row("7871 §6: IPv6", "api.t AAAA +subnet=2400:0:0:500::/56", "NOERROR aa", LEFT6,
        opt="subnet=2400:0:0:500::/56/55"),
    Row("7871 §6: IPv6, A asked for", "api.t A +subnet=2400:0:0:700::/56", "NOERROR aa", RIGHT,
        opt="subnet=2400:0:0:700::/56/55"),
    Row("7871 §7.1.2: source 0 is no client; nothing is learnt of others", "same.t A +subnet=0.0.0.0/0", "NOERROR aa",
        SAME, opt="subnet=0.0.0.0/0/0"),
    Row("7871 §7.1.2: source 0, IPv6", "same.t A +subnet=::/0", "NOERROR aa", SAME, opt="subnet=::/0/0"),
    Row("7871 §7.2.1: scope 0 where the client does not matter", "same.t A +subnet=10.0.0.0/24", "NOERROR aa", SAME,
        opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.2.1: scope 0 for static data", "www.t A +subnet=10.0.0.0/24", "NOERROR aa", WWW,
        opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.2.1: scope 0 for other types of a service", "api.t TXT +subnet=10.0.0.0/24", "NOERROR aa",
        ['api.t. 300 TXT "beside a service"'], opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.4: scope 0 for what is not there", "nothing.t A +subnet=10.0.0.0/24", "NXDOMAIN aa", au=[T_SOA],
        opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.4: scope 0 for a type that is not there", "api.t MX +subnet=10.0.0.0/24", "NOERROR aa", au=[T_SOA],
        opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.4: scope 0 for a referral", "x.sub.t A +subnet=10.0.0.0/24", "NOERROR", [], SUB_NS, GLUE,
        opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.2.1: a refusal tells nothing", "www.far A +subnet=10.0.0.0/24", "REFUSED",
        opt="ede=20 subnet=10.0.0.0/24/0"),
    Row("7871 §7.2.1: an alias has the longest scope of its parts", "alapi.t A +subnet=10.0.0.0/24", "NOERROR aa",
        ["alapi.t. 300 CNAME api.t.", *LEFT], opt="subnet=10.0.0.0/24/22"),
    Row("7871 §7.2.1: an alias to where the client does not matter", "alwild.t A +subnet=10.0.0.0/24", "NOERROR aa",
        ["alwild.t. 300 CNAME x.svc.t.", "x.svc.t. 8 A 198.51.100.3"], opt="subnet=10.0.0.0/24/0"),
    Row("7871 §7.2.1: clients that stay together share an answer", "sticky.t A +subnet=10.0.0.0/24", "NOERROR aa",
        ["sticky.t. 8 A 198.51.100.1"], opt="subnet=10.0.0.0/24/22"),
    Row("7871 §7.2.1: and none wider", "sticky.t A +subnet=100.64.0.0/24", "NOERROR aa",
        ["sticky.t. 8 A 198.51.100.1"], opt="subnet=100.64.0.0/24/20"),
    Row("7871 §6: with other options, whatever their order", "api.t A +nsid +subnet=10.0.0.0/24 +option=65001:00",
        "NOERROR aa", LEFT, opt="subnet=10.0.0.0/24/22 nsid"),
    formerr("7871 §6: family 3", "0003180a0001"),
    formerr("7871 §6: family 0 with a prefix", "0000080a"),
    formerr("7871 §6: source 33 of IPv4", "000121000a00000000"),
    formerr("7871 §6: source 129 of IPv6", "00028100" + "24" * 17),
    formerr("7871 §6: an octet too few", "000118000a00"),
    formerr("7871 §6: an octet too many", "000118000a00000a"),
    formerr("7871 §6: a bit behind the prefix", "000114000a0011"),
    formerr("7871 §6: a bit behind the prefix, IPv6", "0002290024000000 00c0".replace(" ", "")),
    formerr("7871 §7.1.2: a scope in a query", "000118180a0000"),
    formerr("7871 §7.1.2: a scope with source 0", "00010018"),
    formerr("7871 §6: cut short", "0001"),
    formerr("7871 §6: empty", ""),
    formerr("7871 §7.1.2: of a service too", "000114000a0011", "api.t A"),
    formerr("7871 §7.1.2: and of what is not there", "000114000a0011", "nothing.t A"),
]

TABLES = {"EDNS": EDNS, "cookies": COOKIES, "client subnet": SUBNET}
