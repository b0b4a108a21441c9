# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sorted runs, compiled: nesting, cutting to units, laying layers over one another, all in one pass each.

Lives here: what `atlas.flatten` does with numpy where there is no compiler; the two are held to the same results. Does
not live here: what runs and units are (`atlas.flatten`), what values mean (`atlas.build`, `atlas.derive`).

Whatever is in order is gone through once from its beginning and its end is written behind what is already written, so
a layer of millions of runs costs its own size and no more.
"""

import numpy as np

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

ctypedef fused key_t:
    uint32_t
    uint64_t

FORM = 1  # see `atlas.compiled`

cdef extern from *:
    int _bits "__builtin_popcountll"(uint64_t word) noexcept nogil
    int _zeros "__builtin_clzll"(uint64_t word) noexcept nogil
    void _fetch "__builtin_prefetch"(const void *at) noexcept nogil

cdef enum:
    DEEPEST = 66
    LAYERS = 16
    BATCH = 32


cdef struct Out:
    uint64_t *starts
    uint32_t *values
    Py_ssize_t count


cdef inline void _put(Out *out, uint64_t key, uint32_t value) noexcept nogil:
    """From `key` on it is `value`; what was put for the same key before does not count."""
    if out.count and out.starts[out.count - 1] == key:
        out.count -= 1
    if not out.count or out.values[out.count - 1] != value:
        out.starts[out.count], out.values[out.count] = key, value
        out.count += 1


cdef struct Cut:  # where runs go that may have to be cut to units
    Out out
    bint whole  # whether they have to
    uint64_t *voted
    Py_ssize_t units
    uint64_t begin, value  # the last run, which the next border ends
    uint64_t before, other  # the one before it, kept back while the two may still turn out to be one
    bint two
    uint64_t unit  # a unit that several runs share, as far as they are known
    int pieces
    uint64_t[256] piece
    uint32_t[256] held


cdef uint32_t _vote(Cut *cut) noexcept nogil:
    """What most of the unit's addresses have, among equals the lowest."""
    cdef uint32_t won = 0
    cdef uint64_t best = 0, total, end
    cdef int i, j
    for i in range(cut.pieces):
        if cut.held[i] == 0:
            continue
        total = 0
        for j in range(cut.pieces):
            if cut.held[j] == cut.held[i]:
                if j < i:
                    break  # it had its turn
                end = cut.piece[j + 1] if j + 1 < cut.pieces else (cut.unit << 8 | 255) + 1  # 2^64 is 0, and right
                total += end - cut.piece[j]
        else:
            if total > best:
                won, best = cut.held[i], total
    return won


cdef void _run(Cut *cut, uint64_t begin, uint64_t end, uint32_t value) noexcept nogil:
    """The next run; of one that shares a unit with others the part in that unit waits until the unit is whole."""
    if not cut.whole:
        _put(&cut.out, begin, value)
        return
    if cut.pieces:
        cut.piece[cut.pieces], cut.held[cut.pieces] = begin, value
        cut.pieces += 1
        if end < (cut.unit << 8 | 255):
            return
        _put(&cut.out, cut.unit << 8, _vote(cut))
        cut.voted[cut.units] = cut.unit
        cut.units += 1
        cut.pieces = 0
        if end == (cut.unit << 8 | 255):
            return
        begin = (cut.unit + 1) << 8
    if end & 255 != 255:
        cut.unit = end >> 8
        if begin < cut.unit << 8:
            _put(&cut.out, begin, value)
            begin = cut.unit << 8
        cut.piece[0], cut.held[0], cut.pieces = begin, value, 1
    else:
        _put(&cut.out, begin, value)


cdef inline void _border(Cut *cut, uint64_t key, uint32_t value) noexcept nogil:
    """From `key` on it is `value`; of several for one key the last counts."""
    if key != cut.begin:
        if not cut.two:
            cut.before, cut.other, cut.two = cut.begin, cut.value, True
        elif cut.value != cut.other:
            _run(cut, cut.before, cut.begin - 1, <uint32_t>cut.other)
            cut.before, cut.other = cut.begin, cut.value
        cut.begin = key
    cut.value = value


