"""Refusals: pointers, all faults at once, malformed JSON with its place; and nothing a client sends makes a 500."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dnsd.admin import bodies, problem
from dnsd.registry.models import LeaseRequest, Service, Site
from dnsd.registry.roundtrips import MeasurementBatch
from tests.admin.conftest import Api

MODELS: tuple[type[BaseModel], ...] = (
    Site, Service, LeaseRequest, bodies.Fleet, bodies.TokenSpec, bodies.Renew, bodies.RenewBatch)


@pytest.mark.parametrize(("model", "sent", "faults"), [
    (Site, {"id": "x"}, {"/latitude", "/longitude", "/country", "/region"}),
    (Site, {"id": "X!", "latitude": 91, "longitude": "east", "country": "de", "region": "eu", "colour": "red"},
     {"/id", "/latitude", "/longitude", "/country", "/colour"}),
    (Service, {"name": "a..b", "policy": {"split4": 20, "take": 0}}, {"/name", "/policy/take"}),
    (Service, {"name": "a.b", "policy": {"split4": 20}}, {"/policy"}),
    (Service, {"name": "a.b", "ttl": 1}, {""}),
    (LeaseRequest, {"holder": "h", "endpoints": [
        {"id": "a", "service": "s.x", "site": "f", "a": "192.0.2.1"},
        {"id": "b", "service": "s.x", "site": "f", "a": "192.0.2.300", "wieght": 1},
        {"id": "c", "service": "s.x", "site": "f"}]},
     {"/endpoints/1/a", "/endpoints/1/wieght", "/endpoints/2"}),
    (LeaseRequest, {"holder": "h", "endpoints": []}, {"/endpoints"}),
    (bodies.TokenSpec, {"id": "t", "role": "king", "addresses": ["192.0.2.0/33"], "services": ["*.*.x"]},
     {"/role", "/addresses/0", "/services"}),
    (bodies.TokenSpec, {"id": "t", "role": "admin", "services": ["a.b"]}, {""}),
    (bodies.Renew, {"fence": 1, "loads": {"s/a": 2, "s/b~c": "x", "s/d": 0.5}}, {"/loads/s~1a", "/loads/s~1b~0c"}),
    (bodies.Fleet, {"sites": [{"id": "a"}], "servces": []},
     {"/sites/0/latitude", "/sites/0/longitude", "/sites/0/country", "/sites/0/region", "/servces"}),
    (Service, {"name": "a.b", "check": {"kind": "tcp"}}, {"/check"}),
    (Service, {"name": "a.b", "check": {"kind": "tcp", "port": 0, "x": 1}}, {"/check/port", "/check/x"}),
    (Service, {"name": "a.b", "check": {}}, {"/check/kind"}),
    (Service, {"name": "a.b", "check": "nope"}, {"/check"}),
    (Service, {"name": "a.b", "check": {"kind": "http", "address": "0.0.0.0"}}, {"/check/address"}),
    (MeasurementBatch, {"samples": [{"rtt_ms": True}, {"rtt_ms": "9"}]}, {"/samples/0/rtt_ms", "/samples/1/rtt_ms"}),
    (MeasurementBatch, {"samples": []}, {"/samples"}),
    (Site, [1], {""}),
    (Site, "text", {""}),
])
def test_every_fault_has_its_pointer(model: type[BaseModel], sent: Any, faults: set[str]) -> None:
    with pytest.raises(problem.Problem) as caught:
        problem.parse(model, json.dumps(sent).encode())
    assert caught.value.status == 422
    assert {fault.place for fault in caught.value.faults} == faults
    assert len(caught.value.faults) == len(faults)


@pytest.mark.parametrize(("samples", "text"), [
    ([], "should have at least 1 item, not 0"), ([{"rtt_ms": 9.0}] * 5001, "should have at most 5000 items, not 5001")])
def test_how_many_there_may_be_is_said_plainly(samples: list[Any], text: str) -> None:
    with pytest.raises(problem.Problem) as caught:
        problem.parse(MeasurementBatch, json.dumps({"samples": samples}).encode())
    assert [(fault.place, fault.message) for fault in caught.value.faults] == [("/samples", text)]


@pytest.mark.parametrize(("body", "place"), [
    (b"", "line 1 column 0"),
    (b'{"holder": "a",\n "ttl": }', "line 2 column 9"),
    (b'{"holder": "a"} x', "line 1 column 17"),
    (b"\xff\xfe", "line 1 column 1"),
    (b'"\xff"', "line 1 column"),
    (b"[" * 5000, "recursion limit exceeded"),
    (b'{"a":' * 5000, "recursion limit exceeded"),
])
@pytest.mark.parametrize("filled", [None, {"holder": "h"}])
def test_malformed_json_names_line_and_column(body: bytes, place: str, filled: dict[str, str] | None) -> None:
    with pytest.raises(problem.Problem) as caught:
        problem.parse(LeaseRequest, body, filled)
    assert caught.value.status == 400
    assert place in caught.value.detail


KEYS = st.sampled_from(["id", "name", "policy", "endpoints", "a", "loads", "fence", "sites", "role", "~/"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("192.0.2.1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12)


def refusal(model: type[BaseModel], body: bytes) -> problem.Problem | None:
    """Why the body is not one of the model's."""
    try:
        problem.parse(model, body)
    except problem.Problem as refused:
        return refused
    return None


@given(st.sampled_from(MODELS), VALUES)
def test_a_parse_gives_a_model_or_a_problem_whose_pointers_point(model: type[BaseModel], sent: Any) -> None:
    refused = refusal(model, json.dumps(sent).encode("utf-8", "surrogatepass"))
    if refused is None:
        return
    assert refused.status in (400, 422)
    assert refused.faults
    for place, _ in refused.faults:
        assert place == "" or place.startswith("/")
        _follow(sent, place)


