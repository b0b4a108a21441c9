"""Scope by brute force: inside it everybody has the same row and gets the same scope, one bit shorter somebody has not.

The row is the oracle's own, from the raw files; what is asked is a running server over UDP.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from tests.oracle import fleet
from tests.oracle.ask import Answer, Question, ask
from tests.oracle.conftest import World
from tests.oracle.scoring import Column
from tests.oracle.test_oracle import SEED

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SERVICE = f"geo.{fleet.ZONE}"
SOURCES = {4: (0, 8, 16, 24, 25, 32), 6: (0, 40, 56, 64)}
UNIT = {4: 24, 6: 56}
INSIDE = 24
CLIENTS = 14
Network = IPv4Network | IPv6Network


@pytest.mark.parametrize(("version", "source"), [(v, source) for v, sources in SOURCES.items() for source in sources])
def test_a_scope_is_exact(world: World, version: int, source: int) -> None:
    rnd = random.Random(SEED * 1000 + version * 100 + source)
    subnets = [ip_network((world.client(rnd, version), source), strict=False) for _ in range(CLIENTS)]
    answers = ask(world.node.port, [Question(SERVICE, "A", subnet) for subnet in subnets])
    longer = 0
    for subnet, answer in zip(subnets, answers, strict=True):
        assert answer.scope is not None
        if not source:
            assert answer.scope == 0, "source length 0 asks not to be placed (RFC 7871 §7.1.2)"
            continue
        assert answer.scope <= UNIT[version]
        longer += answer.scope > source
        _inside(world, rnd, subnet, answer)
        _beyond(world, subnet, answer.scope)
    if source == 8:
        assert longer > CLIENTS // 2, "a /8 is seldom all of one row, so most scopes are longer than the source"


def test_scopes_of_one_service_never_overlap_with_different_answers(world: World) -> None:
    """All scopes handed out for one /16 fit together like a puzzle: no two of different length share an address."""
    rnd = random.Random(SEED)
    base = ip_network((world.client(rnd, 4), 16), strict=False)
    answers = ask(world.node.port, [Question(SERVICE, "A", unit) for unit in base.subnets(new_prefix=24)])
    scopes = {ip_network((unit.network_address, max(answer.scope or 0, 16)), strict=False)
              for unit, answer in zip(base.subnets(new_prefix=24), answers, strict=True)}
    assert sum(scope.num_addresses for scope in scopes) == base.num_addresses


def test_a_policy_that_does_not_look_at_the_client_has_scope_0(world: World) -> None:
    rnd = random.Random(SEED)
    subnets = [ip_network((world.client(rnd, v), UNIT[v]), strict=False) for v in (4, 6) for _ in range(50)]
    for name in ("first", "shared"):
        answers = ask(world.node.port, [Question(f"{name}.{fleet.ZONE}", "A", subnet) for subnet in subnets])
        assert {answer.scope for answer in answers} == {0}


def _inside(world: World, rnd: random.Random, subnet: Network, answer: Answer) -> None:
    """Clients sampled inside the scope, its edges among them: same row by the oracle, same scope, as good an answer."""
    scope = ip_network((subnet.network_address, answer.scope), strict=False)
    free = UNIT[scope.version] - scope.prefixlen
    numbers = {0, (1 << free) - 1, *(rnd.getrandbits(free) if free else 0 for _ in range(INSIDE))}
    units = [_unit(scope, number) for number in sorted(numbers)]
    row = _row(world, units[0])
    assert all(_row(world, unit) == row for unit in units), f"{scope} holds more than one row"
    questions = [Question(SERVICE, "A", unit) for unit in units]
    for question, other in zip(questions, ask(world.node.port, questions), strict=True):
        assert other.scope == answer.scope, f"{question.subnet} has scope {other.scope} inside {scope}"
        assert world.expect(question).allows(other.addresses)


def _beyond(world: World, subnet: Network, length: int) -> None:
    """One bit shorter holds another row."""
    if not length:
        return
    scope = ip_network((subnet.network_address, length), strict=False)
    row = _row(world, _unit(scope, 0))
    half, = (net for net in scope.supernet().subnets() if net != scope)
    # Between borders of the data nothing changes, so these units stand for all.
    units = {ip_network((at, UNIT[half.version]), strict=False) for at in world.origins.borders(half)}
    assert any(_row(world, unit) != row for unit in units), (
        f"{scope.supernet()} has one row only: the scope of {subnet} is too narrow")


def _unit(network: Network, number: int) -> Network:
    """The unit of that number inside a network."""
    length = UNIT[network.version]
    at = int(network.network_address) + (number << (network.max_prefixlen - length))
    return IPv4Network((at, length)) if network.version == 4 else IPv6Network((at, length))


def _row(world: World, unit: Network) -> tuple[bool, tuple[Column, ...]]:
    """What ranking may know of a client there; nobody known is a row of its own."""
    origin = world.origins.unit(unit.network_address)
    columns = tuple(world.map(SERVICE).row(origin).values())
    unknown = origin.place.latitude is None and not origin.place.country and not any(c.bits for c in columns)
    return unknown, columns
