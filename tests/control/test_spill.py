"""Spill-over on a node: what is published when a site dies, who the clients are, what sites carry, and explanations."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dnsd.control import reply, spill
from dnsd.control.explain import Explainer
from dnsd.control.maps import Maps
from dnsd.control.spill import MOST, Block, Spills
from dnsd.dns import names, types
from dnsd.registry.models import Endpoint, Site
from dnsd.steer.spill import WHOLE
from tests.control.fleet_samples import SERVICE, endpoint, override, service, site
from tests.control.rig import Rig

pytestmark = pytest.mark.asyncio
PLACES = {"berlin": (52.5, 13.4, "DE", "eu"), "paris": (48.9, 2.4, "FR", "eu"), "tokyo": (35.7, 139.7, "JP", "as"),
          "osaka": (34.7, 135.5, "JP", "as")}
SPILL = {"preset": "latency", "spill": {}}
CLIENTS = [f"{block}.{number}.{part}.0/24" for block in (10, 20) for number in range(16) for part in range(5, 256, 16)]


class Node:
    """A published rig with a map and shares; each client of the list weighs one unit."""

    def __init__(self, state: Path, atlas: Path) -> None:
        tables = atlas.parent / "spill-maps"
        tables.mkdir(exist_ok=True)
        if not (state / "maps").exists():
            (state / "maps").symlink_to(tables)
        self.rig = Rig(state)
        self.list = state / "clients.csv"
        self.list.write_text("prefix,weight\n" + "".join(f"{prefix},1\n" for prefix in CLIENTS))
        self.maps = Maps(self.rig.fleet, atlas, state / "maps", clock=self.rig.clock)
        self.maps.publisher = self.rig.publisher
        self.rig.views.map_of = self.maps.of
        self.spills = Spills(self.rig.views, self.rig.publisher, self.maps, self.list, clock=self.rig.clock)

    def capacity(self, **units: int) -> None:
        self.rig.put(*(at(id_).model_copy(update={"capacity": units.get(id_, 1000)}) for id_ in PLACES))

    async def settle(self) -> None:
        """Publish, solve, publish what was solved."""
        await self.rig.publish()
        await self.spills.turn()
        await self.rig.publish()

    def ask(self, prefix: str) -> tuple[str, int]:
        """Site and scope."""
        worker = self.rig.workers[0]
        worker.turn()
        assert worker.images.image is not None
        packet = reply.query(names.to_wire(SERVICE), types.A, ipaddress.ip_network(prefix))
        answer = worker.asker.ask(worker.images.image, packet, self.rig.clock.ms // 1000)
        assert answer.scope is not None
        return list(PLACES)[answer.answer[0].rdata[3] - 1], answer.scope

    def all(self) -> list[str]:
        return [self.ask(prefix)[0] for prefix in CLIENTS]

    def told(self) -> dict[str, Any]:
        [found] = self.spills.described()["services"]
        return {one["site"]: one for one in found["sites"]} | {"": found}


def at(id_: str) -> Site:
    return site(id_, *PLACES[id_])


def at_each(**more: Any) -> list[Endpoint]:
    return [endpoint(id_, f"192.0.2.{number}", site=id_, **more) for number, id_ in enumerate(PLACES, 1)]


@pytest_asyncio.fixture
async def node(tmp_path: Path, atlas: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path, atlas)
    made.rig.put(*map(at, PLACES), service(policy=SPILL), *at_each())
    made.capacity()
    await made.rig.open()
    await made.maps.round()
    await made.settle()
    assert made.maps.faults == []
    yield made
    made.rig.close()


async def test_a_dead_sites_clients_go_to_several_and_come_back(node: Node) -> None:
    before = node.all()
    counted = Counter(before)
    assert len(counted) > 1
    dead = counted.most_common(1)[0][0]
    node.rig.put(override("site", dead, "down"))
    await node.rig.publish()
    at_once = node.all()  # with the shares there were
    assert dead not in at_once
    await node.spills.turn()
    await node.rig.publish()
    after = node.all()
    for found in (at_once, after):
        assert {was for was, now in zip(before, found, strict=True) if was != now} == {dead}
    told = node.told()
    assert not told[dead]["alive"]
    assert {id_: told[id_]["kept"] + told[id_]["taken"] for id_ in PLACES} == {
        id_: float(Counter(after)[id_]) for id_ in PLACES}
    node.rig.drop(override("site", dead, "down"))
    await node.settle()
    assert node.all() == before


async def test_no_site_is_filled_beyond_its_watermark(node: Node) -> None:
    counted = Counter(node.all())
    full = counted.most_common(1)[0][0]
    node.rig.put(service(policy={"preset": "latency", "spill": {"demand": 3 * len(CLIENTS)}}))
    node.capacity(**{full: 2 * counted[full]})  # 3 units each
    await node.settle()
    after, told = Counter(node.all()), node.told()
    assert told[full]["keep"] < 1
    assert 0.85 < 3 * after[full] / told[full]["capacity"] <= 0.95
    assert told[full]["load"] == pytest.approx(3 * after[full] / told[full]["capacity"], abs=1e-4)
    assert sum(after.values()) == len(CLIENTS)


async def test_scopes_are_not_wider_than_who_stays_together(node: Node) -> None:
    assert all(node.ask(prefix)[1] >= 20 for prefix in CLIENTS)
    site, scope = node.ask("10.1.16.0/24")
    for part in range(16, 32):
        assert node.ask(f"10.1.{part}.0/24")[0] == site or scope > 20


async def test_explained(node: Node) -> None:
    explainer = Explainer(node.rig.views, node.rig.publisher, node.maps)
    before = {prefix: node.ask(prefix)[0] for prefix in CLIENTS}
    told = explainer.explain(SERVICE, "A", None, CLIENTS[0])
    assert told["spill"]["native"] == told["spill"]["site"] == before[CLIENTS[0]]
    assert told["spill"]["kept"]
    assert "keeps it" in told["why"]["spill"]
    dead = before[CLIENTS[0]]
    node.rig.put(override("site", dead, "down"))
    await node.settle()
    for prefix in [one for one in CLIENTS if before[one] == dead][:60]:
        told = explainer.explain(SERVICE, "A", None, prefix)
        assert told["spill"]["native"] == dead
        assert told["spill"]["site"] == node.ask(prefix)[0]
        assert told["spill"]["asked"][0] == {"site": dead, "share": 1.0, "says": "not answerable"}
        assert f"{dead} cannot be answered" in told["why"]["spill"]
        assert dead in [one["site"] for one in told["removed"]]
        assert dead not in [one["site"] for one in told["candidates"]]


async def test_an_ended_site_keeps_its_clients_together_for_ten_minutes(node: Node) -> None:
    before = node.all()
    dead = Counter(before).most_common(1)[0][0]
    number = list(PLACES).index(dead) + 1
    node.rig.put(endpoint(dead, f"192.0.2.{number}", site=dead, lease="x"))
    await node.settle()
    assert node.all() == before
    node.rig.drop(endpoint(dead, f"192.0.2.{number}", site=dead, lease="x"))
    await node.settle()
    assert {was for was, now in zip(before, node.all(), strict=True) if was != now} == {dead}
    view = node.rig.views.resolved[SERVICE].view
    assert [one.site for one in view.ghosts] == [dead]
    node.rig.clock.ms += 601_000
    node.rig.publisher.mark([SERVICE])
    await node.settle()
    assert node.rig.views.resolved[SERVICE].view.ghosts == ()


async def test_what_an_operator_has_deleted_leaves_nothing(node: Node) -> None:
    node.rig.drop(endpoint("berlin", "192.0.2.1", site="berlin"))
    await node.settle()
    assert node.rig.views.resolved[SERVICE].view.ghosts == ()


async def test_nothing_is_solved_twice(node: Node) -> None:
    solved = node.spills.solved
    node.rig.put(service(policy=SPILL, ttl=30))
    await node.settle()
    await node.spills.turn()
    assert node.spills.solved == solved
    node.rig.put(service(policy={"preset": "latency"}))
    await node.settle()
    assert node.spills.described()["services"] == []


async def test_two_nodes_solve_alike(node: Node, tmp_path: Path, atlas: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Node(tmp_path / "other", atlas)
    other.rig.put(*reversed([*map(at, PLACES), service(policy=SPILL), *at_each()]))
    other.capacity()
    await other.rig.open()
    await other.maps.round()
    await other.settle()
    found = [{id_: (one[id_]["keep"], one[id_]["take"]) for id_ in PLACES} for one in (node.told(), other.told())]
    other.rig.close()
    assert found[0] == found[1]


async def test_a_list_that_cannot_be_read_leaves_the_shares(node: Node) -> None:
    shares = node.told()
    node.list.write_text("prefix,weight\n10.0.0.0/24,none\n")
    await node.spills.turn()
    assert "clients.csv:2" in node.spills.described()["fault"]
    assert any("clients.csv:2" in one for one in node.spills.conditions())
    assert {id_: node.told()[id_]["take"] for id_ in PLACES} == {id_: shares[id_]["take"] for id_ in PLACES}


async def test_too_many_clients_are_told(node: Node) -> None:
    node.capacity(berlin=10, paris=10, tokyo=10, osaka=10)
    await node.settle()
    assert not node.told()[""]["fits"]
    assert [SERVICE in one for one in node.spills.conditions()] == [True]
    assert node.spills.described()["overfull"] == 1


@pytest.mark.parametrize(("policy", "loads", "given", "demand"), [
    ({}, None, 0.0, 2800.0),           # 70 % of 4 x 1000
    ({}, None, 55.0, 55.0),            # a list's weights
    ({"share": 50}, None, 0.0, 1400.0),
    ({"demand": 77}, (4, 4, 4, 4), 55.0, 77.0),
    ({}, (4, 4, 4, 0), 55.0, 3 * 562.5 + 62.5),  # reported: the middle of an eighth
    ({}, (0, 0, 0, 0), 55.0, 55.0),    # nobody reports anything
])
async def test_what_all_clients_ask_for(node: Node, policy: dict[str, int], loads: tuple[int, ...] | None, given: float,
                                        demand: float) -> None:
    leased = {} if loads is None else {"lease": "x"}
    node.rig.put(service(policy={"preset": "geo", "spill": policy}), *(
        one.model_copy(update={"load": load, **leased})
        for one, load in zip(at_each(), loads or (0,) * 4, strict=True)))
    await node.rig.publish()
    found = spill.wanted(node.rig.fleet, SERVICE, node.rig.views.resolved[SERVICE], "", given, "")
    assert found is not None
    assert found.demand == pytest.approx(demand)


async def test_half_of_a_site_is_half_its_capacity(node: Node) -> None:
    node.rig.put(endpoint("second", "192.0.2.9", site="paris"), override("endpoint", f"{SERVICE}/second", "down"))
    await node.settle()
    assert node.told()["paris"]["capacity"] == 500


async def test_before_anything_is_solved_sites_keep_all_and_take_half(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    Spills(rig.views, rig.publisher, Maps(rig.fleet, tmp_path, tmp_path, clock=rig.clock), None, clock=rig.clock)
    rig.put(*map(at, PLACES), service(policy=SPILL), *at_each())
    await rig.open()
    assert {(one.keep, one.take) for one in rig.views.resolved[SERVICE].view.live} == {(WHOLE, WHOLE // 2)}
    rig.close()


async def test_fewer_stand_for_all() -> None:
    blocks = [Block(False, number << 8, 1 + number % 3) for number in range(40_000)]
    found = spill.fewer(blocks)
    assert len(found) <= MOST
    assert sum(one.weight for one in found) == pytest.approx(sum(one.weight for one in blocks), rel=0.001)
    heavy = spill.fewer([*blocks, Block(False, 99 << 24, 1e6)])
    assert max(heavy, key=lambda one: one.weight).weight == pytest.approx(1e6, rel=0.01)
    assert spill.fewer(blocks[:5]) == blocks[:5]


@pytest.mark.parametrize("line", ["nonsense,1", *(f"10.0.0.0/24,{weight}" for weight in ("0", "-1", "nan", "inf", ""))])
async def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"# a comment\n2001:db8::/48,2\n{line}\n")
    with pytest.raises(ValueError, match="list:3"):
        spill.read(tmp_path / "list")
    (tmp_path / "list").write_text(f"{line}\n10.0.0.0/24\n" * 30)
    with pytest.raises(ValueError, match=r"list:1: .*; .*list:3: .*; .*list:39: .*; and 10 more$"):
        spill.read(tmp_path / "list")


async def test_new_clients_are_counted_in_spare_time_and_the_dead_at_once(node: Node) -> None:
    """Each new table of round trips makes other clients and maps: with hundreds of services nothing else was done."""
    solved = node.spills.solved
    node.spills._spare.spend(100.0)
    node.list.write_text("".join(f"{prefix},3\n" for prefix in CLIENTS))
    await node.settle()
    assert node.spills.solved == solved
    node.rig.put(override("site", "tokyo", "down"))
    await node.settle()
    assert node.spills.solved == solved + 1
    assert not node.told()["tokyo"]["alive"]
    node.list.write_text("".join(f"{prefix},7\n" for prefix in CLIENTS))
    node.rig.clock.ms += 1000_000
    await node.settle()
    assert node.told()[""]["demand"] == 7 * len(CLIENTS)
