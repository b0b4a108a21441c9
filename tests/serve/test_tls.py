"""DNS over TLS: sessions however they are cut, broken off or abused, and the certificate's files; on both loops."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.message
import pytest
from cryptography import x509

from dnsd import metrics
from dnsd.serve import tls, turn
from dnsd.serve.crowd import Limits
from dnsd.serve.tls import Certificate, SecureConnection
from tests import certificates
from tests.serve.doors import Rig, Streams, ended, framed, large, numbered, reply, run, until
from tests.serve.samples import addresses, counters, query


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificates.write(tmp_path_factory.mktemp("pair"))


def client_context(version: ssl.TLSVersion | None = None, protocols: list[str] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


class Session:
    """A client whose records go out when and how the test wants."""

    def __init__(self, streams: Streams, context: ssl.SSLContext | None = None) -> None:
        self.reader, self.writer = streams
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(self.inward, self.outward)

    async def do(self, step: Callable[..., Any], *values: Any) -> Any:
        """A step of the session, with as many octets of the server's as it takes."""
        while True:
            try:
                return step(*values)
            except ssl.SSLWantReadError:
                self.flush()
                data = await self.reader.read(65536)
                if data:
                    self.inward.write(data)
                else:
                    self.inward.write_eof()
            finally:
                self.flush()

    def flush(self) -> None:
        if self.outward.pending:
            self.writer.write(self.outward.read())

    async def reply(self) -> bytes:
        data = b""
        while len(data) < 2 or len(data) < 2 + struct.unpack(">H", data[:2])[0]:
            data += await self.do(self.tls.read, 65536)
        return data[2:]


async def shaken(rig: Rig, context: ssl.SSLContext | None = None) -> Session:
    session = Session(await rig.connect(), context)
    await session.do(session.tls.do_handshake)
    return session


# --- what a client gets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("offered", "chosen"), [(["dot"], "dot"), (["h2", "dot"], "dot"), (["h2"], None), ([], None)])
def test_a_query_is_answered(
        loop: str, pair: tuple[str, str], version: ssl.TLSVersion, offered: list[str], chosen: str | None) -> None:
    async def scenario(rig: Rig) -> None:
        session = await shaken(rig, client_context(version, offered))
        assert session.tls.selected_alpn_protocol() == chosen
        for name in ("www.demo.example", "www.demo.example"):
            session.tls.write(framed(query(name)))
            session.flush()
            assert addresses(await session.reply()) == ["192.0.2.80"]
        assert await session.do(session.tls.unwrap) is None

    rig = run(loop, scenario, pair=pair)
    assert rig.closed() == {"client": 1}
    assert rig.count[metrics.QUERIES_TLS] == rig.count[metrics.RESPONSES_TLS] == 2
    assert rig.count[metrics.TLS_HANDSHAKES] == 1
    assert rig.count[metrics.QUERIES_TCP] == rig.count[metrics.TCP_ACCEPTED] == 0


def test_answers_are_padded_for_who_asks(loop: str, pair: tuple[str, str]) -> None:
    padding = dns.edns.GenericOption(12, bytes(3))
    asking = dns.message.make_query("www.demo.example", "A", use_edns=0, options=[padding]).to_wire()

    async def scenario(rig: Rig) -> None:
        session = await shaken(rig)
        for wire, blocks in ((asking, True), (query("www.demo.example"), False)):
            session.tls.write(framed(wire))
            session.flush()
            found = await session.reply()
            assert (len(found) % 468 == 0) == blocks, "RFC 8467 §4.1"

    run(loop, scenario, pair=pair)


@pytest.mark.usefixtures("echo")
def test_asyncios_own_client(loop: str, pair: tuple[str, str]) -> None:
    number = 3000

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect(ssl=client_context(), server_hostname="dnsd.example")
        writer.write(framed(*map(numbered, range(number))))
        for i in range(number):
            assert await reply(reader) == numbered(i)
        writer.close()

    assert run(loop, scenario, pair=pair).count[metrics.QUERIES_TLS] == number


