"""The verb `registry`: what to do about a registry whose state is in doubt.

Lives here: status, accept, restore. Does not live here: fleet state (`fleet`, `apply`), judging (the daemon does).

Both ways act on the state that was just looked at: if the registry has another one by then, nothing happens (exit
code 5).
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dnsd.cli.display import pairs, show
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

app = typer.Typer(no_args_is_help=True, help="a registry whose state is in doubt: look, accept it, or restore it")

Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


@app.command("status")
@command
def status(session: Session) -> None:
    """Whether the registry is followed, away or held off, and what would be lost with it; exit code 1 if it is held."""
    told = session.admin().call("GET", "/v1/registry").body
    show(told, as_json=session.as_json, human=_human)
    if told["state"] == "held":
        raise typer.Exit(Exit.FAILED)


@app.command("accept")
@command
def accept(session: Session, yes: Yes = False) -> None:
    """Take what the registry has in place of what is served, on all nodes; or say that an alarm was seen."""
    _settle(session, "accept", "Take what the registry has, and lose what it lacks?", yes=yes)


@app.command("restore")
@command
def restore(session: Session, yes: Yes = False) -> None:
    """Write what this node serves back into the registry, for all nodes to go on with."""
    _settle(session, "restore", "Write what this node serves back into the registry?", yes=yes)


def _settle(session: Session, verb: str, question: str, *, yes: bool) -> None:
    admin = session.admin()
    told = admin.call("GET", "/v1/registry").body
    if not told["etag"]:
        raise Failure(Exit.PRECONDITION, f"the registry is {told['state']}: there is nothing to {verb}")
    if not yes:
        if not sys.stdin.isatty():
            raise Failure(Exit.USAGE, "nobody to ask; say --yes, or look with `dnsd registry status`")
        print(_human(told), file=sys.stderr)
        if not typer.confirm(question, err=True):
            raise Failure(Exit.FAILED, "nothing was changed")
    done = admin.call("POST", f"/v1/registry/{verb}", etag=f'"{told["etag"]}"').body
    show(done, as_json=session.as_json, human=pairs)


def _human(told: dict[str, Any]) -> str:
    return pairs({key: value for key, value in told.items() if value not in ("", [], None)})
