"""Why, over DNS: `TXT _why.<service>` tells whoever asks why it would get the answer it would get.

Lives here: which question that is, the strings, the reply. Does not live here: deciding and explaining (`explain`), who
may ask (`control.desk`).

The client that is explained is the one that asks: its client subnet where there is one that is believed, else its
address. Every string is words and `key=value`, at most 255 octets; where the reply would get longer than `SIZE` or than
the client takes, strings go from the least telling on, so there is never a reason to truncate. A name that is there by
itself, and one that leads to no service, are answered as if nobody had asked why.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, Final

from dnsd.answer import respond
from dnsd.context import WHY, Context
from dnsd.control import asked
from dnsd.control.face import Control
from dnsd.dns import names, types, wire
from dnsd.dns.wire import FormError, Opt

SIZE: Final = 1024  # octets of a reply: below 1232 by what a signature takes
STRING: Final = 255
LOSERS: Final = 2
FORCED: Final = 2
_FIRST, _VERSION, _CLIENT, _BEST, _RUNG, _MAP, _FORCED, _NEXT = range(8)
"""Ranks of strings, the most telling first."""


def answer(control: Control, packet: bytes, client: bytes, context: Context) -> bytes | None:
    """The reply to a query that may be told why: `client` is packed, 4 or 16 octets; no signature is in the packet;
    `context` is for what is answered as ever.

    None where there is none to give: no image yet, or no time for it just now.
    """
    question = asked.question(packet)
    try:
        opt = asked.edns(packet, question.tail) if question is not None else None
    except FormError:
        question = opt = None
    if not control.why.left():
        return None
    ecs, began = _ecs(control, client, opt), control.clock.monotonic()
    told = _explained(control, question, client, ecs) if question is not None and (opt is None or not opt[1]) else []
    control.why.spend(control.clock.monotonic() - began)
    if question is None or not told:
        return _ordinary(control, packet, client, context)
    limit, tail = wire.PLAIN_SIZE, b""
    if opt is not None:
        limit = min(SIZE, max(wire.PLAIN_SIZE, opt[0]))
        scope = max(each["scope"] or 0 for each in told)
        tail = wire.opt(opt[2], wire.ecs_echo(packet, ecs, scope) if ecs is not None else b"")
    head = packet[:2] + wire.heads(answers=1)[packet[2] & 1 | 2 * bool(tail)] + packet[12 : question.tail]
    text = b"".join(_fitting(_strings(told), limit - len(head) - len(_RR) - 2 - len(tail)))
    return head + _RR + struct.pack(">H", len(text)) + text + tail


_RR: Final = b"\xc0\x0c" + struct.pack(">HHI", types.TXT, types.IN, 0)


def _ecs(control: Control, client: bytes, opt: Opt | None) -> wire.Ecs | None:
    """The client subnet, where it is believed."""
    if opt is None or (control.ecs_from is not None and client not in control.ecs_from):
        return None
    return opt[3]


def _ordinary(control: Control, packet: bytes, client: bytes, context: Context) -> bytes | None:
    """What everybody gets who may not be told why."""
    image = control.publisher.live.image
    if image is None:
        return None
    return respond(packet, client, image, control.clock.unix_ms() // 1000, context)


def _explained(control: Control, question: asked.Asked, client: bytes, ecs: wire.Ecs | None) -> list[dict[str, Any]]:
    """The explanations of the service's address types, the one with an answer first; none where there is no service."""
    name, image = question.name.lower(), control.publisher.live.image
    if (question.type, question.class_) != (types.TXT, types.IN) or not name.startswith(WHY):
        return []
    if image is None or image.get(name) is not None:
        return []
    service, subnet = names.to_text(name[len(WHY) :]), str(asked.network(ecs)) if ecs is not None else None
    found = [control.explainer.explain(service, type_, str(ipaddress.ip_address(client)), subnet)
             for type_ in ("A", "AAAA")]
    return sorted((each for each in found if "service" in each), key=lambda each: not each["addresses"])


