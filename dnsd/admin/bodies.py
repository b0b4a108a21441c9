"""Bodies that are not stored values: what a client sends besides objects, and every shape of answer.

Lives here: pydantic models, for checking requests and for the OpenAPI document. Does not live here: sites, services,
endpoints, overrides, lease requests – those are `registry.models`, one model for API, store and `apply` file.

Answers are built as plain dictionaries for speed; a test holds them to the models here.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dnsd.registry.fields import Id, Model
from dnsd.registry.models import Endpoint, Override, Renewal, Role, Service, Site
from dnsd.registry.reports import ITEMS, OwnReport, UserReport
from dnsd.registry.values import Durability

Key = Annotated[str, Field(max_length=400)]


class TokenSpec(Model):
    """A token as it is written. Without `sha256` a new one's secret is made here and shown once, an old one keeps its.

    `services` are exact names or `*.suffix`; `addresses` are CIDRs. Empty means no narrowing.
    """

    id: Id
    role: Role
    services: tuple[Annotated[str, Field(max_length=255)], ...] = Field(default=(), max_length=256)
    addresses: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = Field(default=(), max_length=256)
    expires_ms: int | None = Field(default=None, ge=1, description="wall clock, ms since 1970")
    note: str = Field(default="", max_length=200)
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="of the secret's 64 hex digits, if made elsewhere")

    @field_validator("services")
    @classmethod
    def _patterns(cls, services: tuple[str, ...]) -> tuple[str, ...]:
        for name in services:
            rest = name.removeprefix("*.").removesuffix(".")
            if not rest or "*" in rest or ".." in rest or rest.startswith("."):
                raise ValueError(f"{name!r} is neither a name nor *.suffix")
        return tuple(name.lower().removesuffix(".") for name in services)

    @model_validator(mode="after")
    def _admin_is_whole(self) -> TokenSpec:
        if self.role is Role.ADMIN and (self.services or self.addresses):
            raise ValueError("an admin cannot be narrowed; use the role operator")
        return self


class Renew(Model):
    """One lease's heartbeat. `loads` maps endpoint keys (`service/id`) to the in-use share 0..1."""

    fence: int = Field(ge=1)
    loads: dict[Key, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict, max_length=1000)
    reports: dict[Key, OwnReport] = Field(default_factory=dict, max_length=ITEMS)


class RenewBatch(Model):
    """Many leases' heartbeats; each is decided by itself."""

    renewals: tuple[Renewal, ...] = Field(min_length=1, max_length=1000)


class Reports(Model):
    """What a user of services saw of their endpoints since its last report."""

    reports: tuple[UserReport, ...] = Field(min_length=1, max_length=ITEMS)


class Gone(Model):
    """Keys to delete, by kind."""

    sites: tuple[Key, ...] = ()
    services: tuple[Key, ...] = ()
    endpoints: tuple[Key, ...] = ()
    overrides: tuple[Key, ...] = ()


class Fleet(Model):
    """Fleet state as a whole, what `dnsd apply FILE` sends. A kind that is left out is not touched."""

    sites: tuple[Site, ...] | None = None
    services: tuple[Service, ...] | None = None
    endpoints: tuple[Endpoint, ...] | None = Field(
        default=None, description="permanent ones; leased ones are their holders'")
    overrides: tuple[Override, ...] | None = None
    delete: Gone = Gone()


class Answer(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(extra="forbid")


class Written(Answer):
    """A write that was accepted. `version` is live on every worker when `/v1/status?wait_version=` says so.

    `local`: it holds on this node alone, for its registry is away; `version` is 0 then.
    """

    key: str
    etag: str | None
    version: int
    created: bool
    durability: Durability
    local: bool = False


class Standpoint(Answer):
    """An epoch, in hexadecimal, and a version of it."""

    epoch: str
    version: int


class ServedState(Standpoint):
    """What is served: where it stands, and how much it is."""

    sites: int
    services: int
    endpoints: int
    leases: int


class Lost(Answer):
    """What of a kind would be lost: of `had` objects `missing` are not there, `changed` otherwise; some by key."""

    kind: str
    had: int
    missing: int
    changed: int
    named: list[str]


class RegistryState(Answer):
    """What is served and what the registry offers. `etag` is empty where there is nothing to accept or restore."""

    state: Literal["followed", "away", "held"]
    why: str
    alarm: str
    etag: str
    served: ServedState
    offered: Standpoint | None
    losses: list[Lost]
    stale_for: float


class Adopted(Standpoint):
    """What all nodes go on with; `written`: objects that were written back."""

    written: int


class TokenWritten(Written):
    """As `Written`; `token` is the new token's text, never shown again."""

    token: str | None = None


class Item(Answer):
    """A stored object in a list."""

    key: str
    etag: str
    version: int
    value: dict[str, Any]


class Page(Answer):
    """A part of a list; ask again with `next_page_token` until it is null."""

    items: list[Item]
    next_page_token: str | None


class Granted(Answer):
    """A lease that was granted. Renew within `ttl` seconds with `id` and `fence`."""

    id: str
    holder: str
    fence: int
    ttl: int
    endpoints: list[str]
    version: int
    durability: Durability


class Renewed(Answer):
    """What became of one renewal: `unknown` (acquire again), `fenced` (another instance holds it), `forbidden`."""

    id: str
    ok: bool
    fence: int
    remaining_ms: int
    problem: Literal["unknown", "fenced", "forbidden"] | None


class RenewedBatch(Answer):
    """One `Renewed` for each renewal, in their order."""

    renewed: list[Renewed]


class Reported(Answer):
    """How many reports were taken, and of which endpoints none was, because they are not registered."""

    taken: int
    unknown: list[str]


class Measured(Answer):
    """How many samples were accepted, and how many dropped for which reason: no client's address, out of range, no such
    site, faster than light, over the quota."""

    accepted: int
    dropped: dict[str, int]


class Step(Answer):
    """One object of a plan; `before` and `after` where there is one."""

    op: Literal["create", "change", "delete"]
    kind: str
    key: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Plan(Answer):
    """What `apply` did, or would do (`dry_run`); `version` is of the result, or of the state the plan was made from."""

    dry_run: bool
    version: int
    durability: Durability | None
    unchanged: int
    steps: list[Step]


class AuditItem(Answer):
    """One accepted write."""

    id: str
    at_ms: int
    actor: str
    action: str
    kind: str
    key: str
    version: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditPage(Answer):
    """A part of the audit stream, oldest first."""

    items: list[AuditItem]
    next_page_token: str | None


class FaultItem(Answer):
    """One thing that is wrong, and where: a JSON pointer, `?parameter`, or `file:line`."""

    pointer: str
    message: str


class ProblemBody(Answer):
    """RFC 9457 problem."""

    type: str
    title: str
    status: int
    request_id: str
    detail: str | None = None
    faults: list[FaultItem] = []
