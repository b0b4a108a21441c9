"""What can happen to three nodes, their store, their operators and their instances, as rules to draw from."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dnsd.control.intake import BACKOFF_S
from dnsd.registry import errors
from dnsd.registry.link import CONNECT_SECONDS, LOAD_SECONDS
from dnsd.registry.models import Kind, LeaseRequest, Override, Renewal, Service
from tests.control.fleet_samples import endpoint, service, site
from tests.machine.holders import HOLDERS, TTL_S, Holders
from tests.machine.world import NODES, Node, World

SERVICES = ("a.example.com", "b.example.com", "c.example.com", "*.w.example.com")
SITES = ("s0", "s1", "s2")
IDS = ("e0", "e1", "e2", "e3", "e4", "e5")
CHECK = {"kind": "tcp", "port": 80}
WORST_DETECTION_S = 2.1
MENDED_S = LOAD_SECONDS + CONNECT_SECONDS + BACKOFF_S[1] + 1.0
"""Until who has asked a store that hangs has given up, waited, and asked again."""

LOOKS, LOOK_S = 40, 3.0
"""How often one looks whether all agree, and how long it takes until what some know is known to all and published:
nodes' clocks differ by 1.4 s, each looks twice a second whether something has ended, and frames are a matter of ms."""

WAYS_S = 0.0, 0.0, 0.03, 0.28
"""To the store and back."""

