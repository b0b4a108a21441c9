"""Renewals in batches, and what became of them.

Lives here: cutting and encoding renewals for `lua/renew.lua`, decoding its answer, refusals of a release. Does not live
here: lease time and fencing themselves, which must be atomic (`lua/lease.lua`).

A lease's fence is the version of the write that granted it: it grows with each acquisition, also over a lease that
ended in between, without a counter of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from dnsd.registry import errors
from dnsd.registry.models import Renewal
from dnsd.registry.values import Renewed, Tick

LEASES: Final = 1000
LOADS: Final = 5000
"""Most renewals and load reports of one script: some 20 ms of the store's time."""
HOLDINGS: Final = 100
"""Most services that are named for their held leases."""


def batches(renewals: Sequence[Renewal]) -> Iterator[list[Renewal]]:
    """Renewals in order, in pieces one script takes; a single lease has at most 1,000 endpoints to report on."""
    batch: list[Renewal] = []
    loads = 0
    for renewal in renewals:
        if batch and (len(batch) == LEASES or loads + len(renewal.loads) > LOADS):
            yield batch
            batch, loads = [], 0
        batch.append(renewal)
        loads += len(renewal.loads)
    if batch:
        yield batch


def renew_arguments(batch: Sequence[Renewal]) -> list[str]:
    """Renewals as `lua/renew.lua` takes them."""
    args: list[str] = []
    for renewal in batch:
        args += [renewal.id, str(renewal.fence), str(len(renewal.loads))]
        for key, share in renewal.loads.items():
            args += [key, f"{share:.6f}"]
    return args


def renewed(batch: Sequence[Renewal], flat: Sequence[bytes]) -> list[Renewed]:
    """The script's (current fence or 0, remaining ms or -1) of each renewal."""
    answers: list[Renewed] = []
    for renewal, held, remaining in zip(batch, map(int, flat[::2]), map(int, flat[1::2]), strict=True):
        ok = remaining >= 0
        answers.append(Renewed(
            renewal.id, ok, held, max(remaining, 0), None if ok else "fenced" if held else "unknown"))
    return answers


def ticked(reply: Sequence[Any]) -> tuple[bool, Tick]:
    """The answer of `lua/tick.lua`, and whether there is more to be ended at once."""
    _, advanced, shifted, ended, overrides, caught, held, more = reply
    texts = [[raw.decode() for raw in ids] for ids in (ended, overrides, caught)]
    return bool(more), Tick(texts[0], int(advanced), int(shifted), texts[1], texts[2], int(held))


def refusal(lease_id: str, reply: Sequence[Any]) -> errors.RegistryError:
    """Why a lease was not released."""
    match reply[0]:
        case b"fenced":
            return errors.Conflict(f"lease {lease_id} was acquired again: its fence is {reply[1].decode()}")
        case b"required":
            return errors.PreconditionRequired(f"lease {lease_id}: say by If-Match which one is ended")
        case b"mismatch":
            return errors.PreconditionFailed(f"lease {lease_id} is not the one given by If-Match")
    return errors.NotFound(f"there is no lease {lease_id}")
