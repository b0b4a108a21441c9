"""A flood of one query from many addresses of one /24, as a process: `python flood.py PORT SECONDS RATE HEX`.

Lives here: sending. Does not live here: what the server does with it (`test_limits`), how much it is (its counters).

Sources are addresses of 127.9.9.0/24, which Linux lets anybody bind; what comes back is left to overflow, as it would
at the victim of a forged source. RATE is in queries a second, 0 for as many as go. It says how many it sent.
"""

from __future__ import annotations

import socket
import sys
import time

NETWORK = "127.9.9"
SOURCES = 64
CHUNK = 16


def main(port: int, seconds: float, rate: int, packet: bytes) -> int:
    """Send until the time is over; how many were sent."""
    senders = []
    for host in range(1, SOURCES + 1):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((f"{NETWORK}.{host}", 0))
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        senders.append(sock.send)
    sent = refused = 0
    start = now = time.monotonic()
    while now < start + seconds:
        if rate and sent + refused > (now - start) * rate:
            time.sleep(0.001)
        else:
            for at in range(CHUNK):
                try:
                    senders[(sent + at) % SOURCES](packet)
                except OSError:
                    refused += 1
            sent += CHUNK
        now = time.monotonic()
    return sent - refused


if __name__ == "__main__":
    print(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])))
