"""Clocks of other processes that can be put ahead while they run, by a small library loaded into them.

Lives here: the library's source, compiling it, setting a clock. Does not live here: whose clock (`fleet`), when
(`faults`). Nothing of dnsd knows of this: any dynamically linked program takes it. Needs a C compiler.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *ahead_ms;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DRILL_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *ahead_ms, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) ahead_ms = map;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if (!result && ahead_ms && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_nsec + *ahead_ms % 1000 * 1000000;
        now->tv_sec += *ahead_ms / 1000 + ns / 1000000000;
        now->tv_nsec = ns % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec t;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &t);
    if (!result && now) *now = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return result;
}

time_t time(time_t *out) {
    struct timespec t;
    if (clock_gettime(CLOCK_REALTIME, &t)) return -1;
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"""


class Clocks:
    """Clocks by name, in a folder. `missing`: why there can be none; then all run as the machine's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._library = folder, folder / "clock.so"
        self._maps: dict[str, mmap.mmap] = {}
        self.missing = _compile(folder / "clock.c", self._library)

    def environment(self, name: str) -> dict[str, str]:
        """What a process needs in its environment to run by this clock."""
        if self.missing:
            return {}
        path = self._folder / name
        if name not in self._maps:
            path.write_bytes(bytes(8))
            with path.open("r+b") as file:
                self._maps[name] = mmap.mmap(file.fileno(), 8)
        return {"LD_PRELOAD": str(self._library), "DRILL_CLOCK": str(path)}

    def put_ahead(self, name: str, ms: int) -> None:
        """From now on the clock is so far ahead of the machine's (0 or more)."""
        self._maps[name][:] = struct.pack("=q", ms)


def _compile(source: Path, library: Path) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        return "there is no C compiler (cc)"
    source.write_text(SOURCE, encoding="ascii")
    done = subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], capture_output=True, text=True,
                          check=False)
    return f"cc: {done.stderr.strip()[:200]}" if done.returncode else ""
