"""A worker from outside: what it has loaded, what it holds in memory, that it connects to nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.node import DATA, Node, until
from tests.oracle.ask import Question, ask

ANONYMOUS_MIB = 40
OURS = {"answer", "chase", "choose", "context", "cookiefile", "disk", "dns", "engine", "image", "metrics", "model",
        "odd", "serve", "steer"}
THEIRS = {"siphash24", "uvloop"}
SPY = """\
import atexit, os, sys
def _tell():
    with open(os.path.join({folder!r}, str(os.getpid())), "w") as file:
        file.write("\\n".join(sorted(sys.modules)))
atexit.register(_tell)
"""


@pytest.fixture
def watched(node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Node, Path]:
    """A node whose processes write down their modules as they leave; it has the demo's fleet and has been asked."""
    folder = tmp_path / "modules"
    folder.mkdir()
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY.format(folder=str(folder)), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(spy))
    one = node(workers=2, more="drain_seconds = 0")
    one.apply()
    until(lambda: "CLIENT-SUBNET: 141.20.0.0/16/1" in one.dig("api.demo.example", "+subnet=141.20.0.0/16"), 30, "a map")
    clients = [ip_network(line.split(",")[0]) for line in
               (DATA / "clients" / "clients_v4.csv").read_text(encoding="utf-8").splitlines()[1:3001]]
    ask(one.port, [Question("api.demo.example", "A", client) for client in clients])
    return one, folder


def test_a_worker_is_small_and_alone(watched: tuple[Node, Path]) -> None:
    one, folder = watched
    for pid in one.children("serve.worker"):
        assert "guard_key" not in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"), "all may read it"
    workers = one.children("serve.worker")
    assert len(workers) == 2
    for pid in workers:
        anonymous = _anonymous_mib(pid)
        print(f"worker {pid}: {anonymous:.1f} MiB anonymous")
        assert anonymous <= ANONYMOUS_MIB
        assert not _connections(pid), "a worker has a connection to somewhere"
    assert one.stop() == 0
    for pid in workers:
        loaded = (folder / str(pid)).read_text(encoding="utf-8").split()
        ours = {name.split(".")[1] for name in loaded if name.startswith("dnsd.")}
        assert ours <= OURS, f"of ours it has loaded {sorted(ours - OURS)}"
        theirs = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"dnsd", "__main__"}
        # The interpreter's own start (site, .pth files of an editable install) is not the worker's doing, and Cython's
        # is uvloop's.
        own = ("sitecustomize", "_distutils", "__editable", "_cython", "cython_runtime")
        theirs = {name for name in theirs if not name.startswith(own)}
        assert theirs <= THEIRS, f"of others it has loaded {sorted(theirs - THEIRS)}"


def _anonymous_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Anonymous:"))) / 1024


def _connections(pid: int) -> list[str]:
    """Sockets of the process that are connected to an address (TCP established, UDP with a peer)."""
    mine = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.startswith("socket:["):
            mine.add(target[8:-1])
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in mine and fields[2].rpartition(":")[2] != "0000":
                found.append(line)
    return found