def flatten(const uint64_t[::1] keys, const uint8_t[::1] lengths, const uint32_t[::1] values, int bits, bint whole):
    """(starts, values, units): disjoint runs of nested prefixes, the more specific wins, of equal ones the later; if
    `whole`, cut to units (`key >> 8`), and the units in which a vote was needed.

    None where they are not sorted by key and then by length.
    """
    cdef Py_ssize_t i, count = keys.shape[0]
    cdef uint64_t ends[DEEPEST]
    cdef uint32_t inside[DEEPEST]
    cdef uint64_t last = <uint64_t>-1 >> (64 - bits), end
    cdef uint64_t[::1] starts = np.empty(4 * count + 4, np.uint64), voted = np.empty(2 * count + 1, np.uint64)
    cdef uint32_t[::1] found = np.empty(4 * count + 4, np.uint32)
    cdef Cut cut
    cdef int top = 0, disorder = 0
    cut.out = Out(&starts[0], &found[0], 0)
    cut.whole, cut.voted, cut.units, cut.pieces = whole, &voted[0], 0, 0
    cut.begin, cut.value, cut.two = 0, 0, False
    with nogil:
        ends[0], inside[0] = last, 0  # what no prefix covers
        for i in range(count):
            if i and (keys[i] < keys[i - 1] or keys[i] == keys[i - 1] and lengths[i] < lengths[i - 1]):
                disorder = 1
                break
            while ends[top] < keys[i]:
                top -= 1
                _border(&cut, ends[top + 1] + 1, inside[top])
            end = keys[i] | (last >> lengths[i] if lengths[i] < bits else 0)
            if not (i and keys[i] == keys[i - 1] and lengths[i] == lengths[i - 1]):
                top += 1
                if top == DEEPEST:  # prefixes that begin at their first address never nest so deep
                    disorder = 2
                    break
            ends[top], inside[top] = end, values[i]
            _border(&cut, keys[i], values[i])
        while not disorder and ends[top] < last:
            top -= 1
            _border(&cut, ends[top + 1] + 1, inside[top])
        if cut.two and cut.value != cut.other:
            _run(&cut, cut.before, cut.begin - 1, <uint32_t>cut.other)
            cut.two = False
        _run(&cut, cut.before if cut.two else cut.begin, last, <uint32_t>cut.value)
    if disorder == 2:
        raise ValueError("prefixes with host bits")
    if disorder:
        return None
    return (np.asarray(starts)[: cut.out.count], np.asarray(found)[: cut.out.count],
            np.asarray(voted)[: cut.units])


cdef struct Slot:
    uint64_t word
    uint64_t number  # 0: free


cdef struct Numbers:
    Slot *slots
    uint64_t mask
    uint64_t count


cdef inline uint64_t _slot(Numbers *table, uint64_t word) noexcept nogil:
    word *= <uint64_t>0x9E3779B97F4A7C15
    return (word ^ word >> 29) & table.mask


cdef int _room(Numbers *table, uint64_t slots) noexcept nogil:
    """Makes the table anew with so many slots; -1 where there is no memory."""
    cdef Numbers old = table[0]
    cdef uint64_t i, at
    table.slots = <Slot *>calloc(slots, sizeof(Slot))
    table.mask = slots - 1
    if table.slots != NULL and old.slots != NULL:
        for i in range(old.mask + 1):
            if old.slots[i].number:
                at = _slot(table, old.slots[i].word)
                while table.slots[at].number:
                    at = (at + 1) & table.mask
                table.slots[at] = old.slots[i]
    free(old.slots)
    return 0 if table.slots != NULL else -1


cdef int _number(Numbers *table, const uint64_t *words, uint32_t *out, Py_ssize_t count) noexcept nogil:
    """The number of each word, a new one for a new word; a batch at a time, so that memory is asked for ahead."""
    cdef Py_ssize_t i = -BATCH, j, here
    cdef uint64_t at
    cdef uint64_t first[BATCH]
    while i + BATCH < count:
        i += BATCH
        here = min(<Py_ssize_t>BATCH, count - i)
        if 2 * (table.count + BATCH) > table.mask and _room(table, 4 * (table.mask + 1)) < 0:
            return -1
        for j in range(here):
            first[j] = _slot(table, words[i + j])
            _fetch(&table.slots[first[j]])
        for j in range(here):
            at = first[j]
            while table.slots[at].number and table.slots[at].word != words[i + j]:
                at = (at + 1) & table.mask
            if not table.slots[at].number:
                table.count += 1
                table.slots[at].word, table.slots[at].number = words[i + j], table.count
            out[i + j] = <uint32_t>table.slots[at].number - 1
    return 0


def number(const uint64_t[::1] words):
    """(which, distinct): the number of each word among the distinct ones, which are in the order they are first met."""
    cdef uint32_t[::1] which = np.empty(len(words), np.uint32)
    cdef uint64_t[::1] distinct
    cdef Numbers table = Numbers(NULL, 0, 0)
    cdef Py_ssize_t i
    cdef uint32_t met = 0
    cdef int failed = 0
    with nogil:
        failed = _room(&table, 1 << 14)
        if not failed and words.shape[0]:
            failed = _number(&table, &words[0], &which[0], words.shape[0])
        free(table.slots)
    if failed:
        raise MemoryError
    distinct = np.empty(table.count, np.uint64)
    with nogil:
        for i in range(words.shape[0]):
            if which[i] == met:
                distinct[met] = words[i]
                met += 1
    return np.asarray(which), np.asarray(distinct)


