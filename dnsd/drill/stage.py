"""The services that one run is about: made for it, and gone after it, so that no run leaves a mark on the next.

Lives here: what they are, who holds their leases, what has to be answered. Does not live here: the fleet that serves
them (`fleet`), what happens to them (`faults`), watching (`watching`).

    api    three endpoints in three tiers, the first at the first site: what users ask for
    wide   two endpoints at every site, all answered: nobody may be missing whom nothing has happened to
    kept   endpoints held by leases, ten at every site, which their holders renew through their own site's nodes
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, NamedTuple

from dnsd.drill import fleet, web

LEASE_TTL: Final = 10
RENEW_S: Final = 3.0
KEPT: Final = 10
"""Leases at each site."""

SETTLE_S: Final = 30.0
FIRST, SECOND, THIRD = "first", "second", "third"
CHECK: Final = {"kind": "http", "port": web.PORT, "interval_ms": 500, "timeout_ms": 300, "fall": 3, "rise": 2,
                "ramp_ms": 2000}


class Held(NamedTuple):
    """A lease as its holder knows it."""

    site: str
    number: int
    address: str
    fence: int


class Stage:
    """The services of run `number` (1 to 250) and their endpoints. `expected`: service -> addresses, all being well."""

    def __init__(self, of: fleet.Fleet, number: int, ttl: int) -> None:
        self.api, self.wide, self.kept = (f"{word}-{number}.{fleet.ZONE}" for word in ("api", "wide", "kept"))
        self.fleet, self.number, self.ttl = of, number, ttl
        self.tiers: dict[str, web.Endpoint] = {}
        self.expected: dict[str, frozenset[str]] = {}
        self.at_site: dict[str, set[str]] = {site["id"]: set() for site in fleet.SITES}
        self.lost: set[str] = set()
        self._held: dict[str, Held] = {}
        self._servers: list[web.Endpoint] = []
        self._agents: list[asyncio.Task[None]] = []

    @property
    def names(self) -> tuple[str, str, str]:
        """The services' names."""
        return self.api, self.wide, self.kept

    async def create(self) -> None:
        """Servers, services, endpoints, leases; every node has all of it; NotReadyError."""
        endpoints: list[dict[str, Any]] = []
        for tier, (id_, site) in enumerate(zip((FIRST, SECOND, THIRD), self.at_site, strict=True)):
            self.tiers[id_] = server = await self._open(site, 10)
            endpoints.append({"id": id_, "service": self.api, "site": site, "a": server.address, "tier": tier})
            for place in (20, 21):
                server = await self._open(site, place)
                endpoints.append({"id": f"{site}-{place}", "service": self.wide, "site": site, "a": server.address})
        all_ = {"take": 32}
        await self._apply({
            "sites": list(fleet.SITES), "endpoints": endpoints, "services": [
                {"name": self.api, "ttl": self.ttl, "check": CHECK, "policy": {"take": 1}},
                {"name": self.wide, "ttl": self.ttl, "check": CHECK, "policy": all_},
                {"name": self.kept, "ttl": self.ttl, "policy": all_}]})
        await asyncio.gather(*(self._acquire(site, i) for site in self.at_site for i in range(KEPT)))
        self.expected = {
            self.api: frozenset({self.tiers[FIRST].address}),
            self.wide: frozenset(one["a"] for one in endpoints if one["service"] == self.wide),
            self.kept: frozenset(held.address for held in self._held.values())}
        self._agents = [asyncio.create_task(self._renew(site)) for site in self.at_site]

    async def known(self) -> None:
        """Until every node knows of every address that it is up; TimeoutError."""
        async with asyncio.timeout(SETTLE_S):
            for node in fleet.NODES:
                for name in (self.api, self.wide):
                    while not await self._up(node, name):
                        await asyncio.sleep(0.2)

    async def missing_leases(self) -> set[str]:
        """Addresses whose leases the registry has no more, or never had again after their holders were told so."""
        found: set[str] = set()
        for site in self.at_site:
            reply = await self.fleet.api(
                next(iter(fleet.NODES)), "GET", f"/v1/leases?prefix=k{self.number}-{site}-&page_size=100")
            found |= {str(one["key"]) for one in reply.body["items"]}
        return self.lost | {held.address for lease, held in self._held.items() if lease not in found}

    async def remove(self) -> None:
        """Everything of it, as far as the fleet is there to be told."""
        for agent in self._agents:
            agent.cancel()
        node = next(iter(fleet.NODES))
        with suppress(OSError):
            for lease, held in self._held.items():
                await self.fleet.api(node, "DELETE", f"/v1/leases/{lease}?fence={held.fence}")
            sites = [site["id"] for site in fleet.SITES]
            await self.fleet.api(node, "POST", "/v1/apply?force=true", {"delete": {
                "services": list(self.names), "endpoints": [
                    *(f"{self.api}/{id_}" for id_ in self.tiers),
                    *(f"{self.wide}/{site}-{place}" for site in sites for place in (20, 21))]}})
        for server in self._servers:
            server.stop()

    async def _open(self, site: str, place: int) -> web.Endpoint:
        server = await self.fleet.open(site, 256 * self.number + place)
        self._servers.append(server)
        self.at_site[site].add(server.address)
        return server

    async def _apply(self, what: dict[str, Any]) -> None:
        reply = await self.fleet.api(next(iter(fleet.NODES)), "POST", "/v1/apply", what)
        if reply.status >= 300:
            raise fleet.NotReadyError(f"apply: {reply.body}")
        for node in fleet.NODES:
            path = f"/v1/status?wait_version={reply.body['version']}&timeout=20"
            status = await self.fleet.api(node, "GET", path, seconds=25)
            if not status.body.get("reached"):
                raise fleet.NotReadyError(f"{node} has not got version {reply.body['version']}")

    async def _up(self, node: str, name: str) -> bool:
        reply = await self.fleet.api(node, "GET", f"/v1/services/{name}/health")
        return reply.status == 200 and all(
            one["state"] == "up" for endpoint in reply.body["endpoints"] for one in endpoint["addresses"])

    # --- who holds the leases ---

    async def _acquire(self, site: str, number: int) -> None:
        holder = f"k{self.number}-{site}-{number}"
        address = self.fleet.network.address(f"app-{site}", 256 * self.number + 100 + number)
        self.at_site[site].add(address)
        endpoint = {"id": f"{site}-{number}", "service": self.kept, "site": site, "a": address}
        node = next(name for name, at in fleet.NODES.items() if at == site)
        reply = await self.fleet.api(node, "POST", "/v1/leases", {
            "holder": holder, "ttl": LEASE_TTL, "endpoints": [endpoint]})
        if reply.status != 201:
            raise fleet.NotReadyError(f"lease {holder}: {reply.body}")
        self._held[reply.body["id"]] = Held(site, number, address, reply.body["fence"])

    async def _renew(self, site: str) -> None:
        """As an agent does: again and again, at the next node if one cannot; what has ended is acquired again."""
        nodes = [name for name, at in fleet.NODES.items() if at == site]
        while True:
            renewals = [{"id": lease, "fence": held.fence} for lease, held in self._held.items() if held.site == site]
            for node in nodes:
                with suppress(OSError, fleet.NotReadyError):
                    reply = await self.fleet.api(node, "POST", "/v1/leases:renew", {"renewals": renewals}, seconds=5)
                    if reply.status != 200:
                        continue
                    for gone in [one["id"] for one in reply.body["renewed"] if not one["ok"]]:
                        self.lost.add(self._held[gone].address)
                        await self._acquire(site, self._held[gone].number)
                    break
            await asyncio.sleep(RENEW_S)
