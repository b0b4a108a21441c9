"""Policies: presets and what an operator changed of one, resolved to the numbers of `model.Policy`.

Lives here: the presets' table and its checks. Does not live here: the pipeline itself (`steer.rank`), the operator's
form (`registry.models.PolicySpec`).

A policy is data: filter -> score -> band -> weight -> take N. A preset is a point in that space, never other code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from dnsd.model import Fence, Policy

PRESETS: Final[Mapping[str, Policy]] = {
    # nearest, then provider or carrier, health and load among those within the band
    "geo": Policy(),
    # nearest by milliseconds alone; level 0 and level 1 (1 ms) are told apart
    "latency": Policy(proximity=100, match=0, health=0, load=0, band_ms=0),
    # the lowest tier that lives; the client does not matter, so neither does anything but weight inside the tier
    "failover": Policy(proximity=0, match=0, health=0, load=0, uses_client=False),
    # all endpoints of the lowest tier share by weight
    "weighted": Policy(proximity=0, match=0, health=0, load=0, uses_client=False),
    # every endpoint at once, whoever asks
    "all": Policy(proximity=0, match=0, health=0, load=0, uses_client=False, take=32),
}


SPILL_SPLIT4: Final = 20
SPILL_SPLIT6: Final = 40


def resolve(preset: str, changes: Mapping[str, Any]) -> Policy:
    """The preset with what is not None in `changes` laid over it; KeyError for an unknown preset or field.

    With spill-over clients stay together by blocks, and load speaks by shares instead of points (`steer.spill`).
    Words become what they mean: fence none|country|region, no_ecs resolver|fallback, unknown_client weights|fallback.
    """
    known = {field.name for field in fields(Policy)}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if value is None or name == "preset":
            continue
        if name == "fence":
            values["fence"] = Fence[str(value).upper()]
        elif name == "spill":
            values |= {"spill": True, "load": 0}
        elif name == "no_ecs":
            values["no_ecs_fallback"] = value == "fallback"
        elif name == "unknown_client":
            values["unknown_fallback"] = value == "fallback"
        elif name in known:
            values[name] = value
        else:
            raise KeyError(name)
    policy = replace(PRESETS[preset], **values)
    if policy.spill and not policy.split4:
        policy = replace(policy, split4=SPILL_SPLIT4, split6=SPILL_SPLIT6)
    # A fence compares the client's country or region, so it makes a policy look at the client.
    return replace(policy, uses_client=True) if policy.fence is not Fence.NONE else policy
