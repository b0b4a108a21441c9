"""Transfers out: what is in one, who gets one, and its messages (AXFR, RFC 5936; IXFR, RFC 1995).

Lives here: a zone's content with what stands for its services, lists of who may have it, the messages. Does not live
here: signatures (`control.tsig`), the serial (`control.serials`), the way to the client (`control.desk`).

A secondary cannot choose, so it gets of each service what is answered when nothing else can be: the declared fallback,
with the declared TTL. Where a service lacks one for a type it owns, secondaries would deny what we answer, so the whole
zone is refused, and said why. There are no differences kept: an IXFR is answered as AXFR, or with the one SOA that says
that there is nothing newer.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import dns.exception
import dns.message
import dns.rdatatype

from dnsd.compile import image as compile_image
from dnsd.control import asked, tsig
from dnsd.dns import names, types, wire
from dnsd.dns.prefixes import Prefixes
from dnsd.model import RRset, ServiceView, ZoneView

MESSAGE: Final = 16384  # octets of a message at most, if no single record needs more
RECORD_MAX: Final = 60_000  # octets of an rdata that surely fits a message with all else there
KEY: Final = "key:"
NOT_READY: Final = 14  # RFC 8914 §4.15
_ADDRESSES: Final = (types.A, types.AAAA)


class Declared(NamedTuple):
    """A service in a zone: its view, and the TTL it declares (a view's own gets shorter in doubt)."""

    view: ServiceView
    ttl: int


class Content(NamedTuple):
    """What is transferred of a zone. `faults` say why it is not; `digest` is of all but the serial."""

    zone: ZoneView
    services: tuple[RRset, ...]
    faults: tuple[str, ...]
    digest: str

    @property
    def soa(self) -> RRset:
        """The zone's SOA rrset."""
        return next(each for each in self.zone.rrsets if each.type == types.SOA and each.owner == self.zone.apex)

    @property
    def serial(self) -> int:
        """The SOA's serial."""
        return serial(self.soa)


def serial(soa: RRset) -> int:
    """The serial in an SOA rrset."""
    return int.from_bytes(soa.rdatas[0][-20:-16], "big")


def with_serial(zone: ZoneView, number: int) -> ZoneView:
    """The zone with another serial."""
    def dressed(rrset: RRset) -> RRset:
        if rrset.type != types.SOA or rrset.owner != zone.apex:
            return rrset
        rdata = rrset.rdatas[0]
        return RRset(rrset.owner, rrset.type, rrset.ttl, (rdata[:-20] + number.to_bytes(4, "big") + rdata[-16:],))

    return ZoneView(zone.apex, tuple(map(dressed, zone.rrsets)))


def content(zone: ZoneView, static: str, services: Iterable[Declared]) -> Content:
    """What is to be transferred. `static` is `digest` of the zone; `services` are those it holds."""
    found: list[RRset] = []
    faults: list[str] = []
    for service in sorted(services, key=lambda each: each.view.owner):
        found += fallback(service)
        faults += lacking(service.view)
    faults += [
        f"{names.to_text(rrset.owner)} {types.type_text(rrset.type)}: a record of more than {RECORD_MAX} octets"
        for rrset in zone.rrsets if any(len(rdata) > RECORD_MAX for rdata in rrset.rdatas)]
    whole = hashlib.sha256(static.encode() + b"".join(_canonical(rrset) for rrset in found))
    return Content(zone, tuple(found), tuple(faults), whole.hexdigest()[:32])


def digest(zone: ZoneView) -> str:
    """A digest of a zone's records but for the serial; the order of records does not matter."""
    found = hashlib.sha256()
    for rrset in sorted(with_serial(zone, 0).rrsets, key=lambda each: (each.owner, each.type)):
        found.update(_canonical(rrset))
    return found.hexdigest()


def fallback(service: Declared) -> list[RRset]:
    """What stands for a service in a transfer: its fallback addresses, and its HTTPS record without hints."""
    view, ttl = service
    found = [
        RRset(view.owner, type_, ttl, tuple(sorted(addresses)))
        for type_, addresses in ((types.A, view.fallback_a), (types.AAAA, view.fallback_aaaa))
        if addresses and type_ in view.types]
    if types.HTTPS in view.types:
        params = b"".join(struct.pack(">HH", key, len(value)) + value for key, value in sorted(view.https))
        found.append(RRset(view.owner, types.HTTPS, ttl, (b"\0\1\0" + params,)))
    return found


def lacking(view: ServiceView) -> list[str]:
    """For which types it owns a service has no fallback."""
    given = {types.A: view.fallback_a, types.AAAA: view.fallback_aaaa}
    return [f"service {names.to_text(view.owner)} has no fallback for {types.type_text(type_)}"
            for type_ in _ADDRESSES if type_ in view.types and not given[type_]]


def _canonical(rrset: RRset) -> bytes:
    return compile_image.finished(RRset(rrset.owner, rrset.type, rrset.ttl, tuple(sorted(rrset.rdatas))), rrset.owner)


class Allowed:
    """Who may: prefixes of clients, and names of keys. One of both is enough."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        texts = tuple(texts)
        self._prefixes = Prefixes(text for text in texts if not text.startswith(KEY))
        self._keys = frozenset(text.removeprefix(KEY) for text in texts if text.startswith(KEY))

    def __contains__(self, asker: tuple[bytes, str]) -> bool:
        """Whether a client (packed), or the key it has signed with (empty: none), is among them."""
        client, key = asker
        return client in self._prefixes or key in self._keys


@dataclass(frozen=True, slots=True)
class Question:
    """A query for a transfer, taken apart: `tail` is behind its question, `opt_at` where its OPT is, 0 without."""

    packet: bytes
    asked: asked.Asked
    opt_at: int

    @property
    def apex(self) -> bytes:
        """The zone it asks for."""
        return self.asked.name.lower()

    def head(self, rcode: int, answers: int, record: bytes, *, aa: bool = True) -> bytes:
        """A message's head and question; `record` is the OPT that is going to be its last, or nothing."""
        heads = wire.heads(rcode, aa, answers)
        return self.packet[:2] + heads[self.packet[2] & 1 | 2 * bool(record)] + self.packet[12 : self.asked.tail]

    @property
    def version(self) -> int:
        """Of EDNS; 0 where it was not spoken."""
        return self.packet[self.opt_at + 6] if self.opt_at else 0

    def opt(self, options: bytes = b"", rcode: int = 0) -> bytes:
        """The OPT for a reply; nothing where EDNS was not spoken."""
        return wire.opt(bool(self.packet[self.opt_at + 7] >> 7), options, rcode >> 4) if self.opt_at else b""

    def refusal(self, rcode: int, code: int = -1, text: str = "") -> bytes:
        """The reply that there is no transfer, with the extended error that says why."""
        record = self.opt(wire.error_option(code, text) if code >= 0 else b"", rcode)
        return self.head(rcode, 0, record, aa=False) + record


def question(packet: bytes) -> Question | None:
    """The packet's question if it asks for a transfer; None for any other. FormError."""
    found = asked.question(packet)
    if found is None or found.type not in (types.AXFR, types.IXFR):
        return None
    counts = struct.unpack_from(">6H", packet)
    opt_at, _ = wire.tail(packet, found.tail, counts[4], counts[5])
    return Question(packet, found, opt_at)


class Served(Protocol):
    """What is served now: the contents that are transferred, by apex, and all apexes."""

    @property
    def contents(self) -> Mapping[bytes, Content]:
        """See `Serials`."""

    @property
    def zones(self) -> frozenset[bytes]:
        """See `Serials`; none before the first image."""


class Transfers:
    """Answers to questions for transfers. `allowed` says who may, by apex."""

    def __init__(self, allowed: Mapping[bytes, Allowed], served: Served) -> None:
        self._allowed = allowed
        self._served = served

    def answer(self, question: Question, query: tsig.Query, client: bytes, *, udp: bool) -> Iterator[bytes]:
        """The messages, not signed yet; each leaves room for the signature. At least one."""
        apex = question.apex
        if question.version:  # RFC 6891 §6.1.3
            yield question.refusal(types.BADVERS)
            return
        if not self._served.zones:
            yield question.refusal(types.SERVFAIL, NOT_READY, "zones are still being read")
            return
        if apex not in self._served.zones or question.asked.class_ != types.IN:
            yield question.refusal(types.NOTAUTH, types.EDE_NOT_AUTHORITATIVE, "not a zone of this server")
            return
        if (client, query.key) not in self._allowed.get(apex, Allowed()):
            yield question.refusal(types.REFUSED, types.EDE_PROHIBITED, "no transfer of this zone for you")
            return
        content = self._served.contents[apex]
        if content.faults:
            yield question.refusal(types.REFUSED, types.EDE_OTHER, f"no transfer: {content.faults[0]}")
            return
        whole = question.asked.type == types.AXFR
        if not whole:
            theirs = _known_serial(query.packet)
            if theirs is None:
                yield question.refusal(types.FORMERR)
                return
            whole = not udp and not 0 <= (theirs - content.serial) % 2**32 < 2**31
        elif udp:  # RFC 5936 §4.2
            yield question.refusal(types.FORMERR)
            return
        records = _records(question, content) if whole else iter((_record(question, content.soa),))
        room = MESSAGE - (query.signer.size if query.signer is not None else 0)
        yield from _messages(question, records, room)


def _known_serial(packet: bytes) -> int | None:
    """The serial an IXFR query says its sender has (RFC 1995 §3); None where it says none."""
    try:
        authority = dns.message.from_wire(packet).authority
    except (dns.exception.DNSException, ValueError):
        return None
    soas = [each for each in authority if each.rdtype == dns.rdatatype.SOA]
    return int(soas[0][0].serial) if soas else None


def _record(question: Question, rrset: RRset) -> bytes:
    """An rrset's records, owners cut to a pointer to the question."""
    return compile_image.finished(rrset, rrset.owner[: -len(question.apex)] + b"\xc0\x0c")


def _records(question: Question, content: Content) -> Iterator[bytes]:
    """All of a zone's records: the SOA, everything else, the SOA."""
    soa = _record(question, content.soa)
    yield soa
    for rrsets in (content.zone.rrsets, content.services):
        for rrset in rrsets:
            if rrset.type == types.SOA:
                continue
            if len(rrset.rdatas) == 1:
                yield _record(question, rrset)
            else:
                yield from (_record(question, RRset(rrset.owner, rrset.type, rrset.ttl, (rdata,)))
                            for rdata in rrset.rdatas)
    yield soa


def _messages(question: Question, records: Iterator[bytes], room: int) -> Iterator[bytes]:
    """Messages of at most `room` octets, if no single record is longer; the first with the OPT (RFC 5936 §2.2.5)."""
    record = question.opt()
    fixed = question.asked.tail + len(record)
    found: list[bytes] = []
    size = fixed
    for each in records:
        if found and size + len(each) > room:
            yield question.head(0, len(found), record) + b"".join(found) + record
            found, size, record = [], fixed, b""
        found.append(each)
        size += len(each)
    yield question.head(0, len(found), record) + b"".join(found) + record
