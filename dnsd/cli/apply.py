"""`dnsd apply FILE`: fleet state from a file, shown before it is done, then all of it at once or nothing.

Lives here: reading the file, the preview, the question. Does not live here: what follows from the file: the daemon
works out the plan (`dry_run`), so the preview and the deed are the same code.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dnsd.cli.client import Admin
from dnsd.cli.display import show
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.fleet import read_object
from dnsd.cli.options import Session, command

_SIGNS = {"create": "+", "change": "~", "delete": "-"}


@command
def apply(
    session: Session,
    file: Annotated[str, typer.Argument(help="a .toml or .json file of sites, services, endpoints …; - is JSON")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would change")] = False,
    prune: Annotated[bool, typer.Option(help="delete what the file does not name, of the kinds it lists")] = False,
    force: Annotated[bool, typer.Option(help="delete more than 30 % of a kind all the same")] = False,
    if_empty: Annotated[bool, typer.Option("--if-empty", help="only if it has no site and no service yet")] = False,
    wait: Annotated[float, typer.Option(help="seconds to wait until every worker serves it; 0: do not wait")] = 10.0,
) -> None:
    """Make the registry hold what a file says: all of it, or nothing."""
    fleet, admin = read_object(file), session.admin()
    if if_empty and any(_some(admin, kind) for kind in ("sites", "services")):
        return
    query = {"prune": "true" if prune else None, "force": "true" if force else None}
    plan = admin.call("POST", "/v1/apply", body=fleet, query={"dry_run": "true", **query}).body
    if dry_run or not plan["steps"]:
        show(plan, as_json=session.as_json, human=preview)
        return
    if not yes:
        _ask(plan)
    done = admin.call("POST", "/v1/apply", body=fleet, query={"if_version": plan["version"], **query}).body
    live = wait <= 0 or admin.wait_version(done["version"], wait)
    show(done, as_json=session.as_json, human=preview)
    if not live:
        raise Failure(Exit.FAILED, f"accepted as version {done['version']}, but not on every worker after {wait:g} s")


def _some(admin: Admin, kind: str) -> bool:
    return bool(admin.call("GET", f"/v1/{kind}", query={"page_size": 1}).body["items"])


def preview(plan: dict[str, Any]) -> str:
    """A plan as lines `+ kind key`; of a change, what was and what is to be."""
    lines = []
    for step in plan["steps"]:
        lines.append(f"{_SIGNS[step['op']]} {step['kind']} {step['key']}")
        if step["op"] == "change":
            lines += [f"    {name}: {was} -> {new}" for name, was, new in _differences(step["before"], step["after"])]
    ops = [step["op"] for step in plan["steps"]]
    counts = ", ".join(f"{ops.count(op)} {past}" for op, past in
                       (("create", "created"), ("change", "changed"), ("delete", "deleted")) if op in ops)
    verb = "would be " if plan["dry_run"] and counts else ""
    lines.append(f"{verb}{counts or 'nothing to do'}; {plan['unchanged']} unchanged; version {plan['version']}")
    return "\n".join(lines)


def _differences(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[tuple[str, Any, Any]]:
    old, new = before or {}, after or {}
    names = dict.fromkeys([*old, *new])
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _ask(plan: dict[str, Any]) -> None:
    if not sys.stdin.isatty():
        raise Failure(Exit.USAGE, "nobody to ask; say --yes, or look with --dry-run")
    print(preview(plan), file=sys.stderr)
    if not typer.confirm("Do it?", err=True):
        raise Failure(Exit.FAILED, "nothing was changed")
