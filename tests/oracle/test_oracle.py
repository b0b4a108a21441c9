"""Ten thousand clients ask a running server: it answers what the raw data files and the documented rules say."""

from __future__ import annotations

import os
import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from tests.oracle import fleet
from tests.oracle.ask import Answer, Question, ask
from tests.oracle.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SEED = int(os.environ.get("TEST_SEED", "2026"))
CLIENTS = 10_000
RESOLVERS = 600


def test_a_running_server_agrees_with_the_raw_data(world: World) -> None:
    rnd = random.Random(SEED)
    questions = [_question(world, rnd) for _ in range(CLIENTS)] + [_resolver(world, rnd) for _ in range(RESOLVERS)]
    answers = ask(world.node.port, questions)
    seen: Counter[str] = Counter()
    wrong = []
    for question, answer in zip(questions, answers, strict=True):
        expected = world.expect(question)
        seen["hair"] += expected.hair
        seen[answer.worker] += 1
        seen["several groups"] += len(expected.groups) > 1
        fault = "" if expected.hair else _fault(world, question, answer, expected.allows(answer.addresses))
        if fault:
            wrong.append(f"{question}\n  {fault}: {answer}\n  {world.of(question)}\n  {expected}")
    print(f"seed {SEED}: {dict(seen)}")
    assert not wrong, f"seed {SEED}: {len(wrong)} of {len(questions)} wrong, among them\n" + "\n".join(wrong[:5])
    assert seen["hair"] <= len(questions) // 500
    assert seen["w0"] > 1000
    assert seen["w1"] > 1000
    assert seen["several groups"] > len(questions) // 2


def test_what_explain_prints_ranks_to_what_is_answered(world: World) -> None:
    """Each part of every candidate's place, put together again by the documented formula, gives the order printed."""
    rnd = random.Random(SEED + 1)
    for _ in range(300):
        question = _question(world, rnd)
        told = _explained(world, question)
        expected = world.expect(question)
        answer, = ask(world.node.port, [question])
        assert (told["rcode"], told["scope"], told["ttl"]) == (answer.rcode, answer.scope, answer.ttl)
        assert expected.hair or expected.allows(told["addresses"]), (question, told, expected)
        if told["candidates"] and any(candidate["answered"] for candidate in told["candidates"]):
            _ranks_again(told)


def _question(world: World, rnd: random.Random) -> Question:
    """A random service, type and client; the subnet as long as resolvers send it, sometimes shorter or longer."""
    version = 4 if rnd.random() < 0.7 else 6
    address = world.client(rnd, version)
    length = rnd.choice((24, 24, 24, 25, 32) if version == 4 else (56, 56, 56, 48, 64))
    if rnd.random() < 0.03:
        inside = int(world.client(rnd, 4))
        address = IPv6Address(rnd.choice((0xFFFF << 32 | inside, 0x64FF9B << 96 | inside, 0x2002 << 112 | inside << 80,
                                          0x20010000 << 96 | inside ^ 0xFFFFFFFF)))
        length = 120
    subnet = ip_network((address, length), strict=False)
    return Question(rnd.choice(sorted(world.services)), rnd.choice(("A", "AAAA")), subnet)


def _resolver(world: World, rnd: random.Random) -> Question:
    """A question without subnet, or with one of length 0, from an address that the operator's prefixes place."""
    lines = [line.network for line in world.origins.lines if line.network.network_address.packed[0] == 127]
    network = rnd.choice(lines)
    assert network.version == 4
    source = IPv4Address(int(network.network_address) + rnd.randrange(network.num_addresses))
    if int(source) & 0xFFFFFF in (0, 0xFFFFFF):
        source = IPv4Address("127.0.0.1")
    subnet = ip_network("0.0.0.0/0") if rnd.random() < 0.3 else None
    return Question(rnd.choice(sorted(world.services)), rnd.choice(("A", "AAAA")), subnet, str(source))


def _fault(world: World, question: Question, answer: Answer, allowed: bool) -> str:
    service = world.services[question.name]
    if answer.rcode != "NOERROR":
        return f"rcode {answer.rcode}"
    if not allowed:
        return "not the best"
    if answer.ttl != service["ttl"]:
        return f"TTL {answer.ttl}"
    if question.subnet is None:
        return "scope without subnet" if answer.scope is not None else ""
    if answer.scope is None:
        return "no scope"
    carried = question.subnet.version == 6 and question.subnet.prefixlen > 64
    most = 24 if question.subnet.version == 4 else 120 if carried else 56
    if answer.scope > most or (answer.scope and not question.subnet.prefixlen):
        return f"scope {answer.scope}"
    everybody = service["policy"]["preset"] in ("failover", "weighted") and "fence" not in service["policy"]
    return f"scope {answer.scope} though the client does not matter" if everybody and answer.scope else ""


def _explained(world: World, question: Question) -> dict[str, Any]:
    path = f"/v1/explain?name={question.name}&type={question.type}&subnet={question.subnet}&client={question.source}"
    reply = world.node.api("GET", path)
    assert reply.status == 200, reply
    body: dict[str, Any] = reply.body
    return body


def _ranks_again(told: dict[str, Any]) -> None:
    """Every number that can be worked out from others is; then the order, the groups and who is answered follow."""
    policy, row = told["policy"], {one["site"]: one for one in told["row"]}
    tiers: dict[int, list[int]] = {}
    for one in told["candidates"]:
        seen = row.get(one["site"], {"ms": 0, "match": []})
        assert (one["ms"], one["match"]) == (seen["ms"], seen["match"])
        tiers.setdefault(one["tier"] if one["weight"] else one["tier"] + 256, []).append(one["ms"])
    places = []
    for one in told["candidates"]:
        tier = one["tier"] if one["weight"] else one["tier"] + 256
        in_band = one["ms"] <= min(tiers[tier]) + policy["band_ms"]
        proximity = policy["proximity"] * (1000 * policy["half_ms"] // (policy["half_ms"] + one["ms"]))
        match = policy["match"] * 1000 if {"provider", "carrier", "asn"} & set(one["match"]) else 0
        score = proximity + (match + one["standing"] if in_band else 0)
        assert (one["in_band"], one["proximity"], one["match_points"]) == (in_band, proximity, match)
        assert one["score"] == score
        places.append((tier, not in_band, -score, one["cost"]))
    assert places == sorted(places)
    groups = [place[:3] for place in places]
    assert [one["group"] for one in told["candidates"]] == [sorted(set(groups)).index(group) + 1 for group in groups]
    assert [one["address"] for one in told["candidates"]][: policy["take"]] == told["addresses"]
    assert [one["answered"] for one in told["candidates"]] == [i < policy["take"] for i in range(len(places))]


def test_the_fleet_uses_every_rule() -> None:
    policies = [service["policy"] for service in fleet.SERVICES]
    assert {policy["preset"] for policy in policies} == {"geo", "latency", "weighted", "failover"}
    assert {policy.get("fence") for policy in policies} == {None, "country", "region"}
