"""Transfers, TSIG and NOTIFY on a real node: NSD and Knot as its secondaries, dig and kdig as other people's tools."""

from __future__ import annotations

import random
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.xfr
import dns.zone
import pytest

from tests import certificates
from tests.node import Node, free_port, until, write_config

pytestmark = pytest.mark.needs("nsd", "knotd", "kdig")

SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0"
PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin"
HEAD = """\
$TTL 300
@ SOA ns1 hostmaster {serial} 7200 900 1209600 60
@ NS ns1
ns1 A 192.0.2.53
"""
STATIC = HEAD + """\
static A 192.0.2.81
static A 192.0.2.82
static AAAA 2001:db8::81
@ MX 10 mail
mail A 192.0.2.25
alias CNAME static
txt TXT "one" "two"
*.wild TXT "any"
sub NS ns.sub
ns.sub A 192.0.2.99
_sip._tcp SRV 1 2 5060 static
api TXT "beside a service"
"""
FLEET: Mapping[str, Any] = {
    "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
    "services": [
        {"name": "api.open.example", "ttl": 30, "fallback": {"a": ["192.0.2.200"], "aaaa": ["2001:db8::200"]},
         "https": {"alpn": ["h2"]}},
        {"name": "*.apps.open.example", "ttl": 20, "fallback": {"a": ["192.0.2.201", "192.0.2.202"]}},
        {"name": "bare.lacking.example", "ttl": 20}],
    "endpoints": [
        {"id": "e", "service": "api.open.example", "site": "fra", "a": "198.51.100.1", "aaaa": "2001:db8::1"},
        {"id": "e", "service": "*.apps.open.example", "site": "fra", "a": "198.51.100.2"},
        {"id": "e", "service": "bare.lacking.example", "site": "fra", "a": "198.51.100.3"}],
}
ZONES = {
    "open.example": 'transfer = ["127.0.0.1"]', "signed.example": 'transfer = ["key:sec"]', "closed.example": "",
    "lacking.example": 'transfer = ["127.0.0.0/8"]', "large.example": 'transfer = ["127.0.0.0/8"]',
}
LARGE = 8000  # records of a kilooctet: more than kernels buffer for a connection


class Primary(Node):
    """A node with these zones; each zone's file can be written anew."""

    tls_port: int
    secondaries: dict[str, int]

    def zone(self, name: str, text: str) -> None:
        (self.config.parent / f"{name}.zone").write_text(text, encoding="utf-8")

    def reload(self) -> None:
        reply = self.api("POST", "/v1/reload", {})
        assert reply.status < 300, reply

    def served(self, name: str) -> int:
        return int(self.dig("+short", name, "SOA").split()[2])

    def status(self, name: str) -> dict[str, Any]:
        [found] = [zone for zone in self.api("GET", "/v1/status").body["zones"] if zone["name"] == f"{name}."]
        assert isinstance(found, dict)
        return found

    def transfer(self, name: str, key: dns.tsig.Key | None = None) -> dns.zone.Zone:
        """By dnspython."""
        query = dns.message.make_query(name, dns.rdatatype.AXFR)
        if key is not None:
            query.use_tsig(key)
        zone = dns.zone.Zone(name)
        dns.query.inbound_xfr(self.address, zone, query, port=self.port, timeout=5, lifetime=30)
        return zone


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Primary]:
    home = tmp_path_factory.mktemp("p")
    chain, key = certificates.write(home)
    tls, secondaries = free_port(), {"nsd": free_port(), "knot": free_port()}
    path = write_config(home, atlas_home, zones={"demo.example": HEAD.format(serial=1)}, more=f"""
[tls]
listen = ["127.0.0.1:{tls}"]
certificate = "{chain}"
key = "{key}"
[[keys]]
name = "sec"
secret = "{SECRET}"
[[keys]]
name = "big"
algorithm = "hmac-sha512"
secret = "{SECRET}"
[[keys]]
name = "stranger"
secret = "{SECRET}"
""")
    more = []
    for name, transfer in ZONES.items():
        more += ["[[zones]]", f'name = "{name}"', f'file = "{home}/{name}.zone"', transfer]
        ports = [secondaries["nsd" if name == "open.example" else "knot"]]
        if name in ("open.example", "signed.example"):
            more.append(f"notify = {[f'127.0.0.1:{port}' for port in ports]}")
        if name == "signed.example":
            more.append('notify_key = "sec"')
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(more) + "\n", encoding="utf-8")
    node = Primary(path)
    node.tls_port, node.secondaries = tls, secondaries
    filler = " ".join([f'"{"x" * 250}"'] * 4)
    for name in ZONES:
        text = STATIC if name in ("open.example", "signed.example") else HEAD
        if name == "large.example":
            text += "".join(f"h{n} TXT {filler}\n" for n in range(LARGE))
        node.zone(name, text.format(serial=7))
    try:
        node.start()
        node.apply(FLEET)
        yield node
    finally:
        node.stop()


