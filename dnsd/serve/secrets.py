"""The cookie secrets a worker uses, read again when their file changes.

Lives here: noticing a change, keeping what was good. Does not live here: the file's form (`cookiefile`, `dns.cookies`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dnsd import cookiefile
from dnsd.dns.cookies import Cookies


class SecretsFile:
    """`cookies` are of the last good content of the file; None as long as there was none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._told = ""
        self.cookies: Cookies | None = None
        self.reload_if_changed()

    def reload_if_changed(self) -> bool:
        """Look at the file, which costs one stat; whether `cookies` are new.

        A file that cannot be used is said once, and what was there stays.
        """
        try:
            state = _state(self._path)
            if state == self._seen:
                return False
            self._seen = state
            secrets = [secret for _, secret in cookiefile.load(self._path)]
        except (OSError, ValueError) as error:
            self._tell(f"dnsd worker: the cookie secrets cannot be used, "
                       f"{'there are no cookies' if self.cookies is None else 'the old ones stay'}: "
                       f"{self._path}: {getattr(error, 'strerror', None) or error}")
            return False
        self._told = ""
        self.cookies = Cookies(secrets)
        return True

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            print(text, file=sys.stderr, flush=True)


def _state(path: Path) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
