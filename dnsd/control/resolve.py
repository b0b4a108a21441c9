"""What a service may answer now: members to `model.ServiceView`, with the reason for each that is not in it.

Lives here: overrides, drain, load, owned types, the never-empty ladder and its memory. Does not live here: where state
comes from (`control.state`), what health leaves (`control.standing`), tiers and weights of that (`control.weights`),
scoring (`steer.rank`), bytes (`compile.service`).

Pure: fleet, memory and the time in, a view and the next memory out, so the same version gives the same view everywhere.

    override    endpoint beats site beats service; `up` and `down` are absolute
    drain       answered only where the service has nothing else of that family: no other endpoint that is not known to
                be dead, no fallback
    last good   what was live last, per type, for 24 hours after it ceased; nothing an operator deleted or forced down
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from dnsd.control import mapplan, standing
from dnsd.control.standing import Candidate, Kept, Measured, Sifted
from dnsd.control.state import Fleet
from dnsd.control.weights import Part, Place, placed
from dnsd.dns import names, types
from dnsd.model import EndpointView, Policy, ServiceView
from dnsd.registry.models import Endpoint, Https, Override, PolicySpec, Service
from dnsd.steer import policy
from dnsd.steer.health import State
from dnsd.steer.limits import Memory as Limits
from dnsd.steer.limits import Removal

LAST_GOOD_MS: Final = 24 * 3600 * 1000
TYPES: Final = {"A": types.A, "AAAA": types.AAAA}
PERFECT: Final = 1000


class Good(NamedTuple):
    """An address that was live: whose it was, and the lease it had then (None: permanent)."""

    key: str
    site: str
    lease: str | None
    address: bytes


class Remembered(NamedTuple):
    """What a service answered of one type when it last had live endpoints; `left_ms`: when that ended, 0 while live."""

    goods: tuple[Good, ...]
    left_ms: int


Memory = Mapping[int, Remembered]
"""Record type -> what is remembered of it, for one service."""


class Member(NamedTuple):
    """One endpoint of a service: what is forced on it, and for which families it may be answered, and why.

    `share` is the part of its weight it gets, `points` its health, both of 1000; `sound`: it is believed to be up.
    """

    endpoint: Endpoint
    forced: Override | None
    a: bool
    aaaa: bool
    reason: str
    share: int = standing.WHOLE
    points: int = PERFECT
    sound: bool = True


Removals = Mapping[int, tuple[Removal, ...]]
"""Record type -> what health has removed of it, for one service; and with these added to the type:"""

SLOW: Final = 1 << 16
"""what it has removed as slow;"""

PAST: Final = 1 << 17
"""what it had removed within this minute, and is back."""


class Health(NamedTuple):
    """What is measured of a service's endpoints, by id and record type, and what health had removed before.

    `at_ms`: as of when the limits hold, where that was decided for all nodes; 0: now. `speaks`: something besides
    probes has a say.
    """

    measured: Callable[[str, int], Measured]
    before: Removals
    at_ms: int = 0
    speaks: bool = False


UNMEASURED: Final = Health(lambda _id, _type: Measured(), {})


class Resolved(NamedTuple):
    """A service's view, the reasons behind it, and its memory from now on. `sifted`: what health has decided, by type.
    """

    view: ServiceView
    members: tuple[Member, ...]
    memory: Memory
    sifted: Mapping[int, Sifted]

    @property
    def due_ms(self) -> int:
        """When time alone will change what health leaves (unix ms): a ramp's next step, room in the limits; 0: not."""
        return min((one.due_ms for one in self.sifted.values() if one.due_ms), default=0)

    @property
    def removals(self) -> dict[int, tuple[Removal, ...]]:
        """What the limits are to remember of it."""
        found: dict[int, tuple[Removal, ...]] = {}
        for type_, sifted in self.sifted.items():
            down, slow = sifted.kept
            found |= {type_: down.removed, type_ | PAST: down.past,
                      type_ | SLOW: slow.removed, type_ | SLOW | PAST: slow.past}
        return {key: found[key] for key in sorted(found) if found[key]}


