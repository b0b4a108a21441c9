"""Samples survive the way from worker to control, and torn packets are told as such."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.image import samples
from dnsd.image.samples import Address, Origin, Sample

ports = st.integers(0, 65535)
addresses = st.builds(Address, st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), ports)
origins = st.builds(
    Origin, st.integers(1, 10**9), st.integers(0, 255), st.sampled_from(range(3)), st.integers(0, 2**63), addresses)
messages = st.binary(max_size=100)


@given(origins, st.lists(st.builds(Sample, addresses, messages, messages), max_size=5))
def test_there_and_back(origin: Origin, found: list[Sample]) -> None:
    packet = samples.encode(origin, found)
    assert samples.decode(packet) == (origin, found)
    assert samples.decode(samples.encode(origin, [])) == (origin, [])
    assert len(packet) == len(samples.encode(origin, [])) + sum(map(samples.size, found))


def test_the_longest_messages_fit_a_packet() -> None:
    whole = Sample(Address(bytes(16), 1), bytes(65535), bytes(65535))
    packet = samples.encode(Origin(1, 0, samples.TCP, 0, Address(b"", 0)), [whole])
    assert len(packet) < samples.PACKET_MAX
    assert samples.decode(packet)[1] == [whole]


def test_torn_packets() -> None:
    packet = samples.encode(
        Origin(7, 1, samples.UDP, 5, Address(bytes(4), 53)), [Sample(Address(bytes(4), 9), b"query", b"reply")] * 2)
    whole = {len(samples.encode(samples.decode(packet)[0], samples.decode(packet)[1][:n])) for n in range(3)}
    for end in range(len(packet)):
        if end in whole:
            continue
        with pytest.raises(ValueError, match="sample ends"):
            samples.decode(packet[:end])
