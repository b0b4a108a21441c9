"""What a name comes to when it is not simply there: wildcards, cuts, aliases, denials.

Lives here: closest encloser and wildcard (RFC 4592 §3.3), referrals with glue, CNAME and DNAME chains through every
zone of the image (RFC 1034 §4.3.2, RFC 6672 §3.2), NODATA and NXDOMAIN with the SOA (RFC 2308 §3), minimal ANY.
Does not live here: the query and the reply around it (`answer`), choosing a service's addresses (`choose`).
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Final

from dnsd import metrics
from dnsd.choose import choose
from dnsd.dns import types, wire
from dnsd.dns.wire import Ecs, Heads
from dnsd.image import layout
from dnsd.image.reading import KEY_CNAME, KEY_DNAME, KEY_DS, Entry, Image, Node

CHAIN_MAX: Final = 9
"""Aliases followed for one question; a chain that goes on is left where it is, for the resolver to follow."""

_ANY: Final = b"\0\xff\0\1"
_IN: Final = b"\0\1"
HINFO: Final = b"\xc0\x0c\0\x0d\0\1\0\0\x0e\x10\0\x09\x07RFC8482\0"


Asked = tuple[bytes, bytes, int, bytes, Ecs | None, int]
"""What of a query decides: name (lower case), type and class octets, the question's end, client, client subnet, now."""

Outcome = tuple[Heads, bytes, int, int, bytes, int]
"""An answer without its OPT: head, body, rcode, scope, further options, and the counter it belongs to."""

REFUSED: Final[Outcome] = (
    wire.heads(types.REFUSED, aa=False), b"", types.REFUSED, 0,
    wire.error_option(types.EDE_NOT_AUTHORITATIVE, "no zone of this server holds the name"), metrics.KIND_REFUSED)

NOT_HERE: Final[Outcome] = (
    wire.heads(types.REFUSED, aa=False), b"", types.REFUSED, 0,
    wire.error_option(types.EDE_NOT_SUPPORTED, "class IN only"), metrics.KIND_REFUSED)

NO_TRANSFER: Final[Outcome] = (
    wire.heads(types.REFUSED, aa=False), b"", types.REFUSED, 0,
    wire.error_option(types.EDE_PROHIBITED, "transfers are not for you"), metrics.KIND_REFUSED)

NO_SUCH_ZONE: Final[Outcome] = (
    wire.heads(types.NOTAUTH, aa=False), b"", types.NOTAUTH, 0,
    wire.error_option(types.EDE_NOT_AUTHORITATIVE, "no zone of this server begins there"), metrics.KIND_REFUSED)


def deepest(name: bytes, starts: Sequence[int], image: Image) -> Node | None:
    """The node of the name or of its nearest ancestor; `starts` are its labels' offsets in the packet, the root's last.
    """
    # No name in the image has more labels than `depth`, so deeper ancestors need not be looked for.
    skip = len(starts) - 1 - image.depth
    for at in starts[skip:] if skip > 0 else starts:
        suffix = name[at - 12 :]
        if suffix in image.index:
            return image.nodes.get(suffix) or image.unfold(suffix)
    return None


def missing(asked: Asked, node: Node | None, image: Image, count: MutableSequence[int]) -> Outcome:
    """The answer for a name of which `node` is the `deepest` there is."""
    name, key, tail, _, _, _ = asked
    if node is None:
        return NO_SUCH_ZONE if _is_transfer(key) else REFUSED
    if node.name == name:
        return present(asked, node, image, count)
    if _is_transfer(key):
        return NO_SUCH_ZONE
    if key[2:] != _IN:
        return NOT_HERE
    if node.cut is not None:
        return _referral(tail, node.cut)
    if node.flags & layout.N_DNAME:
        return _chain(asked, node, image, count)
    if node.wildcard is not None:
        return (*present(asked, node.wildcard, image, count)[:5], metrics.KIND_WILDCARD)
    return _denial(name, node, types.NXDOMAIN)


