"""The verbs on what the registry holds: sites, services, endpoints, leases, overrides, tokens.

Lives here: one small typer app per kind. Does not live here: many changes at once (`apply`), HTTP (`client`), rules:
the daemon checks, so the CLI and every other client get the same answers.

`put` replaces an object only with its ETag: `--etag` of an earlier `get`, else the one it reads just before.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dnsd.cli.client import Admin, Reply, segment
from dnsd.cli.display import pairs, show, table
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

PAGE = 500

Key = Annotated[str, typer.Argument(help="id; of an endpoint SERVICE/ID, of an override TARGET:NAME")]
Body = Annotated[str, typer.Argument(help="JSON text, a .json or .toml file, or - for JSON on standard input")]
Etag = Annotated[str, typer.Option(help="change it only if this is still its ETag")]
New = Annotated[bool, typer.Option("--new", help="only create: fail if it exists")]
Prefix = Annotated[str, typer.Option(help="only ids that begin so")]

# kind -> the columns of its table
_COLUMNS = {
    "sites": ("id", "country", "region", "provider", "carriers", "latitude", "longitude"),
    "services": ("name", "policy", "ttl", "types", "fallback"),
    "endpoints": ("service", "id", "site", "a", "aaaa", "tier", "weight", "load", "lease"),
    "leases": ("id", "holder", "fence", "ttl", "endpoints"),
    "overrides": ("target", "name", "state", "seconds", "reason", "until_ms"),
    "tokens": ("id", "role", "services", "addresses", "expires_ms", "note"),
}


def crud(kind: str, what: str, verbs: Sequence[str] = ("list", "get", "put", "delete")) -> typer.Typer:
    """The app of one kind, with those of the common verbs that it has."""
    app = typer.Typer(no_args_is_help=True, help=what)

    def list_(session: Session, prefix: Prefix = "") -> None:
        """All of them, in order of their ids."""
        _print_list(session, kind, pages(session.admin(), kind, prefix))

    def get(session: Session, key: Key) -> None:
        """One of them, with its ETag."""
        reply = session.admin().call("GET", f"/v1/{kind}/{segment(key)}")
        _print_one(session, reply)

    def put(session: Session, key: Key, body: Body, etag: Etag = "", new: New = False) -> None:
        """Create it, or replace it whole."""
        value, admin, path = read_object(body), session.admin(), f"/v1/{kind}/{segment(key)}"
        if not new and not etag:
            etag = _etag(admin, path)
        _print_one(session, admin.call("PUT", path, body=value, etag=etag, create_only=not etag))

    def delete(session: Session, key: Key, etag: Etag = "") -> None:
        """Remove it."""
        admin, path = session.admin(), f"/v1/{kind}/{segment(key)}"
        _print_one(session, admin.call("DELETE", path, etag=etag or _etag(admin, path)))

    for name, verb in (("list", list_), ("get", get), ("put", put), ("delete", delete)):
        if name in verbs:
            app.command(name)(command(verb))
    return app


sites = crud("sites", "data centres: where they are and whose")
services = crud("services", "names whose addresses are chosen per client")
endpoints = crud("endpoints", "addresses of a service at a site")
leases = crud("leases", "an instance's right to be answered, for all its endpoints", ["list"])
overrides = crud("overrides", "forced states that end by themselves", ["list"])
tokens = crud("tokens", "who may call the admin API; secrets are not kept, so none is listed", ["list"])


@leases.command("acquire")
@command
def leases_acquire(session: Session, body: Body) -> None:
    """Acquire a lease: {"holder", "ttl", "endpoints": [...]}; the same holder asking again gets a higher fence."""
    _print_one(session, session.admin().call("POST", "/v1/leases", body=read_object(body)))


@leases.command("renew")
@command
def leases_renew(
    session: Session, lease: Annotated[str, typer.Argument(help="lease id")],
    fence: Annotated[int, typer.Option(help="the fence it was granted with")],
    load: Annotated[list[str] | None, typer.Option(help="SERVICE/ID=SHARE in use, 0 to 1; may be repeated")] = None,
) -> None:
    """Renew a lease, and report how loaded its endpoints are."""
    loads = dict(_share(text) for text in load or ())
    body = {"fence": fence, "loads": loads}
    _print_one(session, session.admin().call("PUT", f"/v1/leases/{segment(lease)}", body=body))


@leases.command("release")
@command
def leases_release(
    session: Session, lease: Annotated[str, typer.Argument(help="lease id")],
    fence: Annotated[int, typer.Option(help="the fence it was granted with")],
) -> None:
    """Give a lease back: its endpoints go with it."""
    _print_one(session, session.admin().call("DELETE", f"/v1/leases/{segment(lease)}", query={"fence": fence}))


@overrides.command("set")
@command
def overrides_set(
    session: Session,
    target: Annotated[str, typer.Argument(help="endpoint:SERVICE/ID, site:ID or service:NAME")],
    state: Annotated[str, typer.Argument(help="up, down or drain")],
    *,
    seconds: Annotated[int, typer.Option("--for", help="seconds until it ends by itself")],
    reason: Annotated[str, typer.Option(help="why; kept in the audit trail")],
) -> None:
    """Force a state."""
    kind, _, name = target.partition(":")
    admin, path = session.admin(), f"/v1/overrides/{segment(target)}"
    body = {"target": kind, "name": name, "state": state, "seconds": seconds, "reason": reason}
    etag = _etag(admin, path)
    _print_one(session, admin.call("PUT", path, body=body, etag=etag, create_only=not etag))


@overrides.command("clear")
@command
def overrides_clear(session: Session, target: Annotated[str, typer.Argument(help="as it was set")]) -> None:
    """End a forced state now."""
    admin, path = session.admin(), f"/v1/overrides/{segment(target)}"
    _print_one(session, admin.call("DELETE", path, etag=_etag(admin, path)))


@tokens.command("create")
@command
def tokens_create(
    session: Session, name: Annotated[str, typer.Argument(help="its id")], *,
    role: Annotated[str, typer.Option(help="admin, operator, agent, reader or beacon")],
    service: Annotated[list[str] | None, typer.Option(help="only this service, or *.suffix; may be repeated")] = None,
    address: Annotated[list[str] | None, typer.Option(help="only endpoints in this CIDR; may be repeated")] = None,
    note: Annotated[str, typer.Option(help="whose it is")] = "",
) -> None:
    """Make a token; its secret is printed once."""
    body = {"role": role, "services": service or [], "addresses": address or [], "note": note}
    _print_one(session, session.admin().call("PUT", f"/v1/tokens/{segment(name)}", body=body, create_only=True))


@tokens.command("revoke")
@command
def tokens_revoke(session: Session, name: Annotated[str, typer.Argument(help="its id")]) -> None:
    """Make a token worthless."""
    admin, path = session.admin(), f"/v1/tokens/{segment(name)}"
    _print_one(session, admin.call("DELETE", path, etag=_etag(admin, path)))


def pages(admin: Admin, kind: str, prefix: str = "") -> list[dict[str, Any]]:
    """Every object of a kind as `{key, etag, version, value}`, page by page."""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        query = {"page_size": PAGE, "page_token": after, "prefix": prefix or None}
        body = admin.call("GET", f"/v1/{kind}", query=query).body
        found += body["items"]
        after = body.get("next_page_token")
        if not after:
            return found


def read_object(text: str) -> Any:
    """An object from JSON text, a .json or .toml file, or standard input; a `Failure` names the place of a fault."""
    try:
        if text.lstrip().startswith(("{", "[")):
            return json.loads(text)
        if text == "-":
            return json.loads(sys.stdin.read())
        data = Path(text).read_bytes()
        return tomllib.loads(data.decode()) if text.endswith(".toml") else json.loads(data)
    except (ValueError, OSError) as error:
        place = "argument" if text.lstrip().startswith(("{", "[")) else text
        raise Failure(Exit.USAGE, f"{place}: {error}") from error


def _etag(admin: Admin, path: str) -> str:
    """The ETag an object has now, or nothing when there is no such object."""
    reply = admin.ask("GET", path)
    return reply.etag or "" if reply.status == 200 else ""


def _share(text: str) -> tuple[str, float]:
    key, _, share = text.rpartition("=")
    try:
        return key, float(share)
    except ValueError as error:
        raise Failure(Exit.USAGE, f"--load {text}: not SERVICE/ID=SHARE") from error


def _print_list(session: Session, kind: str, items: list[dict[str, Any]]) -> None:
    head = _COLUMNS[kind]
    show(items, as_json=session.as_json,
         human=lambda rows: table(([row["value"].get(column) for column in head] for row in rows), head))


def _print_one(session: Session, reply: Reply) -> None:
    body = reply.body if isinstance(reply.body, dict) else {}
    if reply.etag and "etag" not in body:
        body = {**body, "etag": reply.etag}
    show(body, as_json=session.as_json, human=pairs)
