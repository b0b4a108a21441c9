"""One child process: started with inherited descriptors, started again whenever it ends.

Lives here: a child's start, its end, the wait before the next start. Does not live here: which children there are and
what they are given (`supervisor`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

SHORT_SECONDS: Final = 3.0  # a child that ends sooner did not start
BACKOFF_SECONDS: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0)  # before a start, by failed starts before it
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """A process that is started again whenever it ends. `due` is when to start it next, None while it runs or rests."""

    def __init__(self, name: str, argv: Callable[[], list[str]], descriptors: Callable[[], list[int]], *,
                 death: int = signal.SIGKILL, told: Callable[[], str] = str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.failures = 0
        self.replacing = False  # told to end, for a start with other descriptors
        self.due: float | None = 0.0
        self._argv, self._descriptors, self._death, self._told = argv, descriptors, death, told

    def start(self, now: float) -> None:
        """Start it; a start that fails at once counts as one that ended."""
        self.started, self.due = now, None
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
        try:
            with open(os.memfd_create("settings"), "w+", encoding="utf-8") as stdin:
                stdin.write(self._told())
                stdin.seek(0)
                self.process = subprocess.Popen(  # its own group: Ctrl-C is for the supervisor alone
                    self._argv(), stdin=stdin, pass_fds=self._descriptors(), env=environment, process_group=0,
                    preexec_fn=_prepare(self._death))
        except (OSError, subprocess.SubprocessError) as error:
            self.again(now, str(error))

    def ended(self) -> str:
        """How it has ended since the last call; empty when it has not."""
        code = self.process.poll() if self.process else None
        if code is None:
            return ""
        self.process = None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def again(self, now: float, why: str) -> None:
        """Plan the next start."""
        if self.replacing:
            self.replacing, self.due = False, now
            return
        self.failures = self.failures + 1 if now - self.started < SHORT_SECONDS else 0
        wait = BACKOFF_SECONDS[min(max(self.failures - 1, 0), len(BACKOFF_SECONDS) - 1)]
        self.due = now + wait
        log(f"{self.name} ended ({why}), starting again" + (f" in {wait:g} s" if wait else ""))

    def signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.process:
            self.process.send_signal(number)


def log(text: str) -> None:
    """A line for the operator."""
    print(f"dnsd supervisor: {text}", file=sys.stderr, flush=True)


def _prepare(death: int) -> Callable[[], None]:
    """What a child does before exec: die with this process, whatever state it is in, and take signals again."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, death)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    return prepare