def resolve(fleet: Fleet, name: str, memory: Memory, now_ms: int, map_id: int = 0,
            health: Health = UNMEASURED) -> Resolved:
    """Resolve one service at `now_ms` (unix ms). KeyError when there is no such service."""
    service = fleet.services[name]
    members = _members(fleet, service, now_ms)
    sifted = {} if service.check == "none" and not health.speaks else {
        type_: _sift(service, members, type_, health, health.at_ms or now_ms) for type_ in TYPES.values()}
    members = tuple(_healthy(member, sifted) for member in members) if sifted else members
    rules = _policy(service.policy)
    where = placed([Part(m.endpoint.id, m.endpoint.tier, m.endpoint.weight, m.share, m.sound, m.a, m.aaaa)
                    for m in members if m.a or m.aaaa], rules.trickle)
    members = tuple(_noted(member, where.get(member.endpoint.id)) for member in members)
    live = tuple(
        EndpointView(
            m.endpoint.id, m.endpoint.site,
            m.endpoint.a.packed if m.a and m.endpoint.a else None,
            m.endpoint.aaaa.packed if m.aaaa and m.endpoint.aaaa else None,
            where[m.endpoint.id].tier, where[m.endpoint.id].weight, m.points, load_points(m.endpoint.load))
        for m in members if m.a or m.aaaa)
    owned = owned_types(fleet, service)
    after: dict[int, Remembered] = {}
    for type_ in sorted(owned):
        kept = _remember(fleet, name, members, type_, memory.get(type_), now_ms)
        if kept is not None:
            after[type_] = kept
    last = {type_: _last_good(after.get(type_), now_ms) for type_ in TYPES.values()}
    fallback = {
        types.A: tuple(address.packed for address in service.fallback.a),
        types.AAAA: tuple(address.packed for address in service.fallback.aaaa)}
    in_doubt = any(last[t] and not fallback[t] for t in owned) or any(one.doubt for one in sifted.values())
    view = ServiceView(
        names.to_wire(name), rules, service.ttl_floor if in_doubt else service.ttl,
        owned | {types.HTTPS} if service.https is not None else owned, live, fallback[types.A], fallback[types.AAAA],
        last[types.A], last[types.AAAA], map_id, any(one.panic for one in sifted.values()),
        https_params(service.https),
        _ghosts(fleet, name, members, where, health, now_ms) if rules.spill else ())
    return Resolved(view, members, after, sifted)


def _ghosts(fleet: Fleet, name: str, members: tuple[Member, ...], where: Mapping[str, Place], health: Health,
            now_ms: int) -> tuple[EndpointView, ...]:
    """What is not answered but keeps its clients together (`steer.spill`): what is down or taken out, and of sites that
    have nothing left what ended there within ten minutes. What never was up has no clients."""
    scale: dict[int, float] = {}  # weights of what is answered may have been multiplied
    found = []
    for m in members:
        if (m.a or m.aaaa) and m.share == standing.WHOLE and m.endpoint.weight:
            scale[m.endpoint.tier] = where[m.endpoint.id].weight / m.endpoint.weight
    for m in members:
        lacks = [(type_, address) for type_, address, given in (
            (types.A, m.endpoint.a, m.a), (types.AAAA, m.endpoint.aaaa, m.aaaa))
            if address is not None and not given and _proven(health.measured(m.endpoint.id, type_), m)]
        if lacks:
            found.append((m.endpoint, dict(lacks), scale.get(m.endpoint.tier, 1.0)))
    here = {m.endpoint.site for m in members}
    for grave in fleet.ended.get(name, {}).values():
        one = grave.endpoint
        young = now_ms < grave.at_ms + mapplan.LINGER_MS  # so long maps keep its column
        if young and not grave.revoked and one.site in fleet.sites and one.site not in here:
            both = {types.A: one.a, types.AAAA: one.aaaa}
            found.append((one, {key: value for key, value in both.items() if value}, scale.get(one.tier, 1.0)))
    return tuple(EndpointView(
        one.id, one.site, lacks[types.A].packed if types.A in lacks else None,
        lacks[types.AAAA].packed if types.AAAA in lacks else None, one.tier, min(65_535, int(one.weight * scale)))
        for one, lacks, scale in found)


def _proven(measured: Measured, member: Member) -> bool:
    return member.forced is not None or (measured.proven and measured.state is not State.UNKNOWN)


