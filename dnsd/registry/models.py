"""What an operator or an instance writes: API body, stored value and `apply` file are one model each.

Lives here: pydantic models with their checks, kinds and their keys. Does not live here: rules that need more than the
object itself (`registry.rules`), storage (`registry.store`), the resolved values compile takes (`dnsd.model`).

Unknown keys are errors. Names are lower-case; a service's id is its owner name without the final dot.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_validator,
)

from dnsd.registry.checks import Check, Rule
from dnsd.registry.fields import LABEL, AddressA, AddressAAAA, Country, Id, Model, Name, Tag
from dnsd.registry.reports import ITEMS, OwnReport


class Kind(StrEnum):
    """The kinds of stored object; the value is the key part, the plural the API's path."""

    SITE = "site"
    SERVICE = "service"
    ENDPOINT = "endpoint"
    LEASE = "lease"
    OVERRIDE = "override"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    VERDICT = "verdict"


class Site(Model):
    """A data centre: where it is, whose it is, which carriers' and ASNs' clients are at home there."""

    id: Id
    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)
    country: Country
    region: Tag = Field(description="continent or the operator's own region; what `fence: region` compares")
    provider: Tag | None = None
    carriers: tuple[Tag, ...] = ()
    asns: tuple[Annotated[int, Field(ge=1, le=4294967295)], ...] = ()
    capacity: int | None = Field(
        default=None, ge=1, le=1 << 40, description="units of load the site can carry; what `spill` goes by")


class Preset(StrEnum):
    """Named policies; each number of it can be overridden in the service's policy."""

    GEO = "geo"
    LATENCY = "latency"
    FAILOVER = "failover"
    WEIGHTED = "weighted"
    ALL = "all"


class Spill(Model):
    """Spill-over: sites have so much room for a service's clients, and no more go to one (docs/spill.md)."""

    low: int = Field(default=80, ge=1, le=100, description="percent of a site's capacity: up to here it takes others' "
                                                           "clients before any site is filled further")
    high: int = Field(default=95, ge=1, le=100, description="percent no site passes while the total fits")
    share: int = Field(default=100, ge=1, le=100, description="percent of every site's capacity that is this service's")
    demand: int | None = Field(
        default=None, ge=1, le=1 << 40, description="units of load of all clients together; left out: by what holders "
                                                    "report, else a given list's weights, else 70 % of all capacity")

    @model_validator(mode="after")
    def _low_under_high(self) -> Spill:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class PolicySpec(Model):
    """How a service chooses. Numbers left out come from the preset (`steer.policy.PRESETS`)."""

    preset: Preset = Preset.GEO
    proximity: int | None = Field(default=None, ge=0, le=100)
    match: int | None = Field(default=None, ge=0, le=100)
    health: int | None = Field(default=None, ge=0, le=100)
    load: int | None = Field(default=None, ge=0, le=100)
    half_ms: int | None = Field(default=None, ge=1, le=10000, description="extra ms at which proximity is worth half")
    band_ms: int | None = Field(default=None, ge=0, le=10000)
    take: int | None = Field(default=None, ge=1, le=32)
    fence: Literal["none", "country", "region"] = "none"
    no_ecs: Literal["resolver", "fallback"] = "resolver"
    unknown_client: Literal["weights", "fallback"] = "weights"
    split4: int = Field(default=0, ge=0, le=24, description="0: draw by window; else sticky by this block length")
    split6: int = Field(default=0, ge=0, le=56)
    trickle: int = Field(default=0, ge=0, le=20, description="percent of the answers that the next tier gets")
    spill: Spill | None = Field(default=None, description="overflow and a dead site's clients go to several sites")

    @model_validator(mode="after")
    def _spill(self) -> PolicySpec:
        if self.spill is not None and (self.preset not in (Preset.GEO, Preset.LATENCY) or self.fence != "none"
                                       or self.load):
            raise ValueError("spill needs the preset geo or latency, no fence, and no points for load")
        return self

    @model_validator(mode="after")
    def _trickle(self) -> PolicySpec:
        points = (self.proximity, self.match, self.health, self.load)
        if self.trickle and (self.preset not in (Preset.FAILOVER, Preset.WEIGHTED) or any(points)
                             or self.fence != "none"):
            raise ValueError("a trickle needs the preset failover or weighted, no points, and no fence: "
                             "else who is asking would decide who gets it")
        return self

    @model_validator(mode="after")
    def _both_splits(self) -> PolicySpec:
        if bool(self.split4) != bool(self.split6):
            raise ValueError("split4 and split6 are declared together or not at all")
        return self


