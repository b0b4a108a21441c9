"""The fakes and the protocol say what the real classes say: else the other tests would prove nothing."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from dnsd.admin.call import Control
from dnsd.control import face
from dnsd.registry.store import Registry
from tests.admin.fake import FakeControl, FakeRegistry

FACE = ("status", "ready", "wait_version", "explain", "misplaced", "stands", "endpoint", "report", "measure",
        "registered", "reload", "simulate", "fleet")
REGISTRY = ("load", "get", "list", "put", "delete", "apply", "acquire", "renew", "release", "audit")


def shape(owner: type, name: str) -> tuple[bool, list[tuple[str, Any, Any]]]:
    """Whether it is a coroutine, and its parameters: name, kind, default."""
    function = inspect.getattr_static(owner, name)
    parameters = inspect.signature(function).parameters.values()
    return inspect.iscoroutinefunction(function), [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("name", FACE)
def test_the_control_process_is_as_declared(name: str) -> None:
    assert shape(face.Control, name) == shape(Control, name) == shape(FakeControl, name)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_fake_registry_is_called_as_the_real_one(name: str) -> None:
    assert shape(FakeRegistry, name) == shape(Registry, name)


def test_nothing_else_is_declared() -> None:
    assert {name for name in vars(Control) if not name.startswith("_")} == set(FACE)
    assert set(Control.__annotations__) == {"registry", "stats", "news", "custody", "local"}