@contextmanager
def secondary(kind: str, primary: Primary, zone: str, home: Path) -> Iterator[int]:
    """NSD without a key, or Knot with one, following that zone; its port."""
    port = primary.secondaries[kind]
    home.mkdir()
    config = home / "conf"
    if kind == "nsd":
        text = f"""\
server:
    server-count: 1
    ip-address: 127.0.0.1@{port}
    do-ip6: no
    username: ""
    chroot: ""
    zonesdir: "{home}"
    database: ""
    pidfile: "{home}/nsd.pid"
    xfrdfile: "{home}/xfrd.state"
    xfrdir: "{home}"
    zonelistfile: "{home}/zone.list"
    logfile: "{home}/nsd.log"
    minimal-responses: yes
    verbosity: 2
remote-control:
    control-enable: no
zone:
    name: {zone}
    request-xfr: 127.0.0.1@{primary.port} NOKEY
    allow-notify: 127.0.0.1 NOKEY
"""
    else:
        text = f"""\
server:
    rundir: "{home}"
    listen: 127.0.0.1@{port}
log:
  - target: stderr
    any: info
database:
    storage: "{home}"
key:
  - id: sec
    algorithm: hmac-sha256
    secret: {SECRET}
remote:
  - id: primary
    address: 127.0.0.1@{primary.port}
    key: sec
acl:
  - id: notified
    address: 127.0.0.1
    key: sec
    action: notify
template:
  - id: default
    storage: "{home}"
    zonefile-sync: -1
zone:
  - domain: {zone}
    master: primary
    acl: notified
"""
    config.write_text(text, encoding="utf-8")
    program = shutil.which({"nsd": "nsd", "knot": "knotd"}[kind], path=PATH)
    assert program is not None
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, *([] if kind == "knot" else ["-d"]), "-c", str(config)],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    except AssertionError as error:
        said = "".join(file.read_text(errors="replace") for file in (home / "log", home / "nsd.log") if file.exists())
        raise AssertionError(f"{error}\n{said[-3000:]}\n{primary.tail(2000)}") from None
    finally:
        process.terminate()
        process.wait(20)


def ask(port: int, name: str, kind: str) -> dns.message.Message | None:
    """What the server at that port says, None for nothing."""
    query = dns.message.make_query(name, kind, use_edns=0)
    query.flags &= ~dns.flags.RD
    try:
        return dns.query.udp(query, "127.0.0.1", port=port, timeout=1)
    except (dns.exception.Timeout, OSError):
        return None


def serial_at(port: int, zone: str) -> int:
    reply = ask(port, zone, "SOA")
    return reply.answer[0][0].serial if reply is not None and reply.answer else -1


def texts(zone: dns.zone.Zone) -> set[str]:
    """Every record but the SOA as text."""
    return {f"{name} {ttl} {rdata.to_text()} {dns.rdatatype.to_text(rdata.rdtype)}"
            for name, ttl, rdata in zone.iterate_rdatas() if rdata.rdtype != dns.rdatatype.SOA}


QUESTIONS = [
    (name, kind) for name in ("", "static.", "alias.", "txt.", "a.wild.", "deep.sub.", "none.", "mail.", "_sip._tcp.")
    for kind in ("A", "AAAA", "TXT", "MX", "SRV", "SOA", "NS")]


