"""What an address in the fleet may be (text, of its family, somewhere a client can reach), and what HTTPS may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dnsd.registry.models import EndpointSpec, Fallback, Service


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
