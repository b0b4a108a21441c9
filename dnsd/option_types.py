"""What a setting's value may be: addresses, prefixes, names, certificates; and the form of a table.

Lives here: types of values and their checks. Does not live here: the options themselves (`options`).
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dnsd.dns.prefixes import Prefixes


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


def listen_once(value: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses to listen on, each once; ValueError with all that are none."""
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


def zone_name(value: str) -> str:
    """A domain name in the form settings keep it; ValueError."""
    name = value.lower().removesuffix(".")
    label = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
    if len(name) > 253 or (name and not re.fullmatch(rf"{label}(\.{label})*", name)):
        raise ValueError("not a domain name")
    return name or "."


Listen = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(listen_once)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


def told(value: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses of others that are sent to; ValueError."""
    hosts = [(text, *address(text)) for text in listen_once(value)]
    nobody = [text for text, host, port in hosts if not port or ipaddress.ip_address(host).is_unspecified]
    if nobody:
        raise ValueError(f"{', '.join(nobody)}: nobody is told there")
    return value


def clash(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether a socket at one address has the other too."""
    (host, port), (other_host, other_port) = one, other
    here, there = ipaddress.ip_address(host), ipaddress.ip_address(other_host)
    wild = here.version == there.version and (here.is_unspecified or there.is_unspecified)
    return port == other_port != 0 and (here == there or wild)


def _prefixes(value: tuple[str, ...]) -> tuple[str, ...]:
    Prefixes(value)
    # Clients have IPv4 addresses without disguise and IPv6 addresses without a zone.
    unseen = [each for each in value if "%" in each or getattr(ipaddress.ip_network(each)[0], "ipv4_mapped", None)]
    if unseen:
        raise ValueError(f"{', '.join(unseen)}: no client is seen under such an address")
    return value


def _neighbours(value: tuple[str, ...]) -> tuple[str, ...]:
    _prefixes(tuple(each for each in value if not each.startswith(KEY)))
    return tuple(KEY + zone_name(each[len(KEY):]) if each.startswith(KEY) else each for each in value)


def certified(certificate: Path | None, key: Path | None) -> None:
    """ValueError unless both are given and fit, or neither is."""
    if (certificate is None) != (key is None):
        raise ValueError("certificate and key are given together or not at all")
    if certificate is not None:
        try:
            # An encrypted key would be asked for on a terminal; an empty password is refused at once instead.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise ValueError(f"certificate and key cannot be used: {error}") from error


KEY: Final = "key:"
"""What stands before a TSIG key's name in a list of who may do something."""
PrefixList = Annotated[tuple[str, ...], AfterValidator(_prefixes)]
NeighbourList = Annotated[tuple[str, ...], AfterValidator(_neighbours)]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
