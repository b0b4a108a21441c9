"""The demo as its reader meets it: applied, asked with dig, an instance registered over HTTP, explained, overridden."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from tests.node import DATA, Node, until, write_config
from tests.oracle.ask import Question, ask

SERVICE = "api.demo.example"
GERMANY, BRAZIL, TELECOM = "141.20.0.0/16", "200.147.0.0/16", "61.169.0.0/24"
FRANKFURT, SAO_PAULO, SHANGHAI = "198.51.100.41", "198.51.100.31", "198.51.100.91"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, atlas_home: object) -> Iterator[Node]:
    """A node with the demo's zone and fleet."""
    home = tmp_path_factory.mktemp("demo")
    folder = DATA / "demo"
    for file in folder.glob("*.zone"):
        (home / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    zone = (folder / "demo.example.zone").read_text(encoding="utf-8")
    node = Node(write_config(home, atlas_home, zones={"demo.example": zone}))  # type: ignore[arg-type]
    try:
        node.start()
        node.apply()
        until(lambda: node.api("GET", f"/v1/explain?name={SERVICE}&subnet={GERMANY}").body["map"]["row"], 30, "a map")
        until(lambda: {_from(node, GERMANY) for _ in range(8)} == {FRANKFURT}, 5, "the map is with the workers, too")
        yield node
    finally:
        node.stop()


@pytest.mark.parametrize(("subnet", "address"), [(GERMANY, FRANKFURT), (BRAZIL, SAO_PAULO), (TELECOM, SHANGHAI)])
def test_each_client_gets_the_site_that_is_best_for_it(demo: Node, subnet: str, address: str) -> None:
    assert demo.dig("+short", SERVICE, f"+subnet={subnet}").split() == [address]
    reply = demo.dig(SERVICE, f"+subnet={subnet}")
    assert "status: NOERROR" in reply
    assert "flags: qr aa;" in reply
    assert f"CLIENT-SUBNET: {subnet}/" in reply


def test_a_and_aaaa_are_of_one_endpoint(demo: Node) -> None:
    for subnet in (GERMANY, BRAZIL, TELECOM):
        a, = demo.dig("+short", SERVICE, "A", f"+subnet={subnet}").split()
        aaaa, = demo.dig("+short", SERVICE, "AAAA", f"+subnet={subnet}").split()
        assert a.rpartition(".")[2] == aaaa.rpartition(":")[2]


def test_equals_share_by_weight_and_a_client_block_keeps_its_endpoint(demo: Node) -> None:
    subnets = [ip_network((i << 8 | 0x0B000000, 24)) for i in range(3000)]
    new = Counter(answer.addresses for answer in ask(
        demo.port, [Question("canary.demo.example", "A", subnet) for subnet in subnets]))
    assert 0.07 < new["203.0.113.2",] / len(subnets) < 0.13
    virginia = [ip_network((i << 8 | 0x80650000, 24)) for i in range(256)]
    for _ in range(3):  # the window may end between two questions
        pairs = [ask(demo.port, [Question(SERVICE, kind, subnet) for kind in ("A", "AAAA")]) for subnet in virginia]
        ends = [(a.addresses[0].rpartition(".")[2], aaaa.addresses[0].rpartition(":")[2]) for a, aaaa in pairs]
        if all(a == aaaa for a, aaaa in ends):
            break
    else:
        pytest.fail(f"A and AAAA of one client are of different endpoints: {ends}")
    assert {a for a, _ in ends} >= {"11", "12"}, "both endpoints of the nearest site are drawn"


@pytest.mark.parametrize(("words", "status", "holds"), [
    (["demo.example", "SOA"], "NOERROR", "ns1.demo.example. hostmaster.demo.example. 2026112201"),
    (["demo.example", "MX"], "NOERROR", "10 mx1.mail.demo.example."),
    (["www.demo.example", "A"], "NOERROR", "192.0.2.81"),
    (["app.demo.example", "A", f"+subnet={GERMANY}"], "NOERROR", FRANKFURT),
    (["any.thing.wild.demo.example", "A"], "NOERROR", "192.0.2.99"),
    (["here.wild.demo.example", "TXT"], "NOERROR", "SOA"),
    (["b.demo.example", "A"], "NOERROR", "SOA"),
    ([SERVICE, "TXT"], "NOERROR", "addresses chosen per client"),
    ([SERVICE, "MX"], "NOERROR", "SOA"),
    (["nosuch.demo.example", "A"], "NXDOMAIN", "SOA"),
    (["host.child.demo.example", "A"], "NOERROR", "ns.child.demo.example."),
    (["future.demo.example", "TYPE65534"], "NOERROR", "\\# 4 0A000001"),
    (["host-5.demo.example", "A"], "NOERROR", "192.0.2.105"),
    (["mx1.mail.demo.example", "AAAA"], "NOERROR", "2001:db8::25"),
    (["elsewhere.example", "A"], "REFUSED", ""),
])
def test_every_kind_of_name(demo: Node, words: list[str], status: str, holds: str) -> None:
    reply = demo.dig(*words)
    assert f"status: {status}" in reply
    assert holds in reply


def test_explain_says_what_dig_sees(demo: Node) -> None:
    for subnet in (GERMANY, BRAZIL, TELECOM, "240.0.0.0/24"):
        told = json.loads(demo.cli("explain", SERVICE, "--subnet", subnet, "--json").stdout)
        assert told["addresses"] == demo.dig("+short", SERVICE, f"+subnet={subnet}").split()
        scope = f"CLIENT-SUBNET: {subnet}/{told['scope']}"
        assert scope in demo.dig(SERVICE, f"+subnet={subnet}")


def test_a_registered_instance_is_answered_at_once_and_gone_when_released(demo: Node) -> None:
    lease = _acquire(demo, "berlin-1", "198.51.100.42", ttl=60)
    demo.wait_version(lease["version"])
    seen = {_from(demo, f"141.20.{i}.0/24") for i in range(40)}
    assert seen == {FRANKFURT, "198.51.100.42"}
    assert demo.api("DELETE", f"/v1/leases/{lease['id']}?fence={lease['fence'] - 1}").status == 409
    released = demo.api("DELETE", f"/v1/leases/{lease['id']}?fence={lease['fence']}")
    assert released.status == 200
    demo.wait_version(released.body["version"])
    assert {_from(demo, f"141.20.{i}.0/24") for i in range(40)} == {FRANKFURT}


def test_an_instance_that_stops_renewing_is_gone_a_second_after_its_deadline(demo: Node) -> None:
    lease = _acquire(demo, "berlin-2", "198.51.100.43", ttl=2)
    deadline = time.monotonic() + 2.0
    demo.wait_version(lease["version"])
    for _ in range(3):
        time.sleep(0.7)
        renewed = demo.api("PUT", f"/v1/leases/{lease['id']}", {"fence": lease["fence"], "loads": {}})
        deadline = time.monotonic() + 2.0
        assert renewed.status == 200
    assert "198.51.100.43" in {_from(demo, f"141.20.{i}.0/24") for i in range(40)}
    while time.monotonic() < deadline - 0.3:
        assert demo.api("GET", f"/v1/leases/{lease['id']}").status == 200
        time.sleep(0.1)
    until(lambda: "198.51.100.43" not in {_from(demo, f"141.20.{i}.0/24") for i in range(12)},
          deadline + 1.0 - time.monotonic(), "the endpoint is gone a second after its deadline")
    late = demo.api("PUT", f"/v1/leases/{lease['id']}", {"fence": lease["fence"], "loads": {}})
    assert late.status == 404


def test_the_same_holder_again_gets_a_higher_fence_and_the_old_one_is_refused(demo: Node) -> None:
    first = _acquire(demo, "berlin-3", "198.51.100.44", ttl=60)
    second = _acquire(demo, "berlin-3", "198.51.100.45", ttl=60)
    assert second["fence"] > first["fence"]
    assert demo.api("PUT", f"/v1/leases/{first['id']}", {"fence": first["fence"], "loads": {}}).status == 409
    demo.wait_version(second["version"])
    seen = {_from(demo, f"141.20.{i}.0/24") for i in range(40)}
    assert "198.51.100.45" in seen
    assert "198.51.100.44" not in seen
    assert demo.api("DELETE", f"/v1/leases/{second['id']}?fence={second['fence']}").status == 200


def test_an_override_takes_a_site_out_and_ends_by_itself(demo: Node) -> None:
    override = {"target": "site", "name": "gcp-europe-west3", "state": "down", "seconds": 2, "reason": "works"}
    written = demo.api("PUT", "/v1/overrides/site:gcp-europe-west3", override)
    assert written.status in (200, 201), written
    demo.wait_version(written.body["version"])
    assert _from(demo, GERMANY) != FRANKFURT
    told = demo.api("GET", f"/v1/explain?name={SERVICE}&type=A&subnet={GERMANY}").body
    assert "works" in json.dumps(told)
    until(lambda: _from(demo, GERMANY) == FRANKFURT, 4.0, "the override has ended")


def test_what_was_written_is_in_the_audit(demo: Node) -> None:
    entries, after = [], ""
    while True:
        page = demo.api("GET", f"/v1/audit?page_size=1000{after}").body
        entries += page["items"]
        if not page.get("next_page_token"):
            break
        after = f"&page_token={page['next_page_token']}"
    keys = [(entry["action"], entry["key"]) for entry in entries]
    assert ("acquire", "berlin-1") in keys
    assert ("release", "berlin-1") in keys
    assert ("expire", "berlin-2") in keys
    versions = [entry["version"] for entry in entries]
    assert len(set(versions)) == len(versions) or sorted(versions) == versions


def test_bad_input_names_every_fault(demo: Node) -> None:
    endpoint = {"id": "Bad Id", "service": SERVICE, "site": "nowhere", "a": "1.2.3"}
    reply = demo.api("POST", "/v1/leases", {"holder": "x", "ttl": 1, "endpoints": [endpoint]})
    assert reply.status == 422
    assert {fault["pointer"] for fault in reply.body["faults"]} >= {"/ttl", "/endpoints/0/id", "/endpoints/0/a"}
    assert demo.api("GET", "/v1/sites", token="dnsd_x_" + "0" * 64).status == 401


def test_metrics_count_what_was_answered(demo: Node) -> None:
    def count(name: str) -> float:
        text = demo.api("GET", "/metrics").body
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = count("dnsd_queries_total")
    for i in range(10):
        _from(demo, f"141.20.{i}.0/24")
    assert count("dnsd_queries_total") == before + 10


def _acquire(node: Node, holder: str, address: str, ttl: int) -> dict[str, object]:
    endpoint = {"id": holder, "service": SERVICE, "site": "gcp-europe-west3", "a": address}
    reply = node.api("POST", "/v1/leases", {"holder": holder, "ttl": ttl, "endpoints": [endpoint]})
    assert reply.status == 201, reply
    body: dict[str, object] = reply.body
    return body


def _from(node: Node, subnet: str) -> str:
    return node.dig("+short", SERVICE, f"+subnet={subnet}").strip()
