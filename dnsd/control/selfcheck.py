"""Asking an image before workers do: what is about to be published must answer through the one door.

Lives here: the questions and what their answers must be. Does not live here: what happens to a record that fails
(`control.publish` leaves the last good one in place).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import Context
from dnsd.control import reply
from dnsd.dns import names, types
from dnsd.image.reading import Image
from dnsd.model import ServiceView, ZoneView

_CLIENT: Final = b"\x7f\0\0\x01"


class Asker:
    """The door with a context of its own, so that checks do not count as queries."""

    def __init__(self, node: str) -> None:
        self.context = Context([0] * metrics.SLOTS, tcp=True, node=node)

    def ask(self, image: Image, packet: bytes, now: int, client: bytes = _CLIENT) -> reply.Reply:
        """The answer to a packet, taken apart; ValueError where there is none or it cannot be read."""
        data = respond(packet, client, image, now, self.context)
        if data is None:
            raise ValueError("no reply")
        return reply.parse(data)


def service_fault(asker: Asker, image: Image, view: ServiceView, now: int) -> str | None:
    """What is wrong with a service's answers in that image; None when all is well."""
    for type_, live, lower in (
        (types.A, [e.a for e in view.live if e.a], view.fallback_a + view.last_good_a),
        (types.AAAA, [e.aaaa for e in view.live if e.aaaa], view.fallback_aaaa + view.last_good_aaaa),
    ):
        if type_ in view.types:
            fault = _addresses_fault(asker, image, view, type_, [*live, *lower], now)
            if fault is not None:
                return f"{names.to_text(view.owner)} {types.type_text(type_)}: {fault}"
    if types.HTTPS in view.types:
        fault = _https_fault(asker, image, view, now)
        if fault is not None:
            return f"{names.to_text(view.owner)} HTTPS: {fault}"
    return None


def zone_faults(asker: Asker, image: Image, zones: Iterable[ZoneView], now: int) -> list[str]:
    """Zones whose SOA the image does not answer."""
    found = []
    for zone in zones:
        try:
            answer = asker.ask(image, reply.query(zone.apex, types.SOA), now)
            if answer.rcode == 0 and [rr.type for rr in answer.answer] == [types.SOA]:
                continue
            fault = f"SOA is answered {reply.RCODES.get(answer.rcode, answer.rcode)}"
        except Exception as error:
            fault = f"SOA cannot be answered: {error!r}"
        found.append(f"{names.to_text(zone.apex)}: {fault}")
    return found


def _addresses_fault(
    asker: Asker, image: Image, view: ServiceView, type_: int, allowed: Sequence[bytes], now: int,
) -> str | None:
    try:
        answer = asker.ask(image, reply.query(view.owner, type_), now)
    except Exception as error:  # whatever it is, it must not reach a worker
        return f"cannot be answered: {error!r}"
    if not allowed:
        return None if answer.rcode == types.SERVFAIL else f"{answer.rcode} though it has no address"
    if answer.rcode:
        return f"answered {reply.RCODES.get(answer.rcode, answer.rcode)}"
    if not answer.answer:
        return "answered without an address"
    for rr in answer.answer:
        if (rr.owner, rr.type) != (view.owner, type_) or rr.rdata not in allowed:
            return f"answered with {rr.rdata.hex()}, which is none of its addresses"
        if rr.ttl != view.ttl:
            return f"answered with TTL {rr.ttl}, not {view.ttl}"
    return None


def _https_fault(asker: Asker, image: Image, view: ServiceView, now: int) -> str | None:
    """The hints must be what A and AAAA are answered with (RFC 9460 §7.3), and the rest what was declared."""
    try:
        found = {type_: asker.ask(image, reply.query(view.owner, type_), now)
                 for type_ in (types.A, types.AAAA, types.HTTPS)}
    except Exception as error:  # whatever it is, it must not reach a worker
        return f"cannot be answered: {error!r}"
    addresses = [(key, b"".join(rr.rdata for rr in found[type_].answer)) for key, type_ in (
        (4, types.A), (6, types.AAAA))]
    hints = [(key, value) for key, value in addresses if value]
    params = b"".join(key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
                      for key, value in sorted([*view.https, *hints]))
    answer = found[types.HTTPS]
    if answer.rcode != (0 if hints else types.SERVFAIL):
        return f"answered {reply.RCODES.get(answer.rcode, answer.rcode)}"
    expected = [reply.RR(view.owner, types.HTTPS, view.ttl, b"\0\1\0" + params)] if hints else []
    return None if answer.answer == expected else "is not what A and AAAA and the service's declaration come to"
