"""The verbs on a node as a whole: serve, check, reload, drain, version.

Lives here: what each does and prints. Does not live here: the doing (`supervisor`, `config`, `control.zones`, the API).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnsd import __version__, disk, model
from dnsd.cli.display import show
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

if TYPE_CHECKING:
    from dnsd.options import Config


@command
def serve(session: Session) -> None:
    """Run the daemon in the foreground: SIGHUP reloads, SIGTERM drains, SIGINT stops."""
    config = session.config()
    # What was served before is served at once, also with a faulty zone: control reads zones and names their faults.
    faults = [] if (config.state / disk.IMAGE).exists() else zone_faults(config)
    if faults:
        raise Failure(Exit.CONFIG_INVALID, "a zone is not usable", faults)
    from dnsd import supervisor
    from dnsd.engine import finding

    try:
        problem = finding.find(config.engine).problem
    except finding.NoEngineError as error:
        raise Failure(Exit.CONFIG_INVALID, f"engine: {error}") from None
    if problem:
        print(f"dnsd: {problem}: Python answers every query", file=sys.stderr, flush=True)
    raise typer.Exit(supervisor.run(config))


@command
def check(session: Session) -> None:
    """Read settings and zones as `serve` would, and name everything that is wrong with them."""
    config = session.config()
    faults = zone_faults(config)
    if faults:
        raise Failure(Exit.CONFIG_INVALID, "a zone is not usable", faults)
    zones = [zone.name for zone in config.zones]
    text = f"{session.config_path}: good; zones: {', '.join(zones) or 'none'}"
    show({"settings": str(session.config_path), "zones": zones}, as_json=session.as_json, human=lambda _: text)


@command
def reload(session: Session) -> None:
    """Have the daemon read its zone files again; a bad one leaves what was served."""
    reply = session.admin().ask("POST", "/v1/reload")
    body = reply.body if isinstance(reply.body, dict) else {}
    faults = reply.faults()
    if faults:
        raise Failure(Exit.CONFIG_INVALID, "nothing was changed", faults)
    if reply.status >= 300:
        raise Failure(Exit.FAILED, f"reload: {body.get('title') or reply.status}: {body.get('detail', '')}")
    show(body, as_json=session.as_json, human=lambda _: "reloaded")


@command
def drain(
    session: Session, wait: Annotated[float, typer.Option(help="seconds to wait until it has gone; 0: do not")] = 60.0,
) -> None:
    """Have this machine's daemon finish what it has begun and leave: what SIGTERM does."""
    state = session.config().state
    pid = _holder(state)
    if pid is None:
        raise Failure(Exit.UNREACHABLE, f"no daemon holds {state / disk.LOCK}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + wait
    while wait > 0 and _holder(state) == pid:
        if time.monotonic() > deadline:
            raise Failure(Exit.FAILED, f"the daemon (process {pid}) is still there after {wait:g} s")
        time.sleep(0.05)
    show({"pid": pid, "gone": wait > 0}, as_json=session.as_json, human=lambda _: f"process {pid} drained")


@command
def version(session: Session) -> None:
    """Which dnsd this is."""
    from dnsd.engine import finding

    found = {"dnsd": __version__, "python": sys.version.split()[0],
             "engine": "compiled" if finding.find(finding.AUTO).door else "python"}
    text = f"dnsd {__version__} (python {found['python']}, {found['engine']} engine)"
    show(found, as_json=session.as_json, human=lambda _: text)


def zone_faults(config: Config) -> list[model.Fault]:
    """Everything wrong with the zone files of the settings; a daemon with none of it starts."""
    from dnsd.control.zones import Zones

    return Zones([(zone.name, zone.file) for zone in config.zones]).read()[1]


def _holder(state: Path) -> int | None:
    """The process that holds the state directory's lock; None when nobody does. Asking holds it for a moment."""
    import fcntl

    try:
        with (state / disk.LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read(32))
    except (OSError, ValueError):
        return None
    return None
