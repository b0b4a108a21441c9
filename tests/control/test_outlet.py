"""Outlets: lines and frames stay whole through full pipes, full disks and collectors that come and go."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import fstrm
import pytest

from dnsd.control import dnstap, outlet
from dnsd.control.outlet import Collector, File

RETRY = outlet.RETRY_S


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    one = File(path)
    one.put(b"too early\n")
    one.turn(0)
    one.put(b"a line\n")
    one.put(b"another\n")
    one.turn(0)
    assert path.read_text() == "before\na line\nanother\n"
    assert one.described() == {"to": str(path), "taken": 2, "dropped": 1, "problem": None}
    one.close()


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = File(path)
    one.turn(0)
    one.put(b"first\n")
    one.turn(0)
    path.rename(tmp_path / "log.1")
    one.put(b"second\n")
    one.reopen()
    one.turn(0)
    one.put(b"third\n")
    one.close()
    assert (tmp_path / "log.1").read_text() == "first\nsecond\n"
    assert path.read_text() == "third\n"
    assert path.stat().st_mode & 0o007 == 0
    assert (one.taken, one.dropped) == (3, 0)


def test_a_folder_that_is_not_there_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = File(tmp_path / "logs" / "log")
    for now in (0.0, RETRY / 2, RETRY, 2 * RETRY):
        one.turn(now)
        one.put(b"lost\n")
    assert one.described() == {
        "to": str(tmp_path / "logs" / "log"), "taken": 0, "dropped": 4, "problem": "No such file or directory"}
    assert len(caplog.records) == 1, "said once"
    (tmp_path / "logs").mkdir()
    one.turn(2.5 * RETRY)
    assert one.problem
    one.turn(3 * RETRY)
    assert one.problem == ""
    one.close()


def test_a_full_pipe_keeps_lines_whole(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    one = File(path)
    one.turn(0)
    line = b"x" * 4999 + b"\n"
    for _ in range(400):
        one.put(line)
    assert 0 < one.dropped < 400
    got = b""
    for _ in range(100):
        one.turn(0)
        try:
            got += os.read(reader, 1 << 20)
        except BlockingIOError:
            break
    assert got == line * one.taken
    os.close(reader)
    one.put(line)
    one.turn(RETRY)
    assert one.problem == "Broken pipe"
    assert one.taken + one.dropped == 401
    assert one.fd < 0
    one.close()


def test_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    one = File(Path("/dev/full"))
    one.turn(0)
    for _ in range(3):
        one.put(b"line\n")
        one.turn(0)
    assert one.problem == "No space left on device"
    assert len(caplog.records) == 1
    assert one.wants == 0
    one.close()
    assert (one.taken, one.dropped) == (0, 3)


def test_a_file_of_frames_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "tap"
    for run in (b"one", b"two"):
        one = File(path, begin=b"<", end=b">")
        one.turn(0)
        one.put(run)
        one.reopen()
        one.turn(0)
        one.put(run + b" again")
        one.close()
    kept = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    assert len({name for name, _ in kept}) == len(kept)
    assert sorted(data for _, data in kept) == [b"<one again>", b"<one>", b"<two again>", b"<two>"]
    assert path.read_bytes() == b"<two again>"


class Listener:
    """The collector's side, driven by the test."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(str(path))
        self.sock.listen()

    def accept(self) -> socket.socket:
        peer, _ = self.sock.accept()
        peer.settimeout(2)
        assert peer.recv(4096) == dnstap.READY
        return peer


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path / "sock")
    yield made
    made.sock.close()


def collector(path: Path) -> Collector:
    return Collector(
        str(path), ready=dnstap.READY, start=dnstap.START, stop=dnstap.STOP, handshake=dnstap.Accepting)


ACCEPT = fstrm.FstrmCodec().encode_ctrlaccept(dnstap.CONTENT)


def test_the_handshake_octet_by_octet(listener: Listener, tmp_path: Path) -> None:
    one = collector(tmp_path / "sock")
    one.turn(0)
    peer = listener.accept()
    for octet in ACCEPT:
        one.put(b"too early")
        peer.send(bytes([octet]))
        one.turn(0)
    one.put(b"frame")
    one.turn(0)
    one.close()
    got = b"".join(iter(lambda: peer.recv(4096), b""))
    assert got == dnstap.START + b"frame" + dnstap.STOP
    assert (one.taken, one.dropped) == (1, len(ACCEPT))
    peer.close()


@pytest.mark.parametrize(("answer", "why"), [
    (fstrm.FstrmCodec().encode_ctrlaccept(b"protobuf:other"), "does not accept dnstap"),
    (dnstap.READY, "does not accept dnstap"), (b"HTTP/1.1 400 Bad Request\r\n" * 300, "handshake does not end"),
    (b"\0\0\0\0\0\0\0\2xx", "speaks no Frame Streams"), (b"", "has left"),
])
def test_those_that_are_no_collectors(listener: Listener, tmp_path: Path, answer: bytes, why: str) -> None:
    one = collector(tmp_path / "sock")
    one.turn(0)
    peer = listener.accept()
    peer.sendall(answer)
    peer.close()
    one.turn(0)
    assert why in one.problem
    assert one.fd < 0
    one.turn(RETRY)
    listener.accept().close()
    one.close()


def test_one_that_does_not_answer(listener: Listener, tmp_path: Path) -> None:
    one = collector(tmp_path / "sock")
    one.turn(0)
    peer = listener.accept()
    one.turn(outlet.HELLO_S)
    assert not one.problem
    one.turn(outlet.HELLO_S + 0.1)
    assert "does not answer" in one.problem
    one.close()
    peer.close()


def test_one_that_stalls_and_leaves_and_comes_back(listener: Listener, tmp_path: Path) -> None:
    one = collector(tmp_path / "sock")
    one.turn(0)
    assert one.problem == ""
    peer = listener.accept()
    peer.sendall(ACCEPT)
    one.turn(0)
    frame = b"f" * 10_000
    for _ in range(300):
        one.put(frame)
        one.turn(0)
    assert one.dropped > 0
    assert one.wants
    peer.close()
    one.turn(0)
    assert one.problem
    assert one.taken + one.dropped == 300
    one.put(frame)
    assert one.dropped + one.taken == 301
    one.turn(RETRY)
    peer = listener.accept()
    peer.sendall(ACCEPT)
    one.turn(RETRY)
    assert one.problem == ""
    one.put(b"frame")
    one.turn(RETRY)
    assert peer.recv(4096) == dnstap.START + b"frame"
    one.close()
    peer.close()


def test_nobody_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = collector(tmp_path / "sock")
    for now in range(5):
        one.turn(now)
    assert one.problem == "no collector listens there"
    assert len(caplog.records) == 1
    one.close()