@pytest.mark.usefixtures("echo")
def test_one_octet_at_a_time(loop: str, pair: tuple[str, str]) -> None:
    async def scenario(rig: Rig) -> None:
        streams = await rig.connect()
        streams[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(streams)

        async def trickle() -> None:
            for octet in session.outward.read():
                streams[1].write(bytes([octet]))
                await asyncio.sleep(0)

        with suppress(ssl.SSLWantReadError):
            session.tls.do_handshake()
        await trickle()
        session.inward.write(await streams[0].read(65536))
        await session.do(session.tls.do_handshake)
        session.tls.write(framed(numbered(1)) + framed(numbered(2))[:3])
        session.tls.write(framed(numbered(2))[3:])
        await trickle()
        found = b""
        while len(found) < 32:
            found += await session.do(session.tls.read, 65536)
        assert found == framed(numbered(1), numbered(2))

    run(loop, scenario, pair=pair)


@pytest.mark.usefixtures("echo")
def test_a_client_that_has_asked_all_still_gets_its_answers(loop: str, pair: tuple[str, str]) -> None:
    number = 1000  # more than one turn

    async def scenario(rig: Rig) -> None:
        session = await shaken(rig)
        session.tls.write(framed(*map(numbered, range(number))))
        with suppress(ssl.SSLWantReadError):
            session.tls.unwrap()  # close_notify, then nothing more
        session.flush()
        session.writer.write_eof()
        found = b""
        with suppress(ssl.SSLZeroReturnError):
            while len(found) < 16 * number:
                found += await session.do(session.tls.read, 65536)
        assert found == framed(*map(numbered, range(number)))

    assert run(loop, scenario, pair=pair).closed() == {"client": 1}


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed(loop: str, pair: tuple[str, str], version: ssl.TLSVersion) -> None:
    context = client_context(version)

    async def scenario(rig: Rig) -> None:
        first = await shaken(rig, context)
        first.tls.write(framed(numbered(1)))
        assert await first.reply() == numbered(1)
        again = Session(await rig.connect())
        again.tls = context.wrap_bio(again.inward, again.outward, session=first.tls.session)
        await again.do(again.tls.do_handshake)
        again.tls.write(framed(numbered(2)))
        assert await again.reply() == numbered(2)

    rig = run(loop, scenario, pair=pair)
    assert (rig.count[metrics.TLS_HANDSHAKES], rig.count[metrics.TLS_RESUMED]) == (1, 1)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(loop: str, pair: tuple[str, str]) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def scenario(rig: Rig) -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)version"):
            await shaken(rig, context)
        await until(lambda: not len(rig.crowd))

    assert run(loop, scenario, pair=pair).closed() == {"handshake": 1}


