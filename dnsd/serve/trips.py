"""How far resolvers are from this node: what the kernel measured while their TCP connections began.

Lives here: reading it, putting it together by block, one frame a second for control. Does not live here: connections
(`stream`, and the engine's thread, which reads for itself), what is believed of it (`control.trips`).

A handshake is a round trip, so the figure is there when a connection is accepted, before anything is asked. It is that
of the resolver to this node, nothing else. Whatever comes, a second costs BLOCKS times SAMPLES figures at most.
"""

from __future__ import annotations

import socket
from asyncio import BaseTransport
from collections.abc import Iterable
from typing import Final

from dnsd.image import frames, layout
from dnsd.model import Stamp

BLOCKS: Final = 2048
"""In one second; as many as go into one frame."""

SAMPLES: Final = 64
"""Of one block in one second."""

_TCP_INFO: Final = 11
_MIN_RTT: Final = 148  # linux/tcp.h: struct tcp_info, tcpi_min_rtt, microseconds; since Linux 4.6
_NONE: Final = 0xFFFFFFFF
_SIGMA: Final = 1.4826


class Trips:
    """One worker's."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, list[int]] = {}

    def look(self, transport: BaseTransport, client: bytes) -> None:
        """A connection was accepted."""
        sock = transport.get_extra_info("socket")
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _MIN_RTT + 4)
        except (OSError, AttributeError):
            return
        if len(info) == _MIN_RTT + 4:
            self.add([(client, int.from_bytes(info[_MIN_RTT:], "little"))])

    def add(self, found: Iterable[tuple[bytes, int]]) -> None:
        """Clients as 4 or 16 octets, and microseconds."""
        for client, microseconds in found:
            if not 0 < microseconds < _NONE:  # a first packet that was sent twice tells nothing
                continue
            if len(client) == 16 and client.startswith(_MAPPED):
                client = client[12:]
            block = client[: 3 if len(client) == 4 else 6]
            heard = self._blocks.get(block)
            if heard is None and len(self._blocks) < BLOCKS:
                heard = self._blocks[block] = []
            if heard is not None and len(heard) < SAMPLES:
                heard.append(microseconds)

    def frame(self) -> bytes | None:
        """What was heard since the last one; None: nothing."""
        blocks, self._blocks = self._blocks, {}
        if not blocks:
            return None
        return frames.encode(layout.F_TRIPS, _NOWHEN, _NOWHEN, [
            (len(heard), layout.TRIP.struct.pack(*_middle(heard)) + block) for block, heard in blocks.items()])


_MAPPED: Final = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
_NOWHEN: Final = Stamp(0, 0, 0)


def _middle(heard: list[int]) -> tuple[int, int]:
    """The median and the median deviation from it as one sigma."""
    median = sorted(heard)[(len(heard) - 1) // 2]
    off = sorted(abs(one - median) for one in heard)[(len(heard) - 1) // 2]
    return median, min(round(off * _SIGMA), _NONE)
