"""Files that several processes share: their names in the state directory, replacing one whole, reading and mapping.

Lives here: just that. Does not live here: what is in the files (`image`, `atlas`, `control.files`), who owns which.

Readers map a file and keep it: so nothing is ever written in place, and a mapping stays what it was when its file is
replaced. Links are not followed.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_native_id
from typing import Final

IMAGE: Final = "image"
JOURNAL: Final = "image.journal"
MAPS: Final = "maps"
STATS: Final = "stats"
LOCK: Final = "lock"
GUARD: Final = "guard"
CONTROL: Final = "control.sock"
COOKIES: Final = "cookies"
SERIALS: Final = "serials.json"
TOKEN: Final = "admin.token"  # noqa: S105 - a file's name
MAX_FILE: Final = 4 * 1024**3
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would hold up whoever opens it


def replace(path: Path, *parts: bytes | bytearray | memoryview, mode: int = 0o600,
            head: Callable[[], bytes] | None = None) -> None:
    """Put the parts, one after another, in the file's place: readers see the old or the new, also after a power cut.

    `head` is asked while the disk is at work, for what the file begins with in place of what the parts begin with.
    """
    # The thread's number, for two threads of a process may write the same file; a dead one's leftover is in the way.
    beside = path.with_name(f".{path.name}.{get_native_id()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if head is not None:
                with ThreadPoolExecutor(1) as other:
                    synced = other.submit(os.fsync, file.fileno())
                    begin = head()
                    synced.result()  # a failure is told once, so not by the next one
                file.seek(0)
                file.write(begin)
                file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path, limit: int = MAX_FILE) -> bytes | None:
    """A regular file's content; None when there is none. OSError for a link, another kind of file, or one too large."""
    try:
        descriptor = os.open(path, READ)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise OSError(f"{path} is no file, or larger than {limit} octets")
        return file.read()


def mapped(path: Path) -> memoryview:
    """A file's octets, shared with every process that maps it; empty for an empty file. OSError for anything else."""
    descriptor = os.open(path, READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no file")
        size = status.st_size
        return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")
    finally:
        os.close(descriptor)
