"""Where dnsd and its neighbours answer differently, on purpose: a table, each entry with its reason in an RFC.

Lives here: the entries and their predicates. Does not live here: drawing questions, reading replies.

An entry explains parts of a reply, and only where its predicate knows the neighbour's way exactly. What differs and is
explained by no entry is a fault of ours until it is here. There is room for fifteen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import dns.flags
import dns.name

from tests.neighbours.questions import Question
from tests.neighbours.replies import View

MOST: Final = 15
_ANY, _AXFR, _IXFR = 255, 252, 251
_IN, _ANY_CLASS = 1, 255
_KNOTS_CHAIN: Final = 5
_CD: Final = int(dns.flags.CD)
_BESIDE_CNAME: Final = frozenset({46, 47, 50})
_LEADING: Final = frozenset({"NS", "MX", "SRV", "SVCB", "HTTPS"})
_ADDED: Final = frozenset({"A", "AAAA", "SVCB", "HTTPS"})
_SECTIONS: Final = frozenset({"answer", "authority", "additional"})
_BOTH: Final = frozenset({"knot", "nsd"})
_KNOT: Final = frozenset({"knot"})
_NSD: Final = frozenset({"nsd"})


class Case(NamedTuple):
    """A question, our reply, what it would be without a limit of size, a neighbour's, and all apexes."""

    question: Question
    ours: View
    whole: View
    theirs: View
    apexes: frozenset[str]


class Difference(NamedTuple):
    """Whose, which parts it explains, when, and why."""

    who: frozenset[str]
    parts: frozenset[str]
    when: Callable[[Case], bool]
    rfc: str
    why: str


def _one_rrset(case: Case) -> bool:
    theirs = case.theirs
    return (case.question.type == _ANY and case.ours.types("answer") == {"HINFO"} and not theirs.rcode
            and (theirs.tc or len({(owner, type_) for owner, _, type_, _ in theirs.answer}) == 1))


def _any_by_tcp(case: Case) -> bool:
    theirs = case.theirs
    return (case.question.type == _ANY and not case.question.tcp and case.question.class_ in (_IN, _ANY_CLASS)
            and theirs.tc and not theirs.question and not theirs.answer | theirs.authority | theirs.additional)


def _no_question(case: Case) -> bool:
    return not case.theirs.question and case.theirs.rcode == case.ours.rcode == 5


def _bad_version(case: Case) -> bool:
    ours, theirs = case.ours, case.theirs
    return (ours.rcode == theirs.rcode == 16 and ours.opt is not None and theirs.flags & ~_CD == ours.flags
            and theirs.opt == (0, ours.opt[1] & ~0x8000))


def _needless(case: Case) -> bool:
    ours, theirs = case.ours, case.theirs
    return (bool(ours.types("answer") & _LEADING) and not ours.authority | ours.additional
            and theirs.types("additional") <= _ADDED)


def _cut(case: Case) -> bool:
    """One of the two was cut, the other was not, and each at its size; or both, and how is different: what is cut
    amid a chain has the rcode of nothing."""
    ours, theirs, limit = case.ours, case.theirs, _limit(case.question)
    if ours.flags | dns.flags.TC != theirs.flags | dns.flags.TC:
        return False
    if ours.rcode != theirs.rcode and not theirs.tc and not _stays_in_zone(case):
        return False
    return case.whole.size > limit >= ours.size if ours.tc else theirs.tc and theirs.size <= limit


def _limit(question: Question) -> int:
    if question.tcp:
        return 65535
    return 512 if question.size is None else min(max(question.size, 512), 1232)


def _optional_left_out(case: Case) -> bool:
    """A referral that has all addresses at and below cuts, but not those that can be asked for."""
    ours, theirs = case.ours, case.theirs
    return (ours.types("authority") == {"NS"} and ours.additional < theirs.additional and case.whole.size > 350
            and theirs.types("additional") <= _ADDED)


def _stays_in_zone(case: Case) -> bool:
    """Knot follows aliases within the zone of the question: it ends at the first target outside, without a word."""
    ours, theirs = case.whole, case.theirs
    zone = _zone(case.question.name.to_text().lower(), case)
    targets = {_name(rdata) for _, _, type_, rdata in theirs.answer if type_ == "CNAME"}
    leaves = any(_zone(target, case) not in (zone, None) for target in targets)
    delegated = {owner for owner, _, type_, _ in theirs.authority if type_ == "NS"} <= case.apexes
    return leaves and theirs.answer <= ours.answer and not theirs.rcode and delegated


def _zone(name: str, case: Case) -> str | None:
    held = [apex for apex in case.apexes if name == apex or name.endswith("." + apex)]
    return max(held, key=len, default=None)


