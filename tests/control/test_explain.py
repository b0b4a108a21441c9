"""Explanations agree with answers, name every part, and put together again give the same order."""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dnsd.control import explain, reply
from dnsd.control.explain import Explainer
from dnsd.control.maps import Maps
from dnsd.dns import names
from tests.control.fleet_samples import SERVICE, endpoint, override, service, site
from tests.control.rig import ZONE, Rig, zone

pytestmark = pytest.mark.asyncio
EXTRA = ZONE + "alias CNAME api\nsub NS ns1\n*.wild TXT hello\nmx MX 10 static\n"
FENCED, FIRST, ENDED = "fenced.example.com", "first.example.com", "ended.example.com"
LOOSE = "loose.example.com"


class Node:
    """A published rig, its maps derived, and an explainer."""

    def __init__(self, state: Path, atlas: Path) -> None:
        tables = atlas.parent / "maps"  # shared by the tests of this file: a table is derived once
        tables.mkdir(exist_ok=True)
        if not (state / "maps").exists():
            (state / "maps").symlink_to(tables)
        self.rig = Rig(state)
        self.rig.publisher.zones = (zone(state, EXTRA),)
        self.maps = Maps(self.rig.fleet, atlas, state / "maps", clock=self.rig.clock)
        self.maps.publisher = self.rig.publisher
        self.rig.views.map_of = self.maps.of
        self.explainer = Explainer(self.rig.views, self.rig.publisher, self.maps)

    def explain(
        self, name: str, type_: str = "A", client: str | None = None, subnet: str | None = None,
    ) -> dict[str, Any]:
        told = self.explainer.explain(name, type_, client, subnet)
        json.dumps(told)
        return told


@pytest_asyncio.fixture
async def node(tmp_path: Path, atlas: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path, atlas)
    made.rig.put(
        site("berlin", 52.5, 13.4), site("paris", 48.9, 2.4, "FR"), site("tokyo", 35.7, 139.7, "JP", "as"),
        site("osaka", 34.7, 135.5, "JP", "as").model_copy(update={"provider": "nimbus", "asns": (64510,)}),
        service(), service("*.wild2.example.com"),
        endpoint("b1", "192.0.2.1", "2001:db8::1", site="berlin"),
        endpoint("b2", "192.0.2.2", site="berlin", weight=300),
        endpoint("p1", "192.0.2.3", site="paris", load=4), endpoint("t1", "192.0.2.4", site="tokyo"),
        endpoint("o1", "192.0.2.5", site="osaka"), endpoint("z", "192.0.2.6", site="tokyo", weight=0),
        endpoint("late", "192.0.2.7", site="osaka", tier=1), endpoint("down", "192.0.2.8", site="paris"),
        override("endpoint", f"{SERVICE}/down", "down"),
        endpoint("w", "192.0.2.9", site="paris", service="*.wild2.example.com"),
        service(FENCED, policy={"fence": "country"}, fallback={"a": ["203.0.113.1"]}),
        endpoint("f", "192.0.2.10", site="berlin", service=FENCED),
        service(LOOSE, policy={"fence": "country"}), endpoint("l", "192.0.2.14", site="berlin", service=LOOSE),
        service(FIRST, policy={"preset": "weighted", "split4": 20, "split6": 40}),
        endpoint("w1", "192.0.2.11", site="berlin", service=FIRST),
        endpoint("w2", "192.0.2.12", site="tokyo", service=FIRST),
        service(ENDED, types=["A"]), endpoint("e", "192.0.2.13", site="berlin", service=ENDED, lease="x"))
    await made.rig.open()
    made.rig.drop(endpoint("e", "192.0.2.13", site="berlin", service=ENDED, lease="x"))
    await made.maps.round()
    await made.rig.publish()
    assert made.maps.faults == []
    yield made
    made.rig.close()


async def test_every_part_of_a_choice(node: Node) -> None:
    told = node.explain(SERVICE, subnet="20.1.2.0/24")
    assert (told["rcode"], told["addresses"], told["ttl"]) == ("NOERROR", ["192.0.2.5"], 8)
    assert told["decided_by"] == "subnet"
    origin = told["origin"]
    assert (origin["country"], origin["provider"], origin["address"]) == ("JP", "nimbus", "20.1.2.0")
    assert set(told["map"]["sites"]) == {"berlin", "paris", "tokyo", "osaka"}
    row = {column["site"]: column for column in told["row"]}
    assert row["osaka"]["match"] == ["provider", "asn", "country", "region"]
    assert row["tokyo"]["ms"] == 0
    assert row["berlin"]["ms"] > 100
    first = told["candidates"][0]
    assert (first["endpoint"], first["site"], first["answered"], first["in_band"]) == ("o1", "osaka", True, True)
    assert first["score"] == first["proximity"] + first["match_points"] + first["standing"]
    assert [c["endpoint"] for c in told["candidates"]][-2:] == ["late", "z"]  # a later tier, and weight 0
    assert told["removed"] == [{"endpoint": "down", "site": "paris", "why": "endpoint forced down: test"}]
    assert told["why"]["choice"].startswith("o1 at osaka is ")
    assert {c["why"] for c in told["candidates"]} == {"live"}
    assert told["scope"] > 0
    assert told["policy"]["band_ms"] == 30