def same(primary: Primary, port: int, zone: str) -> None:
    """For every static question the secondary says what the primary says."""
    for label, kind in QUESTIONS:
        ours, theirs = (ask(at, f"{label}{zone}", kind) for at in (primary.port, port))
        assert ours is not None
        assert theirs is not None
        assert ours.rcode() == theirs.rcode(), (label, kind)
        assert ours.flags & dns.flags.AA == theirs.flags & dns.flags.AA, (label, kind)
        for section in ("answer", "authority"):
            if section == "authority" and theirs.answer:
                continue  # NSD and Knot may add the zone's NS
            mine, other = (sorted(map(_shown, getattr(each, section))) for each in (ours, theirs))
            assert mine == other, (label, kind, section)


def _shown(rrset: dns.rrset.RRset) -> str:
    return "\n".join(sorted(rrset.to_text().lower().splitlines()))


@pytest.mark.parametrize(("kind", "zone"), [("nsd", "open.example"), ("knot", "signed.example")])
def test_a_secondary_follows(primary: Primary, tmp_path: Path, kind: str, zone: str) -> None:
    """AXFR, identical static answers; then NOTIFY on a change and the new serial, without waiting for a refresh."""
    with secondary(kind, primary, zone, tmp_path / kind) as port:
        until(lambda: serial_at(port, zone) == primary.served(zone), 30, f"{kind} has the zone")
        same(primary, port, zone)
        before = primary.served(zone)
        primary.zone(zone, STATIC.format(serial=7) + f"fresh A 192.0.2.{1 + before % 250}\n")
        primary.reload()
        assert primary.served(zone) == before + 1
        until(lambda: serial_at(port, zone) == before + 1, 20, f"{kind} was told and has the new serial")
        fresh = ask(port, f"fresh.{zone}", "A")
        assert fresh is not None
        assert fresh.answer
        same(primary, port, zone)

        def told() -> bool:
            [heard] = primary.status(zone)["transfer"]["notify"]
            return heard["serial"] == before + 1 and heard["error"] is None

        until(told, 10, "status says that it has heard")
        if zone == "open.example":  # a service's fallback is part of what is transferred
            fallback = ask(port, f"api.{zone}", "A")
            assert fallback is not None
            assert [rdata.to_text() for rdata in fallback.answer[0]] == ["192.0.2.200"]
            assert ask(primary.port, f"api.{zone}", "A").answer[0][0].to_text() == "198.51.100.1"  # type: ignore[union-attr]
            fleet = {**FLEET, "services": [
                {**each, "fallback": {"a": ["192.0.2.210"], "aaaa": ["2001:db8::200"]}}
                if each["name"] == f"api.{zone}" else each for each in FLEET["services"]]}
            primary.apply(fleet)
            try:
                until(lambda: serial_at(port, zone) == before + 2, 20, "a changed fallback moves the serial")
                fallback = ask(port, f"api.{zone}", "A")
                assert fallback is not None
                assert [rdata.to_text() for rdata in fallback.answer[0]] == ["192.0.2.210"]
            finally:
                primary.apply(FLEET)


def test_what_is_transferred_is_the_zone_and_the_fallbacks(primary: Primary) -> None:
    zone = primary.transfer("open.example")
    primary.zone("closed.example", STATIC.format(serial=1))  # never served: only to be read by another parser
    expected = dns.zone.from_text(STATIC.format(serial=7), "open.example", relativize=True)
    file = (primary.config.parent / "open.example.zone").read_text()
    expected = dns.zone.from_text(file, "open.example", relativize=True)
    assert texts(zone) - texts(expected) == {
        "api 30 192.0.2.200 A", "api 30 2001:db8::200 AAAA", 'api 30 1 . alpn="h2" HTTPS',
        "*.apps 20 192.0.2.201 A", "*.apps 20 192.0.2.202 A"}
    assert texts(expected) <= texts(zone)
    assert zone["@"].rdatasets[0] is not None


