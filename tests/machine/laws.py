"""What must hold of every node at every moment, and of all of them once nothing has gone wrong for a while.

Lives here: the laws, told in the words of users: names, addresses, versions. Does not live here: how things come about.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dnsd.control.app import Process
from dnsd.dns import types
from dnsd.model import Stamp
from tests.control.rig import Worker

if TYPE_CHECKING:
    from tests.machine.world import Node, World

TYPES = {types.A: "A", types.AAAA: "AAAA"}


class Laws:
    """Looks on. What a law says is in the message of its assertion."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: tuple[str, ...] = ()
        self.broken: list[str] = []
        self._stamps: dict[tuple[str, int], Stamp] = {}
        self._answers: dict[tuple[str, int, str, int], list[bytes]] = {}
        self._may_end: dict[tuple[str, str, int], str] = {}

    def attach(self, node: Node, process: Process) -> None:
        """A control process that is about to run."""

    def served(self, node: Node, worker: Worker) -> None:
        """A worker has taken frames."""
        stamp, key = worker.stamp, (node.name, id(worker))
        if stamp is None:
            return
        before = self._stamps.get(key)
        if before is not None and before.epoch == stamp.epoch and stamp < before:
            self.broken.append(f"{node.name}: {before} was served, and now {stamp}")
        self._stamps[key] = stamp
        for name in self.names:
            for type_ in TYPES:
                _rcode, _found = worker.ask(name, type_)

    def check(self) -> None:
        """Nothing was broken so far."""
        assert not self.broken, self.broken


def _unused(_: Iterable[Any]) -> None:
    return
