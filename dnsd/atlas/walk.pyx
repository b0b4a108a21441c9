# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""MaxMind DBs, compiled: the walk over a tree, and of its records what an atlas needs.

Lives here: loops over a file's octets. Does not live here: what to do about a record that is not as expected: it is
marked, and `atlas.mmdb`, which reads every record where nothing is compiled, judges it and names the fault.

A walk from left to right meets a tree's nodes in the order in which they stand in a file, and gives networks in the
order of their addresses, so that neither the walk nor the flattening jumps about in memory. Every read of a record is
checked against the file's end; what is skipped is not decoded.
"""

import numpy as np

from libc.math cimport fabs
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

FORM = 1  # see `atlas.compiled`

cdef extern from *:
    int _bits "__builtin_popcountll"(uint64_t word) noexcept nogil

cdef enum:
    DEEPEST = 128
    POINTER = 1
    STRING = 2
    DOUBLE = 3
    UINT16 = 5
    UINT32 = 6
    MAP = 7
    ARRAY = 11
    BOOLEAN = 14
    FLOAT = 15


# The tree

cdef inline uint32_t _child(const uint8_t *node, int bits, int side) noexcept nogil:
    """A node's record (MaxMind DB format 2.0, "Node Layout")."""
    cdef const uint8_t *at
    if bits == 24:
        at = node + 3 * side
        return <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2]
    if bits == 28:
        at = node + 4 * side
        return ((<uint32_t>(node[3] & 15) if side else <uint32_t>node[3] >> 4) << 24
                | <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2])
    at = node + 4 * side
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


def leaves(const uint8_t[::1] data, uint32_t nodes, int record_bits, uint32_t root, *, int64_t skip, int bits,
           int address_bits):
    """(keys, low, lengths, pointers) of the leaves under node `root`, by address; branches to node `skip` left out.

    `bits` and `address_bits` are the family's. ValueError where the tree has a loop or is too deep.
    """
    cdef uint64_t[::1] keys, low
    cdef uint8_t[::1] lengths
    cdef uint32_t[::1] pointers
    cdef uint32_t wait[DEEPEST + 2]
    cdef int depth[DEEPEST + 2]
    cdef uint64_t key[DEEPEST + 2]
    cdef uint64_t rest[DEEPEST + 2]
    cdef uint32_t node, visited = 0
    cdef uint64_t high, tail
    cdef Py_ssize_t found = 0
    cdef int top = 0, length, wrong = 0, width = record_bits // 4
    # A tree has at most one leaf more than nodes. What is never written takes no memory, and `low` seldom is.
    columns = np.empty(nodes + 1, np.uint64), np.zeros(nodes + 1, np.uint64), np.empty(nodes + 1, np.uint8), np.empty(
        nodes + 1, np.uint32)
    keys, low, lengths, pointers = columns
    if data.shape[0] < <Py_ssize_t>nodes * width:
        raise ValueError("the file ends inside its tree")
    with nogil:
        wait[0], depth[0], key[0], rest[0] = root, 0, 0, 0
        while top >= 0:
            node, length, high, tail = wait[top], depth[top], key[top], rest[top]
            top -= 1
            if node > nodes:
                keys[found], lengths[found], pointers[found] = high, <uint8_t>length, node
                if tail:
                    low[found] = tail
                found += 1
                continue
            if node == nodes or node == skip:
                continue
            visited += 1
            if visited > nodes or length == address_bits:
                wrong = 1 if visited > nodes else 2
                break
            length += 1
            wait[top + 1], wait[top + 2] = (_child(&data[<Py_ssize_t>node * width], record_bits, 1),
                                            _child(&data[<Py_ssize_t>node * width], record_bits, 0))
            depth[top + 1], depth[top + 2] = length, length
            key[top + 2], rest[top + 2] = high, tail
            if length <= bits:
                high |= <uint64_t>1 << (bits - length)
            else:
                tail |= <uint64_t>1 << (address_bits - length)
            key[top + 1], rest[top + 1] = high, tail
            top += 2
    if wrong:
        raise ValueError("its tree has a loop" if wrong == 1 else "its tree is deeper than an address")
    return tuple(column[:found] for column in columns)


def number(list columns, uint32_t first, uint32_t last):
    """The distinct numbers in columns of numbers from `first` to `last`, sorted; in the columns each number is then
    replaced by its place among them, counted from 1."""
    cdef uint32_t[::1] column, before
    cdef uint64_t[::1] seen
    cdef uint64_t span = <uint64_t>last - first + 1
    cdef Py_ssize_t i, words = <Py_ssize_t>(span + 63 >> 6)
    cdef uint32_t at, count = 0
    seen, before = np.zeros(words, np.uint64), np.empty(words, np.uint32)
    for column in columns:
        with nogil:
            for i in range(column.shape[0]):
                at = column[i] - first
                seen[at >> 6] |= <uint64_t>1 << (at & 63)
    with nogil:
        for i in range(words):
            before[i] = count
            count += _bits(seen[i])
    for column in columns:
        with nogil:
            for i in range(column.shape[0]):
                at = column[i] - first
                column[i] = 1 + before[at >> 6] + _bits(seen[at >> 6] & ((<uint64_t>1 << (at & 63)) - 1))
    marks = np.unpackbits(np.asarray(seen).view(np.uint8), bitorder="little")
    return (np.flatnonzero(marks) + first).astype(np.uint32)


