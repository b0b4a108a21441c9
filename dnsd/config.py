"""A node's settings: one declaration per option, read from TOML and from DNSD_ variables, every fault named at once.

Lives here: the options with their defaults, limits and descriptions, `load`, the reference table of docs/config.md.
Does not live here: fleet state (the registry's), what the options do.

A variable beats the file: `DNSD_TCP__IDLE_SECONDS=5` is `idle_seconds` in `[tcp]`, lists are JSON. A relative path in
the file is relative to the file's folder, one in a variable to the working directory.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dnsd import disk
from dnsd.model import Fault

PREFIX: Final = "DNSD_"
OTHER_VARIABLES: Final = frozenset({"DNSD_CONFIG", "DNSD_URL", "DNSD_TOKEN", "DNSD_ENGINE"})
"""Variables of the commands that are no options."""
_KUBERNETES: Final = re.compile(r"DNSD_(SERVICE_(HOST|PORT.*)|PORT(_.*)?)")  # set in pods beside a Service named dnsd


class ConfigError(Exception):
    """The settings cannot be used; `faults` names everything that is wrong, with file and line or variable."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"{fault.place}: {fault.message}" for fault in faults))
        self.faults = faults


def load(path: Path) -> Config:
    """The settings of a TOML file and the environment; ConfigError for anything wrong with either."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([Fault(str(path), error.strerror or str(error))]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        line = re.search(r"line (\d+)", str(error))
        raise ConfigError([Fault(f"{path}:{line[1]}" if line else str(path), str(error))]) from error
    faults = _unknown_variables()
    try:
        config = Config(**_based(Config, raw, path.absolute().parent))
    except ValidationError as error:
        faults += [_fault(each, path, _lines(text)) for each in error.errors()]
    except SettingsError as error:
        faults.append(_variable_fault(error))
    if faults:
        raise ConfigError(faults)
    return config


def address(text: str) -> tuple[str, int]:
    """Host and port of `192.0.2.1:53` or `[2001:db8::1]:53`; ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        literal = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        literal = None
    if literal is None or bracketed != (literal.version == 6) or not colon or not re.fullmatch(r"\d{1,5}", port):
        raise ValueError("not an address and port such as 192.0.2.1:53 or [2001:db8::1]:53")
    if int(port) > 65535:
        raise ValueError(f"port {port} is above 65535")
    if literal.is_multicast or (literal.version == 6 and literal.ipv4_mapped):
        raise ValueError(f"{literal} cannot be listened on")
    return str(literal), int(port)


# --- the options ------------------------------------------------------------------------------------------------------


def _listen(value: tuple[str, ...]) -> tuple[str, ...]:
    problems = []
    for number, text in enumerate(value):
        try:
            _, port = address(text)
        except ValueError as error:
            problems.append(f"{text!r}: {error}")
        else:
            if port and text in value[:number]:
                problems.append(f"{text!r} is there twice")
    if problems:
        raise ValueError("; ".join(problems))
    return value


def _zone_name(value: str) -> str:
    name = value.lower().removesuffix(".")
    label = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
    if len(name) > 253 or (name and not re.fullmatch(rf"{label}(\.{label})*", name)):
        raise ValueError("not a domain name")
    return name or "."


Listen = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_listen)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are given together or not at all")
        if outside and self.certificate is None:
            raise ValueError(f"{', '.join(outside)} is not loopback: that needs certificate and key")
        if self.certificate is not None:
            try:
                # An encrypted key would be asked for on a terminal; an empty password is refused at once instead.
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                    self.certificate, self.key, password="")
            except (OSError, ValueError) as error:
                raise ValueError(f"certificate and key cannot be used: {error}") from error
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

    name: Annotated[str, AfterValidator(_zone_name)] = Field(description="the zone's apex")
    file: Path = Field(description="its master file (RFC 1035)")


def _once(zones: tuple[ZoneOptions, ...]) -> tuple[ZoneOptions, ...]:
    names = [zone.name for zone in zones]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is there twice")
    return zones


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

    connections: int = Field(default=512, ge=1, le=100_000, description="open at once; one more closes the most idle")
    per_prefix: int = Field(default=128, ge=1, le=100_000, description="open at once from one IPv4 /24 or IPv6 /56")
    queries: int = Field(default=1_000_000, ge=1, description="answered on one connection, then it is closed")
    first_query_seconds: Seconds = Field(default=5.0, description="from accepting to the first whole query")
    idle_seconds: Seconds = Field(default=10.0, description="from one whole query to the next")
    stall_seconds: Seconds = Field(default=5.0, description="that a client may leave answers unread")
    lifetime_seconds: Seconds = Field(default=600.0, description="of a connection in all")


def _host_name() -> str:
    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower().partition(".")[0]).strip("-")[:63] or "node"


