"""What the registry gives back and takes besides the models: plain named tuples.

Lives here: positions, results of writes, events, audit entries, changes of `apply`. Does not live here: the stored
objects (`registry.models`), storage (`registry.store`).

A cursor is opaque to its holder but is no mere stream id: it carries the chain hash of the event it names, so any
process can continue after it and notice that the history under it was replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dnsd.model import Fault
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, Kind, Lease, Override, Service, Site, Verdict

Durability = Literal["fsync", "aof", "unknown"]


class Position(NamedTuple):
    """Where the store stands. `epoch` (< 2**63) names its history, `version` counts its accepted writes."""

    epoch: int
    version: int
    cursor: str
    chain: str


class Loaded(NamedTuple):
    """One consistent state. `owned`: service -> record types (`A`, `AAAA`) its endpoints and fallback ever had.

    `corrupt` names each stored value that could not be read back (place `kind/key`); such values are left out.
    """

    position: Position
    sites: dict[str, Site]
    services: dict[str, Service]
    endpoints: dict[str, Endpoint]
    leases: dict[str, Lease]
    overrides: dict[str, Override]
    owned: dict[str, frozenset[str]]
    corrupt: list[Fault]
    verdicts: Mapping[str, Verdict] = MappingProxyType({})


class Stored(NamedTuple):
    """One object as stored; `version` is the write that made it so, `etag` changes with every write to it."""

    value: Model
    etag: str
    version: int


class Written(NamedTuple):
    """An accepted write. `key` and `etag` are empty where several objects changed; `created`: it was not there."""

    key: str
    etag: str
    version: int
    created: bool
    durability: Durability


class Granted(NamedTuple):
    """An acquired lease; `version` is the write, and the lease's fence too."""

    lease: Lease
    version: int
    durability: Durability


class Renewed(NamedTuple):
    """What became of one renewal. `fence` is the lease's current one, 0 when there is no such lease."""

    id: str
    ok: bool
    fence: int
    remaining_ms: int
    problem: Literal["unknown", "fenced"] | None


class Tick(NamedTuple):
    """One step of the lease clock: what ended, how far lease time went, and what it refused to count as passed.

    `caught` are the leases it began to hold, since too many ended at once, `held` how many are held now.
    """

    expired: list[str]
    advanced_ms: int
    shifted_ms: int
    overrides: list[str]
    caught: Sequence[str] = ()
    held: int = 0


class Holding(NamedTuple):
    """A service with leases that are held past their end: `held` of its `leases`."""

    service: str
    held: int
    leases: int


class Event(NamedTuple):
    """One changed object; `value` None means it is gone. All events of one write share `id` and `version`.

    A write that changed no object has one event, whose `kind` is None.
    `id` is the cursor to continue after. `owned` comes with services and endpoints: the record types the service owns
    from now on when it does not declare them.
    """

    id: str
    version: int
    kind: Kind | None
    key: str
    value: Model | None
    chain: str
    owned: frozenset[str] | None = None


class ZoneContent(NamedTuple):
    """What a node is about to serve of a zone, for which it wants the serial.

    `digest` is hexadecimal, of all but the serial; `floor` the zone file's serial; `served` the newest serial this node
    has served of the zone, None before the first; `same`: it served that with this digest.
    """

    zone: str
    digest: str
    floor: int
    served: int | None = None
    same: bool = False


class AuditEntry(NamedTuple):
    """One accepted write. `before` and `after` are decoded JSON; for several objects a mapping `kind/key` -> value."""

    id: str
    at_ms: int
    actor: str
    action: str
    kind: str
    key: str
    version: int
    before: Any
    after: Any


class Change(NamedTuple):
    """One step of `apply`. A put needs `value`, a delete `key`. `if_match` as in `Registry.put`, but `*` by default.
    `left_s`: how long an override holds still, where that is less than its `seconds`."""

    op: Literal["put", "delete"]
    kind: Kind
    value: Model | None = None
    key: str = ""
    if_match: str | None = "*"
    left_s: float | None = None
