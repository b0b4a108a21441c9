"""Handshakes' round trips in a worker: which are taken, how they are put together, real ones of real connections."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dnsd.image import frames, layout
from dnsd.serve import trips
from dnsd.serve.crowd import Limits
from dnsd.serve.trips import Trips
from tests import certificates
from tests.serve import doors
from tests.serve.doors import Rig

FOUR, SIX = socket.inet_aton("198.51.100.7"), socket.inet_pton(socket.AF_INET6, "2001:db8:7:1::9")
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:198.51.100.9")


def told(made: Trips) -> dict[bytes, tuple[int, int, int]]:
    """By block: how many, median, spread."""
    frame = made.frame()
    if frame is None:
        return {}
    found, _ = frames.decode(frame)
    assert found.kind == layout.F_TRIPS
    return {data[8:]: (count, *struct.unpack("<II", data[:8])) for count, data in found.items}


def test_figures_are_put_together_by_block() -> None:
    made = Trips()
    made.add([(FOUR, 20_000), (MAPPED, 30_000), (FOUR, 22_000), (SIX, 7)])
    assert told(made) == {FOUR[:3]: (3, 22_000, 2965), SIX[:6]: (1, 7, 0)}
    assert made.frame() is None


@pytest.mark.parametrize("microseconds", [0, 0xFFFFFFFF])
def test_what_the_kernel_did_not_measure_is_passed_over(microseconds: int) -> None:
    made = Trips()
    made.add([(FOUR, microseconds)])
    assert made.frame() is None


def test_what_is_kept_is_bounded_and_fits_a_frame() -> None:
    made = Trips()
    made.add((bytes([9, one >> 8, one & 0xFF, 1, *bytes(12)]), 0xFFFFFFFE) for one in range(3 * trips.BLOCKS))
    made.add((bytes([9, 0, 0, 1, *bytes(12)]), 1) for _ in range(1000))
    frame = made.frame()
    assert frame is not None
    assert len(frame) <= layout.FRAME_MAX
    found, _ = frames.decode(frame)
    assert len(found.items) == trips.BLOCKS
    assert max(count for count, _ in found.items) == trips.SAMPLES


@pytest.mark.parametrize("sock", [None, SimpleNamespace(getsockopt=lambda *_: b"short")])
def test_a_transport_that_does_not_tell_costs_nothing(sock: Any) -> None:
    made = Trips()
    made.look(SimpleNamespace(get_extra_info=lambda _: sock), FOUR)  # type: ignore[arg-type]
    assert made.frame() is None


@pytest.mark.parametrize("loop", list(doors.LOOPS))
@pytest.mark.parametrize("proxied", [(), ("127.0.0.0/8",)])
def test_a_connection_is_looked_at_when_it_begins_and_a_balancers_is_not(loop: str, proxied: tuple[str, ...]) -> None:
    async def scenario(rig: Rig) -> None:
        made = rig.door.serving.trips = Trips()
        await rig.connect()
        await doors.until(lambda: rig.accepted == 1)
        found = told(made)
        assert set(found) == (set() if proxied else {b"\x7f\0\0"})
        assert all(count == 1 and 0 < median < 1_000_000 for count, median, _ in found.values())

    doors.run(loop, scenario, Limits(), proxied=proxied)


@pytest.mark.parametrize("loop", list(doors.LOOPS))
def test_one_of_dns_over_tls_is_looked_at_before_its_handshake(loop: str, tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        made = rig.door.serving.trips = Trips()
        await rig.connect()
        await doors.until(lambda: rig.accepted == 1)
        assert set(told(made)) == {b"\x7f\0\0"}

    doors.run(loop, scenario, Limits(), pair=certificates.write(tmp_path))
