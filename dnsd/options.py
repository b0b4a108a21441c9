"""A node's settings as they are declared: one place per option, with its default, its limits and what it is.

Lives here: the options. Does not live here: reading files and variables, naming faults (`config`), fleet state (the
registry's), what the options do.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dnsd import disk
from dnsd.option_types import (
    KEY,
    Listen,
    NeighbourList,
    PrefixList,
    Seconds,
    Section,
    address,
    certified,
    clash,
    listen_once,
    told,
    zone_name,
)

PREFIX: Final = "DNSD_"


class AdminOptions(Section):
    """[admin]: the HTTP API."""

    listen: Listen = Field(
        default=("127.0.0.1:8053",),
        description="addresses of the admin API; loopback ones speak HTTP, all others TLS and need certificate and key")
    certificate: Path | None = Field(default=None, description="PEM file with the certificate chain")
    key: Path | None = Field(default=None, description="PEM file with its private key, unencrypted")

    @model_validator(mode="after")
    def _tls(self) -> AdminOptions:
        outside = [text for text in self.listen if not ipaddress.ip_address(address(text)[0]).is_loopback]
        if outside and self.certificate is None:
            raise ValueError(f"{', '.join(outside)} is not loopback: that needs certificate and key")
        certified(self.certificate, self.key)
        return self


class RegistryOptions(Section):
    """[registry]: the store of the fleet's state."""

    url: str | None = Field(
        default=None, pattern=r"^(rediss?(\+sentinel)?://|unix:///)[^/].*$",
        description="Redis or Valkey >= 7: redis://, rediss://, unix:// or redis+sentinel://host,host/master; "
                    "left out: a store of its own in the state directory")
    prefix: str = Field(default="dnsd", pattern=r"^[a-z0-9_-]{1,32}$", description="what all keys begin with")


class ZoneOptions(Section):
    """[[zones]]: one zone."""

    name: Annotated[str, AfterValidator(zone_name)] = Field(description="the zone's apex")
    file: Path = Field(description="its master file (RFC 1035)")
    transfer: NeighbourList = Field(
        default=(), description='who may transfer the zone: prefixes, TSIG keys as "key:NAME"; nobody when left out')
    notify: Annotated[tuple[str, ...], AfterValidator(told)] = Field(
        default=(), description="secondaries that are told when the zone has changed, each with its port")
    notify_key: Annotated[str, AfterValidator(zone_name)] | None = Field(
        default=None, description="the TSIG key that signs what they are told")


class DataOptions(Section):
    """[data]: where knowledge of client addresses comes from."""

    directory: Path = Field(default=Path("/usr/share/dnsd/data"), description="folder with the source files")
    atlas: Path | None = Field(default=None, description="folder of the built atlas; left out: `atlas` in the state")
    cidrs: Path | None = Field(
        default=None,
        description="CSV file prefix,country,latitude,longitude,asn,carrier,provider,tag that overrides the sources")

    @model_validator(mode="after")
    def _there(self) -> DataOptions:
        if self.directory != DataOptions.model_fields["directory"].default and not self.directory.is_dir():
            raise ValueError(f"directory: {self.directory} is no directory")
        if self.cidrs and not self.cidrs.is_file():
            raise ValueError(f"cidrs: {self.cidrs} is no file")
        return self


class TcpOptions(Section):
    """[tcp]: what each worker grants to connections."""

    connections: int = Field(
        default=512, ge=1, le=100_000,
        description="open at once, TCP and TLS together, besides new ones; one more closes the one idle longest")
    per_prefix: int = Field(
        default=128, ge=1, le=100_000,
        description="of them from one IPv4 /24 or IPv6 /56; one more closes its own idle longest")
    queries: int = Field(default=1_000_000, ge=1, description="answered on one connection, then it is closed")
    first_query_seconds: Seconds = Field(default=5.0, description="from accepting to the first whole query")
    idle_seconds: Seconds = Field(default=10.0, description="from one whole query to the next")
    stall_seconds: Seconds = Field(default=5.0, description="that a client may leave answers unread")
    lifetime_seconds: Seconds = Field(default=600.0, description="of a connection in all")
    proxy_from: PrefixList = Field(
        default=(), description="peers that send a PROXY v2 header first on TCP, which is believed")


class TlsOptions(Section):
    """[tls]: DNS over TLS (RFC 7858). Both files are read again when they change."""

    listen: Annotated[tuple[str, ...], AfterValidator(listen_once)] = Field(
        default=(), description="addresses of DNS over TLS, port 853 by custom; none when left out")
    certificate: Path | None = Field(default=None, description="PEM file with the certificate chain")
    key: Path | None = Field(default=None, description="PEM file with its private key, unencrypted")

    @model_validator(mode="after")
    def _complete(self) -> TlsOptions:
        if self.listen and self.certificate is None:
            raise ValueError("listen needs certificate and key")
        certified(self.certificate, self.key)
        return self


