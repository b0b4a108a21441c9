# What the engine's parts have in common. Lives here: structures, reading octets, noting counts, growing an answer.
# Does not live here: any decision. Nothing in the engine's parts holds the GIL, allocates or does I/O while it answers.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset


cdef enum:
    PIECES = 48          # parts an answer may have
    SCRATCH = 1 << 17    # octets of an answer that are not simply somewhere in the image
    NOTES = 32           # counts one query may make
    OPTIONS = 1024       # octets of the options of one reply, padding and echoed client subnet not counted


# A map's table (image.table): where its arrays lie.
cdef struct Table:
    const uint8_t *rows
    const uint32_t *starts4
    const uint32_t *rows4
    const uint32_t *index4
    const uint64_t *starts6
    const uint32_t *rows6
    const uint32_t *index6
    const uint32_t *fine4
    const uint32_t *fine_rows4
    const uint64_t *fine6
    const uint32_t *fine_rows6
    uint32_t sites
    uint32_t row_count
    uint32_t runs4
    uint32_t runs6
    uint32_t fine4_count
    uint32_t fine6_count
    uint32_t levels          # how many of level_ms there are
    uint32_t level_ms[K_LEVELS]


# A record's octets (image.layout.RECORD), checked when they came, and the table of its map; NULL: not here yet.
cdef struct Plan:
    const uint8_t *data
    const Table *table
    uint32_t size
    uint32_t map


cdef struct Zone:
    const uint8_t *soa       # the negative SOA behind its owner's two octets
    uint32_t soa_len
    uint32_t apex_len


# An image as one state of it is served. Immutable: a change makes another.
cdef struct Scene:
    const uint8_t *nodes
    const uint8_t *rrsets
    const uint8_t *names
    const uint8_t *data
    const uint32_t *slots    # of the hash
    uint32_t mask
    uint32_t depth
    uint32_t record_count
    uint32_t largest         # endpoints of the record that has most
    const Zone *zones
    Plan *plans
    const uint8_t *identity  # what the NSID tells
    uint32_t identity_len


# Address prefixes as sorted, disjoint ranges of whole numbers, first and last (dns.prefixes).
cdef struct Ranges:
    uint32_t *v4
    uint32_t count4
    uint64_t *v6             # four numbers each: first high, first low, last high, last low
    uint32_t count6


# The guard's buckets as dns.guard has them. `slipped` is one octet that it shares.
cdef struct Buckets:
    uint64_t *table          # NULL: there is no guard
    uint64_t mask
    uint64_t key             # already modulo 2^61 - 1, as Python hashes whole numbers
    uint64_t now
    uint64_t cost[16]
    uint64_t most[16]
    Ranges exempt
    Ranges raised
    uint8_t *slipped
    bint apart4
    bint apart6
    bint some_exempt


# A kind of door (context.Context).
cdef struct Ctx:
    uint64_t *count
    uint32_t limit
    bint tcp
    int keepalive
    bint pad
    bint strict
    int shed
    bint ecs_listed          # only resolvers in ecs_from are believed
    Ranges ecs_from
    int secrets              # 0: no cookies
    uint64_t secret[3][2]    # SipHash keys; the first makes
    Buckets guard
    bint why                 # `_why` questions may be the desk's


cdef struct Piece:
    const uint8_t *at
    uint32_t size


# One query on its way. Only what a function says it fills is set; nothing is cleared in advance.
cdef struct Ask:
    const uint8_t *packet
    uint32_t size
    const uint8_t *client
    uint32_t client_len      # 4 or 16
    uint64_t now             # unix seconds
    # the question (parse)
    uint8_t name[256]        # lower case, with its root
    uint32_t name_len
    uint8_t starts[129]      # offsets of the labels in name, the root's last
    uint32_t labels          # without the root
    uint32_t qtype
    uint32_t qclass
    uint32_t tail            # offset behind the question
    # EDNS (parse)
    bint edns
    uint32_t udp_size
    uint32_t version
    bint dnssec_ok
    bint ecs                 # a client subnet came, and is believed
    bint ecs6
    uint32_t source
    uint32_t ecs_at          # the option in the packet
    uint32_t ecs_len         # and all its octets
    uint32_t key4            # IPv4: address >> 8
    uint64_t high            # IPv6: the address
    uint64_t low
    bint wishes
    bint nsid
    bint keepalive
    bint padding
    uint32_t cookie_at       # its data in the packet
    uint32_t cookie_len      # 0: none
    # the answer
    int kind                 # slot of metrics, KIND_*
    int rcode
    bint aa
    uint32_t answers
    uint32_t authority
    uint32_t extra
    uint32_t scope
    uint32_t zone            # number for the guard, 0: of no zone
    uint32_t pieces
    uint32_t body            # octets of all pieces
    Piece piece[PIECES]
    uint32_t options_len
    uint8_t options[OPTIONS]
    uint32_t used            # of the scratch
    uint8_t *scratch
    uint32_t notes
    uint16_t note[NOTES]


cdef inline uint32_t le16(const uint8_t *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t le32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t le64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint32_t be16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef inline void put16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline void put32(uint8_t *at, uint32_t value) noexcept nogil:
    put16(at, value >> 16)
    put16(at + 2, value & 0xFFFF)


# Counts are noted and made only when the engine gives the answer itself: what is passed on is counted there.
cdef inline void note(Ask *ask, int slot) noexcept nogil:
    ask.note[ask.notes] = <uint16_t>slot
    ask.notes += 1


# Octets of the scratch that the caller fills, NULL when it has no more: then the query is passed on as too large.
cdef inline uint8_t *grow(Ask *ask, uint32_t size) noexcept nogil:
    cdef uint8_t *at = ask.scratch + ask.used
    if size > SCRATCH - ask.used:
        return NULL
    ask.used += size
    return at


# The next part of the answer's body; False when there are too many.
cdef inline bint add(Ask *ask, const uint8_t *at, uint32_t size) noexcept nogil:
    if ask.pieces == PIECES:
        return False
    ask.piece[ask.pieces].at = at
    ask.piece[ask.pieces].size = size
    ask.pieces += 1
    ask.body += size
    return True


cdef inline bint add_options(Ask *ask, const uint8_t *at, uint32_t size) noexcept nogil:
    if size > OPTIONS - ask.options_len:
        return False
    memcpy(ask.options + ask.options_len, at, size)
    ask.options_len += size
    return True