# Records

cdef struct Section:
    const uint8_t *at
    Py_ssize_t size


cdef struct Value:
    int kind
    Py_ssize_t size  # octets of a string or number, pairs of a map, target of a pointer
    Py_ssize_t body  # where its octets begin


cdef int _value(Section *data, Py_ssize_t *at, Value *value) noexcept nogil:
    """The value that begins at `at`, which is moved behind its head (a map's, an array's) or behind all of it (any
    other); -1 where that is behind the end (MaxMind DB format 2.0, "Data Field Format")."""
    cdef Py_ssize_t here = at[0], more
    cdef int control, wide
    if here < 0 or here + 6 > data.size:  # no head is longer; a file ends with its metadata, so there is always more
        return -1
    control = data.at[here]
    here += 1
    value.kind = control >> 5
    if value.kind == POINTER:
        wide = control >> 3 & 3
        more = 0 if wide == 3 else control & 7
        for _ in range(wide + 1):
            more = more << 8 | data.at[here]
            here += 1
        value.size = more + (2048 if wide == 1 else 526336 if wide == 2 else 0)
        at[0] = value.body = here
        return 0
    if value.kind == 0:
        value.kind = 7 + data.at[here]
        here += 1
    more = control & 31
    if more >= 29:
        wide = <int>more - 28
        more = 29 if wide == 1 else 285 if wide == 2 else 65821
        value.size = 0
        for _ in range(wide):
            value.size = value.size << 8 | data.at[here]
            here += 1
        more += value.size
    value.size, value.body = more, here
    if value.kind != MAP and value.kind != ARRAY and value.kind != BOOLEAN:
        here += more
    at[0] = here
    return 0 if here <= data.size else -1


cdef int _skip(Section *data, Py_ssize_t *at, int depth) noexcept nogil:
    """Moves behind a value and all that is in it."""
    cdef Value value
    cdef Py_ssize_t count
    if depth > 16 or _value(data, at, &value) < 0:
        return -1
    if value.kind == MAP or value.kind == ARRAY:
        count = 2 * value.size if value.kind == MAP else value.size
        while count:
            if _skip(data, at, depth + 1) < 0:
                return -1
            count -= 1
    return 0


cdef int _follow(Section *data, Py_ssize_t *at, Value *value) noexcept nogil:
    """The value at `at` or, where that is a pointer, the one it points to; `at` is moved into that one."""
    if _value(data, at, value) < 0:
        return -1
    if value.kind == POINTER:
        at[0] = value.size
        if _value(data, at, value) < 0 or value.kind == POINTER:
            return -1
    return 0


cdef int _key(Section *data, Py_ssize_t *at, Value *key) noexcept nogil:
    """A map's next key; `at` is moved to its value."""
    cdef Py_ssize_t target
    if _value(data, at, key) < 0:
        return -1
    if key.kind == POINTER:
        target = key.size
        if _value(data, &target, key) < 0:
            return -1
    return 0 if key.kind == STRING else -1


cdef inline bint _is(Section *data, Value *key, const char *name, Py_ssize_t size) noexcept nogil:
    return key.size == size and memcmp(data.at + key.body, name, size) == 0


cdef int _map(Section *data, Py_ssize_t *at, Value *value) noexcept nogil:
    """The head of the map at `at`, -1 where it is none; where `at` is -1 (nothing there) an empty one."""
    if at[0] == -1:
        value.size = 0
        return 0
    return 0 if _follow(data, at, value) == 0 and value.kind == MAP else -1


cdef int _degrees(Section *data, Py_ssize_t at, double limit, double *out) noexcept nogil:
    """A number of degrees; -1 where it is no finite floating point number within the limit."""
    cdef Value value
    cdef uint64_t word = 0
    cdef uint32_t half
    cdef float single
    cdef Py_ssize_t i
    if _follow(data, &at, &value) < 0 or not (
            value.kind == DOUBLE and value.size == 8 or value.kind == FLOAT and value.size == 4):
        return -1
    for i in range(value.size):
        word = word << 8 | data.at[value.body + i]
    if value.kind == DOUBLE:
        memcpy(out, &word, 8)
    else:
        half = <uint32_t>word
        memcpy(&single, &half, 4)
        out[0] = single
    return 0 if fabs(out[0]) <= limit else -1  # not so for NaN


