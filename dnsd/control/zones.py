"""The node's zone files together: all of them are read, or none takes the place of what is served.

Lives here: reading every configured zone, judging them together. Does not live here: one file (`control.zonefile`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dnsd.compile import zones as compile_zones
from dnsd.control import zonefile
from dnsd.dns import names, types
from dnsd.image.reading import KEY_A, KEY_AAAA, KEY_CNAME, KEY_DNAME, KEY_HTTPS, Entry, Image
from dnsd.model import Fault, ServiceView, ZoneView

_log = logging.getLogger("dnsd.control")


class Zones:
    """The configured zones: (name, master file). `loaded` is what was read last without a fault."""

    def __init__(self, configured: Sequence[tuple[str, Path]]) -> None:
        self.configured = tuple(configured)
        self.loaded: tuple[zonefile.Loaded, ...] | None = None

    def read(self) -> tuple[tuple[zonefile.Loaded, ...], list[Fault]]:
        """Every zone, and every fault of all of them. Nothing is kept; may run in a thread."""
        found, faults = [], []
        for name, path in self.configured:
            try:
                found.append(zonefile.load(path, name))
            except zonefile.ZoneFault as error:
                faults += error.faults
        return tuple(found), faults

    def take(self, loaded: tuple[zonefile.Loaded, ...]) -> tuple[ZoneView, ...]:
        """Keep what was read; its views. What is odd is logged once, here."""
        self.loaded = loaded
        for zone in loaded:
            for warning in zone.warnings:
                _log.warning("%s: %s", warning.place, warning.message)
        return tuple(zone.view for zone in loaded)

    def described(self) -> list[dict[str, Any]]:
        """The zones for people."""
        return [{
            "name": names.to_text(zone.view.apex), "serial": serial(zone.view), "rrsets": len(zone.view.rrsets),
            "file": str(zone.files[0]) if zone.files else "", "warnings": len(zone.warnings),
        } for zone in self.loaded or ()]


def conflicts(zones: Sequence[ZoneView], services: Iterable[ServiceView], known: Iterable[bytes]) -> list[Fault]:
    """What stands against these zones with these services; those in `known` stand against the present ones too."""
    passed = set(known)
    return compile_zones.check(zones, [view for view in services if view.owner not in passed])


def misplaced(image: Image, owner: bytes, *, https: bool = False) -> str:
    """Why no service, or none with `https`, can stand at this name in the zones as served; empty when one can.

    A name that no zone here holds is no fault: nodes of one registry need not serve the same zones. The image is asked
    and not `conflicts`, because a look at a few names must not take as long as a whole tree.
    """
    for name in (owner, *names.parents(owner)):
        node = image.get(name)
        if node is None:
            continue
        if node.cut is not None:
            return f"lies at or below the cut {names.to_text(node.cut.name)}"
        if name != owner and KEY_DNAME in node.answers:
            return f"lies below the DNAME {names.to_text(name)}"
        taken = (KEY_A, KEY_CNAME, KEY_AAAA, *((KEY_HTTPS,) if https else ()))
        static = [key for key in taken if isinstance(node.answers.get(key), Entry)]
        if name == owner and static:
            listed = ", ".join(types.type_text(int.from_bytes(key[:2], "big")) for key in static)
            return f"the zone has static {listed} here"
        if name == node.zone.apex:
            break
    return ""


def serial(zone: ZoneView) -> int:
    """The SOA's serial."""
    soa = next(rrset for rrset in zone.rrsets if rrset.type == types.SOA and rrset.owner == zone.apex)
    return int.from_bytes(soa.rdatas[0][-20:-16], "big")
