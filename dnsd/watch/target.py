"""What is probed, and what must never be: the checks, and the policy that stands between a tenant and our network.

Lives here: `Check`, its faults, the deny table, the IPv4 addresses an IPv6 address may stand for, ports. Does not live
here: connecting (`watch.probe`), this machine's addresses (`watch.own`), who may register what (the registry's tokens).

Whoever registers an endpoint makes this machine connect to it, so the policy looks at the octets that are about to be
connected, and at nothing else: no names, no `ipaddress.is_global` (Python 3.11 calls multicast, NAT64 and 6to4 global,
and its tables change between point releases). An IPv6 address that can carry an IPv4 address is judged in every form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Final, Literal, NamedTuple

from dnsd.dns import names
from dnsd.dns.prefixes import Prefixes
from dnsd.model import Fault

Kind = Literal["http", "https", "tcp", "tls", "grpc", "dns"]
KINDS: Final = ("http", "https", "tcp", "tls", "grpc", "dns")

MOST_MS: Final = 1_000
"""No probe takes longer, whatever its target's handshake takes."""


class Check(NamedTuple):
    """How an endpoint is probed; `faults` tells whether the values make sense.

    `host` is the Host header, the TLS server name and what the certificate must be for; "" is the address itself, so
    whoever makes a check from a service puts the service's name in. `path` is for gRPC the service that is asked after
    ("/": the whole server). `status` is the first and last HTTP status that is success; `text` must be in the first
    4096 octets of the response (HTTP: of its body; DNS: in a record of the answer). `tls` is for gRPC only.
    `timeout_ms` counts from the target's usual handshake. `address`: packed, probed instead of the endpoint's own.
    """

    kind: Kind
    port: int
    path: str = "/"
    host: str = ""
    method: Literal["GET", "HEAD"] = "GET"
    status: tuple[int, int] = (200, 399)
    text: bytes = b""
    verify: bool = True
    tls: bool = False
    qname: str = "."
    qtype: int = 6
    interval_ms: int = 500
    timeout_ms: int = 300
    address: bytes | None = None

    @property
    def shakes(self) -> bool:
        """Whether there is a TLS handshake in it."""
        return self.tls or self.kind in ("https", "tls")


class Policy(NamedTuple):
    """What may be connected to, besides the public internet.

    `allow`: a private fleet; beats the deny table and `own`, never `deny` nor `sockets`. `ports`: only these; None is
    any but `NEVER`. `own`: packed addresses of this machine. `sockets`: what our own processes listen on, as (packed
    address, port), an empty address for all of this machine's. `deny`: more that must not be reached, such as a public
    management network or the network-specific prefix of a NAT64 gateway (RFC 6052), which nobody can tell by itself.
    """

    allow: Prefixes = Prefixes(())
    ports: frozenset[int] | None = None
    own: frozenset[bytes] = frozenset()
    sockets: frozenset[tuple[bytes, int]] = frozenset()
    deny: Prefixes = Prefixes(())

    def refused(self, packed: bytes, port: int) -> str | None:
        """Why this address and port must not be connected to; None if they may."""
        if len(packed) not in (4, 16):
            return "not an address"
        if not 0 < port < 65536:
            return "not a port"
        if port in NEVER if self.ports is None else port not in self.ports:
            return f"port {port} is not probed"
        found = forms(packed)
        for form in found:
            if (form, port) in self.sockets or ((b"", port) in self.sockets and self._here(form)):
                return "a socket of our own"
            if form in self.deny:
                return "denied by configuration"
        for form in found:
            if form in self.allow:
                continue
            if form in self.own:
                return "an address of our own"
            if reason := special(form):
                return reason
        return None

    def _here(self, form: bytes) -> bool:
        return form in self.own or form in _LOOPBACK


