"""The values that cross rooms: what compile is given and what the image promises to carry.

Lives here: frozen values without behaviour, the enumerations both sides of the image agree on, `Fault`.
Does not live here: what an operator writes (`registry.models`, validated by pydantic), offsets (`image.layout`), rules.

Control resolves registry state (health, leases, overrides, load, fallback ladder) into these; compile turns them into
bytes and asks nobody. Everything is decided before: an endpoint that must not be answered is simply not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NamedTuple


class Stamp(NamedTuple):
    """Where an image stands: the store's history, the change inside it, this node's own later findings.

    Ordered: a worker applies only what is greater within one epoch; another epoch comes only as a whole image.
    """

    epoch: int
    version: int
    node_seq: int


class Fault(NamedTuple):
    """One thing wrong in something an operator wrote: place (`file:line` or a JSON pointer) and what is wrong there."""

    place: str
    message: str


class Match(IntFlag):
    """What a client and a site have in common; one byte of a row, and the index of a record's match scores."""

    PROVIDER = 1
    CARRIER = 2
    ASN = 4
    COUNTRY = 8
    REGION = 16


class Ladder(IntEnum):
    """Which rung of `live -> fallback -> last good` a record stands on."""

    LIVE = 0
    FALLBACK = 1
    LAST_GOOD = 2
    EMPTY = 3


class Fence(IntEnum):
    """Clients are kept to endpoints of their own country or region; the value is the `Match` bit that is demanded."""

    NONE = 0
    COUNTRY = 8
    REGION = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """A service's policy as numbers: filter, score, band, weight, take; `steer.policy` makes it from a preset.

    Scores are integers: a term of 1000 times its weight. `band_ms` is in milliseconds over the best candidate.
    `trickle`, percent of the answers for the next tier, is in the tiers and weights of the view already.
    """

    proximity: int = 40
    match: int = 30
    health: int = 20
    load: int = 10
    half_ms: int = 50
    band_ms: int = 30
    take: int = 1
    uses_client: bool = True
    fence: Fence = Fence.NONE
    no_ecs_fallback: bool = False
    unknown_fallback: bool = False
    split4: int = 0
    split6: int = 0
    trickle: int = 0
    spill: bool = False


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One answerable address pair; `health` and `load` are 0..1000 (1000: perfect, idle), tier 0 is first.

    `keep` and `take` are its site's shares where the service spills over (`steer.spill`).
    """

    id: str
    site: str
    a: bytes | None
    aaaa: bytes | None
    tier: int = 0
    weight: int = 100
    health: int = 1000
    load: int = 1000
    keep: int = 65535
    take: int = 0


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service resolved to what may be answered now; `owner` is a lower-case wire name, `types` what it owns.

    `live`, `fallback` and `last_good` are the rungs of the never-empty ladder; compile takes, for each type, the first
    that has an address. `map_id` names the map the sites' columns are taken from.
    `ghosts` are not answered but keep their place in the order, where the policy spills over (`steer.spill`).
    `https` are the SvcParams of the HTTPS record besides its hints, by key, where `types` has HTTPS (RFC 9460 §2.2).
    """

    owner: bytes
    policy: Policy
    ttl: int
    types: frozenset[int]
    live: tuple[EndpointView, ...] = ()
    fallback_a: tuple[bytes, ...] = ()
    fallback_aaaa: tuple[bytes, ...] = ()
    last_good_a: tuple[bytes, ...] = ()
    last_good_aaaa: tuple[bytes, ...] = ()
    map_id: int = 0
    panic: bool = False
    https: tuple[tuple[int, bytes], ...] = ()
    ghosts: tuple[EndpointView, ...] = ()


@dataclass(frozen=True, slots=True)
class RRset:
    """A static rrset: lower-case wire owner, type, TTL in seconds, uncompressed wire rdatas."""

    owner: bytes
    type: int
    ttl: int
    rdatas: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ZoneView:
    """One zone's static data; `apex` is a lower-case wire name and has one SOA and an NS rrset among `rrsets`."""

    apex: bytes
    rrsets: tuple[RRset, ...]


@dataclass(frozen=True, slots=True)
class MapView:
    """A map as records see it: id, table file name inside the maps folder, and its sites in column order."""

    id: int
    file: str
    sites: tuple[str, ...]
    columns: dict[str, int] = field(default_factory=dict, compare=False)
