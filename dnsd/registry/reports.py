"""What is reported of an endpoint's health: by whoever holds its lease, and by whoever uses it.

Lives here: the bodies. Does not live here: what follows from them (`control.reports`, `steer.breaker`).
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from dnsd.registry.fields import Model

ITEMS: Final = 1000
"""Most endpoints in one report."""

Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Report(Model):
    """What was seen since the last report: requests that went well and that failed, a round trip."""

    ok: Count = 0
    failed: Count = 0
    rtt_ms: float | None = Field(
        default=None, gt=0, le=60_000, description="a round trip to it, or, by its holder, to its clients")


class OwnReport(Report):
    """What the holder of a lease says of one of its endpoints."""

    healthy: bool | None = Field(
        default=None, description="false: down at once, until true is said, or for the ttl and at least a minute")
    in_flight: Count | None = Field(default=None, description="requests under way")
    capacity: int | None = Field(
        default=None, ge=1, le=1_000_000, description="as many may be; with both given, the share is its load")

    @property
    def load(self) -> float | None:
        """The share in use, 0..1, where it can be told."""
        if self.in_flight is None or self.capacity is None:
            return None
        return min(1.0, self.in_flight / self.capacity)


class UserReport(Report):
    """What a user of a service says of one of its endpoints."""

    endpoint: str = Field(min_length=3, max_length=400, description="service/id")