cdef int _location(Section *data, Py_ssize_t at, double *latitude, double *longitude) noexcept nogil:
    """Both degrees, unchanged where the record has none; -1 where it has one or they are unusual."""
    cdef Value value, key
    cdef Py_ssize_t count
    cdef int have = 0
    if _map(data, &at, &value) < 0:
        return -1
    count = value.size
    while count:
        count -= 1
        if _key(data, &at, &key) < 0:
            return -1
        if _is(data, &key, b"latitude", 8):
            have |= 1
            if _degrees(data, at, 90, latitude) < 0:
                return -1
        elif _is(data, &key, b"longitude", 9):
            have |= 2
            if _degrees(data, at, 180, longitude) < 0:
                return -1
        if _skip(data, &at, 0) < 0:
            return -1
    return 0 if have == 0 or have == 3 else -1


cdef int _code(Section *data, Py_ssize_t at, const char *name, Py_ssize_t size, uint8_t *out) noexcept nogil:
    """Two letters under a name in the map at `at`, in capitals; the map's size, or -1 where anything is unusual."""
    cdef Value value, key, code
    cdef Py_ssize_t count, inside
    cdef int i
    if _map(data, &at, &value) < 0:
        return -1
    count = value.size
    while count:
        count -= 1
        if _key(data, &at, &key) < 0:
            return -1
        if _is(data, &key, name, size):
            inside = at
            if _follow(data, &inside, &code) < 0 or code.kind != STRING or code.size not in (0, 2):
                return -1
            for i in range(2):
                out[i] = data.at[code.body + i] & 0xDF if code.size else 0
                if code.size and not (65 <= out[i] <= 90):
                    return -1
        if _skip(data, &at, 0) < 0:
            return -1
    return <int>value.size


cdef int _place(Section *data, Py_ssize_t at, double *degrees, uint8_t *country, uint8_t *region) noexcept nogil:
    """What a record of the GeoIP2 City or Country schema says; -1 where anything is unusual."""
    cdef Value value, key
    cdef Py_ssize_t count, location = -1, land = -1, registered = -1, continent = -1
    cdef int size
    if _map(data, &at, &value) < 0:
        return -1
    count = value.size
    while count:
        count -= 1
        if _key(data, &at, &key) < 0:
            return -1
        if _is(data, &key, b"location", 8):
            location = at
        elif _is(data, &key, b"country", 7):
            land = at
        elif _is(data, &key, b"registered_country", 18):
            registered = at
        elif _is(data, &key, b"continent", 9):
            continent = at
        if _skip(data, &at, 0) < 0:
            return -1
    if _location(data, location, &degrees[0], &degrees[1]) < 0 or _code(data, continent, b"code", 4, region) < 0:
        return -1
    size = _code(data, land, b"iso_code", 8, country)
    if size == 0:
        size = _code(data, registered, b"iso_code", 8, country)
    return 0 if size >= 0 else -1


def places(const uint8_t[::1] data, Py_ssize_t section, const uint32_t[::1] offsets):
    """(degrees, countries, regions, sound) of the records at these offsets in the data section, which begins at octet
    `section`: (records, 2) latitude and longitude (NaN: unknown), (records, 2) capitals (0: unknown); where `sound` is 0
    the record is in some way unusual, and has to be read otherwise."""
    cdef Section part
    cdef Py_ssize_t i, count = offsets.shape[0]
    cdef double[:, ::1] degrees
    cdef uint8_t[:, ::1] countries, regions
    cdef uint8_t[::1] sound
    columns = (np.full((count, 2), np.nan), np.zeros((count, 2), np.uint8), np.zeros((count, 2), np.uint8),
               np.zeros(count, np.uint8))
    degrees, countries, regions, sound = columns
    part.at, part.size = &data[section], data.shape[0] - section
    with nogil:
        for i in range(count):
            sound[i] = _place(&part, offsets[i], &degrees[i, 0], &countries[i, 0], &regions[i, 0]) == 0
    return columns


cdef int _number(Section *data, Py_ssize_t at, uint32_t *out) noexcept nogil:
    """A record's `autonomous_system_number`, 0 where there is none; -1 where anything is unusual."""
    cdef Value value, key, found
    cdef Py_ssize_t count, inside, i
    if _map(data, &at, &value) < 0:
        return -1
    count = value.size
    while count:
        count -= 1
        if _key(data, &at, &key) < 0:
            return -1
        if _is(data, &key, b"autonomous_system_number", 24):
            inside = at
            if _follow(data, &inside, &found) < 0 or found.kind not in (UINT16, UINT32) or found.size > 4:
                return -1
            out[0] = 0
            for i in range(found.size):
                out[0] = out[0] << 8 | data.at[found.body + i]
        if _skip(data, &at, 0) < 0:
            return -1
    return 0


def as_numbers(const uint8_t[::1] data, Py_ssize_t section, const uint32_t[::1] offsets):
    """(AS numbers, sound) of the records at these offsets, as `places` has them."""
    cdef Section part
    cdef Py_ssize_t i
    cdef uint32_t[::1] numbers
    cdef uint8_t[::1] sound
    columns = np.zeros(len(offsets), np.uint32), np.zeros(len(offsets), np.uint8)
    numbers, sound = columns
    part.at, part.size = &data[section], data.shape[0] - section
    with nogil:
        for i in range(offsets.shape[0]):
            sound[i] = _number(&part, offsets[i], &numbers[i]) == 0
    return columns
