"""Round trips over HTTP: agents tell of clients, pages tell of themselves.

Lives here: `POST /v1/measurements`, who may speak of whom, what a browser asks first. Does not live here: what is
believed of a sample (`rtt.intake`), what becomes of it (`control.measurements`).

A token of the role `beacon` is in every page that carries it, so it is no secret: it may only say how far the address
is that it comes from, a few times a minute, and once of each site. Whatever it says, it says of one block, which it
can make neither heavier than a page is, nor the token less believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from dnsd.admin import bodies, objects, problem
from dnsd.admin.call import HOLDERS, Call, Route, answer
from dnsd.admin.problem import Problem
from dnsd.model import Fault
from dnsd.registry.models import Role
from dnsd.registry.roundtrips import MeasurementBatch

PAGES: Final[Mapping[str, str]] = {"Access-Control-Allow-Origin": "*"}
ASKED: Final[Mapping[str, str]] = {
    **PAGES, "Access-Control-Allow-Methods": "POST", "Access-Control-Allow-Headers": "authorization, content-type",
    "Access-Control-Max-Age": "86400"}
BEACON_SAMPLES: Final = 64
BEACON_COUNT: Final = 8
"""Round trips that one sample of a page stands for at most: they are what its block weighs among all clients."""


async def measure(call: Call) -> web.Response:
    """Takes a batch. What is wrong with single samples drops these, and is told by number and reason."""
    batch = problem.parse(MeasurementBatch, await call.body())
    beacon = call.caller.role is Role.BEACON
    if batch.site is None and any(one.site is None for one in batch.samples):
        raise problem.invalid([Fault("/site", "required, or a site in each sample")])
    if beacon:
        objects.refuse(_beacon_faults(batch))
    samples = batch.samples
    if beacon:
        client, block = _peer(call.request)
        if not call.room.beacons.may(block):
            raise _too_many()
        samples = tuple(one.model_copy(update={"client": client, "count": min(one.count, BEACON_COUNT)})
                        for one in samples)
    taken = call.control.measure(call.caller.id, batch.site, samples, anybody=beacon)
    if taken is None:
        raise _too_many()
    return answer({"accepted": taken.accepted, "dropped": taken.dropped}, HTTPStatus.ACCEPTED, PAGES)


async def asked(call: Call) -> web.Response:
    """What a browser asks before a page of another origin may post."""
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=ASKED)


def _beacon_faults(batch: MeasurementBatch) -> list[Fault]:
    faults = [Fault(f"/samples/{number}/client", "a beacon speaks of its own address only: leave it out")
              for number, one in enumerate(batch.samples) if one.client]
    if len(batch.samples) > BEACON_SAMPLES:
        return [*faults, Fault("/samples", f"a beacon sends at most {BEACON_SAMPLES}")]
    seen: set[str | None] = set()
    for number, one in enumerate(batch.samples):
        site = one.site if one.site is not None else batch.site
        if site in seen:
            faults.append(Fault(f"/samples/{number}/site", "a beacon speaks once of each site: send the median"))
        seen.add(site)
    return faults


def _peer(request: web.Request) -> tuple[str, bytes]:
    """Where a request comes from, and its block."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not isinstance(peer, tuple):
        raise Problem(HTTPStatus.FORBIDDEN, "forbidden", "a beacon comes over the network")
    address = ip_address(str(peer[0]).partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:  # else all of IPv4 were one block
        address = address.ipv4_mapped
    return str(address), address.packed[: 3 if address.version == 4 else 6]


def _too_many() -> Problem:
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many-measurements",
                   "put together what was measured, and send it less often", headers={"Retry-After": "1", **PAGES})


ROUTES: Final = (
    Route("POST", "/v1/measurements", "measure", "Tell of measured round trips", measure, HOLDERS | {Role.BEACON},
          body=MeasurementBatch, answer=bodies.Measured, status=HTTPStatus.ACCEPTED,
          problems=(HTTPStatus.TOO_MANY_REQUESTS,)),
    Route("OPTIONS", "/v1/measurements", "measure_asked", "What pages of other origins may send", asked, frozenset(),
          status=HTTPStatus.NO_CONTENT),
)
