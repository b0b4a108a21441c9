"""The file of cookie secrets, the same on every node that answers at one address: made once, rolled over in steps.

Lives here: making, reading and rewriting it. Does not live here: what its lines mean (`dns.cookies`), noticing that it
has changed (`serve.secrets`), the command (`cli.cookies`).

Cookies stay good while a secret is replaced when every node believes the new one before any node makes cookies with it
(RFC 9018 §5): stage it everywhere, then activate it everywhere, then, an hour later, drop the old one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from dnsd import disk
from dnsd.dns.cookies import ACTIVE, RETIRED, SECRET_SIZE, SECRETS_MAX, STAGING, entries

LARGEST: Final = 65536
_HEAD: Final = "# Secrets of DNS cookies: `dnsd cookies` changes them. Whoever knows one can make cookies.\n"

Entries = list[tuple[str, bytes]]
"""(Mode, secret), the active one first."""


class StepError(Exception):
    """The secrets are not where this step begins; the text says why."""


def ensure(path: Path) -> None:
    """Make the file with a random secret where there is none. OSError."""
    if not os.path.lexists(path):  # of two who make it at once the second wins, and the first's workers see that
        disk.replace(path, _text([(ACTIVE, os.urandom(SECRET_SIZE))]).encode(), mode=0o600)


def load(path: Path) -> Entries:
    """What is in the file; OSError, or ValueError with all its faults. Links are followed: secrets are mounted so."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        raise OSError(f"{path} is no file, or larger than {LARGEST} octets")
    return entries(path.read_text(encoding="utf-8"))


def store(path: Path, secrets: Entries) -> None:
    """Put the secrets in the file's place: whoever reads sees the old or the new. Its owner stays. OSError."""
    path = path.resolve()
    status = path.stat()
    disk.replace(path, _text(secrets).encode(), mode=0o600)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(path, status.st_uid, status.st_gid)  # root does it for a daemon that is not


def added(secrets: Entries, secret: bytes) -> Entries:
    """With one that is believed, but not used yet. StepError."""
    if any(mode == STAGING for mode, _ in secrets):
        raise StepError("one is staged already: activate it, or drop it")
    if secret in (known for _, known in secrets):
        raise StepError("it is there already")
    if len(secrets) == SECRETS_MAX:
        raise StepError(f"there are {SECRETS_MAX} already: drop the retired ones")
    return [secrets[0], (STAGING, secret), *secrets[1:]]


def activated(secrets: Entries) -> Entries:
    """With the staged one in use, and the one in use so far only believed. StepError."""
    staged = [secret for mode, secret in secrets if mode == STAGING]
    if not staged:
        raise StepError("none is staged: add one, on every node")
    others = [(RETIRED, secret) for mode, secret in secrets if mode != STAGING]
    return [(ACTIVE, staged[0]), *others]


def dropped(secrets: Entries) -> Entries:
    """Without the retired ones; where there are none, without the staged one. StepError."""
    gone = RETIRED if any(mode == RETIRED for mode, _ in secrets) else STAGING
    left = [(mode, secret) for mode, secret in secrets if mode != gone]
    if len(left) == len(secrets):
        raise StepError("there is only the active one")
    return left


def _text(secrets: Entries) -> str:
    return _HEAD + "".join(f"{mode} {secret.hex()}\n" for mode, secret in secrets)
