"""Datagrams 64 at a time: recvmmsg(2) and sendmmsg(2) through ctypes, or the same in single calls where those lack.

Lives here: the structures both calls read, turning a batch into Python values and replies back, errors of a socket.
Does not live here: the event loop and the answering (`serve.udp`), making sockets (`dnsd.sockets`).

What Python does per datagram decides this server's speed, so whatever can be done for a whole batch is one C-level
call: lengths are one strided `tolist`, addresses one `iter_unpack`, replies one `join` with running offsets as the
scatter list. A reply goes to the address its query came from because both headers point to the same name.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, Protocol

from dnsd import metrics
from dnsd.image.samples import Address

BATCH: Final = 64
_SO_MEMINFO: Final = 55  # linux/socket.h; u32 counters, first the octets that wait and the octets that may
SLOT: Final = 2112  # octets a query may have; not a power of two, or all slots would share the same cache lines
REPLY: Final = 4096  # more than any reply over UDP: the answering code keeps to 1232
FULL_WAIT_MS: Final = 5  # how long a full send buffer may hold up the loop
_ADDRESS: Final = {socket.AF_INET: struct.Struct("4x4s8x"), socket.AF_INET6: struct.Struct("8x16s4x")}


Peer = tuple[str, int] | tuple[str, int, int, int]
"""A socket address as the socket module takes it."""


class Slot(Protocol):
    """Something whose first n octets are `slot[:n]`: a slice costs less than asking a buffer for bytes."""

    def __getitem__(self, key: slice, /) -> bytes: ...


class Channel(Protocol):
    """A UDP socket, a batch at a time. No call raises for anything the network does."""

    local: Address  # what the socket is bound to

    def receive(self) -> int:
        """Take in what has arrived; how many, at most `BATCH`, in which case there may be more; not above 0: none."""

    def batch(self) -> Iterator[tuple[Slot, int, tuple[bytes]]]:
        """The batch just received as (slot, length, (client address packed,)): a query is `slot[:length]`."""

    def port(self, at: int) -> int:
        """The client's port of query number `at` of that batch."""

    def crowded(self) -> bool:
        """Whether more than half of the room that the kernel has for waiting datagrams is taken."""

    def send(self, replies: Sequence[bytes | None]) -> None:
        """Answer the batch just received, in its order; None for what gets no answer."""

    def peer(self, at: int) -> Peer:
        """Where query number `at` of that batch came from, for `send_late`."""

    def send_late(self, reply: bytes, peer: Peer) -> None:
        """Answer a query of an earlier batch."""


