"""What the models of the registry are made of: identifiers, names, addresses, and what all of them share.

Lives here: types of single values with their checks. Does not live here: objects (`registry.models`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
Name = Annotated[str, StringConstraints(to_lower=True, max_length=253)]
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def _text(value: object) -> object:
    if isinstance(value, int | bytes):  # pydantic would read 123 as 0.0.0.123
        raise ValueError("an address is written as text")
    return value


def _answerable(address: Any) -> Any:
    """Private and loopback addresses are the operator's business; these lead nowhere from anywhere."""
    nowhere = address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255"
    if isinstance(address, ipaddress.IPv4Address):
        nowhere = nowhere or address in _THIS_NETWORK
    elif address.ipv4_mapped is not None:
        raise ValueError(f"{address} is an IPv4 address in disguise")
    else:
        nowhere = nowhere or address.is_link_local or address.scope_id is not None
    if nowhere:
        raise ValueError(f"{address} cannot be answered")
    return address


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
AddressA = Annotated[ipaddress.IPv4Address, BeforeValidator(_text), AfterValidator(_answerable)]
AddressAAAA = Annotated[ipaddress.IPv6Address, BeforeValidator(_text), AfterValidator(_answerable)]


class Model(BaseModel):
    """Strict about keys, immutable, compared by value."""

    model_config = ConfigDict(extra="forbid", frozen=True)
