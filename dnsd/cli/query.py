"""`dnsd query`: one DNS question to any server, with a client subnet, and what came back told in dig's manner.

Lives here: the exchange over UDP or TCP, the decoded answer, its print-out. Does not live here: how dnsd answers; this
is a client, and by dnslib an independent one: nothing of `dnsd.dns` is used.

It ends with 0 only for NOERROR or NXDOMAIN, so that it serves as a health check: a dead server is 4, a broken one 1.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnsd.cli.display import show
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

if TYPE_CHECKING:
    import dnslib

_NSID, _ECS, _EDE = 3, 8, 15  # EDNS option codes: RFC 5001, 7871, 8914
_UDP_SIZE = 1232
_GOOD = ("NOERROR", "NXDOMAIN")


@command
def query(
    session: Session,
    name: Annotated[str, typer.Argument(help="what to ask for")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="A, AAAA, TXT, TYPE65534 …")] = "A",
    *,
    server: Annotated[str, typer.Option("--server", "-s", help="ADDRESS:PORT; else the settings' first `listen`")] = "",
    subnet: Annotated[str, typer.Option(help="the client's subnet: 203.0.113.0/24, or 0 for none")] = "",
    tcp: Annotated[bool, typer.Option("--tcp", help="ask over TCP")] = False,
    nsid: Annotated[bool, typer.Option("--nsid", help="ask which server answers")] = False,
    seconds: Annotated[float, typer.Option("--timeout", help="seconds to wait")] = 2.0,
    short: Annotated[bool, typer.Option("--short", help="only the data of the answer")] = False,
) -> None:
    """Ask a DNS server one question."""
    address, port = _server(session, server)
    request = _request(name, kind, subnet, nsid=nsid)
    started = time.perf_counter()
    try:
        data = _over_tcp(request, (address, port), seconds) if tcp else _over_udp(request, (address, port), seconds)
    except OSError as error:
        raise Failure(Exit.UNREACHABLE, f"no answer from {address} port {port}: {error}") from error
    took_ms = (time.perf_counter() - started) * 1000
    answer = _decode(data, request) | {"server": f"{address}#{port}", "ms": round(took_ms, 2), "octets": len(data)}
    human = _short if short else _long
    show(answer, as_json=session.as_json, human=human)
    if answer["status"] not in _GOOD:
        raise typer.Exit(Exit.FAILED)


def parse_subnet(text: str) -> bytes:
    """The ECS option's data (RFC 7871 §6) for an address with or without prefix length; `0` is 0.0.0.0/0.

    Host bits are cut off, as a resolver must. ValueError when it is no address.
    """
    net = ipaddress.ip_network("0.0.0.0/0" if text == "0" else text, strict=False)
    octets = net.network_address.packed[: (net.prefixlen + 7) // 8]
    return struct.pack("!HBB", 1 if net.version == 4 else 2, net.prefixlen, 0) + octets


def _server(session: Session, text: str) -> tuple[str, int]:
    """The address and port to ask; in settings and here an IPv6 address stands in brackets."""
    listen = text or session.config().listen[0]
    host, colon, port = listen.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        host, port = listen, "53"
    host = host.strip("[]")
    try:
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError as error:
        raise Failure(Exit.USAGE, f"--server {listen}: {error}") from error


def _request(name: str, kind: str, subnet: str, *, nsid: bool) -> dnslib.DNSRecord:
    import dnslib
    from dnslib.label import DNSLabelError

    number = _type_number(kind)
    try:
        options = [dnslib.EDNSOption(_ECS, parse_subnet(subnet))] if subnet else []
        question = dnslib.DNSQuestion(dnslib.DNSLabel(name.rstrip(".") or "."), number)
        question.pack(dnslib.DNSBuffer())  # finds labels and names that are too long
    except (ValueError, dnslib.DNSError, DNSLabelError) as error:
        raise Failure(Exit.USAGE, f"cannot ask that: {error}") from error
    if nsid:
        options.append(dnslib.EDNSOption(_NSID, b""))
    header = dnslib.DNSHeader(id=secrets.randbelow(1 << 16), qr=0, rd=0)
    record = dnslib.DNSRecord(header, questions=[question])
    record.add_ar(dnslib.EDNS0(udp_len=_UDP_SIZE, opts=options))
    return record


def _type_number(text: str) -> int:
    import dnslib

    text = text.upper()
    if text.startswith("TYPE") and text[4:].isdigit() and int(text[4:]) < 1 << 16:
        return int(text[4:])
    number = dnslib.QTYPE.reverse.get(text)
    if number is None:
        raise Failure(Exit.USAGE, f"{text} is no record type; TYPE65534 works for any number")
    return int(number)


def _over_udp(request: dnslib.DNSRecord, server: tuple[str, int], seconds: float) -> bytes:
    """One datagram there; the first that matches back. A truncated answer is asked for again over TCP (RFC 7766 §5)."""
    sent = bytes(request.pack())
    deadline = time.monotonic() + seconds
    with socket.socket(_family(server[0]), socket.SOCK_DGRAM) as sock:
        sock.connect(server)
        sock.send(sent)
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = sock.recv(65535)
            if len(data) >= 12 and data[:2] == sent[:2] and data[2] & 0x80:
                break
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
    return _over_tcp(request, server, seconds) if data[2] & 0x02 else data


def _over_tcp(request: dnslib.DNSRecord, server: tuple[str, int], seconds: float) -> bytes:
    sent = bytes(request.pack())
    with socket.create_connection(server, timeout=seconds) as sock:
        sock.sendall(struct.pack("!H", len(sent)) + sent)
        with sock.makefile("rb") as stream:
            head = stream.read(2)
            data = stream.read(struct.unpack("!H", head)[0]) if len(head) == 2 else b""
    if len(data) < 12:
        raise ConnectionError("the connection was closed without an answer")
    return data


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _decode(data: bytes, request: dnslib.DNSRecord) -> dict[str, Any]:
    """The message as plain values; a `Failure` when it cannot be read."""
    import dnslib

    try:
        reply = dnslib.DNSRecord.parse(data)
    except Exception as error:  # dnslib lets struct, index and unicode errors of hostile bytes through
        raise Failure(Exit.FAILED, f"the answer cannot be read: {error}") from error
    asked = request.questions[0]
    if reply.questions and (reply.q.qtype, reply.q.qname) != (asked.qtype, asked.qname):
        raise Failure(Exit.FAILED, "the answer is to another question")
    header = reply.header
    edns = next((rr for rr in reply.ar if rr.rtype == dnslib.QTYPE.OPT), None)
    rcode = header.rcode | (edns.edns_rcode << 4 if edns is not None else 0)
    return {
        "status": "BADVERS" if rcode == 16 else dnslib.RCODE.forward.get(rcode, f"RCODE{rcode}"),
        "id": header.id,
        "flags": [name for name in ("qr", "aa", "tc", "rd", "ra", "ad", "cd") if getattr(header, name)],
        "question": {"name": str(asked.qname), "type": _type_text(asked.qtype)},
        "answer": [_record(rr) for rr in reply.rr],
        "authority": [_record(rr) for rr in reply.auth],
        "additional": [_record(rr) for rr in reply.ar if rr.rtype != dnslib.QTYPE.OPT],
        "edns": _edns(edns),
    }


def _record(rr: dnslib.RR) -> dict[str, Any]:
    return {"name": str(rr.rname), "ttl": rr.ttl, "type": _type_text(rr.rtype), "data": str(rr.rdata)}


def _type_text(number: int) -> str:
    import dnslib

    return str(dnslib.QTYPE.forward.get(number, f"TYPE{number}"))


def _edns(rr: Any) -> dict[str, Any] | None:
    if rr is None:
        return None
    found: dict[str, Any] = {"udp": rr.rclass, "version": rr.ttl >> 16 & 255}
    for option in rr.rdata:
        data = bytes(option.data)
        if option.code == _ECS and len(data) >= 4:
            family, source, scope = struct.unpack("!HBB", data[:4])
            packed = data[4:].ljust(4 if family == 1 else 16, b"\0")
            found["subnet"] = {"address": str(ipaddress.ip_address(packed)), "source": source, "scope": scope}
        elif option.code == _NSID:
            found["nsid"] = data.decode("utf-8", "replace")
        elif option.code == _EDE and len(data) >= 2:
            found.setdefault("errors", []).append(
                {"code": int.from_bytes(data[:2], "big"), "text": data[2:].decode("utf-8", "replace")})
    return found


def _short(answer: dict[str, Any]) -> str:
    return "\n".join(record["data"] for record in answer["answer"])


def _long(answer: dict[str, Any]) -> str:
    lines = [f";; {answer['status']}  flags: {' '.join(answer['flags'])}  id: {answer['id']}"]
    edns = answer["edns"] or {}
    if "subnet" in edns:
        subnet = edns["subnet"]
        lines.append(f";; subnet: {subnet['address']}/{subnet['source']}  scope: /{subnet['scope']}")
    if "nsid" in edns:
        lines.append(f";; nsid: {edns['nsid']}")
    lines += [f";; error {error['code']}: {error['text']}" for error in edns.get("errors", ())]
    lines.append(f";; question: {answer['question']['name']} {answer['question']['type']}")
    for section in ("answer", "authority", "additional"):
        if answer[section]:
            lines.append(f";; {section}:")
            width = max(len(record["name"]) for record in answer[section])
            lines += [f"{r['name']:<{width}}  {r['ttl']:>6}  {r['type']:<6}  {r['data']}" for r in answer[section]]
    lines.append(f";; {answer['octets']} octets from {answer['server']} in {answer['ms']} ms")
    return "\n".join(lines)
