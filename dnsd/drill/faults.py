"""What may go wrong, by name: what is done to a fleet, what of it must stop being answered, and how it is undone.

Lives here: `FAULTS`. Does not live here: when it happens and what is seen of it (`trial`), the fleet.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from dnsd.drill import fleet, web

AHEAD_MS: Final = 15_000
SECOND_S: Final = 3.0
"""Between the two blows of a fault that has two."""

HOLD_S: Final = 15.0
"""How long what must be without effect lasts; longer than the drill's leases live."""


class RefusedError(Exception):
    """This fault cannot be made on this machine; the text says why."""


class Scene(NamedTuple):
    """What a fault happens to: the endpoint that users are sent to, and chance."""

    fleet: fleet.Fleet
    first: web.Endpoint
    chance: random.Random


class Fault(NamedTuple):
    """`dies`: the first endpoint has to be left out; `site`: so has all that is at its site. `prepare` is what comes
    some seconds before. `fast`: detecting and publishing has a bar of its own."""

    what: str
    inflict: Callable[[Scene], Awaitable[None]]
    heal: Callable[[Scene], Awaitable[None]]
    dies: bool = True
    site: bool = False
    fast: bool = True
    prepare: Callable[[Scene], Awaitable[None]] | None = None
    clocks: bool = False


def _become(death: str) -> Callable[[Scene], Awaitable[None]]:
    async def become(scene: Scene) -> None:
        await scene.first.become(death)

    return become


def _hole(on: bool) -> Callable[[Scene], Awaitable[None]]:
    async def change(scene: Scene) -> None:
        scene.fleet.network.hole(scene.first.address, on)

    return change


def _site(cut: bool) -> Callable[[Scene], Awaitable[None]]:
    async def change(scene: Scene) -> None:
        site = fleet.SITES[0]["id"]
        own = [host for host in scene.fleet.network.hosts if fleet.place(host) == site]
        for host in own:
            scene.fleet.cut(host, [other for other in scene.fleet.network.hosts if other not in own], cut)

    return change


async def _kill_store(scene: Scene) -> None:
    scene.fleet.store.kill()


async def _start_store(scene: Scene) -> None:
    scene.fleet.store.start()


async def _start_store_and_live(scene: Scene) -> None:
    await scene.first.become("")
    scene.fleet.store.start()


async def _kill_control(scene: Scene) -> None:
    scene.fleet.kill_control()


async def _nothing(scene: Scene) -> None:
    """The fleet heals itself."""


async def _clocks_ahead(scene: Scene) -> None:
    """The store's first, then a node's."""
    fleet_ = scene.fleet
    before = await fleet_.store_ms()
    fleet_.clocks.put_ahead(fleet.STORE, AHEAD_MS)
    if await fleet_.store_ms() < before + AHEAD_MS:
        raise RefusedError("the store's program does not take its clock from the C library")
    await asyncio.sleep(SECOND_S)
    fleet_.clocks.put_ahead(scene.chance.choice(list(fleet.NODES)), AHEAD_MS)


async def _clocks_back(scene: Scene) -> None:
    for name in (fleet.STORE, *fleet.NODES):
        scene.fleet.clocks.put_ahead(name, 0)


def _isolated(cut: bool) -> Callable[[Scene], Awaitable[None]]:
    async def change(scene: Scene) -> None:
        apps = [host for host in scene.fleet.network.hosts if host.startswith("app-")]
        for node in [scene.chance.choice(list(fleet.NODES))] if cut else fleet.NODES:
            scene.fleet.cut(node, apps, cut)

    return change


FAULTS: Final = {
    "rst": Fault("nobody listens at an endpoint any more: RST", _become("rst"), _become("")),
    "hole": Fault("packets to an endpoint vanish", _hole(True), _hole(False)),
    "500": Fault("an endpoint answers HTTP 500", _become("500"), _become("")),
    "slow": Fault("an endpoint answers after 1.2 s", _become("slow"), _become("")),
    "site": Fault("a site is cut off: its endpoints, and two of five nodes", _site(True), _site(False), site=True,
                  fast=False),
    "store": Fault("the store is killed, and started again on its files", _kill_store, _start_store, dies=False),
    "store-endpoint": Fault("an endpoint dies (RST) while the store is away", _become("rst"), _start_store_and_live,
                            prepare=_kill_store),
    "control": Fault("all nodes' control processes are killed", _kill_control, _nothing, dies=False),
    "clock": Fault("the store's clock jumps 15 s ahead, then a node's; later both back", _clocks_ahead, _clocks_back,
                   dies=False, clocks=True),
    "isolated": Fault("a node reaches no endpoint any more", _isolated(True), _isolated(False), dies=False),
}
