# What the engine's thread leaves to the main thread: queries passed on, and samples of those it answered.
# Lives here: the words both threads share, a ring for one writer and one reader. Does not live here: what is passed on
# and why (finish.pxi), answering it (serve.engine).
#
# A place is written before the tail says so and read before the head says so, so neither thread ever waits. Full is
# full: who floods what Python must answer loses that, and nothing else waits for it.

from cpython.bytes cimport PyBytes_FromStringAndSize

cdef extern from *:
    """
    static inline unsigned int dnsd_look(unsigned int *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void dnsd_tell(unsigned int *at, unsigned int to) { __atomic_store_n(at, to, __ATOMIC_RELEASE); }
    static inline unsigned int dnsd_exchange(unsigned int *at, unsigned int to) {
        return __atomic_exchange_n(at, to, __ATOMIC_SEQ_CST);
    }
    static inline void *dnsd_look_at(void **at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
    static inline void dnsd_point(void **at, void *to) { __atomic_store_n(at, to, __ATOMIC_SEQ_CST); }
    """
    uint32_t look "dnsd_look"(uint32_t *at) nogil
    void tell "dnsd_tell"(uint32_t *at, uint32_t to) nogil
    uint32_t exchange "dnsd_exchange"(uint32_t *at, uint32_t to) nogil
    void *look_at "dnsd_look_at"(void **at) nogil
    void point "dnsd_point"(void **at, void *to) nogil


cdef enum:
    NAME = 28                # octets of a socket address, IPv4 or IPv6
    PASSED_PLACES = 1024     # queries that may wait for Python
    SAMPLE_PLACES = 64       # samples that may
    APART = 64               # octets of a cache line


# One place; the query's octets are behind it, then the reply's.
cdef struct Place:
    uint32_t lane            # the socket it came to
    uint32_t size
    uint32_t reply
    uint32_t name_len
    uint8_t name[NAME]       # where it came from, as the kernel gave it


cdef struct Ring:
    uint8_t *memory
    uint32_t stride
    uint32_t mask
    uint8_t before[APART]
    uint32_t tail            # written by the thread: places ever filled
    uint8_t between[APART]
    uint32_t head            # written by the reader: places ever emptied
    uint8_t behind[APART]


# A ring of so many places, a power of two, with room for so many octets each; False where there is no memory.
cdef bint make_ring(Ring *ring, uint32_t places, uint32_t room):
    ring.stride = <uint32_t>(sizeof(Place) + room + APART - 1) & ~<uint32_t>(APART - 1)
    ring.mask, ring.tail, ring.head = places - 1, 0, 0
    ring.memory = <uint8_t*>malloc(<size_t>places * ring.stride)
    return ring.memory != NULL


cdef inline Place *place_at(Ring *ring, uint32_t at) noexcept nogil:
    return <Place*>(ring.memory + <size_t>(at & ring.mask) * ring.stride)


# The next place to be filled, NULL when all are; it counts when `filled` says so.
cdef inline Place *free_place(Ring *ring) noexcept nogil:
    if ring.tail - look(&ring.head) > ring.mask:
        return NULL
    return place_at(ring, ring.tail)


cdef inline void filled(Ring *ring) noexcept nogil:
    tell(&ring.tail, ring.tail + 1)


# The next place to be emptied, NULL when none is filled; it is free when `emptied` says so.
cdef inline Place *next_place(Ring *ring) noexcept nogil:
    if look(&ring.tail) == ring.head:
        return NULL
    return place_at(ring, ring.head)


cdef inline void emptied(Ring *ring) noexcept nogil:
    tell(&ring.head, ring.head + 1)


# Copy a query, and its reply if there is one, into a place; the octets must fit what the ring was made for.
cdef inline void fill(Place *place, uint32_t lane, const uint8_t *name, uint32_t name_len, const uint8_t *packet,
                      uint32_t size, const uint8_t *reply, uint32_t reply_size) noexcept nogil:
    cdef uint8_t *octets = <uint8_t*>place + sizeof(Place)
    place.lane, place.size, place.reply = lane, size, reply_size
    place.name_len = name_len if name_len < NAME else NAME
    memcpy(place.name, name, place.name_len)
    memcpy(octets, packet, size)
    memcpy(octets + size, reply, reply_size)


# (query, socket address, reply) as Python has them. With the GIL.
cdef tuple taken(Place *place):
    cdef char *octets = <char*>place + sizeof(Place)
    return (PyBytes_FromStringAndSize(octets, place.size), PyBytes_FromStringAndSize(<char*>place.name, place.name_len),
            PyBytes_FromStringAndSize(octets + place.size, place.reply))
