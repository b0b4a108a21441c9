"""Zone files: RFC 1035 master files through dnspython to `model.ZoneView`, with every fault at once.

Lives here: directives, entries to rrsets, TTL rules, limits. Does not live here: cutting text into entries
(`control.zonetext`), what makes a zone sound (`control.zonecheck`). dnspython is known here, in `tsig` and `notify`.

dnspython's own reader stops at the first error and passes over names outside the zone without a word. So each entry is
read by itself with dnspython's tokenizer and rdata parsers; a bad one is a fault with file and line, and the next is
read. Where an owner could not be read, the lines that inherit it are checked but not kept.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.ttl

from dnsd.control import zonecheck, zonetext
from dnsd.dns import names, types
from dnsd.model import Fault, RRset, ZoneView

INCLUDE_DEPTH: Final = 16
MAX_FAULTS: Final = 1000
MAX_FILE: Final = 64 * 1024 * 1024
MAX_RECORDS: Final = 1_000_000
MAX_TTL: Final = 2**31 - 1  # RFC 2181 §8

_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class ZoneFault(Exception):
    """A zone that cannot be used; `faults` names all that is wrong with it, each with `file:line`."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in faults[:3]))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Loaded:
    """A sound zone: its data, what is odd but not wrong, and every file it came from."""

    view: ZoneView
    warnings: list[Fault]
    files: tuple[Path, ...]


def read(path: Path, origin: str) -> ZoneView:
    """The zone in that master file; ZoneFault with every fault, file and line."""
    return load(path, origin).view


def load(path: Path, origin: str) -> Loaded:
    """As `read`, with the warnings and the files that were read ($INCLUDE)."""
    try:
        apex = names.to_wire(origin)
    except ValueError as error:
        raise ZoneFault([Fault(str(path), f"zone name: {error}")]) from None
    reader = _Reader(apex)
    start = dns.name.from_wire(apex, 0)[0]
    reader.file(path, _Context(start, None), ())
    verdict = zonecheck.check(apex, reader.found, str(path), reader.unread)
    faults = reader.faults + verdict.faults
    if len(faults) > MAX_FAULTS:
        faults = [*faults[:MAX_FAULTS], Fault(str(path), f"{len(faults) - MAX_FAULTS} further faults")]
    if faults:
        raise ZoneFault(faults)
    rrsets = tuple(
        RRset(owner, type_, found.ttl, tuple(found.rdatas))
        for (owner, type_), found in reader.found.items() if (owner, type_) not in verdict.left_out)
    return Loaded(ZoneView(apex, rrsets), reader.warnings + verdict.warnings, tuple(reader.files))


def rdata_text(type_: int, rdata: bytes) -> str:
    """An uncompressed rdata as master file text, for people; generic form (RFC 3597 §5) where it is not of its type."""
    try:
        return str(dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType.make(type_), rdata, 0, len(rdata)))
    except (dns.exception.DNSException, ValueError):
        return f"\\# {len(rdata)} {rdata.hex()}"


@dataclass(slots=True)
class _Context:
    """What entries inherit inside one file. `owner` is the last owner; None before the first."""

    origin: dns.name.Name
    owner: dns.name.Name | None
    owner_bad: bool = False
    default_ttl: int | None = None
    last_ttl: int | None = None
    soa_ttl: int | None = None


class _Bad(Exception):
    """This entry cannot be used, and why; the line is the entry's own where the tokenizer does not know better."""