def channel(sock: socket.socket, count: memoryview, *, batched: bool = True) -> Channel:
    """The fastest channel there is here for that bound, non-blocking socket; `count` are the worker's slots."""
    calls = _libc_calls() if batched else None
    return Batched(sock, count, calls) if calls else Single(sock, count)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """struct mmsghdr: a struct msghdr and the number of octets it moved."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint32))


_WORDS: Final = ctypes.sizeof(_Header) // 4
_LENGTH: Final = _Header.length.offset // 4


class Batched:
    """`Channel` over recvmmsg and sendmmsg; all buffers are made once."""

    def __init__(self, sock: socket.socket, count: memoryview, calls: tuple[Any, Any]) -> None:
        self._number = 0
        self._lengths: list[int] = []
        self._sock, self._count = sock, count
        self.local = local(sock)
        self._recvmmsg, self._sendmmsg = calls
        self._fd = ctypes.c_int(sock.fileno())
        self._unpack = _ADDRESS[sock.family].iter_unpack
        self._name_size = _ADDRESS[sock.family].size

        names = (ctypes.c_char * (self._name_size * BATCH))()
        self._names = memoryview(names).cast("B")
        inbox = (ctypes.c_char * (SLOT * BATCH))()
        self._slots = [(ctypes.c_char * SLOT).from_buffer(inbox, SLOT * i) for i in range(BATCH)]
        self._in_iov = (_Iovec * BATCH)(*(_Iovec(ctypes.addressof(inbox) + SLOT * i, SLOT) for i in range(BATCH)))
        self._in = self._headers(ctypes.addressof(names), ctypes.addressof(self._in_iov))
        self._in_words = memoryview(self._in).cast("B").cast("I")
        self._in_at = ctypes.byref(self._in)

        outbox = bytearray(REPLY * BATCH)
        self._outbox = memoryview(outbox)
        self._out_base = ctypes.addressof(ctypes.c_char.from_buffer(outbox))
        self._out_iov = array("Q", bytes(16 * BATCH))  # base and size in turn, written by strided assignment
        self._out = self._headers(ctypes.addressof(names), self._out_iov.buffer_info()[0])
        self._out_at = [ctypes.byref(self._out, ctypes.sizeof(_Header) * i) for i in range(BATCH)]

    def _headers(self, names: int, iov: int) -> ctypes.Array[_Header]:
        size = ctypes.sizeof(_Iovec)
        return (_Header * BATCH)(*(
            _Header(_Message(names + self._name_size * i, self._name_size, iov + size * i, 1)) for i in range(BATCH)))

    def receive(self) -> int:
        """See `Channel`. A datagram longer than a slot arrives cut, which no longer parses: it gets FORMERR."""
        number: int = self._recvmmsg(self._fd, self._in_at, BATCH, socket.MSG_DONTWAIT, None)
        self._number = number
        if number > 0:
            self._lengths = lengths = self._in_words[_LENGTH : number * _WORDS : _WORDS].tolist()
            count = self._count
            count[metrics.UDP_BATCHES] += 1
            count[metrics.QUERIES_UDP] += number
            count[metrics.BYTES_IN_UDP] += sum(lengths)
        return number

    def batch(self) -> Iterator[tuple[Slot, int, tuple[bytes]]]:
        """See `Channel`."""
        names = self._unpack(self._names[: self._number * self._name_size])
        return zip(self._slots, self._lengths, names, strict=False)  # type: ignore[arg-type]

    def crowded(self) -> bool:
        """See `Channel`."""
        return crowded(self._sock)

    def port(self, at: int) -> int:
        """See `Channel`."""
        start = at * self._name_size + 2
        return self._names[start] << 8 | self._names[start + 1]

    def send(self, replies: Sequence[bytes | None]) -> None:
        """See `Channel`. Runs between the unanswered ones go out in one call each."""
        if all(replies):
            self._send_run(0, replies)  # type: ignore[arg-type]
            return
        first = 0
        while first < len(replies):
            last = first
            while last < len(replies) and replies[last]:
                last += 1
            if last > first:
                self._send_run(first, replies[first:last])  # type: ignore[arg-type]
            first = last + 1

    def peer(self, at: int) -> Peer:
        """See `Channel`."""
        return peer_of(self._sock.family, bytes(self._names[at * self._name_size : (at + 1) * self._name_size]))

    def send_late(self, reply: bytes, peer: Peer) -> None:
        """See `Channel`."""
        send_one(self._sock, self._count, reply, peer)

    def _send_run(self, first: int, replies: Sequence[bytes]) -> None:
        data = b"".join(replies)
        self._outbox[: len(data)] = data
        lengths = list(map(len, replies))
        end = first + len(lengths)
        iov = self._out_iov
        if len(lengths) == 1:  # light load: a batch is one query
            iov[2 * first], iov[2 * first + 1] = self._out_base, lengths[0]
        else:
            iov[2 * first : 2 * end : 2] = array("Q", list(accumulate(lengths[:-1], initial=self._out_base)))
            iov[2 * first + 1 : 2 * end : 2] = array("Q", lengths)
        sent = self._sendmmsg(self._fd, self._out_at[first], end - first, socket.MSG_DONTWAIT)
        count = self._count
        if sent != end - first:
            lengths = self._send_rest(first + max(sent, 0), end, lengths[: max(sent, 0)])
        count[metrics.RESPONSES_UDP] += len(lengths)
        count[metrics.BYTES_OUT_UDP] += sum(lengths)

    def _send_rest(self, first: int, end: int, gone: list[int]) -> list[int]:
        """Go on after the kernel stopped before `first`: pass over what it refuses, wait a moment where it is full."""
        waited = False
        while first < end:
            sent = self._sendmmsg(self._fd, self._out_at[first], end - first, socket.MSG_DONTWAIT)
            if sent > 0:
                gone += self._out_iov[2 * first + 1 : 2 * (first + sent) : 2]
                first += sent
                continue
            problem = ctypes.get_errno()
            if problem in _FULL:
                if waited or not _writable(self._sock):
                    self._count[metrics.UDP_SEND_FULL] += end - first
                    break
                waited = True
            elif problem != errno.EINTR:
                self._count[metrics.UDP_SEND_ERRORS] += 1
                first += 1
        return gone


class Single:
    """`Channel` by recvfrom and sendto: the same answers at two thirds of the speed, for any system."""

    def __init__(self, sock: socket.socket, count: memoryview) -> None:
        self._sock, self._count = sock, count
        self.local = local(sock)
        self._packets: list[bytes] = []
        self._addresses: list[Any] = []

    def receive(self) -> int:
        """See `Channel`."""
        self._packets, self._addresses = [], []
        while len(self._packets) < BATCH:
            try:
                packet, address = self._sock.recvfrom(SLOT)
            except OSError:
                break
            self._packets.append(packet)
            self._addresses.append(address)
        if self._packets:
            self._count[metrics.UDP_BATCHES] += 1
            self._count[metrics.QUERIES_UDP] += len(self._packets)
            self._count[metrics.BYTES_IN_UDP] += sum(map(len, self._packets))
        return len(self._packets)

    def batch(self) -> Iterator[tuple[Slot, int, tuple[bytes]]]:
        """See `Channel`."""
        for packet, address in zip(self._packets, self._addresses, strict=True):
            yield packet, len(packet), (packed(address[0]),)

    def crowded(self) -> bool:
        """See `Channel`."""
        return crowded(self._sock)

    def port(self, at: int) -> int:
        """See `Channel`."""
        return int(self._addresses[at][1])

    def send(self, replies: Sequence[bytes | None]) -> None:
        """See `Channel`."""
        for reply, address in zip(replies, self._addresses, strict=False):
            if reply:
                send_one(self._sock, self._count, reply, address)

    def peer(self, at: int) -> Peer:
        """See `Channel`."""
        address: Peer = self._addresses[at]
        return address

    def send_late(self, reply: bytes, peer: Peer) -> None:
        """See `Channel`."""
        send_one(self._sock, self._count, reply, peer)


def send_one(sock: socket.socket, count: memoryview, reply: bytes, peer: Any) -> None:
    """Send one reply and count it; where the send buffer is full a moment is waited."""
    for attempt in range(2):
        try:
            sock.sendto(reply, socket.MSG_DONTWAIT, peer)
        except OSError as problem:
            if problem.errno not in _FULL:
                count[metrics.UDP_SEND_ERRORS] += 1
                return
            if attempt or not _writable(sock):
                count[metrics.UDP_SEND_FULL] += 1
                return
        else:
            count[metrics.RESPONSES_UDP] += 1
            count[metrics.BYTES_OUT_UDP] += len(reply)
            return


def peer_of(family: int, name: bytes) -> Peer:
    """A socket address of the kernel's (struct sockaddr_in or sockaddr_in6) as the socket module takes it."""
    port = int.from_bytes(name[2:4], "big")
    if family == socket.AF_INET:
        return socket.inet_ntoa(name[4:8]), port
    flow, scope = int.from_bytes(name[4:8], "big"), int.from_bytes(name[24:28], sys.byteorder)
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port, flow, scope


def packed(host: str) -> bytes:
    """An address as the socket module names it, packed to 4 or 16 octets; IPv4 in IPv6 disguise becomes 4."""
    if ":" not in host:
        return socket.inet_aton(host)
    address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return address[12:] if address.startswith(b"\0\0\0\0\0\0\0\0\0\0\xff\xff") else address


def crowded(sock: socket.socket) -> bool:
    """Whether a socket's receive buffer is more than half full; False where the kernel does not tell."""
    try:
        taken, room = struct.unpack_from("=2I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))
    except (OSError, struct.error):
        return False
    return bool(2 * taken > room)


def local(sock: socket.socket) -> Address:
    """What a socket is bound to."""
    host, port = sock.getsockname()[:2]
    return Address(packed(host), port)


_FULL: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


def _writable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(FULL_WAIT_MS))


def _libc_calls() -> tuple[Any, Any] | None:
    """recvmmsg and sendmmsg, where libc has them and structures are laid out as `Batched` writes them."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        return libc.recvmmsg, libc.sendmmsg
    except AttributeError:
        return None
