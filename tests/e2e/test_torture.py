"""Connections that cost: thousands that are silent, slow, half closed, never read or broken off, over TCP and TLS.

Through each of these canaries go on asking, over UDP and over TCP connections of their own: none of theirs may be lost,
and the worker's memory may grow by no more than is said here.
"""

from __future__ import annotations

import re
import resource
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import dns.message
import pytest

from tests import certificates
from tests.e2e.prober import Prober
from tests.node import Node, free_port, until, write_config
from tests.oracle.ask import Question, wire

MANY = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000)  # fewer where files are few
PLACES = 512
ALL = 48  # MiB that the worker may grow by over all of this together
SECONDS = 2  # how long the node waits for a first query, and for answers to be taken
ZONE = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 192.0.2.53\nstatic A 192.0.2.81\n" + (
    "".join(f'big TXT "{i:03}{"x" * 240}"\n' for i in range(120)))
LIMITS = f"first_query_seconds = {SECONDS}\nstall_seconds = {SECONDS}\n"
STATIC = Question("static.demo.example", "A")
ASK, BIG = (struct.pack(">H", len(each)) + each
            for each in (wire(STATIC, 7), wire(Question("big.demo.example", "TXT"), 7)))


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """As many open files as this user may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Tortured(Node):
    """A node with one worker that serves DNS over TLS too."""

    tls_port: int
    fresh: float  # MiB, when it had answered one query

    @property
    def worker(self) -> int:
        [pid] = self.children("serve.worker")
        return pid

    @property
    def grown(self) -> float:
        """MiB that the worker has for itself, beyond what it had at first: what one test leaves counts in the next."""
        return self.memory - self.fresh

    @property
    def memory(self) -> float:
        """MiB that the worker has for itself."""
        text = Path(f"/proc/{self.worker}/smaps_rollup").read_text()
        return sum(int(found) for found in re.findall(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)) / 1024

    def metric(self, name: str) -> int:
        """A counter's value, such as `dnsd_tcp_closed_total{reason="idle"`."""
        text = str(self.api("GET", "/metrics").body)
        return sum(int(float(line.rpartition(" ")[2])) for line in text.splitlines() if line.startswith(name))

    def left(self) -> None:
        """Until nobody is connected."""
        until(lambda: self.metric("dnsd_tcp_connections_open") + self.metric("dnsd_tls_connections_open") == 0, 15,
              "all connections are gone")


@contextmanager
def tortured(home: Path, atlas: Path, tcp: str) -> Iterator[Tortured]:
    port = free_port()
    chain, key = certificates.write(home)
    more = (f'[tcp]\n{tcp}proxy_from = ["127.0.77.0/24"]\n'
            f'[tls]\nlisten = ["127.0.0.1:{port}"]\ncertificate = "{chain}"\nkey = "{key}"')
    node = Tortured(write_config(home, atlas, workers=1, zones={"demo.example": ZONE}, more=more))
    node.tls_port = port
    try:
        node.start()
        until(lambda: "192.0.2.81" in node.dig("static.demo.example"), 10, "an answer")
        node.fresh = node.memory
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Tortured]:
    """With as many places as by default, and little patience."""
    with tortured(tmp_path_factory.mktemp("t"), atlas_home, LIMITS) as node:
        yield node


class Canaries:
    """Asks over UDP, and over a TCP connection for each question, until left; then each must have been answered."""

    def __init__(self, node: Tortured) -> None:
        self._node = node
        self._prober = Prober(node.port, [STATIC], ports=8, rate=100)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._lost: list[str] = []
        self._asked = 0
        self._until = time.monotonic() + 1  # ask for so long at least

    def __enter__(self) -> Self:
        self._prober.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        time.sleep(max(0.0, self._until - time.monotonic()) if kind is None else 0)
        self._stop.set()
        self._thread.join()
        asked = self._prober.finish()
        if kind is None:
            lost = [one for one in asked if one.answer is None or one.answer.addresses != ("192.0.2.81",)]
            print(f"UDP: {len(asked)} asked, {len(lost)} lost; TCP: {self._asked} asked, {len(self._lost)} lost")
            assert len(asked) > 20
            assert self._asked > 5
            assert not lost
            assert not self._lost

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self._asked += 1
            try:
                with socket.create_connection(("127.0.0.1", self._node.port), 5) as sock:
                    sock.sendall(ASK)
                    assert received(sock)
            except (OSError, AssertionError) as error:
                self._lost.append(repr(error))


