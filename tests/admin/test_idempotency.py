"""The memory of answers: bounded by count, by token, by octets, by time."""

from __future__ import annotations

import pytest
from aiohttp import web

from dnsd.admin import idempotency
from dnsd.admin.idempotency import Memory
from dnsd.admin.problem import Problem


class Doer:
    """Counts how often it was really done."""

    def __init__(self, size: int = 1) -> None:
        self.done = 0
        self.size = size

    async def __call__(self) -> web.Response:
        self.done += 1
        return web.Response(body=b"x" * self.size, status=201)


@pytest.mark.asyncio
async def test_kept_for_a_day() -> None:
    now = [0.0]
    memory, act = Memory(lambda: now[0]), Doer()
    for at, done in ((0.0, 1), (1.0, 1), (idempotency.KEPT_SECONDS - 1, 1), (idempotency.KEPT_SECONDS + 1, 2)):
        now[0] = at
        assert (await memory.once("t", "k", b"", act)).status == 201
        assert act.done == done


@pytest.mark.asyncio
async def test_without_a_key_nothing_is_kept() -> None:
    memory, act = Memory(), Doer()
    for _ in range(3):
        await memory.once("t", None, b"", act)
    assert act.done == 3
    assert not memory._kept


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "é"])
@pytest.mark.asyncio
async def test_keys_are_plain(key: str) -> None:
    with pytest.raises(Problem, match="well formed"):
        await Memory().once("t", key, b"", Doer())


@pytest.mark.asyncio
async def test_a_token_forgets_its_own_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEPT_MAX_TOKEN", 3)
    memory, act = Memory(), Doer()
    await memory.once("other", "k", b"", act)
    for number in range(5):
        await memory.once("t", f"k{number}", b"", act)
    assert [key for token, key in memory._kept if token == "t"] == ["k2", "k3", "k4"]
    assert ("other", "k") in memory._kept
    assert dict(memory._per_token) == {"t": 3, "other": 1}


@pytest.mark.asyncio
async def test_all_tokens_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEPT_MAX", 4)
    monkeypatch.setattr(idempotency, "KEPT_BYTES", 10)
    memory = Memory()
    for number in range(9):
        await memory.once(f"t{number}", "k", b"", Doer())
    assert len(memory._kept) == 4
    await memory.once("big", "k", b"", Doer(8))
    assert list(memory._kept)[-1] == ("big", "k")
    assert memory._bytes <= 10
    assert memory._bytes == sum(len(kept.body) for kept in memory._kept.values())
    await memory.once("huge", "k", b"", Doer(11))
    assert memory._bytes == 0
    assert not memory._kept


@pytest.mark.asyncio
async def test_a_failure_is_not_kept() -> None:
    memory = Memory()

    async def fail() -> web.Response:
        raise Problem(409, "no")

    with pytest.raises(Problem):
        await memory.once("t", "k", b"", fail)
    assert not memory._kept
    assert not memory._per_token
