"""Maps of measured and inferred round trips: whose row is whose, and what is told of an estimate."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.atlas import build, derive, estimates, store, tablefile, vectors
from dnsd.atlas.derive import SiteSpec
from dnsd.atlas.levels import FAR_MS
from dnsd.image.table import MapTable
from dnsd.rtt import blocks, infer
from dnsd.rtt.table import Table
from dnsd.steer import distance
from dnsd.steer.row import level_of
from tests.atlas.samples import BERLIN, LIMA, PARIS, TOKYO, directory

SITES = [SiteSpec("fra", 50.11, 8.68), SiteSpec("osa", 34.69, 135.50), SiteSpec("gru", -23.55, -46.63)]
NAMES = tuple(site.id for site in SITES)
TOWNS = {BERLIN: "10.2.0.0", PARIS: "10.1.0.0", TOKYO: "20.0.0.0", LIMA: "30.0.0.0"}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> store.Atlas:
    folder = tmp_path_factory.mktemp("small")
    build.build(directory(folder / "d"), folder / "atlas")
    return store.open_atlas(folder / "atlas")


def measured(cells: dict[str, dict[str, float]], sites: tuple[str, ...] = NAMES) -> Table:
    """Of prefixes or addresses, ms by site."""
    rows = sorted((blocks.of(ip_network(text).network_address), one) for text, one in cells.items())
    table = Table.zeros(sites, np.array([number for number, _ in rows], np.uint64), number=7, at_ms=1)
    for row, (_, one) in enumerate(rows):
        for site, ms in one.items():
            column = sites.index(site)
            table.ms[row, column] = round(10 * ms)
            table.error[row, column], table.count[row, column], table.reporters[row, column] = 2, 20, 1
    return table


def mapped(atlas: store.Atlas, table: Table | None, folder: Path) -> MapTable:
    tablefile.write(folder / "map", derive.make(atlas, SITES, table), atlas=1, made_ms=1)
    return MapTable((folder / "map").read_bytes())


def levels(table: MapTable, address: str) -> list[int]:
    return list(table.row(table.find_resolver(ip_address(address).packed))[0])


def many(blocks_each: int = 6) -> dict[str, dict[str, float]]:
    """Blocks in all towns; Lima's way to São Paulo leads by way of Osaka."""
    rng, found = np.random.default_rng(1), {}
    for place, first in TOWNS.items():
        for number in range(blocks_each):
            ms = {site.id: distance.rtt_ms(distance.km(*place[:2], site.latitude, site.longitude)) + rng.normal(0, 1)
                  + (250 if (place, site.id) == (LIMA, "gru") else 0) for site in SITES}
            found[f"{ip_address(first) + 256 * (3 + 40 * number)}/24"] = ms
    return found


def test_a_measured_block_is_what_it_was_measured_and_its_neighbour_is_not(atlas: store.Atlas, tmp_path: Path) -> None:
    table = mapped(atlas, measured({"10.2.7.0/24": {"fra": 200, "osa": 80, "gru": 100}}), tmp_path)
    plain = mapped(atlas, None, tmp_path)
    assert levels(table, "10.2.7.1") == [level_of(120), 0, level_of(20)]
    for neighbour in ("10.2.6.255", "10.2.8.0", "10.1.7.1", "2a00:7::1"):
        assert levels(table, neighbour)[0] == levels(plain, neighbour)[0] == 0
    assert table.find4(0x0A0207)[1] == 24


def test_ipv6_blocks_are_48s(atlas: store.Atlas, tmp_path: Path) -> None:
    table = mapped(atlas, measured({"2a00:5:6::/48": {"fra": 200, "osa": 80, "gru": 100}}), tmp_path)
    for inside in ("2a00:5:6::", "2a00:5:6:ffff:ffff::"):
        assert levels(table, inside) == [level_of(120), 0, level_of(20)]
    for outside in ("2a00:5:5:ffff::", "2a00:5:7::"):
        assert levels(table, outside)[0] == 0
    assert table.find6(int(ip_address("2a00:5:6::")), 56)[1] == 48


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([first + off for first in (0x0A0100, 0x0A0200, 0x0AFFFD, 0x140000, 0x1E0000,
                                                                  0x0B0000, 0xFFFFF0) for off in range(16)]),
                       st.tuples(*[st.integers(20, 3000)] * 3), min_size=1, max_size=40), st.booleans())
def test_rows_and_scopes_of_any_measured_blocks(
        atlas: store.Atlas, tmp_path: Path, cells: dict[int, tuple[int, ...]], law: bool) -> None:
    """Measured everywhere, a block has its own levels whatever else is; who shares its scope shares its row."""
    known = {str(ip_network((key << 8, 24))): dict(zip(NAMES, (ms / 10 for ms in some), strict=True))
             for key, some in cells.items()}
    table = mapped(atlas, measured((many() if law else {}) | known), tmp_path)
    for key, some in cells.items():
        mine = table.row(table.find4(key)[0])[0]
        near, far = [level_of(ms / 10 - min(some) / 10) for ms in some], level_of(FAR_MS)
        assert [min(level, far) for level in mine] == [min(level, far) for level in near]
    for key in {key + step for key in cells for step in (-1, 0, 1)}:
        row, scope = table.find4(key % (1 << 24))
        first = key % (1 << 24) >> 24 - scope << 24 - scope
        for other in {first, first + (1 << 24 - scope) - 1, key % (1 << 24)}:
            assert table.find4(other)[0] == row


