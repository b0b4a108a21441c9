"""Making the sockets: bound once by the supervisor, before anything else, and inherited by workers and control.

Lives here: options, binding, which addresses the wildcard stands for, telling that somebody else has the port.
Does not live here: receiving and sending (`serve.mmsg`, asyncio), who gets which socket (`supervisor`).

Every worker has sockets of its own on the same addresses (SO_REUSEPORT) and the kernel spreads clients over them. The
same option lets any other process of this user share the port without a word, so a port is claimed first: bound once
without the option, which fails when anybody has it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from dnsd.model import Fault

Address = tuple[str, int]  # literal, port

UDP_RECEIVE: Final = 4 << 20
UDP_SEND: Final = 1 << 20
TCP_RECEIVE: Final = 32 << 10  # what one connection can make the kernel and one read hold
TCP_SEND: Final = 64 << 10
BACKLOG: Final = 1024
CLAIM_SECONDS: Final = 2.0  # a predecessor's workers may need a moment to notice that it is gone
# From linux/in.h, linux/in6.h and asm-generic/socket.h; the socket module has none of them.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE, _PMTUDISC_OMIT = 10, 23, 3, 5
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_SIOCGIFCONF: Final = 0x8912
_IF_INET6: Final = Path("/proc/self/net/if_inet6")


class BindError(Exception):
    """Not all addresses can be had; `faults` says for each why, place = the address."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in faults))
        self.faults = faults


class Bound(NamedTuple):
    """One worker's sockets: UDP and listening TCP ones for each address, listening ones for DNS over TLS."""

    udp: list[socket.socket]
    tcp: list[socket.socket]
    tls: list[socket.socket]

    def all(self) -> list[socket.socket]:
        """Every socket."""
        return [*self.udp, *self.tcp, *self.tls]

    def close(self) -> None:
        """Give them up: what is in their queues is lost, later queries go to the other workers."""
        for sock in self.all():
            sock.close()


def claim(addresses: Sequence[Address]) -> list[Address]:
    """The addresses to bind: wildcards expanded, port 0 chosen, each tried and found free. BindError names the others.

    IPv6 loopback is left out where the machine has no IPv6, so that the defaults work there.
    """
    wanted: list[Address] = []
    for host, port in addresses:
        hosts = machine_addresses(ip_address(host).version) if ip_address(host).is_unspecified else [host]
        wanted += [(each, port) for each in hosts if (each, port) not in wanted]
    claimed, faults = [], []
    until = time.monotonic() + CLAIM_SECONDS
    for host, port in wanted:
        try:
            claimed.append((host, _try(host, port, until)))
        except OSError as error:
            if not (ip_address(host).is_loopback and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)):
                faults.append(Fault(text(host, port), reason(error)))
    if not claimed and not faults:
        faults.append(Fault("listen", "none of the addresses is one of this machine's"))
    if faults:
        raise BindError(faults)
    return claimed


def bind(addresses: Sequence[Address], tls: Sequence[Address] = ()) -> Bound:
    """One worker's sockets at claimed addresses. BindError."""
    bound, faults = Bound([], [], []), []
    for host, port in addresses:
        try:
            bound.udp.append(_udp(host, port))
            bound.tcp.append(_tcp(host, port, shared=True))
        except OSError as error:
            faults.append(Fault(text(host, port), reason(error)))
    for host, port in tls:
        try:
            bound.tls.append(_tcp(host, port, shared=True))
        except OSError as error:
            faults.append(Fault(text(host, port), reason(error)))
    if faults:
        bound.close()
        raise BindError(faults)
    return bound


def listen(addresses: Sequence[Address]) -> list[socket.socket]:
    """Listening TCP sockets that nobody shares: the admin API's. The wildcard stays one socket. BindError."""
    bound, faults = [], []
    for host, port in addresses:
        try:
            bound.append(_tcp(host, port, shared=False))
        except OSError as error:
            faults.append(Fault(text(host, port), reason(error)))
    if faults:
        for sock in bound:
            sock.close()
        raise BindError(faults)
    return bound


def listen_beside(folder: Path, name: str) -> socket.socket:
    """A listening unix socket in a folder, for its owner alone; one that is left over is replaced. OSError.

    The folder's descriptor stands in for its path, which may be longer than the 107 octets that an address holds.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=handle)
        sock.setblocking(False)
        sock.bind(f"/proc/self/fd/{handle}/{name}")
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
        os.close(handle)
    return sock


def machine_addresses(version: int) -> list[str]:
    """The machine's addresses of that IP version now, loopback too; IPv6 link-local ones are left out."""
    return _addresses4() if version == 4 else _addresses6()


def text(host: str, port: int) -> str:
    """Host and port as in the settings."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason(error: OSError) -> str:
    """Why an address cannot be bound, with what to do about it."""
    hints = {
        errno.EADDRINUSE: "somebody else listens there already",
        errno.EACCES: "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "not an address of this machine",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))


def _try(host: str, port: int, until: float) -> int:
    """Bind UDP and TCP for a moment, alone; the port, chosen where it was 0. OSError when that stays impossible."""
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with _bare(family, socket.SOCK_DGRAM) as udp, _bare(family, socket.SOCK_STREAM) as tcp:
                udp.bind(_name(host, port))
                found: int = udp.getsockname()[1]
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT, not past a listener
                tcp.bind(_name(host, found))
                return found
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _udp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = _bare(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for forced, asked, size in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF, UDP_RECEIVE),
                                    (_SO_SNDBUFFORCE, socket.SO_SNDBUF, UDP_SEND)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, size)
            except OSError:  # only root goes beyond net.core.rmem_max
                sock.setsockopt(socket.SOL_SOCKET, asked, size)
        # A forged ICMP "packet too big" must not make us send fragments (RFC 9715 §3.1). For IPv4 DF says so to all on
        # the way, and spares the kernel to find each datagram an id, which costs a cache miss for each client.
        with suppress(OSError):
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_OMIT)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.setblocking(False)
        sock.bind(_name(host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _tcp(host: str, port: int, *, shared: bool) -> socket.socket:
    sock = _bare(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TCP_RECEIVE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TCP_SEND)
        sock.setblocking(False)
        sock.bind(_name(host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bare(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has sockets of its own
    return sock


def _name(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if ":" not in host:
        return host, port
    literal, _, zone = host.partition("%")
    return literal, port, 0, (int(zone) if zone.isdigit() else socket.if_nametoindex(zone)) if zone else 0


def _addresses4() -> list[str]:
    """By SIOCGIFCONF (netdevice(7)), which lists every IPv4 address of every interface that is up."""
    size, width = 64 << 10, 40
    buffer = bytearray(size)
    with _bare(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        at = struct.pack("iL", size, _address_of(buffer))
        used = struct.unpack("iL", fcntl.ioctl(sock, _SIOCGIFCONF, at))[0]
    found = [socket.inet_ntoa(bytes(buffer[i + 20 : i + 24])) for i in range(0, used, width)]
    return list(dict.fromkeys(found))


def _address_of(buffer: bytearray) -> int:
    from ctypes import addressof, c_char

    return addressof(c_char.from_buffer(buffer))


def _addresses6() -> list[str]:
    """By /proc/self/net/if_inet6: address, interface, prefix length, scope, flags, name; all but the name in hex."""
    try:
        lines = _IF_INET6.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    link_local, tentative, failed = 0x20, 0x40, 0x08
    rows = [line.split() for line in lines]
    return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in rows
            if int(row[3], 16) != link_local and not int(row[4], 16) & (tentative | failed)]
