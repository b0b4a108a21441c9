"""The file of cookie secrets: made once, the same on every node that answers at one address.

Lives here: making it. Does not live here: what its lines mean (`dns.cookies`), who reads it when.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def ensure(path: Path) -> None:
    """Make the file with a random secret where there is none. OSError."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"active {os.urandom(16).hex()}\n")