def present(asked: Asked, node: Node, image: Image, count: MutableSequence[int]) -> Outcome:
    """The answer at a node that has no finished entry for the question."""
    name, key, tail, _, _, _ = asked
    if _is_transfer(key):
        return NO_TRANSFER if node.name == name and node.flags & layout.N_APEX else NO_SUCH_ZONE
    if key[2:] != _IN:
        return NOT_HERE
    if node.cut is not None and (node.cut is not node or key != KEY_DS):
        return _referral(tail, node.cut)
    if node.flags & layout.N_CNAME and key != KEY_CNAME:
        return _chain(asked, node, image, count)
    if key == _ANY and not node.flags & layout.N_EMPTY:
        return wire.heads(answers=1), HINFO, 0, 0, b"", metrics.KIND_ANY  # RFC 8482 §4.2
    return _ends(asked, node, image, count) or _denial(name, _denier(key, node, image), types.NOERROR)


def _is_transfer(key: bytes) -> bool:
    """AXFR or IXFR: of a name that is no apex here they are told so (RFC 5936 §2.2.1), else refused."""
    return key in (b"\0\xfb\0\1", b"\0\xfc\0\1")


def _denier(key: bytes, node: Node, image: Image) -> Node:
    """The node whose zone says that a type is absent: of DS the parent's, where we hold it (RFC 4035 §3.1.4.1)."""
    if key == KEY_DS and node.flags & layout.N_APEX and node.name != b"\0":
        above = _encloser(node.name[1 + node.name[0] :], image)
        if above is not None and above[0].cut is None:
            return above[0]
    return node


def _ends(asked: Asked, node: Node, image: Image, count: MutableSequence[int]) -> Outcome | None:
    """A static entry or a service's choice at this node, as a wildcard or the end of a chain finds it."""
    _, key, _, client, ecs, now = asked
    entry = node.answers.get(key)
    if entry is None:
        return None
    if isinstance(entry, Entry):
        return entry.heads, entry.data, 0, 0, b"", metrics.KIND_STATIC
    number, rrs, scope, options = choose(image, image.plan(node.record), entry, client, ecs, now, count)
    if not number:
        return wire.heads(types.SERVFAIL, aa=False), b"", types.SERVFAIL, scope, options, metrics.KIND_SERVFAIL
    return wire.heads(answers=number), rrs, 0, scope, options, metrics.KIND_SERVICE


def _denial(name: bytes, node: Node, rcode: int) -> Outcome:
    """NODATA or NXDOMAIN; the SOA's owner is a pointer to the apex inside the question."""
    zone = node.zone
    body = _POINTERS[len(name) - len(zone.apex)] + zone.soa_tail
    if rcode:
        return zone.nxdomain, body, rcode, 0, b"", metrics.KIND_NXDOMAIN
    return zone.nodata, body, 0, 0, b"", metrics.KIND_NODATA


_POINTERS: Final = tuple((0xC00C + at).to_bytes(2, "big") for at in range(256))
"""Compression pointers to the octet of that number in the question's name (RFC 1035 §4.1.4)."""


def _referral(tail: int, cut: Node) -> Outcome:
    """The cut's NS in authority, glue in additional, AA clear (RFC 1034 §4.3.2 3b); scope 0 (RFC 7871 §7.4)."""
    entry = _delegation(cut)
    owner = (0xC000 | tail - 4 - len(cut.name)).to_bytes(2, "big")
    body = wire.reown(entry.data, entry.count, owner) + entry.extra
    heads = wire.heads(aa=False, authority=entry.count, extra=entry.extra_count)
    return heads, body, 0, 0, b"", metrics.KIND_REFERRAL


def _delegation(cut: Node) -> Entry:
    entry = cut.referral
    assert entry is not None  # a cut is one by its NS rrset  # noqa: S101
    return entry