class RateOptions(Section):
    """[rate]: how many answers over UDP one IPv4 /24 or IPv6 /56 gets of one zone and one kind."""

    answers: int = Field(default=1000, ge=0, le=1_000_000, description="a second with records in them; 0: no limits")
    others: int = Field(
        default=100, ge=1, le=1_000_000, description="a second of each other kind: NODATA, NXDOMAIN, referral, error")
    burst_seconds: float = Field(default=1.0, ge=0.1, le=60, description="how much unused rate may be spent at once")
    exempt: PrefixList = Field(
        default=("127.0.0.0/8", "::1/128"), description="clients that are never limited; these nobody can forge")
    raised: PrefixList = Field(default=(), description="large resolvers that get more")
    raised_by: int = Field(default=20, ge=1, le=1000, description="how many times more")


class CookieOptions(Section):
    """[cookies]: DNS cookies (RFC 7873, RFC 9018)."""

    enabled: bool = Field(default=True, description="whether queries with a cookie get one back")
    file: Path | None = Field(
        default=None, description="the secrets, the same on every node of an address; left out: `cookies` in the state")


class EcsOptions(Section):
    """[ecs]: client subnets (RFC 7871)."""

    resolvers: PrefixList = Field(
        default=("0.0.0.0/0", "::/0"),
        description="resolvers whose client subnets are believed; others are judged by their own address")


class IdentityOptions(Section):
    """[identity]: what `CH TXT` tells; NSID tells the same as id.server."""

    server: bool = Field(default=True, description="id.server and hostname.bind: node, worker, epoch and version")
    version: bool = Field(default=False, description="version.server and version.bind: dnsd's version")


class WhyOptions(Section):
    """[why]: `TXT _why.<service>` explains the answer."""

    allow: NeighbourList = Field(
        default=(), description='who may ask: prefixes, and TSIG keys as "key:NAME"; nobody when left out')


class KeyOptions(Section):
    """[[keys]]: one TSIG key (RFC 8945)."""

    name: Annotated[str, AfterValidator(zone_name)] = Field(description="its name, the same at the other side")
    algorithm: Literal["hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"] = Field(
        default="hmac-sha256", description="hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512")
    secret: str | None = Field(default=None, repr=False, description="its secret in base64")
    secret_file: Path | None = Field(default=None, description="a file with just that, instead")

    @model_validator(mode="after")
    def _readable(self) -> KeyOptions:
        if self.secret is None and self.secret_file is None:
            raise ValueError("either secret or secret_file must be given")
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("secret and secret_file are both given: which one is meant?")
        if len(self.octets()) < 16:
            raise ValueError("the secret is shorter than 16 octets")
        return self

    def octets(self) -> bytes:
        """The secret; ValueError where there is none or it is no base64."""
        try:
            text = self.secret_file.read_text(encoding="ascii") if self.secret_file else self.secret or ""
            return base64.b64decode("".join(text.split()), validate=True)
        except (OSError, UnicodeDecodeError, binascii.Error) as error:
            raise ValueError(f"the secret cannot be read: {error}") from None


class ProbeOptions(Section):
    """[probes]: health checks of this node (docs/health.md)."""

    enabled: bool = Field(default=True, description="whether this node probes at all; if not, endpoints are up")
    allow: PrefixList = Field(
        default=(), description="private and reserved prefixes that may be probed; others never are")
    deny: PrefixList = Field(default=(), description="prefixes that are never probed, whatever is allowed")
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        default=(), description="the only ports that may be probed; left out: all but those of docs/health.md")
    rate: int = Field(default=2000, ge=1, le=100_000, description="probes a second; beyond it, intervals grow")
    region: str = Field(
        default="", pattern=r"^([a-z0-9][a-z0-9_-]{0,31})?$",
        description="where this node sees from: nodes of one region have one vote together, where there are others")


class PrometheusOptions(Section):
    """[prometheus]: where services' rules are asked (docs/health.md)."""

    url: str | None = Field(
        default=None, pattern=r"^https?://[^/\s]+(/[^\s?#]*)?$",
        description="a Prometheus or what speaks its query API, without /api/v1; left out: rules are not asked")
    token_file: Path | None = Field(default=None, description="a file with a bearer token for it")
    timeout_seconds: float = Field(default=2.0, ge=0.1, le=30, description="how long one question may take")

    @model_validator(mode="after")
    def _readable(self) -> PrometheusOptions:
        if self.token_file is not None and not self.token_file.is_file():
            raise ValueError(f"token_file: {self.token_file} is no file")
        return self


