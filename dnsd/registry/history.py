"""The store's history as such: going on with a state in doubt, and writing back what was served before it.

Lives here: `History`, the marks it leaves for all nodes. Does not live here: judging a state (`control.holding`), how a
store without history begins one (`store`), the scripts (`lua/adopt.lua`, `lua/restore.lua`).

A history is named by its epoch. Where a state took the place of another, a new epoch is what keeps both apart: every
node notices, judges and adopts it, and no version means two things.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dnsd.registry import changes, errors, reading, scripts
from dnsd.registry.link import Link
from dnsd.registry.models import Endpoint, Kind, Lease, Override, Service, Site

RESTORED: Final = 250
RESTORED_BYTES: Final = 1 << 17
"""Most objects, and about the most octets, that one script writes back: some 10 ms of the store's time."""

RESTORING_MS: Final = 30_000
"""How long after its last step a restoring is still waited for."""

ASKED: Final = 500


class Marks(NamedTuple):
    """What was left for all nodes: the state a person accepted last (0: none), and whether one is being restored."""

    epoch: int = 0
    version: int = 0
    restoring: bool = False


class Content(NamedTuple):
    """What is written back; `owned`: service -> record types. Leases come back by id, without their fences.

    `gone`: what is in the store and is to go, for it had gone before.
    """

    sites: Sequence[Site]
    services: Sequence[Service]
    overrides: Sequence[Override]
    leases: Sequence[Lease]
    endpoints: Sequence[Endpoint]
    owned: Mapping[str, frozenset[str]]
    gone: Sequence[tuple[Kind, str]] = ()


class History:
    """One store's history. Every method raises `errors.Unavailable` when the store cannot be asked."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def marks(self) -> Marks:
        """What was left for all nodes."""
        [(accepted, restoring), (seconds, micros)] = await self._link.together(
            ("HMGET", self._link.keys[scripts.META], "accepted", "restoring"), ("TIME",))
        epoch, _, version = (accepted or b"").partition(b" ")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        fresh = bool(restoring) and restoring.isdigit() and 0 <= now_ms - int(restoring) <= RESTORING_MS
        if not (epoch.isdigit() and version.isdigit()):
            return Marks(restoring=fresh)
        return Marks(int(epoch), int(version), fresh)

    async def leases(self, ids: Iterable[str]) -> list[Lease]:
        """Of these leases those that are there and can be read."""
        wanted = list(ids)
        found: list[Lease] = []
        for at in range(0, len(wanted), ASKED):
            some = wanted[at : at + ASKED]
            raws, ends = await self._link.together(
                ("HMGET", self._link.keys[Kind.LEASE], *some), ("ZMSCORE", self._link.keys[scripts.DEADLINE], *some))
            for key, raw, end in zip(some, raws, ends, strict=True):
                try:
                    lease = reading.stored(Kind.LEASE, key, raw or b"", end).value
                except reading.Corrupt:
                    continue
                if isinstance(lease, Lease):
                    found.append(lease)
        return found

    async def accept(self, epoch: int, *, actor: str) -> int:
        """A person has seen that this history is what it should be; the version. PreconditionFailed: it is another."""
        _, version = await self._adopt(actor, "accept", epoch, "", 0, accepted=True)
        return version

    async def begin(self, epoch: int, *, above: tuple[int, int], actor: str, accepted: bool) -> tuple[int, int]:
        """Goes on with what is there as a history of its own, after `above` (epoch, version); its epoch and version.

        `accepted`: a person said so, and no node is to judge it. PreconditionFailed: another epoch is there.
        """
        [(seconds, micros)] = await self._link.together(("TIME",))
        now = (int(seconds) * 1000 + int(micros) // 1000) << 20 | secrets.randbits(20)
        fresh = max(now, above[0] + 1, epoch + 1)
        return await self._adopt(actor, "accept" if accepted else "adopt", epoch, str(fresh), above[1],
                                 accepted=accepted)

    async def restore(self, content: Content, epoch: int, *, older: bool, actor: str) -> int:
        """Writes objects back into the history `epoch`, in pieces; how many changed. `begin` must follow.

        `older`: what is there is older than the content, so its leases count for nothing. PreconditionFailed: another
        epoch is there.
        """
        written = 0
        for trail, pieces in ((scripts.AUDIT, _of_operators(content)), (scripts.AUDIT_LEASES, _of_holders(content))):
            for piece in _chunks(pieces):
                reply = await self._link.run(
                    scripts.RESTORE, actor, str(epoch), trail.replace("-", "_"), "1" if older else "", *piece)
                if reply[0] != b"ok":
                    raise _stale(epoch, reply)
                written += int(reply[2])
        return written

    async def _adopt(
        self, actor: str, action: str, epoch: int, fresh: str, floor: int, *, accepted: bool,
    ) -> tuple[int, int]:
        reply = await self._link.run(
            scripts.ADOPT, actor, action, str(epoch), fresh, str(floor), "1" if accepted else "")
        if reply[0] != b"ok":
            raise _stale(epoch, reply)
        return int(reply[1]), int(reply[2])


def _stale(epoch: int, reply: Sequence[bytes | None]) -> errors.RegistryError:
    there = reply[1].decode() if len(reply) > 1 and reply[1] is not None else "none"
    return errors.PreconditionFailed(f"the registry's epoch is {there}, not {epoch}")


def _of_operators(content: Content) -> Iterator[tuple[str, ...]]:
    for site in content.sites:
        yield Kind.SITE, site.id, changes.text(site), "", "", ""
    for service in content.services:
        bits = sum(bit for name, bit in (("A", reading.A), ("AAAA", reading.AAAA))
                   if name in content.owned.get(service.name, ()))
        yield Kind.SERVICE, service.name, changes.text(service), "", "", f"={bits}"
    for override in content.overrides:
        json = override.model_dump_json(exclude_none=True)
        yield Kind.OVERRIDE, override.key, json, "", "", str(override.until_ms)


def _of_holders(content: Content) -> Iterator[tuple[str, ...]]:
    """Leases before their endpoints: an end of the restoring in between leaves none without end."""
    for lease in content.leases:
        json = lease.model_dump_json(exclude_none=True, exclude={"deadline"})
        yield Kind.LEASE, lease.id, json, "", "", str(lease.ttl)
    for endpoint in content.endpoints:
        yield Kind.ENDPOINT, endpoint.key, changes.text(endpoint), endpoint.site, endpoint.lease or "", ""
    for kind, key in content.gone:
        yield kind, key, "", "", "", ""


def _chunks(objects: Iterable[tuple[str, ...]]) -> Iterator[list[str]]:
    chunk: list[str] = []
    count = size = 0
    for one in objects:
        length = sum(map(len, one))
        if chunk and (count == RESTORED or size + length > RESTORED_BYTES):
            yield chunk
            chunk, count, size = [], 0, 0
        chunk += one
        count, size = count + 1, size + length
    if chunk:
        yield chunk
