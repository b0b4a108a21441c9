"""Probes of real listeners on loopback: each way to be well, each way to be ill, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from dnsd.watch import probe_tls
from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.probe import begin, probe
from dnsd.watch.target import Check
from tests import certificates
from tests.watch.listeners import Answer, black_hole, tcp, udp

HERE = b"\x7f\0\0\1"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SETTINGS, GOAWAY = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\7\0\0\0\0\0" + bytes(8)
RST = struct.pack("ii", 1, 0)


def says(*steps: bytes | float | None) -> Answer:
    return lambda _: list(steps)


async def ask(check: Check, timeout_s: float = 1.0, address: bytes = HERE) -> Outcome:
    outcome = await probe(check, address, timeout_s)
    assert outcome.ok == (outcome.reason is Reason.OK)
    return outcome


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.asyncio
async def test_tcp() -> None:
    async with tcp() as target:
        outcome = await ask(Check("tcp", target.port))
    assert outcome.ok
    assert 0 < outcome.connect_ms == outcome.handshake_ms <= outcome.total_ms < 500
    gone = await ask(Check("tcp", target.port))
    assert gone.reason is Reason.REFUSED
    assert gone.handshake_ms == 0 < gone.total_ms


@pytest.mark.asyncio
async def test_ipv6() -> None:
    async with tcp(says(PLAIN), host="::1") as target:
        outcome = await ask(Check("http", target.port), address=bytes(15) + b"\1")
    assert outcome.ok
    assert b"\r\nHost: [::1]:%d\r\n" % target.port in target.requests[0]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["tcp", "http", "https", "tls", "grpc"])
async def test_a_black_hole_is_told_by_the_deadline(kind: str) -> None:
    async with black_hole() as port:
        began = time.monotonic()
        outcome = await ask(Check(kind, port, verify=False), 0.3)  # type: ignore[arg-type]
        assert outcome.reason is Reason.TIMEOUT
        assert 0.3 <= time.monotonic() - began < 0.5
        assert outcome.connect_ms == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["http", "https", "tls", "grpc"])
async def test_silence_is_told_by_the_deadline(kind: str) -> None:
    async with tcp() as target:
        outcome = await ask(Check(kind, target.port, verify=False), 0.1)  # type: ignore[arg-type]
    assert outcome.reason is Reason.TIMEOUT
    assert outcome.connect_ms > 0


@pytest.mark.asyncio
@pytest.mark.parametrize(("steps", "reason", "check"), [
    ((PLAIN,), Reason.OK, {}),
    ((b"HTTP/1.0 204 No Content\r\n\r\n",), Reason.OK, {}),
    ((b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",), Reason.OK, {}),
    ((b"HTTP/1.1 302 Found\r\n\r\n",), Reason.STATUS, {"status": (200, 299)}),
    ((b"HTTP/1.1 500 Oh\r\n\r\n",), Reason.STATUS, {}),
    ((b"HTT", 0.01, b"P/1.1 2", 0.01, b"00 OK\r\n"), Reason.OK, {}),
    ((b"HTTP/1.1 200 OK\r\nX: ok\r\n\r\nno",), Reason.TEXT, {"text": b"ok"}),
    ((b"HTTP/1.1 200 OK\r\n\r\nall is ", 0.01, b"ok"), Reason.OK, {"text": b"is ok"}),
    ((b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 5000 + b"ok", 9.0), Reason.TEXT, {"text": b"ok"}),
    ((b"HTTP/1.1 200 OK\r\nX: " + b"a" * 5000, 9.0), Reason.TOO_LONG, {"text": b"ok"}),
    ((b"",), Reason.CLOSED, {}),
    ((b"HTTP/1.1 20",), Reason.CLOSED, {}),
    ((None,), Reason.CLOSED, {}),
    ((b"SSH-2.0-OpenSSH_9\r\n",), Reason.PROTOCOL, {}),
    ((b"\x15\x03\x01\x00\x02\x02\x46",), Reason.PROTOCOL, {}),
])
async def test_http(steps: tuple[bytes | float | None, ...], reason: Reason, check: dict[str, object]) -> None:
    async with tcp(says(*steps)) as target:
        outcome = await ask(Check("http", target.port, "/x", "api.example.com", **check))  # type: ignore[arg-type]
    assert outcome.reason is reason
    assert target.connections == 1, "never a second connection: no redirect is followed"
    head = target.requests[0].split(b"\r\n")
    assert head[:2] == [b"GET /x HTTP/1.1", b"Host: api.example.com:%d" % target.port]


@pytest.mark.asyncio
async def test_reset_in_the_middle() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(ask(Check("http", listener.getsockname()[1])))
    listener.setblocking(False)
    one, _ = await loop.sock_accept(listener)
    await loop.sock_recv(one, 100)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    one.close()
    listener.close()
    assert (await running).reason is Reason.RESET


@pytest.mark.asyncio
async def test_a_drip_of_octets_ends_early() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.0005)
        except OSError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    outcome = await ask(Check("http", server.sockets[0].getsockname()[1], text=b"ok"), 5.0)
    assert outcome.reason is Reason.TOO_LONG
    server.close()
    await asyncio.sleep(0.05)


@pytest.fixture
def server_tls(tmp_path: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*certificates.write(tmp_path))
    return made


@pytest.fixture
def trusted(server_tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's certificate is in the system's store."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    probe_tls.context.cache_clear()
    yield
    probe_tls.context.cache_clear()


@pytest.mark.asyncio
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("host", "verify", "reason"), [
    ("dnsd.example", True, Reason.OK),
    ("dnsd.example.", True, Reason.OK),
    ("", True, Reason.OK),  # the certificate is for 127.0.0.1 too
    ("other.example", True, Reason.CERTIFICATE),
    ("other.example", False, Reason.OK),
])
@pytest.mark.parametrize("kind", ["tls", "https"])
async def test_certificates(server_tls: ssl.SSLContext, host: str, verify: bool, reason: Reason, kind: str) -> None:
    async with tcp(says(PLAIN), secure=server_tls) as target:
        outcome = await ask(Check(kind, target.port, host=host, verify=verify))  # type: ignore[arg-type]
    assert outcome.reason is reason
    if outcome.ok:
        assert outcome.connect_ms < outcome.handshake_ms <= outcome.total_ms


@pytest.mark.asyncio
async def test_a_certificate_nobody_vouches_for(server_tls: ssl.SSLContext) -> None:
    probe_tls.context.cache_clear()
    async with tcp(secure=server_tls) as target:
        assert (await ask(Check("tls", target.port, host="dnsd.example"))).reason is Reason.CERTIFICATE


@pytest.mark.asyncio
@pytest.mark.parametrize(("steps", "reason"), [
    ((PLAIN,), Reason.TLS), ((b"",), Reason.CLOSED), ((b"\x15\x03\x03\x00\x02\x02\x28",), Reason.TLS),
    ((b"\x16\x03\x03\xff\xff" + bytes(70_000), 9.0), Reason.TLS),
])
async def test_what_is_no_tls(steps: tuple[bytes | float | None, ...], reason: Reason) -> None:
    async with tcp(says(*steps)) as target:
        assert (await ask(Check("tls", target.port, verify=False))).reason is reason


@pytest.mark.asyncio
@pytest.mark.parametrize(("steps", "reason"), [
    ((PLAIN,), Reason.OK), ((b"HTTP/1.1 503 No\r\n\r\n",), Reason.STATUS), ((b"nonsense at length",), Reason.PROTOCOL),
    ((b"H", b"TTP/1.1 2"), Reason.CLOSED),
])
async def test_https(server_tls: ssl.SSLContext, steps: tuple[bytes, ...], reason: Reason) -> None:
    async with tcp(says(*steps), secure=server_tls) as target:
        assert (await ask(Check("https", target.port, verify=False))).reason is reason


@pytest.mark.asyncio
async def test_a_body_over_tls_is_read_no_further_either(server_tls: ssl.SSLContext) -> None:
    async with tcp(says(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 20_000 + b"ok", 9.0), secure=server_tls) as target:
        assert (await ask(Check("https", target.port, verify=False, text=b"ok"))).reason is Reason.TEXT


def healthy(status: bytes) -> bytes:
    message = b"\0" + len(status).to_bytes(4, "big") + status
    return SETTINGS + b"\0\0\1\1\4\0\0\0\1\x88" + len(message).to_bytes(3, "big") + b"\0\0\0\0\0\1" + message


@pytest.mark.asyncio
@pytest.mark.parametrize(("alpn", "reason"), [("h2", Reason.OK), ("http/1.1", Reason.PROTOCOL)])
async def test_grpc_over_tls(server_tls: ssl.SSLContext, alpn: str, reason: Reason) -> None:
    server_tls.set_alpn_protocols([alpn])
    async with tcp(says(healthy(b"\x08\1")), secure=server_tls) as target:
        assert (await ask(Check("grpc", target.port, tls=True, verify=False))).reason in (reason, Reason.TLS)
        assert (await ask(Check("grpc", target.port, tls=True, verify=False))).ok == (alpn == "h2")


@pytest.mark.asyncio
@pytest.mark.parametrize(("steps", "reason"), [
    ((healthy(b"\x08\1"),), Reason.OK), ((healthy(b"\x08\2"),), Reason.NOT_SERVING),
    ((SETTINGS + GOAWAY,), Reason.CLOSED), ((SETTINGS,), Reason.CLOSED), ((PLAIN,), Reason.PROTOCOL),
])
async def test_grpc(steps: tuple[bytes, ...], reason: Reason) -> None:
    async with tcp(says(*steps)) as target:
        assert (await ask(Check("grpc", target.port))).reason is reason


def reply(query: bytes, rcode: int = 0, text: str = "") -> dns.message.Message:
    answer = dns.message.make_response(dns.message.from_wire(query))
    answer.set_rcode(dns.rcode.Rcode(rcode))
    if text:
        answer.answer.append(dns.rrset.from_text("example.com.", 5, "IN", "A", text))
    return answer


@pytest.mark.asyncio
@pytest.mark.parametrize(("text", "rcode", "reason"), [
    (b"", 0, Reason.OK), (b"", 2, Reason.RCODE), (b"", 5, Reason.RCODE), (b"", 3, Reason.RCODE),
    (b"192.0.2.1", 0, Reason.OK), (b"192.0.2.9", 0, Reason.TEXT),
])
async def test_dns(text: bytes, rcode: int, reason: Reason) -> None:
    async with udp(lambda query: [reply(query, rcode, "192.0.2.1").to_wire()]) as target:
        outcome = await ask(Check("dns", target.port, qname="Example.com", qtype=1, text=text))
    assert outcome.reason is reason
    if outcome.ok:
        assert outcome.handshake_ms == outcome.connect_ms == outcome.total_ms > 0
    asked = dns.message.from_wire(target.requests[0])
    assert str(asked.question[0]) == "Example.com. IN A"


@pytest.mark.asyncio
async def test_dns_replies_that_are_not_ours_are_left() -> None:
    def answers(query: bytes) -> list[bytes]:
        good = reply(query).to_wire()
        other = dns.message.make_query("other.example", "A")
        other.id = dns.message.from_wire(query).id
        bad = reply(query, 2).to_wire()
        return [b"", b"\0", query, bytes((bad[0] ^ 1,)) + bad[1:], reply(other.to_wire(), 2).to_wire(), good]

    async with udp(answers) as target:
        assert (await ask(Check("dns", target.port))).ok


@pytest.mark.asyncio
async def test_dns_silence_refusal_and_floods() -> None:
    async with udp(lambda query: []) as target:
        assert (await ask(Check("dns", target.port), 0.1)).reason is Reason.TIMEOUT
    assert (await ask(Check("dns", target.port))).reason is Reason.REFUSED
    async with udp(lambda query: [bytes(4000)] * 40) as target:
        assert (await ask(Check("dns", target.port))).reason is Reason.TOO_LONG
    async with udp(lambda query: [b"x"] * 300) as target:
        assert (await ask(Check("dns", target.port))).reason is Reason.TOO_LONG


@pytest.mark.asyncio
@pytest.mark.parametrize(("check", "address"), [
    (Check("tcp", 80), b""), (Check("tcp", 80), b"12345"), (Check("tcp", 99_999), HERE),
    (Check("http", 80, host="\N{SNOWMAN}"), HERE), (Check("https", 80, host=".a"), HERE),
    (Check("https", 80, host="a" * 300), HERE), (Check("dns", 80, qname="a" * 70), HERE),
    (Check("tcp", 80), b"\xff\xff\xff\xff"),  # broadcast: the kernel forbids it
])
async def test_what_cannot_be_asked_is_our_fault(check: Check, address: bytes) -> None:
    outcome = await ask(check, address=address)
    assert outcome.reason in (Reason.LOCAL, Reason.NO_ROUTE)
    assert outcome.ours


@pytest.mark.asyncio
async def test_without_descriptors_or_routes_nothing_is_said_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dnsd.watch.probe.socket.socket", lambda *_: (_ for _ in ()).throw(OSError(24, "too many")))
        assert (await ask(Check("tcp", 80))).ours
    outcome = await ask(Check("tcp", 80), 0.05, bytes.fromhex("fec0") + bytes(14))
    assert outcome.ours or outcome.reason in (Reason.TIMEOUT, Reason.UNREACHABLE)


@pytest.mark.asyncio
async def test_a_connection_that_does_not_come_ends_it_sooner_and_one_that_came_has_all_its_time() -> None:
    loop = asyncio.get_running_loop()
    async with black_hole() as port:
        lost: asyncio.Future[Outcome] = loop.create_future()
        running = begin(Check("http", port), HERE, 5.0, lost.set_result, 0.1)
        outcome = await lost
        assert not running.connected
    assert outcome.reason is Reason.TIMEOUT
    assert 100 <= outcome.total_ms < 1000
    async with tcp(says(0.3, PLAIN)) as target:
        found: asyncio.Future[Outcome] = loop.create_future()
        running = begin(Check("http", target.port), HERE, 5.0, found.set_result, 0.1)
        await asyncio.sleep(0.15)
        assert running.connected
        outcome = await found
    assert outcome.ok
    assert outcome.total_ms >= 300


@pytest.mark.asyncio
async def test_a_loop_that_stood_still_blames_nobody() -> None:
    async with tcp() as target:
        results: list[Outcome] = []
        begin(Check("http", target.port), HERE, 0.1, results.append)
        await asyncio.sleep(0.02)
        time.sleep(0.3)  # the loop stands still
        await asyncio.sleep(0.02)
    assert [one.reason for one in results] == [Reason.BUSY]


@pytest.mark.asyncio
async def test_cancelling_lets_go() -> None:
    async with tcp() as target:
        running = asyncio.create_task(probe(Check("http", target.port), HERE, 5.0))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.asyncio
async def test_no_name_is_ever_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_: object) -> None:
        raise AssertionError("a name was looked up")

    for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "getfqdn"):
        monkeypatch.setattr(socket, name, looked_up)
    async with tcp(says(PLAIN)) as target:
        assert (await ask(Check("http", target.port, host="rebinding.example"))).ok


@pytest.mark.asyncio
async def test_a_socket_that_meets_itself_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    real = socket.socket.connect_ex

    def bound(sock: socket.socket, peer: tuple[str, int]) -> int:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return real(sock, peer)

    monkeypatch.setattr(socket.socket, "connect_ex", bound)
    assert (await ask(Check("tcp", port))).reason is Reason.REFUSED
