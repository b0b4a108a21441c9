"""`dnsd cookies`: the secrets of DNS cookies, and replacing one while every node goes on answering.

Lives here: verbs. Does not live here: what a step does (`cookiefile`), when workers notice (`serve.secrets`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from dnsd import cookiefile
from dnsd.cli.display import show, table
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command
from dnsd.dns.cookies import SECRET_SIZE

app = typer.Typer(no_args_is_help=True, help="the secrets of DNS cookies")

_STANDARD_INPUT = "-"
File = Annotated[Path | None, typer.Option("--file", help="the secrets; else the file of the settings")]


@app.command("show")
@command
def show_secrets(session: Session, file: File = None) -> None:
    """The secrets' modes and fingerprints: the same on every node of an address."""
    with _faults():
        _print(session, cookiefile.load(_path(session, file)))


@app.command("add")
@command
def add(
    session: Session,
    secret: Annotated[str, typer.Argument(metavar="[SECRET]", help="32 hexadecimal digits, - for standard input; "
                                                                   "left out: a random one, which is printed")] = "",
    file: File = None,
) -> None:
    """Step 1, on each node: stage a secret, which is believed from then on."""
    text = sys.stdin.read().strip() if secret == _STANDARD_INPUT else secret or os.urandom(SECRET_SIZE).hex()
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) != SECRET_SIZE:
        raise Failure(Exit.USAGE, f"a secret has {2 * SECRET_SIZE} hexadecimal digits")
    _step(session, file, lambda secrets: cookiefile.added(secrets, octets), made="" if secret else text)


@app.command("activate")
@command
def activate(session: Session, file: File = None) -> None:
    """Step 2, when each node has it: use the staged secret; the one used so far is still believed."""
    _step(session, file, cookiefile.activated)


@app.command("drop")
@command
def drop(session: Session, file: File = None) -> None:
    """Step 3, an hour after each node has activated: forget the old secret. Without one: the staged secret."""
    _step(session, file, cookiefile.dropped)


def _step(session: Session, file: Path | None, change: Callable[[cookiefile.Entries], cookiefile.Entries], *,
          made: str = "") -> None:
    path = _path(session, file)
    with _faults():
        secrets = change(cookiefile.load(path))
        cookiefile.store(path, secrets)
    _print(session, secrets, made)


def _path(session: Session, file: Path | None) -> Path:
    path = file or session.config().cookie_file
    if path is None:
        raise Failure(Exit.CONFIG_INVALID, "cookies are off in the settings")
    return path


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except cookiefile.StepError as error:
        raise Failure(Exit.PRECONDITION, str(error)) from error
    except (OSError, ValueError) as error:
        raise Failure(Exit.FAILED, f"the secrets cannot be used: {error}") from error


def _print(session: Session, secrets: cookiefile.Entries, made: str = "") -> None:
    """Modes and fingerprints, and a secret only if it was made here: it must get to the other nodes."""
    rows = [{"mode": mode, "fingerprint": sha256(secret).hexdigest()[:16]} for mode, secret in secrets]
    found: dict[str, Any] = {"secrets": rows} | ({"made": made} if made else {})
    text = table(((row["mode"], row["fingerprint"]) for row in rows), ("mode", "fingerprint"))
    show(found, as_json=session.as_json, human=lambda _: f"{text}\n\nmade {made}" if made else text)