@pytest.mark.parametrize(("zone", "words", "ok"), [
    ("open.example", (), True), ("closed.example", (), False), ("signed.example", (), False),
    ("signed.example", ("-y", f"hmac-sha256:sec:{SECRET}"), True),
    ("signed.example", ("-y", f"hmac-sha256:stranger:{SECRET}"), False),
    ("open.example", ("-y", f"hmac-sha512:big:{SECRET}"), True),
    ("closed.example", ("-y", f"hmac-sha256:sec:{SECRET}"), False),
    ("absent.example", (), False),
])
@pytest.mark.parametrize("tool", ["dig", "kdig"])
def test_dig_and_kdig_transfer(primary: Primary, run: Callable[..., str], tool: str, zone: str,
                               words: tuple[str, ...], ok: bool) -> None:
    said = run(tool, f"@{primary.address}", "-p", str(primary.port), *words, zone, "AXFR")
    found = re.findall(rf"^{zone}\.\s+300\s+IN\s+SOA\s", said, re.MULTILINE)
    assert len(found) == (2 if ok else 0), said
    assert "static" in said or not ok
    assert "verify failed" not in said.lower(), said


def test_kdig_transfers_over_tls(primary: Primary, run: Callable[..., str]) -> None:
    said = run("kdig", "@127.0.0.1", "-p", str(primary.tls_port), "+tls", "large.example", "AXFR", "+timeout=20")
    assert len(re.findall(r"^h\d+\.\S+\s+300\s+IN\s+TXT\s", said, re.MULTILINE)) == LARGE, said[-500:]
    said = run("kdig", "@127.0.0.1", "-p", str(primary.tls_port), "+tls", "-y", f"hmac-sha256:sec:{SECRET}",
               "signed.example", "AXFR")
    assert said.count("SOA") >= 2, said


def refused(primary: Primary, query: dns.message.Message, *, tcp: bool = True) -> dns.message.Message:
    how = dns.query.tcp if tcp else dns.query.udp
    return how(query, primary.address, port=primary.port, timeout=5)


def test_refusals_say_why(primary: Primary) -> None:
    def error(zone: str, kind: str = "AXFR") -> tuple[str, str]:
        reply = refused(primary, dns.message.make_query(zone, kind, use_edns=0))
        ede = [option.to_text() for option in reply.options]
        return dns.rcode.to_text(reply.rcode()), " ".join(ede)

    assert error("signed.example") == ("REFUSED", "EDE 18 (Prohibited): no transfer of this zone for you")
    assert error("lacking.example")[0] == "REFUSED"
    assert "service bare.lacking.example. has no fallback for A" in error("lacking.example")[1]
    assert error("absent.example")[0] == "NOTAUTH"
    assert "bare.lacking.example" in primary.status("lacking.example")["transfer"]["refused"][0]
    conditions = primary.api("GET", "/v1/status").body["conditions"]
    assert any("lacking.example. is not transferred" in each for each in conditions), conditions


def ixfr(zone: str, serial: int) -> dns.message.Message:
    query = dns.message.make_query(zone, "IXFR")
    name = dns.name.from_text(zone)
    query.authority.append(dns.rrset.from_text(name, 0, "IN", "SOA", f". . {serial} 0 0 0 0"))
    return query


def test_ixfr_is_a_whole_zone_or_one_soa(primary: Primary) -> None:
    serial = primary.served("open.example")
    for theirs, tcp, records in ((serial, True, 1), (serial + 1, True, 1), (serial, False, 1), (serial - 1, False, 1)):
        reply = refused(primary, ixfr("open.example", theirs), tcp=tcp)
        assert reply.rcode() == dns.rcode.NOERROR
        assert [sum(map(len, reply.answer)), reply.answer[0][0].serial] == [records, serial]
    reply = refused(primary, ixfr("open.example", serial - 1))
    assert sum(map(len, reply.answer)) > 10
    assert refused(primary, dns.message.make_query("open.example", "IXFR")).rcode() == dns.rcode.FORMERR
    assert refused(primary, dns.message.make_query("open.example", "AXFR"), tcp=False).rcode() == dns.rcode.FORMERR
    assert refused(primary, ixfr("signed.example", 1)).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("tcp", [False, True])
