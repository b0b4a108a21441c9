"""`POST /v1/simulate`: what is refused, and with which places; a document is checked as `apply` would."""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.control.simulate import BusyError, FailedError
from tests.admin.conftest import Api

pytestmark = pytest.mark.asyncio

REFUSED: list[tuple[Any, int, str]] = [
    ({"lost": ["nowhere"]}, 422, "/lost/0"),
    ({"bogus": 1}, 422, "/bogus"),
    ({"clients": [{"prefix": "10.0.0.1/24"}]}, 422, "/clients/0/prefix"),
    ({"clients": [{"prefix": "10.0.0.0/24", "weight": 0}]}, 422, "/clients/0/weight"),
    ({"change": {"delete": {"sites": ["nowhere"]}}}, 404, "/delete/sites/0"),
    ({"change": {"endpoints": [{"id": "x", "service": "api.a.example", "site": "nope", "a": "192.0.2.9"}]}}, 422,
     "/endpoints/0/site"),
    ({"change": {"delete": {"sites": ["fra"]}}}, 409, "/delete/sites/0"),
    ({"rtt_ms": {"fra": 9999}}, 422, "/rtt_ms/fra"),
    ({"services": ["nobody.example"]}, 422, "/services/0"),
]


@pytest.mark.parametrize(("body", "status", "place"), REFUSED)
async def test_refusals_name_the_place(api: Api, body: Any, status: int, place: str) -> None:
    reply = await api.call("POST", "/v1/simulate", "reader", body)
    assert (reply.status, list(reply.faults)) == (status, [place])


async def test_a_name_that_cannot_stand(api: Api) -> None:
    api.control.no_place["new.a.example"] = "a zone has addresses there"
    reply = await api.call("POST", "/v1/simulate", body={"change": {"services": [{"name": "new.a.example"}]}})
    assert reply.faults == {"/change/services/0/name": "a zone has addresses there"}


@pytest.mark.parametrize(("error", "status"), [(BusyError(), 429), (FailedError("not made within 60 s"), 422)])
async def test_what_cannot_be_made_now(api: Api, error: Exception, status: int) -> None:
    api.control.cannot = error
    reply = await api.call("POST", "/v1/simulate", body={})
    assert reply.status == status
    assert ("Retry-After" in reply.headers) == (status == 429)


async def test_too_many_clients(api: Api) -> None:
    clients = [{"prefix": f"10.{n >> 8}.{n & 255}.0/24"} for n in range(10_001)]
    reply = await api.call("POST", "/v1/simulate", body={"clients": clients})
    assert (reply.status, list(reply.faults)) == (422, ["/clients"])


async def test_it_needs_no_store_and_writes_nothing(api: Api) -> None:
    await api.call("GET", "/v1/sites")  # the token is known
    before = {kind: dict(objects) for kind, objects in api.registry.objects.items()}
    asked = api.registry.asked
    change = {"services": [{"name": "api.a.example", "ttl": 30}], "delete": {"endpoints": ["api.a.example/fixed"]}}
    reply = await api.call("POST", "/v1/simulate", body={
        "change": change, "moved": {"fra": {"latitude": 1, "longitude": 2}}, "services": ["api.a.example"]})
    assert (reply.status, reply.body["changes"]) == (200, [
        "service api.a.example as in the document", "endpoint api.a.example/fixed deleted", "site fra moved to 1, 2"])
    assert api.registry.asked == asked
    assert api.registry.objects == before
