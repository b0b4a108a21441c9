"""dig and kdig with every option that changes the packet, against a running server; services at wildcards and apexes.

Lives here: what clients print. Does not live here: which answer each rule wants (tests/semantics has them all).
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import dns.name
import pytest

from tests.node import Node, serving, write_config

ZONE = """\
$TTL 300
@ SOA ns1 hostmaster 1 7200 900 1209600 60
@ NS ns1
@ MX 10 mail
ns1 A 127.0.0.1
static A 192.0.2.81
www CNAME static
wild CNAME anything.svc
there.svc TXT "a name that is there"
a.deep.svc TXT "and one with an empty name above"
sub NS ns.sub
ns.sub A 192.0.2.82
big TXT {}
""".format(" ".join(f'"{"x" * 200}"' for _ in range(7)))
SITE = {"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}
FLEET = {
    "sites": [SITE],
    "services": [{"name": name, "ttl": 5} for name in ("api.demo.example", "*.svc.demo.example", "demo.example")],
    "endpoints": [
        {"id": "one", "service": "api.demo.example", "site": "fra", "a": "192.0.2.1", "aaaa": "2001:db8::1"},
        {"id": "two", "service": "*.svc.demo.example", "site": "fra", "a": "192.0.2.2"},
        {"id": "three", "service": "demo.example", "site": "fra", "a": "192.0.2.3"}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Node]:
    """A node with a service at a name, at a wildcard and at the apex."""
    config = write_config(tmp_path_factory.mktemp("matrix"), atlas_home, zones={"demo.example": ZONE},
                          more='[rate]\nexempt = ["127.0.0.0/8"]')
    with serving(config, FLEET) as node:
        yield node


# --- services at wildcards and apexes ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "type_", "given"), [
    ("x.svc", "A", ["192.0.2.2"]), ("z.y.x.svc", "A", ["192.0.2.2"]), ("*.svc", "A", ["192.0.2.2"]),
    ("x.svc", "AAAA", []), ("there.svc", "A", []), ("there.svc", "TXT", ['"a name that is there"']),
    ("deep.svc", "A", []), ("svc", "A", []), ("wild", "A", ["anything.svc.demo.example.", "192.0.2.2"]),
    ("@", "A", ["192.0.2.3"]), ("@", "MX", ["10 mail.demo.example."]), ("@", "NS", ["ns1.demo.example."]),
])
def test_services_at_wildcards_and_apexes(server: Node, name: str, type_: str, given: list[str]) -> None:
    owner = "demo.example" if name == "@" else f"{name}.demo.example"
    assert server.dig("+short", owner, type_).splitlines() == given
    assert "status: NOERROR" in server.dig(owner, type_)


@pytest.mark.parametrize("name", ["x.deep.svc", "x.there.svc", "x.a.deep.svc", "x"])
def test_what_a_wildcard_service_is_blocked_from(server: Node, name: str) -> None:
    assert "status: NXDOMAIN" in server.dig(f"{name}.demo.example")


def test_a_wildcard_service_is_an_object_like_any(server: Node) -> None:
    path = "/v1/services/*.svc.demo.example"
    assert server.api("GET", path).body["name"] == "*.svc.demo.example"
    assert server.api("GET", "/v1/endpoints/*.svc.demo.example/two").body["a"] == "192.0.2.2"
    assert server.api("GET", "/v1/services/%2A.svc.demo.example").status == 200
    assert "192.0.2.2" in server.cli("explain", "x.svc.demo.example").stdout
    lease = {"holder": "h", "ttl": 30, "endpoints": [
        {"id": "leased", "service": "*.svc.demo.example", "site": "fra", "a": "192.0.2.4"}]}
    granted = server.api("POST", "/v1/leases", lease)
    assert granted.status == 201, granted
    server.wait_version(granted.body["version"])
    assert {server.dig("+short", f"n{n}.svc.demo.example").strip() for n in range(3)} <= {"192.0.2.2", "192.0.2.4"}
    gone = server.api("DELETE", f"/v1/leases/{granted.body['id']}?fence={granted.body['fence']}")
    assert gone.status < 300, gone
    server.wait_version(gone.body["version"])
    assert server.dig("+short", "n.svc.demo.example").strip() == "192.0.2.2"


@pytest.mark.parametrize("name", [
    "x.svc.demo.example", "*.svc.demo.example", "wild.demo.example", "a.b.svc.demo.example"])
def test_explain_names_the_wildcard_service(server: Node, name: str) -> None:
    told = server.api("GET", f"/v1/explain?name={name}&type=A").body
    assert told["service"] == "*.svc.demo.example"
    assert [one["endpoint"] for one in told["candidates"]] == ["two"]
    assert told["addresses"] == ["192.0.2.2"]


@pytest.mark.parametrize(("name", "why"), [
    ("there.svc.demo.example", "the name has no records of this type"), ("x.deep.svc.demo.example", "no such name")])
def test_explain_says_what_blocks_a_wildcard(server: Node, name: str, why: str) -> None:
    told = server.api("GET", f"/v1/explain?name={name}&type=A").body
    assert "service" not in told
    assert why in told["why"]["choice"]


@pytest.mark.parametrize(("name", "fault"), [
    ("*", "host name"), ("a.*.demo.example", "host name"), ("**.demo.example", "host name"),
    ("*a.demo.example", "host name"), ("*.sub.demo.example", "cut")])
def test_wildcards_that_cannot_be(server: Node, name: str, fault: str) -> None:
    reply = server.api("PUT", f"/v1/services/{name}", {"name": name})
    assert reply.status == 422, reply
    assert fault in str(reply.body)


# --- dig --------------------------------------------------------------------------------------------------------------

ANSWERED = r"status: NOERROR(.|\n)*\b192\.0\.2\.81\b"

DIG = [
    (["+noedns"], ANSWERED, "EDNS"),
    (["+edns=0"], r"EDNS: version: 0, flags:; udp: 1232", None),
    (["+edns=1", "+noednsnegotiation"], r"status: BADVERS(.|\n)*EDNS: version: 0", r"192\.0\.2\.81"),
    (["+edns=255", "+noednsnegotiation"], r"status: BADVERS", r"192\.0\.2\.81"),
    (["+edns=1"], ANSWERED, None),
    (["+ednsflags=0x7fff"], ANSWERED, "MBZ"),
    (["+dnssec"], r"flags: do; udp: 1232", None),
    (["+ednsopt=65001:0102"], ANSWERED, "OPT=65001"),
    (["+ednsopt=100"], ANSWERED, "OPT=100"),
    (["+nsid"], r"NSID: ", None),
    (["+cookie"], r"COOKIE: [0-9a-f]{48} \(good\)", "bad"),
    (["+cookie=0102030405060708"], r"COOKIE: 0102030405060708[0-9a-f]{32} \(good\)", None),
    (["+padding=128"], ANSWERED, "PAD"),
    (["+keepalive"], ANSWERED, "TCP KEEPALIVE"),
    (["+keepalive", "+tcp"], r"TCP KEEPALIVE: \d", None),
    (["+expire"], ANSWERED, "EXPIRE"),
    (["+subnet=10.0.0.0/24"], r"CLIENT-SUBNET: 10\.0\.0\.0/24/0", None),
    (["+subnet=2001:db8::/56"], r"CLIENT-SUBNET: 2001:db8::/56/0", None),
    (["+subnet=0"], r"CLIENT-SUBNET: 0\.0\.0\.0/0/0", None),
    (["+bufsize=512"], ANSWERED, None),
    (["+bufsize=65535"], r"udp: 1232", None),
    (["+tcp"], ANSWERED, None),
    (["+tcp", "+keepopen"], ANSWERED, None),
    (["+ignore"], ANSWERED, None),
    (["+rec"], r"flags: qr aa rd;", "flags: qr aa rd ra"),
    (["+adflag"], r"flags: qr aa;", None),
    (["+noadflag", "+cdflag"], r"flags: qr aa;", None),
    (["+aaflag", "+raflag", "+zflag", "+tcflag"], r"flags: qr aa;", None),
    (["+qid=0"], r"id: 0\b", None),
    (["+header-only"], r"status: FORMERR", r"192\.0\.2\.81"),
    (["+opcode=status"], r"opcode: STATUS, status: NOTIMP", r"192\.0\.2\.81"),
    (["+opcode=iquery"], r"opcode: IQUERY, status: NOTIMP", r"192\.0\.2\.81"),
    (["+opcode=notify"], r"opcode: NOTIFY, status: FORMERR", r"192\.0\.2\.81"),
    (["+opcode=update"], r"opcode: UPDATE, status: FORMERR", r"192\.0\.2\.81"),
    (["+opcode=15"], r"opcode: RESERVED15, status: NOTIMP", r"192\.0\.2\.81"),
    (["-c", "CH"], r"status: REFUSED", r"192\.0\.2\.81"),
    (["-c", "ANY"], r"status: REFUSED", r"192\.0\.2\.81"),
    (["-t", "ANY"], r'HINFO\s+"RFC8482"', r"192\.0\.2\.81"),
    (["-t", "TYPE65534"], r"status: NOERROR(.|\n)*SOA", None),
    (["-t", "AXFR"], r"Transfer failed", r"192\.0\.2\.81"),
    (["-t", "IXFR=1"], r"Transfer failed|status: (REFUSED|NOTAUTH)", r"192\.0\.2\.81"),
    (["-y", "hmac-sha256:nobody:c2VjcmV0"], r"status: NOTAUTH(.|\n)*BADKEY", r"192\.0\.2\.81"),
]


@pytest.mark.parametrize(("words", "wanted", "unwanted"), DIG, ids=[" ".join(words) for words, *_ in DIG])
def test_dig(server: Node, words: list[str], wanted: str, unwanted: str | None) -> None:
    printed = server.dig("+nocookie", "+noadflag", *words, "static.demo.example", check=False)
    reply = printed.split("Got answer:")[-1]
    assert re.search(wanted, reply), printed
    assert not unwanted or not re.search(unwanted, reply), printed
    assert "WARNING: Messages has" not in printed
    assert "malformed" not in printed.lower()


def test_dig_goes_to_tcp_by_itself(server: Node) -> None:
    assert server.dig("+bufsize=512", "+short", "big.demo.example", "TXT").count("x" * 200) == 7
    cut = server.dig("+ignore", "+bufsize=512", "big.demo.example", "TXT")
    assert re.search(r"flags: qr aa tc; QUERY: 1, ANSWER: 0", cut)


def test_dig_shows_a_referral(server: Node) -> None:
    printed = server.dig("x.sub.demo.example")
    assert re.search(r"flags: qr; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 2", printed)
    assert re.search(r"ns\.sub\.demo\.example\.\s+300\s+IN\s+A\s+192\.0\.2\.82", printed)


# --- kdig -------------------------------------------------------------------------------------------------------------

KDIG = [
    (["+noedns"], ANSWERED, "EDNS"),
    (["+edns=0"], r"EDNS PSEUDOSECTION(.|\n)*UDP size: 1232 B; ext-rcode: NOERROR", None),
    (["+edns=1"], r"BADVERS", r"192\.0\.2\.81"),
    (["+dnssec"], r"flags: do; UDP size: 1232", None),
    (["+nsid"], r"NSID: ", None),
    (["+cookie"], r"COOKIE: [0-9A-Fa-f]", None),
    (["+badcookie", "+cookie"], ANSWERED, None),
    (["+subnet=10.0.0.0/24"], r"CLIENT-SUBNET: 10\.0\.0\.0/24/0", None),
    (["+subnet=2001:db8::/56"], r"CLIENT-SUBNET: 2001:db8::/56/0", None),
    (["+padding=64"], ANSWERED, "PADDING"),
    (["+alignment=128"], ANSWERED, None),
    (["+ednsopt=65001:0102"], ANSWERED, None),
    (["+bufsize=512"], ANSWERED, None),
    (["+tcp"], r"\(TCP\)", None),
    (["+tcp", "+keepopen"], r"\(TCP\)", None),
    (["+ignore"], ANSWERED, None),
    (["+rdflag"], r"Flags: qr aa rd;", None),
    (["+adflag", "+cdflag", "+raflag", "+zflag", "+aaflag", "+tcflag"], r"Flags: qr aa;", None),
    (["-c", "CH"], r"REFUSED", r"192\.0\.2\.81"),
    (["-t", "ANY"], r'HINFO\s+"RFC8482"', r"192\.0\.2\.81"),
    (["-t", "TYPE65534"], r"NOERROR(.|\n)*SOA", None),
    (["-t", "AXFR"], r"REFUSED|NOTAUTH", r"192\.0\.2\.81"),
    (["-t", "NOTIFY"], r"NOTAUTH|REFUSED", r"192\.0\.2\.81"),
    (["-y", "hmac-sha256:nobody:c2VjcmV0"], r"NOTAUTH|BADKEY", r"192\.0\.2\.81"),
]


@pytest.mark.needs("kdig")
@pytest.mark.parametrize(("words", "wanted", "unwanted"), KDIG, ids=[" ".join(words) for words, *_ in KDIG])
def test_kdig(server: Node, words: list[str], wanted: str, unwanted: str | None) -> None:
    command = ["kdig", "@127.0.0.1", "-p", str(server.port), "+retry=0", "+time=3", "+norec", "static.demo.example"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=20, check=False)
    printed = done.stdout + done.stderr
    assert re.search(wanted, printed), printed
    assert not unwanted or not re.search(unwanted, printed), printed
    assert "malformed" not in printed.lower()


# --- whatever a client may set ----------------------------------------------------------------------------------------

def test_every_opcode_and_class_over_udp(server: Node) -> None:
    """Sixteen opcodes, six classes, types of every kind: an answer each, and the server lives on."""
    name = dns.name.from_text("api.demo.example").to_wire()
    types = [*range(0, 300, 7), 251, 252, 255, 256, 32768, 65280, 65534, 65535]
    packets = [struct.pack(">6H", number & 0xFFFF, opcode << 11, 1, 0, 0, 0) + name + struct.pack(">HH", type_, class_)
               for number, (opcode, class_, type_) in enumerate(product(range(16), (0, 1, 3, 4, 254, 255), types))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(3)
        for start in range(0, len(packets), 50):
            batch = {packet[:2]: packet for packet in packets[start : start + 50]}
            for packet in batch.values():
                sock.send(packet)
            while batch:
                reply = sock.recv(65535)
                packet = batch.pop(reply[:2])
                assert reply[2] & 0xF8 == 0x80 | packet[2]
                assert reply[3] & 15 in (0, 1, 4, 5, 9)
    assert server.dig("+short", "api.demo.example").split() == ["192.0.2.1"]
