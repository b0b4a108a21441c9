"""The registry: fleet state in Redis or Valkey, changed only by atomic scripts, followed by a chained event stream.

Lives here: `Registry`, every operation on the store. Does not live here: the scripts (`scripts`, `lua/`), the models,
decoding (`reading`, `events`), rules over a whole state (`rules`). Keys and their bounds: docs/registry.md.

Each accepted write is one script: checks, version+1, values, event and audit entry happen together or not at all. The
store's own clock is the only one asked; lease time passes only between ticks that follow each other closely.
"""

from __future__ import annotations

import builtins
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from dnsd.registry import changes as encoding
from dnsd.registry import errors, events, leases, reading, rules, scripts
from dnsd.registry.fields import Model
from dnsd.registry.history import History
from dnsd.registry.link import LOAD_SECONDS, Link, pairs
from dnsd.registry.measurements import Measurements
from dnsd.registry.models import Kind, Lease, LeaseRequest, Renewal
from dnsd.registry.scripts import Script
from dnsd.registry.sightings import Sightings
from dnsd.registry.values import (
    AuditEntry,
    Change,
    Event,
    Granted,
    Holding,
    Loaded,
    Position,
    Renewed,
    Stored,
    Tick,
    Written,
    ZoneContent,
)

ABSENT: Final = encoding.ABSENT
LOADED: Final = (Kind.SITE, Kind.SERVICE, Kind.ENDPOINT, Kind.LEASE, Kind.OVERRIDE, Kind.VERDICT)
ENTRIES: Final = 512  # stream entries read at once
TICK_ACTOR: Final = "system:lease-clock"
SERIALS: Final = 100  # zones asked for in one script call
TICK_MOST: Final = 200  # leases ended by one script call: it must stay short, the store does nothing else meanwhile


