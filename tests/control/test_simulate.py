"""Simulations against what really comes of the change: the same node, changed and published, gives the same answers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dnsd.atlas import derive
from dnsd.control import reply, simulate, simulating, whatif
from dnsd.control.maps import Maps
from dnsd.control.simulate import BusyError, FailedError, Simulator
from dnsd.control.spill import Spills
from dnsd.control.state import Fleet
from dnsd.control.whatif import ImpossibleError, Question
from dnsd.dns import names, types
from dnsd.registry.fields import Model
from dnsd.registry.models import Kind
from dnsd.registry.values import Change
from tests.control.fleet_samples import SERVICE, endpoint, override, service, site
from tests.control.rig import Rig

pytestmark = pytest.mark.asyncio
OTHER = "other.example.com"
PLACES = {"berlin": (52.5, 13.4, "DE", "eu"), "paris": (48.9, 2.4, "FR", "eu"), "tokyo": (35.7, 139.7, "JP", "as"),
          "lima": (-12.0, -77.0, "PE", "sa")}
CLIENTS = [f"{first}.{second}.{third}.0/24" for first in (10, 20, 30, 40) for second in (0, 1, 77)
           for third in (0, 70, 200)]


class Node:
    """A rig with maps; `asked` is what its own image answers."""

    def __init__(self, state: Path, atlas: Path) -> None:
        tables = atlas.parent / "simulated-maps"  # shared: a table is derived once
        tables.mkdir(exist_ok=True)
        (state / "maps").symlink_to(tables)
        self.rig = Rig(state)
        self.maps = Maps(self.rig.fleet, atlas, state / "maps", clock=self.rig.clock)
        self.maps.publisher = self.rig.publisher
        self.rig.views.map_of = self.maps.of
        self.simulator = Simulator(self.rig.views, self.rig.publisher, self.maps)

    async def follow(self, *objects: Model) -> None:
        if objects:
            self.rig.put(*objects)
        await self.maps.round()
        await self.rig.publish()
        assert self.maps.faults == []

    async def simulate(self, changes: Iterable[Change] = (), **question: Any) -> dict[str, Any]:
        clients = [{"prefix": prefix, "weight": 1 + number % 3} for number, prefix in enumerate(CLIENTS)]
        asked = {"services": [SERVICE], "clients": clients, **question}
        told = await self.simulator.simulate(changes, Question.model_validate(asked))
        json.dumps(told)
        return told

    def asked(self, name: str = SERVICE) -> dict[str, str]:
        """Client -> site, of what is published now, at the moment 0."""
        image = self.rig.publisher.live.image
        assert image is not None
        found = {}
        for text in CLIENTS:
            network = ipaddress.ip_network(text)
            answer = self.rig.workers[0].asker.ask(
                image, reply.query(names.to_wire(name), types.A, network), 0,
                (network.network_address + 1).packed)
            [rr] = answer.answer
            [found[text]] = [e.site for e in self.rig.fleet.endpoints() if e.a and e.a.packed == rr.rdata]
        return found


@pytest_asyncio.fixture
async def node(tmp_path: Path, atlas: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """With the child's work done here, and maps derived here too: a process costs more than what it does."""
    monkeypatch.setattr(simulate, "_child", child_here)
    monkeypatch.setattr(simulating, "_derive", derived_here)
    made = Node(tmp_path, atlas)
    made.rig.put(
        *(site(id_, *place) for id_, place in PLACES.items()), service(), service(OTHER),
        *(endpoint(f"{id_}-{n}", f"192.0.2.{10 * at + n}", site=id_) for at, id_ in enumerate(PLACES) for n in (1, 2)),
        *(endpoint(id_, f"198.51.100.{at}", site=id_, service=OTHER) for at, id_ in enumerate(("berlin", "tokyo"))))
    await made.rig.open()
    await made.follow()
    yield made
    made.rig.close()