def join(list layers, list shifts, mask):
    """(starts, words) of layers laid over one another: a word holds each layer's value, moved left by its shift, and is
    0 where the runs `mask` are not. Layers are (starts, values); at most 15."""
    cdef const uint64_t[::1] keys
    cdef const uint32_t[::1] values
    cdef const uint64_t *starts[LAYERS]
    cdef const uint32_t *found[LAYERS]
    cdef uint64_t part[LAYERS]
    cdef Py_ssize_t at[LAYERS]
    cdef Py_ssize_t size[LAYERS]
    cdef int shift[LAYERS]
    cdef int i, count = len(layers) + 1
    cdef Py_ssize_t written = 0, room = 0
    cdef uint64_t here = 0, following, word
    cdef uint64_t[::1] begin, words
    if count > LAYERS:
        raise ValueError(f"{count - 1} layers")
    held = [*layers, mask]
    for i, (keys, values) in enumerate(held):
        starts[i], found[i], size[i] = &keys[0], &values[0], keys.shape[0]
        at[i], part[i] = -1, 0
        shift[i] = shifts[i] if i < count - 1 else 0
        room += size[i]
    begin, words = np.empty(room, np.uint64), np.empty(room, np.uint64)
    with nogil:
        while True:
            following = <uint64_t>-1
            word = 0
            for i in range(count):
                if at[i] + 1 < size[i]:
                    if starts[i][at[i] + 1] == here:
                        at[i] += 1
                        part[i] = <uint64_t>found[i][at[i]] << shift[i]
                    if at[i] + 1 < size[i] and starts[i][at[i] + 1] < following:
                        following = starts[i][at[i] + 1]
                if i < count - 1:
                    word |= part[i]
            if part[count - 1]:
                word = 0
            if not written or words[written - 1] != word:
                begin[written], words[written] = here, word
                written += 1
            if following == <uint64_t>-1:
                break
            here = following
    return np.asarray(begin)[:written], np.asarray(words)[:written]


def merge(const key_t[::1] starts, const uint32_t[::1] which, const uint32_t[::1] numbers):
    """(starts, values) with value `numbers[which]` each, without equal neighbours."""
    cdef Py_ssize_t i, count = 0
    cdef uint32_t value, last
    begin = np.empty(len(starts), np.uint64 if key_t is uint64_t else np.uint32)
    found = np.empty(len(starts), np.uint32)
    cdef key_t[::1] out = begin
    cdef uint32_t[::1] values = found
    with nogil:
        for i in range(starts.shape[0]):
            value = numbers[which[i]]
            out[count], values[count] = starts[i], value  # over what is not kept: whether it is cannot be foretold
            count += i == 0 or value != last
            last = value
    return begin[:count], found[:count]


def translate(uint32_t[::1] values, const uint32_t[::1] numbers):
    """Puts `numbers[value]` in the place of each value."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(values.shape[0]):
            values[i] = numbers[values[i]]


def weigh(const uint32_t[::1] starts, const uint32_t[::1] which, const uint32_t[::1] numbers, uint64_t end,
          Py_ssize_t kinds):
    """How many keys there are of each number: runs of `numbers[which]`, the last up to `end`."""
    cdef Py_ssize_t i, count = starts.shape[0]
    weights = np.zeros(kinds, np.uint64)
    cdef uint64_t[::1] out = weights
    with nogil:
        for i in range(count):
            out[numbers[which[i]]] += (starts[i + 1] if i + 1 < count else end) - starts[i]
    return weights


def blocks(const key_t[::1] starts, int shift, int bits):
    """How many largest aligned blocks the runs (`starts >> shift`, keys of `bits` bits, at most 63) fall into.

    From the number with most zeros at its end inside a run blocks only shrink, to the left by the bits of the way back
    and to the right by the bits of the way on.
    """
    cdef Py_ssize_t i, count = starts.shape[0]
    cdef uint64_t low, high, middle, total = 0
    with nogil:
        for i in range(count):
            low = <uint64_t>starts[i] >> shift
            high = <uint64_t>starts[i + 1] >> shift if i + 1 < count else <uint64_t>1 << bits
            if low == high:
                continue
            middle = 63 - _zeros(low ^ high)
            middle = high >> middle << middle
            total += _bits(middle - low) + _bits(high - middle)
    return total
