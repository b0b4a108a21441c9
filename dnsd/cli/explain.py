"""`dnsd explain`: why a client gets the answer it gets, part by part.

Lives here: asking and printing. Does not live here: the explanation itself (`control.explain`), which goes through the
same door as a query.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dnsd.cli.display import pairs, show
from dnsd.cli.options import Session, command


@command
def explain(
    session: Session,
    name: Annotated[str, typer.Argument(help="the name that is asked for")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="A, AAAA or HTTPS")] = "A",
    *,
    client: Annotated[str, typer.Option(help="the resolver's address")] = "",
    subnet: Annotated[str, typer.Option(help="the client's subnet, as the resolver would send it")] = "",
) -> None:
    """Say how a query would be answered, and why."""
    subnet = "0.0.0.0/0" if subnet == "0" else subnet
    query = {"name": name, "type": kind.upper(), "client": client or None, "subnet": subnet or None}
    show(session.admin().call("GET", "/v1/explain", query=query).body, as_json=session.as_json, human=_text)


def _text(found: dict[str, Any]) -> str:
    """What was asked and answered, the reasons in words, then each part they rest on."""
    first = ("name", "type", "client", "subnet", "rcode", "addresses", "ttl", "scope", "why", "candidates", "removed")
    return pairs({name: found[name] for name in (*(n for n in first if n in found), *found)})