def forced(fleet: Fleet, key: str, site: str, now_ms: int) -> Override | None:
    """The override that decides over an endpoint (`service/id`) at a site: the nearest that has not ended."""
    for target in (f"endpoint:{key}", f"site:{site}", f"service:{key.rpartition('/')[0]}"):
        override = fleet.overrides.get(target)
        if override is not None and active(override, now_ms):
            return override
    return None


def active(override: Override, now_ms: int) -> bool:
    """Whether an override holds; it ends by itself, also while no registry can say so."""
    return not override.until_ms or now_ms < override.until_ms


def owned_types(fleet: Fleet, service: Service) -> frozenset[int]:
    """Declared types, else those it ever had addresses of: the registry remembers them for an empty service too."""
    if service.types is not None:
        return frozenset(TYPES[text] for text in service.types)
    found = {TYPES[text] for text in fleet.owned.get(service.name, ())}
    endpoints = fleet.members.get(service.name, {}).values()
    if service.fallback.a or any(e.a for e in endpoints):
        found.add(types.A)
    if service.fallback.aaaa or any(e.aaaa for e in endpoints):
        found.add(types.AAAA)
    return frozenset(found)


def https_params(https: Https | None) -> tuple[tuple[int, bytes], ...]:
    """SvcParams without hints, by key, as RFC 9460 §7 writes them: alpn 1, port 3, ech 5."""
    if https is None:
        return ()
    found = []
    if https.alpn:
        found.append((1, b"".join(bytes((len(text),)) + text.encode() for text in https.alpn)))
    if https.port is not None:
        found.append((3, https.port.to_bytes(2, "big")))
    if https.ech is not None:
        found.append((5, https.ech))
    return tuple(found)


def load_points(level: int) -> int:
    """A load level (0..7, eighths in use) as points: 1000 idle, 125 at the highest level."""
    return PERFECT - 125 * level


def changed_by_time(fleet: Fleet, memories: Mapping[str, Memory], since_ms: int, now_ms: int) -> set[str]:
    """Services whose view time alone has changed since: an override ended, a last good answer got too old."""
    found: set[str] = set()
    since_ms, now_ms = sorted((since_ms, now_ms))  # where the clock was set back, what had ended holds again
    for override in fleet.overrides.values():
        if since_ms < override.until_ms <= now_ms:
            found |= fleet.reached_by(override)
    for name, memory in memories.items():
        for kept in memory.values():
            if kept.left_ms and since_ms < kept.left_ms + LAST_GOOD_MS <= now_ms:
                found.add(name)
    return found


def _members(fleet: Fleet, service: Service, now_ms: int) -> tuple[Member, ...]:
    """Every endpoint in the order of ids, with what may be answered of it."""
    endpoints = [fleet.members.get(service.name, {})[key] for key in sorted(fleet.members.get(service.name, {}))]
    states = [(e, forced(fleet, e.key, e.site, now_ms)) for e in endpoints]
    up = [e for e, override in states if override is None or override.state == "up"]
    # What a drained endpoint has to leave to others, per family.
    others_a = bool(service.fallback.a) or any(e.a for e in up)
    others_aaaa = bool(service.fallback.aaaa) or any(e.aaaa for e in up)
    found = []
    for endpoint, override in states:
        a, aaaa, reason = endpoint.a is not None, endpoint.aaaa is not None, "live"
        if override is not None:
            reason = f"{override.target} forced {override.state}: {override.reason}"
            if override.state == "down":
                a = aaaa = False
            elif override.state == "drain":
                a, aaaa = a and not others_a, aaaa and not others_aaaa
        found.append(Member(endpoint, override, a, aaaa, reason))
    return tuple(found)


