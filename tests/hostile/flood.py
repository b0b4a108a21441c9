"""Hostile packets at a steady rate: `python -m tests.hostile.flood PORT RATE NUMBER [ZONE]`; only 127.0.0.1 is asked.

Lives here: sending. Does not live here: the packets (`tests.hostile.packets`), what must hold meanwhile (`test_flood`).

A process of its own, so that its sending and the canary's waiting do not share an interpreter. It says on stdout how
many packets it sent. Each has another id; every fourth has octets changed. The same packets every time.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from contextlib import ExitStack

from tests.hostile.packets import chains, hostile, typical

LARGEST = 65507  # what a datagram can carry
LARGE = 2000     # of those above, one in ten is sent: at 64 kB each they test the kernel, not the server
STEP_S = 0.004
PREFIXES = 61    # that it comes from, so that limits hold back some of it and not all


def packets(zone: str, number: int) -> list[bytes]:
    """So many packets, in no order."""
    rnd = random.Random(7)
    bases = [packet[:LARGEST] for _, packet in (*hostile(zone), *chains(zone), *typical(zone))]
    made: list[bytes] = []
    while len(made) < number:
        data = bytearray(rnd.choice(bases))
        if len(data) > LARGE and rnd.random() < 0.9:
            continue
        data[0:2] = rnd.randbytes(2)
        if not rnd.randrange(4):
            for _ in range(rnd.randint(1, 8)):
                data[rnd.randrange(2, len(data))] = rnd.randrange(256)
        made.append(bytes(data))
    return made


def main(port: int, rate: float, number: int, zone: str) -> None:
    """Sends them all."""
    made = packets(zone, min(number, 20_000))
    with ExitStack() as stack:
        socks = [stack.enter_context(_socket(f"127.{prefix}.0.1")) for prefix in range(10, 10 + PREFIXES)]
        sent, failed, start = 0, 0, time.monotonic()
        while sent < number:
            due = min(number, int((time.monotonic() - start) * rate))
            while sent < due:
                try:
                    socks[sent % PREFIXES].sendto(made[sent % len(made)], ("127.0.0.1", port))
                except BlockingIOError:
                    failed += 1
                sent += 1
            time.sleep(STEP_S)
    print(sent - failed, round(time.monotonic() - start, 1), flush=True)


def _socket(host: str) -> socket.socket:
    """A socket that never waits; what is sent back to it stays in its queue or is dropped there."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), (*sys.argv[4:], "demo.example")[0])
