"""Reports of endpoints' health: what users of a service say of them, and holders with their renewals.

Lives here: `POST /v1/reports`, who may report what, a renewal's reports. Does not live here: what follows from them
(`control.reports`), renewals (`admin.leases`).

A report is taken by the control process alone, so it counts also while the store is away. The reporter is the token:
who share one are one voice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from dnsd.admin import bodies, objects, problem
from dnsd.admin.call import HOLDERS, Call, Control, Route, answer
from dnsd.admin.problem import Problem
from dnsd.control.told import Told
from dnsd.model import Fault
from dnsd.registry.models import Renewal
from dnsd.registry.reports import OwnReport, Report

HELD_MS: Final = 60_000
"""How long a holder's word that it is unhealthy holds at least."""


async def report(call: Call) -> web.Response:
    """Takes what a user of services saw. Of endpoints that are not there it says so; the others count."""
    batch = problem.parse(bodies.Reports, await call.body())
    told: list[Told] = []
    unknown: list[str] = []
    faults: list[Fault] = []
    for number, one in enumerate(batch.reports):
        service, _, id_ = one.endpoint.rpartition("/")
        key = f"{service.lower().removesuffix('.')}/{id_}"
        endpoint = call.control.endpoint(key)
        if not call.caller.serves(key.rpartition("/")[0]):
            faults.append(Fault(f"/reports/{number}/endpoint", f"{service} is not in the token's scope"))
        elif endpoint is None:
            unknown.append(one.endpoint)
        elif beyond := call.caller.faults([endpoint], ""):
            faults += [Fault(f"/reports/{number}/endpoint", message) for _, message in beyond]
        else:
            told.append(_told(key, call.caller.id, one))
    objects.refuse(faults)
    if not call.control.report(call.caller.id, told):
        raise Problem(
            HTTPStatus.TOO_MANY_REQUESTS, "too-many-reports", "put together what was seen, and send it less often",
            headers={"Retry-After": "1"})
    return answer({"taken": len(told), "unknown": unknown})


def loaded(renewal: Renewal) -> Renewal:
    """A renewal with the loads that its reports tell of."""
    told = {key: load for key, one in renewal.reports.items() if (load := one.load) is not None}
    return renewal.model_copy(update={"loads": {**told, **renewal.loads}}) if told else renewal


def renewed(control: Control, reporter: str, renewals: Sequence[Renewal], results: Iterable[Mapping[str, Any]]) -> None:
    """Take the reports of renewals that were accepted, of the lease's own endpoints. More than may be sent is dropped:
    a lease must not end for it."""
    told: list[Told] = []
    for renewal, result in zip(renewals, results, strict=True):
        if not result["ok"]:
            continue
        for key, one in renewal.reports.items():
            endpoint = control.endpoint(key)
            if endpoint is not None and endpoint.lease == renewal.id:
                told.append(_own(key, reporter, one, result["remaining_ms"]))
    if told:
        control.report(reporter, told)


def _own(key: str, reporter: str, one: OwnReport, ttl_ms: int) -> Told:
    sick_ms = None if one.healthy is None else 0 if one.healthy else max(ttl_ms, HELD_MS)
    return _told(key, reporter, one)._replace(sick_ms=sick_ms)


def _told(key: str, reporter: str, one: Report) -> Told:
    return Told(key, reporter, one.ok, one.failed, () if one.rtt_ms is None else (one.rtt_ms,))


ROUTES: Final = (
    Route("POST", "/v1/reports", "report", "Report what was seen of endpoints", report, HOLDERS,
          body=bodies.Reports, answer=bodies.Reported, problems=(HTTPStatus.TOO_MANY_REQUESTS,)),
)
