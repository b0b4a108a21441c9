"""Capture on a real node: the query log through a rotation, dnstap into fstrm_capture, who comes and goes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dnstap_pb
import fstrm
import pytest

from tests.node import Node, until

NAMES = ["static.demo.example", "nosuch.demo.example", 'a\\"b\\010c.demo.example', "other.example"]
ENTRIES = {("udp", "NOERROR"), ("udp", "NXDOMAIN"), ("udp", "REFUSED"), ("tcp", "NOERROR")}


def ask(node: Node) -> None:
    """One query for each name, and one over TCP."""
    for name in NAMES:
        node.dig(name, "A", "+subnet=203.0.113.77/32")
    node.dig("static.demo.example", "A", "+tcp")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()] if path.exists() else []


@contextmanager
def collector(folder: Path, sock: Path) -> Iterator[Path]:
    """fstrm_capture, the reference collector, until the end of the block."""
    file = folder / f"frames-{len(list(folder.iterdir()))}"
    sock.unlink(missing_ok=True)
    process = subprocess.Popen(
        ["fstrm_capture", "-t", "protobuf:dnstap.Dnstap", "-u", str(sock), "-w", str(file)], stderr=subprocess.DEVNULL)
    try:
        yield file
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def taps(file: Path) -> list[dnstap_pb.Dnstap]:
    """Every dnstap frame of a closed file."""
    codec, found, kinds = fstrm.FstrmCodec(), [], []
    codec.append(file.read_bytes())
    while codec.process():
        kind, _, payload = codec.decode()
        kinds.append(kind)
        if kind == fstrm.FSTRM_DATA_FRAME:
            found.append(dnstap_pb.Dnstap.FromString(payload))
    assert codec.buf == b""
    assert (kinds[0], kinds[-1]) == (fstrm.FSTRM_CONTROL_START, fstrm.FSTRM_CONTROL_STOP)
    return found


def test_the_query_log(node: Callable[..., Node], tmp_path: Path) -> None:
    log = tmp_path / "queries"
    one = node(more=f'[capture]\nlog = "{log}"\nevery = 1\n')
    until(log.exists, 10, "the log")
    ask(one)
    until(lambda: len(lines(log)) == len(NAMES) + 1, 10, "a line for each query")
    found = lines(log)
    assert {(each["transport"], each["rcode"]) for each in found} == ENTRIES
    assert {each["client"] for each in found} == {"127.0.0.0/24"}
    assert {each["ecs"] for each in found} == {"203.0.113.0/24", None}
    assert [each["qname"] for each in found][2] == NAMES[2] + "."
    assert found[0]["answers"] == found[-1]["answers"] == ["A 192.0.2.81"]
    log.rename(tmp_path / "queries.1")
    assert one.process is not None
    os.kill(one.process.pid, signal.SIGHUP)
    until(log.exists, 10, "a new log")
    one.dig("static.demo.example", "A")
    until(lambda: len(lines(log)) == 1, 10, "a line in the new log")
    assert len(lines(tmp_path / "queries.1")) == len(NAMES) + 1
    scraped = one.api("GET", "/metrics").body
    assert f"\ndnsd_capture_log_total {len(NAMES) + 2}\n" in scraped
    assert '\ndnsd_capture_total{outcome="dropped",worker="0"} 0\n' in scraped


def test_one_in_n(node: Callable[..., Node], tmp_path: Path) -> None:
    """Each worker counts for itself; all queries of one port reach the same."""
    log = tmp_path / "queries"
    one = node(workers=2, more=f'[capture]\nlog = "{log}"\nevery = 7\nclients = "full"\n')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", one.port))
        port = sock.getsockname()[1]
        for number in range(140):
            sock.send(dns.message.make_query("static.demo.example", "A", id=number).to_wire())
            sock.recv(2000)
    until(lambda: len(lines(log)) == 20, 10, "every seventh")
    assert {(each["client"], each["port"], each["every"]) for each in lines(log)} == {("127.0.0.1", port, 7)}


@pytest.mark.needs("fstrm_capture")
def test_dnstap_into_a_collector_that_comes_and_goes(node: Callable[..., Node], tmp_path: Path) -> None:
    sock = tmp_path / "s"
    one = node(more=f'[capture]\ndnstap = "unix:{sock}"\nevery = 1\nclients = "full"\n')

    def problems() -> list[str]:
        return [text for text in one.api("GET", "/readyz").body["conditions"] if text.startswith("capture")]

    until(lambda: problems() == [f"capture: unix:{sock}: no collector listens there"], 10, "it says so")
    ask(one)
    for _ in range(2):
        with collector(tmp_path, sock) as file:
            until(lambda: not problems(), 10, "connected")
            before = one.api("GET", "/v1/status").body["capture"]["dnstap"]["taken"]
            ask(one)
            done = before + len(NAMES) + 1
            until(lambda: one.api("GET", "/v1/status").body["capture"]["dnstap"]["taken"] == done, 10, "taken")  # noqa: B023
        found = taps(file)
        assert len(found) == 2 * (len(NAMES) + 1)
        check(one, found)
        until(problems, 10, "the collector is missed")
    assert one.api("GET", "/v1/status").body["capture"]["dnstap"]["dropped"] >= len(NAMES) + 1
    assert one.dig("+short", "static.demo.example").split() == ["192.0.2.81"]


def test_dnstap_into_a_file(node: Callable[..., Node], tmp_path: Path) -> None:
    file = tmp_path / "frames"
    one = node(more=f'[capture]\ndnstap = "{file}"\nevery = 1\nclients = "full"\n')
    until(file.exists, 10, "the file")
    ask(one)
    until(lambda: one.api("GET", "/v1/status").body["capture"]["dnstap"]["taken"] == len(NAMES) + 1, 10, "taken")
    one.stop()
    check(one, taps(file))


def check(node: Node, found: list[dnstap_pb.Dnstap]) -> None:
    """Pairs of query and answer, as dig asked and was answered."""
    for asked, answered in zip(found[::2], found[1::2], strict=True):
        assert asked.identity.decode() == node.settings["node"]
        assert asked.message.type == dnstap_pb.Message.AUTH_QUERY
        assert answered.message.type == dnstap_pb.Message.AUTH_RESPONSE
        query = dns.message.from_wire(asked.message.query_message)
        assert query.is_response(dns.message.from_wire(answered.message.response_message))
        for tap in (asked, answered):
            assert tap.message.query_address == tap.message.response_address == bytes((127, 0, 0, 1))
            assert tap.message.response_port == node.port
            assert tap.message.query_port > 0
    assert [tap.message.socket_protocol for tap in found[::2]] == [dnstap_pb.UDP] * len(NAMES) + [dnstap_pb.TCP]
    assert str(dns.message.from_wire(found[4].message.query_message).question[0].name) == NAMES[2] + "."
