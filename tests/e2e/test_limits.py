"""Rate limits and cookies on real nodes: a flood that gains nothing, resolvers in its network that go on resolving.

Lives here: what clients see and what the counters say. Does not live here: who is told what (`test_answer_limits`),
when a bucket is empty (`dns/test_guard`).

Floods come from 127.9.9.0/24, as if forged; the resolvers that must not suffer live in that network as well. Rates are
far below the defaults, so that a flood is one on a slow machine too.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.e2e.flood import NETWORK
from tests.node import Node, free_port, serving, until, write_config

ZONE = """\
$TTL 300
@ SOA ns1 hostmaster 1 7200 900 1209600 60
@ NS ns1
ns1 A 127.0.0.1
static A 192.0.2.81
*.w 0 A 192.0.2.82
big TXT "{}"
""".format('" "'.join("x" * 200 for _ in range(5)))
FLEET = {
    "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
    "services": [{"name": "api.demo.example", "ttl": 5, "policy": {"preset": "geo"}}],
    "endpoints": [{"id": "one", "service": "api.demo.example", "site": "fra", "a": "192.0.2.1", "aaaa": "2001:db8::1"}],
}
ANSWERS, OTHERS = 50, 10
LIMITS = f"[rate]\nanswers = {ANSWERS}\nothers = {OTHERS}\nexempt = []\n"
RESOLVER = f"{NETWORK}.200"
ASKER = b"\1\2\3\4\5\6\7\x08"
COOKIE = 10

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Node]:
    """A node with low rates, one service and a small zone."""
    home = tmp_path_factory.mktemp("limits")
    with serving(write_config(home, atlas_home, zones={"demo.example": ZONE}, more=LIMITS), FLEET) as node:
        yield node


@contextmanager
def flood(node: Node, packet: bytes, *, seconds: float, rate: int = 0) -> Iterator[subprocess.Popen[str]]:
    """The flood while the body runs; it ends with the body."""
    program = Path(__file__).with_name("flood.py")
    command = [sys.executable, str(program), str(node.port), str(seconds), str(rate), packet.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def query(name: str, type_: str = "A", *, edns: bool = False, cookie: bytes = b"") -> dns.message.Message:
    """A query as resolvers send them; with EDNS it offers 4096 octets."""
    options = [dns.edns.GenericOption(COOKIE, cookie)] if cookie else None
    return dns.message.make_query(name, type_, use_edns=0 if edns or cookie else False, payload=4096, options=options)


def counted(node: Node, name: str, *labels: str) -> int:
    """A counter of all workers together."""
    lines = [line for line in node.api("GET", "/metrics").body.splitlines()
             if line.startswith(name + "{") and all(label in line for label in labels)]
    assert lines, f"no {name} with {labels}"
    return sum(int(float(line.split()[-1])) for line in lines)


def settled(node: Node) -> tuple[int, int, int]:
    """Octets received and sent, and queries, all over UDP, when nothing waits in the kernel's queues any more."""
    def now() -> tuple[int, int, int]:
        return (counted(node, "dnsd_received_bytes_total", 'transport="udp"'),
                counted(node, "dnsd_sent_bytes_total", 'transport="udp"'),
                counted(node, "dnsd_queries_total", 'transport="udp"'))

    before = now()
    while True:
        time.sleep(0.3)
        after = now()
        if before == after:
            return after
        before = after


def asked(node: Node, message: dns.message.Message, *, source: str = RESOLVER, seconds: float = 1.0,
          ) -> dns.message.Message | None:
    """The reply to one datagram, None without one."""
    try:
        return dns.query.udp(message, "127.0.0.1", seconds, node.port, source, ignore_unexpected=True)
    except dns.exception.Timeout:
        return None


def server_cookie(reply: dns.message.Message) -> bytes:
    """The whole cookie a reply brought."""
    (option,) = [option for option in reply.options if option.otype == COOKIE]
    found: bytes = option.to_wire()
    return found