def test_what_is_learnt_from_blocks(atlas: store.Atlas, tmp_path: Path) -> None:
    """All of Lima leaves the site that only its measured blocks were seen to be far from."""
    plain, table = mapped(atlas, None, tmp_path), mapped(atlas, measured(many()), tmp_path)
    lima = "30.200.0.1"
    assert levels(plain, lima)[NAMES.index("gru")] == 0
    assert levels(table, lima)[NAMES.index("gru")] > 0
    assert levels(table, "10.2.200.1") == pytest.approx(levels(plain, "10.2.200.1"), abs=1)


@pytest.mark.parametrize("unknown", [{}, {"30.0.3.0/24": {"gone": 5.0}}, {"2002:1e00:300::/48": {"gone": 5.0}}])
def test_nothing_measured_here_is_as_no_table(atlas: store.Atlas, unknown: dict[str, dict[str, float]]) -> None:
    plain, found = derive.make(atlas, SITES), derive.make(atlas, SITES, measured(unknown, ("gone",)))
    for name in tablefile.Table.__slots__:
        assert np.array_equal(getattr(plain, name), getattr(found, name))


def test_blocks_that_carry_ipv4_are_nobodys(atlas: store.Atlas) -> None:
    table = measured({"64:ff9b::/48": {"fra": 5.0}, "2002:1e00:300::/48": {"fra": 5.0}, "2001::/48": {"fra": 5.0}})
    assert vectors.of(atlas, SITES, table) is None


def test_other_sites_than_the_tables(atlas: store.Atlas) -> None:
    """A site that the table lacks is inferred, one that the map lacks is not looked at."""
    sites = (*NAMES[:2], "gone")
    cells = {text: {"fra": one["fra"], "osa": one["osa"], "gone": 1.0} for text, one in many().items()}
    found = vectors.of(atlas, SITES, measured(cells, sites))
    assert found is not None
    mine = found.source[found.first_block:]
    assert (mine[:, :2] == infer.MEASURED).all()
    assert (mine[:, 2] != infer.MEASURED).all()
    assert np.isfinite(found.ms[found.first_block:]).all()


def test_a_shift_is_on_top_of_everything(atlas: store.Atlas) -> None:
    table = measured(many())
    shifted = [SITES[0]._replace(shift_ms=40.0), *SITES[1:]]
    one, other = vectors.of(atlas, SITES, table), vectors.of(atlas, shifted, table)
    assert one is not None
    assert other is not None
    placed = np.isfinite(one.ms).all(axis=1)
    assert (other.ms - one.ms)[placed] == pytest.approx(np.broadcast_to([40.0, 0.0, 0.0], one.ms.shape)[placed])


def test_no_estimate_is_faster_than_light(atlas: store.Atlas) -> None:
    """Everything measured at a tenth of what it takes, nothing inferred is below what glass allows."""
    table = measured({text: {site: ms / 10 for site, ms in one.items()} for text, one in many().items()})
    found = vectors.of(atlas, SITES, table)
    assert found is not None
    where = atlas.arrays["place"][found.origin]
    for column, site in enumerate(SITES):
        for number in np.flatnonzero(found.source[:, column] != infer.MEASURED):
            place = atlas.arrays["latitude"][where[number]], atlas.arrays["longitude"][where[number]]
            if np.isfinite(place[0]):
                least = distance.km(*place, site.latitude, site.longitude) / infer.KM_PER_MS
                assert found.ms[number, column] >= least * 0.999999


def test_a_block_nobody_can_place_is_near_where_it_was_measured_best(atlas: store.Atlas) -> None:
    table = measured({"99.0.0.0/24": {"osa": 8.0, "fra": 240.0}})
    found = vectors.of(atlas, SITES, table)
    assert found is not None
    apart = distance.rtt_ms(distance.km(34.69, 135.50, -23.55, -46.63))
    assert found.ms[found.first_block] == pytest.approx([240.0, 8.0, 8.0 + apart], abs=0.1)


def test_estimates_say_where_they_are_from(atlas: store.Atlas, tmp_path: Path) -> None:
    table = measured(many())
    table.write(tmp_path / "rtt")
    report = derive.derive(atlas.path.parent, SITES, tmp_path / "a.map", tmp_path / "rtt")
    assert report.rtt["used"]
    assert report.rtt["held_back"]["cells"] == report.rtt["cells"] == 72
    told = estimates.Estimates(tmp_path / "a.rtt")
    mine = told.of(ip_address("30.0.3.9"), atlas)
    assert [one.source for one in mine] == ["measured"] * 3
    other = told.of(ip_address("30.200.0.1"), atlas)
    assert "measured" not in [one.source for one in other]
    assert all(0 < one.confidence < 1 for one in other)
    assert other[2].ms == pytest.approx(mine[2].ms, rel=0.2)
    assert told.of(ip_address("11.0.0.1"), atlas) == []