# --- what nobody should send ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [
    framed(query("www.demo.example")), b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(200),
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"])
def test_what_is_no_tls_ends_in_an_alert(loop: str, pair: tuple[str, str], octets: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(octets)
        found = b""
        with suppress(ConnectionResetError):
            found = await reader.read()
        assert found[:1] in (b"\x15", b"")
        assert len(found) < 20

    rig = run(loop, scenario, pair=pair)
    assert rig.closed() == {"handshake": 1}
    assert rig.count[metrics.QUERIES_TLS] == 0


@pytest.mark.parametrize("reset", [False, True])
def test_a_handshake_broken_off_anywhere(loop: str, pair: tuple[str, str], reset: bool) -> None:
    """At each octet of the client's first flight, and of its second: closed or reset."""
    async def scenario(rig: Rig) -> None:
        async def leave(cut: int, second: bool) -> int:
            streams = await rig.connect()
            session = Session(streams)
            with suppress(ssl.SSLWantReadError):
                session.tls.do_handshake()
            if second:
                session.flush()
                while True:
                    session.inward.write(await streams[0].read(65536))
                    with suppress(ssl.SSLWantReadError):
                        session.tls.do_handshake()
                        break
            flight = session.outward.read()
            streams[1].write(flight[:cut])
            await asyncio.sleep(0.0005)
            if reset:
                streams[1].get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                streams[1].transport.abort()
            else:
                streams[1].close()
            return len(flight)

        for second in (False, True):
            size = await leave(0, second)
            for cut in range(1, size, 5):
                await leave(cut, second)
        await until(lambda: not len(rig.crowd))

    rig = run(loop, scenario, pair=pair)
    assert rig.closed().keys() <= {"client", "error", "handshake"}
    assert rig.closed()["handshake"] > 80
    assert rig.count[metrics.TLS_HANDSHAKES] == 0


def test_a_spoilt_record_ends_the_session(loop: str, pair: tuple[str, str]) -> None:
    async def scenario(rig: Rig) -> None:
        session = await shaken(rig)
        session.tls.write(framed(query("www.demo.example")))
        record = bytearray(session.outward.read())
        record[-1] ^= 1
        session.writer.write(bytes(record))
        with pytest.raises(ssl.SSLError):
            await session.reply()

    rig = run(loop, scenario, pair=pair)
    assert rig.closed() == {"error": 1}
    assert rig.count[metrics.QUERIES_TLS] == 0


# --- limits -----------------------------------------------------------------------------------------------------------


async def _silent(rig: Rig, streams: Streams) -> None:
    rig.pass_time(4.9)
    assert len(rig.crowd) == 1
    rig.pass_time(0.2)


async def _half_shaken(rig: Rig, streams: Streams) -> None:
    session = Session(streams)
    with suppress(ssl.SSLWantReadError):
        session.tls.do_handshake()
    streams[1].write(session.outward.read()[:-1])
    await until(lambda: any(connection._session for connection in _secure(rig)))
    rig.pass_time(4.9)
    assert len(rig.crowd) == 1
    rig.pass_time(0.2)


async def _nothing_asked(rig: Rig, streams: Streams) -> None:
    session = Session(streams)
    rig.pass_time(4)
    await session.do(session.tls.do_handshake)
    await until(lambda: rig.count[metrics.TLS_HANDSHAKES] == 1)
    rig.pass_time(4.9)
    assert len(rig.crowd) == 1
    rig.pass_time(0.2)


async def _idle(rig: Rig, streams: Streams) -> None:
    session = Session(streams)
    await session.do(session.tls.do_handshake)
    session.tls.write(framed(numbered(1)))
    assert await session.reply() == numbered(1)
    rig.pass_time(9.9)
    assert len(rig.crowd) == 1
    rig.pass_time(0.2)
    with pytest.raises(ssl.SSLZeroReturnError):  # it says goodbye
        await session.do(_must_read, session.tls)


def _must_read(session: ssl.SSLObject) -> bytes:
    data = session.read(65536)
    if not data:
        raise ssl.SSLZeroReturnError
    return data


def _secure(rig: Rig) -> list[SecureConnection]:
    return [connection for connection in rig.connections() if isinstance(connection, SecureConnection)]


@pytest.mark.parametrize(("behaviour", "reason"), [
    (_silent, "first_query"), (_half_shaken, "handshake"), (_nothing_asked, "first_query"), (_idle, "idle")])
@pytest.mark.usefixtures("echo")
def test_time_limits(loop: str, pair: tuple[str, str], behaviour: Callable[..., Any], reason: str) -> None:
    async def scenario(rig: Rig) -> None:
        streams = await rig.connect()
        await until(lambda: len(rig.crowd) == 1)
        await behaviour(rig, streams)
        with suppress(ConnectionResetError):
            await streams[0].read()
        await until(lambda: not len(rig.crowd))

    assert run(loop, scenario, pair=pair).closed() == {reason: 1}


def test_a_client_that_never_reads_holds_little_and_not_for_long(
        loop: str, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    size, number = 30_000, 3000
    large(monkeypatch, size)

    async def scenario(rig: Rig) -> None:
        session = Session(await rig.connect(receive=4096))
        await session.do(session.tls.do_handshake)
        session.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session.tls.write(framed(*map(numbered, range(number))))
        session.flush()
        await until(rig.blocked)
        [connection] = _secure(rig)
        answered = rig.count[metrics.QUERIES_TLS]
        assert answered < 40, "reading went on although nothing was taken"
        assert connection._transport.get_write_buffer_size() <= turn.WRITE_AT + size + 1000
        await asyncio.sleep(0.05)
        assert rig.count[metrics.QUERIES_TLS] == answered
        rig.pass_time(rig.crowd.limits.stall_seconds + 0.1)
        assert connection not in rig.crowd

    assert run(loop, scenario, pair=pair).closed() == {"stalled": 1}


@pytest.mark.usefixtures("echo")
def test_sessions_that_are_not_shaken_hands_with_count(loop: str, pair: tuple[str, str]) -> None:
    async def scenario(rig: Rig) -> None:
        silent, _ = await rig.connect()
        await until(lambda: len(rig.crowd) == 1)
        session = await shaken(rig)
        await shaken(rig)
        assert await ended(silent)
        session.tls.write(framed(numbered(1)))
        assert await session.reply() == numbered(1)

    assert run(loop, scenario, Limits(connections=2), pair=pair).closed()["limit"] == 1


def test_few_handshakes_a_turn(loop: str, pair: tuple[str, str]) -> None:
    """Others get their turn of the loop between any few of them."""
    number, turns = 40, 0

    async def scenario(rig: Rig) -> None:
        nonlocal turns
        sessions = [Session(await rig.connect()) for _ in range(number)]
        await until(lambda: len(rig.crowd) == number)
        for session in sessions:
            with suppress(ssl.SSLWantReadError):
                session.tls.do_handshake()
            session.flush()
        most = 0
        while not all(connection._shaken is False and connection._session and not connection._waiting
                      for connection in _secure(rig)):
            before = _stepped(rig)
            await asyncio.sleep(0)
            most = max(most, _stepped(rig) - before)
        assert 0 < most <= tls.HANDSHAKES

    run(loop, scenario, pair=pair)


def _stepped(rig: Rig) -> int:
    return sum(connection._session is not None and not connection._waiting for connection in _secure(rig))


def test_draining(loop: str, pair: tuple[str, str]) -> None:
    async def scenario(rig: Rig) -> None:
        sessions = [await shaken(rig), Session(await rig.connect())]
        await until(lambda: len(rig.crowd) == 2)
        rig.crowd.drain()
        for session in sessions:
            with suppress(ConnectionResetError):
                await session.reader.read()
        await until(lambda: not len(rig.crowd))

    assert run(loop, scenario, pair=pair).closed() == {"drain": 2}


# --- the certificate --------------------------------------------------------------------------------------------------


class Files:
    """A pair of files, and what a worker has read of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = certificates.write(folder)
        self.count = counters()
        self.certificate = Certificate(*self.paths, self.count)

    def tick(self, number: int = 4) -> None:
        for _ in range(number):
            self.certificate.reload_if_changed()

    @property
    def reads(self) -> tuple[int, int]:
        return self.count[metrics.CERTIFICATE_LOADS], self.count[metrics.CERTIFICATE_ERRORS]

    @property
    def serial(self) -> int:
        """Of the certificate that a new session shows."""
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context().wrap_bio(inward, outward)
        assert self.certificate.context is not None
        server = self.certificate.context.wrap_bio(outward, inward, server_side=True)
        for side in (client, server, client):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        shown = client.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_new_pair_is_used(files: Files) -> None:
    files.tick()
    assert (files.reads, files.serial) == ((1, 0), 1)
    certificates.write(files.folder, serial=2)
    files.tick()
    assert (files.reads, files.serial) == ((2, 0), 2)
    files.tick()
    assert files.reads == (2, 0)


def test_files_replaced_one_after_the_other_are_no_fault(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    other = files.folder / "other"
    other.mkdir()
    for new, old in zip(certificates.write(other, serial=2), files.paths, strict=True):
        Path(new).replace(old)
        files.tick(1)
    files.tick()
    assert (files.reads, files.serial) == ((2, 0), 2)
    assert not capsys.readouterr().err


def test_a_link_that_is_turned(files: Files) -> None:
    for version in ("1", "2"):
        (files.folder / version).mkdir()
        certificates.write(files.folder / version, serial=10 + int(version))
    link = files.folder / "now"
    link.symlink_to("1")
    certificate = Certificate(str(link / "cert.pem"), str(link / "key.pem"), files.count)
    files.certificate = certificate
    assert files.serial == 11
    (files.folder / "next").symlink_to("2")
    (files.folder / "next").replace(link)
    files.tick()
    assert files.serial == 12


def _other_key(files: Files) -> None:
    (files.folder / "x").mkdir()
    Path(certificates.write(files.folder / "x")[1]).replace(files.paths[1])


def _torn(files: Files) -> None:
    Path(files.paths[0]).write_text("-----BEGIN CERTIFICATE-----\nMIIB")


def _gone(files: Files) -> None:
    Path(files.paths[1]).unlink()


def _locked(files: Files) -> None:
    certificates.write(files.folder, serial=3, password=b"secret")


def _pipe(files: Files) -> None:
    Path(files.paths[0]).unlink()
    os.mkfifo(files.paths[0])


@pytest.mark.parametrize("spoil", [_other_key, _torn, _gone, _locked, _pipe])
def test_a_bad_pair_is_said_once_and_the_old_one_stays(
        files: Files, capsys: pytest.CaptureFixture[str], spoil: Callable[[Files], None]) -> None:
    spoil(files)
    files.tick()
    assert (files.reads, files.serial) == ((1, 1), 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the old ones stay" in said
    assert "secret" not in said
    with suppress(FileNotFoundError):
        Path(files.paths[0]).unlink()
    certificates.write(files.folder, serial=5)
    files.tick()
    assert (files.reads, files.serial) == ((2, 1), 5)


def test_without_a_usable_pair_sessions_are_refused_until_there_is_one(
        loop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")

    async def scenario(rig: Rig) -> None:
        assert "waits for better ones" in capsys.readouterr().err
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await shaken(rig)
        certificates.write(tmp_path)
        for _ in range(3):
            rig.certificate.reload_if_changed()
        await shaken(rig)

    assert run(loop, scenario, pair=paths).closed()["handshake"] == 1