class Fallback(Model):
    """Addresses answered when no endpoint can be: often anycast."""

    a: tuple[AddressA, ...] = Field(default=(), max_length=8)
    aaaa: tuple[AddressAAAA, ...] = Field(default=(), max_length=8)


def _ech(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("not text in base64")
    try:
        octets = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if len(octets) > 4096:
        raise ValueError("longer than 4096 octets")
    at = 2
    while 2 <= at < len(octets):  # version, length, contents of each (TLS ECH §4)
        at += 4 + int.from_bytes(octets[at + 2 : at + 4], "big")
    if len(octets) < 6 or at != len(octets) or int.from_bytes(octets[:2], "big") != len(octets) - 2:
        raise ValueError("no ECHConfigList: its lengths do not add up")
    return octets


class Https(Model):
    """What a service's HTTPS record says besides its hints, which are what A and AAAA give (RFC 9460)."""

    alpn: tuple[Annotated[str, StringConstraints(pattern=r"^[!-+\--\[\]-~]{1,255}$")], ...] = Field(
        default=(), max_length=8, description="protocols, as h2 and h3, beside HTTP/1.1")
    port: int | None = Field(default=None, ge=1, le=65535, description="left out: 443")
    ech: Annotated[
        bytes, BeforeValidator(_ech), WithJsonSchema({"type": "string", "contentEncoding": "base64"})] | None = Field(
        default=None, description="ECHConfigList in base64, at most 4096 octets")

    @field_validator("alpn")
    @classmethod
    def _once(cls, alpn: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(alpn)) != len(alpn):
            raise ValueError("a protocol is there twice")
        return alpn

    @field_serializer("ech")
    def _ech_text(self, ech: bytes | None) -> str | None:
        return base64.b64encode(ech).decode() if ech is not None else None


class Service(Model):
    """A dynamic owner name: policy, TTL, fallback. Its zone is the longest configured zone that holds the name."""

    name: Name
    policy: PolicySpec = PolicySpec()
    ttl: int = Field(default=8, ge=1, le=86400, description="seconds, while nothing is in doubt")
    ttl_floor: int = Field(default=2, ge=1, le=86400, description="seconds, while something is in doubt")
    types: tuple[Literal["A", "AAAA"], ...] | None = Field(
        default=None, description="record types it owns; left out: those its endpoints and fallback ever had")
    fallback: Fallback = Fallback()
    https: Https | None = Field(default=None, description="declared, it owns HTTPS too")
    check: Check | Literal["none"] = Field(default="none", description="none: endpoints are up while they are there")
    rule: Rule | None = Field(default=None, description="a query to Prometheus that speaks of its endpoints' health")

    @field_validator("name")
    @classmethod
    def _hostname(cls, name: str) -> str:
        name = name.removesuffix(".")
        labels = name.split(".")
        if labels[0] == "*":
            labels = labels[1:]
        if len(name) > 253 or not labels or any(not LABEL.fullmatch(label) for label in labels):
            raise ValueError("not a host name (a first label `*` is allowed)")
        return name

    @model_validator(mode="after")
    def _floor_under_ttl(self) -> Service:
        if self.ttl_floor > self.ttl:
            raise ValueError("ttl_floor is above ttl")
        return self


class EndpointSpec(Model):
    """What an instance says of one of its endpoints: an address pair of a service at a site."""

    id: Id
    service: Name
    site: Id
    a: AddressA | None = None
    aaaa: AddressAAAA | None = None
    weight: int = Field(default=100, ge=0, le=65535, description="0: never drawn while another can be")
    tier: int = Field(default=0, ge=0, le=255, description="lower tiers first")

    @model_validator(mode="after")
    def _some_address(self) -> EndpointSpec:
        if self.a is None and self.aaaa is None:
            raise ValueError("neither a nor aaaa is given")
        return self

    @field_validator("service")
    @classmethod
    def _no_final_dot(cls, name: str) -> str:
        return name.removesuffix(".")


class Endpoint(EndpointSpec):
    """A stored endpoint. Its key is `service/id`; without a lease it is permanent, owned by the operator.

    `load` is the level 0..7 of the last report (0 idle). It is state, not identity: a renewal changes it in place.
    """

    lease: str | None = None
    load: int = Field(default=0, ge=0, le=7)

    @property
    def key(self) -> str:
        """`service/id`: endpoint ids are unique within their service."""
        return f"{self.service}/{self.id}"


class LeaseRequest(Model):
    """An instance asks for a lease over all its endpoints; the same holder asking again gets a higher fence."""

    holder: Id
    ttl: int = Field(default=30, ge=2, le=86400, description="seconds")
    endpoints: tuple[EndpointSpec, ...] = Field(min_length=1, max_length=1000)


class Lease(Model):
    """A granted lease. `deadline` is in lease time: milliseconds that pass only while leases can be renewed."""

    id: str
    holder: Id
    fence: int = Field(ge=1)
    ttl: int
    deadline: int
    endpoints: tuple[str, ...] = Field(description="endpoint keys")
    token: str = Field(description="id of the token that acquired it")
    held: bool = Field(default=False, description="its time is over, but it ended with too many others")


class Renewal(Model):
    """One lease's renewal; `loads` maps endpoint keys to in-use share 0..1, kept as 8 levels with hysteresis."""

    id: str
    fence: int
    loads: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    reports: dict[str, OwnReport] = Field(
        default_factory=dict, max_length=ITEMS, description="endpoint key -> what its holder says of it")


class Override(Model):
    """A forced state; it expires by itself and beats what is measured. The id is `target:name`, so one per target.

    `up` answers it whatever its health, `down` never, `drain` only while nothing else of the service can be answered.
    """

    target: Literal["endpoint", "site", "service"]
    name: str
    state: Literal["up", "down", "drain"]
    seconds: int = Field(ge=1, le=30 * 86400)
    reason: str = Field(min_length=1, max_length=200)
    until_ms: int = Field(default=0, description="wall-clock end in ms since 1970, set by the registry")

    @property
    def key(self) -> str:
        """`target:name`."""
        return f"{self.target}:{self.name}"


class Role(StrEnum):
    """What a token may do: admin everything, operator fleet state and overrides, agent leases and measurements, reader
    only read, beacon (in web pages) only say how far its own address is."""

    ADMIN = "admin"
    OPERATOR = "operator"
    AGENT = "agent"
    READER = "reader"
    BEACON = "beacon"


class Token(Model):
    """A stored token: SHA-256 of the secret, role and scope. Empty `services` or `addresses` means no narrowing.

    `services` are exact names or `*.suffix`; `addresses` are the CIDRs an endpoint of this token may have.
    """

    id: Id
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Role
    services: tuple[str, ...] = ()
    addresses: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    expires_ms: int | None = None
    note: str = Field(default="", max_length=200)


class Judged(NamedTuple):
    """One address of an endpoint as all have it. `state`, and `base` by probes alone, as `steer.health.State`.

    Times in unix ms; `share` of its weight, of 1000; `back_ms`: its last recovery; `doubt`: a failed probe is not
    settled; `proven`: it was up before; `why` in words, where it is not simply up.
    """

    state: Annotated[int, Field(ge=0, le=3)]
    base: Annotated[int, Field(ge=0, le=3)]
    since_ms: int = 0
    back_ms: int = 0
    share: Annotated[int, Field(ge=0, le=1000)] = 1000
    doubt: bool = False
    proven: bool = True
    why: str = ""


class Verdict(Model):
    """What the nodes have found of a service's endpoints, decided once for all: written by them, never by people.

    `up` are the places that are simply up, `cells` the others; a place is `endpoint id/type@what is probed`.
    `removals`: type -> (endpoint id, unix ms) of what the limits let health remove, all as of `at_ms` (with bits above
    the type: as `control.resolve` has them).
    """

    service: str
    at_ms: int
    up: tuple[str, ...] = ()
    cells: dict[str, Judged] = Field(default_factory=dict)
    removals: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], tuple[tuple[str, int], ...]] = Field(
        default_factory=dict)


MODELS: dict[Kind, type[Model]] = {
    Kind.SITE: Site, Kind.SERVICE: Service, Kind.ENDPOINT: Endpoint, Kind.LEASE: Lease, Kind.OVERRIDE: Override,
    Kind.TOKEN: Token, Kind.VERDICT: Verdict,
}
"""The model each kind is written and read back with."""


def key_of(value: Model) -> str:
    """The key a value is stored under, unique within its kind."""
    match value:
        case Service(name=name) | Verdict(service=name):
            return name
        case Endpoint(key=key) | Override(key=key):
            return key
        case Site(id=key) | Lease(id=key) | Token(id=key):
            return key
    raise TypeError(f"{type(value).__name__} is not stored")
