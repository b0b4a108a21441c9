"""Which maps there should be, and tables derived by the real child from a small atlas."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from dnsd.atlas import derive
from dnsd.control import mapplan
from dnsd.control import maps as maps_module
from dnsd.control.mapplan import LINGER_MS, Seen
from dnsd.control.maps import KEEP_S, Maps, open_table, opened
from dnsd.image import layout
from dnsd.registry.fields import Model
from dnsd.rtt.table import Table
from tests.control.fleet_samples import NOW, SERVICE, endpoint, fleet, service, site
from tests.control.rig import Rig

BERLIN, TOKYO = site("berlin", 52.5, 13.4), site("tokyo", 35.7, 139.7, "JP", "as")
LIMA = site("lima", -12.0, -77.0, "PE", "sa")
B1, T1 = endpoint("b1", "192.0.2.1", site="berlin"), endpoint("t1", "192.0.2.2", site="tokyo")
L1 = endpoint("l1", "192.0.2.3", site="lima")


def seen(made: object, *times: int) -> Seen:
    kept = Seen()
    for at in times or (NOW,):
        kept.note(made, at)  # type: ignore[arg-type]
    return kept


def test_the_plan() -> None:
    made = fleet(
        BERLIN, TOKYO, LIMA, service(), B1, T1, service("d.test"),
        service("b.test"), endpoint("x", "192.0.2.9", site="lima", service="b.test"),
        service("c.test"), endpoint("x", "192.0.2.9", site="lima", service="c.test"))
    assert mapplan.wanted(made, seen(made), ()) == [("berlin", "lima", "tokyo"), ("lima",), ("berlin", "tokyo")]
    assert mapplan.wanted(made, seen(made), ("tokyo", "gone", "berlin"))[0] == ("tokyo", "berlin", "lima")


def test_a_service_of_all_sites_uses_map_0() -> None:
    made = fleet(BERLIN, TOKYO, service(), B1, T1)
    assert mapplan.wanted(made, seen(made), ()) == [("berlin", "tokyo")]


def test_maps_are_bounded() -> None:
    objects: list[Model] = [site(f"s{i:03}") for i in range(300)]
    for i in range(100):
        objects += [service(f"n{i}.test"), endpoint("e", "192.0.2.1", site=f"s{i:03}", service=f"n{i}.test")]
    made = fleet(*objects)
    plan = mapplan.wanted(made, seen(made), ())
    assert len(plan) == mapplan.MOST
    assert len(plan[0]) == mapplan.SITES_MOST


def test_a_lost_site_lingers() -> None:
    made = fleet(BERLIN, TOKYO, service(), B1, T1)
    kept = seen(made)
    del made.members[SERVICE][T1.key]
    kept.note(made, NOW + LINGER_MS)
    assert kept.sites(SERVICE) == {"berlin", "tokyo"}
    kept.note(made, NOW + LINGER_MS + 1)
    assert kept.sites(SERVICE) == {"berlin"}
    del made.services[SERVICE]
    kept.note(made, NOW)
    assert kept.sites(SERVICE) == frozenset()


SETS = {0: frozenset("abc"), 1: frozenset("ab"), 2: frozenset("a")}


@pytest.mark.parametrize(("needed", "own", "present", "number"), [
    ("ab", "ab", 0, 1), ("a", "a", 1, 2), ("a", "ab", 0, 1),
    ("ab", "abx", 1, 1),     # its own set is not derived yet: the present map has all it needs
    ("abx", "abx", 1, 0),    # a new site: map 0
    ("abc", "ab", 1, 0),     # a site that only map 0 has, and nobody has noted yet
    ("ab", "abx", 9, 0), ("", "", 1, 1),
])
def test_the_choice_of_a_map(needed: str, own: str, present: int, number: int) -> None:
    assert mapplan.choose(frozenset(needed), frozenset(own), present, SETS) == number
    assert mapplan.choose(frozenset(needed), frozenset(own), present, {}) == 0


def test_a_table_is_named_by_all_that_goes_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = mapplan.file_name(7, [BERLIN, TOKYO])
    assert name == mapplan.file_name(7, [BERLIN, TOKYO])
    assert name == mapplan.file_name(7, [BERLIN.model_copy(update={"capacity": 5}), TOKYO])  # not in any row
    others = {
        mapplan.file_name(8, [BERLIN, TOKYO]), mapplan.file_name(7, [TOKYO, BERLIN]), mapplan.file_name(7, [BERLIN]),
        mapplan.file_name(7, [BERLIN.model_copy(update={"asns": (1,)}), TOKYO])}
    monkeypatch.setattr(mapplan.distance, "MS_PER_KM", 0.01)
    others.add(mapplan.file_name(7, [BERLIN, TOKYO]))
    assert len(others | {name}) == 6


class Node:
    """A rig with maps, stepped by hand."""

    def __init__(self, state: Path, atlas: Path, *objects: Model) -> None:
        self.rig = Rig(state, *objects)
        self.maps = Maps(self.rig.fleet, atlas, state / "maps", clock=self.rig.clock)
        self.maps.publisher = self.rig.publisher
        self.rig.views.map_of = self.maps.of

    async def round(self, **options: bool) -> None:
        await self.maps.round(**options)
        await self.rig.publish()

    def sites_of(self, name: str = SERVICE) -> tuple[str, ...]:
        """The columns the worker's record of a service refers to."""
        image = self.rig.workers[0].images.image
        assert image is not None
        node = image.get(b"\x03api\x07example\x03com\0")
        assert node is not None
        plan = image.plan(node.record)
        view = self.rig.publisher.maps.get(plan.map_id)
        assert (plan.map_id in image.maps) == (view is not None)
        return view.sites if view is not None else ()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive in this process: a child costs a second that these tests do not need."""

    async def run(
        maps: Maps, sites: Sequence[dict[str, Any]], path: Path, rtt: Path | None, before: Path | None,
    ) -> str:
        maps.dir.mkdir(exist_ok=True)
        try:
            derive.derive(maps.atlas_dir, derive.site_specs(sites), path)
        except derive.SiteError as error:
            return str(error)
        maps.derived += 1
        return ""

    monkeypatch.setattr(Maps, "_derive", run)


@pytest_asyncio.fixture
async def node(tmp_path: Path, atlas: Path, here: None) -> AsyncIterator[Node]:
    made = Node(tmp_path, atlas, BERLIN, TOKYO, LIMA, service(), B1, T1)
    await made.rig.open()
    yield made
    made.rig.close()


@pytest.mark.asyncio
async def test_maps_are_derived_and_workers_use_them(node: Node) -> None:
    await node.round(derive=False)
    assert node.sites_of() == ()
    await node.round()
    assert node.maps.faults == []
    assert node.maps.derived == 2
    assert node.sites_of() == ("berlin", "tokyo")
    image = node.rig.workers[0].images.image
    assert image is not None
    table = image.maps[1]
    levels = list(table.row(table.find_resolver(ip_address("20.1.2.3").packed))[0])
    assert levels[1] == 0 < levels[0]  # 20/8 is in Tokyo
    assert layout.F_REMAP not in [frame.kind for frame in node.rig.workers[0].frames[1:]]
    await node.round()
    assert node.maps.derived == 2  # nothing has changed
    assert [(m["map"], m["services"]) for m in node.maps.described()] == [(0, 0), (1, 1)]


@pytest.mark.asyncio
async def test_a_new_sites_endpoint_is_placed_at_once(node: Node) -> None:
    await node.round()
    node.rig.put(L1)
    await node.rig.publish()
    assert node.sites_of() == ("berlin", "lima", "tokyo")  # map 0, before any round
    await node.round()
    assert node.maps.derived == 2
    assert [view.sites for view in node.maps.views.values()] == [("berlin", "lima", "tokyo")]


@pytest.mark.asyncio
async def test_a_new_site_joins_behind_and_a_lost_one_moves_columns(node: Node) -> None:
    await node.round()
    node.rig.put(site("aaa", 1, 1))
    await node.round()
    assert node.maps.views[0].sites == ("berlin", "lima", "tokyo", "aaa")
    assert layout.F_REMAP not in [frame.kind for frame in node.rig.workers[0].frames[1:]]
    node.rig.drop(LIMA)
    await node.round()
    assert node.maps.views[0].sites == ("berlin", "tokyo", "aaa")
    assert node.rig.workers[0].frames[-1].kind == layout.F_REMAP
    assert node.sites_of() == ("berlin", "tokyo")


@pytest.mark.asyncio
async def test_a_restart_opens_what_is_there(node: Node, tmp_path: Path, atlas: Path) -> None:
    await node.round()
    again = Node(tmp_path, atlas)
    again.rig.fleet.version = 5
    again.rig.put(BERLIN, TOKYO, LIMA, service(), B1, T1)
    await again.maps.round(derive=False)
    await again.rig.open()
    assert again.maps.derived == 0
    assert again.sites_of() == ("berlin", "tokyo")
    again.rig.close()


@pytest.mark.asyncio
async def test_a_damaged_table_is_derived_anew(node: Node) -> None:
    await node.round()
    file = node.maps.dir / node.maps.views[1].file
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="octets"):
        open_table(file, 2)
    node.maps.views.pop(1)
    await node.round()
    assert "octets" in node.maps.faults[0]
    await node.round()
    assert node.maps.faults == []
    assert node.sites_of() == ("berlin", "tokyo")


@pytest.mark.asyncio
async def test_without_an_atlas_weights_decide(tmp_path: Path) -> None:
    made = Node(tmp_path, tmp_path / "nowhere", BERLIN, service(), B1)
    await made.rig.open()
    await made.round()
    assert "dnsd data build" in made.maps.faults[0]
    assert made.rig.workers[0].ask(SERVICE) == (0, [b"\xc0\0\x02\x01"])
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "atlas").write_bytes(b"not an atlas")
    await made.round()
    assert made.maps.atlas is None
    made.rig.close()


@pytest.mark.asyncio
async def test_the_child_derives_and_says_what_is_wrong(
    tmp_path: Path, atlas: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Node(tmp_path, atlas, BERLIN, service(), B1)
    await made.rig.open()
    await made.round()
    assert (made.maps.derived, made.maps.faults) == (1, [])
    made.rig.put(BERLIN.model_copy(update={"latitude": 10.0}))
    monkeypatch.setattr(mapplan, "spec", lambda site: {"id": site.id})
    await made.round()
    assert made.maps.faults == ["map of 1 sites: /sites/0: latitude is missing"]
    monkeypatch.setattr(maps_module, "DERIVE_S", 0.01)
    monkeypatch.setattr(mapplan, "spec", lambda site: {"id": "other", **site.model_dump(mode="json")})
    await made.round()
    assert made.maps.faults == ["map of 1 sites: not derived within 0 s"]
    made.rig.close()


@pytest.mark.asyncio
async def test_a_table_that_cannot_be_derived_leaves_the_old_map(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.round()
    node.rig.put(BERLIN.model_copy(update={"latitude": 10.0}))
    monkeypatch.setattr(mapplan, "spec", lambda site: {"id": site.id})
    await node.round()
    assert "latitude is missing" in node.maps.faults[0]
    assert node.sites_of() == ("berlin", "tokyo")
    monkeypatch.setattr(mapplan, "spec", lambda site: site.model_dump(mode="json"))
    await node.round()
    assert node.maps.faults == []


@pytest.mark.asyncio
async def test_unused_tables_are_removed_after_a_while(node: Node) -> None:
    await node.round()
    (node.maps.dir / "old.map").write_bytes(b"x")
    await node.round()
    node.rig.put(BERLIN.model_copy(update={"latitude": 10.0}))
    before = {view.file for view in node.maps.views.values()}
    await node.round()
    used = {view.file for view in node.maps.views.values()}
    assert not used & before
    assert set(os.listdir(node.maps.dir)) == before | used | {"old.map"}
    node.rig.clock.ms += int(KEEP_S * 1000)
    await node.round()
    assert set(os.listdir(node.maps.dir)) == used | before  # noted only a moment ago, and a worker may be late
    node.rig.clock.ms += int(KEEP_S * 1000)
    await node.round()
    assert set(os.listdir(node.maps.dir)) == used


@pytest.mark.asyncio
async def test_tables_of_an_image_on_disk(node: Node) -> None:
    await node.round()
    await node.rig.publisher.rewrite()
    image = node.rig.files.load()
    assert image is not None
    assert opened(image.map_refs, node.maps.dir).keys() == {0, 1}
    assert opened({3: "none.map", 4: "../atlas"}, node.maps.dir) == {}


@pytest.mark.asyncio
async def test_measured_round_trips_make_another_table_and_none_the_same(tmp_path: Path, atlas: Path) -> None:
    """By the real child: named by their digest, told with the map; the estimates beside it stay and go with it."""
    made = Node(tmp_path, atlas, BERLIN, TOKYO, service(), B1, T1)
    await made.rig.open()
    await made.round()
    plain = made.maps.views[0].file
    blocks = np.array([1 << 16, 2 << 16], np.uint64)
    measured = Table.zeros(("berlin", "elsewhere"), blocks)
    measured.ms[:], measured.error[:], measured.count[:], measured.weight[:] = 120, 1, 60, 1
    measured.write(tmp_path / "rtt.table")
    made.maps.measured(tmp_path / "rtt.table", measured)
    await made.round()
    assert made.maps.faults == []
    assert made.maps.views[0].file != plain
    [told] = made.maps.described()
    assert "used" in told["rtt"]
    assert told["measured"]
    assert told["churn"] is not None
    made.maps.measured(tmp_path / "rtt.table", Table.zeros(("elsewhere",), blocks))  # of no site of ours
    await made.round()
    assert made.maps.views[0].file == plain
    made.rig.close()