# --- a flood ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rate", [0, 10_000])
@pytest.mark.parametrize("message", [
    pytest.param(query("static.demo.example"), id="a small answer"),
    pytest.param(query("api.demo.example", edns=True), id="a service"),
    pytest.param(query("nosuch.demo.example"), id="NXDOMAIN"),
    pytest.param(query("demo.invalid"), id="REFUSED"),
    pytest.param(query("big.demo.example", "TXT", edns=True), id="a big TXT"),
    pytest.param(query("big.demo.example", "TXT", cookie=ASKER), id="a big TXT with half a cookie"),
])
def test_no_more_octets_leave_than_came(server: Node, message: dns.message.Message, rate: int) -> None:
    """Without limits the big TXT comes back 26 times as long as the query was. 0: as many as go, which is overload."""
    before = settled(server)
    with flood(server, message.to_wire(), seconds=1.5, rate=rate) as process:
        sent, _ = process.communicate(timeout=30)
    received, replied, queries = (now - then for now, then in zip(settled(server), before, strict=True))
    print(f"{int(sent)} sent, {queries} arrived: {received} octets, {replied} octets back, {replied / received:.2f}")
    assert queries > 5_000, "that was no flood"
    assert replied <= received
    assert rate == 0 or replied >= received / 4, "slipped is every second"  # overload sheds NXDOMAIN and REFUSED


def test_the_flood_is_counted(server: Node) -> None:
    """Each query over its rate is in just one of the counters, half of them dropped."""
    def limited() -> list[int]:
        return [counted(server, "dnsd_rate_limited_total", f'action="{action}"')
                for action in ("dropped", "truncated", "badcookie", "valid_cookie")]

    settled(server)
    before = limited()
    with flood(server, query("nosuch.demo.example").to_wire(), seconds=1.0, rate=5000) as process:
        sent = int(process.communicate(timeout=30)[0])
    settled(server)
    dropped, truncated, *others = (now - then for now, then in zip(limited(), before, strict=True))
    assert others == [0, 0]
    assert abs(dropped - truncated) <= 2
    assert sent * 0.9 - 4 * OTHERS - 200 <= dropped + truncated <= sent


# --- resolvers in the flooded network ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["static.demo.example", "nosuch.demo.example", "api.demo.example"])
def test_a_client_with_a_cookie_does_not_notice(server: Node, name: str) -> None:
    message = query(name, cookie=ASKER)
    with flood(server, query(name).to_wire(), seconds=30, rate=5000):
        until(lambda: counted(server, "dnsd_rate_limited_total", 'action="dropped"') > 100, 10, "limits")
        first = next(filter(None, (asked(server, message, seconds=0.3) for _ in range(20))))
        cookie = server_cookie(first)
        assert len(cookie) == 24
        for n in range(100):
            reply = asked(server, query(name, cookie=cookie))
            assert reply is not None, f"no reply to query {n}"
            assert reply.rcode() == (dns.rcode.NXDOMAIN if name.startswith("nosuch") else dns.rcode.NOERROR)
            assert not reply.flags & dns.flags.TC
            assert reply.answer or reply.authority
            cookie = server_cookie(reply)


def test_a_client_with_half_a_cookie_gets_a_whole_one(server: Node) -> None:
    """RFC 7873 §5.2.3: what `dig +cookie` does by itself."""
    with flood(server, query("static.demo.example").to_wire(), seconds=30, rate=5000):
        until(lambda: counted(server, "dnsd_rate_limited_total", 'action="dropped"') > 100, 10, "limits")
        before = counted(server, "dnsd_rate_limited_total", 'action="badcookie"')
        for _ in range(10):
            found = server.dig("-b", RESOLVER, "+cookie", "+tries=20", "+time=1", "static.demo.example")
            assert "192.0.2.81" in found
            assert "(good)" in found
        assert counted(server, "dnsd_rate_limited_total", 'action="badcookie"') > before


