"""A sample of the atlas's addresses stands for all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from ipaddress import ip_address

import pytest

from dnsd.atlas import population
from tests.atlas.conftest import Bundled


def test_the_bundled_sample(bundled: Bundled) -> None:
    atlas = bundled.atlas
    found = population.sample(atlas)
    assert found == population.sample(atlas)
    assert population.CLIENTS <= len(found) < 1.4 * population.CLIENTS
    assert len({network for network, _ in found}) == len(found)
    origins = {network: atlas.origin(network.network_address) for network, _ in found}
    assert all(origin.country and origin.latitude is not None and not origin.provider for origin in origins.values())
    assert all(network.prefixlen == 24 and ip_address(network.network_address).is_global for network, _ in found)
    number = Counter(origin.country for origin in origins.values())
    assert len(number) > 200
    assert sum(count < population.LEAST for count in number.values()) < 30  # countries with fewer /24 than that
    weight: defaultdict[str | None, float] = defaultdict(float)
    for network, one in found:
        weight[origins[network].country] += one
    for country, total in weight.items():
        each = {one for network, one in found if origins[network].country == country}
        assert len(each) == 1, "all of a country weigh the same"
        assert total == pytest.approx(number[country] * each.pop())
