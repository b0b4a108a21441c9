"""The command line against a real daemon: every verb does what docs/cli.md says, and ends with its exit code."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dnsd.cli.failure import Exit
from tests.node import DATA, Node, free_port, until, write_config

SITE = {"latitude": 52.52, "longitude": 13.4, "country": "DE", "region": "eu"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Node]:
    """A node with the demo's fleet, applied by the CLI."""
    one = Node(write_config(tmp_path_factory.mktemp("n"), atlas_home))
    try:
        one.start()
        one.cli("apply", str(DATA / "demo" / "fleet.toml"), "--yes")
        yield one
    finally:
        one.stop()


def said(node: Node, *words: str) -> Any:
    """What a verb says as JSON."""
    return json.loads(node.cli(*words, "--json").stdout)


def ends(node: Node, *words: str) -> tuple[int, str]:
    """Exit code and what stands on standard error."""
    done = node.cli(*words, check=False)
    return done.returncode, done.stderr


def test_status(node: Node) -> None:
    found = said(node, "status", "--wait", "5")
    assert found["ready"] is True
    assert len(found["workers"]) == 2
    version = said(node, "sites", "put", "status-site", json.dumps(SITE))["version"]
    assert ends(node, "status", "--version", str(version))[0] == Exit.OK
    assert ends(node, "status", "--version", str(version + 1000))[0] == Exit.FAILED


def test_an_object_from_birth_to_end(node: Node) -> None:
    assert said(node, "sites", "put", "berlin", json.dumps(SITE), "--new")["created"] is True
    assert ends(node, "sites", "put", "berlin", json.dumps(SITE), "--new")[0] == Exit.PRECONDITION
    first = said(node, "sites", "get", "berlin")
    assert first["latitude"] == SITE["latitude"]
    said(node, "sites", "put", "berlin", json.dumps(SITE | {"capacity": 5}))
    code, text = ends(node, "sites", "put", "berlin", json.dumps(SITE), "--etag", first["etag"])
    assert (code, "changed" in text) == (Exit.PRECONDITION, True)
    assert "berlin" in node.cli("sites", "list", "--prefix", "ber").stdout
    said(node, "sites", "delete", "berlin")
    assert ends(node, "sites", "get", "berlin")[0] == Exit.FAILED


def test_all_faults_of_an_object_are_named(node: Node) -> None:
    code, text = ends(node, "sites", "put", "bad", json.dumps(SITE | {"latitude": 91, "country": "de", "colour": 1}))
    assert code == Exit.FAILED
    assert all(place in text for place in ("/latitude", "/country", "/colour: unknown key"))


def test_a_service_where_the_zone_has_addresses_is_refused(node: Node) -> None:
    code, text = ends(node, "services", "put", "static.demo.example", "{}")
    assert code == Exit.FAILED
    assert "/name: the zone has static A here" in text
    assert ends(node, "services", "get", "static.demo.example")[0] == Exit.FAILED


def test_endpoints_in_a_service(node: Node) -> None:
    endpoint = {"site": "gcp-europe-west3", "a": "203.0.113.77", "tier": 9}
    said(node, "endpoints", "put", "pay.demo.example/third", json.dumps(endpoint))
    lines = node.cli("endpoints", "list", "--prefix", "pay.demo.example/").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["first", "second", "third"]
    said(node, "endpoints", "delete", "pay.demo.example/third")


def test_a_lease_from_acquiring_to_release(node: Node) -> None:
    wanted = {"holder": "cli-1", "ttl": 60, "endpoints": [
        {"id": "leased", "service": "canary.demo.example", "site": "gcp-europe-west3", "a": "203.0.113.78"}]}
    lease = said(node, "leases", "acquire", json.dumps(wanted))
    key, fence = lease["id"], str(lease["fence"])
    assert key in node.cli("leases", "list").stdout
    renewed = said(node, "leases", "renew", key, "--fence", fence, "--load", "canary.demo.example/leased=0.5")
    assert renewed["ok"] is True
    assert ends(node, "leases", "release", key, "--fence", str(lease["fence"] + 1))[0] == Exit.PRECONDITION
    said(node, "leases", "release", key, "--fence", fence)
    assert key not in node.cli("leases", "list").stdout


def test_an_override_moves_answers(node: Node) -> None:
    assert node.dig("+short", "pay.demo.example") == "203.0.113.41\n"
    said(node, "overrides", "set", "site:gcp-europe-west3", "down", "--for", "60", "--reason", "test")
    until(lambda: node.dig("+short", "pay.demo.example") == "203.0.113.11\n", 5, "the second tier answers")
    assert "gcp-europe-west3" in node.cli("overrides", "list").stdout
    said(node, "overrides", "clear", "site:gcp-europe-west3")
    until(lambda: node.dig("+short", "pay.demo.example") == "203.0.113.41\n", 5, "the first tier answers again")


