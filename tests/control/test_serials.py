"""Serials of transferred zones on a node: what is served, with the store there, away, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from dnsd import disk
from dnsd.control import reply, transfer
from dnsd.control.serials import Serials
from dnsd.dns import names, types
from dnsd.model import ZoneView
from dnsd.registry.errors import Unavailable
from dnsd.registry.models import Service
from dnsd.registry.values import ZoneContent
from tests.control import rig as rigs
from tests.control.fleet_samples import endpoint, service, site
from tests.control.rig import Rig

pytestmark = pytest.mark.asyncio

APEX = names.to_wire("example.com")
NAME = "api.example.com"


class Store:
    """Serials as the registry gives them, in memory: one more for each new digest, never back for who asks."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.asked: list[ZoneContent] = []
        self.away = False

    async def serials(self, contents: Sequence[ZoneContent]) -> list[int]:
        if self.away:
            raise Unavailable("away")
        self.asked += contents
        return [self._one(content) for content in contents]

    def _one(self, content: ZoneContent) -> int:
        found = self.known.get(content.digest)
        if found is None or (content.served is not None and found < content.served):
            newest = max([*self.known.values(), content.served or 0])
            found = content.served if content.same and content.served else max(newest + 1, content.floor)
        self.known[content.digest] = found
        return found


class Node:
    """A rig whose zone is transferred."""

    def __init__(self, rig: Rig, store: Store) -> None:
        self.rig, self.store = rig, store
        self.serials = Serials(
            [APEX], rig.views, store, rig.state / disk.SERIALS, connected=lambda: True, clock=rig.clock)
        self.serials.restore()
        rig.publisher.serials = self.serials

    def served(self) -> tuple[int, int]:
        """What a worker answers, and what is transferred."""
        image = self.rig.workers[0].images.image
        assert image is not None
        answer = self.rig.workers[0].asker.ask(image, reply.query(APEX, types.SOA), 0)
        return int.from_bytes(answer.answer[0].rdata[-20:-16], "big"), self.serials.contents[APEX].serial

    async def zone(self, extra: str = "", serial: int = 1) -> None:
        text = rigs.ZONE.replace("hostmaster 1 ", f"hostmaster {serial} ") + extra
        self.rig.publisher.zones = (rigs.zone(self.rig.state, text),)
        self.rig.publisher.mark(structure="zones")
        await self.rig.publish()


FLEET = [site("fra"), service(NAME, fallback={"a": ["192.0.2.200"]}),
         endpoint("e", "198.51.100.1", site="fra")]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest_asyncio.fixture
async def node(tmp_path: Path, store: Store) -> AsyncIterator[Node]:
    rig = Rig(tmp_path, *FLEET)
    made = Node(rig, store)
    await rig.open()
    yield made
    rig.close()


def changed(**values: object) -> Service:
    return service(NAME, **{"fallback": {"a": ["192.0.2.200"]}, **values})


async def test_the_zone_is_served_under_the_registrys_serial(node: Node, store: Store) -> None:
    assert node.served() == (1, 1)
    await node.zone("new A 192.0.2.7\n")
    assert node.served() == (2, 2)
    await node.zone("new A 192.0.2.7\n", serial=50)
    assert node.served() == (2, 2), "a serial alone is no change"
    await node.zone("new A 192.0.2.8\n", serial=50)
    assert node.served() == (50, 50)
    assert [content.floor for content in store.asked] == [1, 1, 50]
    assert [content.served for content in store.asked] == [None, 1, 2]


async def test_what_stands_for_a_service_moves_the_serial_and_nothing_else_does(node: Node) -> None:
    rig = node.rig
    rig.put(endpoint("e", "198.51.100.2", site="fra"))
    await rig.publish()
    assert node.served() == (1, 1)
    rig.put(changed(ttl_floor=1))
    await rig.publish()
    assert node.served() == (1, 1)
    assert rig.publisher.live.counts.images == 1
    changes: tuple[dict[str, object], ...] = (
        {"fallback": {"a": ["192.0.2.201"]}}, {"ttl": 77}, {"https": {"alpn": ["h2"]}}, {"types": ["A", "AAAA"]})
    for number, value in enumerate(changes, 2):
        rig.put(changed(**value))
        await rig.publish()
        assert node.served() == (number, number), value
    assert node.serials.faults() == [
        "zone example.com. is not transferred: service api.example.com. has no fallback for AAAA"]
    told = node.serials.described("example.com.")["transfer"]
    assert (told["serial"], told["refused"]) == (5, ["service api.example.com. has no fallback for AAAA"])
    assert node.serials.described("else.example.") == {}