@dataclass(slots=True)
class _Reader:
    """Collects rrsets, faults and warnings over a file and what it includes."""

    apex: bytes
    found: dict[tuple[bytes, int], zonecheck.Found] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    unread: set[int] = field(default_factory=set)
    records: int = 0

    def file(self, path: Path, context: _Context, chain: tuple[Path, ...]) -> None:
        """Read one file's entries into the reader; its faults are collected, none is raised."""
        try:
            text = _text(path)
        except OSError as error:
            self._fault(str(path), error.strerror or str(error))
            self.unread.add(zonecheck.ANY_TYPE)
            return
        self.files.append(path)
        chain = (*chain, path.resolve())
        for entry in zonetext.entries(text):
            if self.records >= MAX_RECORDS or len(self.faults) > MAX_FAULTS:
                self._fault(f"{path}:{entry.line}", "reading stops here: too many faults or records")
                return
            self._entry(entry, path, context, chain)

    def _entry(self, entry: zonetext.Entry, path: Path, context: _Context, chain: tuple[Path, ...]) -> None:
        """One entry: a directive, the records of a $GENERATE, or a record; what is wrong with it becomes a fault."""
        place = f"{path}:{entry.line}"
        if _NOT_UTF8.search(entry.text):
            self._fault(place, "not UTF-8")
            self.unread.add(zonecheck.ANY_TYPE)
            return
        word = entry.text.split(None, 1)[0].upper()
        try:
            if word == "$INCLUDE":
                self._include(entry, path, context, chain)
            elif word == "$GENERATE":
                for one in zonetext.generated(entry):
                    if not self._record(one, path, context):
                        break
            elif word.startswith("$"):
                _directive(word, entry, context)
            else:
                self._record(entry, path, context)
        except (_Bad, ValueError, dns.exception.DNSException) as error:
            self._fault(place, _words(error, entry.text))
            self.unread.add(zonecheck.ANY_TYPE)

    def _include(self, entry: zonetext.Entry, path: Path, context: _Context, chain: tuple[Path, ...]) -> None:
        """RFC 1035 §5.1: the file's entries here; its origin and last owner do not come back."""
        tokens = dns.tokenizer.Tokenizer(entry.text, str(path))
        tokens.get()
        name = tokens.get_string()
        token = tokens.get()
        origin = context.origin
        if not token.is_eol_or_eof():
            origin = tokens.as_name(token, context.origin)
            tokens.get_eol()
        target = path.parent / name
        if target.resolve() in chain:
            raise _Bad(f"$INCLUDE {name}: the file includes itself")
        if len(chain) >= INCLUDE_DEPTH:
            raise _Bad(f"$INCLUDE {name}: more than {INCLUDE_DEPTH} files deep")
        if not target.is_file():
            raise _Bad(f"$INCLUDE {name}: no such file as {target}")
        self.file(target, replace(context, origin=origin), chain)

    def _record(self, entry: zonetext.Entry, path: Path, context: _Context) -> bool:
        """Read and keep one resource record; False when it was a fault."""
        tokens = dns.tokenizer.Tokenizer(entry.text, str(path))
        parsed = _Parsed()
        self.records += 1
        try:
            _owner(tokens, context)
            _parse(tokens, context, parsed)
            if context.owner is not None and not context.owner_bad:
                self._keep(context.owner.to_digestable(), parsed, f"{path}:{entry.line}")
        except (_Bad, ValueError, dns.exception.DNSException) as error:
            # A line break that ended the bad token has been counted though it was put back.
            line = tokens.where()[1] - 1 - (tokens.ungotten_char == "\n")
            self._fault(f"{path}:{entry.line + line}", _words(error, entry.text))
            self.unread.add(parsed.type or zonecheck.ANY_TYPE)
            return False
        return True

    def _keep(self, owner: bytes, parsed: _Parsed, place: str) -> None:
        """File a record under its rrset; _Bad for one outside the zone or with another TTL than its rrset."""
        if not names.under(owner, self.apex):
            raise _Bad(f"{names.to_text(owner)} is outside the zone {names.to_text(self.apex)}")
        key = (owner, parsed.type)
        found = self.found.get(key)
        if found is None:
            self.found[key] = zonecheck.Found(parsed.ttl, {parsed.rdata: place})
            return
        what = f"{names.to_text(owner)} {types.type_text(parsed.type)}"
        if parsed.rdata in found.rdatas:
            self.warnings.append(Fault(place, f"{what}: said before at {found.rdatas[parsed.rdata]}"))
            return
        found.rdatas[parsed.rdata] = place
        # RRSIGs are no rrset of their own: each has the TTL of what it signs (RFC 4034 §3).
        if parsed.ttl != found.ttl and parsed.type != types.RRSIG:
            raise _Bad(f"{what}: TTL {parsed.ttl} differs from {found.ttl} at {found.place} (RFC 2181 §5.2)")

    def _fault(self, place: str, message: str) -> None:
        self.faults.append(Fault(place, message))


@dataclass(slots=True)
class _Parsed:
    """A record's fields behind its owner, filled as they are read so that a fault knows how far it came."""

    type: int = 0
    ttl: int = 0
    rdata: bytes = b""