def test_signed_queries_of_any_kind_are_answered_signed(primary: Primary, tcp: bool) -> None:
    key = dns.tsig.Key("sec.", SECRET, "hmac-sha256")
    for name, kind in (("signed.example", "SOA"), ("api.open.example", "A"), ("none.open.example", "A")):
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        query.use_tsig(key)
        how = dns.query.tcp if tcp else dns.query.udp
        reply = how(query, primary.address, port=primary.port, timeout=5)
        assert reply.had_tsig
        assert bool(reply.answer) == (not name.startswith("none"))


def test_dig_sees_what_is_wrong_with_a_signature(primary: Primary) -> None:
    assert "BADKEY" in primary.dig("-y", f"hmac-sha256:unknown:{SECRET}", "signed.example", "SOA")
    assert "BADSIG" in primary.dig("-y", "hmac-sha256:sec:b3RoZXIgc2VjcmV0", "signed.example", "SOA")
    assert "TSIG" in primary.dig("-y", f"hmac-sha256:sec:{SECRET}", "signed.example", "SOA")


def test_a_slow_secondary_holds_up_nobody_and_no_memory(primary: Primary) -> None:
    """Ten that read next to nothing of a large zone, while others transfer it and ask, and the processes stay small."""
    zone = primary.transfer("large.example")  # once, for memory that is only ever taken once
    size = {pid: _rss(pid) for pid in primary.children("dnsd.")}
    request = dns.message.make_query("large.example", "AXFR").to_wire()
    slow = []
    try:
        for _ in range(10):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((primary.address, primary.port))
            sock.sendall(struct.pack(">H", len(request)) + request)
            slow.append(sock)
        worst = 0.0
        until_when = time.monotonic() + 4
        while time.monotonic() < until_when:
            began = time.monotonic()
            assert ask(primary.port, "static.open.example", "A") is not None
            worst = max(worst, time.monotonic() - began)
            slow[random.randrange(10)].recv(64)
            time.sleep(0.02)
        assert primary.api("GET", "/v1/status").body["desk"]["open"] == 10
        assert len(texts(primary.transfer("large.example"))) == len(texts(zone)) == LARGE + 2
        assert worst < 0.5, worst
        grown = {pid: _rss(pid) - before for pid, before in size.items()}
        assert max(grown.values()) < 12 * 1024, grown
    finally:
        for sock in slow:
            sock.close()


def _rss(pid: int) -> int:
    """KiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def test_a_restarted_node_keeps_its_serials(primary: Primary) -> None:
    before = {name: primary.served(name) for name in ("open.example", "signed.example")}
    primary.stop()
    primary.start()
    until(lambda: any("transfer" in each for each in primary.api("GET", "/v1/status").body["zones"]), 20, "its image")
    until(lambda: {name: primary.served(name) for name in before} == before, 10, "the same serials")
    assert len(texts(primary.transfer("open.example"))) > 10


def test_nodes_of_one_registry_agree(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> None:
    """A new zone file reaches one node after the other: the late one bumps nothing, and both end with one serial."""
    nodes: list[Primary] = []
    try:
        for number in range(2):
            redis = f"unix://{nodes[0].state / 'store' / 'store.sock'}" if nodes else ""
            path = write_config(tmp_path_factory.mktemp("t"), atlas_home, workers=1, redis=redis,
                                zones={"two.example": HEAD.format(serial=5 + number)})
            path.write_text(path.read_text(encoding="utf-8") + 'transfer = ["127.0.0.1"]\n', encoding="utf-8")
            nodes.append(Primary(path))
            nodes[-1].start()
            until(lambda: nodes[-1].served("two.example") == 5, 10, "the registry's serial, not the file's")
        changed = HEAD.format(serial=5) + "more A 192.0.2.1\n"
        for node, serials in zip(nodes, ([6, 5], [6, 6]), strict=True):
            node.zone("two.example", changed)
            assert node.api("POST", "/v1/reload", {}, token=nodes[0].token).status < 300
            assert [each.served("two.example") for each in nodes] == serials
            assert [each.transfer("two.example").get_soa().serial for each in nodes] == serials
        assert texts(nodes[0].transfer("two.example")) == texts(nodes[1].transfer("two.example"))
    finally:
        for node in reversed(nodes):
            node.stop()


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a tool and give back what it prints."""
    def call(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    return call
