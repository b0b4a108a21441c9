"""Knot and NSD on a loopback port, and many questions to a port at once.

Lives here: their settings, starting and ending them, a pipelined client. Does not live here: what is asked or expected.
"""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.node import free_port, until

SIZE: Final = 1232
_PATH: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin"
_PROBE: Final = b"\0\1\0\0\0\1\0\0\0\0\0\0\7example\3com\0\0\6\0\1"

_KNOT: Final = """\
server:
    rundir: "{home}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    udp-max-payload: {size}
    automatic-acl: off
database:
    storage: "{home}"
template:
  - id: default
    storage: "{home}"
    zonefile-load: whole
    zonefile-sync: -1
    journal-content: none
zone:
"""
_NSD: Final = """\
server:
    server-count: 1
    ip-address: 127.0.0.1@{port}
    do-ip6: no
    username: ""
    chroot: ""
    zonesdir: "{home}"
    database: ""
    pidfile: "{home}/nsd.pid"
    xfrdfile: "{home}/xfrd.state"
    xfrdir: "{home}"
    zonelistfile: "{home}/zone.list"
    logfile: "{home}/nsd.log"
    ipv4-edns-size: {size}
    minimal-responses: yes
    refuse-any: yes
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    answer-cookie: no
remote-control:
    control-enable: no
"""


@contextmanager
def neighbour(kind: str, zones: Mapping[str, str], home: Path) -> Iterator[int]:
    """`knot` or `nsd` serving these master files; its port. What it said is shown when it does not come up."""
    home.mkdir()
    port = free_port()
    files = {}
    for name, text in zones.items():
        files[name] = home / f"{name}zone"
        files[name].write_text(text, encoding="latin-1")
    config = home / "conf"
    settings = (_KNOT if kind == "knot" else _NSD).format(home=home, port=port, size=SIZE)
    entry = "  - domain: {}\n    file: {}\n" if kind == "knot" else "zone:\n    name: {}\n    zonefile: {}\n"
    config.write_text(settings + "".join(entry.format(name, file) for name, file in files.items()), encoding="utf-8")
    program = shutil.which("knotd" if kind == "knot" else "nsd", path=_PATH)
    assert program is not None
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, *([] if kind == "knot" else ["-d"]), "-c", str(config)],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _serves(port), 20, f"{kind} serves")
        said = "".join(file.read_text(errors="replace") for file in (home / "log", home / "nsd.log") if file.exists())
        assert process.poll() is None, said
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _serves(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        with suppress(OSError):
            sock.sendto(_PROBE, ("127.0.0.1", port))
            return sock.recv(512)[3] & 15 == 0
    return False


def ask_udp(port: int, packets: Sequence[bytes], window: int = 128) -> list[bytes | None]:
    """The answers of the server at that port, in the order of the packets; None where three tries brought none."""
    answers: list[bytes | None] = [None] * len(packets)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        for start in range(0, len(packets), window):
            waiting = set(range(start, min(start + window, len(packets))))
            for _ in range(3):
                for number in waiting:
                    sock.send((number % window).to_bytes(2, "big") + packets[number][2:])
                while waiting and select.select([sock], [], [], 0.5)[0]:
                    with suppress(BlockingIOError):
                        data = sock.recv(65535)
                        number = start + int.from_bytes(data[:2], "big")
                        if number in waiting:
                            answers[number] = packets[number][:2] + data[2:]
                            waiting.discard(number)
                if not waiting:
                    break
    return answers


def ask_tcp(port: int, packets: Sequence[bytes], window: int = 50) -> list[bytes | None]:
    """As `ask_udp` over TCP, `window` queries pipelined on a connection; None where the connection ended first."""
    answers: list[bytes | None] = [None] * len(packets)
    for start in range(0, len(packets), window):
        part = packets[start : start + window]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"".join(
                (len(p)).to_bytes(2, "big") + number.to_bytes(2, "big") + p[2:] for number, p in enumerate(part)))
            for _ in part:
                head = stream.read(2)
                if len(head) < 2:
                    break
                data = stream.read(int.from_bytes(head, "big"))
                number = int.from_bytes(data[:2], "big")
                answers[start + number] = part[number][:2] + data[2:]
    return answers
