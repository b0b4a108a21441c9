"""Why, over DNS, on a real node: who sees it, by address or signature; all others see what they always did."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import Node, serving, until, write_config

SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0"
KEY, OTHER = f"hmac-sha256:ops:{SECRET}", f"hmac-sha256:other:{SECRET}"
NAME = "_why.api.demo.example"
MORE = f"""
[why]
allow = ["127.0.0.1", "key:ops"]
[[keys]]
name = "ops"
secret = "{SECRET}"
[[keys]]
name = "other"
secret = "{SECRET}"
"""
FLEET = {
    "sites": [
        {"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
        {"id": "nyc", "latitude": 40.7, "longitude": -74.0, "country": "US", "region": "na"}],
    "services": [{"name": "api.demo.example", "ttl": 5}, {"name": "*.any.demo.example"}],
    "endpoints": [
        {"id": "f", "service": "api.demo.example", "site": "fra", "a": "192.0.2.1", "aaaa": "2001:db8::1"},
        {"id": "n", "service": "api.demo.example", "site": "nyc", "a": "192.0.2.2"},
        {"id": "w", "service": "*.any.demo.example", "site": "nyc", "a": "192.0.2.3"}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Node]:
    """A node that tells why to 127.0.0.1 and to holders of the key ops."""
    with serving(write_config(tmp_path_factory.mktemp("why"), atlas_home, more=MORE), FLEET) as node:
        until(lambda: node.dig("+short", NAME, "TXT"), 10, "an explanation")
        until(lambda: "row=0" not in node.dig("+short", NAME, "TXT", "+subnet=141.20.0.0/16"), 20, "a map")
        yield node


def test_it_agrees_with_the_answer(server: Node) -> None:
    for subnet, site in (("141.20.0.0/16", "fra"), ("128.59.0.0/16", "nyc")):
        told = server.dig(NAME, "TXT", f"+subnet={subnet}")
        assert re.search(r"flags: qr aa;.* ANSWER: 1,", told), told
        assert re.search(rf"^{re.escape(NAME)}\.\s+0\s+IN\s+TXT\s", told, re.MULTILINE), told
        answer = server.dig("api.demo.example", "A", f"+subnet={subnet}")
        [address] = re.findall(r"^api\S+\s+5\s+IN\s+A\s+(\S+)$", answer, re.MULTILINE)
        [scope] = re.findall(rf"CLIENT-SUBNET: {re.escape(subnet)}/(\d+)", answer)
        assert f"CLIENT-SUBNET: {subnet}/{scope}" in told
        assert f'"answer a={address} ' in told
        assert f"scope={scope} " in told
        assert f'"client address={subnet} by=ecs ' in told
        assert f'"best site={site} ' in told


@pytest.mark.parametrize("words", [["+notcp"], ["+tcp"], ["+noedns"], ["+tcp", "+noedns"]])
def test_transports_and_sizes(server: Node, words: list[str]) -> None:
    told = server.dig(NAME, "TXT", *words)
    assert '"answer a=192.0.2.' in told
    assert '"version image=' in told
    assert "by=resolver" in told
    assert f'node={server.settings["node"]}"' in told


def test_wildcard_services(server: Node) -> None:
    assert "service=*.any.demo.example" in server.dig("_why.some.any.demo.example", "TXT")


def test_all_others_get_what_they_got_before(server: Node) -> None:
    for words in (["-b", "127.0.0.2"], ["-b", "127.0.0.2", "+tcp"]):
        assert "status: NXDOMAIN" in server.dig(*words, NAME, "TXT")
        assert "status: NOERROR" in server.dig(*words, "api.demo.example", "A")
    assert "status: NXDOMAIN" in server.dig(NAME, "A")
    assert "status: NXDOMAIN" in server.dig("_why.static.demo.example", "TXT")
    assert "status: REFUSED" in server.dig("_why.example.org", "TXT")


@pytest.mark.parametrize("words", [["+notcp"], ["+tcp"], ["+noedns"]])
def test_a_signature_opens_it_from_anywhere(server: Node, words: list[str]) -> None:
    signed = server.dig("-b", "127.0.0.2", "-y", KEY, NAME, "TXT", *words)
    assert '"answer a=192.0.2.' in signed, signed
    assert "Couldn't verify signature" not in signed
    assert re.search(r"^ops\.\s+0\s+ANY\s+TSIG\s", signed, re.MULTILINE), signed
    other = server.dig("-b", "127.0.0.2", "-y", OTHER, NAME, "TXT", *words)
    assert "answer a=" not in other
    assert "Couldn't verify signature" not in other


def test_it_goes_on_when_control_does_not(server: Node) -> None:
    """The desk is away for a moment: nobody else notices, and then it is back."""
    [control] = server.children("dnsd.control.app")
    os.kill(control, signal.SIGKILL)
    for _ in range(20):
        assert server.dig("+short", "api.demo.example", "A").startswith("192.0.2.")
    until(lambda: "answer a=" in server.dig(NAME, "TXT", "+time=1", check=False), 20, "an explanation again")