def _sift(service: Service, members: tuple[Member, ...], type_: int, health: Health, now_ms: int) -> Sifted:
    """What health makes of those that could be answered in one family."""
    fallback = service.fallback.a if type_ == types.A else service.fallback.aaaa
    candidates: list[Candidate] = []
    spare: list[Candidate] = []
    for member in members:
        endpoint, state = member.endpoint, member.forced.state if member.forced is not None else ""
        could = member.a if type_ == types.A else member.aaaa
        drained = state == "drain" and (endpoint.a if type_ == types.A else endpoint.aaaa) is not None
        if not (could or drained):
            continue
        one = Candidate(endpoint.id, endpoint.site, endpoint.tier, endpoint.weight,
                        health.measured(endpoint.id, type_), state == "up")
        (candidates if could else spare).append(one)
    return standing.sift(candidates, _kept(health.before, type_), now_ms, fallback=bool(fallback), spare=spare)


def _kept(before: Removals, type_: int) -> Kept:
    """The limits' memory of one family."""
    down, slow = (Limits(before.get(key, ()), before.get(key | PAST, ())) for key in (type_, type_ | SLOW))
    return Kept(down, slow)


def _healthy(member: Member, sifted: Mapping[int, Sifted]) -> Member:
    """The member as health leaves it: the lesser of what both families say of its weight and points."""
    id_ = member.endpoint.id
    answered = [one for one in sifted.values() if id_ in one.shares]
    reasons = [f"{family} {text}" for type_, family in ((types.A, "IPv4"), (types.AAAA, "IPv6"))
               for text in (sifted[type_].out.get(id_), sifted[type_].notes.get(id_)) if text]
    return member._replace(
        a=id_ in sifted[types.A].shares, aaaa=id_ in sifted[types.AAAA].shares,
        share=min((one.shares[id_] for one in answered), default=standing.WHOLE),
        points=min((one.points[id_] for one in answered), default=PERFECT),
        sound=any(id_ in one.sound for one in answered), reason="; ".join(reasons) or member.reason)


def _noted(member: Member, place: Place | None) -> Member:
    """The member, and that it stands in another tier."""
    if place is None or not place.note:
        return member
    return member._replace(reason=place.note if member.reason == "live" else f"{member.reason}; {place.note}")


def _remember(
    fleet: Fleet, name: str, members: tuple[Member, ...], type_: int, before: Remembered | None, now_ms: int,
) -> Remembered | None:
    """The memory of one type from now on: what is live, else what was, without what has been revoked."""
    goods = tuple(_good(m.endpoint, type_) for m in members if (m.a if type_ == types.A else m.aaaa))
    if goods:
        return Remembered(goods, 0)
    if before is None:
        return None
    left_ms = before.left_ms or now_ms
    kept = tuple(good for good in before.goods if not _revoked(fleet, name, good, type_, now_ms))
    if not kept or left_ms + LAST_GOOD_MS <= now_ms:
        return None
    return Remembered(kept, left_ms)


def _revoked(fleet: Fleet, name: str, good: Good, type_: int, now_ms: int) -> bool:
    """Whether its operator or holder took this address away, or an operator forces it down; what only ended was not."""
    endpoint = fleet.endpoint(good.key)
    if endpoint is None:
        grave = fleet.ended.get(name, {}).get(good.key)
        # Without a grave this process was not there when the endpoint went: then its lease tells. One that the store
        # has only spoilt was taken away by nobody.
        revoked = grave.revoked if grave is not None else good.lease is None
        if revoked and f"endpoint/{good.key}" not in fleet.corrupt:
            return True
        override = forced(fleet, good.key, good.site, now_ms)
    else:
        address = endpoint.a if type_ == types.A else endpoint.aaaa
        if address is None or address.packed != good.address:
            return True
        override = forced(fleet, endpoint.key, endpoint.site, now_ms)
    return override is not None and override.state == "down"


def _good(endpoint: Endpoint, type_: int) -> Good:
    address = endpoint.a if type_ == types.A else endpoint.aaaa
    return Good(endpoint.key, endpoint.site, endpoint.lease, address.packed if address is not None else b"")


def _last_good(kept: Remembered | None, now_ms: int) -> tuple[bytes, ...]:
    """The remembered addresses, each once, while they stand in for live ones."""
    if kept is None or not kept.left_ms or kept.left_ms + LAST_GOOD_MS <= now_ms:
        return ()
    return tuple(dict.fromkeys(good.address for good in kept.goods))[:8]


@lru_cache(maxsize=1024)
def _policy(spec: PolicySpec) -> Policy:
    return policy.resolve(spec.preset, spec.model_dump())
