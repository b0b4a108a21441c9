"""Other people's programs as clients: a resolver that follows the delegation, kdig with pipelining, IPv6, TCP, NSID."""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from tests.node import Node, free_port, serving, until, write_config

ZONE = """\
$TTL 300
@ SOA ns1 hostmaster 1 7200 900 1209600 60
@ NS ns1
ns1 A 127.0.0.1
static A 192.0.2.81
www CNAME static
web HTTPS 1 static alpn=h2
big TXT "{}"
""".format('" "'.join("x" * 200 for _ in range(8)))
FLEET = {
    "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
    "services": [{"name": "api.demo.example", "ttl": 5, "policy": {"preset": "geo"},
                  "https": {"alpn": ["h2", "h3"], "port": 8443}}],
    "endpoints": [{"id": "one", "service": "api.demo.example", "site": "fra", "a": "192.0.2.1", "aaaa": "2001:db8::1"}],
}

ANY = {"If-Match": "*"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Node]:
    """A node with a small zone and one service."""
    config = write_config(tmp_path_factory.mktemp("clients"), atlas_home, zones={"demo.example": ZONE})
    with serving(config, FLEET) as node:
        yield node


def test_ipv6(server: Node) -> None:
    for words, address in ((["A"], "192.0.2.1"), (["AAAA", "+tcp"], "2001:db8::1")):
        command = ["dig", "@::1", "-p", str(server.port), "+short", "+norec", "+tries=1", "api.demo.example", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        assert done.stdout.split() == [address]


def test_https_hints_at_what_a_and_aaaa_say(server: Node) -> None:
    """RFC 9460 §7.3."""
    told = server.dig("+short", "api.demo.example", "HTTPS").strip()
    assert told == '1 . alpn="h2,h3" port=8443 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1'


def test_https_follows_every_client_and_every_change(server: Node) -> None:
    """Declared, changed and taken back by the API; hints as dig gets A and AAAA from the same subnet."""
    name = "shop.demo.example"
    service = {"ttl": 86400, "policy": {"preset": "weighted", "take": 2, "split4": 24, "split6": 56}}

    def put(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        reply = server.api("PUT", path, body, headers=headers)
        assert reply.status < 300, reply
        server.wait_version(reply.body["version"])

    put(f"/v1/services/{name}", {**service, "https": {}})
    for n in range(1, 6):
        families = {"a": f"198.51.100.{n}"} | ({"aaaa": f"2001:db8:5::{n}"} if n % 2 else {})
        put(f"/v1/endpoints/{name}/e{n}", {"site": "fra", **families})
    drawn = set()
    for subnet in ("10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "2400:1::/56", "2400:2::/56", "0.0.0.0/0"):
        asked = ("+short", f"+subnet={subnet}", name)
        a, aaaa = (server.dig(*asked, type_).split() for type_ in ("A", "AAAA"))
        assert (len(a), len(aaaa)) == (2, 2)
        for type_ in ("HTTPS", "TYPE65"):
            assert server.dig(*asked, type_).split() == [
                "1", ".", "ipv4hint=" + ",".join(a), "ipv6hint=" + ",".join(aaaa)]
        drawn.add((*a, *aaaa))
    assert len(drawn) > 1
    put(f"/v1/services/{name}", {**service, "https": {"alpn": ["h3"], "port": 444, "ech": "AAj+DQAEYWJjZA=="}}, ANY)
    told = server.dig("+short", name, "HTTPS")
    assert re.fullmatch(r'1 \. alpn="h3" port=444 ipv4hint=\S+ ech=AAj\+DQAEYWJjZA== ipv6hint=\S+\n', told)
    put(f"/v1/services/{name}", service, ANY)
    assert "ANSWER: 0, AUTHORITY: 1" in server.dig(name, "HTTPS")
    bad = server.api("PUT", f"/v1/services/{name}", {"https": {"alpn": ["h2", "h2"], "port": 0, "ech": "?"}},
                     headers=ANY)
    assert (bad.status, [fault["pointer"] for fault in bad.body["faults"]]) == (
        422, ["/https/alpn", "/https/port", "/https/ech"])
    static = server.api("PUT", "/v1/services/web.demo.example", {"https": {}})
    assert (static.status, static.body["faults"][0]["message"]) == (422, "the zone has static HTTPS here")


def test_too_long_for_udp_is_truncated_and_whole_over_tcp(server: Node) -> None:
    short = server.dig("+ignore", "+bufsize=512", "big.demo.example", "TXT")
    assert re.search(r"flags: qr aa tc;.*ANSWER: 0", short)
    assert "EDNS: version: 0" in short
    assert server.dig("big.demo.example", "TXT").count("x" * 200) == 8


def test_nsid_names_node_worker_and_version(server: Node) -> None:
    reply = server.dig("+nsid", "api.demo.example")
    text = re.search(r'NSID: .*\("(.*)"\)', reply)
    assert text is not None, reply
    node, worker, stamp = text[1].split()
    assert node == server.settings["node"]
    assert worker in ("w0", "w1")
    epoch, version, _ = stamp.split(".")
    status = server.api("GET", "/v1/status").body
    assert int(epoch, 16) > 0
    assert int(version) <= status["version"]


def test_hundred_pipelined_queries_on_one_connection(server: Node) -> None:
    names = ("api.demo.example", "static.demo.example")
    queries = [dns.message.make_query(names[i % 2], "A", id=i) for i in range(100)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"".join(q.to_wire(prepend_length=True) for q in queries))
        with sock.makefile("rb") as stream:
            seen = {}
            for _ in queries:
                reply = dns.message.from_wire(stream.read(int.from_bytes(stream.read(2), "big")))
                seen[reply.id] = str(reply.answer[0][0])
    assert seen == {i: "192.0.2.81" if i % 2 else "192.0.2.1" for i in range(100)}


@pytest.mark.needs("kdig")
def test_kdig_keeps_its_connection(server: Node) -> None:
    words = [w for name in ("static", "www", "api", "nosuch") for w in (f"{name}.demo.example", "A")]
    done = subprocess.run(["kdig", "@127.0.0.1", "-p", str(server.port), "+tcp", "+keepopen", "+norec", *words],
                          capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.count("status: NOERROR") == 3
    assert done.stdout.count("status: NXDOMAIN") == 1
    assert "192.0.2.81" in done.stdout


def test_hostile_octets_get_an_answer_or_none_and_hurt_nobody(server: Node) -> None:
    good = dns.message.make_query("api.demo.example", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(0.3)
        for size in range(len(good)):
            sock.send(good[:size])
        for at in range(2, len(good)):
            for value in (0, 1, 0x3F, 0x40, 0x80, 0xC0, 0xFF):
                sock.send(good[:at] + bytes([value]) + good[at + 1 :])
        sock.send(good[:2] + b"\x80" + good[3:])  # a reply: never answered
        sock.send(b"\xff" * 2000)
        drained = 0
        try:
            while True:
                reply = sock.recv(65535)
                drained += 1
                assert reply[2] & 0x80
        except TimeoutError:
            pass
    assert drained > 100
    assert server.dig("+short", "api.demo.example").split() == ["192.0.2.1"]
    lines = [line for line in server.api("GET", "/metrics").body.splitlines() if "dnsd_internal_errors_total{" in line]
    assert lines
    assert all(line.endswith(" 0") for line in lines)


@pytest.mark.needs("unbound")
def test_a_resolver_follows_the_delegation(server: Node, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "unbound.conf"
    config.write_text(f"""
server:
  interface: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  directory: "{tmp_path}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "iterator"
  domain-insecure: "demo.example"
  harden-below-nxdomain: yes
  qname-minimisation: yes
remote-control:
  control-enable: no
stub-zone:
  name: "demo.example"
  stub-addr: 127.0.0.1@{server.port}
""", encoding="utf-8")
    program = shutil.which("unbound", path="/usr/sbin:/sbin:" + "/usr/bin:/bin:/usr/local/bin:/usr/local/sbin")
    assert program is not None
    command = [program, "-d", "-p", "-c", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        def resolve(*words: str) -> str:
            return subprocess.run(["dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=2", *words],
                                  capture_output=True, text=True, timeout=10, check=False).stdout

        until(lambda: "status: NOERROR" in resolve("static.demo.example"), 10, "unbound resolves")
        assert "192.0.2.81" in resolve("www.demo.example")
        assert resolve("+short", "api.demo.example").split() == ["192.0.2.1"]
        assert resolve("+short", "api.demo.example", "AAAA").split() == ["2001:db8::1"]
        assert "status: NXDOMAIN" in resolve("nosuch.demo.example")
        assert resolve("big.demo.example", "TXT").count("x" * 200) == 8
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_every_type_and_class_gets_a_defined_answer(server: Node) -> None:
    rnd = random.Random(5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(2)
        for kind in [*range(300), *rnd.sample(range(300, 65536), 200)]:
            for class_ in (1, 3, 255):
                query = dns.message.make_query("api.demo.example", "A").to_wire()
                sock.send(query[:-4] + kind.to_bytes(2, "big") + class_.to_bytes(2, "big"))
                reply = sock.recv(65535)
                assert reply[:2] == query[:2]
                assert reply[2] & 0x80
                assert reply[3] & 15 in (dns.rcode.NOERROR, dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.REFUSED,
                                         dns.rcode.NOTAUTH), (kind, class_)
