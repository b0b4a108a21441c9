"""What is in a transfer and how it goes out, put together again by dnspython."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.xfr
import dns.zone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.control import transfer, tsig
from dnsd.control.transfer import Allowed, Content, Declared, Transfers
from dnsd.dns import names, types
from dnsd.model import Policy, RRset, ServiceView, ZoneView
from tests.golden import world

APEX = names.to_wire("demo.example")
CLIENT = b"\xc0\x00\x02\x01"
HERE = Allowed(["192.0.2.0/24"])


def service(name: str, *types_: int, a: Sequence[str] = (), https: tuple[tuple[int, bytes], ...] = ()) -> Declared:
    owned = frozenset(types_ or (types.A,))
    view = ServiceView(names.to_wire(name), Policy(), 2, owned,
                       fallback_a=tuple(bytes(map(int, each.split("."))) for each in a), https=https)
    return Declared(view, 30)


def made(zone: ZoneView, services: Iterable[Declared] = (), serial: int = 9) -> Content:
    found = transfer.content(zone, transfer.digest(zone), services)
    return found._replace(zone=transfer.with_serial(zone, serial))


class Served:
    def __init__(self, *contents: Content, others: Sequence[bytes] = ()) -> None:
        self.contents: Mapping[bytes, Content] = {each.zone.apex: each for each in contents}
        self.zones = frozenset((*self.contents, *others))


def answers(content: Content, query: dns.message.Message, *, client: bytes = CLIENT, key: str = "",
            allowed: Allowed = HERE, udp: bool = False) -> list[bytes]:
    packet = query.to_wire()
    question = transfer.question(packet)
    assert question is not None
    transfers = Transfers({content.zone.apex: allowed}, Served(content, others=[names.to_wire("other.example")]))
    return list(transfers.answer(question, tsig.Query(packet, key), client, udp=udp))


def axfr(zone: str = "demo.example", *, edns: bool = True) -> dns.message.Message:
    return dns.message.make_query(zone, "AXFR", use_edns=0 if edns else None)


def put_together(messages: Iterable[bytes], apex: str = "demo.example") -> dns.zone.Zone:
    """What a secondary has afterwards."""
    zone = dns.zone.Zone(apex, relativize=False)
    with dns.xfr.Inbound(zone, dns.rdatatype.AXFR) as inbound:
        done = False
        for message in messages:
            assert not done, "a message behind the end"
            done = inbound.process_message(dns.message.from_wire(message, xfr=True, one_rr_per_rrset=True))
        assert done, "no end"
    return zone


def records(zone: dns.zone.Zone) -> set[tuple[bytes, int, int, bytes]]:
    return {((name.to_wire() or b"").lower(), int(rdata.rdtype), ttl, rdata.to_wire() or b"")
            for name, ttl, rdata in zone.iterate_rdatas()}


def flat(rrsets: Iterable[RRset]) -> set[tuple[bytes, int, int, bytes]]:
    return {(each.owner, each.type, each.ttl, rdata) for each in rrsets for rdata in each.rdatas}


LABEL = st.text("abcdefgh-_0", min_size=1, max_size=8).filter(lambda text: text[0] not in "-" and text[-1] not in "-")
OWNER = st.lists(LABEL, min_size=1, max_size=3).map(lambda labels: names.to_wire(".".join([*labels, "demo.example"])))
RDATA = {
    types.A: st.binary(min_size=4, max_size=4), types.AAAA: st.binary(min_size=16, max_size=16),
    types.TXT: st.lists(st.binary(min_size=0, max_size=255), min_size=1, max_size=6).map(
        lambda texts: b"".join(bytes((len(text),)) + text for text in texts)),
    65280: st.binary(max_size=300),
}


@st.composite
def zones(draw: st.DrawFn) -> ZoneView:
    base = world.zone("demo.example.", "")
    found = {}
    for owner in draw(st.lists(OWNER, unique=True, max_size=40)):
        for type_ in draw(st.sets(st.sampled_from(sorted(RDATA)), min_size=1)):
            rdatas = draw(st.lists(RDATA[type_], min_size=1, max_size=5, unique=True))
            found[owner, type_] = RRset(owner, type_, draw(st.integers(0, 2**31 - 1)), tuple(rdatas))
    return ZoneView(APEX, (*base.rrsets, *found.values()))


@settings(max_examples=60, deadline=None)
@given(zones(), st.booleans(), st.sampled_from([700, 2000, 16384]))
def test_what_arrives_is_the_zone(zone: ZoneView, edns: bool, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "MESSAGE", size)
        content = made(zone)
        messages = answers(content, axfr(edns=edns))
    assert records(put_together(messages)) == flat(content.zone.rrsets)
    assert all(len(message) <= size or message[6:8] == b"\0\1" for message in messages)
    for number, message in enumerate(messages):
        parsed = dns.message.from_wire(message, xfr=True, one_rr_per_rrset=True)
        assert parsed.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
        assert (parsed.edns == 0) == (edns and not number)


def test_services_are_their_fallbacks() -> None:
    content = made(world.zone("demo.example.", "www A 192.0.2.1\napi MX 1 www"), [
        service("api.demo.example", types.A, types.HTTPS, a=["192.0.2.9", "192.0.2.8"], https=((1, b"\x02h2"),)),
        service("*.apps.demo.example", a=["192.0.2.7"]), service("empty.demo.example", types.HTTPS)])
    assert not content.faults
    zone = put_together(answers(content, axfr()))
    found = {f"{name} {ttl} {rdata.to_text()}" for name, ttl, rdata in zone.iterate_rdatas()}
    assert {each for each in found if " 30 " in each} == {
        "api.demo.example. 30 192.0.2.9", "api.demo.example. 30 192.0.2.8", 'api.demo.example. 30 1 . alpn="h2"',
        "*.apps.demo.example. 30 192.0.2.7", "empty.demo.example. 30 1 ."}


def test_a_service_without_a_fallback_refuses_the_zone() -> None:
    content = made(world.zone("demo.example.", ""), [
        service("api.demo.example", types.A, types.AAAA, a=["192.0.2.9"]), service("two.demo.example", types.A)])
    assert content.faults == ("service api.demo.example. has no fallback for AAAA",
                              "service two.demo.example. has no fallback for A")
    [reply] = map(dns.message.from_wire, answers(content, axfr()))
    assert reply.rcode() == dns.rcode.REFUSED
    assert "api.demo.example. has no fallback for AAAA" in reply.options[0].to_text()


def test_a_record_that_fits_no_message_refuses_the_zone() -> None:
    zone = world.zone("demo.example.", "")
    huge = RRset(names.to_wire("x.demo.example"), 65280, 1, (bytes(60_001),))
    assert "more than 60000 octets" in made(ZoneView(APEX, (*zone.rrsets, huge))).faults[0]
    large = RRset(names.to_wire("x.demo.example"), 65280, 1, (bytes(60_000),))
    content = made(ZoneView(APEX, (*zone.rrsets, large)))
    assert records(put_together(answers(content, axfr()))) == flat(content.zone.rrsets)


@pytest.mark.parametrize(("client", "key", "allowed", "ok"), [
    (CLIENT, "", ["192.0.2.0/24"], True), (CLIENT, "", [], False), (b"\xc0\0\3\1", "", ["192.0.2.0/24"], False),
    (CLIENT, "", ["key:sec"], False), (CLIENT, "sec", ["key:sec"], True), (CLIENT, "other", ["key:sec"], False),
    (CLIENT, "other", ["key:sec", "192.0.2.1"], True), (bytes(15) + b"\1", "", ["::1/128"], True),
    (bytes(15) + b"\1", "", ["0.0.0.0/0"], False),
])
def test_who_may(client: bytes, key: str, allowed: list[str], ok: bool) -> None:
    content = made(world.zone("demo.example.", ""))
    messages = answers(content, axfr(), client=client, key=key, allowed=Allowed(allowed))
    reply = dns.message.from_wire(messages[0], xfr=True)
    assert reply.rcode() == (dns.rcode.NOERROR if ok else dns.rcode.REFUSED)
    assert bool(reply.answer) == ok
    assert bool(reply.options) != ok
    assert ok or reply.options[0].to_text().startswith("EDE 18")


@pytest.mark.parametrize(("zone", "rcode"), [
    ("absent.example", dns.rcode.NOTAUTH), ("www.demo.example", dns.rcode.NOTAUTH),
    ("other.example", dns.rcode.REFUSED), ("DEMO.example", dns.rcode.NOERROR)])
def test_zones(zone: str, rcode: int) -> None:
    content = made(world.zone("demo.example.", "www A 192.0.2.1"))
    messages = answers(content, axfr(zone))
    assert dns.message.from_wire(messages[0], xfr=True).rcode() == rcode
    assert not [each for each in messages if rcode and dns.message.from_wire(each).answer]


def test_before_the_first_image_nothing_is_known() -> None:
    packet = axfr().to_wire()
    question = transfer.question(packet)
    assert question is not None
    [reply] = Transfers({APEX: HERE}, Served()).answer(question, tsig.Query(packet), CLIENT, udp=False)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(("theirs", "udp", "whole"), [
    (9, False, False), (10, False, False), (8, False, True), (8, True, False), (9 + 2**31 - 1, False, False),
    (9 + 2**31, False, True), (2**32 - 1, False, True)])
def test_ixfr(theirs: int, udp: bool, whole: bool) -> None:
    content = made(world.zone("demo.example.", "www A 192.0.2.1"), serial=9)
    query = dns.message.make_query("demo.example", "IXFR", use_edns=0)
    query.authority.append(dns.rrset.from_text("demo.example.", 0, "IN", "SOA", f"ns. h. {theirs} 0 0 0 0"))
    [message] = answers(content, query, udp=udp)
    reply = dns.message.from_wire(message, xfr=True, one_rr_per_rrset=True)
    assert reply.answer[0][0].serial == 9
    assert len(reply.answer) == (sum(len(each.rdatas) for each in content.zone.rrsets) + 1 if whole else 1)


def test_questions_without_sense() -> None:
    content = made(world.zone("demo.example.", ""))
    for query, udp in ((dns.message.make_query("demo.example", "IXFR"), False), (axfr(), True)):
        [reply] = answers(content, query, udp=udp)
        assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR
    assert transfer.question(dns.message.make_query("demo.example", "A").to_wire()) is None


def test_the_digest_is_of_all_but_the_serial() -> None:
    base = world.zone("demo.example.", "www A 192.0.2.1\nwww A 192.0.2.2\ntxt TXT x")
    same = [
        transfer.with_serial(base, 77), ZoneView(APEX, tuple(reversed(base.rrsets))),
        ZoneView(APEX, tuple(RRset(each.owner, each.type, each.ttl, each.rdatas[::-1]) for each in base.rrsets))]
    other = [
        world.zone("demo.example.", "www A 192.0.2.1\ntxt TXT x"),
        ZoneView(APEX, tuple(RRset(each.owner, each.type, each.ttl + 1, each.rdatas) for each in base.rrsets))]
    services = [service("api.demo.example", a=["192.0.2.9"])]
    digest = made(base, services).digest
    assert {made(each, services).digest for each in same} == {digest}
    found = {made(each, services).digest for each in other}
    found |= {made(base).digest, made(base, [service("api.demo.example", a=["192.0.2.8"])]).digest,
              made(base, [Declared(services[0].view, 31)]).digest}
    assert len(found) == 5
    assert digest not in found
