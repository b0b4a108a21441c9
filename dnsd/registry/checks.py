"""How the health of a service's endpoints is found out, as its operator declares it.

Lives here: `Check` and the ports of its kinds, `Rule`. Does not live here: probing and asking (`watch`), the service
(`registry.models`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from dnsd.registry.fields import LABEL, AddressA, AddressAAAA, Model, Name

PORTS: Final = {"http": 80, "https": 443, "tls": 443, "dns": 53, "grpc": None, "tcp": None}
"""The kinds of health check, and the ports they go to when none is declared."""


class Check(Model):
    """How the health of a service's endpoints is found out: one probe of each address that is handed out."""

    kind: Literal["http", "https", "tcp", "tls", "grpc", "dns"]
    port: int | None = Field(default=None, ge=1, le=65535, description="left out: the kind's; tcp and grpc need one")
    address: AddressA | AddressAAAA | None = Field(
        default=None, description="probed instead of each endpoint's own address: all stand and fall with it")
    host: Name | None = Field(default=None, description="Host and SNI, or what dns asks for; left out: the service")
    path: Annotated[str, StringConstraints(pattern=r"^/[!-~]{0,254}$")] = "/"
    method: Literal["GET", "HEAD"] = "GET"
    status: tuple[Annotated[int, Field(ge=100, le=599)], Annotated[int, Field(ge=100, le=599)]] = Field(
        default=(200, 399), description="the least and the greatest status that is healthy")
    text: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        default=None, description="must be in the first 4 kB of the body")
    verify: bool = Field(default=True, description="whether the certificate is checked")
    tls: bool = Field(default=False, description="grpc over TLS")
    interval_ms: int = Field(default=500, ge=100, le=600_000)
    timeout_ms: int = Field(default=300, ge=10, le=1000, description="above the usual time of a handshake; 1 s in all")
    fall: int = Field(default=3, ge=1, le=20, description="failures in a row that make it down")
    rise: int = Field(default=2, ge=1, le=100, description="successes in a row that make it up again")
    ramp_ms: int = Field(default=10_000, ge=0, le=600_000, description="until what is up again has all its weight")
    min_up_percent: int = Field(default=50, ge=0, le=100, description="of the nodes that watch it, lest it is down")
    initial: Literal["unknown", "up"] = Field(
        default="unknown", description="unknown: answered from its first success on, or when there is nothing else")

    @field_validator("host")
    @classmethod
    def _one_host(cls, host: str | None) -> str | None:
        """It becomes a part of a request: whatever is no name or literal address could be more than one header."""
        host = host.removesuffix(".") if host is not None else None
        if host is None or all(map(LABEL.fullmatch, host.split("."))):
            return host
        try:
            if "%" not in host:
                return str(ipaddress.ip_address(host))
        except ValueError:
            pass
        raise ValueError("neither a host name nor an address")

    @field_validator("text")
    @classmethod
    def _octets(cls, text: str | None) -> str | None:
        if text is not None and len(text.encode()) > 255:
            raise ValueError("longer than 255 octets")
        return text

    @model_validator(mode="after")
    def _complete(self) -> Check:
        if self.port is None and PORTS[self.kind] is None:
            raise ValueError(f"a check of kind {self.kind} needs a port")
        if self.status[0] > self.status[1]:
            raise ValueError("status: the least is above the greatest")
        if self.tls and self.kind != "grpc":
            raise ValueError("tls is for grpc; https and tls are kinds")
        if self.text is not None and (self.kind not in ("http", "https") or self.method == "HEAD"):
            raise ValueError("text is looked for in the body of an HTTP GET")
        return self


class Rule(Model):
    """A query to the Prometheus that this node's settings name, and which values are bad.

    It gives one sample for each endpoint, its id in the label `endpoint`, or one sample for all of them.
    """

    query: str = Field(min_length=1, max_length=4096, description="PromQL; asked as an instant query")
    above: float | None = Field(default=None, allow_inf_nan=False, description="bad is what lies above")
    below: float | None = Field(default=None, allow_inf_nan=False, description="bad is what lies below")
    percent_below_baseline: float | None = Field(
        default=None, gt=0, lt=100, description="bad is what lies so far below its own mean of the last ten minutes")
    for_ms: int = Field(default=15_000, ge=0, le=3_600_000, description="bad, or good again, counts after so long")
    interval_ms: int = Field(default=5000, ge=1000, le=300_000, description="how often it is asked")
    then: Literal["down", "degraded"] = Field(default="down", description="what an endpoint with a bad value is")

    @model_validator(mode="after")
    def _one_bound(self) -> Rule:
        if [self.above, self.below, self.percent_below_baseline].count(None) != 2:
            raise ValueError("one of above, below and percent_below_baseline is declared")
        return self
