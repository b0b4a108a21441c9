"""Why, over DNS: the strings against the explanation, the reply as dnspython reads it, and who is left as they were."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
import pytest_asyncio

from dnsd import metrics
from dnsd.context import Context
from dnsd.control import why
from dnsd.control.clock import Allowance
from dnsd.dns.prefixes import Prefixes
from tests.control.fleet_samples import SERVICE, endpoint, override, service, site
from tests.control.rig import ZONE, zone
from tests.control.test_explain import Node

pytestmark = pytest.mark.asyncio
WILD, SIX, NONE = "*.wild.example.com", "six.example.com", "none.example.com"
CLIENT = ipaddress.ip_address("10.1.2.3").packed
UDP, TCP = (Context([0] * metrics.SLOTS, tcp=tcp) for tcp in (False, True))


class Desk:
    """Asks `why.answer` as the desk does."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.control: Any = SimpleNamespace(
            explainer=node.explainer, publisher=node.rig.publisher, clock=node.rig.clock, node="n1", ecs_from=None,
            why=Allowance(node.rig.clock, rate=0.1, most=0.25))

    def reply(
        self, name: str, type_: str = "TXT", *, subnet: str = "", client: bytes = CLIENT, **options: Any,
    ) -> dns.message.Message:
        if subnet:
            options["options"] = [dns.edns.ECSOption.from_text(subnet)]
        query = dns.message.make_query(name, type_, **({"use_edns": 0, "payload": 1232} | options))
        data = why.answer(self.control, query.to_wire(), client, UDP)
        assert data is not None
        reply = dns.message.from_wire(data)
        assert query.is_response(reply)
        assert len(data) <= max(512, min(query.payload if query.edns >= 0 else 512, 1232))
        assert not reply.flags & dns.flags.TC
        return reply

    def told(self, name: str, **options: Any) -> dict[str, dict[str, str]]:
        """Strings by their first word; the second `next` is `next2`."""
        reply = self.reply(name, **options)
        assert reply.rcode() == dns.rcode.NOERROR
        assert reply.flags & dns.flags.AA
        [rrset] = reply.answer
        assert (rrset.ttl, rrset.rdtype, len(rrset)) == (0, dns.rdatatype.TXT, 1)
        found: dict[str, dict[str, str]] = {}
        for string in rrset[0].strings:
            first, *words = string.decode("ascii").split(" ")
            while first in found:
                first += "2"
            found[first] = dict(word.split("=", 1) for word in words if "=" in word) | {"": " ".join(words)}
        return found


@pytest_asyncio.fixture
async def desk(tmp_path: Path, atlas: Path) -> AsyncIterator[Desk]:
    node = Node(tmp_path, atlas)
    node.rig.put(
        site("berlin", 52.5, 13.4), site("paris", 48.9, 2.4, "FR"),
        site("osaka", 34.7, 135.5, "JP", "as").model_copy(update={"provider": "nimbus", "asns": (64510,)}),
        service(), service(WILD), service(SIX), service(NONE, types=["A"]),
        endpoint("b1", "192.0.2.1", "2001:db8::1", site="berlin"), endpoint("p1", "192.0.2.3", site="paris", load=4),
        endpoint("o1", "192.0.2.5", site="osaka"), endpoint("late", "192.0.2.7", site="osaka", tier=1),
        endpoint("down", "192.0.2.8", site="paris"), override("endpoint", f"{SERVICE}/down", "down"),
        endpoint("w", "192.0.2.9", site="paris", service=WILD),
        endpoint("v6", None, "2001:db8::6", site="paris", service=SIX))
    await node.rig.open()
    await node.maps.round()
    await node.rig.publish()
    yield Desk(node)
    node.rig.close()