@pytest.mark.parametrize(("name", "types", "family"), [(SERVICE, None, 4), ("six.example.com", ["AAAA"], 6)])
async def test_https_is_explained_by_its_first_hint(
    node: Node, name: str, types: list[str] | None, family: int,
) -> None:
    node.rig.put(service(name, types=types, https={"alpn": ["h2"]}), endpoint(
        "six", None if types else "192.0.2.99", "2001:db8::99", site="osaka", service=name, weight=500))
    await node.rig.publish()
    told = node.explain(name, "HTTPS", subnet="20.1.2.0/24")
    hinted = [node.explain(name, type_, subnet="20.1.2.0/24")["addresses"] for type_ in ("A", "AAAA")]
    assert told["addresses"] == [address for addresses in hinted for address in addresses]
    assert told["answer"][0].startswith(f"{name}. 8 HTTPS 1 . alpn=\"h2\" ")
    [answered] = [c for c in told["candidates"] if c["answered"]]
    assert ipaddress.ip_address(answered["address"]).version == family
    assert node.rig.publisher.live.refused == {}


async def test_candidates_rank_again_to_the_answer(node: Node) -> None:
    """Put together by the documented formula alone, the parts give the order printed and the address answered."""
    rnd = random.Random(5)
    for _ in range(200):
        address = ipaddress.IPv4Address(rnd.choice((10, 20, 30, 40)) << 24 | rnd.randrange(1 << 24))
        told = node.explain(SERVICE, subnet=f"{address}/24")
        by_place = told["candidates"]
        for c in by_place:
            best = min(other["ms"] for other in by_place if tier(other) == tier(c))
            assert c["in_band"] == (c["ms"] <= best + told["policy"]["band_ms"])
            assert c["score"] == c["proximity"] + (c["match_points"] + c["standing"] if c["in_band"] else 0)
        again = sorted(by_place, key=lambda c: (tier(c), not c["in_band"], -c["score"], c["cost"]))
        assert [c["endpoint"] for c in again] == [c["endpoint"] for c in by_place]
        assert [c["address"] for c in by_place if c["answered"]] == told["addresses"] == [by_place[0]["address"]]


def tier(candidate: dict[str, Any]) -> int:
    """The declared tier; weight 0 is behind all of them."""
    return int(candidate["tier"]) + (0 if candidate["weight"] else 256)


