"""What an address in the fleet may be (text, of its family, somewhere a client can reach), and what HTTPS may say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from dnsd.control.whatif import Question
from dnsd.registry.checks import Check
from dnsd.registry.models import EndpointSpec, Fallback, Service, Site


def endpoint(**addresses: Any) -> EndpointSpec:
    return EndpointSpec(id="one", service="api.example", site="here", **addresses)


@pytest.mark.parametrize("addresses", [
    {"a": "192.0.2.1"}, {"a": "10.0.0.1"}, {"a": "127.0.0.1"}, {"aaaa": "2001:db8::1"}, {"aaaa": "fd00::1"},
    {"a": "198.51.100.7", "aaaa": "2001:db8::7"},
])
def test_addresses_that_can_be_answered(addresses: dict[str, str]) -> None:
    read = endpoint(**addresses).model_dump(mode="json", include={"a", "aaaa"}, exclude_none=True)
    assert read == addresses


@pytest.mark.parametrize(("addresses", "said"), [
    ({}, "neither a nor aaaa"), ({"a": 123}, "written as text"), ({"a": b"\x0a\0\0\1"}, "written as text"),
    ({"a": "0.0.0.0"}, "cannot be answered"), ({"a": "0.1.2.3"}, "cannot be answered"),
    ({"a": "224.0.0.1"}, "cannot be answered"), ({"a": "255.255.255.255"}, "cannot be answered"),
    ({"aaaa": "::"}, "cannot be answered"), ({"aaaa": "ff02::1"}, "cannot be answered"),
    ({"aaaa": "fe80::1"}, "cannot be answered"), ({"aaaa": "fe80::1%eth0"}, "cannot be answered"),
    ({"aaaa": "2001:db8::1%1"}, "cannot be answered"), ({"aaaa": "::ffff:192.0.2.1"}, "in disguise"),
    ({"a": "2001:db8::1"}, "IPv4"), ({"aaaa": "192.0.2.1"}, "IPv6"), ({"a": "192.0.2.256"}, "IPv4"),
])
def test_addresses_that_lead_nowhere(addresses: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        endpoint(**addresses)


@pytest.mark.parametrize("fallback", [{"a": ["0.0.0.0"]}, {"aaaa": ["fe80::1"]}, {"a": [1]}, {"a": ["192.0.2.1"] * 9}])
def test_a_fallback_is_held_to_the_same(fallback: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fallback.model_validate(fallback)


ECH = "AAj+DQAEYWJjZA=="


@pytest.mark.parametrize("https", [
    {}, {"alpn": ["h2", "h3"]}, {"alpn": ["http/1.1"], "port": 8443}, {"ech": ECH},
    {"alpn": ["h3"], "port": 1, "ech": ECH}])
def test_https_comes_back_as_it_was_written(https: dict[str, Any]) -> None:
    made = Service.model_validate({"name": "a.example", "https": https})
    again = Service.model_validate_json(made.model_dump_json())
    assert again == made
    assert made.https is not None
    written = made.https.model_dump(mode="json")
    assert {key: written[key] for key in https} == https


@pytest.mark.parametrize(("https", "places"), [
    ({"alpn": ["h2", "h2"]}, ["alpn"]), ({"alpn": [""]}, ["alpn"]), ({"alpn": ["a,b"]}, ["alpn"]),
    ({"alpn": ["a\\b"]}, ["alpn"]), ({"alpn": ["x" * 256]}, ["alpn"]), ({"alpn": [str(n) for n in range(9)]}, ["alpn"]),
    ({"port": 0}, ["port"]), ({"port": 65536}, ["port"]), ({"ech": "!"}, ["ech"]), ({"ech": 1}, ["ech"]),
    ({"ech": ""}, ["ech"]), ({"ech": "AAA="}, ["ech"]), ({"ech": "AAj+DQAFYWJjZA=="}, ["ech"]),
    ({"ech": "AAn+DQAEYWJjZA=="}, ["ech"]), ({"priority": 1}, ["priority"]),
    ({"alpn": ["h2", "h2"], "port": 0, "ech": "!"}, ["alpn", "port", "ech"])])
def test_what_https_cannot_say(https: dict[str, Any], places: list[str]) -> None:
    with pytest.raises(ValidationError) as raised:
        Service.model_validate({"name": "a.example", "https": https})
    assert [error["loc"][1] for error in raised.value.errors()] == places


@pytest.mark.parametrize("check", [
    "none", {"kind": "http"}, {"kind": "tcp", "port": 5432}, {"kind": "dns", "host": "health.example"},
    {"kind": "https", "path": "/healthz?full=1", "status": [200, 200], "text": "ok", "host": "a.b", "verify": False},
    {"kind": "grpc", "port": 50051, "tls": True, "interval_ms": 1000, "timeout_ms": 500, "rise": 5, "fall": 2,
     "initial": "up"},
    *({"kind": "http", "host": host} for host in ("a.b", "192.0.2.1", "2001:db8::1", "_x.a-b.c")),
    {"kind": "tls", "address": "192.0.2.1"}, {"kind": "tls", "address": "2001:db8::1", "ramp_ms": 0}])
def test_checks_come_back_as_they_were_written(check: Any) -> None:
    made = Service.model_validate({"name": "a.example", "check": check})
    assert Service.model_validate_json(made.model_dump_json()) == made
    written = made.model_dump(mode="json")["check"]
    assert written == check if check == "none" else {key: written[key] for key in check} == check


@pytest.mark.parametrize(("check", "said"), [
    ({"kind": "ping"}, "kind"), ({"kind": "tcp"}, "a check of kind tcp needs a port"),
    ({"kind": "grpc"}, "a check of kind grpc needs a port"), ({"kind": "http", "path": "x"}, "path"),
    ({"kind": "http", "path": "/a b"}, "path"), ({"kind": "http", "path": "/\r\nX: y"}, "path"),
    ({"kind": "http", "status": [300, 200]}, "the least is above the greatest"),
    ({"kind": "tcp", "port": 1, "text": "x"}, "text is looked for"),
    ({"kind": "http", "method": "HEAD", "text": "x"}, "text is looked for"),
    ({"kind": "https", "tls": True}, "tls is for grpc"),
    *(({"kind": "http", "host": host}, "neither a host name nor an address") for host in (
        "", "a\r\nx-admin: 1", "a\n", "a b", "a..b", "é.example", "[::1]", "fe80::1%eth0", "*.a", "a:80", "-a.b",
        "x" * 64 + ".b", ".")),
    ({"kind": "http", "text": 128 * "é"}, "longer than 255 octets"),
    ({"kind": "http", "address": "0.0.0.0"}, "cannot be answered"),
    ({"kind": "http", "interval_ms": 1}, "interval_ms"),
    ({"kind": "http", "timeout_ms": 1001}, "timeout_ms"), ({"kind": "http", "headers": {}}, "headers"),
    ("some", "check")])
def test_what_no_check_can_be(check: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Service.model_validate({"name": "a.example", "check": check})


def test_a_line_feed_is_no_part_of_a_name() -> None:
    with pytest.raises(ValidationError, match="not a host name"):
        Service(name="a.example\n")


def test_a_check_of_a_host_with_a_final_dot_is_of_the_same_host() -> None:
    assert Check(kind="http", host="A.example.").host == "a.example"


@pytest.mark.parametrize("capacity", [0, (1 << 40) + 1, 10**400])
def test_a_capacity_can_be_reckoned_with(capacity: int) -> None:
    """One beyond what a float holds ended each solving of the services that spill over there."""
    with pytest.raises(ValidationError):
        Site(id="a", latitude=1, longitude=1, country="DE", region="eu", capacity=capacity)
    with pytest.raises(ValidationError):
        Question(capacities={"a": capacity})
