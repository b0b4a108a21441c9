"""NOTIFY (RFC 1996): secondaries are told when a zone has another serial, until they say that they have heard it.

Lives here: whom to tell, when, how often, what they said. Does not live here: serials (`control.serials`), keys
(`control.tsig`), NOTIFY that comes in (refused, `odd`).

A secondary that is told asks any worker for the SOA at once; so it is told only when all workers serve the new one. The
addresses are the configured literal ones, and nothing else is ever sent to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig

from dnsd.control.clock import Clock
from dnsd.control.transfer import Content
from dnsd.dns import names

ANSWER_S: Final = 3.0
FIRST_S: Final = 1.0
LONGEST_S: Final = 64.0
ATTEMPTS: Final = 12  # about a quarter of an hour; then not before the next change
AT_ONCE: Final = 32
_SIZE: Final = 4096


@dataclass(slots=True)
class Target:
    """One secondary of one zone. `heard` is the last serial it has acknowledged, `error` why not the present one."""

    apex: bytes
    host: str
    port: int
    key: dns.tsig.Key | None = field(default=None, repr=False)
    heard: int | None = None
    error: str = ""
    attempts: int = 0
    due: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """As it is configured."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def described(self) -> dict[str, Any]:
        """For people."""
        return {"address": self.address, "serial": self.heard, "attempts": self.attempts, "error": self.error or None}


class Notifier:
    """All secondaries. `contents` gives what is served of each zone; `everywhere` waits until all workers serve it."""

    def __init__(self, targets: Iterable[Target], contents: Callable[[], Mapping[bytes, Content]],
                 everywhere: Callable[[], Awaitable[object]], clock: Clock) -> None:
        self.targets = list(targets)
        self._contents, self._everywhere, self._clock = contents, everywhere, clock
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self, taken: asyncio.Event) -> None:
        """Tell, for ever; `taken` is set when other contents are served."""
        async with asyncio.TaskGroup() as tasks:
            for target in self.targets:
                tasks.create_task(self._keep(target))
            while True:
                await taken.wait()
                taken.clear()
                await self._everywhere()
                for target in self.targets:
                    content = self._contents().get(target.apex)
                    if content is not None and content.serial != target.heard:
                        target.due.set()

    def described(self, name: str) -> list[dict[str, Any]]:
        """What `status` says of a zone's secondaries."""
        return [target.described() for target in self.targets if names.to_text(target.apex) == name]

    async def _keep(self, target: Target) -> None:
        """Tell one secondary whatever is due, one thing at a time, the newest."""
        while True:
            await target.due.wait()
            target.due.clear()
            target.attempts, pause = 0, FIRST_S
            while not await self._told(target) and target.attempts < ATTEMPTS and not target.due.is_set():
                sleep = asyncio.ensure_future(self._clock.sleep(pause))
                changed = asyncio.ensure_future(target.due.wait())
                _, pending = await asyncio.wait((sleep, changed), return_when=asyncio.FIRST_COMPLETED)
                for task in pending:
                    task.cancel()
                pause = min(2 * pause, LONGEST_S)

    async def _told(self, target: Target) -> bool:
        """Whether nothing is left to tell: it has acknowledged the serial there is, or there is nothing to transfer."""
        content = self._contents().get(target.apex)
        if content is None or content.serial == target.heard:
            return True
        if content.faults:
            target.error = f"not told: {content.faults[0]}"
            return True
        target.attempts += 1
        message = made(content, target.key)
        async with self._places:
            try:
                async with asyncio.timeout(ANSWER_S):  # wait_for may swallow a cancellation (CPython before 3.12)
                    await _exchange(target, message)
            except TimeoutError:
                target.error = "no answer"
            except (OSError, ValueError) as error:
                target.error = getattr(error, "strerror", None) or str(error)
            else:
                target.heard, target.error = content.serial, ""
        return not target.error


def made(content: Content, key: dns.tsig.Key | None) -> dns.message.Message:
    """The NOTIFY for a zone's content (RFC 1996 §3.7: with the SOA as a hint)."""
    name = dns.name.from_wire(content.zone.apex, 0)[0]
    message = dns.message.make_query(name, dns.rdatatype.SOA)
    message.flags = dns.flags.AA
    message.set_opcode(dns.opcode.NOTIFY)
    soa = content.soa.rdatas[0]
    rdata = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.SOA, soa, 0, len(soa))
    message.answer.append(dns.rrset.from_rdata(name, content.soa.ttl, rdata))
    if key is not None:
        message.use_tsig(key)
    return message


def heard(message: dns.message.Message, key: dns.tsig.Key | None, data: bytes) -> bool:
    """Whether these octets acknowledge the NOTIFY; False for what is no answer to it, ValueError for a bad answer."""
    if len(data) < 12 or data[:2] != message.id.to_bytes(2, "big") or not data[2] & 0x80:
        return False
    try:
        answer = dns.message.from_wire(data, keyring=key, request_mac=message.mac, ignore_trailing=True)
    except dns.exception.DNSException as error:
        raise ValueError(f"its answer cannot be read: {str(error) or type(error).__name__}") from None
    if answer.opcode() != dns.opcode.NOTIFY or (answer.question and answer.question != message.question):
        return False
    if answer.rcode() != dns.rcode.NOERROR:
        raise ValueError(f"answered {dns.rcode.to_text(answer.rcode())}")
    return True


async def _exchange(target: Target, message: dns.message.Message) -> None:
    """Send it and wait for the acknowledgement, from a port of its own each time."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect((target.host, target.port))
        sock.send(message.to_wire())
        while not heard(message, target.key, await loop.sock_recv(sock, _SIZE)):
            pass