def _strings(told: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Rank and text of each string, in the order they are told."""
    first = told[0]
    addresses = {each["type"].lower(): ",".join(each["addresses"]) for each in told}
    found = [
        (_FIRST, _words(
            "answer", a=addresses.get("a"), aaaa=addresses.get("aaaa"), ttl=first["ttl"], scope=first["scope"],
            rcode=first["rcode"])),
        (_CLIENT, _client(first)),
        (_MAP, _words("map", id=first["map"]["id"], row=first["map"]["row"], sites=len(first["map"]["sites"]),
                      **({"table": first["map"]["table"]} if first["map"]["table"] is not None else {}))),
    ]
    found += _candidates(first["candidates"])
    found.append((_RUNG, _words(
        "rung", rung=first["rung"], panic=first["panic"], service=first["service"], candidates=len(first["candidates"]),
        removed=len(first["removed"]))))
    found += [(_FORCED, f"forced {text}") for text in first["forced"][:FORCED]]
    stamp = first["image"]
    found.append((_VERSION, _words(
        "version", image=f"{stamp['epoch']:016x}.{stamp['version']}.{stamp['node_seq']}", atlas=first["map"]["atlas"],
        node=first["node"])))
    return found


def _client(told: dict[str, Any]) -> str:
    """Who was judged, by what, and what the data say of it."""
    origin = told["origin"] or {}
    by = {"subnet": "ecs", "resolver": "resolver"}.get(told["decided_by"], "nothing")
    return _words(
        "client", address=told["subnet"] if by == "ecs" else told["client"], by=by,
        **{name: origin.get(name) for name in ("country", "asn", "carrier", "provider", "tag")})


def _candidates(candidates: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """The first that is answered with the parts of its score, and the next that are not, with why."""
    best = next((each for each in candidates if each["answered"]), None)
    if best is None:
        return []
    found = [(_BEST, _words(
        "best", **_place(best), proximity=best["proximity"], match=best["match_points"], standing=best["standing"],
        common=",".join(best["match"]), **_trip(best)))]
    for number, each in enumerate([each for each in candidates if not each["answered"]][:LOSERS]):
        found.append((_NEXT + number, _words("next", lost=_lost(each, best), **_place(each))))
    return found


def _trip(best: dict[str, Any]) -> dict[str, Any]:
    """The round trip there and what it rests on; how sure it is where that is known."""
    found = {"rtt": best.get("rtt_ms"), "by": best.get("rtt_source")}
    sure = {"samples": best.get("rtt_samples"), "sure": best.get("rtt_confidence")}
    return found | {name: value for name, value in sure.items() if value}


def _place(candidate: dict[str, Any]) -> dict[str, Any]:
    return {
        "site": candidate["site"], "endpoint": candidate["endpoint"], "tier": candidate["tier"], "ms": candidate["ms"],
        "band": "in" if candidate["in_band"] else "out", "score": candidate["score"], "weight": candidate["weight"]}


def _lost(candidate: dict[str, Any], best: dict[str, Any]) -> str:
    """What put a candidate behind: the first thing in the order of ranking that tells the two apart."""
    if candidate["group"] == best["group"]:
        return "draw"
    if not candidate["weight"]:
        return "weight"
    if candidate["tier"] != best["tier"]:
        return "tier"
    return "score" if candidate["in_band"] == best["in_band"] else "band"


def _words(first: str, **values: object) -> str:
    return " ".join((first, *(f"{name}={_value(value)}" for name, value in values.items())))


def _value(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else value


def _fitting(strings: list[tuple[int, str]], room: int) -> list[bytes]:
    """The strings as they stand in a TXT record, without those that do not fit, the least telling first to go."""
    made = []
    for rank, text in strings:
        data = text.encode("ascii", "replace")[:STRING]
        made.append((rank, bytes((len(data),)) + data))
    while sum(len(data) for _, data in made) > room and len(made) > 1:
        made.remove(max(made, key=lambda each: each[0]))
    return [data for _, data in made]
