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
    levels = [min(low, most) + (most - min(low, most)) * step / STEPS for step in range(STEPS + 1)]
    enough = [step for step, level in enumerate(levels) if not _too_many(refugees, rooms, kept, level)]
    rounds, tried = 0, {}
    for step in dict.fromkeys((*enough, *range(STEPS + 1))):  # where no level is enough, the best of all
        take, taken, over, used = _take(refugees, rooms, kept, start, levels[step])
        rounds += used
        tried[step] = _worst(rooms, kept, taken, most) if over else float("-inf"), take, taken
        if over == 0:
            break
    _, take, taken = min((tried[step] for step in sorted(tried)), key=lambda found: found[0])
    return Solved(tuple(keep), tuple(take), tuple(natives), tuple(kept), tuple(taken), fits, rounds)


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
    if rooms[native].alive and (  # all of a site that keeps all need no hash, and most are such
            keep[native] == WHOLE or spill.chance(spill.hashed(client.seed, rooms[native].site)) < keep[native]):
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
    space = _space(rooms, kept, level)
    goes = [_goes(refugee, take) for refugee in refugees]
    taken, over = [0.0] * len(rooms), 0
    for round_ in range(1, ROUNDS + 1):
        taken = [0.0] * len(rooms)
        for refugee, number in zip(refugees, goes, strict=True):
            taken[number] += refugee.weight
        full = {n for n, room in enumerate(space) if room is not None and taken[n] > room}
        over = len(full)
        if not full:
            return take, taken, 0, round_
        before = list(take)
        for number in full:
            room = space[number] or 0.0
            take[number] = int(take[number] * max(0.25, 0.98 * room / taken[number]))
        if take == before:
            return take, taken, over, round_  # the next round would be this one
        # shares have only fallen, so whom a site has taken that takes as much as before stays there
        goes = [_goes(refugee, take) if number in full else number
                for refugee, number in zip(refugees, goes, strict=True)]
    return take, taken, over, ROUNDS


def _space(rooms: Sequence[Room], kept: Sequence[float], level: float) -> list[float | None]:
    """Units up to the level, beside those that are kept; None where there is no bound."""
    return [max(0.0, level * FULL * room.capacity - load) if room.capacity is not None else None
            for room, load in zip(rooms, kept, strict=True)]


def _too_many(refugees: Sequence[_Refugee], rooms: Sequence[Room], kept: Sequence[float], level: float) -> bool:
    """Whether they cannot all have room up to the level: what would be tried in vain."""
    space = [room for room, site in zip(_space(rooms, kept, level), rooms, strict=True) if site.alive]
    bounded = [room for room in space if room is not None]
    return len(bounded) == len(space) and sum(bounded) < sum(refugee.weight for refugee in refugees)


def _goes(refugee: _Refugee, take: Sequence[int]) -> int:
    """The site where it comes to, asked as queries are (`steer.spill.walk`)."""
    _, asked, left = refugee
    least = 0
    for number, chance, value in asked:
        share = take[number]
        if chance < share:
            return number
        if share:
            price = spill.price(value, share)
            if not least or price < least:
                left, least = number, price
    return left


def _worst(rooms: Sequence[Room], kept: Sequence[float], taken: Sequence[float], most: float) -> float:
    """How far the fullest site is beyond the level, of its capacity."""
    return max((load + more) / room.capacity - most for room, load, more in zip(rooms, kept, taken, strict=True)
               if room.capacity is not None) if any(room.capacity is not None for room in rooms) else 0.0