@pytest.mark.parametrize(("client", "subnet", "by"), [
    (None, "10.1.2.0/24", "subnet"), ("10.1.2.3", None, "resolver"), ("10.1.2.3", "0.0.0.0/0", "resolver"),
    ("::ffff:10.1.2.3", None, "resolver"), ("2a01::1", "20.1.2.0/24", "subnet"), (None, "2a01:1::/56", "subnet"),
])
async def test_the_answer_is_what_workers_give(node: Node, client: str | None, subnet: str | None, by: str) -> None:
    worker = node.rig.workers[0]
    network = ipaddress.ip_network(subnet) if subnet else None
    for name, number in ((SERVICE, 1), (SERVICE, 28), (FENCED, 1), (FIRST, 1), (ENDED, 1), ("a.wild2.example.com", 1)):
        told = node.explain(name, "A" if number == 1 else "AAAA", client, subnet)
        packet = reply.query(names.to_wire(name), number, network)
        packed = ipaddress.ip_address(client or "127.0.0.1")
        source = (getattr(packed, "ipv4_mapped", None) or packed).packed
        assert worker.images.image is not None
        answer = worker.asker.ask(worker.images.image, packet, node.rig.clock.unix_ms() // 1000, source)
        assert told["addresses"] == [str(ipaddress.ip_address(rr.rdata)) for rr in answer.answer]
        assert told["scope"] == answer.scope
        if name == SERVICE:
            assert told["decided_by"] == by


@pytest.mark.parametrize(("types", "fallback", "gone", "rung", "of", "hinted"), [
    (None, {}, False, "live", "A", ["192.0.2.20", "2001:db8::20"]),
    (["AAAA"], {}, False, "live", "AAAA", ["2001:db8::20"]),
    (["A"], {"a": ["203.0.113.9"]}, True, "fallback", "A", ["203.0.113.9"]),
    (["A", "AAAA"], {"aaaa": ["2001:db8:f::9"]}, True, "fallback", "AAAA", ["2001:db8:f::9"]),
    (["A", "AAAA"], {}, True, "empty", "A", []),
])
async def test_https_is_explained_by_the_family_that_has_something(
    node: Node, types: list[str] | None, fallback: dict[str, list[str]], gone: bool, rung: str, of: str,
    hinted: list[str],
) -> None:
    web = "web.example.com"
    node.rig.put(service(web, types=types, fallback=fallback, https={}))
    if not gone:
        node.rig.put(endpoint("w20", "192.0.2.20", "2001:db8::20", site="berlin", service=web))
    await node.rig.publish()
    told = node.explain(web, "HTTPS")
    assert (told["rung"], told["addresses"]) == (rung, hinted)
    assert told["why"]["hints"].endswith(f"are those of {of}")
    assert node.rig.publisher.live.refused == {}


async def test_https_of_a_service_that_declares_none(node: Node) -> None:
    told = node.explain(SERVICE, "HTTPS")
    assert (told["rcode"], told["why"]) == ("NOERROR", {"choice": "the name has no records of this type"})


async def test_rungs_and_fences(node: Node) -> None:
    told = node.explain(FENCED, subnet="20.0.0.0/24")
    assert (told["addresses"], told["candidates"]) == (["203.0.113.1"], [])
    assert "fallback" in told["why"]["choice"]
    told = node.explain(FENCED, subnet="10.0.0.0/24")
    assert told["candidates"][0]["match"] == ["country", "region"]
    told = node.explain(LOOSE, subnet="20.0.0.0/24")
    assert told["addresses"] == ["192.0.2.14"]
    assert told["why"]["fence"].startswith("no endpoint is in the client's country")
    assert "fence" not in node.explain(LOOSE, subnet="10.0.0.0/24")["why"]
    told = node.explain(ENDED)
    assert (told["rung"], told["addresses"], told["ttl"]) == ("last_good", ["192.0.2.13"], 2)
    assert told["removed"][0]["why"].startswith("its lease ended at 20")
    assert told["errors"]
    told = node.explain(SERVICE, "AAAA")
    assert {r["why"] for r in told["removed"]} >= {"has no IPv6 address"}
    told = node.explain(FIRST, subnet="10.0.0.0/24")
    assert told["why"]["scope"] == "20: clients of one /20 stay together"
    assert told["decided_by"] == "subnet"


@pytest.mark.parametrize(("name", "type_", "rcode", "why"), [
    ("static.example.com", "A", "NOERROR", "from the zone file"),
    ("mx.example.com", "MX", "NOERROR", "from the zone file"),
    ("x.wild.example.com", "TXT", "NOERROR", "from a wildcard or an alias"),
    ("static.example.com", "TXT", "NOERROR", "has no records of this type"),
    ("api.example.com", "TXT", "NOERROR", "has no records of this type"),
    ("no.example.com", "A", "NXDOMAIN", "no such name"),
    ("www.sub.example.com", "A", "NOERROR", "delegated|no records"),
    ("sub.example.com", "A", "NOERROR", "delegated at sub.example.com."),
    ("example.org", "A", "REFUSED", "no zone of this server"),
    ("example.com", "AXFR", "REFUSED", "transfers are not for you"),
])
async def test_static_names(node: Node, name: str, type_: str, rcode: str, why: str) -> None:
    told = node.explain(name, type_)
    assert told["rcode"] == rcode
    assert re.search(why, told["why"]["choice"])
    assert "candidates" not in told


async def test_names_that_lead_to_a_service(node: Node) -> None:
    told = node.explain("alias.example.com")
    assert told["service"] == SERVICE
    assert told["answer"][0] == "alias.example.com. 300 CNAME api.example.com."
    assert node.explain("any.wild2.example.com")["candidates"][0]["endpoint"] == "w"


@pytest.mark.parametrize(("question", "words"), [
    (("a..b", "A", None, None), "empty label"), (("a", "NOPE", None, None), "no record type"),
    (("a", "A", "300.1.1.1", None), "300.1.1.1"), (("a", "A", None, "10.0.0.0/99"), "10.0.0.0/99"),
])
async def test_bad_questions(question: tuple[str, str, str | None, str | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        explain.parse(*question)


async def test_no_image(tmp_path: Path, atlas: Path) -> None:
    made = Node(tmp_path, atlas)
    with pytest.raises(ValueError, match="no image"):
        made.explain(SERVICE)
    made.rig.close()


async def test_after_a_restart_without_a_store(node: Node, tmp_path: Path, atlas: Path) -> None:
    await node.rig.publisher.rewrite()
    again = Node(tmp_path, atlas)
    told = again.explain(SERVICE, subnet="20.1.2.0/24")
    assert told["addresses"]
    assert told["candidates"][0]["site"] == "?"
    again.rig.close()
