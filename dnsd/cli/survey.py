"""The verbs that look at what is: status of the node or of one service, and what happens on the node.

Lives here: asking and printing. Does not live here: why a client gets an answer (`cli.explain`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from dnsd.cli.client import segment
from dnsd.cli.display import pairs, show, table
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

WAIT_S: Final = 30.0


@command
def status(
    session: Session,
    service: Annotated[str, typer.Argument(help="a service, to see how each of its endpoints stands")] = "",
    wait: Annotated[float, typer.Option(help="wait up to so many seconds until the node is ready")] = 0.0,
    version: Annotated[int, typer.Option(help="wait until every worker serves at least this version")] = 0,
) -> None:
    """Where the node stands: versions, workers, store, maps, health; or a service, endpoint by endpoint."""
    if wait > 0:
        session.admin().wait_ready(wait)
    admin = session.admin()  # not before: at its first start the daemon makes the token meanwhile
    if version and not admin.wait_version(version, max(wait, 1.0)):
        raise Failure(Exit.FAILED, f"version {version} is not on every worker")
    path = f"/v1/services/{segment(service)}/health" if service else "/v1/status"
    show(admin.call("GET", path).body, as_json=session.as_json, human=_service if service else pairs)


@command
def events(
    session: Session,
    after: Annotated[int, typer.Option(help="number of the last event that is known")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as they happen")] = False,
) -> None:
    """What happened on the node: endpoints left out or back and why, panic, conditions that came and went."""
    admin = replace(session.admin(), patience=WAIT_S + 10)
    while True:
        page = admin.call("GET", "/v1/events", query={"after": after, "timeout": WAIT_S if follow else 0}).body
        for one in page["items"]:
            print(json.dumps(one, ensure_ascii=False) if session.as_json else _line(one), flush=True)
        if not page["items"] and not follow:
            return
        after = page["last"]


def _service(found: Mapping[str, Any]) -> str:
    """A head, a table of endpoints, and one of what each node sees of each address."""
    head = {key: value for key, value in found.items() if not isinstance(value, list) or not value}
    endpoints = [
        (one["endpoint"], one["site"], one["tier"], one["weight"], f"{one['share'] // 10} %", one["lease"] or "-",
         one["override"]["state"] if one["override"] else "-", " ".join(one["answered"]) or "no",
         "; ".join(one["held_back"]) or one["why"])
        for one in found["endpoints"]]
    parts = [pairs(head), table(endpoints, (
        "endpoint", "site", "tier", "weight", "share", "lease", "forced", "answered", "why"))]
    seen = [row for one in found["endpoints"] for row in _addresses(one)]
    if seen:
        parts.append(table(seen, ("endpoint", "address", "state", "why", "as seen by", "last result here")))
    return "\n\n".join(parts)


def _addresses(one: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for address in one["addresses"]:
        seen = " ".join(
            f"{node}={said['state']}{'?' if said['doubt'] else ''}" for node, said in address["vantages"].items())
        own = address["own"]
        last = "-" if own is None else f"{own['result']} {own['handshake_ms'] or 0:g} ms, {_time(own['at_ms'])}"
        state = address["state"] + ("?" if address["doubt"] else "")
        yield one["endpoint"], address["address"], state, address["why"] or "-", seen or "-", last


def _line(one: Mapping[str, Any]) -> str:
    about = " ".join(f"{key}={_word(value)}" for key, value in one.items() if key not in ("id", "at_ms", "what"))
    return f"{one['id']} {_time(one['at_ms'])} {one['what']} {about}"


def _word(value: Any) -> str:
    text = "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3] if at_ms else "never"
