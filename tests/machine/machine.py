"""What can happen to three nodes, their store, their operators and their instances, as rules to draw from."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dnsd.registry import errors
from dnsd.registry.models import Kind, LeaseRequest, Override, Renewal, Service
from tests.control.fleet_samples import endpoint, service, site
from tests.machine.world import NODES, World

SERVICES = ("a.example.com", "b.example.com", "c.example.com", "*.w.example.com")
SITES = ("s0", "s1", "s2")
IDS = ("e0", "e1", "e2", "e3", "e4", "e5")
HOLDERS = ("h0", "h1", "h2", "h3")
CHECK = {"kind": "tcp", "port": 80}
TTL_S = 20
CALM_S = 12.0
WORST_DETECTION_S = 2.1

nodes = st.integers(0, len(NODES) - 1)
whom = st.sampled_from([(0,), (1,), (2,), (0, 1), (0, 1, 2), (0, 1, 2)])
pauses = st.sampled_from([0.03, 0.03, 0.1, 0.1, 0.1, 0.4, 0.4, 1.0, 3.0, 10.0])


def address(service_: str, id_: str) -> str:
    return f"192.0.2.{1 + SERVICES.index(service_) * 16 + IDS.index(id_)}"


class Machine(RuleBasedStateMachine):
    """One world from its start to its end."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.names = {name.replace("*", "x"): name for name in SERVICES}
        self.accepted: dict[int, tuple[str, str]] = {}
        self.saved: list[Any] = []
        self.good: Any = None
        self.trouble_s = 0.0
        self.fences: dict[str, int] = {}

    def teardown(self) -> None:
        try:
            self.rest()
        finally:
            self.world.close()

    # --- the start ---

    @initialize()
    def fleet(self) -> None:
        self.world.go(1.0)
        for number, name in enumerate(SITES):
            self.put(Kind.SITE, site(name, latitude=10.0 * number))
        for name in SERVICES[:2]:
            self.put(Kind.SERVICE, service(name, check=CHECK))
            for number in range(4):
                self.add(name, IDS[number], SITES[number % 3], number // 3, 100, False)
        for holder in HOLDERS[:2]:
            self.acquire(holder, SERVICES[1])
        self.world.go(4.0)

    # --- operators ---

    @rule(name=st.sampled_from(SERVICES), checked=st.booleans(), take=st.integers(1, 3), fallback=st.booleans(),
          preset=st.sampled_from(["geo", "weighted", "all", "failover"]))
    def service(self, name: str, checked: bool, take: int, fallback: bool, preset: str) -> None:
        self.put(Kind.SERVICE, service(
            name, check=CHECK if checked else "none", policy={"preset": preset, "take": take},
            fallback={"a": ["192.0.2.254"]} if fallback else {}))

    @rule(name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS), at=st.sampled_from(SITES),
          tier=st.integers(0, 1), weight=st.sampled_from([0, 1, 7, 100, 300]), six=st.booleans())
    def add(self, name: str, id_: str, at: str, tier: int, weight: int, six: bool) -> None:
        v4 = address(name, id_)
        self.put(Kind.ENDPOINT, endpoint(
            id_, v4, v4.replace("192.0.2.", "2001:db8::") if six else None, service=name, site=at, tier=tier,
            weight=weight))

    @rule(name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS))
    def remove(self, name: str, id_: str) -> None:
        self.ended(name)
        self.write("delete", self.world.registry.delete(
            Kind.ENDPOINT, f"{name}/{id_}", actor="op", if_match="*"), f"{name}/{id_}")

    @rule(name=st.sampled_from(SERVICES[2:]))
    def remove_service(self, name: str) -> None:
        self.ended(name)
        self.write("delete", self.world.registry.delete(Kind.SERVICE, name, actor="op", if_match="*"), name)

    @rule(name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS), at=st.sampled_from(SITES),
          kind=st.sampled_from(["endpoint", "endpoint", "site", "service"]),
          state=st.sampled_from(["up", "down", "drain"]), seconds=st.sampled_from([1, 3, 30]))
    def override(self, name: str, id_: str, at: str, kind: str, state: str, seconds: int) -> None:
        of = {"endpoint": f"{name}/{id_}", "site": at, "service": name}[kind]
        self.put(Kind.OVERRIDE, Override.model_validate(
            {"target": kind, "name": of, "state": state, "seconds": seconds, "reason": "drawn"}))

    @rule(key=st.sampled_from([f"site:{SITES[0]}", f"service:{SERVICES[0]}"]))
    def lift(self, key: str) -> None:
        self.write("delete", self.world.registry.delete(Kind.OVERRIDE, key, actor="op", if_match="*"), key)

    # --- instances ---

    @rule(holder=st.sampled_from(HOLDERS), name=st.sampled_from(SERVICES))
    def acquire(self, holder: str, name: str) -> None:
        id_ = f"e{4 + HOLDERS.index(holder) % 2}"
        self.ended(name)  # what it held elsewhere it gives up
        spec = {"id": id_, "service": name, "site": SITES[1], "a": address(name, id_)}
        granted = self.write("acquire", self.world.registry.acquire(LeaseRequest.model_validate(
            {"holder": holder, "ttl": TTL_S, "endpoints": [spec]}), actor=holder, token_id=holder), holder)
        if granted is not None:
            self.fences[holder] = granted.lease.fence

    @rule(holder=st.sampled_from(HOLDERS), at=nodes, load=st.sampled_from([0.1, 0.5, 0.9]), old=st.booleans())
    def renew(self, holder: str, at: int, load: float, old: bool) -> None:
        run = self.world.nodes[at].run
        if holder in self.fences and run is not None:
            fence = max(1, self.fences[holder] - old)
            self.ask(run.process.registry.renew([Renewal(id=holder, fence=fence)], actor=holder))

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: str) -> None:
        if holder in self.fences:
            self.ended(*SERVICES)
            self.write("release", self.world.registry.release(holder, self.fences.pop(holder), actor=holder), holder)

    # --- what is probed ---

    @rule(name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS),
          how=st.sampled_from(["live", "live", "refused", "hole", "slow"]))
    def dies(self, name: str, id_: str, how: str) -> None:
        self.troubled()
        self.world.network.set(address(name, id_), how)

    @rule(name=st.sampled_from(SERVICES), how=st.sampled_from(["live", "live", "refused", "hole"]))
    def all_die(self, name: str, how: str) -> None:
        self.troubled()
        for id_ in IDS:
            self.world.network.set(address(name, id_), how)

    @rule(at=nodes, name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS), every=st.booleans())
    def cut(self, at: int, name: str, id_: str, every: bool) -> None:
        self.troubled()
        self.world.network.cut[NODES[at]].add("*" if every else address(name, id_))

    @rule(at=nodes)
    def join(self, at: int) -> None:
        self.troubled()
        self.world.network.cut[NODES[at]].clear()

    # --- the store ---

    @rule(those=whom, fault=st.sampled_from(["ok", "ok", "away", "slow", "hang"]),
          delay_s=st.sampled_from([0.02, 0.3, 1.5, 4.0]))
    def link(self, those: tuple[int, ...], fault: str, delay_s: float) -> None:
        self.troubled()
        for at in those:
            self.world.nodes[at].link.set(fault, delay_s)

    @rule()
    def save(self) -> None:
        self.saved.append((self.world.memory.saved(), dict(self.accepted)))
        del self.saved[:-3]

    # --- machines ---

    @rule(at=nodes, gently=st.booleans())
    def stop(self, at: int, gently: bool) -> None:
        self.troubled()
        node = self.world.nodes[at]
        if node.run is None:
            return
        if gently:
            self.world.stop(node)
        else:
            self.world.kill(node)
            self.world.laws.forget(node)

    @rule(at=nodes)
    def start(self, at: int) -> None:
        self.troubled()
        if self.world.nodes[at].run is None:
            self.world.start(self.world.nodes[at])

    @rule(at=nodes, seconds=st.sampled_from([-15, -1, 1, 15, 3600]))
    def clock(self, at: int, seconds: int) -> None:
        self.troubled()
        self.world.nodes[at].clock.skew_ms += 1000 * seconds

    @rule(seconds=st.sampled_from([-15, -1, 1, 15]))
    def store_clock(self, seconds: int) -> None:
        self.troubled()
        self.world.shift_ms += 1000 * seconds

    # --- time ---

    @rule(seconds=pauses)
    def go(self, seconds: float) -> None:
        self.world.go(seconds)

    @invariant()
    def laws_hold(self) -> None:
        Machine.steps += 1
        self.world.go(0.02)
        self.world.laws.check()

    # --- rest ---

    def rest(self) -> None:
        """Nothing goes wrong any more: all agree."""
        world = self.world
        for node in world.nodes:
            node.link.set("ok")
            world.network.cut[node.name].clear()
            node.clock.skew_ms = max(-700, min(700, node.clock.skew_ms))
            if node.run is None:
                world.start(node)
        world.go(25.0)
        world.laws.check()
        world.laws.agree(200)
        world.laws.audit(self.accepted)

    # --- how ---

    def troubled(self) -> None:
        self.trouble_s = self.world.loop.time()

    def ended(self, *names: str) -> None:
        """Owners end what these names have, or perhaps all of it."""
        self.world.ended.update(names)

    def put(self, kind: Kind, value: Any) -> None:
        key = value.name if isinstance(value, Service) else getattr(value, "key", None) or value.id
        self.write("put", self.world.registry.put(kind, value, actor="op", if_match="*"), key)

    def write(self, action: str, work: Any, key: str) -> Any:
        """A write by an operator, whose own way to the store is sound; None where it is refused."""
        written = self.ask(work)
        if written is not None:
            self.accepted[written.version] = action, key
        return written

    def ask(self, work: Any) -> Any:
        async def asked() -> Any:
            try:
                async with asyncio.timeout(30):
                    return await work
            except errors.RegistryError:
                return None
        return self.world.do(asked())