class CaptureOptions(Section):
    """[capture]: a sample of queries and answers for those who want to look at traffic."""

    dnstap: str | None = Field(
        default=None, pattern=r"^(unix:)?/.+",
        description="where dnstap frames go: unix:/path of a collector's socket, or a file; needs the extra `dnstap`")
    log: Path | None = Field(default=None, description="file of JSON lines, one for each sampled query")
    every: int = Field(default=1000, ge=1, le=1_000_000_000, description="one in so many queries of a worker is taken")
    clients: Literal["full", "prefix"] = Field(
        default="prefix", description="whether client addresses are written whole or as IPv4 /24 and IPv6 /56")

    @model_validator(mode="after")
    def _libraries(self) -> CaptureOptions:
        missing = [name for name in ("dnstap_pb", "fstrm") if self.dnstap and find_spec(name) is None]
        if missing:
            raise ValueError(f"dnstap needs {' and '.join(missing)}, which dnsd's extra `dnstap` installs")
        return self


def _host_name() -> str:
    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower().partition(".")[0]).strip("-")[:63] or "node"


_Named = TypeVar("_Named", ZoneOptions, KeyOptions)


def _once(named: tuple[_Named, ...]) -> tuple[_Named, ...]:
    names = [each.name for each in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is there twice")
    return named


def _some(value: object) -> object:
    if value == "":
        raise ValueError("empty: the working directory is no place that stays the same")
    return value


class Config(BaseSettings):
    """All options. `load` makes one; `docs/config.md` shows them."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__",
        nested_model_default_partial_update=True)

    node: str = Field(
        default_factory=_host_name, pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$",
        description="this node's name in NSID, status and metrics; left out: the host's")
    site: str | None = Field(
        default=None, pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$",
        description="the site this node stands at, if it is one of the fleet's; probes and resolvers' "
                    "connections then say how far from it others are")
    clients: Path | None = Field(
        default=None, description="a list of clients, lines of `prefix,weight`: what services that spill over go by; "
                                  "the same on all nodes; left out: blocks with measured round trips, else the atlas")
    state: Annotated[Path, BeforeValidator(_some)] = Field(
        default=Path("/var/lib/dnsd"), description="folder of everything the node keeps; one daemon at a time")
    workers: int = Field(default=0, ge=0, le=256, description="processes that answer; 0: as many as there are cores")
    engine: Literal["auto", "python", "require"] = Field(
        default="auto",
        description="who answers over UDP: `auto` is the compiled engine where it was built, else Python; `python`; "
                    "`require` is the engine or no start")
    pin: bool = Field(
        default=False,
        description="whether each worker keeps to one core of those the daemon may use; for machines that do nothing "
                    "else")
    listen: Listen = Field(
        default=("127.0.0.1:5300", "[::1]:5300"),
        description="addresses for DNS over UDP and TCP; 0.0.0.0 and [::] stand for each address the machine has when "
                    "dnsd starts, so that every answer leaves from the address that was asked")
    drain_seconds: float = Field(
        default=1.0, ge=0, le=3600,
        description="from SIGTERM to the end: /readyz says no, queries are still answered; longer than the interval in "
                    "which /readyz is asked")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    admin: AdminOptions = AdminOptions()
    registry: RegistryOptions = RegistryOptions()
    data: DataOptions = DataOptions()
    tcp: TcpOptions = TcpOptions()
    tls: TlsOptions = TlsOptions()
    rate: RateOptions = RateOptions()
    cookies: CookieOptions = CookieOptions()
    ecs: EcsOptions = EcsOptions()
    identity: IdentityOptions = IdentityOptions()
    why: WhyOptions = WhyOptions()
    capture: CaptureOptions = CaptureOptions()
    probes: ProbeOptions = ProbeOptions()
    prometheus: PrometheusOptions = PrometheusOptions()
    zones: Annotated[tuple[ZoneOptions, ...], AfterValidator(_once)] = ()
    keys: Annotated[tuple[KeyOptions, ...], AfterValidator(_once)] = ()

    @model_validator(mode="after")
    def _keys_known(self) -> Config:
        known = {key.name for key in self.keys}
        used = [(f"zones[{i}].transfer", each[len(KEY):]) for i, zone in enumerate(self.zones)
                for each in zone.transfer if each.startswith(KEY)]
        used += [(f"zones[{i}].notify_key", zone.notify_key) for i, zone in enumerate(self.zones) if zone.notify_key]
        used += [("why.allow", each[len(KEY):]) for each in self.why.allow if each.startswith(KEY)]
        wrong = [f"{place}: there is no key {name!r}" for place, name in used if name not in known]
        wrong += [f"tls.listen: {text} is in listen too" for text in self.tls.listen
                  if any(clash(address(text), address(other)) for other in self.listen)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables before the file; nothing else."""
        return env_settings, init_settings

    @property
    def atlas(self) -> Path:
        """The folder of the built atlas."""
        return self.data.atlas or self.state / "atlas"

    @property
    def cookie_file(self) -> Path | None:
        """The file of cookie secrets, or None where cookies are off."""
        return (self.cookies.file or self.state / disk.COOKIES) if self.cookies.enabled else None

    @property
    def maps(self) -> Path:
        """The folder of the map tables."""
        return self.state / disk.MAPS

    @property
    def worker_count(self) -> int:
        """How many workers there are to be."""
        return self.workers or len(os.sched_getaffinity(0))
