"""The capture thread: from a worker's socket to the files, at its pace, through rotation and the end."""

from __future__ import annotations

import builtins
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.message
import pytest

from dnsd.control import dnstap, tap
from dnsd.image import samples
from dnsd.image.samples import Address, Origin, Sample
from tests.node import until

ORIGIN = Origin(10, 0, samples.UDP, 1_700_000_000 * 10**9, Address(bytes(4), 53))
QUERY = dns.message.make_query("www.example.com", "A").to_wire()
SAMPLE = Sample(Address(bytes((192, 0, 2, 1)), 99), QUERY, b"")


class Rig:
    def __init__(self, **settings: Any) -> None:
        ours, self.worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.worker.settimeout(5)
        self.capture = tap.Capture(ours, tap.outlets(tap.CaptureSettings(**settings), "n1"))
        self.capture.start()

    def send(self, number: int = 1) -> None:
        self.worker.send(samples.encode(ORIGIN, [SAMPLE] * number))

    def told(self) -> Mapping[str, Any]:
        return self.capture.described()["log"]


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**settings: Any) -> Rig:
        made.append(Rig(**settings))
        return made[-1]

    yield make
    for one in made:
        one.capture.close()
        one.worker.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def test_samples_become_lines(rig: Callable[..., Rig], tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = rig(log=log)
    until(lambda: log.exists(), 5, "the file")
    one.send(3)
    until(lambda: len(lines(log)) == 3, 5, "three lines")
    assert lines(log)[0]["client"] == "192.0.2.0/24"
    assert lines(log)[0]["every"] == 10
    log.rename(tmp_path / "log.1")
    one.capture.reopen()
    until(lambda: log.exists(), 5, "a new file")
    one.worker.send(b"no packet of ours")
    one.send()
    until(lambda: len(lines(log)) == 1, 5, "a line in it")
    assert one.told() == {"to": str(log), "taken": 4, "dropped": 0, "problem": None}


def test_both_at_once_and_the_end(rig: Callable[..., Rig], tmp_path: Path) -> None:
    log, frames = tmp_path / "log", tmp_path / "tap"
    one = rig(log=log, dnstap=str(frames), clients="full")
    until(lambda: log.exists() and frames.exists(), 5, "the files")
    one.send(2)
    one.capture.close()
    assert [each["client"] for each in lines(log)] == ["192.0.2.1"] * 2
    data = frames.read_bytes()
    assert data.startswith(dnstap.START)
    assert data.endswith(dnstap.STOP)
    assert data.count(QUERY) == 2


def test_the_pace(rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "RATE", 50)
    monkeypatch.setattr(tap, "BURST", 10)
    log = tmp_path / "log"
    one = rig(log=log)
    until(lambda: log.exists(), 5, "the file")
    one.worker.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while sent < 10_000:
            one.send()
            sent += 1
    assert len(lines(log)) < sent < 10_000
    until(lambda: len(lines(log)) > 10, 5, "it goes on at its pace")


def test_the_workers_are_gone(rig: Callable[..., Rig], tmp_path: Path) -> None:
    one = rig(log=tmp_path / "log")
    until(lambda: (tmp_path / "log").exists(), 5, "the file")
    one.send()
    one.worker.close()
    until(lambda: len(lines(tmp_path / "log")) == 1, 5, "the last line")


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    honest = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "dnsd.control" and "dnstap" in (rest[2] or ()):
            raise ModuleNotFoundError("No module named 'fstrm'")
        return honest(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert set(tap.outlets(tap.CaptureSettings(log=tmp_path / "log"), "n1")) == {"log"}
    with pytest.raises(ImportError, match="fstrm"):
        tap.outlets(tap.CaptureSettings(dnstap="unix:/nowhere"), "n1")
