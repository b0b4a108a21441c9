"""Sockets: what is bound, what the wildcard stands for, and what is said when it cannot be had."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from dnsd import sockets
from dnsd.sockets import Address, BindError

BOTH = [("127.0.0.1", 0), ("::1", 0)]


def test_workers_share_what_was_claimed() -> None:
    claimed = sockets.claim(BOTH)
    assert [host for host, _ in claimed] == ["127.0.0.1", "::1"]
    assert all(port for _, port in claimed)
    first, second = sockets.bind(claimed), sockets.bind(claimed)
    try:
        for bound in (first, second):
            assert [sock.getsockname()[:2] for sock in bound.udp] == claimed
            assert [sock.getsockname()[:2] for sock in bound.tcp] == claimed
            for sock in (*bound.udp, *bound.tcp):
                assert not sock.getblocking()
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            assert bound.udp[1].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            assert bound.udp[0].getsockopt(socket.IPPROTO_IP, 10) == 3, "IP_MTU_DISCOVER is IP_PMTUDISC_PROBE"
            assert bound.udp[1].getsockopt(socket.IPPROTO_IPV6, 23) == 5, "IPV6_MTU_DISCOVER likewise"
            for sock in bound.tcp:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_what_somebody_has_is_not_claimed(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "CLAIM_SECONDS", 0.0)
    with socket.socket(socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        taken: Address = other.getsockname()
        with pytest.raises(BindError) as caught:
            sockets.claim([taken, ("192.0.2.254", 5300), ("127.0.0.1", 0)])
    assert caught.value.faults == [
        (f"127.0.0.1:{taken[1]}", "somebody else listens there already"),
        ("192.0.2.254:5300", "not an address of this machine")]


def test_a_predecessor_may_take_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("127.0.0.1", 0))
    monkeypatch.setattr(sockets.time, "sleep", lambda seconds: other.close())
    address: Address = other.getsockname()
    assert sockets.claim([address]) == [address]


def test_the_wildcard_is_every_address_of_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {4: ["127.0.0.1", "127.0.0.2"], 6: ["::1"]}
    monkeypatch.setattr(sockets, "machine_addresses", machine.__getitem__)
    port = sockets.claim([("127.0.0.1", 0)])[0][1]
    assert sockets.claim([("0.0.0.0", port), ("127.0.0.2", port), ("::", port)]) == [
        ("127.0.0.1", port), ("127.0.0.2", port), ("::1", port)]


def test_the_machines_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "127.0.0.1" in sockets.machine_addresses(4)
    monkeypatch.setattr(sockets, "_IF_INET6", tmp_path / "if_inet6")
    assert sockets.machine_addresses(6) == []
    (tmp_path / "if_inet6").write_text("""\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000001 02 40 00 80     eth0
20010db8000000000000000000000002 02 40 00 48     eth0
fe800000000000000000000000000001 02 40 20 80     eth0
""")
    assert sockets.machine_addresses(6) == ["::1", "2001:db8::1"]


def test_without_ipv6_its_loopback_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = sockets._bare

    def no_ipv6(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return honest(family, kind)

    monkeypatch.setattr(sockets, "_bare", no_ipv6)
    assert [host for host, _ in sockets.claim(BOTH)] == ["127.0.0.1"]
    with pytest.raises(BindError, match=r"\[2001:db8::1\]:53: Address family not supported"):
        sockets.claim([("127.0.0.1", 0), ("2001:db8::1", 53)])
    with pytest.raises(BindError, match="none of the addresses"):
        sockets.claim([("::1", 53)])


def test_admin_sockets_are_shared_with_nobody() -> None:
    [sock] = sockets.listen([("127.0.0.1", 0)])
    with sock:
        with pytest.raises(BindError, match="somebody else listens there already"):
            sockets.listen([("127.0.0.1", 0), sock.getsockname()])
        with socket.create_connection(sock.getsockname(), timeout=2):
            pass


@pytest.mark.parametrize(("number", "expected"), [
    (errno.EACCES, "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE"), (errno.ENETDOWN, "Network is down")])
def test_reasons(number: int, expected: str) -> None:
    assert sockets.reason(OSError(number, "Network is down")) == expected