async def test_a_service_that_the_zone_leaves_no_room_for_is_not_transferred(node: Node) -> None:
    node.rig.put(service("static.example.com", fallback={"a": ["192.0.2.9"]}))
    await node.rig.publish()
    found = [each.owner for each in node.serials.contents[APEX].services]
    assert found == [names.to_wire(NAME)]
    assert node.served() == (1, 1)


async def test_without_the_store_no_serial_goes_back(node: Node, store: Store, tmp_path: Path) -> None:
    await node.zone("new A 192.0.2.7\n")
    assert node.served() == (2, 2)
    store.away = True
    await node.zone("new A 192.0.2.8\n")
    assert node.served() == (2, 2)
    assert node.serials.provisional == {APEX}
    assert not await node.serials.again()
    await node.zone("new A 192.0.2.9\n", serial=9)
    assert node.served() == (9, 9)
    await node.zone("new A 192.0.2.7\n")
    assert node.served() == (9, 9)
    store.away = False
    assert await node.serials.again()
    node.rig.publisher.mark(structure="serials")
    await node.rig.publish()
    assert node.served() == (10, 10), "two contents were served as 9"
    assert not await node.serials.again()
    assert node.serials.provisional == set()


async def test_what_was_served_meanwhile_is_taken_over(node: Node, store: Store) -> None:
    store.away = True
    await node.zone("new A 192.0.2.9\n", serial=9)
    assert node.served() == (9, 9)
    store.away = False
    assert not await node.serials.again()
    assert node.serials.provisional == set()
    assert store.known[node.serials.contents[APEX].digest] == 9


async def test_another_nodes_move_is_followed(node: Node, store: Store) -> None:
    digest = node.serials.contents[APEX].digest
    store.known[digest] = 30
    assert await node.serials.again()
    node.rig.publisher.mark(structure="serials")
    await node.rig.publish()
    assert node.served() == (30, 30)
    assert not await node.serials.again()


async def test_it_is_remembered_over_a_restart_without_the_store(node: Node, store: Store) -> None:
    await node.zone("new A 192.0.2.7\n")
    store.away = True
    rig = Rig(node.rig.state, *FLEET)
    after = Node(rig, store)
    rig.publisher.zones = node.rig.publisher.zones
    await rig.open()
    assert after.served() == (2, 2)
    await after.zone()
    assert after.served() == (2, 2), "an older content, but not an older serial"
    rig.close()


@pytest.mark.parametrize("spoilt", [b"", b"[]", b'{"format": 2}', b'{"format": 1, "zones": {"a..b": []}}', b"\xff"])
async def test_a_spoilt_file_is_said(node: Node, spoilt: bytes) -> None:
    (node.rig.state / disk.SERIALS).write_bytes(spoilt)
    with pytest.raises(ValueError, match="cannot be read"):
        node.serials.restore()


async def test_zones_that_are_not_transferred_keep_the_files_serial(tmp_path: Path, store: Store) -> None:
    rig = Rig(tmp_path, *FLEET)
    serials = Serials([names.to_wire("else.example")], rig.views, store, tmp_path / "s", connected=lambda: True,
                      clock=rig.clock)
    rig.publisher.serials = serials
    await rig.open()
    zones = rig.publisher.zones
    assert zones is not None
    assert await serials.dress(zones) == zones
    assert not serials.contents
    assert not store.asked
    assert serials.zones == {APEX}
    rig.close()


async def test_the_image_file_written_anew_keeps_the_serial(node: Node) -> None:
    await node.zone("new A 192.0.2.7\n")
    await node.rig.publisher.rewrite()
    node.rig.workers[0].images.load()
    assert node.served() == (2, 2)


async def test_with_serial_touches_nothing_else() -> None:
    zone = ZoneView(APEX, ())
    assert transfer.with_serial(zone, 5) == zone
