"""Why a command ends other than well: the exit codes, and the one exception that carries them.

Lives here: `Exit`, `Failure`, how a failure is shown. Does not live here: usage errors, which typer itself ends with 2.

Scripts act on exit codes, so there is one list of them, documented in docs/cli.md and held by a test.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import IntEnum

from dnsd import model


class Exit(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG_INVALID = 3
    UNREACHABLE = 4
    PRECONDITION = 5


class Failure(Exception):
    """Ends the command: its exit code, one sentence, and every fault found, each with its place."""

    def __init__(self, code: Exit, message: str, faults: Sequence[model.Fault] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.faults = tuple(faults)

    def show(self, *, as_json: bool) -> None:
        """Writes it to standard error, with `as_json` as one object to standard output."""
        if as_json:
            faults = [fault._asdict() for fault in self.faults]
            print(json.dumps({"error": self.message, "exit": int(self.code), "faults": faults}))
            return
        print(f"dnsd: {self.message}", file=sys.stderr)
        for fault in self.faults:
            print(f"  {fault.place}: {fault.message}" if fault.place else f"  {fault.message}", file=sys.stderr)
