# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Rows of a map, compiled: milliseconds and levels for millions of cells, equal rows made one.

Lives here: what `atlas.levels` does with numpy where there is no compiler, operation by operation, so that the two give
the same octets. Does not live here: what it means (`atlas.levels`).
"""

import numpy as np

from libc.math cimport M_PI, fabs, sqrt
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

FORM = 1  # see `atlas.compiled`

cdef enum:
    TERMS = 8


def extra(const double[:, ::1] here, const double[:, ::1] there, const double[::1] base, double scale,
          const double[::1] arc, double[:, ::1] out):
    """Fill (places, sites) with milliseconds over the best: `scale` for a radian, on top of `base` of each site."""
    cdef Py_ssize_t i, j, places = out.shape[0], sites = out.shape[1]
    cdef const double *x
    cdef const double *y
    cdef const double *z
    cdef const double *more = &base[0]
    cdef double *ms
    cdef double a, b, c, best
    cdef double term[TERMS]
    cdef bint unknown
    axes = np.ascontiguousarray(np.asarray(there).T)
    cdef const double[:, ::1] axis = axes
    if len(arc) != TERMS or here.shape[0] != places or there.shape[0] != sites or base.shape[0] != sites:
        raise ValueError("shapes do not fit")
    if not places:
        return
    x, y, z = &axis[0, 0], &axis[1, 0], &axis[2, 0]
    for i in range(TERMS):
        term[i] = arc[i]
    with nogil:
        for i in range(places):
            ms = &out[i, 0]
            a, b, c = here[i, 0], here[i, 1], here[i, 2]
            _ms(ms, x, y, z, more, a, b, c, scale, term, sites)
            best = ms[0]
            unknown = ms[0] != ms[0]
            for j in range(1, sites):
                best = ms[j] if ms[j] < best else best
                unknown |= ms[j] != ms[j]
            for j in range(sites):
                ms[j] = 0.0 if unknown else ms[j] - best


cdef inline void _ms(double *ms, const double *x, const double *y, const double *z, const double *base, double a,
                     double b, double c, double scale, const double *term, Py_ssize_t sites) noexcept nogil:
    """From one place to all sites; without a branch, so that several are done at once."""
    cdef Py_ssize_t j
    cdef double cosine, steep, angle
    for j in range(sites):
        cosine = a * x[j] + b * y[j] + c * z[j]
        steep = fabs(cosine)
        steep = 1.0 if steep > 1.0 else steep
        angle = term[7] * steep + term[6]
        angle = angle * steep + term[5]
        angle = angle * steep + term[4]
        angle = angle * steep + term[3]
        angle = angle * steep + term[2]
        angle = angle * steep + term[1]
        angle = angle * steep + term[0]
        angle = angle * sqrt(1.0 - steep)
        angle = M_PI - angle if cosine < 0 else angle
        ms[j] = base[j] + scale * angle


def near(const double[:, ::1] extra, const uint8_t[::1] level, uint8_t far, uint8_t[:, ::1] cells):
    """Fill the left half of (n, 2 x sites) with each one's level, at most `far`."""
    cdef Py_ssize_t i, j, sites = extra.shape[1]
    cdef double most = <double>(level.shape[0] - 1), ms
    cdef uint8_t found
    if cells.shape[0] != extra.shape[0] or cells.shape[1] != 2 * sites:
        raise ValueError("shapes do not fit")
    with nogil:
        for i in range(extra.shape[0]):
            for j in range(sites):
                ms = extra[i, j]
                ms = most if not ms < most else ms if ms > 0 else 0
                found = level[<Py_ssize_t>ms]
                cells[i, j] = found if found < far else far


def add(const double[:, :] extra, const double[::1] weights, const uint32_t[::1] of, double[:, :] sums):
    """Add each one's weighed milliseconds to the sums of its kind."""
    cdef Py_ssize_t i, j, kind
    if of.shape[0] != extra.shape[0] or weights.shape[0] != extra.shape[0] or sums.shape[1] != extra.shape[1]:
        raise ValueError("shapes do not fit")
    if np.asarray(of).max(initial=0) >= max(1, sums.shape[0]):
        raise IndexError("a kind that is not there")
    with nogil:
        for i in range(extra.shape[0]):
            kind = of[i]
            for j in range(extra.shape[1]):
                sums[kind, j] += weights[i] * extra[i, j]


