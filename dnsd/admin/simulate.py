"""`POST /v1/simulate`: what a change would do, before anything of it is done.

Lives here: the body, from a document to changes that the registry would take, refusals. Does not live here: simulating
(`control.simulate`), what the question may say besides a document (`control.whatif`).

The state that is changed is the one this node serves, so this works while the registry is away.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from dnsd.admin import bodies, fleet, objects, problem
from dnsd.admin.auth import forbidden
from dnsd.admin.call import READERS, Call, Route, answer
from dnsd.admin.problem import Problem
from dnsd.control.simulate import BusyError, FailedError
from dnsd.control.whatif import ImpossibleError, Question, loaded
from dnsd.registry.values import Loaded

RETRY_S: Final = 5


class Simulation(Question):
    """A question, and a document as `POST /v1/apply` takes it, laid over the fleet first."""

    change: bodies.Fleet = bodies.Fleet()


class Simulated(BaseModel):
    """What would come of it; docs/simulate.md names every figure."""

    model_config = ConfigDict(extra="forbid")

    changes: list[str]
    version: int
    atlas: str | None
    table: int | None
    clients: dict[str, Any]
    load: dict[str, Any]
    sites: list[dict[str, Any]]
    moved: float
    had_to: float
    services: list[dict[str, Any]]
    seconds: float


async def simulate(call: Call) -> web.Response:
    """Who would be sent elsewhere, how far everybody would be, how full sites would be. Nothing is written."""
    if call.caller.narrowed:
        raise forbidden("a simulation concerns everybody; the token is narrowed")
    asked = await asyncio.to_thread(problem.parse, Simulation, await call.body())
    wanted: list[fleet.Wanted] = []
    if asked.change != bodies.Fleet():
        wanted = await asyncio.to_thread(_wanted, asked.change, loaded(call.control.fleet()))
    objects.fit(call, [("/change" + one.place, one.change.value) for one in wanted])
    try:
        return answer(await call.control.simulate([one.change for one in wanted], asked))
    except ImpossibleError as error:
        raise problem.invalid(error.faults) from None
    except BusyError:
        raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "busy", "another simulation is being made",
                      headers={"Retry-After": str(RETRY_S)}) from None
    except FailedError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "not-simulated", str(error)) from None


def _wanted(document: bodies.Fleet, state: Loaded) -> list[fleet.Wanted]:
    """What a document changes; the registry's refusal of it where it would refuse."""
    wanted = [*fleet.puts(document, state), *fleet.deletions(document, state, prune=False)]
    fleet.check(state, wanted)
    return wanted


ROUTES: Final = (
    Route("POST", "/v1/simulate", "simulate", "What a change would do; nothing is written", simulate, READERS,
          body=Simulation, answer=Simulated, problems=(HTTPStatus.TOO_MANY_REQUESTS,)),
)
