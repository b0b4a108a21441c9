"""Milliseconds with what they rest on: by distance, by a map's estimates, in explain and over DNS."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from dnsd.atlas import store
from dnsd.control import reckon
from dnsd.control.reckon import Place, Shelf
from dnsd.control.simulate import Simulator
from dnsd.control.whatif import Question
from dnsd.rtt import blocks
from dnsd.rtt.table import COUNT_SCALE, EPOCH_MINUTES, Table
from dnsd.steer import distance
from tests.control.fleet_samples import NOW, SERVICE, endpoint, service, site
from tests.control.test_explain import Node

pytestmark = pytest.mark.asyncio
PLACES = {"berlin": (52.5, 13.4, "DE", "eu"), "paris": (48.9, 2.4, "FR", "eu"), "tokyo": (35.7, 139.7, "JP", "as")}
CLIENT = "10.0.7.0/24"
MS = {"berlin": 95.0, "paris": 12.5}
AGE_MIN = 7


@pytest_asyncio.fixture
async def node(tmp_path: Path, atlas: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path, atlas)
    made.rig.put(
        *(site(id_, *place) for id_, place in PLACES.items()), service(policy={"preset": "latency"}),
        *(endpoint(id_, f"192.0.2.{at}", site=id_) for at, id_ in enumerate(PLACES, 1)))
    await made.rig.open()
    await made.maps.round()
    await made.rig.publish()
    yield made
    made.rig.close()


def measured(number: int = 5) -> Table:
    """One block, measured from two of the sites."""
    block = blocks.of(ipaddress.ip_network(CLIENT).network_address)
    table = Table.zeros(tuple(PLACES), np.array([block], np.uint64), number=number, at_ms=NOW)
    for column, name in enumerate(PLACES):
        if name in MS:
            table.ms[0, column] = round(MS[name] * 10)
            table.error[0, column], table.reporters[0, column] = 2, 1
            table.count[0, column] = round(COUNT_SCALE * np.log2(1 + 31))
            table.seen[0, column] = NOW // 60_000 - EPOCH_MINUTES - AGE_MIN
    table.weight[0] = 31
    return table


async def follow(node: Node, table: Table) -> None:
    path = node.rig.state / f"{table.digest}.table"
    table.write(path)
    node.maps.measured(path, table)
    await node.maps.round()
    await node.rig.publish()
    assert node.maps.faults == []


async def test_by_distance_where_nothing_is_measured(node: Node) -> None:
    told = node.explain(SERVICE, subnet=CLIENT)
    assert told["map"]["table"] is None
    origin = told["origin"]
    for candidate in told["candidates"]:
        km = distance.km(origin["latitude"], origin["longitude"], *PLACES[candidate["site"]][:2])
        assert candidate["rtt_ms"] == pytest.approx(distance.rtt_ms(km), abs=0.06)
        assert (candidate["rtt_source"], candidate["rtt_samples"]) == ("distance", 0)
        assert (candidate["rtt_error_ms"], candidate["rtt_age_min"], candidate["rtt_confidence"]) == (None, None, None)
    nowhere = node.explain(SERVICE, subnet="198.18.0.0/24")
    assert all("rtt_ms" not in candidate for candidate in nowhere["candidates"])


async def test_what_is_measured_is_told(node: Node) -> None:
    assert node.explain(SERVICE, subnet=CLIENT)["candidates"][0]["site"] == "berlin"
    await follow(node, measured())
    told = await node.explainer.told(SERVICE, "A", None, CLIENT)
    assert told["map"]["table"] == 5
    candidates = {candidate["site"]: candidate for candidate in told["candidates"]}
    assert told["candidates"][0]["site"] == "paris"
    for name, ms in MS.items():
        one = candidates[name]
        assert (one["rtt_ms"], one["rtt_source"], one["rtt_samples"]) == (ms, "measured", 31)
        assert one["rtt_error_ms"] == 2
        assert AGE_MIN <= one["rtt_age_min"] < AGE_MIN + 1
        assert 0.9 < one["rtt_confidence"] <= 1
    other = candidates["tokyo"]
    assert other["rtt_source"] != "measured"
    assert (other["rtt_samples"], other["rtt_age_min"]) == (0, None)
    assert 0 <= other["rtt_confidence"] < candidates["paris"]["rtt_confidence"]
    assert {column["site"]: column["rtt_ms"] for column in told["row"]} == {
        name: candidate["rtt_ms"] for name, candidate in candidates.items()}
    beside = await node.explainer.told(SERVICE, "A", None, "10.0.9.0/24")
    assert {candidate["rtt_source"] for candidate in beside["candidates"]} & {"measured"} == set()
    node.rig.clock.ms += 60_000
    again = await node.explainer.told(SERVICE, "A", None, CLIENT)
    assert again["candidates"][0]["rtt_age_min"] == pytest.approx(candidates["paris"]["rtt_age_min"] + 1)


async def test_a_simulation_has_the_same_figures(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after, and with a shift on top of what was measured."""
    await follow(node, measured())
    simulator = Simulator(node.rig.views, node.rig.publisher, node.maps)
    question = Question.model_validate({"clients": [{"prefix": CLIENT}], "rtt_ms": {"paris": 50}})
    [one] = (await simulator.simulate((), question))["services"]
    assert one["before"]["rtt_ms"]["mean"] == 12.5
    assert one["after"]["rtt_ms"]["mean"] == 62.5
    assert one["moved"] == 0
    [one] = (await simulator.simulate((), question.model_copy(update={"rtt_ms": {"paris": 100.0}})))["services"]
    assert (one["moved"], one["had_to"]) == (1.0, 0.0)
    assert one["after"]["sites"] == {"berlin": 1.0}
    assert one["after"]["rtt_ms"]["mean"] == 95.0


async def test_large_estimates_are_read_beside(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a while is read by `told`, in a thread; until then it is as if by distance."""
    monkeypatch.setattr(reckon, "QUICK", 1)
    await follow(node, measured())
    assert node.explain(SERVICE, subnet=CLIENT)["map"]["table"] is None
    assert (await node.explainer.told(SERVICE, "A", None, CLIENT))["map"]["table"] == 5
    assert node.explain(SERVICE, subnet=CLIENT)["map"]["table"] == 5


async def test_a_damaged_file_is_none(node: Node, atlas: Path, tmp_path: Path) -> None:
    (tmp_path / "x.rtt").write_bytes(b"PK\x03\x04 no zip")
    shelf = Shelf(tmp_path)
    for number in range(20):
        assert shelf.get(f"{number}.map") is None
    assert shelf.get("x.map") is None
    found, number_of = shelf.reckon("x.map", store.open_atlas(atlas), ipaddress.IPv4Address("10.0.7.9"),
                                    [Place("berlin", 52.5, 13.4)], NOW)
    assert (set(found), number_of) == ({"berlin"}, None)
    assert len(shelf._known) <= reckon.KEPT