async def test_everything_that_decided(desk: Desk) -> None:
    told = desk.told(f"_why.{SERVICE}", subnet="20.1.2.0/24")
    also = desk.node.explain(SERVICE, "A", "10.1.2.3", "20.1.2.0/24")
    assert list(told) == ["answer", "client", "map", "best", "next", "next2", "rung", "forced", "version"]
    answer = told["answer"]
    assert (answer["a"], answer["aaaa"], answer["ttl"], answer["rcode"]) == ("192.0.2.5", "2001:db8::1", "8", "NOERROR")
    assert answer["scope"] == str(also["scope"])
    client = told["client"]
    assert (client["address"], client["by"]) == ("20.1.2.0/24", "ecs")
    assert (client["country"], client["asn"], client["provider"]) == ("JP", "64510", "nimbus")
    assert told["map"]["row"] == str(also["map"]["row"])
    best = told["best"]
    assert (best["site"], best["endpoint"], best["common"]) == ("osaka", "o1", "provider,asn,country,region")
    assert int(best["score"]) == sum(int(best[part]) for part in ("proximity", "match", "standing"))
    for name, place in (("next", 1), ("next2", 2)):
        candidate = also["candidates"][place]
        assert (told[name]["endpoint"], told[name]["score"]) == (candidate["endpoint"], str(candidate["score"]))
        assert told[name]["lost"] == "band"
    assert told["rung"]["rung"] == "live"
    assert (told["rung"]["panic"], told["rung"]["removed"]) == ("no", "1")
    assert told["forced"][""] == f"endpoint {SERVICE}/down down: test"
    stamp = desk.node.rig.publisher.live.stamp
    assert told["version"]["image"] == f"{stamp.epoch:016x}.{stamp.version}.{stamp.node_seq}"
    assert told["version"]["atlas"] == also["map"]["atlas"]
    assert told["version"]["node"] == "test"


async def test_why_the_next_lost(desk: Desk) -> None:
    told = desk.told(f"_why.{SERVICE}", subnet="10.1.2.0/24")
    assert told["best"]["site"] in ("berlin", "paris")
    assert told["next"]["lost"] == "score"
    assert told["next"]["band"] == "in"
    desk.node.rig.drop(endpoint("o1", "192.0.2.5", site="osaka"), endpoint("p1", "192.0.2.3", site="paris"))
    desk.node.rig.put(endpoint("b2", "192.0.2.33", site="berlin"))
    await desk.node.rig.publish()
    told = desk.told(f"_why.{SERVICE}", subnet="10.1.2.0/24")
    assert [told[name]["lost"] for name in ("next", "next2")] == ["draw", "tier"]


@pytest.mark.parametrize(("client", "subnet", "shown", "by"), [
    ("10.1.2.3", "", "10.1.2.3", "resolver"), ("10.1.2.3", "0.0.0.0/0", "10.1.2.3", "resolver"),
    ("2a01:1::5", "", "2a01:1::5", "resolver"), ("2a01:1::5", "20.1.0.0/16", "20.1.0.0/16", "ecs"),
    ("10.1.2.3", "2a01:1::/48", "2a01:1::/48", "ecs"),
])
async def test_who_is_judged_and_the_scope(desk: Desk, client: str, subnet: str, shown: str, by: str) -> None:
    packed = ipaddress.ip_address(client).packed
    told = desk.told(f"_why.{SERVICE}", subnet=subnet, client=packed)
    assert (told["client"]["address"], told["client"]["by"]) == (shown, by)
    options = desk.reply(f"_why.{SERVICE}", subnet=subnet, client=packed).options
    if not subnet:
        assert not options
    else:
        [option] = options
        assert isinstance(option, dns.edns.ECSOption)
        expected = desk.node.explain(SERVICE, "A", client, subnet)["scope"]
        assert f"{option.address}/{option.srclen}" == subnet
        assert str(option.scopelen) == told["answer"]["scope"] == str(expected)


async def test_subnets_of_those_who_are_not_believed(desk: Desk) -> None:
    desk.control.ecs_from = Prefixes(["192.0.2.0/24"])
    told = desk.told(f"_why.{SERVICE}", subnet="20.1.2.0/24")
    assert (told["client"]["address"], told["client"]["by"]) == ("10.1.2.3", "resolver")
    assert not desk.reply(f"_why.{SERVICE}", subnet="20.1.2.0/24").options
    believed = bytes((192, 0, 2, 9))
    assert desk.told(f"_why.{SERVICE}", subnet="20.1.2.0/24", client=believed)["client"]["by"] == "ecs"


async def test_wildcard_services_and_other_rungs(desk: Desk) -> None:
    told = desk.told("_WHY.Some.wild.Example.com")
    assert (told["answer"]["a"], told["rung"]["service"]) == ("192.0.2.9", WILD)
    told = desk.told(f"_why.{SIX}")
    assert (told["answer"]["a"], told["answer"]["aaaa"]) == ("-", "2001:db8::6")
    assert told["best"]["endpoint"] == "v6"
    told = desk.told(f"_why.{NONE}")
    assert (told["answer"]["a"], told["answer"]["rcode"], told["rung"]["rung"]) == ("-", "SERVFAIL", "empty")
    assert "best" not in told