async def child_here(task: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return simulating.simulate(json.loads(json.dumps(task)), Path(folder))


def derived_here(order: dict[str, Any]) -> None:
    derive.derive(Path(order["atlas"]), derive.site_specs(order["sites"]), Path(order["out"]))


def moved(before: dict[str, str], after: dict[str, str]) -> float:
    weights = {text: 1 + number % 3 for number, text in enumerate(CLIENTS)}
    return sum(weights[text] for text in CLIENTS if before[text] != after[text]) / sum(weights.values())


def shares(found: dict[str, str]) -> dict[str, float]:
    weights = {text: 1 + number % 3 for number, text in enumerate(CLIENTS)}
    whole = sum(weights.values())
    return {name: pytest.approx(sum(w for text, w in weights.items() if found[text] == name) / whole, abs=1e-5)
            for name in sorted(set(found.values()))}


ADDED = {"id": "osaka", "latitude": 34.7, "longitude": 135.5, "country": "JP", "region": "as"}
CASES: dict[str, tuple[dict[str, Any], list[Model]]] = {
    "lost": ({"lost": ["tokyo"]}, [override("site", "tokyo", "down")]),
    "two lost": ({"lost": ["tokyo", "berlin"]}, [
        override("site", "tokyo", "down"), override("site", "berlin", "down")]),
    "moved": ({"moved": {"tokyo": {"latitude": 51.0, "longitude": 10.0}}}, [site("tokyo", 51.0, 10.0, "JP", "as")]),
    "added": ({"added": [ADDED]}, [site("osaka", 34.7, 135.5, "JP", "as"), endpoint(
        "simulated.0", "240.0.0.1", site="osaka")]),
    "weight": ({"weights": {"berlin": 0}}, [endpoint(f"berlin-{n}", f"192.0.2.{n}", weight=0, site="berlin")
                                            for n in (1, 2)]),
    "policy": ({"policies": {SERVICE: {"preset": "weighted"}}}, [service(policy={"preset": "weighted"})]),
    "ttl": ({}, [service(ttl=77)]),
}


@pytest.mark.parametrize("case", CASES)
async def test_it_tells_what_then_comes(node: Node, case: str) -> None:
    """Simulated first, then done, published and asked."""
    question, objects = CASES[case]
    before = node.asked()
    changes = [Change("put", Kind.SERVICE, objects[0])] if case == "ttl" else []
    told = await node.simulate(changes, **question)
    assert node.asked() == before
    await node.follow(*objects)
    after = node.asked()
    [one] = told["services"]
    assert one["before"]["sites"] == shares(before)
    assert one["after"]["sites"] == shares(after)
    assert one["moved"] == told["moved"] == pytest.approx(moved(before, after), abs=1e-5)
    assert (one["moved"] > 0) == (case != "ttl")
    lost = set(question.get("lost", ()))
    assert one["had_to"] == pytest.approx(sum(
        weight for _, (name, weight) in zip(CLIENTS, _weighed(before), strict=True) if name in lost), abs=1e-5)


def _weighed(found: dict[str, str]) -> list[tuple[str, float]]:
    whole = sum(1 + number % 3 for number in range(len(CLIENTS)))
    return [(found[text], (1 + number % 3) / whole) for number, text in enumerate(CLIENTS)]


async def test_round_trips_and_groups(node: Node) -> None:
    told = await node.simulate(lost=["tokyo"])
    [one] = told["services"]
    before, after = one["before"]["rtt_ms"], one["after"]["rtt_ms"]
    assert before["mean"] < after["mean"]
    assert before["known_of"] == pytest.approx(0.75, abs=0.02)  # of 40.0.0.0/8 no place is known
    assert before["curve"] == sorted(before["curve"])
    assert before["curve"][-1] >= before["p99"] >= before["p95"] >= before["p50"]
    [flow, *_] = one["flows"]
    assert (flow["from"], flow["after_ms"] > flow["before_ms"] + 50) == ("tokyo", True)
    countries = {group["name"]: group for group in one["countries"]}
    assert countries["JP"]["moved"] == 1.0
    assert countries["JP"]["from"] == "tokyo"
    assert countries["DE"]["moved"] == 0.0
    assert countries["DE"]["before_ms"] == countries["DE"]["after_ms"] < 20
    assert {group["name"] for group in one["carriers"]} >= {"longline", "-"}
    assert "AS64510 Far East" in {group["name"] for group in one["networks"]}


async def test_a_longer_way_to_a_site_moves_those_whom_another_suits(node: Node) -> None:
    policy = {SERVICE: {"preset": "latency"}}
    near = await node.simulate(policies=policy)
    told = await node.simulate(policies=policy, rtt_ms={"tokyo": 400})
    sites = told["services"][0]["after"]["sites"]
    assert near["services"][0]["after"]["sites"]["tokyo"] > 0.2
    assert sites.get("tokyo", 0.0) < 0.2
    for group in told["services"][0]["countries"]:
        if group["name"] == "JP":
            assert group["after_ms"] < 400


async def test_load_against_capacity(node: Node) -> None:
    told = await node.simulate(lost=["tokyo"], capacities={"berlin": 10, "paris": 1000}, load=100)
    sites = {one["site"]: one for one in told["sites"]}
    assert told["load"] == {"units": 100, "from": "given"}
    assert sum(one["load_after"] for one in told["sites"]) == pytest.approx(100, abs=0.01)
    assert sites["tokyo"]["load_after"] == 0
    assert sites["berlin"]["full"]
    assert sites["berlin"]["used_after"] == pytest.approx(sites["berlin"]["load_after"] / 10)
    assert sites["berlin"]["capacity_before"] is None
    assert not sites["paris"]["full"]


async def test_clients_of_the_atlas_and_every_service(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulating, "SAMPLE", 300)
    told = await node.simulate(services=[], clients=[], lost=["berlin"])
    assert told["clients"]["source"] == "the atlas's IPv4 addresses"
    assert {one["service"] for one in told["services"]} == {SERVICE, OTHER}
    assert all(one["moved"] > 0 for one in told["services"])


async def test_clients_of_one_service_and_without_ecs(node: Node) -> None:
    told = await node.simulate(services=[SERVICE, OTHER], lost=["berlin"], clients=[
        {"prefix": "10.2.0.0/24", "weight": 3, "service": OTHER}, {"prefix": "2a00::/48", "ecs": False},
        {"prefix": "20.9.9.9/32"}])
    by_name = {one["service"]: one for one in told["services"]}
    assert by_name[SERVICE]["clients_weight"] == 2
    assert by_name[OTHER]["clients_weight"] == 5
    assert by_name[OTHER]["moved"] == pytest.approx(0.8)
    assert by_name[SERVICE]["moved"] == pytest.approx(0.5)


async def test_nothing_is_left(node: Node) -> None:
    """What is lost is as forced down: it is no last good answer either."""
    told = await node.simulate(lost=list(PLACES))
    assert told["services"][0]["after"]["sites"] == {"(no answer)": 1.0}
    assert told["services"][0]["after"]["rtt_ms"] is None
    await node.follow(service(fallback={"a": ["203.0.113.9"]}))
    told = await node.simulate(lost=list(PLACES))
    assert told["services"][0]["after"]["sites"] == {"(fallback)": 1.0}
    assert told["services"][0]["moved"] == told["services"][0]["had_to"] == 1.0


async def test_without_an_atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights decide, clients must be named, and nobody knows how far anything is."""
    monkeypatch.setattr(simulate, "_child", child_here)
    (tmp_path / "n").mkdir()
    (tmp_path / "nothing").mkdir()
    bare = Node(tmp_path / "n", tmp_path / "nothing" / "atlas")
    bare.rig.put(site("berlin", *PLACES["berlin"]), site("tokyo", *PLACES["tokyo"]), service(),
                 endpoint("b", "192.0.2.1", site="berlin"), endpoint("t", "192.0.2.2", site="tokyo"))
    await bare.rig.open()
    await bare.maps.round()
    await bare.rig.publish()
    told = await bare.simulate(lost=["tokyo"])
    [one] = told["services"]
    assert 0.2 < one["moved"] == one["had_to"] < 0.8
    assert one["after"] == {"sites": {"berlin": 1.0}, "rtt_ms": None}
    assert told["atlas"] is None
    with pytest.raises(ValueError, match="no atlas to take clients from"):
        await bare.simulate(clients=[])
    bare.rig.close()


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"services": ["nobody.example.com"]}, "/services/0"), ({"lost": ["nowhere"]}, "/lost/0"),
    ({"moved": {"nowhere": {"latitude": 1, "longitude": 1}}}, "/moved/nowhere"),
    ({"weights": {"nowhere": 1}}, "/weights/nowhere"), ({"rtt_ms": {"nowhere": 5}}, "/rtt_ms/nowhere"),
    ({"capacities": {"nowhere": 5}}, "/capacities/nowhere"), ({"added": [{**ADDED, "id": "berlin"}]}, "/added/0/id"),
    ({"policies": {SERVICE: {"band_ms": -4}}}, f"/policies/{SERVICE}/band_ms"),
    ({"policies": {"nobody.example.com": {}}}, "/policies/nobody.example.com"),
    ({"clients": [{"prefix": "10.0.0.0/24", "service": OTHER}]}, "/clients/0/service"),
]


@pytest.mark.parametrize(("question", "place"), IMPOSSIBLE)
async def test_what_is_not_there_is_named(node: Node, question: dict[str, Any], place: str) -> None:
    with pytest.raises(ImpossibleError) as caught:
        await node.simulate(**question)
    assert [fault.place for fault in caught.value.faults] == [place]


async def test_one_at_a_time_and_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real child."""
    monkeypatch.undo()
    question = Question.model_validate({
        "services": [SERVICE], "lost": ["tokyo"], "clients": [{"prefix": prefix} for prefix in CLIENTS]})
    here = await child_here(node.simulator.task(whatif.imagine(node.rig.fleet, (), question, 1), question))
    there = await node.simulator.simulate((), question)
    assert {**here, "seconds": 0} == {key: 0 if key == "seconds" else there[key] for key in here}
    first = asyncio.create_task(node.simulate(lost=["tokyo"]))
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await node.simulate(lost=["tokyo"])
    assert (await first)["moved"] > 0
    monkeypatch.setattr(simulate, "SECONDS", 0.0)
    with pytest.raises(FailedError, match="not made within"):
        await node.simulate(lost=["tokyo"])
    monkeypatch.setattr(simulate, "ASKED", 10)
    with pytest.raises(ImpossibleError, match="questions to ask"):
        await node.simulate(lost=["tokyo"])


async def test_nothing_changes(node: Node) -> None:
    """Neither fleet nor image nor any file."""
    state = node.rig.state
    fleet, stamp = whatif.copied(node.rig.fleet), node.rig.publisher.live.stamp
    files = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    maps = sorted(path.name for path in node.maps.dir.iterdir())
    await node.simulate([Change("delete", Kind.ENDPOINT, key=f"{SERVICE}/tokyo-1")], lost=["berlin"], added=[ADDED])
    for name in ("sites", "services", "members", "overrides", "owned", "version"):
        assert getattr(node.rig.fleet, name) == getattr(fleet, name)
    assert node.rig.publisher.live.stamp == stamp
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == files
    assert sorted(path.name for path in node.maps.dir.iterdir()) == maps


SPILL = {"policy": {"spill": {"demand": 100}}}


async def test_spilling_over(node: Node) -> None:
    """Shares are solved anew for what would be: nobody is filled beyond its watermark where another has room."""
    for id_, place in PLACES.items():
        node.rig.put(site(id_, *place).model_copy(update={"capacity": 60}))
    node.rig.put(service(**SPILL))
    spills = Spills(node.rig.views, node.rig.publisher, node.maps, None, clock=node.rig.clock)
    await node.follow()
    await spills.turn()
    await node.rig.publish()
    told = await node.simulate(clients=[], lost=["berlin"])
    [one] = told["services"]
    assert told["load"] == {"units": 100, "from": "policy"}
    assert one["had_to"] == pytest.approx(one["before"]["sites"]["berlin"], abs=1e-5)
    sites = {each["site"]: each for each in told["sites"]}
    assert sites["berlin"]["load_after"] == 0
    assert all(each["used_after"] < 0.96 for each in told["sites"])
    assert sum(each["load_after"] > each["load_before"] + 1 for each in told["sites"]) >= 2, "to several"
    node.rig.put(override("site", "berlin", "down"))
    await node.follow()
    await spills.turn()
    await node.rig.publish()
    view = node.rig.publisher.live.published[names.to_wire(SERVICE)]
    shares = {e.site: (e.keep, e.take) for e in view.live}
    again = await node.simulate(clients=[])
    assert again["moved"] == 0
    assert again["services"][0]["after"]["sites"] == one["after"]["sites"], shares


async def test_a_thousand_weights_are_laid_in_one_walk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each walked over all endpoints, while nothing else was done: 2.4 s with 8,000 of them."""
    walks = []
    endpoints = Fleet.endpoints
    monkeypatch.setattr(Fleet, "endpoints", lambda self: (walks.append(1), endpoints(self))[1])
    question = Question.model_validate({"weights": {
        "berlin": 7, f"{SERVICE}/berlin-2": 9, **{f"{SERVICE}/none-{n}": 1 for n in range(998)}}})
    with pytest.raises(ImpossibleError) as caught:
        whatif.imagine(node.rig.fleet, [], question, 0)
    assert (len(caught.value.faults), len(walks)) == (998, 1)
    found = whatif.imagine(node.rig.fleet, [], Question.model_validate({"weights": {
        "berlin": 7, f"{SERVICE}/berlin-2": 9}}), 0).fleet
    assert {e.key: e.weight for e in found.members[SERVICE].values() if e.site == "berlin"} == {
        f"{SERVICE}/berlin-1": 7, f"{SERVICE}/berlin-2": 9}
