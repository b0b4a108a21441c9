"""What has happened: turns of services and conditions, numbered, bounded, waited for."""

from __future__ import annotations

import asyncio

import pytest

from dnsd.control import news as told
from dnsd.control.news import News
from dnsd.control.resolve import Health, Resolved, resolve
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.steer.health import State
from tests.control.fleet_samples import NOW, SERVICE, endpoint, override, service
from tests.control.rig import FakeClock
from tests.control.test_resolve import fleet

CHECKED = service(check={"kind": "tcp", "port": 80})


def seen(of: Fleet, **states: Measured) -> Resolved:
    """A service whose endpoints are measured like that; up, if nothing is said of them."""
    return resolve(of, SERVICE, {}, NOW, 0, Health(lambda id_, _: states.get(id_, Measured()), {}))


@pytest.fixture
def news() -> News:
    return News(FakeClock(), list)


def turns(news: News) -> list[tuple[str, ...]]:
    return [(one["what"], *map(str, (one.get("endpoint", ""), one.get("answered", ""), one.get("why", ""))))
            for one in news.after(0, 1000)]


def test_who_is_left_out_and_back_is_told_with_the_reason(news: News) -> None:
    both = fleet(CHECKED, *(endpoint(f"e{n}", f"192.0.2.{n}", site=f"s{n}") for n in range(3)))
    up = seen(both)
    down = seen(both, e0=Measured(State.DOWN, result="refused"))
    news.resolved(SERVICE, None, up)
    news.resolved(SERVICE, up, up)
    assert turns(news) == []
    news.resolved(SERVICE, up, down)
    news.resolved(SERVICE, down, up)
    assert turns(news) == [
        ("endpoint", "e0", "[]", "IPv4 down: refused"), ("endpoint", "e0", "['A']", "live")]
    news.resolved(SERVICE, up, None)
    assert len(turns(news)) == 2


def test_panic_and_ttl_and_what_is_forced(news: News) -> None:
    one = fleet(CHECKED, endpoint("e0", "192.0.2.1"))
    up, doubt = seen(one), seen(one, e0=Measured(doubt=True))
    news.resolved(SERVICE, up, doubt)
    assert news.after(0, 9)[0] | {"id": 0, "at_ms": 0} == {
        "id": 0, "at_ms": 0, "what": "ttl", "service": SERVICE, "ttl": doubt.view.ttl}
    panic = seen(one, e0=Measured(State.DOWN, result="refused"))
    news.resolved(SERVICE, doubt, panic)
    news.resolved(SERVICE, panic, up)
    assert [turn[0] for turn in turns(news)][1:] == ["panic", "panic ended", "ttl"]
    forced = seen(fleet(CHECKED, endpoint("e0", "192.0.2.1"), override("endpoint", f"{SERVICE}/e0", "up")))
    news.resolved(SERVICE, up, forced)
    assert turns(news)[-1][:2] == ("endpoint", "e0")


def test_many_at_once_are_counted(news: News) -> None:
    many = fleet(CHECKED, *(endpoint(f"e{n:03}", f"192.0.2.{n}", site=f"s{n}") for n in range(1, 101)))
    up, down = seen(many), seen(many, **{f"e{n:03}": Measured(State.DEGRADED) for n in range(1, 101)})
    news.resolved(SERVICE, up, down)
    endpoints = [one for one in news.after(0, 999) if one["what"] == "endpoint"]
    assert len(endpoints) <= told.MOST
    if len(endpoints) == told.MOST:
        assert [one["more"] for one in news.after(0, 999) if one["what"] == "endpoints"] == [100 - told.MOST]


def test_conditions_come_and_go() -> None:
    present = ["the registry is away"]
    news = News(FakeClock(), lambda: present)
    news.look()
    news.look()
    present[:] = ["held"]
    news.look()
    assert [(one["what"], one["condition"]) for one in news.after(0, 9)] == [
        ("condition", "the registry is away"), ("condition ended", "the registry is away"), ("condition", "held")]


def test_what_is_kept_is_bounded_and_numbers_tell_what_was_missed(news: News) -> None:
    for _ in range(told.KEPT + 10):
        news.add("ttl", ttl=1)
    assert (news.last, news.after(0, 1)[0]["id"], len(news.after(0, 10**6))) == (told.KEPT + 10, 11, told.KEPT)
    assert [one["id"] for one in news.after(told.KEPT + 8, 10)] == [told.KEPT + 9, told.KEPT + 10]
    assert news.after(told.KEPT + 10, 10) == news.after(10**9, 10) == []


@pytest.mark.asyncio
async def test_waiting_for_the_next(news: News) -> None:
    await news.wait(0, 0.0)
    await news.wait(0, 0.01)
    waiting = asyncio.create_task(news.wait(0, 60))
    await asyncio.sleep(0)
    news.add("ttl", ttl=1)
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(news.wait(0, 60), 1)
    assert (waiting.done(), [one["ttl"] for one in news.after(0, 9)]) == (True, [1])