def received(sock: socket.socket) -> bool:
    """Whether a whole answer with the right address comes."""
    data = b""
    while len(data) < 2 or len(data) < 2 + struct.unpack(">H", data[:2])[0]:
        more = sock.recv(65535)
        if not more:
            return False
        data += more
    return "192.0.2.81" in str(dns.message.from_wire(data[2:]).answer)


def connect(port: int, number: int, *, receive: int = 0) -> socket.socket:
    """A connection that is being made, from a prefix of its own for each number up to 60,000."""
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when connecting
    sock.bind((f"127.{1 + number // 250 % 250}.{1 + number % 250}.{1 + number // 62500}", 0))
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    return sock


@contextmanager
def crowd(port: int, number: int, *, receive: int = 0) -> Iterator[list[socket.socket]]:
    """So many connections, a few hundred at a time, for a listening socket's queue is not endless."""
    socks: list[socket.socket] = []
    try:
        for i in range(number):
            socks.append(connect(port, i, receive=receive))
            if i % 250 == 249:
                _made(socks[-250:])
        _made(socks[-250:])
        yield socks
    finally:
        for sock in socks:
            sock.close()


def _made(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.settimeout(5)
        with suppress(OSError):  # closed again already
            sock.send(b"")
            sock.getpeername()
        sock.setblocking(False)


def test_ten_thousand_silent_connections_held(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> None:
    """With places for all of them: what each costs, and that nobody else notices."""
    limits = f"connections = {2 * MANY}\nfirst_query_seconds = 60\n"
    with tortured(tmp_path_factory.mktemp("w"), atlas_home, limits) as node:
        with Canaries(node), crowd(node.port, MANY) as socks:
            until(lambda: node.metric("dnsd_tcp_connections_open") >= MANY, 10, "all are there")
            grown = node.grown
            print(f"{MANY} connections: {grown:.1f} MiB")
            time.sleep(1)
            for sock in socks[:: MANY // 20]:
                sock.settimeout(5)
                sock.sendall(ASK)
                assert received(sock)
        assert grown * 1024 / MANY < 8, "KiB for a silent connection"
        node.left()
        assert node.metric("dnsd_loop_stalls_total") < 20


@pytest.mark.parametrize("tls", [False, True])
def test_ten_thousand_silent_connections_pass_by(server: Tortured, tls: bool) -> None:
    """With the usual places: the longest idle make room, and whoever comes is served."""
    port, metric = (server.tls_port, "dnsd_tls") if tls else (server.port, "dnsd_tcp")
    metric += '_closed_total{reason="limit"'
    limited = server.metric(metric)
    with Canaries(server), crowd(port, MANY):
        until(lambda: server.metric(metric) >= limited + MANY - PLACES, 10, "others make room")
        assert server.metric("dnsd_tcp_connections_open") + server.metric("dnsd_tls_connections_open") <= PLACES
        grown = server.grown
    print(f"{grown:.1f} MiB")
    assert grown < 8
    server.left()


def test_an_octet_a_second(server: Tortured) -> None:
    closed = server.metric('dnsd_tcp_closed_total{reason="first_query"')
    number = 300
    with Canaries(server), crowd(server.port, number) as socks:
        for octet in ASK[: SECONDS + 2]:
            for sock in socks:
                with suppress(OSError):
                    sock.send(bytes([octet]))
            time.sleep(1)
        server.left()
    assert server.metric('dnsd_tcp_closed_total{reason="first_query"') - closed == number
    assert server.grown < 8


def test_half_closed_clients_get_what_they_asked_for(server: Tortured) -> None:
    with Canaries(server), crowd(server.port, 400) as socks:
        for sock in socks:
            sock.setblocking(True)
            sock.settimeout(5)
            sock.sendall(ASK)
            sock.shutdown(socket.SHUT_WR)
        for sock in socks:
            assert received(sock)
            assert sock.recv(1) == b"", "closed when all is answered"
    server.left()


# --- TLS --------------------------------------------------------------------------------------------------------------


def client_context(**named: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in named.items():
        setattr(context, name, value)
    return context


class Handshake:
    """A client's side of one, flight by flight."""

    def __init__(self, port: int, number: int, context: ssl.SSLContext) -> None:
        self.sock = connect(port, number)
        self.sock.settimeout(5)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._in, self._out)

    def flight(self) -> bytes:
        """The next octets for the server."""
        with suppress(ssl.SSLWantReadError):
            self._session.do_handshake()
        return self._out.read()

    def listen(self) -> None:
        """Take the server's."""
        self._in.write(self.sock.recv(65535))


def test_as_many_sessions_as_there_are_places(server: Tortured) -> None:
    """Handshakes are dear, but they wait for their turn; a session that is held is not dear."""
    number, context = 400, client_context()
    with Canaries(server):
        held = []
        for i in range(number):
            handshake = Handshake(server.tls_port, i, context)
            handshake.sock.sendall(handshake.flight())
            held.append(handshake)
        for handshake in held:
            flight = b""
            while not flight:
                handshake.listen()
                flight = handshake.flight()
            handshake.sock.sendall(flight)
        until(lambda: server.metric("dnsd_tls_handshakes_total") >= number, 10, "all hands are shaken")
        done = server.grown
        print(f"{number} sessions: {done:.1f} MiB")
        server.left()
        for handshake in held:
            handshake.sock.close()
    assert done * 1024 / number < 64, "KiB for a session"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_handshakes_broken_off_at_every_octet(server: Tortured, version: ssl.TLSVersion) -> None:
    """In the first flight and in the second, by a close and by a reset in turn."""
    context = client_context(minimum_version=version, maximum_version=version)
    done, number = server.metric("dnsd_tls_handshakes_total"), 0
    with Canaries(server):
        for second in (False, True):
            cut, size = 0, 1
            while cut < size:
                handshake = Handshake(server.tls_port, number, context)
                flight = handshake.flight()
                if second:
                    handshake.sock.sendall(flight)
                    flight = b""
                    while not flight:
                        handshake.listen()
                        flight = handshake.flight()
                size = len(flight)
                handshake.sock.sendall(flight[:cut])
                if cut % 2:
                    handshake.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handshake.sock.close()
                cut, number = cut + 1, number + 1
        assert number > 200
        server.left()
    assert server.metric("dnsd_tls_handshakes_total") == done
    assert server.grown < ALL


def test_garbage_where_tls_is_spoken(server: Tortured) -> None:
    done = server.metric("dnsd_tls_handshakes_total")
    octets = [ASK, b"GET / HTTP/1.1\r\n\r\n", bytes(3000), b"\xff" * 3000, b"\x16\x03\x01\x40\x00\x01" + bytes(16000),
              b"\x16\x03\x01\0\1\1" * 500, b"\x17\x03\x03\0\x10" + bytes(16)]
    with Canaries(server), crowd(server.tls_port, 700) as socks:
        for i, sock in enumerate(socks):
            with suppress(OSError):
                sock.send(octets[i % len(octets)])
        server.left()
    assert server.metric("dnsd_tls_handshakes_total") == done
    assert server.grown < ALL


def test_clients_that_never_read(server: Tortured) -> None:
    """Each asks for 30 KB two hundred times, and may make the worker hold one write of it, not for long."""
    number = 200
    closed = server.metric('dnsd_tcp_closed_total{reason="stalled"')
    grown = 0.0
    with Canaries(server), crowd(server.port, number, receive=4096) as socks:
        for sock in socks:
            with suppress(BlockingIOError):
                sock.send(BIG * 200)
        deadline = time.monotonic() + 10
        while server.metric("dnsd_tcp_connections_open") > 5 and time.monotonic() < deadline:
            grown = max(grown, server.grown)
            time.sleep(0.1)
        assert server.metric('dnsd_tcp_closed_total{reason="stalled"') - closed == number
    print(f"{number} clients: {grown:.1f} MiB")
    assert grown < ALL
    server.left()


# --- real clients -----------------------------------------------------------------------------------------------------


@pytest.mark.needs("kdig")
def test_kdig_over_tls(server: Tortured, run: Callable[..., str]) -> None:
    found = run("kdig", "@127.0.0.1", "-p", str(server.tls_port), "+tls", "+padding", "+ednsopt=11", "+norec",
                "static.demo.example", "A")
    assert "192.0.2.81" in found
    assert re.search(r"(?i)padding", found)
    assert "Received 468 B" in found, "RFC 8467: a block"
    assert re.search(r"(?i)option \(11\): 0064|keepalive: 10", found), "RFC 7828: ten seconds"
    plain = run("kdig", "@127.0.0.1", "-p", str(server.tls_port), "+tls", "+nopadding", "+norec", "static.demo.example")
    assert "192.0.2.81" in plain
    assert "468 B" not in plain


@pytest.mark.needs("kdig")
def test_kdig_holds_the_certificate_to_its_name(server: Tortured, run: Callable[..., str]) -> None:
    chain = server.settings["tls"]["certificate"]
    found = run("kdig", "@127.0.0.1", "-p", str(server.tls_port), f"+tls-ca={chain}", "+tls-hostname=dnsd.example",
                "+norec", "static.demo.example")
    assert "192.0.2.81" in found


def test_dig_keeps_its_connection(server: Tortured) -> None:
    accepted = server.metric("dnsd_tcp_connections_total")
    found = server.dig("+tcp", "+keepopen", "+keepalive", "static.demo.example", "A", "+tcp", "+keepopen", "+keepalive",
                       "ns1.demo.example", "A")
    assert "192.0.2.81" in found
    assert "192.0.2.53" in found
    assert len(re.findall(r"TCP.KEEPALIVE: 10\.0 secs", found)) == 2
    assert server.metric("dnsd_tcp_connections_total") == accepted + 1


@pytest.mark.needs("openssl")
def test_openssl_agrees_on_dot(server: Tortured, run: Callable[..., str]) -> None:
    for version, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
        found = run("openssl", "s_client", "-connect", f"127.0.0.1:{server.tls_port}", "-alpn", "dot", version,
                    "-CAfile", server.settings["tls"]["certificate"])
        assert "ALPN protocol: dot" in found
        assert "Verify return code: 0 (ok)" in found
        assert name in found


@pytest.mark.needs("kdig")
def test_a_balancer_speaks_for_its_client(server: Tortured, run: Callable[..., str]) -> None:
    words = ("@127.0.0.1", "-p", str(server.port), "+tcp", "+norec", "static.demo.example", "A")
    header = "+proxy=192.0.2.7#4711-127.0.0.1#53"
    assert "192.0.2.81" in run("kdig", "-b", "127.0.77.1", header, *words)
    closed = server.metric('dnsd_tcp_closed_total{reason="proxy"')
    assert "192.0.2.81" not in run("kdig", "-b", "127.0.77.1", "+retry=0", *words, check=False), "no header"
    assert server.metric('dnsd_tcp_closed_total{reason="proxy"') > closed
    assert "192.0.2.81" not in run("kdig", "-b", "127.0.78.1", "+retry=0", header, *words, check=False), "not listed"


def test_a_certificate_is_replaced_while_serving(server: Tortured, tmp_path: Path) -> None:
    """The last test here: the node has another certificate afterwards."""
    def shown() -> bytes:
        return ssl.get_server_certificate(("127.0.0.1", server.tls_port)).encode()

    def reads(outcome: str) -> int:
        return server.metric(f'dnsd_certificate_reads_total{{outcome="{outcome}"')

    home = Path(server.settings["tls"]["certificate"]).parent
    old = shown()
    certificates.put(home / "cert.pem", b"torn")
    until(lambda: reads("bad") == 1, 5, "it is looked at")
    assert shown() == old
    certificates.write(home, serial=2)
    until(lambda: shown() != old, 5, "the new one is used")
    assert shown().split() == (home / "cert.pem").read_bytes().split()
    assert server.tail().count("cannot be used") == 1


@pytest.fixture(scope="module")
def run() -> Callable[..., str]:
    """What a program prints."""
    def run(*command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run
