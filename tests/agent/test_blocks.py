"""Readings to samples: blocks, who is left out, medians."""

from __future__ import annotations

import pytest

from dnsd.agent.blocks import BATCH, batches, gathered


@pytest.mark.parametrize(("address", "block"), [
    ("8.8.8.8", "8.8.8.0/24"), ("::ffff:8.8.8.8", "8.8.8.0/24"), ("2a00:1450:4001:80e::1", "2a00:1450:4001::/48"),
])
def test_blocks(address: str, block: str) -> None:
    assert gathered([(address, 1.0)]) == [{"client": block, "rtt_ms": 1.0, "count": 1, "spread_ms": 0.0}]


@pytest.mark.parametrize("address", [
    "127.0.0.1", "::1", "10.1.2.3", "192.168.1.1", "172.16.0.9", "100.64.0.1", "169.254.1.1", "fe80::1%eth0",
    "fd00::1", "::ffff:10.0.0.1"])
def test_addresses_that_are_not_on_the_internet_are_left_out_unless_asked_for(address: str) -> None:
    assert gathered([(address, 1.0)]) == []
    assert len(gathered([(address, 1.0)], private=True)) == 1


def test_medians_and_spread() -> None:
    found = gathered([("8.8.8.1", ms) for ms in (10.0, 12.0, 11.0, 500.0)] + [("9.9.9.9", 3.0)])
    assert found == [{"client": "8.8.8.0/24", "rtt_ms": 11.0, "count": 4, "spread_ms": 1.483},
                     {"client": "9.9.9.0/24", "rtt_ms": 3.0, "count": 1, "spread_ms": 0.0}]


@pytest.mark.parametrize("rtt_ms", [0.0, 0.049, 5000.1])
def test_what_no_way_can_be_is_left_out(rtt_ms: float) -> None:
    assert gathered([("8.8.8.8", rtt_ms)]) == []


def test_batches_are_as_large_as_are_taken() -> None:
    samples = [{"client": str(number)} for number in range(2 * BATCH + 1)]
    found = list(batches(samples))
    assert [len(batch) for batch in found] == [BATCH, BATCH, 1]
    assert [one for batch in found for one in batch] == samples
