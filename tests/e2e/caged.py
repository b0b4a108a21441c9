"""A real node in a network namespace of its own, where every packet that leaves is seen: what does it connect to?

`python -m tests.e2e.caged FOLDER ATLAS` prints JSON: `left` counts TCP and UDP packets by destination, `canaries` the
connections and datagrams that came to listeners on every local address, `asked` the questions to a local resolver,
`refused` what the node says of each address it was given, `front` the requests to the one server that it may probe
here, which redirects. Exit code 3: this machine has no namespaces or TUN devices for us.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any, Final

from dnsd.drill import netns
from tests.node import Node, free_port, serving, until, write_config

ALLOWED: Final = ("10.77.0.1",)
PUBLIC: Final = ("9.9.9.9", "2600::1")
FRONT: Final = "10.9.0.9"
METADATA: Final = "169.254.169.254"
SECRET: Final = (
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.9.0.1", "10.9.0.7", "10.8.0.1", "172.16.0.1", "192.168.0.1", METADATA,
    "168.63.129.16", "100.100.100.200", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fd00:ec2::254",
    "fe80::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::127.0.0.1", "2002:7f00:1::1", "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::", "2001:0:808:808::5601:5601", "2600::5efe:127.0.0.1", "2600::200:5efe:169.254.169.254")
KINDS: Final = ("http", "tcp", "https", "tls", "grpc", "dns")
REBOUND: Final = "rebound.example"
_ROUTES: Final = (("198.51.100.1", "128.0.0.0"), ("100.127.0.1", "192.0.0.0"), ("62.0.0.1", "224.0.0.0"),
                  ("30.0.0.1", "240.0.0.0"), ("14.0.0.1", "248.0.0.0"))
_ROUTES6: Final = (("2a00::1", 3), ("fd77::1", 7), ("64:7777::1", 16), ("100::7777", 64))
_SET_ADDRESS6: Final = 0x8916


def main() -> int:
    """The command."""
    folder, atlas = map(Path, sys.argv[1:3])
    try:
        tun = _cage()
    except OSError as error:
        print(error, file=sys.stderr)
        return 3
    left: Counter[str] = Counter()
    came: Counter[str] = Counter()
    threading.Thread(target=_watch, args=(tun, left), daemon=True).start()
    port = free_port()
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            _listen(family, kind, (host, port), lambda _: came.update(["canaries"]))
    _listen(socket.AF_INET, socket.SOCK_DGRAM, ("0.0.0.0", 53), lambda _: came.update(["asked"]))
    _listen(socket.AF_INET6, socket.SOCK_DGRAM, ("::", 53), lambda _: came.update(["asked"]))
    front, places = free_port(), [f"127.0.0.1:{port}", f"[::1]:{port}", METADATA, f"{REBOUND}:{port}", "10.8.0.1"]

    def redirect(connection: socket.socket) -> None:
        came["front"] += 1
        connection.recv(4096)
        connection.send(f"HTTP/1.1 302 Go\r\nLocation: http://{places[came['front'] % len(places)]}/\r\n\r\n".encode())

    _listen(socket.AF_INET, socket.SOCK_STREAM, (FRONT, front), redirect)
    config = write_config(folder, atlas, workers=1, more='[probes]\nallow = ["10.77.0.0/16", "10.9.0.9/32"]\n')
    site = {"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}
    with serving(config, {"sites": [site]}) as node:
        refused = _told(node, _declare(node, port, front), left, came)
    print(json.dumps({"left": left, "refused": refused, **{key: came[key] for key in ("canaries", "asked", "front")}}))
    return 0


def _cage() -> int:
    """Goes into a namespace where everything but loopback and 10.9.0.0/24 leaves by a TUN device; its descriptor."""
    if os.geteuid():
        netns.new_user()
    _, tun = netns.new_network(IPv4Network("10.9.0.0/24"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for i, (address, mask) in enumerate(_ROUTES):
            for request, value in ((0x8916, address), (0x891C, mask)):
                fcntl.ioctl(sock, request, struct.pack(
                    "16sHH4s16x", f"{netns.DEVICE}:{i}".encode(), socket.AF_INET, 0, ip_address(value).packed))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for address, bits in _ROUTES6:
            fcntl.ioctl(sock, _SET_ADDRESS6, struct.pack(
                "=16sIi", ip_address(address).packed, bits, socket.if_nametoindex(netns.DEVICE)))
    os.set_blocking(tun, True)
    return tun


def _watch(tun: int, left: Counter[str]) -> None:
    """Counts TCP and UDP packets by destination, for ever."""
    while True:
        packet = os.read(tun, 65536)
        version = packet[0] >> 4
        protocol = packet[9] if version == 4 else packet[6]
        if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            left[str(ip_address(packet[16:20] if version == 4 else packet[24:40]))] += 1


def _listen(family: socket.AddressFamily, kind: socket.SocketKind, at: tuple[str, int], came: Any) -> None:
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(at)
    if kind == socket.SOCK_STREAM:
        sock.listen(64)

    def loop() -> None:
        while True:
            if kind == socket.SOCK_DGRAM:
                came(sock.recvfrom(4096))
            else:
                connection, _ = sock.accept()
                with connection:
                    came(connection)

    threading.Thread(target=loop, daemon=True).start()


def _declare(node: Node, port: int, front: int) -> dict[str, str]:
    """A service for each address, as the endpoint's own or as the check's; service -> address. What the API will not
    have is none.
    """
    made = {}
    addresses = [*((one, port) for one in (*SECRET, *ALLOWED, *PUBLIC)), (FRONT, front), (METADATA, 80),
                 ("127.0.0.1", int(node.admin.rpartition(":")[2]))]
    for i, (address, at) in enumerate(addresses):
        for direct in (True, False):
            name = f"s{i}{'d' if direct else 'c'}.demo.example"
            kind = "http" if at == front else KINDS[(i + direct) % len(KINDS)]
            check = {"kind": kind, "port": at, "host": REBOUND} | ({} if direct else {"address": address})
            if kind == "tcp":
                del check["host"]
            endpoint = {"id": "e", "service": name, "site": "fra",
                        ("aaaa" if ":" in address else "a") if direct else "a": address if direct else PUBLIC[0]}
            reply = node.api("POST", "/v1/apply", {"services": [{"name": name, "check": check}],
                                                   "endpoints": [endpoint]})
            if reply.status < 300:
                made[name] = address
            elif reply.status != 422:
                raise AssertionError(reply)
    return made


def _told(node: Node, made: dict[str, str], left: Counter[str], came: Counter[str]) -> dict[str, list[str]]:
    """Address -> what is said of it, once everybody who may be probed was, several times."""
    until(lambda: came["front"] > 6 and all(left[one] > 3 for one in (*ALLOWED, *PUBLIC)), 15, "the others are probed")
    time.sleep(1)
    refused: dict[str, list[str]] = {}
    for one in node.api("GET", "/v1/status").body["health"]["not_up"]:
        for name in one["services"]:
            if made[name] not in (*ALLOWED, *PUBLIC):
                refused.setdefault(made[name], []).append(one["result"])
    return refused


if __name__ == "__main__":
    sys.exit(main())
