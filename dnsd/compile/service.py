"""A service to its record: policy as points, endpoints as candidates, the never-empty ladder decided per type.

Lives here: writing a record's bytes. Does not live here: reading them (`image.record`), what may be answered (control
has decided: an endpoint that must not be answered is not in the view).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

from dnsd.dns import types
from dnsd.image import layout
from dnsd.model import EndpointView, Ladder, MapView, ServiceView
from dnsd.steer import rank

IPV4HINT: Final = 4  # SvcParamKey; ipv6hint, 6, is behind all that a service can declare


def record(service: ServiceView, maps: Mapping[int, MapView]) -> bytes:
    """The service's record. A site that its map lacks gets no column: farthest, until the map is derived anew."""
    policy, ghosts = service.policy, service.ghosts if service.policy.spill else ()
    sites = maps[service.map_id].sites if service.map_id in maps else ()
    columns = {site: column for column, site in enumerate(sites)}
    known = len(sites) if all(e.site in columns for e in (*service.live, *ghosts)) else 0
    a = _rung([e.a for e in service.live], service.fallback_a, service.last_good_a)
    aaaa = _rung([e.aaaa for e in service.live], service.fallback_aaaa, service.last_good_aaaa)
    fallback_a = service.last_good_a if a is Ladder.LAST_GOOD else service.fallback_a
    fallback_aaaa = service.last_good_aaaa if aaaa is Ladder.LAST_GOOD else service.fallback_aaaa
    https_head = _params(value for value in service.https if value[0] < IPV4HINT)
    https_rest = _params(value for value in service.https if value[0] > IPV4HINT)
    head = layout.RECORD.pack(
        key=key_of(service.owner), flags=_flags(service, known), ttl=service.ttl, map=service.map_id,
        band_ms=policy.band_ms, endpoints=len(service.live) + len(ghosts), fallback_a=len(fallback_a),
        fallback_aaaa=len(fallback_aaaa), take=policy.take, fence=policy.fence, split4=policy.split4,
        split6=policy.split6, ladder_a=a, ladder_aaaa=aaaa, https_head=len(https_head), https_rest=len(https_rest))
    level_ms = [*layout.LEVEL_MS, *[layout.LEVEL_MS[-1]] * (layout.LEVELS - len(layout.LEVEL_MS))]
    proximity = rank.proximity_points(policy.proximity, policy.half_ms, level_ms)
    points = struct.pack(f"<{layout.LEVELS + layout.MATCHES}I", *proximity, *rank.match_points(policy.match))
    # In the order of ids, so that the same view gives the same bytes whatever order it came in.
    endpoints = [_endpoint(e, columns, service, ghost=ghost) for e, ghost in sorted(
        [*((e, False) for e in service.live), *((e, True) for e in ghosts)], key=lambda one: (one[0].id, one[1]))]
    return b"".join((head, points, *endpoints, *fallback_a, *fallback_aaaa, https_head, https_rest))


def _params(values: Iterable[tuple[int, bytes]]) -> bytes:
    """SvcParams in the order of their keys (RFC 9460 §2.2)."""
    return b"".join(struct.pack(">HH", key, len(value)) + value for key, value in sorted(values))


def key_of(identity: bytes) -> int:
    """64 bits of an identity's hash: the same on every node and in every release."""
    return int.from_bytes(blake2b(identity, digest_size=8, person=b"dnsd-key").digest(), "little")


def _rung(live: list[bytes | None], fallback: tuple[bytes, ...], last_good: tuple[bytes, ...]) -> Ladder:
    if any(live):
        return Ladder.LIVE
    if fallback:
        return Ladder.FALLBACK
    return Ladder.LAST_GOOD if last_good else Ladder.EMPTY


def _flags(service: ServiceView, sites: int) -> int:
    policy = service.policy
    # With one site in the map (not: one alive, for health never moves a scope) nobody is nearer to another; but one
    # that the map lacks is farther than any.
    alike = sites == 1 and not policy.fence and not policy.unknown_fallback
    return (
        (layout.R_USES_CLIENT if policy.uses_client and not alike else 0)
        | (layout.R_OWNS_A if types.A in service.types else 0)
        | (layout.R_OWNS_AAAA if types.AAAA in service.types else 0)
        | (layout.R_OWNS_HTTPS if types.HTTPS in service.types else 0)
        | (layout.R_NO_ECS_FALLBACK if policy.no_ecs_fallback else 0)
        | (layout.R_UNKNOWN_FALLBACK if policy.unknown_fallback else 0)
        | (layout.R_PANIC if service.panic else 0)
        | (layout.R_SPILL if policy.spill else 0))


def _endpoint(endpoint: EndpointView, columns: Mapping[str, int], service: ServiceView, *, ghost: bool) -> bytes:
    policy = service.policy
    flags = (layout.E_V4 if endpoint.a else 0) | (layout.E_V6 if endpoint.aaaa else 0)
    spill = (key_of(endpoint.site.encode()) & 0xFFFFFFFF, endpoint.keep, endpoint.take) if policy.spill else (0, 0, 0)
    return layout.ENDPOINT.pack(
        key=key_of(endpoint.id.encode()), standing=policy.health * endpoint.health + policy.load * endpoint.load,
        weight=endpoint.weight, column=columns.get(endpoint.site, layout.NO_COLUMN), tier=endpoint.tier,
        flags=flags * (layout.E_GHOST4 // layout.E_V4) if ghost else flags, health=endpoint.health // 4,
        load=endpoint.load, a=endpoint.a or bytes(4), aaaa=endpoint.aaaa or bytes(16), site=spill[0], keep=spill[1],
        take=spill[2])
