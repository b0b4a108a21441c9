"""The shares of sites by which a service spills over: solved for clients and capacities, so that nobody is too full.

Lives here: one solution as a pure function. Does not live here: the rule the shares are for (`steer.spill`), who the
clients are and what sites carry (`control.spill`).

The clients are a sample with weights in units of load; each is asked by the same hashes as its queries are, so what is
counted here is what will come, not what is likely. In this order:

    keep    a site keeps all its natives up to `high` of its capacity; of more, the largest share that fits
    take    half of those that come by, less where less room is left; what is over a site's room is taken back step by
            step, and goes on to the next
    room    up to `low` at first; where that is too little, evenly more, up to `high`
    full    where even `high` is too little for all, every site is filled to the same level, the least there is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from dnsd.steer import spill
from dnsd.steer.spill import WHOLE

ROUNDS: Final = 40
STEPS: Final = 4
FULL: Final = 0.997
"""Of a watermark, what is filled: the sample's clients are pieces."""


class Client(NamedTuple):
    """A part of all clients: its units of load, its draw's seed, the sites in its order (numbers, native first)."""

    weight: float
    seed: int
    order: tuple[int, ...]


class Room(NamedTuple):
    """A site: its hash, its capacity in units (None: as much as comes), whether it can be answered, its tier."""

    site: int
    capacity: float | None
    alive: bool = True
    tier: int = 0


class Solved(NamedTuple):
    """Shares and what comes of them, by site: units of natives, of those it keeps, and of others that it takes."""

    keep: tuple[int, ...]
    take: tuple[int, ...]
    natives: tuple[float, ...]
    kept: tuple[float, ...]
    taken: tuple[float, ...]
    fits: bool
    """Whether all fit under the high watermark."""

    rounds: int


class _Refugee(NamedTuple):
    weight: float
    asked: tuple[tuple[int, int, int], ...]
    """Of each site on its way: number, chance, hash."""

    first: int


def solve(clients: Sequence[Client], rooms: Sequence[Room], low: float, high: float) -> Solved:
    """Shares for these clients; `low` and `high` are parts of a capacity."""
    total = sum(client.weight for client in clients)
    natives = [0.0] * len(rooms)
    for client in clients:
        natives[client.order[0]] += client.weight
    alive = [room for room in rooms if room.alive]
    bounded = sum(room.capacity for room in alive if room.capacity is not None)
    fits = any(room.capacity is None for room in alive) or total <= high * bounded
    most = high if fits else max(high, total / bounded if bounded else high)
    keep, kept = _keep(clients, rooms, natives, most)
    refugees = [found for client in clients if (found := _refugee(client, rooms, keep)) is not None]
    start = _start(rooms, kept, most)
    best: tuple[float, list[int], list[float]] = (float("inf"), start, [0.0] * len(rooms))
    rounds = 0
    for step in range(STEPS + 1):
        level = min(low, most) + (most - min(low, most)) * step / STEPS
        take, taken, over, used = _take(refugees, rooms, kept, start, level)
        rounds += used
        if over == 0 or _worst(rooms, kept, taken, most) < best[0]:
            best = _worst(rooms, kept, taken, most), take, taken
        if over == 0:
            break
    return Solved(tuple(keep), tuple(best[1]), tuple(natives), tuple(kept), tuple(best[2]), fits, rounds)


def _keep(clients: Sequence[Client], rooms: Sequence[Room], natives: Sequence[float],
          most: float) -> tuple[list[int], list[float]]:
    """Of each site the share of its natives that it keeps, and their units."""
    keep, kept = [WHOLE] * len(rooms), [load if room.alive else 0.0 for room, load in zip(rooms, natives, strict=True)]
    for number, room in enumerate(rooms):
        if not room.alive or room.capacity is None or natives[number] <= most * room.capacity:
            continue
        own = sorted((spill.chance(spill.hashed(client.seed, room.site)), client.weight)
                     for client in clients if client.order[0] == number)
        load, limit = 0.0, most * FULL * room.capacity
        for chance, weight in own:
            if load + weight > limit:
                keep[number] = chance
                break
            load += weight
        # all of one chance are on one side
        kept[number] = sum(weight for chance, weight in own if chance < keep[number])
    return keep, kept


def _refugee(client: Client, rooms: Sequence[Room], keep: Sequence[int]) -> _Refugee | None:
    """A client that is not kept, and whom it asks; None where it stays, or nobody else is there."""
    native = client.order[0]
    if rooms[native].alive and spill.chance(spill.hashed(client.seed, rooms[native].site)) < keep[native]:
        return None
    way = [number for number in client.order if rooms[number].alive]
    if not way:
        return None
    asked = []
    for number in way:
        if rooms[number].tier != rooms[way[0]].tier:
            break
        if number != native:
            value = spill.hashed(client.seed, rooms[number].site)
            asked.append((number, spill.chance(value), value))
    return _Refugee(client.weight, tuple(asked), way[0])


def _start(rooms: Sequence[Room], kept: Sequence[float], most: float) -> list[int]:
    """Of those that come by half, where most room is left; less where there is less."""
    spare = [(max(0.0, most - load / room.capacity) if room.capacity is not None else most) if room.alive else 0.0
             for room, load in zip(rooms, kept, strict=True)]
    widest = max(spare, default=0.0)
    return [int(WHOLE / 2 * part / widest) if widest else 0 for part in spare]


def _take(refugees: Sequence[_Refugee], rooms: Sequence[Room], kept: Sequence[float], start: Sequence[int],
          level: float) -> tuple[list[int], list[float], int, int]:
    """Shares by which nobody is filled beyond the level, what each takes, how many are over it nevertheless, rounds."""
    take = list(start)
    space = [max(0.0, level * FULL * room.capacity - load) if room.capacity is not None else None
             for room, load in zip(rooms, kept, strict=True)]
    taken, over = [0.0] * len(rooms), 0
    for round_ in range(1, ROUNDS + 1):
        taken = _taken(refugees, take, len(rooms))
        full = [n for n, room in enumerate(space) if room is not None and taken[n] > room]
        over = len(full)
        if not full:
            return take, taken, 0, round_
        for number in full:
            room = space[number] or 0.0
            take[number] = int(take[number] * max(0.25, 0.98 * room / taken[number]))
    return take, taken, over, ROUNDS


def _taken(refugees: Sequence[_Refugee], take: Sequence[int], count: int) -> list[float]:
    """Units that each site takes, asked as queries are (`steer.spill.walk`)."""
    found = [0.0] * count
    for weight, asked, first in refugees:
        left, least = first, 0
        for number, chance, value in asked:
            share = take[number]
            if chance < share:
                left = number
                break
            if share:
                price = spill.price(value, share)
                if not least or price < least:
                    left, least = number, price
        found[left] += weight
    return found


def _worst(rooms: Sequence[Room], kept: Sequence[float], taken: Sequence[float], most: float) -> float:
    """How far the fullest site is beyond the level, of its capacity."""
    return max((load + more) / room.capacity - most for room, load, more in zip(rooms, kept, taken, strict=True)
               if room.capacity is not None) if any(room.capacity is not None for room in rooms) else 0.0
