"""Canaries: listeners where no tenant may make this machine connect, asked for in every form, on the real thing.

The schedule, the policy and the probes as a node has them; every family of disguise; names that change their answer;
redirects. What must come to a canary is nothing: not refused replies, no connection.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from dnsd.dns.prefixes import Prefixes
from dnsd.watch import own, probe
from dnsd.watch.outcome import Outcome
from dnsd.watch.schedule import Schedule, Target
from dnsd.watch.target import Check, Kind, Policy, literal
from tests.watch.listeners import tcp, udp

KINDS: tuple[Kind, ...] = ("tcp", "http", "https", "tls", "grpc", "dns")
DISGUISES = ("127.0.0.1", "127.255.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1",
             "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::127.0.0.1", "2002:7f00:1::", "2002:7f00:1::1",
             "2001:0:7f00:1::", "2001:0:808:808::80ff:fffe", "fe80::1", "fe80::5efe:127.0.0.1", "169.254.169.254",
             "::ffff:169.254.169.254", "fd00:ec2::254")


class Wall:
    """The machine's own clock."""

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def scheduled(policy: Policy, targets: list[Target], seconds: float) -> list[tuple[Target, Outcome]]:
    """What a node's schedule is told of these targets in that time."""
    results: list[tuple[Target, Outcome]] = []
    schedule = Schedule(probe.begin, lambda target, outcome, _: results.append((target, outcome)), policy,
                        clock=Wall(), node="a")
    for i, target in enumerate(targets):
        schedule.watch(target, f"e{i}", "s")
    running = asyncio.create_task(schedule.run())
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert schedule.under_way == 0
    return results


def on_machine(port: int) -> list[Target]:
    mine = [str(ip_address(address)) for address in own.addresses()]
    return [Target(Check(kind, port, verify=False), literal(text)) for text in (*DISGUISES, *mine) for kind in KINDS]


@pytest.mark.asyncio
async def test_nothing_comes_to_a_canary() -> None:
    async with tcp(host="0.0.0.0") as four, tcp(host="::1") as six, udp(lambda _: []) as datagrams:
        targets = [target for seen in (four, six, datagrams) for target in on_machine(seen.port)]
        results = await scheduled(Policy(own=own.addresses()), targets, 0.7)
        assert (four.connections, six.connections, datagrams.requests) == (0, 0, [])
        assert results == []


@pytest.mark.asyncio
async def test_a_fleet_on_this_machine_opens_no_socket_of_our_own() -> None:
    async with tcp() as store, tcp() as fleet:
        here = [str(ip_address(address)) for address in own.addresses()]
        allow = Prefixes(["127.0.0.0/8", "0.0.0.0/8", "::/16", "64:ff9b:1::/48", "2002:7f00:1::/48", *here])
        policy = Policy(allow=allow, own=own.addresses(), sockets=frozenset({(b"", store.port)}))
        mine = Target(Check("tcp", fleet.port), b"\x7f\0\0\1")
        results = await scheduled(policy, [*on_machine(store.port), mine], 0.7)
        assert store.connections == 0
        assert fleet.connections > 0
        assert {target.check.port for target, _ in results} == {fleet.port}


@pytest.mark.asyncio
async def test_a_redirect_leads_nowhere_and_a_rebinding_name_is_only_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: looked_up.append(names))
    async with tcp(port=0, host="127.0.0.9") as canary:
        location = b"Location: http://127.0.0.9:%d/\r\n" % canary.port
        answers: list[Callable[[bytes], list[bytes | float | None]]] = [
            lambda _, code=code: [b"HTTP/1.1 %d Go\r\n%s\r\n" % (code, location)]  # type: ignore[misc]
            for code in (301, 302, 303, 307, 308)]
        for answer in answers:
            async with tcp(answer) as front:
                policy = Policy(allow=Prefixes(["127.0.0.1/32"]), own=own.addresses())
                check = Check("http", front.port, host="rebinding.example")
                outcomes = [outcome for _, outcome in await scheduled(policy, [Target(check, b"\x7f\0\0\1")], 0.1)]
                assert outcomes
                assert all(outcome.ok for outcome in outcomes)
                assert b"\r\nHost: rebinding.example:" in front.requests[0]
        assert canary.connections == 0
    assert not [one for one in looked_up if "rebinding.example" in str(one)]


@pytest.mark.asyncio
async def test_intervals_on_the_real_clock() -> None:
    async with tcp(lambda _: [b"HTTP/1.1 200 OK\r\n\r\n"]) as target:
        times: list[float] = []
        real = probe.begin

        def begin(check: Check, address: bytes, timeout_s: float, done: Callable[[Outcome], None],
                  connect_s: float | None) -> probe.Exchange:
            times.append(time.monotonic())
            return real(check, address, timeout_s, done, connect_s)

        schedule = Schedule(begin, lambda *_: None, Policy(allow=Prefixes(["127.0.0.0/8"])), clock=Wall(), node="a")
        schedule.watch(Target(Check("http", target.port, interval_ms=100), b"\x7f\0\0\1"), "e", "s")
        running = asyncio.create_task(schedule.run())
        await asyncio.sleep(1.5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert 12 <= len(times) <= 17
    assert target.connections == pytest.approx(len(times), abs=1)