def test_a_client_without_cookies_comes_by_tcp_within_eight_tries(server: Node) -> None:
    def tries(number: int) -> int:
        """Which try had the answer; 9 for none."""
        for n in range(1, 9):
            reply = asked(server, query("static.demo.example"), source=f"{NETWORK}.{100 + number % 100}", seconds=0.4)
            if reply is not None and reply.flags & dns.flags.TC:
                reply = dns.query.tcp(query("static.demo.example"), "127.0.0.1", 5, server.port, RESOLVER)
            if reply is not None and reply.answer:
                return n
        return 9

    with flood(server, query("static.demo.example").to_wire(), seconds=60, rate=5000), ThreadPoolExecutor(16) as pool:
        until(lambda: counted(server, "dnsd_rate_limited_total", 'action="dropped"') > 100, 10, "limits")
        needed = list(pool.map(tries, range(600)))
    print({n: needed.count(n) for n in sorted(set(needed))})
    # Every second try is told to come by TCP: 1 in 256 clients fails eight times. Chance has room for twice the spread.
    assert sum(n <= 8 for n in needed) >= 0.985 * len(needed)
    assert sum(n <= 2 for n in needed) >= 0.6 * len(needed)


@contextmanager
def resolver(folder: Path, node: Node) -> Iterator[Callable[[str], str]]:
    """unbound, which asks the node from the flooded network; what dig says when it is asked a name."""
    port = free_port()
    config = folder / "unbound.conf"
    config.write_text(f"""
server:
  interface: 127.0.0.1
  outgoing-interface: {RESOLVER}
  port: {port}
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  do-daemonize: no
  do-ip6: no
  do-not-query-localhost: no
  module-config: "iterator"
  qname-minimisation: no
remote-control:
  control-enable: no
stub-zone:
  name: "demo.example"
  stub-addr: 127.0.0.1@{node.port}
""", encoding="utf-8")
    program = shutil.which("unbound", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/bin:/usr/local/sbin")
    assert program is not None
    command = [program, "-d", "-p", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        def resolve(name: str) -> str:
            return subprocess.run(
                ["dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=15", "+short", name],
                capture_output=True, text=True, timeout=30, check=False).stdout.strip()

        try:
            until(lambda: resolve("warm.w.demo.example") == "192.0.2.82", 20, "unbound resolves")
            yield resolve
        finally:
            process.terminate()


@pytest.mark.needs("unbound")
def test_a_resolver_goes_on_resolving(server: Node, tmp_path: Path) -> None:
    """unbound 1.17 sends no cookies: what it has are tries, and TCP."""
    with resolver(tmp_path, server) as resolve, flood(
            server, query("static.demo.example").to_wire(), seconds=60, rate=5000):
        until(lambda: counted(server, "dnsd_rate_limited_total", 'action="dropped"') > 100, 10, "limits")
        before = counted(server, "dnsd_queries_total", 'transport="tcp"')
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(resolve, [f"n{n}.w.demo.example" for n in range(200)]))
        assert counted(server, "dnsd_queries_total", 'transport="tcp"') - before > 50
    assert found.count("192.0.2.82") >= 0.99 * len(found), [text for text in found if text != "192.0.2.82"]


# --- cookies ----------------------------------------------------------------------------------------------------------

def test_dig_and_kdig_find_the_cookie_good(server: Node) -> None:
    cookie = re.search(r"; COOKIE: ([0-9a-f]{48}) \(good\)", server.dig("+cookie", "api.demo.example"))
    assert cookie is not None
    again = server.dig(f"+cookie={cookie[1]}", "api.demo.example")
    assert f"; COOKIE: {cookie[1]} (good)" in again
    assert "192.0.2.1" in again
    assert "COOKIE" not in server.dig("+nocookie", "api.demo.example")


@pytest.mark.needs("kdig")
def test_kdig_finds_the_cookie_good(server: Node) -> None:
    done = subprocess.run(
        ["kdig", "@127.0.0.1", "-p", str(server.port), "+cookie", "+norec", "+retry=3", "api.demo.example"],
        capture_output=True, text=True, timeout=30, check=True)
    assert re.search(r"COOKIE: [0-9A-Fa-f]{16}[ ,]*[0-9A-Fa-f]{32}|COOKIE: [0-9A-Fa-f]{48}", done.stdout), done.stdout
    assert "192.0.2.1" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr


def test_a_cookie_is_all_a_client_needs_to_ask_for_one(server: Node) -> None:
    """RFC 7873 §5.4."""
    message = dns.message.QueryMessage()
    message.use_edns(0, options=[dns.edns.GenericOption(COOKIE, ASKER)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(5)
        sock.send(message.to_wire())
        reply = dns.message.from_wire(sock.recv(4096))
    assert (reply.rcode(), reply.question) == (dns.rcode.NOERROR, [])
    assert server_cookie(reply)[:8] == ASKER


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[tuple[Node, Node, Path]]:
    """Two nodes of one address, and the file of secrets they have in common."""
    folder = tmp_path_factory.mktemp("two")
    secrets = folder / "cookies"
    secrets.write_text(f"active {'5a' * 16}\n", encoding="ascii")
    settings = f"{LIMITS}[cookies]\nfile = \"{secrets}\"\n"
    with serving(write_config(folder / "a", atlas_home, workers=1, more=settings), FLEET) as one, serving(
            write_config(folder / "b", atlas_home, workers=1, more=settings), FLEET) as other:
        yield one, other, secrets


def kept(node: Node, cookie: bytes) -> bool:
    """Whether the node finds a cookie as good as its own: it comes back as it was, and its proof is not another."""
    reply = asked(node, query("static.demo.example", cookie=cookie), seconds=5)
    assert reply is not None
    return server_cookie(reply) == cookie


def excused(node: Node, cookie: bytes) -> bool:
    """Whether a cookie alone is believed (RFC 7873 §5.4): BADCOOKIE where it is not."""
    message = dns.message.QueryMessage()
    message.use_edns(0, options=[dns.edns.GenericOption(COOKIE, cookie)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((RESOLVER, 0))
        sock.connect(("127.0.0.1", node.port))
        sock.settimeout(5)
        sock.send(message.to_wire())
        return dns.message.from_wire(sock.recv(4096)).rcode() == dns.rcode.NOERROR


def test_nodes_of_one_address_believe_each_other_through_a_rollover(two: tuple[Node, Node, Path]) -> None:
    one, other, secrets = two
    reply = asked(one, query("static.demo.example", cookie=ASKER), seconds=5)
    assert reply is not None
    old = server_cookie(reply)
    assert kept(other, old)
    assert not excused(other, old[:-1] + bytes([old[-1] ^ 1]))
    one.cli("cookies", "add")
    time.sleep(1.0)
    assert kept(one, old)
    assert kept(other, old)
    one.cli("cookies", "activate")
    until(lambda: not kept(one, old) and not kept(other, old), 5, "the new secret")
    assert excused(one, old)
    assert excused(other, old)
    reply = asked(one, query("static.demo.example", cookie=old), seconds=5)
    assert reply is not None
    new = server_cookie(reply)
    assert kept(other, new)
    one.cli("cookies", "drop")
    until(lambda: not excused(one, old) and not excused(other, old), 5, "the old secret dropped")
    assert kept(one, new)
    assert kept(other, new)
    secrets.write_text("rubbish\n", encoding="ascii")
    until(lambda: "the old ones stay" in one.tail(), 5, "a complaint")
    assert kept(one, new)
    assert kept(other, new)


def test_a_node_by_itself_makes_its_own_secret(server: Node) -> None:
    path = server.state / "cookies"
    assert path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"(#.*\n)*active [0-9a-f]{32}\n", path.read_text(encoding="ascii"))
    shown = server.cli("cookies", "show").stdout
    assert path.read_text(encoding="ascii").split()[-1] not in shown
    assert "active" in shown