class Registry:
    """One store. Every method raises `errors.Unavailable` in bounded time when the store cannot be asked."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.sightings = Sightings(link)
        self.history = History(link)
        self.measurements = Measurements(link)

    @classmethod
    async def open(cls, url: str, *, prefix: str = "dnsd") -> Registry:
        """Connects, and begins a history (epoch) in a store that has none. ValueError for a URL it cannot use."""
        link = Link(url, prefix)
        registry = cls(link)
        try:
            await registry.position()
        except BaseException:
            await link.close()
            raise
        return registry

    async def close(self) -> None:
        """Closes the connections."""
        await self._link.close()

    # Reading

    async def position(self) -> Position:
        """Where the store stands now."""
        return self._at(*await self._link.together(self._head())) or await self._begin()

    async def load(self) -> Loaded:
        """The whole state at one position. Values that cannot be read back are named in `corrupt`."""
        await self.position()  # soon says that the store is away, where the reading below has long patience
        keys = self._link.keys
        head, owned, deadlines, *raws = await self._link.together(
            self._head(), ("HGETALL", keys[scripts.OWNED]), ("ZRANGE", keys[scripts.DEADLINE], 0, -1, "WITHSCORES"),
            *(("HGETALL", keys[kind]) for kind in LOADED), seconds=LOAD_SECONDS)
        at = self._at(head)
        if at is None:
            raise errors.Unavailable("the store was emptied while it was read")
        values = {kind: dict(pairs(flat)) for kind, flat in zip(LOADED, raws, strict=True)}
        return await reading.loaded(at, values, dict(pairs(owned)), dict(pairs(deadlines)))

    async def get(self, kind: Kind, key: str) -> Stored | None:
        """One object; None when there is none, or what is there cannot be read back."""
        raw, deadline = await self._link.together(
            ("HGET", self._link.keys[kind], key), ("ZSCORE", self._link.keys[scripts.DEADLINE], key))
        return self._stored(kind, key, raw, deadline)

    async def list(
        self, kind: Kind, *, after: str = "", limit: int = 100, prefix: str = "",
    ) -> tuple[builtins.list[Stored], str]:
        """A page of a kind in the order of keys, and the `after` of the next page (empty: this was the last)."""
        first = f"({kind}/{after}" if after and after >= prefix else f"[{kind}/{prefix}"
        last = f"({kind}/{prefix}".encode() + b"\xff"  # beyond every key in UTF-8
        flat = await self._link.run(scripts.PAGE, kind, first, last, limit)
        keys = [raw.decode(errors="replace") for raw in flat[::3]]
        rows = zip(keys, flat[1::3], flat[2::3], strict=True)
        found = [self._stored(kind, key, raw, deadline) for key, raw, deadline in rows]
        return [stored for stored in found if stored], keys[-1] if len(keys) == limit else ""

    # Writing

    async def put(
        self, kind: Kind, value: Model, *, actor: str, if_match: str | None, left_s: float | None = None,
    ) -> Written:
        """Creates or replaces one object.

        `if_match` is an etag; None: there must be none yet (PreconditionRequired otherwise); ABSENT: the same as
        PreconditionFailed; `*`: whatever is there. `left_s`: as of `Change`. Raises Invalid, Conflict,
        PreconditionFailed, PreconditionRequired.
        """
        change = Change("put", kind, value, if_match=if_match, left_s=left_s)
        if broken := rules.shape([change], lambda _: ""):
            raise rules.error(broken)
        return await self._write("put", [change], actor=actor, place=lambda _: "")

    async def delete(self, kind: Kind, key: str, *, actor: str, if_match: str | None) -> Written:
        """Deletes one object; `if_match` as in `put`, so None is always refused. A lease goes with its endpoints."""
        change = Change("delete", kind, key=key, if_match=if_match)
        if kind is Kind.LEASE:
            return await self._release(actor, key, "", encoding.match(if_match))
        return await self._write("delete", [change], actor=actor, place=lambda _: "")

    async def apply(self, changes: Sequence[Change], *, actor: str, if_version: int | None) -> Written:
        """Makes all changes or none; `if_version` refuses when anything was written since.

        The whole resulting state is validated. Places of faults are `/<index of the change>/…`, or `kind/key` for an
        object that was broken before.
        """
        if broken := rules.shape(changes) or rules.check(await self.load(), changes):
            raise rules.error(broken)
        return await self._write("apply", changes, actor=actor, place=rules.by_index, if_version=if_version)

    async def _write(
        self, action: str, changes: Sequence[Change], *, actor: str, place: Callable[[int], str],
        if_version: int | None = None,
    ) -> Written:
        args = [actor, action, "" if if_version is None else str(if_version)]
        for change in changes:
            args += encoding.arguments(change)
        reply = await self._run(scripts.DELETE if action == "delete" else scripts.WRITE, *args)
        if reply[0] == b"stale":
            raise errors.PreconditionFailed(f"the registry is at version {reply[1].decode()}, not {if_version}")
        if reply[0] == b"faults":
            raise encoding.refusal(reply[1:], place)
        key = rules.target(changes[0]) if len(changes) == 1 else ""
        return Written(key, reply[2].decode(), int(reply[1]), reply[3] == b"1", await self._link.durability())

    # Leases

    async def acquire(self, request: LeaseRequest, *, actor: str, token_id: str, take_over: bool = False) -> Granted:
        """Grants a lease over the endpoints, in place of what the holder had; its id is the holder's.

        Raises Conflict when an endpoint is another's, or the holder's lease was acquired with another token and
        `take_over` is not set; Invalid for unknown sites and services. Places are `/endpoints/<index>/…`.
        """
        args, lease = encoding.lease_arguments(request, token_id, take_over=take_over)
        reply = await self._run(scripts.ACQUIRE, actor, *args)
        if reply[0] == b"taken":
            raise errors.Conflict(f"lease {request.holder} was acquired with another token")
        if reply[0] == b"faults":
            raise encoding.refusal(reply[1:], lambda i: f"/endpoints/{i}")
        version = int(reply[1])
        granted = Lease.model_construct(**lease, fence=version, deadline=int(reply[2]))
        return Granted(granted, version, await self._link.durability())

    async def renew(self, renewals: Sequence[Renewal], *, actor: str) -> builtins.list[Renewed]:
        """Moves deadlines and notes loads, in scripts of at most 1,000 leases; answers in the order asked."""
        renewed: builtins.list[Renewed] = []
        for batch in leases.batches(renewals):
            reply = await self._run(scripts.RENEW, actor, *leases.renew_arguments(batch))
            renewed += leases.renewed(batch, reply[1:])
        return renewed

    async def release(self, lease_id: str, fence: int, *, actor: str) -> Written:
        """Ends a lease and its endpoints. Raises NotFound, or Conflict when the fence is not its current one."""
        return await self._release(actor, lease_id, str(fence), "*")

    async def _release(self, actor: str, lease_id: str, fence: str, match: str) -> Written:
        reply = await self._run(scripts.RELEASE, actor, lease_id, fence, match)
        if reply[0] != b"ok":
            raise leases.refusal(lease_id, reply)
        return Written(lease_id, "", int(reply[1]), False, await self._link.durability())

    async def tick(self) -> Tick:
        """Moves the lease clock by the time since anyone's last tick, and ends leases and overrides past their end.

        A gap of more than 2 s, or below 0, does not count as passed: all deadlines move by it. Leases that end with too
        many others are held (docs/registry.md). Call it each 250 ms.
        """
        total = Tick([], 0, 0, [])
        while True:
            more, step = leases.ticked(await self._run(scripts.TICK, TICK_ACTOR, TICK_MOST))
            total = Tick(
                total.expired + step.expired, total.advanced_ms + step.advanced_ms, total.shifted_ms + step.shifted_ms,
                total.overrides + step.overrides, [*total.caught, *step.caught], step.held)
            if not more:
                return total

    async def holding(self) -> builtins.list[Holding]:
        """The services that have held leases, those with the most first."""
        keys = self._link.keys
        [flat] = await self._link.together(("HGETALL", keys[scripts.HOLDING]))
        most = sorted(pairs(flat), key=lambda item: -int(item[1]))[:leases.HOLDINGS]
        if not most:
            return []
        [counts] = await self._link.together(
            ("HMGET", keys[scripts.USES], *(b"leases:" + service for service, _ in most)))
        return [Holding(service.decode(), int(held), max(int(held), int(count or 0)))
                for (service, held), count in zip(most, counts, strict=True)]

    # Following

    async def events(self, after: str, *, block_ms: int) -> builtins.list[Event]:
        """What was written after a cursor, whole writes only; waits up to `block_ms` when there is nothing yet.

        Raises Gap when the stream does not continue from there (load() then), ValueError for what is no cursor.
        """
        version, chain = events.split(after)
        stream_id = f"{version}-0"
        stream = self._link.keys[scripts.EVENTS]
        read = ("XREAD", "COUNT", ENTRIES, "STREAMS", stream, stream_id)
        head, found = await self._link.together(self._head(), read)
        if not found:
            at = self._at(head)
            if at is None or at.cursor != after:
                raise errors.Gap("forked", f"reader at {after}, store at {at.cursor if at else 'none'}")
            if block_ms <= 0:
                return []
            found = await self._link.wait(
                "XREAD", "COUNT", ENTRIES, "BLOCK", block_ms, "STREAMS", stream, stream_id, seconds=block_ms / 1000)
        return events.follow(version, chain, events.entries(found))

    async def audit(self, *, after: str = "", limit: int = 100) -> builtins.list[AuditEntry]:
        """Accepted writes in order, those after the entry id `after`. What fell off the trail's end is not there."""
        keys = [self._link.keys[trail] for trail in (scripts.AUDIT, scripts.AUDIT_LEASES)]
        first = f"({after}" if after else "-"
        trails = await self._link.together(*(("XRANGE", key, first, "+", "COUNT", limit) for key in keys))
        entries = [events.audit_entry(raw_id, flat) for trail in trails for raw_id, flat in trail]
        return sorted(entries, key=lambda entry: entry.version)[:limit]

    # Zones

    async def serials(self, contents: Sequence[ZoneContent]) -> builtins.list[int]:
        """The serial of each content: the one it has, or one after all the zone ever had. No event, no version."""
        found: builtins.list[int] = []
        for at in range(0, len(contents), SERIALS):
            args: builtins.list[str | int] = []
            for zone, digest, floor, served, same in contents[at : at + SERIALS]:
                args += (zone, digest, floor, "" if served is None else served, int(same))
            found += map(int, await self._link.run(scripts.SERIAL, *args))
        return found

    # The store's history

    async def _run(self, script: Script, *args: str | int) -> builtins.list[Any]:
        reply = await self._link.run(script, *args)
        if reply[0] == b"noepoch":  # emptied under us; nothing was written, and readers will see a Gap
            await self._begin()
            reply = await self._link.run(script, *args)
            if reply[0] == b"noepoch":  # and once more, before this has reached it; nothing was written
                raise errors.Unavailable("the store is emptied again and again")
        return reply

    async def _begin(self) -> Position:
        """Begins a history: the epoch is the store's time in ms, shifted, and 20 random bits; it grows with time."""
        [(seconds, micros)] = await self._link.together(("TIME",))
        epoch = (int(seconds) * 1000 + int(micros) // 1000) << 20 | secrets.randbits(20)
        await self._link.run(scripts.BEGIN, str(epoch))
        at = self._at(*await self._link.together(self._head()))
        if at is None:
            raise errors.Unavailable("the store does not keep what is written")
        return at

    def _head(self) -> tuple[str | bytes | int, ...]:
        return ("HMGET", self._link.keys[scripts.META], "epoch", "version", "chain")

    def _at(self, reply: builtins.list[bytes | None]) -> Position | None:
        try:
            return reading.position(reply)
        except ValueError as error:
            raise errors.Unavailable(f"the store's position cannot be read: {error}") from error

    def _stored(self, kind: Kind, key: str, raw: bytes | None, deadline: bytes | None) -> Stored | None:
        if not raw:
            return None
        try:
            return reading.stored(kind, key, raw, deadline)
        except reading.Corrupt:
            return None
