"""Steady DNS questions from many ports while something is done to the server, and what became of each.

Lives here: asking in a thread, one record for each question. Does not live here: what is done to the server, judging.

A port's questions go to one worker as long as the set of sockets stays: so ports tell workers apart before one is hurt.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.oracle.ask import Answer, Question, read, wire


@dataclass
class Asked:
    """One question: which port it left from, when (monotonic), when its answer came, what the answer was."""

    port: int
    question: Question
    at: float
    answered: float | None = None
    answer: Answer | None = None

    @property
    def took(self) -> float:
        """Seconds until the answer; infinite where none came."""
        return self.answered - self.at if self.answered is not None else float("inf")


class Prober:
    """Asks `questions` in turn, `rate` a second in all, from `ports` sockets, until left; never asks one again."""

    def __init__(self, port: int, questions: Sequence[Question], *, ports: int = 48, rate: float = 2000.0) -> None:
        self.asked: list[Asked] = []
        self._questions = questions
        self._gap = 1.0 / rate
        self._stop = threading.Event()
        self._sockets = []
        for _ in range(ports):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            self._sockets.append(sock)
        self._server = ("127.0.0.1", port)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self, patience: float = 3.0) -> list[Asked]:
        """Stops asking, waits for what is still to come, and gives the record."""
        if self._thread.is_alive():
            self._patience = patience
            self._stop.set()
            self._thread.join()
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        return self.asked

    def since(self, moment: float, until: float = float("inf")) -> list[Asked]:
        """The questions asked from `moment` on."""
        return [one for one in list(self.asked) if moment <= one.at < until]

    def _run(self) -> None:
        poll = select.epoll()
        by_fd = {sock.fileno(): sock for sock in self._sockets}
        for number in by_fd:
            poll.register(number, select.EPOLLIN)
        open_: dict[tuple[int, int], Asked] = {}
        rnd, number, due, deadline = random.Random(1), 0, time.monotonic(), float("inf")
        while time.monotonic() < deadline and (open_ or not self._stop.is_set()):
            now = time.monotonic()
            if self._stop.is_set():
                deadline = min(deadline, now + self._patience)
            while not self._stop.is_set() and due <= now:
                sock = rnd.choice(self._sockets)
                question = self._questions[number % len(self._questions)]
                number = number % 65535 + 1
                one = Asked(sock.getsockname()[1], question, time.monotonic())
                sock.sendto(wire(question, number), self._server)
                open_[sock.fileno(), number] = one
                self.asked.append(one)
                due += self._gap
            for fd, _ in poll.poll(max(0.0, min(due - time.monotonic(), 0.02))):
                self._take(by_fd[fd], open_)
        poll.close()

    @staticmethod
    def _take(sock: socket.socket, open_: dict[tuple[int, int], Asked]) -> None:
        try:
            data = sock.recv(65535)
        except OSError:  # nobody is bound there any more
            return
        one = open_.pop((sock.fileno(), int.from_bytes(data[:2], "big")), None)
        if one is not None:
            one.answered, one.answer = time.monotonic(), read(data)


def by_worker(asked: Sequence[Asked]) -> dict[int, str]:
    """Which worker each port's questions went to."""
    return {one.port: one.answer.worker for one in asked if one.answer is not None}
