"""`dnsd drill`: faults in a scratch fleet on this machine, and how long its users notice; or a forced one in a real
fleet.

Lives here: the command line, what it prints. Does not live here: the drill (`dnsd.drill`), the rehearsal on a running
fleet (`cli.rehearsal`).
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnsd.cli.display import table
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

if TYPE_CHECKING:
    from dnsd.drill.result import Result
    from dnsd.drill.session import Plan

ALL = "all"


@command
def drill(
    session: Session,
    faults: Annotated[list[str] | None, typer.Argument(
        metavar="[FAULT...|all]", help="what happens; left out: they are listed")] = None,
    *,
    runs: Annotated[int, typer.Option(min=1, help="of each fault and TTL")] = 1,
    ttl: Annotated[list[int] | None, typer.Option(min=1, max=60, help="seconds; may be repeated")] = None,
    seed: Annotated[int | None, typer.Option(help="the same phases and nodes again; else others each time")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=16, help="runs at the same time, of faults of one endpoint")] = 1,
    picture: Annotated[Path | None, typer.Option(help="SVG file with the timeline; of several runs one each")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the nodes' settings, states and logs")] = False,
    live: Annotated[bool, typer.Option(
        "--live", help="in the running fleet: force endpoint:SERVICE/ID or site:ID down, watch, lift it")] = False,
    service: Annotated[str, typer.Option(help="with --live: the service to watch, if not the endpoint's own")] = "",
    seconds: Annotated[int, typer.Option("--for", min=1, max=3600, help="with --live: how long")] = 30,
) -> None:
    """Make things go wrong in a scratch fleet of five nodes, and measure how long its users notice."""
    if live:
        from dnsd.cli import rehearsal

        if not faults or len(faults) != 1:
            raise Failure(Exit.USAGE, "--live takes one target: endpoint:SERVICE/ID or site:ID")
        rehearsal.hold(session, faults[0], service, seconds)
        return
    if not faults:
        _list()
        return
    from dnsd.drill.session import Plan
    from dnsd.registry import embedded

    try:
        redis = embedded.binary()
    except FileNotFoundError as error:
        raise Failure(Exit.PRECONDITION, str(error)) from error
    plan = Plan(_named(faults), redis, random.getrandbits(32) if seed is None else seed, runs, tuple(ttl or (8,)),
                at_once=at_once, picture=picture)
    _hold(session, plan, keep)


def _list() -> None:
    from dnsd.drill.faults import FAULTS

    print(table(((name, fault.what) for name, fault in FAULTS.items()), ("fault", "what happens")))


def _named(faults: list[str]) -> list[str]:
    from dnsd import model
    from dnsd.drill.faults import FAULTS

    unknown = [name for name in faults if name not in FAULTS and name != ALL]
    if unknown:
        known = f"there are {', '.join(FAULTS)} and {ALL}"
        raise Failure(Exit.USAGE, "no such fault", [model.Fault(name, known) for name in unknown])
    return list(FAULTS) if ALL in faults else list(dict.fromkeys(faults))


def _hold(session: Session, plan: Plan, keep: bool) -> None:
    """Prints each run as it is over, then all; ends with 1 when a bar was missed, 5 when this machine cannot do it."""
    from dnsd.drill import fleet, result
    from dnsd.drill.network import UnavailableError
    from dnsd.drill.session import hold

    if what := fleet.missing():
        raise Failure(Exit.PRECONDITION, what)
    folder = Path(tempfile.mkdtemp(prefix="dnsd-drill-"))
    try:
        results = asyncio.run(hold(plan, folder, _silent if session.as_json else _tell))
    except UnavailableError as error:
        raise Failure(Exit.PRECONDITION, f"no network namespaces with TUN devices can be made here: {error}") from error
    except fleet.NotReadyError as error:
        raise Failure(Exit.FAILED, str(error)) from error
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if session.as_json:
        settings = {"seed": plan.seed, "folder": str(folder) if keep else None}
        print(json.dumps(result.document(results, settings), indent=2))
    else:
        print(f"\nseed {plan.seed}" + (f", kept in {folder}" if keep else ""))
        if len(results) > 1:
            print(f"\n{result.table(results)}")
    if any(one.missed for one in results):
        raise typer.Exit(Exit.FAILED)
    if all(one.refused for one in results):
        raise typer.Exit(Exit.PRECONDITION)


def _tell(one: Result) -> None:
    from dnsd.drill import result

    print(result.line(one), flush=True)
    for text in (*one.wrong, *(f"lost: {address}" for address in one.lost), *(f"left: {text}" for text in one.left)):
        print(f"  {text}")


def _silent(one: Result) -> None:
    """JSON is printed at the end, as one value."""