def paired(const uint32_t[::1] kind, const uint32_t[::1] part, const uint32_t[::1] net, const uint8_t[::1] unknown,
           uint64_t nets, Py_ssize_t end):
    """(pairs, row): the numbers `kind[part] * nets + net + 1` that there are, sorted, 0 among them, for those of whom
    nothing is known, and which of them each is."""
    cdef Py_ssize_t i, count = part.shape[0]
    cdef uint64_t word
    cdef uint32_t met = 0
    cdef bint outside = False
    rows = np.empty(count, np.uint32)
    ranks = np.zeros(end, np.uint32)
    cdef uint32_t[::1] row = rows, rank = ranks
    if net.shape[0] != count or unknown.shape[0] != count:
        raise ValueError("shapes do not fit")
    with nogil:
        rank[0] = 1
        for i in range(count):
            if part[i] >= kind.shape[0]:
                outside = True
                break
            word = 0 if unknown[i] else kind[part[i]] * nets + net[i] + 1
            if word >= <uint64_t>end:
                outside = True
                break
            row[i] = <uint32_t>word
            rank[word] = 1
    if outside:
        raise IndexError("a kind that is not there")
    pairs = np.flatnonzero(ranks)
    with nogil:
        for i in range(end):
            if rank[i]:
                rank[i] = met
                met += 1
        for i in range(count):
            row[i] = rank[row[i]]
    return pairs, rows


def networks(const uint32_t[::1] asn, const uint16_t[::1] carrier, const uint16_t[::1] provider,
             const uint32_t[::1] asns, const uint32_t[::1] carriers, const uint32_t[::1] providers,
             const uint32_t[::1] kind, uint64_t step):
    """The kind of each network: `kind` at (place in `asns`, 0 where it is not there) x step + carriers[carrier] +
    providers[provider]."""
    cdef Py_ssize_t i, low, high, middle, count = asn.shape[0]
    cdef uint64_t word
    cdef uint32_t last = 0
    cdef uint64_t at = 0
    cdef bint outside = False
    found = np.empty(count, np.uint32)
    cdef uint32_t[::1] out = found
    if carrier.shape[0] != count or provider.shape[0] != count:
        raise ValueError("shapes do not fit")
    with nogil:
        for i in range(count):
            if asn[i] != last:
                last = asn[i]
                low, high = 0, asns.shape[0]
                while high - low > 1:
                    middle = (low + high) // 2
                    if asns[middle] <= last:
                        low = middle
                    else:
                        high = middle
                at = low if asns[low] == last else 0
            if carrier[i] >= carriers.shape[0] or provider[i] >= providers.shape[0]:
                outside = True
                break
            word = at * step + carriers[carrier[i]] + providers[provider[i]]
            if word >= <uint64_t>kind.shape[0]:
                outside = True
                break
            out[i] = kind[word]
    if outside:
        raise IndexError("a text that is not there")
    return found


cdef struct Slot:
    uint64_t word
    uint64_t number  # 0: free


def number(const uint8_t[:, ::1] cells):
    """(which, first): the number of each row among the distinct ones, which are in the order they are first met, and
    where that is."""
    cdef Py_ssize_t i, count = cells.shape[0], width = cells.shape[1]
    cdef uint32_t[::1] which = np.empty(count, np.uint32)
    cdef int64_t[::1] first = np.empty(count, np.int64)
    cdef uint64_t slots = 64, word, at, met = 0
    cdef Slot *table
    while slots < 2 * <uint64_t>count:
        slots *= 2
    with nogil:
        table = <Slot *>calloc(slots, sizeof(Slot))
        for i in range(count if table != NULL else 0):
            word = _hash(&cells[i, 0], width)
            at = word & (slots - 1)
            while table[at].number and not (
                    table[at].word == word
                    and memcmp(&cells[first[table[at].number - 1], 0], &cells[i, 0], width) == 0):
                at = (at + 1) & (slots - 1)
            if not table[at].number:
                first[met] = i
                met += 1
                table[at].word, table[at].number = word, met
            which[i] = <uint32_t>(table[at].number - 1)
        free(table)
    if table == NULL:
        raise MemoryError
    return np.asarray(which), np.asarray(first)[:met]


cdef inline uint64_t _hash(const uint8_t *row, Py_ssize_t width) noexcept nogil:
    cdef uint64_t found = <uint64_t>width, word
    while width > 0:
        word = 0
        memcpy(&word, row, 8 if width > 8 else width)
        found = (found ^ word) * <uint64_t>0x9E3779B97F4A7C15
        found ^= found >> 29
        row += 8
        width -= 8
    found *= <uint64_t>0xBF58476D1CE4E5B9
    return found ^ found >> 32
