"""Whether the kernel's queue is crowded, by its own account."""

from __future__ import annotations

import socket

from dnsd.serve.mmsg import crowded


def test_a_queue_is_crowded_from_half_full_on() -> None:
    with (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
          socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        assert not crowded(server)
        sent = 0
        while not crowded(server):
            client.send(b"x" * 100)
            sent += 1
            assert sent < 10_000
        assert sent > 50
        for _ in range(sent):
            server.recv(200)
        assert not crowded(server)


def test_a_socket_without_such_an_account_is_never_crowded() -> None:
    one, other = socket.socketpair()
    with one:
        other.close()
    assert not crowded(one)
