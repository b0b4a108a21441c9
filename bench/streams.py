"""Asks a DNS server over TLS (or TCP), with short connections or long, pipelined ones, and looks at every reply.

    python bench/streams.py -p PORT -f QUERIES [-t SECONDS] [--short] [--plain]

Lives here: a client that is quick enough to show what the server's CPU time is, for 64 queries travel together; the
one JSON line that `tcpblast` prints too. Does not live here: TCP at full rate (`tcpblast`), measuring (`compare`).

Short: each query has a connection of its own with a full handshake (TLS 1.3, no ticket is used), several at a time.
Long: four connections, 64 queries at a time on each. Certificates are not verified: whose server it is, is known.
127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Final

import workloads

CONNECTIONS: Final = 4
DEPTH: Final = 64
THREADS: Final = 8
WARM_SECONDS: Final = 0.3


class Stream:
    """One connection; `secret`: with TLS."""

    def __init__(self, port: int, secret: bool) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secret:
            self._sock = _CONTEXT.wrap_socket(self._sock)
        self._read = b""

    def send(self, queries: Sequence[bytes]) -> None:
        """All of them in one write, numbered."""
        self._sock.sendall(b"".join(
            len(query).to_bytes(2, "big") + number.to_bytes(2, "big") + query[2:]
            for number, query in enumerate(queries)))

    def receive(self, number: int) -> Iterator[bytes]:
        """So many replies."""
        while number:
            size = int.from_bytes(self._read[:2], "big") + 2
            if len(self._read) < max(3, size):
                more = self._sock.recv(65536)
                if not more:
                    raise ConnectionError("the server has closed the connection")
                self._read += more
                continue
            yield self._read[2:size]
            self._read = self._read[size:]
            number -= 1

    def close(self) -> None:
        """Closes it."""
        self._sock.close()


class Seen:
    """What came back."""

    def __init__(self) -> None:
        self.answered = self.bad = self.noerror = self.nxdomain = self.with_answer = self.octets = 0
        self.lock = Lock()
        self.waits: list[float] = []

    def take(self, query: bytes, reply: bytes) -> None:
        """A reply, counted by what it is."""
        end = query.index(b"\0", 12) + 5
        self.answered += 1
        self.octets += len(reply)
        self.bad += reply[2] & 0x80 == 0 or reply[4:6] != query[4:6] or reply[12:end] != query[12:end]
        self.noerror += reply[3] & 15 == 0
        self.nxdomain += reply[3] & 15 == 3
        self.with_answer += reply[6:8] != b"\0\0"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", dest="port", type=int, required=True)
    parser.add_argument("-f", dest="file", type=Path, required=True)
    parser.add_argument("-t", dest="seconds", type=float, default=2.0)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--plain", action="store_true", help="TCP without TLS")
    options = parser.parse_args()
    queries = itertools.cycle(workloads.read(options.file))
    seen, run = Seen(), short if options.short else long
    began = time.monotonic()
    ask = partial(run, queries, seen, options.port, began + WARM_SECONDS + options.seconds, not options.plain)
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(ask) for _ in range(THREADS if options.short else 1)]:
            future.result()
    took = time.monotonic() - began
    print(json.dumps({
        "answered": seen.answered, "all": seen.answered, "bad": seen.bad, "noerror": seen.noerror,
        "nxdomain": seen.nxdomain, "with_answer": seen.with_answer, "octets": round(seen.octets / seen.answered, 1),
        "qps": round(seen.answered / took), "p50_us": round(1e6 * median(seen.waits), 1)}))
    return 0


def short(queries: Iterator[bytes], seen: Seen, port: int, end: float, secret: bool) -> None:
    """One after another: connect, ask, close; for one of the threads. A wait is that of a whole connection."""
    while (now := time.monotonic()) < end:
        with seen.lock:
            query = next(queries)
        stream = Stream(port, secret)
        stream.send([query])
        reply = next(stream.receive(1))
        with seen.lock:
            seen.take(query, reply)
        stream.close()
        seen.waits.append(time.monotonic() - now)


def long(queries: Iterator[bytes], seen: Seen, port: int, end: float, secret: bool) -> None:
    """Always a batch on its way on all connections but the one that is looked at. Replies may come in any order."""
    streams = [Stream(port, secret) for _ in range(CONNECTIONS)]
    sent = [(time.monotonic(), list(itertools.islice(queries, DEPTH))) for _ in streams]
    for stream, (_, batch) in zip(streams, sent, strict=True):
        stream.send(batch)
    for turn in itertools.cycle(range(CONNECTIONS)):
        stream, (when, batch) = streams[turn], sent[turn]
        for reply in stream.receive(DEPTH):
            seen.take(batch[int.from_bytes(reply[:2], "big") % DEPTH], reply)
        now = time.monotonic()
        seen.waits.append(now - when)
        sent[turn] = (now, list(itertools.islice(queries, DEPTH)))
        if now > end:
            break
        stream.send(sent[turn][1])
    for stream in streams:
        stream.close()


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_CONTEXT: Final = _context()

if __name__ == "__main__":
    sys.exit(main())
