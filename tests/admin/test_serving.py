"""Sockets and TLS: plain HTTP stays on this machine."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dnsd.admin import app, listening
from tests.admin.conftest import bearer
from tests.admin.fake import FakeControl, filled


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dnsd")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256()))
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


def make() -> web.Application:
    return app.make(FakeControl(filled()))


async def health(scheme: str, sock: socket.socket, tls: ssl.SSLContext | bool = True) -> int:
    connector = aiohttp.TCPConnector(ssl=tls)
    url = f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/healthz"
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        return response.status


@pytest.mark.asyncio
async def test_loopback_speaks_http(listener: socket.socket) -> None:
    runner = await listening.start(make(), [listener])
    assert await health("http", listener) == 200
    await runner.cleanup()


@pytest.mark.asyncio
async def test_other_addresses_speak_tls_only(
    listener: socket.socket, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "is_loopback", lambda address: False)
    with pytest.raises(ValueError, match="only with TLS"):
        await listening.start(make(), [listener])
    runner = await listening.start(make(), [listener], certificate=certificate[0], key=certificate[1])
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    assert await health("https", listener, trusting) == 200
    with pytest.raises(aiohttp.ClientError):
        await health("http", listener)
    await runner.cleanup()


@pytest.mark.asyncio
async def test_a_certificate_that_is_none_is_refused(
    listener: socket.socket, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "is_loopback", lambda address: False)
    with pytest.raises(ssl.SSLError):
        await listening.start(make(), [listener], certificate=certificate[1], key=certificate[1])
    with pytest.raises(FileNotFoundError):
        await listening.start(make(), [listener], certificate=Path("/nowhere"), key=certificate[1])


@pytest.mark.asyncio
async def test_a_unix_socket_is_this_machine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "admin"))
        sock.listen()
        runner = await listening.start(make(), [sock])
        connector = aiohttp.UnixConnector(str(tmp_path / "admin"))
        url = "http://local/metrics"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
            assert response.status == 200
        await runner.cleanup()


@pytest.mark.parametrize(("sent", "answered"), [
    (b"\x16\x03\x01nothing\r\n\r\n", b" 400 "),
    (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b" 400 "),
    (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b" 400 "),
    (b"POST /v1/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 9\r\n\r\n{", b""),
])
@pytest.mark.asyncio
async def test_what_a_client_breaks_is_no_traceback(
    listener: socket.socket, caplog: pytest.LogCaptureFixture, sent: bytes, answered: bytes,
) -> None:
    runner = await listening.start(make(), [listener])
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(sent.replace(b"%b", bearer("root").encode()))
    if answered:
        assert answered in await reader.readline()
    else:
        await asyncio.sleep(0.05)  # until it is being read
    writer.transport.abort()
    while runner.server is not None and runner.server.connections:
        await asyncio.sleep(0.01)
    await runner.cleanup()
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.asyncio
async def test_connections_are_bounded(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "connections_max", lambda: 2)
    runner = await listening.start(make(), [listener])
    address = listener.getsockname()
    held = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        held.append(writer)
    reader, refused = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    for writer in (*held, refused):
        writer.close()
        await writer.wait_closed()
    while runner.server and runner.server.connections:
        await asyncio.sleep(0)
    assert await health("http", listener) == 200
    await runner.cleanup()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


@pytest.mark.parametrize(("soft", "expected"), [(1024, 768), (100, 16), (10**6, listening.CONNECTIONS_MAX), (-1, 4096)])
def test_descriptors_are_left_for_the_store(soft: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening.resource, "getrlimit", lambda _: (soft, soft))
    assert listening.connections_max() == expected
