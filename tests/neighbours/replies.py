"""Replies as dnspython reads them, reduced to what two servers can be compared by.

Lives here: the comparison's view of a reply, and which of its parts differ. Does not live here: which may
(`differences`).
"""

from __future__ import annotations

from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

RR = tuple[str, int, str, str]
"""Owner in lower case, TTL, type, rdata as text in lower case where it holds names."""


class View(NamedTuple):
    """A reply without its id; sections are sets, because their order means nothing but in a chain of aliases."""

    rcode: int
    flags: int
    question: bytes
    answer: frozenset[RR]
    authority: frozenset[RR]
    additional: frozenset[RR]
    opt: tuple[int, int] | None
    size: int
    repeated: bool

    @property
    def tc(self) -> bool:
        """Whether it was cut."""
        return bool(self.flags & dns.flags.TC)

    def types(self, section: str) -> set[str]:
        """The types in a section."""
        return {type_ for _, _, type_, _ in getattr(self, section)}


def read(octets: bytes) -> View:
    """The view of a reply; an exception of dnspython's when it is malformed."""
    message = dns.message.from_wire(octets, one_rr_per_rrset=True, ignore_trailing=False)
    end = 12
    if octets[5]:
        while octets[end]:
            end += 1 + octets[end]
        end += 5
    sections = [frozenset(map(_rr, section)) for section in message.sections[1:]]
    opt = None if message.edns < 0 else (message.edns, message.ednsflags)
    return View(int(message.rcode()), int(message.flags) & 0xFFF0, octets[12:end], *sections, opt, len(octets),
                [len(s) for s in message.sections[1:]] != [len(s) for s in sections])


def _rr(rrset: dns.rrset.RRset) -> RR:
    return (str(rrset.name).lower(), rrset.ttl, dns.rdatatype.to_text(rrset.rdtype),
            rrset[0].to_digestable().hex())


def differing(ours: View, theirs: View) -> set[str]:
    """The parts in which they differ. The size of either side is its own business."""
    parts = {part for part in ("rcode", "flags", "question", "answer", "authority", "additional", "opt")
             if getattr(ours, part) != getattr(theirs, part)}
    return parts | ({"repeated"} if ours.repeated else set())
