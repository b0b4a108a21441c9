"""Connections of this machine and how far their clients are, as the kernel knows it.

Lives here: asking inet_diag, what of its answer is a reading. Does not live here: blocks (`agent.blocks`), sending
(`agent.outbox`).

`min_rtt` is read, not the smoothed round trip: that one has delayed acknowledgements and the queue that a download
itself fills in it, 40 ms and more, which are no property of the way. The kernel's window for the least is five minutes,
so only connections that have heard of their client lately are read: of an idle one it is old.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from pyroute2 import DiagSocket
from pyroute2.netlink import NLM_F_MATCH, NLM_F_REQUEST, NLM_F_ROOT
from pyroute2.netlink.diag import SOCK_DIAG_BY_FAMILY, inet_diag_req

MOST: Final = 20_000
"""Connections read at one time: a second and a half of a core. The kernel tells them by a hash of their addresses, so
the first ones are as good as any."""

_ESTABLISHED: Final = 1 << 1
_INFO: Final = 1 << 1  # INET_DIAG_INFO is 2, and extensions are counted from 1
_NONE: Final = 0xFFFFFFFF


class Reading(NamedTuple):
    """One connection: the client's address as text, milliseconds."""

    address: str
    rtt_ms: float


def read(ports: Iterable[int], recent_ms: int, most: int = MOST) -> Iterator[Reading]:
    """Of established connections to these local ports that heard of their client in the last `recent_ms`; OSError."""
    left = most
    for port in ports:
        for family in (socket.AF_INET, socket.AF_INET6):
            with DiagSocket() as kernel:  # anew: what was not read of the last answer is gone with it
                for message in _told(kernel, family, port):
                    if left == 0:
                        return
                    left -= 1
                    reading = _reading(message, recent_ms)
                    if reading is not None:
                        yield reading


def told_of() -> bool:
    """Whether this kernel tells of connections: asked for one that is made for that. One without tcp_diag is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()
        with socket.create_connection(here), DiagSocket() as kernel:
            return next(_told(kernel, socket.AF_INET, here[1]), None) is not None


def _told(kernel: Any, family: int, port: int) -> Iterator[Any]:
    """The kernel's messages one by one; `get_sock_stats` would hold all of them, 7 KiB each."""
    wanted = inet_diag_req()
    wanted["sdiag_family"], wanted["sdiag_protocol"] = family, socket.IPPROTO_TCP
    wanted["idiag_states"], wanted["idiag_ext"], wanted["idiag_sport"] = _ESTABLISHED, _INFO, port
    yield from kernel.nlm_request(wanted, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH)


def _reading(message: Any, recent_ms: int) -> Reading | None:
    info = message.get_attr("INET_DIAG_INFO")
    try:
        least, silent_ms = info["tcpi_min_rtt"], info["tcpi_last_ack_recv"]
    except (KeyError, TypeError, struct.error):  # an old kernel
        return None
    if not least or least == _NONE or silent_ms > recent_ms:
        return None
    return Reading(str(message["idiag_dst"]), least / 1000)
