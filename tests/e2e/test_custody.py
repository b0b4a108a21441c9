"""A registry in doubt, on a real node and a real store: emptied, older, away; and what people do about it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_store import FLEET, ZONE, Store
from tests.node import Node, serving, until, write_config

pytestmark = pytest.mark.needs("redis-server")
NAMES = [f"s{i}.demo.example" for i in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A running store."""
    folder = tmp_path / "redis"
    folder.mkdir()
    one = Store(folder)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def server(tmp_path: Path, atlas_home: Path, store: Store) -> Iterator[Node]:
    """A node on that store, its fleet applied."""
    config = write_config(
        tmp_path / "node", atlas_home, zones={"demo.example": ZONE}, redis=store.url, more="drain_seconds = 0")
    with serving(config, FLEET) as node:
        yield node


def test_an_emptied_store_is_held_off_and_restored(server: Node, store: Store) -> None:
    lease = {"holder": "h1", "ttl": 60, "endpoints": [{"id": "l1", "service": NAMES[0], "site": "fra",
                                                     "aaaa": "2001:db8::7"}]}
    granted = server.api("POST", "/v1/leases", lease).body
    server.wait_version(granted["version"])
    before = registry(server)
    assert before["state"] == "followed"
    with store.client() as client:
        client.flushall()
    until(lambda: registry(server)["state"] == "held", 10, "held")
    told = server.cli("registry", "status", check=False)  # no token is left: by the socket
    assert told.returncode == 1
    assert "lacks 5 of 5 services" in told.stdout
    assert server.cli("registry", "restore", check=False).returncode == 2  # nobody to ask
    # What this node finds by itself is published while that is so.
    server.cli("overrides", "set", f"service:{NAMES[1]}", "down", "--for", "60", "--reason", "by hand")
    until(lambda: not answers(server, NAMES[1]), 2, "forced down here")
    assert all(answers(server, name) for name in NAMES[2:])
    server.cli("overrides", "clear", f"service:{NAMES[1]}")

    done = json.loads(server.cli("registry", "restore", "--yes", "--json").stdout)
    assert done["written"] == 1 + 5 + 1 + 6  # site, services, lease, endpoints
    until(lambda: registry(server)["state"] == "followed", 10, "followed")
    after = registry(server)
    assert after["served"]["version"] > before["served"]["version"]
    assert after["served"]["epoch"] > before["served"]["epoch"]
    assert {key: after["served"][key] for key in ("services", "endpoints", "leases")} == {
        "services": 5, "endpoints": 6, "leases": 1}
    assert [answers(server, name) for name in NAMES] == [[f"192.0.2.{i + 1}"] for i in range(5)]
    assert answers(server, NAMES[0], "AAAA") == ["2001:db8::7"]
    assert server.cli("registry", "restore", "--yes", check=False).returncode == 5  # nothing to restore any more
    # The holder acquires again.
    token = json.loads(server.cli("token", "create", "again", "--role", "admin", "--json").stdout)["token"]
    renewed = server.api("PUT", "/v1/leases/h1", {"fence": granted["fence"]}, token=token)
    assert renewed.status == 404
    again = server.api("POST", "/v1/leases?take_over=true", lease, token=token)
    assert again.status == 201
    assert again.body["fence"] > granted["fence"]


def test_what_the_store_has_is_accepted(server: Node, store: Store) -> None:
    with store.client() as client:
        client.flushall()
    until(lambda: registry(server)["state"] == "held", 10, "held")
    stale = server.api("POST", "/v1/registry/accept", headers={"If-Match": '"0-0"'})
    assert stale.status in (401, 412)
    server.cli("registry", "accept", "--yes")
    until(lambda: registry(server)["state"] == "followed", 10, "followed")
    until(lambda: not answers(server, NAMES[0]), 5, "nothing is left")
    assert "static" in server.dig("static.demo.example")


def test_a_small_loss_is_adopted_and_told_until_somebody_has_seen_it(server: Node, store: Store) -> None:
    """A store that lost its last write: as a failover to a replica that lagged, or an older copy."""
    copy = store.folder.with_name("copy")
    shutil.copytree(store.folder, copy)
    more = {"id": "late", "service": NAMES[0], "site": "fra", "aaaa": "2001:db8::1"}
    server.apply({**FLEET, "endpoints": [*FLEET["endpoints"], more]})
    assert answers(server, NAMES[0], "AAAA")
    store.kill()
    shutil.rmtree(store.folder)
    shutil.copytree(copy, store.folder)
    store.start()
    until(lambda: registry(server)["alarm"], 15, "an alarm")
    told = registry(server)
    assert told["state"] == "followed"
    assert "went back" in told["alarm"]
    assert f"{NAMES[0]}/late" in told["alarm"]
    until(lambda: not answers(server, NAMES[0], "AAAA"), 5, "the workers have it too")
    assert [answers(server, name) for name in NAMES] == [[f"192.0.2.{i + 1}"] for i in range(5)]
    assert 'dnsd_registry_alarm 1' in server.api("GET", "/metrics").body
    assert any(text.startswith("lost:") for text in server.api("GET", "/readyz").body["conditions"])
    server.kill()  # it is told over a restart too
    server.start()
    until(lambda: registry(server)["state"] == "followed", 10, "followed")
    assert registry(server)["alarm"]
    server.cli("registry", "accept", "--yes")
    until(lambda: not registry(server)["alarm"], 5, "seen")
    [accepted] = [entry for entry in audit(server) if entry["action"] == "accept"]
    assert accepted["actor"] == f"socket:uid-{os.geteuid()}"