def _chain(asked: Asked, node: Node, image: Image, count: MutableSequence[int]) -> Outcome:
    """Follow CNAME and DNAME; the rcode is that of the last name (RFC 6604 §2), the scope the longest of all parts."""
    name, key, tail, _, _, _ = asked
    kind = metrics.KIND_DNAME if node.name != name and node.flags & layout.N_DNAME else metrics.KIND_CNAME
    body, answers = b"", 0
    owner = b"\xc0\x0c"
    seen, told = {name}, set[bytes]()
    for _ in range(CHAIN_MAX):
        rrs, number, target = _alias(name, owner, node, told)
        body += rrs
        answers += number
        if len(target) > 255:  # RFC 6672 §2.2; the DNAME is told all the same (§3.2, 3C)
            return wire.heads(types.YXDOMAIN, answers=answers), body, types.YXDOMAIN, 0, b"", kind
        # Nine aliases, each with a DNAME and names of 255 octets, end before 0x4000, where pointers cease to reach.
        owner = (0xC000 | tail + len(body) - len(target)).to_bytes(2, "big")
        name = target.lower()
        # An alias is all there is to say to ANY (RFC 8482 §4.1), and the answer itself to CNAME.
        found = None if name in seen or key in (_ANY, KEY_CNAME) else _encloser(name, image)
        seen.add(name)
        if found is None:
            break
        last = _land(asked, name, owner, found, image, count)
        if isinstance(last, Node):
            node = last
            continue
        extra_answers, authority, extra, tail_body, rcode, scope, options = last
        heads = wire.heads(rcode, rcode != types.SERVFAIL, answers + extra_answers, authority, extra)
        return heads, body + tail_body, rcode, scope, options, kind
    return wire.heads(answers=answers), body, 0, 0, b"", kind


def _alias(name: bytes, owner: bytes, node: Node, told: set[bytes]) -> tuple[bytes, int, bytes]:
    """RRs of one alias step, their number, and where it leads, which is also the end of the RRs.

    A DNAME is told once however often it is followed, `told` has their owners. It may lead to a name longer than 255
    octets; then its CNAME is left out.
    """
    entry = node.answers.get(KEY_CNAME)
    if isinstance(entry, Entry):
        target = entry.data[12:]
        return owner + entry.data[2:], 1, target
    entry = node.answers[KEY_DNAME]
    assert isinstance(entry, Entry)  # the flag N_DNAME is set only with the rrset  # noqa: S101
    target = name[: len(name) - len(node.name)] + entry.data[12:]
    new = node.name not in told
    told.add(node.name)
    dname = node.name + entry.data[2:] if new else b""
    if len(target) > 255:
        return dname, new, target
    cname = owner + b"\0\5\0\1" + entry.data[6:10] + len(target).to_bytes(2, "big") + target
    return dname + cname, 1 + new, target


_Landed = tuple[int, int, int, bytes, int, int, bytes]
"""Answers, authority and additional counts, body, rcode, scope, options."""


def _land(asked: Asked, name: bytes, owner: bytes, found: tuple[Node, Node], image: Image,
          count: MutableSequence[int]) -> Node | _Landed:
    """What the chain's next name comes to: the node of a further alias, or the end of the answer."""
    encloser, node = found
    if encloser.cut is not None and (encloser.cut is not node or node.name != name or asked[1] != KEY_DS):
        entry = _delegation(encloser.cut)
        body = wire.reown(entry.data, entry.count, _inside(owner, name, encloser.cut.name)) + entry.extra
        return 0, entry.count, entry.extra_count, body, 0, 0, b""
    if node.name != name and node is encloser:
        if node.flags & layout.N_DNAME:
            return node
        zone = encloser.zone
        return 0, 1, 0, _inside(owner, name, zone.apex) + zone.soa_tail, types.NXDOMAIN, 0, b""
    if node.flags & layout.N_CNAME:
        return node
    end = _ends(asked, node, image, count)
    if end is None:
        zone = _denier(asked[1], node, image).zone
        return 0, 1, 0, _inside(owner, name, zone.apex) + zone.soa_tail, 0, 0, b""
    heads, body, rcode, scope, options, _ = end
    number = int.from_bytes(heads[0][4:6], "big")
    return number, 0, 0, wire.reown(body, number, owner), rcode, scope, options


def _inside(owner: bytes, name: bytes, ancestor: bytes) -> bytes:
    """The pointer to a name's ancestor, where `owner` is the one to the name."""
    return (int.from_bytes(owner, "big") + len(name) - len(ancestor)).to_bytes(2, "big")


def _encloser(name: bytes, image: Image) -> tuple[Node, Node] | None:
    """The closest encloser of a name and the node that speaks for it (itself, a wildcard, or the encloser again)."""
    starts, at = [0], 0
    while name[at]:
        at += 1 + name[at]
        starts.append(at)
    # Nothing is deeper than `depth`: else a DNAME that leads below itself would cost 127 look-ups at each step.
    for at in starts[max(0, len(starts) - 1 - image.depth) :]:
        node = image.get(name[at:])
        if node is not None:
            return node, node.wildcard if at and node.wildcard is not None else node
    return None
