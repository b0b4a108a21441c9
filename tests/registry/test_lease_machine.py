"""Leases as a state machine against a model in Python, on a real store, with lease time moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dnsd.registry import errors, rules
from dnsd.registry.models import Kind, Renewal
from dnsd.registry.store import Registry
from dnsd.registry.values import Holding
from tests.registry import samples as s
from tests.registry.conftest import Server

T = TypeVar("T")
HOLDERS = st.sampled_from(["h1", "h2", "h3"])
NAMES = st.sampled_from(["e1", "e2", "e3", "e4"])
TOKENS = st.sampled_from(["t1", "t1", "t1", "t2"])


@dataclass
class Held:
    """A lease as the model knows it."""

    fence: int
    ttl: int
    ends: int
    token: str
    names: frozenset[str]
    look: int = 0
    last: bool = False


class Leases(RuleBasedStateMachine):
    """What leases promise: one holder per endpoint, growing fences, ends in lease time, a true event stream."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.raw = redis.Redis.from_url(self.server.url)
        self.raw.flushall()
        self.registry = self.run(Registry.open(self.server.url))
        self.run(s.fill(self.registry))
        loaded = self.run(self.registry.load())
        self.writes = loaded.position.version
        self.cursor = loaded.position.cursor
        self.told: dict[str, str | None] = {}
        self.now = 0
        self.leases: dict[str, Held] = {}
        self.fixed: set[str] = set()
        self.top = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.registry.close())
        self.raw.close()
        self.runner.close()

    def still(self) -> None:
        """No real time counts: the gap since the last tick is beyond belief."""
        self.raw.hset("dnsd:meta", "lease_seen", 0)

    def owner(self, name: str) -> str | None:
        return next((holder for holder, held in self.leases.items() if name in held.names), None)

    @rule(
        holder=HOLDERS, names=st.frozensets(NAMES, min_size=1), ttl=st.integers(2, 20), token=TOKENS,
        over=st.booleans())
    def acquire(self, holder: str, names: frozenset[str], ttl: int, token: str, over: bool) -> None:
        self.still()
        held = self.leases.get(holder)
        taken = held is not None and held.token != token and not over
        conflict = any(name in self.fixed or self.owner(name) not in (None, holder) for name in names)
        try:
            granted = self.run(self.registry.acquire(
                s.request(holder, *sorted(names), ttl=ttl), actor="a", token_id=token, take_over=over))
        except errors.Conflict:
            assert taken or conflict
            return
        assert not taken
        assert not conflict
        assert granted.lease.fence > self.top
        assert granted.lease.deadline == self.now + ttl * 1000
        self.top = granted.lease.fence
        self.writes += 1
        self.leases[holder] = Held(granted.lease.fence, ttl, self.now + ttl * 1000, token, names)

    @rule(holder=HOLDERS, behind=st.sampled_from([0, 0, 0, 1]))
    def renew(self, holder: str, behind: int) -> None:
        self.still()
        held = self.leases.get(holder)
        fence = held.fence - behind if held else self.top
        [renewed] = self.run(self.registry.renew([Renewal(id=holder, fence=fence)], actor="a"))
        assert renewed.problem == ("unknown" if held is None else "fenced" if behind else None)
        assert renewed.fence == (held.fence if held else 0)
        if held and not behind:
            held.ends, held.look = self.now + held.ttl * 1000, 0

    @rule(holder=HOLDERS, behind=st.sampled_from([0, 0, 1]))
    def release(self, holder: str, behind: int) -> None:
        held = self.leases.get(holder)
        fence = held.fence - behind if held else self.top
        try:
            self.run(self.registry.release(holder, fence, actor="a"))
        except errors.NotFound:
            assert held is None
        except errors.Conflict:
            assert held is not None
            assert behind
        else:
            assert not behind
            del self.leases[holder]
            self.writes += 1

    @rule(name=NAMES)
    def fix(self, name: str) -> None:
        try:
            self.run(self.registry.put(Kind.ENDPOINT, s.endpoint(name), actor="op", if_match="*"))
        except errors.Conflict:
            assert self.owner(name)
        else:
            assert not self.owner(name)
            self.fixed.add(name)
            self.writes += 1

    @rule(name=NAMES)
    def unfix(self, name: str) -> None:
        try:
            self.run(self.registry.delete(Kind.ENDPOINT, f"{s.API}/{name}", actor="op", if_match="*"))
        except errors.Conflict:
            assert self.owner(name)
        except errors.NotFound:
            assert name not in self.fixed
            assert not self.owner(name)
        else:
            self.fixed.remove(name)
            self.writes += 1

    @rule(milliseconds=st.one_of(st.integers(1, 12_000), st.sampled_from([31_000, 3_600_000, 86_400_000])))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.raw.hincrby("dnsd:meta", "lease_clock", milliseconds)
        self.tick()

    @rule()
    def tick(self) -> None:
        self.still()
        over, caught = self.step()
        tick = self.run(self.registry.tick())
        assert set(tick.expired) == over
        assert set(tick.caught) == caught
        assert tick.held == sum(1 for held in self.leases.values() if held.look)
        assert tick.advanced_ms == 0
        self.writes += len(over) + bool(caught)

    def step(self) -> tuple[set[str], set[str]]:
        """What this tick ends and what it begins to hold, by the rules of docs/registry.md; all are one service's."""
        now, all_ = self.now, len(self.leases)

        def many(count: int) -> bool:
            return count > 1 and count >= min(3, all_) and count * 10 > all_

        def near(ttl: int) -> int:
            return sum(now - 5000 <= held.ends <= now if held.look else held.ends <= now + min(5000, ttl * 500)
                       for held in self.leases.values())

        due = {holder for holder, held in self.leases.items() if not held.look and held.ends <= now}
        caught = {holder for holder in due if many(near(self.leases[holder].ttl))}
        for holder in caught:
            self.leases[holder].look, self.leases[holder].last = now + 5000, False
        over = due - caught
        kept = [held for held in self.leases.values() if held.look]
        dark = len(kept) > 1 and len(kept) * 10 > all_ * 9
        for holder, held in self.leases.items():
            if not held.look or held.look > now:
                continue
            age = now - held.ends
            if age < 86_400_000 and (dark or (not held.last and age < 3_600_000 and many(len(kept)))):
                held.look, held.last = now + 30_000, False
            elif age < 86_400_000 and not held.last:
                held.look, held.last = now + max(30_000, held.ttl * 1000), True
            else:
                over.add(holder)
        for holder in over:
            del self.leases[holder]
        return over, caught

    @rule()
    def registry_restarts(self) -> None:
        self.run(self.registry.close())
        self.registry = self.run(Registry.open(self.server.url))

    @invariant()
    def state_is_the_models(self) -> None:
        loaded = self.run(self.registry.load())
        assert loaded.corrupt == []
        assert rules.check(loaded, []) == []
        assert loaded.position.version == self.writes
        assert {lease.id: (lease.fence, lease.deadline, lease.token, set(lease.endpoints), lease.held)
                for lease in loaded.leases.values()} == {
            holder: (held.fence, held.ends, held.token, {f"{s.API}/{name}" for name in held.names}, held.look > 0)
            for holder, held in self.leases.items()}
        wanted: dict[str, str | None] = {f"{s.API}/{name}": None for name in self.fixed}
        for holder, held in self.leases.items():
            wanted |= {f"{s.API}/{name}": holder for name in held.names}
        assert {key: endpoint.lease for key, endpoint in loaded.endpoints.items()} == wanted

        kept = sum(held.look > 0 for held in self.leases.values())
        assert self.run(self.registry.holding()) == ([Holding(s.API, kept, len(self.leases))] if kept else [])

        for event in self.run(self.registry.events(self.cursor, block_ms=0)):
            self.cursor = event.id
            if event.value is None:
                del self.told[event.key]
            else:
                self.told[event.key] = event.value.lease
        assert self.told == wanted
        assert self.cursor == loaded.position.cursor
        uses = {key.decode(): int(count) for key, count in self.raw.hgetall("dnsd:uses").items()}
        expected = {"site:fra": len(wanted), f"service:{s.API}": len(wanted)} if wanted else {}
        if self.leases:
            expected[f"leases:{s.API}"] = len(self.leases)
        assert uses == expected
        assert self.raw.xlen("dnsd:audit") + self.raw.xlen("dnsd:audit-leases") == self.writes


def test_leases_keep_their_promises(server: Server) -> None:
    class OnServer(Leases):
        pass

    OnServer.server = server
    run_state_machine_as_test(OnServer, settings=settings(max_examples=15, stateful_step_count=30))