def test_overrides_of_one_node_while_the_store_is_away(server: Node, store: Store) -> None:
    path = server.state / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.kill()
    until(lambda: registry(server)["state"] == "away", 10, "away")
    target = f"endpoint:{NAMES[0]}/one"
    refused = server.api("PUT", f"/v1/overrides/{target}", {"state": "down", "seconds": 60, "reason": "x"}, timeout=20)
    assert refused.status == 503  # by the network it is the registry's or nobody's
    server.cli("overrides", "set", target, "down", "--for", "120", "--reason", "the rack is on fire")
    until(lambda: not answers(server, NAMES[0]), 0.5, "in force")
    server.cli("overrides", "set", f"service:{NAMES[1]}", "down", "--for", "2", "--reason", "short")
    unknown = server.cli("overrides", "set", "site:none", "down", "--for", "9", "--reason", "x", check=False)
    assert unknown.returncode == 1
    [shown] = [one for one in status(server)["registry"]["local"] if one["key"] == target]
    assert shown["reason"] == "the rack is on fire"
    explained = server.cli("explain", NAMES[0]).stdout
    assert "on this node only" in explained
    # It survives the control process, and that knows its endpoints without any store.
    [control] = server.children("dnsd.control")
    os.kill(control, signal.SIGKILL)
    until(lambda: server.children("dnsd.control") not in ([], [control]), 10, "another control process")
    until(lambda: _known(server) == 5, 10, "it knows its endpoints")
    assert not answers(server, NAMES[0])
    until(lambda: answers(server, NAMES[1]), 5, "the short one has ended")
    assert [one["key"] for one in status(server)["registry"]["local"]] == [target]
    # The store is back: it becomes the registry's, with the time that is left.
    store.start()
    until(lambda: registry(server)["state"] == "followed", 15, "followed")
    until(lambda: not status(server)["registry"]["local"], 5, "merged")
    stored = server.api("GET", f"/v1/overrides/{target}").body
    assert stored["reason"] == "the rack is on fire"
    assert stored["seconds"] == 120
    assert 60 < stored["until_ms"] / 1000 - time.time() < 119
    assert not answers(server, NAMES[0])
    [merged] = [entry for entry in audit(server) if entry["key"] == target]
    assert merged["actor"].startswith("local:node:uid-")


def test_started_without_the_store_it_resolves_and_finds_out(server: Node, store: Store) -> None:
    server.kill()
    store.kill()
    server.start(ready=False)
    until(lambda: _known(server) == 5, 15, "it knows its endpoints")
    assert [answers(server, name) for name in NAMES] == [[f"192.0.2.{i + 1}"] for i in range(5)]
    began = time.monotonic()
    server.cli("overrides", "set", "site:fra", "down", "--for", "60", "--reason", "x")
    until(lambda: not answers(server, NAMES[4]), 2, "own findings are published")
    assert time.monotonic() - began < 5
    server.cli("overrides", "clear", "site:fra")
    until(lambda: answers(server, NAMES[4]), 2, "and taken back")


def registry(server: Node) -> dict[str, Any]:
    """What `dnsd registry status` is told."""
    return beside(server, "/v1/registry") or {"state": "", "alarm": ""}


def status(server: Node) -> dict[str, Any]:
    return beside(server, "/v1/status")


def beside(server: Node, path: str) -> dict[str, Any]:
    """An answer by the socket in the state directory, without any token; nothing while nobody answers."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    folder = os.open(server.state, os.O_PATH)  # its path may be longer than an address holds
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(f"/proc/self/fd/{folder}/control.sock")
        connection.request("GET", path)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
        os.close(folder)


def audit(server: Node) -> list[dict[str, Any]]:
    token = server.token
    items: list[dict[str, Any]] = server.api("GET", "/v1/audit?page_size=1000", token=token).body["items"]
    return items


def answers(server: Node, name: str, type_: str = "A") -> list[str]:
    return server.dig("+short", name, type_, check=False).split()


def _known(server: Node) -> int:
    return int(status(server).get("fleet", {}).get("endpoints", 0))