NEVER: Final = frozenset({
    # the ports browsers refuse, for a request there may be taken for a command (https://fetch.spec.whatwg.org/#bad-port)
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111,
    113, 115, 117, 119, 123, 135, 137, 138, 139, 143, 161, 162, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    # databases, caches and queues
    1433, 1521, 3306, 5432, 5672, 5984, 6379, 6380, 7000, 7001, 9042, 9092, 9200, 9300, 11211, 16379, 26379, 27017,
    # whoever reaches these owns the machine: Docker, etcd, Kubernetes, Consul, remote desktops, file sharing
    445, 2375, 2376, 2379, 2380, 3389, 5900, 5985, 5986, 6443, 8300, 8301, 8302, 8500, 10250, 10255, 10257, 10259,
    # UDP services that answer with much more than they were asked
    1900, 3702, 5353,
})  # fmt: skip
"""Ports that are probed only where configuration names them."""

_TABLE: Final = (
    # https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry, every block: also
    # what is "globally reachable", for no service of a tenant lives there.
    ("0.0.0.0/8", "this network (RFC 791)"),
    ("10.0.0.0/8", "private use (RFC 1918)"),
    ("100.64.0.0/10", "shared address space (RFC 6598)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link local, metadata services (RFC 3927)"),
    ("172.16.0.0/12", "private use (RFC 1918)"),
    ("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
    ("192.0.2.0/24", "documentation (RFC 5737)"),
    ("192.31.196.0/24", "AS112 (RFC 7535)"),
    ("192.52.193.0/24", "AMT (RFC 7450)"),
    ("192.88.99.0/24", "6to4 relays (RFC 7526)"),
    ("192.168.0.0/16", "private use (RFC 1918)"),
    ("192.175.48.0/24", "AS112 (RFC 7534)"),
    ("198.18.0.0/15", "benchmarking (RFC 2544)"),
    ("198.51.100.0/24", "documentation (RFC 5737)"),
    ("203.0.113.0/24", "documentation (RFC 5737)"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("240.0.0.0/4", "reserved, broadcast (RFC 1112)"),
    ("168.63.129.16/32", "a cloud's platform address"),  # public by number, and the host of every Azure machine
    ("::1/128", "loopback (RFC 4291)"),
    ("::/128", "unspecified (RFC 4291)"),
    ("::ffff:0:0/96", "IPv4-mapped (RFC 4291)"),
    ("::ffff:0:0:0/96", "IPv4-translated (RFC 2765)"),
    ("::/96", "IPv4-compatible (RFC 4291)"),
    ("64:ff9b:1::/48", "local translation (RFC 8215)"),
    ("100::/64", "discard only (RFC 6666)"),
    ("100:0:0:1::/64", "dummy prefix (RFC 9780)"),
    ("2001::/32", "Teredo (RFC 4380)"),
    ("2001::/23", "IETF protocol assignments (RFC 2928)"),
    ("2001:db8::/32", "documentation (RFC 3849)"),
    ("2002::/16", "6to4 (RFC 3056)"),
    ("2620:4f:8000::/48", "AS112 (RFC 7534)"),
    ("3ffe::/16", "6bone, given back (RFC 3701)"),
    ("3fff::/20", "documentation (RFC 9637)"),
    ("5f00::/16", "segment routing (RFC 9602)"),
    ("fc00::/7", "unique local (RFC 4193)"),
    ("fe80::/10", "link local (RFC 4291)"),
    ("fec0::/10", "site local (RFC 3879)"),
    ("ff00::/8", "multicast (RFC 4291)"),
)

_LOOPBACK: Final = Prefixes(("0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128"))
_NAT64: Final = Prefixes(("64:ff9b::/96",))  # may lead anywhere in IPv4: judged by what is inside
_UNICAST: Final = Prefixes(("2000::/3",))  # all that IANA gives out; the rest is special or not in use


def _rows(width: int) -> Iterator[tuple[int, int, str]]:
    for text, name in _TABLE:
        network = ip_network(text)
        if network.max_prefixlen == width:
            yield width - network.prefixlen, int(network.network_address) >> (width - network.prefixlen), name


_TABLE4: Final = tuple(_rows(32))
_TABLE6: Final = tuple(_rows(128))


def special(packed: bytes) -> str | None:
    """What an address is reserved for, if it is no ordinary public unicast address; looks at its outside only."""
    address = int.from_bytes(packed, "big")
    for shift, network, name in _TABLE4 if len(packed) == 4 else _TABLE6:
        if address >> shift == network:
            return name
    if len(packed) == 16 and packed not in _UNICAST and packed not in _NAT64:
        return "not in use (RFC 4291)"
    return None


def forms(packed: bytes) -> tuple[bytes, ...]:
    """The address, and every IPv4 address it may be a disguise of."""
    return (packed, *_inside(packed)) if len(packed) == 16 else (packed,)


def _inside(packed: bytes) -> Iterator[bytes]:
    """IPv4 addresses in an IPv6 address: where some router, gateway or kernel would unwrap one."""
    head, tail = packed[:12], packed[12:]
    if head in _TAILED:
        yield tail
    elif packed[:6] == b"\0\x64\xff\x9b\0\1":
        # RFC 6052 §2.2 puts it after 48, 56, 64 or 96 bits, around bits 64 to 71; which, only the gateway knows
        places = (packed[6:8] + packed[9:11], packed[7:8] + packed[9:12], packed[9:13], tail)
        yield from (place for place in places if place[0])
    elif packed[:2] == b"\x20\x02":
        yield packed[2:6]
    elif packed[:4] == b"\x20\x01\0\0":
        yield packed[4:8]
        yield bytes(octet ^ 0xFF for octet in tail)
    if packed[8:12] in (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe"):  # ISATAP (RFC 5214 §6.1), under any prefix
        yield tail


_TAILED: Final = frozenset({
    bytes(10) + b"\xff\xff",  # mapped
    bytes(12),  # compatible
    bytes(8) + b"\xff\xff\0\0",  # translated
    b"\0\x64\xff\x9b" + bytes(8),  # NAT64, the well-known prefix
})  # fmt: skip


def literal(text: str) -> bytes:
    """An address as written, packed; ValueError for all that is not exactly one, also for a scope (`%eth0`)."""
    address = ip_address(text)
    if getattr(address, "scope_id", None):
        raise ValueError(f"{text!r} names an interface")
    return address.packed


_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_PATH: Final = re.compile(r"/[!-~]{0,1023}")


def faults(check: Check) -> list[Fault]:
    """All that is wrong with a check; places are JSON pointers below the check."""
    return [Fault(f"/{field}", message) for field, good, message in _rules(check) if not good]


def _rules(check: Check) -> Iterator[tuple[str, bool, str]]:
    http = check.kind in ("http", "https")
    low, high = check.status
    yield "kind", check.kind in KINDS, f"is one of {', '.join(KINDS)}"
    yield "port", 0 < check.port < 65536, "is 1 to 65535"
    yield "host", not check.host or _is_host(check.host), "is a name or an address, without a port"
    yield "path", bool(_PATH.fullmatch(check.path)), "begins with / and is printable ASCII, 1024 octets at most"
    yield "method", check.method in ("GET", "HEAD"), "is GET or HEAD"
    yield "status", 100 <= low <= high <= 599, "is two numbers from 100 to 599, the lower first"
    yield "text", len(check.text) <= 256, "has 256 octets at most"
    yield "text", not check.text or http or check.kind == "dns", "goes with http, https and dns"
    yield "text", not (check.text and http and check.method == "HEAD"), "needs a body: HEAD has none"
    yield "tls", not check.tls or check.kind == "grpc", "goes with grpc"
    yield "qname", _is_name(check.qname), "is a domain name"
    yield "qtype", 0 < check.qtype < 65536, "is a record type"
    yield "interval_ms", 100 <= check.interval_ms <= 3_600_000, "is 100 to 3600000"
    yield "timeout_ms", 10 <= check.timeout_ms <= MOST_MS, f"is 10 to {MOST_MS}"
    yield "address", check.address is None or len(check.address) in (4, 16), "is an address"


def _is_host(text: str) -> bool:
    if _HOST.fullmatch(text):
        return True
    try:
        return len(literal(text)) == 16
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    try:
        names.to_wire(text)
    except ValueError:
        return False
    return True
