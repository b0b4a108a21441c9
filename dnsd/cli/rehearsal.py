"""`dnsd drill --live`: an endpoint or a site of the running fleet is forced down for a while, and then no longer.

Lives here: what is checked before, watching, lifting it. Does not live here: scratch fleets (`dnsd.drill`), overrides
as such (`cli.fleet`).

Nothing is broken: only an override is set, which ends by itself soon after, should this command be killed. It is not
set where nobody else would be answered, nor over an override that is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from dnsd import model
from dnsd.cli.client import Admin, segment
from dnsd.cli.display import pairs, show
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session

SPARE_S: Final = 10
PUBLISH_S: Final = 10.0
LOOK_S: Final = 0.25
REASON: Final = "dnsd drill --live"


def hold(session: Session, target: str, service: str, seconds: int) -> None:
    """Forces `target` down for so many seconds and tells what followed; ends with 1 when something did not."""
    kind, _, name = target.partition(":")
    if kind not in ("endpoint", "site") or not name or (kind == "site" and not service):
        raise Failure(Exit.USAGE, "what is forced down?", [
            model.Fault(target, "endpoint:SERVICE/ID, or site:ID with --service to watch")])
    admin = session.admin()
    service = service or name.partition("/")[0]
    before = _answered(admin, service)
    hit = {id_ for id_, site in before.items() if (f"{service}/{id_}" if kind == "endpoint" else site) == name}
    _check(before, hit, target, service)
    told = _rehearse(admin, target, service, seconds, hit)
    told = {"target": target, "service": service, "answered_before": sorted(before)} | told
    show(told, as_json=session.as_json, human=pairs)
    if not (told["left_out"] and told["back"] and told["always_answered"]):
        raise Failure(Exit.FAILED, "the fleet did not do what it should have")


def _rehearse(admin: Admin, target: str, service: str, seconds: int, hit: set[str]) -> dict[str, Any]:
    kind, _, name = target.partition(":")
    path, began = f"/v1/overrides/{segment(target)}", time.monotonic()
    override = {"target": kind, "name": name, "state": "down", "seconds": seconds + SPARE_S, "reason": REASON}
    put = admin.call("PUT", path, body=override, create_only=True)
    published, always, out, seen = None, True, False, {}
    try:
        if admin.wait_version(put.body["version"], PUBLISH_S):
            published = time.monotonic() - began
        while time.monotonic() < began + seconds:
            seen = _answered(admin, service)
            out, always = not hit & seen.keys(), always and bool(seen)
            time.sleep(LOOK_S)
    finally:
        lifted, version = time.monotonic(), admin.call("DELETE", path, etag=put.etag).body["version"]
    back = admin.wait_version(version, PUBLISH_S) and _until_back(admin, service, hit)
    return {
        "published_s": None if published is None else round(published, 3), "left_out": out, "answered": sorted(seen),
        "always_answered": always, "back": back, "back_s": round(time.monotonic() - lifted, 3)}


def _check(before: dict[str, str], hit: Iterable[str], target: str, service: str) -> None:
    hit = set(hit)
    if not hit:
        who = ", ".join(sorted(before)) or "nobody"
        raise Failure(Exit.PRECONDITION, f"{service} is answered with {who}, not with {target}")
    if before.keys() <= hit:
        raise Failure(Exit.PRECONDITION, f"nobody else could be answered for {service}")


def _until_back(admin: Admin, service: str, hit: set[str]) -> bool:
    deadline = time.monotonic() + PUBLISH_S
    while not hit <= _answered(admin, service).keys():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _answered(admin: Admin, service: str) -> dict[str, str]:
    """Who may be answered for a service: id -> site."""
    found = admin.call("GET", f"/v1/services/{segment(service)}/health").body["endpoints"]
    return {one["endpoint"]: one["site"] for one in found if one["answered"]}
