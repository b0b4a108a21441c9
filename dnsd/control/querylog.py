"""The query log: a sampled query and its answer as one line of JSON.

Lives here: the line. Does not live here: sampling (`serve.tap`), the file (`control.outlet`).

Whatever a client sent, a line is one line of ASCII: names are escaped as in master files and JSON escapes the rest.
What cannot be read of a query is null. docs/dns.md names every field.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dnsd.control import asked, reply, zonefile
from dnsd.dns import names, types, wire
from dnsd.dns.wire import FormError
from dnsd.image import layout, samples
from dnsd.image.samples import Origin, Sample

ANSWERS: Final = 20  # records listed of an answer
TEXT: Final = 300  # letters of each
WHOLE: Final = 4096  # octets of a reply that is read; of a longer one only the header is
_CLASSES: Final = {1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
_QUICK: Final[Mapping[int, Callable[[bytes], object]]] = {
    types.A: ipaddress.IPv4Address, types.AAAA: ipaddress.IPv6Address}


def line(origin: Origin, sample: Sample, *, node: str, whole: bool) -> bytes:
    """The line, its end included. `whole`: client addresses as they are, else only their /24 or /56."""
    query = sample.query
    told: dict[str, Any] = {
        "time": _time(origin.time), "node": node, "worker": origin.slot, "every": origin.every,
        "transport": samples.TRANSPORTS[origin.transport], **_client(sample.client, whole),
        "qname": None, "qclass": None, "qtype": None, "flags": asked.flags(query) if len(query) > 3 else [],
        "edns": None, "ecs": None, **_answer(sample.reply), "query_size": len(query), "size": len(sample.reply),
    }
    question = asked.question(query)
    if question is not None:
        told["qname"] = names.to_text(question.name)
        told["qclass"] = _CLASSES.get(question.class_, f"CLASS{question.class_}")
        told["qtype"] = types.type_text(question.type)
        told |= _edns(query, question.tail, whole)
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _client(client: samples.Address, whole: bool) -> dict[str, Any]:
    if not client.host:
        return {"client": None, "port": None}
    if whole:
        return {"client": str(ipaddress.ip_address(client.host)), "port": client.port}
    return {"client": str(ipaddress.ip_network((client.host, prefix(len(client.host))), strict=False)), "port": None}


def prefix(octets: int) -> int:
    """How much of an address of 4 or 16 octets is written where it is not to be told whole."""
    return layout.ECS_MAX4 if octets == 4 else layout.ECS_MAX6


def _edns(query: bytes, tail: int, whole: bool) -> dict[str, Any]:
    try:
        opt = asked.edns(query, tail)
    except FormError:
        return {}
    if opt is None:
        return {}
    size, version, do, ecs = opt[:4]
    return {"edns": {"version": version, "size": size, "do": do}, "ecs": _subnet(ecs, whole) if ecs else None}


def _subnet(ecs: wire.Ecs, whole: bool) -> str:
    subnet = asked.network(ecs)
    longest = prefix(16 if subnet.version == 6 else 4)
    if not whole and subnet.prefixlen > longest:
        subnet = subnet.supernet(new_prefix=longest)
    return str(subnet)


def _answer(data: bytes) -> dict[str, Any]:
    """What the client got; all null where that was nothing."""
    told: dict[str, Any] = dict.fromkeys(("rcode", "answer_flags", "answers", "ttl", "scope", "errors"))
    if len(data) < 12:
        return told
    told["rcode"], told["answer_flags"] = _rcode(data[3] & 15), asked.flags(data)
    if len(data) > WHOLE:
        return told
    try:
        found = reply.parse(data)
    except ValueError:
        return told
    return told | {
        "rcode": _rcode(found.rcode), "answers": [_record(rr) for rr in found.answer[:ANSWERS]],
        "ttl": min((rr.ttl for rr in found.answer), default=None), "scope": found.scope,
        "errors": [code for code, _ in found.errors]}


def _record(rr: reply.RR) -> str:
    text = _QUICK[rr.type](rr.rdata) if rr.type in _QUICK else zonefile.rdata_text(rr.type, rr.rdata)
    return f"{types.type_text(rr.type)} {text}"[:TEXT]


def _rcode(number: int) -> str:
    return reply.RCODES.get(number, f"RCODE{number}")


def _time(unix_ns: int) -> str:
    seconds, rest = divmod(unix_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
