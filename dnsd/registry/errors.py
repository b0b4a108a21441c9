"""What the registry refuses, as a tree of exceptions that carry the HTTP status they lead to.

Lives here: the exceptions. Does not live here: deciding that something is wrong (`store`, `rules`, the scripts), the
problem+json they become (`admin`).

`Gap` is no refusal: it tells a reader of the event stream to load the whole state again.
"""

from __future__ import annotations

from collections.abc import Iterable

from dnsd.model import Fault


class RegistryError(Exception):
    """A refusal: nothing was written. `faults` names every place that is wrong, `str()` is one line for a person."""

    status = 500
    title = "registry error"

    def __init__(self, message: str = "", faults: Iterable[Fault] = ()) -> None:
        self.faults = list(faults)
        super().__init__(message or "; ".join(f"{place}: {text}" for place, text in self.faults) or self.title)


class NotFound(RegistryError):
    """There is no such object."""

    status = 404
    title = "not found"


class Conflict(RegistryError):
    """The object is held or used by another, or the fence is old."""

    status = 409
    title = "conflict"


class PreconditionFailed(RegistryError):
    """The object, or the whole state, is not the one the writer had seen."""

    status = 412
    title = "precondition failed"


class Invalid(RegistryError):
    """The resulting state would break a rule between objects."""

    status = 422
    title = "invalid"


class PreconditionRequired(RegistryError):
    """The object exists and the writer did not say which one it had seen."""

    status = 428
    title = "precondition required"


class Unavailable(RegistryError):
    """The store cannot be asked, or refuses. A write that ended so may or may not have happened."""

    status = 503
    title = "registry unavailable"


class Gap(Exception):
    """The event stream does not continue from where the reader stands: load the whole state and go on from there.

    `reason` is `trimmed` (the reader was away too long), `forked` (another history: restored, failed over, emptied),
    or `corrupt` (an event that cannot be read back).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)