def _follow(sent: Any, pointer: str) -> None:
    """All steps but the last exist in what was sent."""
    for step in (text.replace("~1", "/").replace("~0", "~") for text in pointer.split("/")[1:-1]):
        sent = sent[int(step)] if isinstance(sent, list) else sent[step]


@given(st.binary(max_size=60))
def test_any_octets_are_a_model_or_a_problem(body: bytes) -> None:
    for model in MODELS:
        refused = refusal(model, body)
        assert refused is None or refused.status in (400, 422)


@pytest.mark.parametrize(("method", "path", "status", "header"), [
    ("GET", "/nowhere", 404, None),
    ("GET", "/v1/endpoints/only-one-part", 404, None),
    ("POST", "/v1/sites", 405, "Allow"),
    ("PATCH", "/v1/sites/fra", 405, "Allow"),
    ("GET", "/v1/sites/absent", 404, None),
])
@pytest.mark.asyncio
async def test_what_the_table_does_not_know(api: Api, method: str, path: str, status: int, header: str | None) -> None:
    reply = await api.call(method, path)
    assert (reply.status, reply.body["status"]) == (status, status)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert header is None or header in reply.headers


@pytest.mark.parametrize(("query", "faults"), [
    ("page_size=0", {"?page_size"}),
    ("page_size=1001", {"?page_size"}),
    ("page_size=ten&dry-run=true", {"?page_size", "?dry-run"}),
    ("page_size=1&page_size=2", {"?page_size"}),
    ("page_size=1_0", {"?page_size"}),
    ("page_size=1.5", {"?page_size"}),
    ("page_token=%21", {"?page_token"}),
    ("page_token=%E2%82%AC", {"?page_token"}),
    ("page_token=" + "A" * 1001, {"?page_token"}),
])
@pytest.mark.asyncio
async def test_query_parameters_are_checked(api: Api, query: str, faults: set[str]) -> None:
    reply = await api.call("GET", f"/v1/sites?{query}")
    assert reply.status == 422
    assert set(reply.faults) == faults


@pytest.mark.asyncio
async def test_a_dry_run_that_is_misspelt_does_nothing(api: Api) -> None:
    for query in ("dryrun=true", "dry_run=1", "dry_run="):
        reply = await api.call("POST", f"/v1/apply?{query}", body={"services": [{"name": "n.a.example"}]})
        assert reply.status == 422
    assert api.registry.version == 10


@pytest.mark.asyncio
async def test_bodies_are_bounded_and_plain(api: Api) -> None:
    assert (await api.call("POST", "/v1/leases", body=b" " * problem.BODY_MAX + b"{}")).status == 413
    assert (await api.call("POST", "/v1/leases", body=gzip.compress(b"{}"), Content_Encoding="gzip")).status == 415
    assert (await api.call("POST", "/v1/leases", body=b"[" * 100_000)).status == 400


@pytest.mark.asyncio
async def test_a_registry_that_is_away_is_503_with_retry_after(api: Api) -> None:
    assert (await api.call("GET", "/v1/sites")).status == 200  # the token is known from here on
    api.registry.away = True
    for method, path, body in (
            ("GET", "/v1/sites", None), ("PUT", "/v1/services/x.a.example", {}),
            ("POST", "/v1/leases:renew", {"renewals": [{"id": "a", "fence": 1}]})):
        reply = await api.call(method, path, body=body)
        assert reply.status == 503
        assert int(reply.headers["Retry-After"]) > 0
    assert (await api.call("GET", "/v1/status")).status == 200


@pytest.mark.asyncio
async def test_a_bug_is_500_with_the_request_id_and_logged(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api.control, "status", lambda: 1 / 0)
    reply = await api.call("GET", "/v1/status", X_Request_Id="my-id-7")
    assert reply.status == 500
    assert reply.body["request_id"] == reply.headers["X-Request-Id"] == "my-id-7"
    assert "my-id-7" in caplog.text
    assert "ZeroDivisionError" not in json.dumps(reply.body)


@pytest.mark.asyncio
async def test_a_request_id_that_could_forge_a_log_line_is_replaced(api: Api) -> None:
    reply = await api.call("GET", "/healthz", "", X_Request_Id="a b")
    assert len(reply.headers["X-Request-Id"]) == 16
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("body", "pointers"), [
    (b'{"site":"fra","samples":[' + b"{}," * 340_000 + b"{}]}", {"/samples"}),
    (b'{"site":"fra","samples":[{' + b",".join(b'"k%d":1' % n for n in range(90_000)) + b"}]}", {"/samples/0"}),
    (b'{"site":[' + b"1," * 20_000 + b'1],"samples":[' + b"{}," * 20_000 + b"{}]}", {"/site", "/samples"})])
def test_a_body_with_faults_without_number_is_refused_at_once(
    body: bytes, pointers: set[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Naming each held the control process up for 13 s."""
    monkeypatch.setattr(problem, "of_validation", None)
    with pytest.raises(problem.Problem) as caught:
        problem.parse(MeasurementBatch, body)
    assert {fault.place for fault in caught.value.faults} == pointers


def test_no_more_faults_are_found_than_are_told() -> None:
    with pytest.raises(problem.Problem) as caught:
        problem.parse(MeasurementBatch, json.dumps({"samples": [{}] * 9999}).encode())
    assert len(caught.value.faults) <= problem.FAULTS_MAX + 1


def test_an_object_that_is_wrong_is_not_told_that_it_is_no_word() -> None:
    with pytest.raises(problem.Problem) as caught:
        problem.parse(Service, b'{"name": "a.b", "check": {"kind": "tcp"}}')
    assert [fault.message for fault in caught.value.faults] == ["a check of kind tcp needs a port"]