def _name(rdata: str) -> str:
    return dns.name.from_wire(bytes.fromhex(rdata), 0)[0].to_text().lower()


def _beside_alias(case: Case) -> bool:
    theirs = case.theirs
    return (case.question.type in _BESIDE_CNAME and "CNAME" in case.whole.types("answer")
            and theirs.answer < case.whole.answer and theirs.types("authority") <= {"SOA"} and not theirs.rcode)


def _long_chain(case: Case) -> bool:
    chain = sum(1 for _, _, type_, _ in case.whole.answer if type_ == "CNAME")
    there = [type_ for _, _, type_, _ in case.theirs.answer]
    return (chain >= _KNOTS_CHAIN and there.count("CNAME") == _KNOTS_CHAIN and case.theirs.answer < case.whole.answer
            and not case.theirs.authority | case.theirs.additional)


def _any_below_dname(case: Case) -> bool:
    return (case.question.type == _ANY and case.ours.types("answer") == {"DNAME", "CNAME"}
            and case.ours.answer <= case.theirs.answer and not case.ours.rcode)


def _transfer(case: Case) -> bool:
    told = (4, 9) if case.question.tcp or case.question.type == _IXFR else (1, 4)
    return (case.question.type in (_AXFR, _IXFR) and case.ours.rcode in (5, 9) and case.theirs.rcode in told
            and not case.theirs.answer)


def _class_any(case: Case) -> bool:
    return case.question.class_ == _ANY_CLASS and case.ours.rcode == 5 and case.theirs.rcode in (0, 3, 9)


def _type_zero(case: Case) -> bool:
    return case.question.type == 0 and case.theirs.rcode == 4


DIFFERENCES: Final = (
    Difference(_BOTH, frozenset({"answer", "additional", "flags"}), _one_rrset, "RFC 8482 §4.2",
               "ANY is answered with a HINFO that is made up, there with one of the rrsets"),
    Difference(_NSD, _SECTIONS | {"flags", "question", "rcode"}, _any_by_tcp, "RFC 8482 §4.4",
               "ANY over UDP is answered, there it is sent to TCP whatever the name"),
    Difference(_BOTH, _SECTIONS | {"rcode"}, _any_below_dname, "RFC 8482 §4.1",
               "ANY below a DNAME: its alias is answer enough, there it is followed"),
    Difference(_NSD, frozenset({"question"}), _no_question, "RFC 1035 §4.1.2",
               "the question comes back in a refusal, there it does not"),
    Difference(_NSD, frozenset({"flags", "opt"}), _bad_version, "RFC 6891 §6.1.4, RFC 4035 §3.1.6",
               "BADVERS: DO is copied and CD is not, there the other way about"),
    Difference(_BOTH, frozenset({"additional"}), _needless, "RFC 1034 §4.3.2 step 6",
               "addresses of an answer's targets may be useful, and may be asked for: replies are minimal"),
    Difference(_BOTH, _SECTIONS | {"flags", "rcode"}, _cut, "RFC 1035 §4.1.4, RFC 2181 §9",
               "names in data are not compressed, so a limit is met sooner; what is cut is empty"),
    Difference(_BOTH, frozenset({"additional"}), _optional_left_out, "RFC 9471 §3.2",
               "addresses that are no glue are left out where a referral might not fit 512 octets with them"),
    Difference(_KNOT, _SECTIONS | {"rcode"}, _stays_in_zone, "RFC 1034 §4.3.2 step 1, RFC 6604 §2",
               "aliases are followed through all zones served here, there through one"),
    Difference(_KNOT, _SECTIONS, _long_chain, "RFC 1034 §3.6.2",
               "nine aliases are followed, there five; what is behind them the resolver asks for"),
    Difference(_BOTH, _SECTIONS | {"rcode"}, _beside_alias, "RFC 1034 §4.3.2 3a, RFC 4035 §2.5",
               "in an unsigned zone NSEC, NSEC3 and RRSIG follow an alias as any type does"),
    Difference(_BOTH, _SECTIONS | {"rcode", "flags"}, _class_any, "RFC 1035 §3.2.5, RFC 8482 §4",
               "class ANY is refused: an answer of all classes is for nobody"),
    Difference(_BOTH, frozenset({"rcode"}), _transfer, "RFC 5936 §2.2.1 and §4.2",
               "who may not have a zone is refused, over UDP too; there that is NOTAUTH, NOTIMP or FORMERR"),
    Difference(_KNOT, _SECTIONS | {"rcode", "flags"}, _type_zero, "RFC 6895 §3.1, RFC 3597 §2",
               "type 0 is a type that no name has, there it is not implemented"),
)
