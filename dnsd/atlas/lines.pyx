# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A table of AS numbers as text, compiled.

Lives here: lines that are exactly as they should be. Does not live here: any other line: this gives up at the first one,
and `atlas.prefixes`, which reads the same by vector arithmetic and line by line, judges it and names the fault.
"""

import numpy as np

from libc.stdint cimport uint8_t, uint32_t, uint64_t

FORM = 1  # see `atlas.compiled`

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char *text, void *out)

cdef extern from "sys/socket.h":
    int AF_INET6


cdef struct Line:
    uint64_t key
    uint64_t low
    uint32_t asn
    uint8_t length
    bint six


cdef inline int _digits(const uint8_t **at, const uint8_t *end, int most, uint64_t *out) noexcept nogil:
    """1 to `most` decimal digits; how many, or 0."""
    cdef int count = 0
    out[0] = 0
    while at[0] < end and count < most and 48 <= at[0][0] <= 57:
        out[0] = out[0] * 10 + (at[0][0] - 48)
        at[0] += 1
        count += 1
    return count


cdef int _four(const uint8_t **at, const uint8_t *end, uint64_t *key) noexcept nogil:
    cdef uint64_t octet
    cdef int i, width
    key[0] = 0
    for i in range(4):
        width = _digits(at, end, 3, &octet)
        if not width or octet > 255 or width != (1 if octet < 10 else 2 if octet < 100 else 3):
            return -1
        key[0] = key[0] << 8 | octet
        if i < 3:
            if at[0] == end or at[0][0] != 46:
                return -1
            at[0] += 1
    return 0


cdef int _six(const uint8_t **at, const uint8_t *end, uint64_t *key, uint64_t *low) noexcept nogil:
    cdef char text[48]
    cdef uint8_t packed[16]
    cdef int i = 0
    while at[0] < end and at[0][0] != 47 and i < 47:
        text[i] = <char>at[0][0]
        at[0] += 1
        i += 1
    text[i] = 0
    if inet_pton(AF_INET6, text, packed) != 1:
        return -1
    key[0], low[0] = 0, 0
    for i in range(8):
        key[0] = key[0] << 8 | packed[i]
        low[0] = low[0] << 8 | packed[8 + i]
    return 0


cdef int _line(const uint8_t **at, const uint8_t *end, Line *line) noexcept nogil:
    """One `prefix/length<TAB>asn` line; -1 where it is not exactly that."""
    cdef const uint8_t *begin = at[0]
    cdef uint64_t length, asn
    while at[0] < end and at[0][0] != 46 and at[0][0] != 58 and at[0] - begin < 5:
        at[0] += 1
    if at[0] == end:
        return -1
    line.six = at[0][0] == 58
    at[0] = begin
    line.low = 0
    if (_six(at, end, &line.key, &line.low) if line.six else _four(at, end, &line.key)) < 0:
        return -1
    if at[0] == end or at[0][0] != 47:
        return -1
    at[0] += 1
    if not _digits(at, end, 3, &length) or length > (128 if line.six else 32) or at[0] == end or at[0][0] != 9:
        return -1
    at[0] += 1
    if not _digits(at, end, 10, &asn) or asn >> 32 or at[0] == end or at[0][0] != 10:
        return -1
    at[0] += 1
    line.length, line.asn = <uint8_t>length, <uint32_t>asn
    if not line.six:
        return -1 if line.key & ((<uint64_t>1 << (32 - length)) - 1) else 0
    if length <= 64:
        return -1 if line.low or length < 64 and line.key << length else 0
    return -1 if length < 128 and line.low << (length - 64) else 0


def table(bytes text):
    """((keys, lengths, AS numbers) of IPv4, the same of IPv6) of `prefix/length<TAB>asn` lines, each with its line end;
    lengths are the true ones. None where any line is not exactly that."""
    cdef const uint8_t *at = text
    cdef const uint8_t *end = at + len(text)
    cdef uint64_t[::1] keys4, keys6
    cdef uint8_t[::1] lengths4, lengths6
    cdef uint32_t[::1] values4, values6
    cdef Py_ssize_t four = 0, six = 0
    cdef int wrong = 0
    cdef Line line
    lines = text.count(b"\n")  # room that is not used takes no memory
    columns = [(np.empty(lines, np.uint64), np.empty(lines, np.uint8), np.empty(lines, np.uint32)) for _ in range(2)]
    (keys4, lengths4, values4), (keys6, lengths6, values6) = columns
    with nogil:
        while at < end:
            if _line(&at, end, &line) < 0:
                wrong = 1
                break
            if line.six:
                keys6[six], lengths6[six], values6[six] = line.key, line.length, line.asn
                six += 1
            else:
                keys4[four], lengths4[four], values4[four] = line.key, line.length, line.asn
                four += 1
    if wrong:
        return None
    return tuple(tuple(column[:count] for column in part) for part, count in zip(columns, (four, six)))