async def test_what_does_not_fit_is_left_out(desk: Desk) -> None:
    """The client takes 512 octets: the least telling strings go, never by TC."""
    long = ".".join(["x" * 60] * 3) + ".wild.example.com"
    for options in ({"use_edns": -1}, {"payload": 512}, {"payload": 100}):
        for name in (SERVICE, long):
            told = desk.told(f"_why.{name}", **options)
            assert next(iter(told)) == "answer"
            assert "version" in told
        assert "best" not in told
    for name in ("p1", "down"):
        forced = override("endpoint", f"{SERVICE}/{name}", "down")
        desk.node.rig.put(forced.model_copy(update={"reason": "because\t\u00fc " * 20}))
    await desk.node.rig.publish()
    told = desk.told(f"_why.{SERVICE}")
    assert all(len(each[""]) < 255 for each in told.values())
    assert told["forced"][""].startswith(f"endpoint {SERVICE}/down down: because\t? because")
    assert set(told) >= {"answer", "client", "best", "version"}


@pytest.mark.parametrize(("name", "type_", "rcode"), [
    ("_why.no.example.com", "TXT", "NXDOMAIN"), ("_why.static.example.com", "TXT", "NXDOMAIN"),
    ("_why.example.org", "TXT", "REFUSED"), (f"_why.{SERVICE}", "A", "NXDOMAIN"), (SERVICE, "TXT", "NOERROR"),
    (f"_why._why.{SERVICE}", "TXT", "NXDOMAIN"), (f"x._why.{SERVICE}", "TXT", "NXDOMAIN"),
    ("_why.example.com", "TXT", "NXDOMAIN"),
])
async def test_the_rest_is_answered_as_ever(desk: Desk, name: str, type_: str, rcode: str) -> None:
    reply = desk.reply(name, type_, subnet="20.1.2.0/24")
    assert dns.rcode.to_text(reply.rcode()) == rcode
    assert not reply.answer


@pytest.mark.parametrize(("packet", "rcode"), [
    (bytes.fromhex("000100000001000000000001") + b"\4_why\3api\0\0\x10\0\1" + b"\0\0\x29\0\0", 1),
    (bytes.fromhex("000100000001000000000001") + b"\4_why\3api\0\0\x10\0\1\0\0\x29\4\xd0\0\1\0\0\0\0", 0),
    (bytes.fromhex("000100000002000000000000") + b"\4_why\3api\0\0\x10\0\1", 1),
])
async def test_malformed_ones(desk: Desk, packet: bytes, rcode: int) -> None:
    data = why.answer(desk.control, packet, CLIENT, UDP)
    assert data is not None
    assert (data[3] & 15, data[6:8]) == (rcode, b"\0\0")
    assert why.answer(desk.control, packet[:3] + b"\x80" + packet[4:12], CLIENT, UDP) is not None
    assert why.answer(desk.control, packet[:11], CLIENT, UDP) is None


async def test_an_ordinary_answer_over_tcp_is_whole(desk: Desk) -> None:
    """A name of the zone that begins like a question why, with more data than a datagram holds."""
    node = desk.node.rig
    node.publisher.zones = (zone(node.state, f'{ZONE}_why.large TXT {" ".join(["x" * 250] * 8)}\n'),)
    node.publisher.mark(structure="zones")
    await node.publish()
    query = dns.message.make_query("_why.large.example.com", "TXT").to_wire()
    for context in (UDP, TCP):
        data = why.answer(desk.control, query, CLIENT, context)
        assert data is not None
        reply = dns.message.from_wire(data)
        assert (bool(reply.flags & dns.flags.TC), len(reply.answer)) == (not context.tcp, context.tcp)


async def test_explaining_takes_a_share_of_the_time_at_most(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, honest = desk.node.rig.clock, desk.node.explainer.explain

    def slow(*question: Any) -> dict[str, Any]:
        clock.ms += 10
        return honest(*question)

    monkeypatch.setattr(desk.node.explainer, "explain", slow)
    query, began = dns.message.make_query(f"_why.{SERVICE}", "TXT").to_wire(), clock.ms
    told = 0
    while clock.ms < began + 10_000:
        if why.answer(desk.control, query, CLIENT, UDP) is None:
            clock.ms += 10
        else:
            told += 1
    assert told * 20 == pytest.approx(0.1 * 10_000 + 250, abs=40)


async def test_without_an_image(tmp_path: Path, atlas: Path) -> None:
    node = Node(tmp_path, atlas)
    query = dns.message.make_query(f"_why.{SERVICE}", "TXT").to_wire()
    assert why.answer(Desk(node).control, query, CLIENT, UDP) is None
    node.rig.close()
