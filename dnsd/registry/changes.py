"""Changes as arguments of the scripts, and the faults a script answers as errors.

Lives here: encoding objects for `lua/write.lua` and `lua/acquire.lua`, naming what those refused. Does not live here:
the rules over a whole state (`rules`), running scripts (`store`).

The scripts check references at the moment of the write, atomically; here their short codes get a place and words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from dnsd.model import Fault
from dnsd.registry import errors
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, LeaseRequest, Override, Service, key_of
from dnsd.registry.reading import AAAA, A
from dnsd.registry.values import Change

ABSENT: Final = "\0absent"
"""As `if_match`: only if there is no such object (HTTP `If-None-Match: *`)."""
_GROUP: Final = 3  # a fault: index, code, detail


def arguments(change: Change) -> list[str]:
    """A change as `lua/write.lua` takes it."""
    expected = match(change.if_match)
    if change.op == "delete" or change.value is None:
        return ["delete", change.kind, change.key, "", expected, "", ""]
    value = change.value
    site, extra = "", ""
    if isinstance(value, Endpoint):
        site, extra = value.site, f"+{_bits(bool(value.a), bool(value.aaaa))}"
    elif isinstance(value, Service):
        kept = value.types is None
        extra = f"+{_bits(bool(value.fallback.a), bool(value.fallback.aaaa))}" if kept else (
            f"={_bits('A' in (value.types or ()), 'AAAA' in (value.types or ()))}")
    elif isinstance(value, Override):
        extra = str(value.seconds) if change.left_s is None else f"{change.left_s:.3f}"
    return ["put", change.kind, key_of(value), text(value), expected, site, extra]


def lease_arguments(request: LeaseRequest, token: str, *, take_over: bool) -> tuple[list[str], dict[str, Any]]:
    """A lease request as `lua/acquire.lua` takes it, and the lease without its fence and deadline. Raises Invalid."""
    endpoints = [
        Endpoint.model_construct(**dict(spec), lease=request.holder, load=0) for spec in request.endpoints]
    first: dict[str, int] = {}
    faults = [
        Fault(f"/endpoints/{i}/id", f"endpoint {e.key} is given twice") for i, e in enumerate(endpoints)
        if first.setdefault(e.key, i) != i]
    if faults:
        raise errors.Invalid(faults=faults)
    lease = {
        "id": request.holder, "holder": request.holder, "ttl": request.ttl, "token": token,
        "endpoints": tuple(e.key for e in endpoints)}
    args = [token, "1" if take_over else "", request.holder, str(request.ttl), json.dumps(lease, separators=(",", ":"))]
    for e in endpoints:
        args += [e.key, text(e), e.site, f"+{_bits(bool(e.a), bool(e.aaaa))}"]
    return args, lease


def text(value: Model) -> str:
    """A value as it is stored: no unset options, and no `until_ms`, which the store's clock gives."""
    return value.model_dump_json(exclude_none=True, exclude={"until_ms"})


def _bits(a: bool, aaaa: bool) -> int:
    return A * a + AAAA * aaaa


def match(if_match: str | None) -> str:
    """A precondition for the scripts: `''` only if new, `-` only if absent, `*` anything, else `=` and an etag."""
    if if_match is None:
        return ""
    return {"*": "*", ABSENT: "-"}.get(if_match, f"={if_match}")


_CODES: Final[dict[str, tuple[type[errors.RegistryError], str, str]]] = {
    "site": (errors.Invalid, "/site", "no such site: {}"),
    "service": (errors.Invalid, "/service", "no such service: {}"),
    "target": (errors.Invalid, "/name", "there is no {}"),
    "held": (errors.Conflict, "", "the endpoint is held by {}"),
    "used": (errors.Conflict, "", "in use by {} endpoints"),
    "exists": (errors.PreconditionFailed, "", "it exists already"),
    "mismatch": (errors.PreconditionFailed, "", "it is not the one given by If-Match"),
    "required": (errors.PreconditionRequired, "", "it exists: say by If-Match which one is replaced"),
    "missing": (errors.NotFound, "", "there is no such object"),
}


def refusal(flat: Sequence[bytes], place: Callable[[int], str]) -> errors.RegistryError:
    """A script's faults as one error with every fault; several sorts: the first of `_CODES` gives the status."""
    faults, codes = [], []
    for at in range(0, len(flat), _GROUP):
        code, detail = flat[at + 1].decode(), flat[at + 2].decode()
        _, pointer, message = _CODES[code]
        if code == "held":
            detail = f"lease {detail}" if detail else "the operator"
        faults.append(Fault(place(int(flat[at])) + pointer, message.format(detail)))
        codes.append(code)
    sort = next(sort for code, (sort, _, _) in _CODES.items() if code in codes)
    return sort(faults=faults)
