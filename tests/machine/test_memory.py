"""The store in memory answers as a real one does: the same operations on both, drawn at random, give the same replies.

All goes through `Registry` and `Sightings`, so through every script and every command they send.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio
import redis
from pydantic import BaseModel

from dnsd.registry import errors, scripts
from dnsd.registry import store as registry_store
from dnsd.registry.models import Judged, Kind, Renewal, Verdict
from dnsd.registry.sightings import Present
from dnsd.registry.store import Registry
from dnsd.registry.values import Change, Tick, ZoneContent
from tests.machine.links import Link
from tests.machine.memory import Memory, Scores, Stream
from tests.registry import samples as s
from tests.registry.conftest import BINARIES, Server

pytestmark = pytest.mark.asyncio
ROUNDS = int(os.environ.get("MEMORY_ROUNDS", "6"))
STEPS = 60
TIMED = ("lease_seen", "lease_clock", "builder_till")
"""Fields of `meta` that hold times; what is left of real time is taken out of replies before they are compared."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def real() -> AsyncIterator[Server]:
    binary = BINARIES["redis"] or BINARIES["valkey"]
    if not binary:
        pytest.skip("no redis-server here")
    server = Server(binary)
    yield server
    server.close()


class Both:
    """The same registry over a real store and over one in memory."""

    def __init__(self, server: Server, seed: int) -> None:
        self.draw = random.Random(seed)
        self.raw = redis.Redis.from_url(server.url)
        self.raw.flushall()
        self.memory = Memory(lambda: time.time_ns() // 1_000_000)
        self.cursor = ""
        self.fences: dict[str, int] = {}
        self.url = server.url

    async def open(self) -> None:
        with mock.patch.object(registry_store.secrets, "randbits", return_value=7):
            self.theirs = await Registry.open(self.url)
            self.ours: Any = Registry(Link(self.memory))  # type: ignore[arg-type]
            epoch = self.raw.hget("dnsd:meta", "epoch")
            self.memory.run(scripts.BEGIN, self.ours._link._list, [epoch])  # type: ignore[list-item]

    async def close(self) -> None:
        await self.theirs.close()
        self.raw.close()

    async def same(self, ask: Any) -> Any:
        """What both reply."""
        replies = []
        for registry in (self.theirs, self.ours):
            try:
                replies.append(await ask(registry))
            except (errors.RegistryError, errors.Gap) as error:
                replies.append((type(error).__name__, str(error)))
        assert _plain(replies[0]) == _plain(replies[1])
        return replies[1]

    async def step(self) -> None:
        """One operation, drawn."""
        draw = self.draw
        name, holder = f"e{draw.randrange(4)}", f"h{draw.randrange(3)}"
        match = draw.choice(("*", "*", None, "\0absent"))
        fence = self.fences.get(holder, 1) - draw.choice((0, 0, 0, 1))
        at = draw.choice(("fra", "ams", "gone"))
        operations: list[Any] = [
            lambda r: r.put(Kind.ENDPOINT, s.endpoint(name, site=at), actor="a", if_match=match),
            lambda r: r.put(Kind.SERVICE, s.service(types=("A",)), actor="a", if_match=match),
            lambda r: r.put(Kind.OVERRIDE, s.override(at), actor="a", if_match=match),
            lambda r: r.put(Kind.TOKEN, s.token(name), actor="a", if_match=match),
            lambda r: r.delete(draw_kind, name_of, actor="a", if_match=match),
            lambda r: r.acquire(s.request(holder, *names, at=at, aaaa="2001:db8::1"), actor="a",
                                token_id="t/\"\\\x7f", take_over=bool(fence % 2)),
            lambda r: r.renew([Renewal(id=holder, fence=max(1, fence), loads={f"{s.API}/{name}": load})], actor="a"),
            lambda r: r.release(holder, fence, actor="a"),
            lambda r: r.tick(),
            lambda r: r.apply([Change("put", Kind.SITE, s.site(f"s{name}")),
                               Change("put", Kind.SERVICE, s.service(f"{name}.demo.example"))],
                              actor="a", if_version=None),
            lambda r: r.list(draw_kind, limit=2, prefix=draw_prefix, after=draw_after),
            lambda r: r.get(draw_kind, name_of),
            lambda r: r.load(),
            lambda r: r.position(),
            lambda r: r.audit(after=draw_audit, limit=5),
            lambda r: r.serials([ZoneContent("z", "ab" * (1 + number), number, number or None, number == 2)]),
            lambda r: r.sightings.observe(holder, "eu", builds=number % 3, news={"votes": {name: [1, 0, "é/"]}},
                                          votes={"votes": {}} if number else None),
            lambda r: r.sightings.decide(holder, number, [
                (s.API, Verdict(service=s.API, at_ms=5, cells={name: Judged(3, 3)}) if number else None)]),
        ]
        draw_kind = draw.choice((Kind.SITE, Kind.SERVICE, Kind.ENDPOINT, Kind.LEASE, Kind.OVERRIDE, Kind.TOKEN))
        name_of = draw.choice((name, holder, s.API, f"{s.API}/{name}", f"site:{at}", "fra"))
        names = sorted({f"e{draw.randrange(4)}" for _ in range(3)})
        load, number = draw.random(), draw.randrange(3)
        draw_prefix, draw_after = draw.choice(("", "", "s", "site:")), draw.choice(("", "e1", s.API))
        draw_audit = draw.choice(("", "3-0"))
        reply = await self.same(draw.choice(operations))
        if hasattr(reply, "lease"):
            self.fences[holder] = reply.lease.fence
        if draw.randrange(4) == 0:
            self._pass(draw.choice((500, 1900, 2100, 40_000)))

    def _pass(self, milliseconds: int) -> None:
        """Lease time, or a gap that does not count as such, on both."""
        now = time.time_ns() // 1_000_000
        seen, clock = now - milliseconds, int(self.raw.hget("dnsd:meta", "lease_clock") or 0) + milliseconds // 2
        self.raw.hset("dnsd:meta", mapping={"lease_seen": seen, "lease_clock": clock})
        self.memory.command("HSET", "dnsd:meta", "lease_seen", seen, "lease_clock", clock)

    def compare(self) -> None:
        """Every key holds the same, but for times."""
        keys = {key for key, value in self.memory.data.items()
                if (value.ids if isinstance(value, Stream) else value) or value is None}
        theirs = set(self.raw.keys())
        streams = {key for key in theirs if self.raw.type(key) == b"stream"}
        assert keys - {b"dnsd:seen"} == theirs - {b"dnsd:seen"}
        for key in keys:
            ours = self.memory.data[key]
            if isinstance(ours, Stream):
                assert key in streams
                mine = [list(zip(f[::2], f[1::2], strict=True)) for f in ours.fields]
                real = [list(fields.items()) for _, fields in self.raw.xrange(key)]
                assert _timeless(mine) == _timeless(real)
            elif isinstance(ours, Scores):
                assert ours.keys() == dict(self.raw.zrange(key, 0, -1, withscores=True)).keys()
            elif isinstance(ours, dict):
                held = self.raw.hgetall(key)
                assert held.keys() == ours.keys()
                for field in held.keys() - {name.encode() for name in TIMED}:
                    assert _shape(held[field]) == _shape(ours[field]), (key, field)
            else:
                assert len(ours) == self.raw.llen(key)


def _plain(reply: Any) -> Any:
    """A reply without the order of its mappings, and without what depends on when it was asked."""
    if isinstance(reply, Tick):
        reply = reply._replace(advanced_ms=0, shifted_ms=min(abs(reply.shifted_ms), 1))
    if isinstance(reply, Present):
        reply = reply._replace(ago_ms=0)
    if isinstance(reply, BaseModel):
        return _plain(reply.model_dump())
    if isinstance(reply, Mapping):
        return sorted((str(key), _plain(value)) for key, value in reply.items())
    if isinstance(reply, (frozenset, set)):
        return sorted(map(str, reply))
    if isinstance(reply, (list, tuple)):
        return [_plain(one) for one in reply]
    if isinstance(reply, int):
        return reply if reply < 1000 else "TIME"
    return _shape(reply.encode()) if isinstance(reply, str) else reply


def _shape(raw: bytes) -> bytes:
    """Without hashes over times, and without the last digits of times."""

    raw = re.sub(rb"[0-9a-f]{40}|[0-9a-f]{16}", b"HASH", raw)
    return re.sub(rb"\d{4,}(?=[^0-9]|$)", b"TIME", re.sub(rb"(?:_ms|_till|at_ms)=\d+", b"TIME", raw))


def _timeless(entries: list[Any]) -> list[Any]:
    return [[(name, _shape(value)) for name, value in fields if name not in (b"at", b"chain")] for fields in entries]


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_it_replies_as_a_real_store(real: Server, seed: int) -> None:
    both = Both(real, seed)
    await both.open()
    try:
        for registry in (both.theirs, both.ours):
            await s.fill(registry)
        for _ in range(STEPS):
            await both.step()
        both.compare()
    finally:
        await both.close()


async def test_it_waits_for_what_is_written() -> None:
    memory = Memory(lambda: time.time_ns() // 1_000_000)
    link = Link(memory)
    memory.wrote = link.wake
    registry = Registry(link)  # type: ignore[arg-type]
    at = await registry.position()
    waiting = asyncio.create_task(registry.events(at.cursor, block_ms=5000))
    await asyncio.sleep(0)
    await s.fill(registry)
    assert [event.key for event in await waiting][:1] == ["fra"]
