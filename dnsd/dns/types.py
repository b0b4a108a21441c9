"""Numbers of the DNS: types, classes, rcodes, opcodes, EDNS options, and their names.

Lives here: the IANA numbers that dnsd itself refers to, and text for the rest (RFC 3597 §5 `TYPE65534`).
Does not live here: rdata of any type (zone files go through dnspython on the control side).
"""

from __future__ import annotations

from typing import Final

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
HINFO: Final = 13
TXT: Final = 16
AAAA: Final = 28
DNAME: Final = 39
OPT: Final = 41
DS: Final = 43
RRSIG: Final = 46
NSEC: Final = 47
HTTPS: Final = 65
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255

IN: Final = 1
CH: Final = 3

QUERY: Final = 0
NOTIFY: Final = 4
UPDATE: Final = 5

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
YXDOMAIN: Final = 6
NOTAUTH: Final = 9
BADVERS: Final = 16
BADKEY: Final = 17  # the same number space, told in a TSIG (RFC 8945 §3)
BADCOOKIE: Final = 23

OPTION_NSID: Final = 3
OPTION_ECS: Final = 8
OPTION_COOKIE: Final = 10
OPTION_KEEPALIVE: Final = 11
OPTION_PADDING: Final = 12
OPTION_EDE: Final = 15

EDE_OTHER: Final = 0
EDE_STALE: Final = 3
EDE_PROHIBITED: Final = 18
EDE_NOT_AUTHORITATIVE: Final = 20
EDE_NOT_SUPPORTED: Final = 21

_NAMES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB",
    24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT", 39: "DNAME", 41: "OPT",
    42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 49: "DHCID", 50: "NSEC3",
    51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC",
    63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 108: "EUI48", 109: "EUI64", 249: "TKEY", 250: "TSIG", 251: "IXFR",
    252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}
_NUMBERS: Final = {name: number for number, name in _NAMES.items()}


def type_text(number: int) -> str:
    """The mnemonic of a type, or `TYPEn` (RFC 3597 §5)."""
    return _NAMES.get(number, f"TYPE{number}")


def type_number(text: str) -> int:
    """The number of a mnemonic or `TYPEn`, in any case; ValueError for anything else."""
    upper = text.upper()
    if upper in _NUMBERS:
        return _NUMBERS[upper]
    digits = upper.removeprefix("TYPE")
    if digits != upper and digits.isascii() and digits.isdigit() and int(digits) < 65536:
        return int(digits)
    raise ValueError(f"{text!r} is no record type")