def test_tokens(node: Node) -> None:
    made = said(node, "token", "create", "watcher", "--role", "reader", "--note", "of a test")
    secret = made["token"]
    assert secret not in node.cli("token", "list").stdout
    reader = ["--url", node.admin, "--token", secret]
    assert ends(node, "sites", "list", *reader)[0] == Exit.OK
    assert ends(node, "sites", "put", "x", json.dumps(SITE), *reader)[0] == Exit.FAILED
    said(node, "token", "revoke", "watcher")
    assert ends(node, "sites", "list", *reader)[0] == Exit.FAILED


def test_apply_again_has_nothing_to_do(node: Node) -> None:
    fleet = str(DATA / "demo" / "fleet.toml")
    assert node.cli("apply", fleet, "--dry-run").stdout.startswith("nothing to do; ")
    assert node.cli("apply", fleet, "--yes", "--if-empty").stdout == ""


def test_query_and_explain_agree(node: Node) -> None:
    server = f"{node.address}:{node.port}"
    until(lambda: said(node, "query", "api.demo.example", "-s", server, "--subnet", "141.20.0.0/16")
          ["answer"][0]["data"] == "198.51.100.41", 30, "a map is derived")
    answered = said(node, "query", "api.demo.example", "-s", server, "--subnet", "141.20.0.0/16", "--nsid")
    explained = said(node, "explain", "api.demo.example", "--subnet", "141.20.0.0/16")
    assert [record["data"] for record in answered["answer"]] == explained["addresses"]
    assert answered["edns"]["subnet"]["scope"] == explained["scope"]
    assert answered["edns"]["nsid"]
    assert ends(node, "query", "elsewhere.example", "-s", server)[0] == Exit.FAILED


def test_data(node: Node) -> None:
    assert ends(node, "data", "build", "--if-stale") == (Exit.OK, "")
    found = said(node, "data", "info")
    assert found["atlas"]["prefixes4"] > 1_000_000
    assert any("DB-IP" in line for line in found["credits"])
    origin = said(node, "data", "lookup", "141.20.1.1", "2001:638::1")
    assert [one["origin"]["country"] for one in origin] == ["DE", "DE"]
    assert ends(node, "data", "lookup", "141.20.1.1", "nowhere", "1.2.3")[1].count("\n") == 3


def test_reload_and_check_name_the_faults_of_a_zone(node: Node) -> None:
    file = Path(node.settings["zones"][0]["file"])
    good = file.read_text(encoding="utf-8")
    try:
        file.write_text(good + "bad A 1.2.3\nworse MX\n", encoding="utf-8")
        lines = good.count("\n")
        for verb in ("reload", "check"):
            code, text = ends(node, verb)
            assert code == Exit.CONFIG_INVALID
            assert f"{file}:{lines + 1}" in text
            assert f"{file}:{lines + 2}" in text
        assert "192.0.2.81" in node.dig("+short", "static.demo.example")
        file.write_text(good + "fresh A 192.0.2.200\n", encoding="utf-8")
        assert ends(node, "reload")[0] == Exit.OK
        until(lambda: node.dig("+short", "fresh.demo.example") == "192.0.2.200\n", 5, "the zone is read again")
    finally:
        file.write_text(good, encoding="utf-8")
        node.cli("reload")


def test_check_names_every_fault_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "dnsd.toml"
    path.write_text('listen = ["nowhere"]\ncolour = 1\n[tcp]\nidle_seconds = -1\n', encoding="utf-8")
    code, text = ends(Node(write_config(tmp_path / "n", tmp_path)), "check", "-c", str(path))
    assert code == Exit.CONFIG_INVALID
    assert all(f"{path}:{line}" in text for line in (1, 2, 4))


def test_a_second_daemon_on_the_same_state_is_refused(node: Node, tmp_path: Path) -> None:
    other = tomllib.loads(node.config.read_text(encoding="utf-8"))["state"]
    config = write_config(tmp_path, tmp_path)
    text = config.read_text(encoding="utf-8").replace(str(tmp_path / "state"), other)
    config.write_text(text, encoding="utf-8")
    code, message = ends(node, "serve", "-c", str(config))
    assert (code, other in message) == (Exit.PRECONDITION, True)
    assert node.api("GET", "/readyz").status == 200


def test_nobody_there_is_4(tmp_path: Path) -> None:
    absent = Node(write_config(tmp_path, tmp_path))
    assert ends(absent, "status")[0] == Exit.UNREACHABLE
    assert ends(absent, "drain")[0] == Exit.UNREACHABLE
    assert ends(absent, "query", "a.example", "-s", f"127.0.0.1:{free_port()}")[0] == Exit.UNREACHABLE


def test_drain(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> None:
    one = Node(write_config(tmp_path_factory.mktemp("n"), atlas_home, workers=1))
    one.start()
    try:
        assert one.process is not None
        assert ends(one, "drain")[0] == Exit.OK
        assert one.process.wait(10) == 0
    except (AssertionError, subprocess.TimeoutExpired):
        one.kill()
        raise