class Config(BaseSettings):
    """All options. `load` makes one; `docs/config.md` shows them."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__",
        nested_model_default_partial_update=True)

    node: str = Field(
        default_factory=_host_name, pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$",
        description="this node's name in NSID, status and metrics; left out: the host's")
    state: Path = Field(
        default=Path("/var/lib/dnsd"), description="folder of everything the node keeps; one daemon at a time")
    workers: int = Field(default=0, ge=0, le=256, description="processes that answer; 0: as many as there are cores")
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
    zones: Annotated[tuple[ZoneOptions, ...], AfterValidator(_once)] = ()

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
    def maps(self) -> Path:
        """The folder of the map tables."""
        return self.state / disk.MAPS

    @property
    def worker_count(self) -> int:
        """How many workers there are to be."""
        return self.workers or len(os.sched_getaffinity(0))


# --- faults and their places ------------------------------------------------------------------------------------------


def _fault(error: Any, path: Path, lines: Mapping[str, int]) -> Fault:
    """A pydantic error as a Fault at the variable or line it comes from."""
    parts: tuple[str | int, ...] = error["loc"]
    dotted = _dotted(parts)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, [name for name, _, _ in options()], 1, 0.6)
        message = "no such option" + (f"; {near[0]}?" if near else "")
    variables = [name for name in os.environ if name.upper() in _variables(parts)]
    if variables and not (error["type"] == "extra_forbidden" and len(parts) == 1):
        return Fault(variables[0], message)
    line = next((lines[key] for key in _prefixes(parts) if key in lines), None)
    return Fault(f"{path}:{line}" if line else str(path), f"{dotted}: {message}" if dotted else message)


def _variable_fault(error: SettingsError) -> Fault:
    """A variable whose JSON does not parse; pydantic-settings names the field only in its text."""
    field = re.search(r'field "(\w+)"', str(error))
    name = PREFIX + field[1].upper() if field else PREFIX
    given = [key for key in os.environ if key.upper().startswith(name)]
    return Fault(given[0] if given else name, f"not JSON: {error.__cause__ or error}")


def _unknown_variables() -> list[Fault]:
    """DNSD_ variables outside all tables that are no option nor known otherwise; pydantic finds those inside."""
    known = {PREFIX + name.upper() for name in Config.model_fields} | OTHER_VARIABLES
    faults = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.split("__")[0] not in known and not _KUBERNETES.fullmatch(name):
            near = difflib.get_close_matches(name, known, 1, 0.6)
            faults.append(Fault(name, "no such option" + (f"; {near[0]}?" if near else "")))
    return faults


def _variables(parts: tuple[str | int, ...]) -> set[str]:
    """The variables a value at that place may come from: its own and those of the tables around it."""
    names = [str(part).upper() for part in parts]
    return {PREFIX + "__".join(names[: i + 1]) for i in range(len(names))}


def _dotted(parts: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _prefixes(parts: tuple[str | int, ...]) -> Iterator[str]:
    """The place itself, then what it lies in, outward."""
    for size in range(len(parts), 0, -1):
        yield _dotted(parts[:size])


def _lines(text: str) -> dict[str, int]:
    """Where keys and tables stand in a TOML file that parses; those in inline tables and quoted keys are left out."""
    found: dict[str, int] = {}
    table, counts = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if many := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            counts[many[1]] = counts.get(many[1], -1) + 1
            table = f"{many[1]}[{counts[many[1]]}]."
            found.setdefault(many[1], number)
            found[table[:-1]] = number
        elif one := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = one[1] + "."
            found[one[1]] = number
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            found.setdefault(table + key[1], number)
    return found


def _based(model: type[BaseModel], raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """The file's values with relative paths put under `base`; what is not of the right shape is left to pydantic."""
    done: dict[str, Any] = {}
    for name, value in raw.items():
        field = model.model_fields.get(name)
        inner = _section(field) if field else None
        if inner and isinstance(value, dict):
            value = _based(inner, value, base)
        elif inner and isinstance(value, list):
            value = [_based(inner, each, base) if isinstance(each, dict) else each for each in value]
        elif field and Path in (field.annotation, *get_args(field.annotation)) and isinstance(value, str):
            value = base / value
        done[name] = value
    return done


# --- the reference ----------------------------------------------------------------------------------------------------


def options(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Every option as (dotted name, field, default as TOML); a list of tables has `[]` behind its name."""
    for name, field in model.model_fields.items():
        inner = _section(field)
        if inner:
            yield from options(inner, f"{prefix}{name}{'[]' if inner is ZoneOptions else ''}.")
        else:
            yield prefix + name, field, _toml(field)


def reference() -> str:
    """The table of docs/config.md."""
    rows = ["| option | default | what it is |", "|---|---|---|"]
    rows += [f"| `{name}` | {default} | {field.description} |" for name, field, default in options()]
    return "\n".join(rows) + "\n"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _toml(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(_quoted(each) for each in value)}]`"
    return f"`{_quoted(str(value)) if isinstance(value, str | Path) else value}`"


def _quoted(text: str) -> str:
    return f'"{text}"'