SETTLED_S, BACK_S = 45.0, 30.0
"""So long after the last fault all is known as it is; so long after all answer again all have all their weight: eight
times two successes two a second, what stood so far stands for ten seconds, a ramp takes ten."""

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
        self.good: tuple[Any, dict[int, tuple[str, str]]] | None = None  # the store as it was, while it is another
        self.holders = Holders(self.world)
        self.settles = False  # whether one waits at rest until all has settled

    def teardown(self) -> None:
        try:
            self.rest()
        finally:
            self.holders.end()
            self.world.close()

    # --- the start ---

    @initialize(far=st.tuples(*[st.sampled_from(WAYS_S)] * len(NODES)), settles=st.sampled_from([True, False, False]))
    def fleet(self, far: tuple[float, ...] = (0.0,) * len(NODES), settles: bool = True) -> None:
        self.settles = settles
        for node, far_s in zip(self.world.nodes, far, strict=True):
            node.link.far_s = far_s
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
        self.world.removed[name, id_] = self.world.loop.time()
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

    @rule(at=nodes, name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS), site_=st.sampled_from(SITES),
          kind=st.sampled_from(["endpoint", "site", "service"]), state=st.sampled_from(["up", "down", "drain"]),
          seconds=st.sampled_from([3, 30]))
    def force(self, at: int, name: str, id_: str, site_: str, kind: str, state: str, seconds: int) -> None:
        """An operator at a machine that stands alone: what is said there by its socket holds there at once."""
        run = self.world.nodes[at].run
        if run is None or not run.process.local.apart:
            return
        of = {"endpoint": f"{name}/{id_}", "site": site_, "service": name}[kind]
        entry = self.ask(run.process.local.force(Override.model_validate(
            {"target": kind, "name": of, "state": state, "seconds": seconds, "reason": "drawn"}), "op"))
        if entry is not None and run.process.local.apart:
            assert run.process.fleet.overrides[entry.override.key].until_ms == entry.override.until_ms

    @rule(at=nodes, key=st.sampled_from([f"site:{SITES[0]}", f"service:{SERVICES[0]}"]))
    def lift_there(self, at: int, key: str) -> None:
        run = self.world.nodes[at].run
        if run is not None:
            self.ask(run.process.local.clear(key, "op"))

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
            self.holders.granted(holder, granted.lease.fence)

    @rule(those=whom, away=st.booleans())
    def api(self, those: tuple[int, ...], away: bool) -> None:
        """Instances reach these nodes no more, or again; the nodes do reach the store."""
        (self.holders.barred.update if away else self.holders.barred.difference_update)(those)

    @rule(holder=st.sampled_from(HOLDERS), at=nodes, load=st.sampled_from([0.1, 0.5, 0.9]), old=st.booleans())
    def renew(self, holder: str, at: int, load: float, old: bool) -> None:
        run = self.world.nodes[at].run
        if holder in self.holders.fences and run is not None and at not in self.holders.barred:
            fence = max(1, self.holders.fences[holder] - old)
            self.ask(run.process.registry.renew([Renewal(id=holder, fence=fence)], actor=holder))

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: str) -> None:
        if holder in self.holders.fences:
            self.ended(*SERVICES)
            fence = self.holders.fences.pop(holder)
            self.write("release", self.world.registry.release(holder, fence, actor=holder), holder)

    # --- what is probed ---

    @rule(name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS), how=st.sampled_from(["refused", "hole"]),
          away=st.booleans())
    def dies_alone(self, name: str, id_: str, how: str, away: bool) -> None:
        """With nothing else wrong for a while, or but the store away, what dies is not answered after two seconds, and
        the way to the store and back where that is asked."""
        world = self.world
        self.mend()
        for of in SERVICES:
            self.all_die(of, "live")
        world.go(14.0)
        for node in world.nodes:
            node.link.set("away" if away else "ok")
        world.go(3.0)
        answering = [node for node in world.nodes if self.answers(node, name, id_)]
        self.set(name, id_, how)
        began = world.loop.time()
        worst_s = WORST_DETECTION_S + (0.0 if away else max(node.link.far_s for node in world.nodes))
        while answering and world.loop.time() - began < worst_s:
            world.go(0.05)
            answering = [node for node in answering if self.answers(node, name, id_)]
        for node in answering:
            why = world.laws.kept(node, name, id_)
            assert why, f"{node.name} answers {name}/{id_} {world.loop.time() - began:.2f} s after it died"

    def answers(self, node: Node, name: str, id_: str) -> bool:
        """Whether a node answers an endpoint as one that is checked and up."""
        resolved = node.process.views.resolved.get(name)
        checked = resolved is not None and node.process.fleet.services[name].check != "none"
        return checked and any(one.id == id_ for one in resolved.view.live)

    @rule(name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS),
          how=st.sampled_from(["live", "live", "refused", "hole", "slow"]))
    def dies(self, name: str, id_: str, how: str) -> None:
        self.set(name, id_, how)

    @rule(name=st.sampled_from(SERVICES), how=st.sampled_from(["live", "live", "refused", "hole"]))
    def all_die(self, name: str, how: str) -> None:
        for id_ in IDS:
            self.set(name, id_, how)

    @rule(at=nodes, name=st.sampled_from(SERVICES), id_=st.sampled_from(IDS), every=st.booleans())
    def cut(self, at: int, name: str, id_: str, every: bool) -> None:
        self.world.network.cut[NODES[at]].add("*" if every else address(name, id_))

    @rule(at=nodes)
    def join(self, at: int) -> None:
        self.world.network.cut[NODES[at]].clear()

    # --- the store ---

    @rule(those=whom, fault=st.sampled_from(["ok", "ok", "away", "slow", "hang"]),
          delay_s=st.sampled_from([0.02, 0.3, 1.5, 4.0]))
    def link(self, those: tuple[int, ...], fault: str, delay_s: float) -> None:
        for at in those:
            self.world.nodes[at].link.set(fault, delay_s)

    @rule()
    def save(self) -> None:
        """Perhaps somebody comes back to this."""
        if self.good is None:
            self.saved.append((self.world.memory.saved(), dict(self.accepted)))
            del self.saved[:-3]

    @rule(which=st.sampled_from(["empty", "older", "older"]), number=st.integers(0, 2))
    def another(self, which: str, number: int) -> None:
        """The store comes back as one that was restored, or as an empty one."""
        if which == "older" and not self.saved:
            return
        if self.good is None:
            self.good = self.world.memory.saved(), dict(self.accepted)
        if which == "empty":
            self.swap({}, {})
        else:
            data, accepted = self.saved[number % len(self.saved)]
            self.swap(copy.deepcopy(data), dict(accepted))

    @rule()
    def back(self) -> None:
        """The store that there was before is there again."""
        if self.good is not None:
            self.swap(*self.good)
            self.good = None

    @rule(at=nodes, restores=st.booleans())
    def settle(self, at: int, restores: bool) -> None:
        """An operator says what holds."""
        run = self.world.nodes[at].run
        custody = run.process.control.custody if run is not None else None
        if custody is None or not custody.etag:
            return
        self.holders.excused.update(HOLDERS)  # what is restored may be older than their leases
        if not restores:
            self.ended(*SERVICES)
        self.ask((custody.restore if restores else custody.accept)("*", "op"))
        if restores:
            self.good = None

    def swap(self, data: Any, accepted: dict[int, tuple[str, str]]) -> None:
        """Stopped, and started with other data: all connections break."""
        world = self.world
        links = [world.link, *(node.link for node in world.nodes)]
        faults = [(link.fault, link.delay_s) for link in links]
        for link in links:
            link.set("away")
        world.go(0.05)
        kept = data.get(b"dnsd:service", {})
        self.ended(*(name for name in SERVICES if name.encode() not in kept))  # a small loss is adopted, with an alarm
        world.memory.data, self.accepted = data, accepted
        self.holders.excused.update(HOLDERS)
        for link, (fault, delay_s) in zip(links, faults, strict=True):
            link.set(fault, delay_s)

    # --- machines ---

    @rule(at=nodes, gently=st.booleans())
    def stop(self, at: int, gently: bool) -> None:
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
        if self.world.nodes[at].run is None:
            self.world.start(self.world.nodes[at])

    @rule(at=nodes, seconds=st.sampled_from([-15, -1, 1, 15, 3600]))
    def clock(self, at: int, seconds: int) -> None:
        self.world.nodes[at].clock.skew_ms += 1000 * seconds

    @rule(seconds=st.sampled_from([-15, -1, 1, 15]))
    def store_clock(self, seconds: int) -> None:
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
        self.mend()
        calm_s = world.loop.time() + SETTLED_S
        world.go(MENDED_S)
        for restores in (True, False):
            for at, node in enumerate(world.nodes):
                if node.process.intake.held:
                    self.settle(at, restores)
                    world.go(8.0)
        world.go(10.0)
        world.laws.check()
        self.agree()
        if self.settles:
            self.calm(calm_s)
        world.laws.audit(self.accepted)

    def calm(self, at_s: float) -> None:
        """Nothing happens for long, up to a moment; then what is dead is back."""
        self.world.go(max(0.0, at_s - self.world.loop.time()))
        self.world.laws.settled()
        for name in SERVICES:
            self.all_die(name, "live")
        self.world.go(BACK_S)
        self.world.laws.check()
        self.world.laws.settled()

    def agree(self) -> None:
        """All agree, but while something changes by itself: an override ends, a ramp takes a step, limits have room."""
        world = self.world
        for _ in range(LOOKS):
            before = world.laws.stands()
            try:
                return world.laws.agree(200)
            except AssertionError:
                world.go(LOOK_S)
                if world.laws.stands() == before:
                    raise
        world.laws.agree(200)

    # --- how ---

    def mend(self) -> None:
        """Nothing is wrong any more with links, clocks and processes."""
        self.holders.barred.clear()
        for node in self.world.nodes:
            node.link.set("ok")
            self.world.network.cut[node.name].clear()
            node.clock.skew_ms = max(-700, min(700, node.clock.skew_ms))
            if node.run is None:
                self.world.start(node)

    def set(self, name: str, id_: str, how: str) -> None:
        """Both addresses of an endpoint."""
        v4 = address(name, id_)
        for one in (v4, v4.replace("192.0.2.", "2001:db8::")):
            self.world.network.set(one, how)

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
