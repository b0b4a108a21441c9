"""Doors to the golden world with all switched on that costs something: cookies, limits, class CH, padding, a desk.

Lives here: making them. Does not live here: packets (`packets`), what must hold (tests, `fuzz.targets`).
"""

from __future__ import annotations

from dnsd.context import Context, Desk
from dnsd.dns import names
from dnsd.dns.cookies import Cookies
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes
from dnsd.image.reading import Image
from tests.golden.packets import door
from tests.golden.world import NOW, RESOLVER, Door

SECRETS = [bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))]
COOKIES = Cookies(SECRETS)
CLIENT6 = bytes.fromhex("20010db8000000000000000000000001")
KNOWN = bytes(range(8)) + COOKIES.made(bytes(range(8)), RESOLVER, NOW)
"""A valid cookie, client's and server's part, of the client that doors have if nothing else is said."""


def guard(rate: int) -> Guard:
    """Limits of that rate, with lists of which no test client is part."""
    made = Guard([0] * 1024, answers=rate, others=rate, burst_s=1.0, raised_by=20,
                 exempt=Prefixes(["203.0.113.0/24", "2001:db8:7::/48"]), raised=Prefixes(["203.0.112.0/24"]), key=1)
    made.tick(10**12)
    return made


def loaded(held: Image, *, tcp: bool = False, client: bytes = RESOLVER, rate: int = 1_000_000, desk: Desk | None = None,
           shed: int = 0) -> Door:
    """A door with everything on. Of a `rate` of 1 all clients are soon over, for time stands still."""
    made = Door(held, tcp=tcp, client=client)
    context: Context = made.context
    context.cookies = COOKIES
    context.guard = None if tcp else guard(rate)
    context.ecs_from = Prefixes(["0.0.0.0/1", "128.0.0.0/1", "2000::/3", "::/64"])
    context.desk = desk
    context.chaos = {names.to_wire("id.server"): None, names.to_wire("version.bind"): b"dnsd"}
    context.keepalive = 100
    context.pad = tcp
    context.strict = not tcp
    context.shed = shed
    return made


def doors() -> dict[str, Door]:
    """Every kind of door, over one image."""
    world = door()
    held = world.image
    everybody = Prefixes(["0.0.0.0/0", "::/0"])
    return {
        "udp": world,
        "tcp": Door(held, tcp=True),
        "udp6": Door(held, client=CLIENT6),
        "loaded udp": loaded(held),
        "loaded tcp": loaded(held, tcp=True),
        "loaded udp6": loaded(held, client=CLIENT6),
        "over its rate": loaded(held, rate=1),
        "no desk but asked for": loaded(held, desk=Desk(Prefixes(()), Prefixes(()), False)),
        "desk": loaded(held, tcp=True, desk=Desk(everybody, everybody, True)),
        "shedding": loaded(held, shed=3),
    }