def _directive(word: str, entry: zonetext.Entry, context: _Context) -> None:
    tokens = dns.tokenizer.Tokenizer(entry.text)
    tokens.get()
    if word == "$TTL":
        context.default_ttl = _ttl(tokens.get_identifier())
    elif word == "$ORIGIN":
        context.origin = tokens.get_name(context.origin)
    else:
        raise _Bad(f"unknown directive {word}")
    tokens.get_eol()


def _owner(tokens: dns.tokenizer.Tokenizer, context: _Context) -> None:
    """The entry's owner into the context: its first token, or the last owner when it starts with a blank."""
    token = tokens.get(want_leading=True)
    if token.is_whitespace():
        if context.owner is None and not context.owner_bad:
            raise _Bad("no owner: the entry starts with a blank and none was named before")
        return
    context.owner_bad = True
    context.owner = tokens.as_name(token, context.origin)
    context.owner_bad = False


def _parse(tokens: dns.tokenizer.Tokenizer, context: _Context, parsed: _Parsed) -> None:
    """`[TTL] [class] type rdata` or `[class] [TTL] type rdata` (RFC 1035 §5.1) into `parsed`."""
    ttl: int | None = None
    seen_class = False
    while True:
        token = tokens.get()
        if not token.is_identifier():
            raise _Bad("no record type")
        if ttl is None and token.value[0].isdigit():
            ttl = context.last_ttl = _ttl(token.value)
            continue
        if not seen_class and _is_class(token.value):
            seen_class = True
            continue
        break
    parsed.type = _type(token.value)
    rdata = dns.rdata.from_text(
        dns.rdataclass.IN, dns.rdatatype.RdataType.make(parsed.type), tokens, context.origin, relativize=False)
    parsed.rdata = rdata.to_wire() or b""
    if parsed.type == types.SOA:
        context.soa_ttl = int.from_bytes(parsed.rdata[-4:], "big")
    parsed.ttl = _implied(context) if ttl is None else ttl


def _implied(context: _Context) -> int:
    """The TTL of a record that states none: $TTL, else the last one stated, else the SOA's minimum (RFC 2308 §4)."""
    for ttl in (context.default_ttl, context.last_ttl, context.soa_ttl):
        if ttl is not None:
            return ttl
    raise _Bad("no TTL: neither here, nor by $TTL, nor in a record before")


def _ttl(text: str) -> int:
    try:
        ttl = dns.ttl.from_text(text)
    except dns.ttl.BadTTL:
        raise _Bad(f"`{text}` is no TTL") from None
    if ttl > MAX_TTL:
        raise _Bad(f"TTL {text} is above {MAX_TTL}")
    return ttl


def _is_class(text: str) -> bool:
    """Whether the token names a class; _Bad for one that is not IN."""
    try:
        class_ = dns.rdataclass.from_text(text)
    except (dns.exception.DNSException, ValueError):
        return False
    if class_ != dns.rdataclass.IN:
        raise _Bad(f"class {text}: only IN is served")
    return True


def _type(text: str) -> int:
    try:
        number = int(dns.rdatatype.from_text(text))
    except (dns.exception.DNSException, ValueError):
        raise _Bad(f"unknown record type `{text}`") from None
    if number == 0 or dns.rdatatype.is_metatype(dns.rdatatype.RdataType.make(number)):
        raise _Bad(f"{text} is no type of data")
    return number


def _text(path: Path) -> str:
    """The file's text; octets that are no UTF-8 become lone surrogates, so that their line can be named."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "not a file")
    if status.st_size > MAX_FILE:
        raise OSError(0, f"larger than {MAX_FILE} octets")
    return path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _words(error: Exception, entry: str) -> str:
    """An error as one sentence; where dnspython says no more than "malformed", the entry itself says where to look."""
    text = str(error).strip()
    if isinstance(error, _Bad):
        return text
    if isinstance(error, dns.exception.UnexpectedEnd):
        return "the entry ends too early"
    if text and text != dns.exception.SyntaxError.__doc__:
        return text.rstrip(".")
    shown = " ".join(entry.split())
    return f"cannot be read: `{shown if len(shown) <= 60 else shown[:57] + '...'}`"
