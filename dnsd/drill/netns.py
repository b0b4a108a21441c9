"""Network namespaces without tools and, where the kernel allows it, without root; and a command that runs inside one.

Lives here: the system calls, a TUN device, addresses, `python netns.py USER NET -- COMMAND`. Does not live
here: what goes between namespaces (`relay`), who makes how many (`network`).

Nothing gets a name: a namespace is there while a process or a descriptor holds it, so there is nothing to leave behind.
Each has one prefix of its own, all of which is local (an address of `lo` makes its whole prefix so), and reaches
everything else in 10.0.0.0/8 by the TUN device. IPv4 only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Final

NEW_USER: Final = 0x10000000
NEW_NET: Final = 0x40000000
PARENT_DEATH_SIGNAL: Final = 1
TUN: Final = "/dev/net/tun"
DEVICE: Final = "tun0"
AHEAD: Final = -10

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_SET_FLAGS, _SET_ADDRESS, _SET_MASK = 0x8914, 0x8916, 0x891C
_UP_RUNNING: Final = 0x41

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leaves namespaces for new ones; OSError."""
    _check(_libc.unshare(flags), "unshare")


def enter(descriptor: int, flags: int) -> None:
    """Enters the namespace that a descriptor holds; OSError."""
    _check(_libc.setns(descriptor, flags), "setns")


def new_user() -> None:
    """Becomes root of a new user namespace, in which only this user exists; OSError where that is forbidden."""
    user, group = os.geteuid(), os.getegid()
    unshare(NEW_USER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def new_network(prefix: IPv4Network) -> tuple[int, int]:
    """Goes into a new network namespace with a prefix; descriptors of the namespace and of its TUN device; OSError."""
    unshare(NEW_NET)
    held = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    tun = os.open(TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _up(sock, "lo")
        _address(sock, "lo:1", prefix[2], prefix.netmask)
        _address(sock, DEVICE, prefix[1], IPv4Address("255.0.0.0"))
        _up(sock, DEVICE)
    return held, tun


def main(words: Sequence[str]) -> None:
    """Becomes COMMAND inside: USER and NET are paths of namespaces, USER `-` for none. Dies with who started it."""
    user, net, _, *command = words
    starter = os.getppid()
    be_ahead(0)  # no longer: this is a part of the fleet
    for path, kind in ((user, NEW_USER), (net, NEW_NET)):
        if path != "-":
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            enter(descriptor, kind)
    _check(_libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != starter:
        sys.exit("who started this is gone")
    os.execvp(command[0], command)  # noqa: S606 - the command is the caller's own


def be_ahead(niceness: int = AHEAD) -> None:
    """Let this process go before others, where that is allowed: what stands for the world must not wait for nodes."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def _up(sock: socket.socket, device: str) -> None:
    fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sH22x", device.encode(), _UP_RUNNING))


def _address(sock: socket.socket, device: str, address: IPv4Address, mask: IPv4Address) -> None:
    for request, value in ((_SET_ADDRESS, address), (_SET_MASK, mask)):
        fcntl.ioctl(sock, request, struct.pack("16sHH4s16x", device.encode(), socket.AF_INET, 0, value.packed))


def _check(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
