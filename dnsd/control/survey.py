"""How each endpoint of a service stands: by probes of every node, lease, override, limits and ramp, in one object.

Lives here: putting it together. Does not live here: why a client gets an answer (`control.explain`), what has changed
(`control.news`).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final

from dnsd.control.health import Health
from dnsd.control.judge import Judge
from dnsd.control.publish import Publisher
from dnsd.control.reports import Reports
from dnsd.control.resolve import Member, Resolved, forced
from dnsd.control.standing import WHOLE
from dnsd.control.targets import addresses
from dnsd.control.views import Views
from dnsd.dns import types
from dnsd.registry.models import Override

FAMILIES: Final = {types.A: "A", types.AAAA: "AAAA"}


class Survey:
    """Asked by the API: `of` one service."""

    def __init__(self, views: Views, judge: Judge, health: Health, publisher: Publisher, reports: Reports) -> None:
        self.views, self.judge, self.health, self.publisher, self.reports = views, judge, health, publisher, reports

    def of(self, name: str, now_ms: int) -> dict[str, Any] | None:
        """The service now; None when there is none."""
        resolved = self.views.resolved.get(name)
        service = self.views.fleet.services.get(name)
        if resolved is None or service is None:
            return None
        view = resolved.view
        due_ms = resolved.due_ms
        return {
            "service": name, "node": self.publisher.node, **self.publisher.live.stamp._asdict(),
            "ttl": view.ttl, "ttl_declared": service.ttl, "panic": view.panic,
            "judged": "together" if self.judge.decided(name) else "alone" if service.check != "none" else "not at all",
            "changes_next_ms": due_ms or None,
            "last_good": [FAMILIES[type_] for type_, kept in resolved.memory.items() if kept.left_ms],
            "endpoints": [self._endpoint(name, resolved, member, now_ms) for member in resolved.members],
        }

    def _endpoint(self, name: str, resolved: Resolved, member: Member, now_ms: int) -> dict[str, Any]:
        endpoint = member.endpoint
        override = forced(self.views.fleet, endpoint.key, endpoint.site, now_ms)
        return {
            "endpoint": endpoint.id, "site": endpoint.site, "tier": endpoint.tier, "weight": endpoint.weight,
            "load": endpoint.load, "lease": endpoint.lease, "override": _override(override),
            "answered": [FAMILIES[type_] for type_, there in ((types.A, member.a), (types.AAAA, member.aaaa)) if there],
            "reports": self.reports.of(name, endpoint.id),
            "share": member.share, "why": member.reason, "held_back": list(_held_back(resolved, member)),
            "addresses": list(self._addresses(name, member)),
        }

    def _addresses(self, name: str, member: Member) -> Iterator[dict[str, Any]]:
        for type_, packed in addresses(member.endpoint):
            told = self.judge.vantages(name, member.endpoint.id, type_)
            told.pop("endpoint")
            own = self.health.told(name, member.endpoint.id, type_)
            yield {"address": str(ip_address(packed)), **told, "own": own}


def _override(override: Override | None) -> dict[str, Any] | None:
    return None if override is None else {
        "target": override.key, "state": override.state, "until_ms": override.until_ms, "reason": override.reason}


def _held_back(resolved: Resolved, member: Member) -> Iterator[str]:
    """What keeps health from having its way with this endpoint, or the endpoint from its whole weight."""
    for type_, sifted in resolved.sifted.items():
        family, id_ = FAMILIES.get(type_, ""), member.endpoint.id
        if sifted.panic:
            yield f"{family}: panic, health is ignored"
        elif id_ in sifted.held:
            yield f"{family}: velocity, health may not remove so much at once"
        elif sifted.shares.get(id_, WHOLE) < WHOLE:
            yield f"{family}: ramp, {sifted.shares[id_] // 10} % of its weight"
