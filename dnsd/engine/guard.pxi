# Response rate limiting (dns.guard) over the table that all workers of a node share, and sets of prefixes as ranges.
# Lives here: taking a token, membership. Does not live here: what is sent to whom is over (finish.pxi), the clock.
#
# Buckets are read and written whole, by several processes at once: relaxed atomics, no lock.

cdef extern from *:
    """
    #define bucket_read(at) __atomic_load_n((at), __ATOMIC_RELAXED)
    #define bucket_write(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)
    """
    uint64_t bucket_read(uint64_t *at) noexcept nogil
    void bucket_write(uint64_t *at, uint64_t value) noexcept nogil


# Takes a token for a client; True where there is none.
cdef inline bint over(Buckets *guard, const uint8_t *client, uint32_t size, uint32_t zone, uint32_t kind) noexcept nogil:
    cdef uint64_t prefix, hashed, tag, slot, empty_at, ahead
    cdef bint apart = guard.apart4 if size == 4 else guard.apart6
    if size == 4:
        prefix = <uint64_t>client[0] << 16 | <uint64_t>client[1] << 8 | client[2]
    else:
        prefix = be64(client) >> 8 | <uint64_t>1 << 56
    if apart:
        if in_ranges(&guard.exempt, client, size):
            return False
        if in_ranges(&guard.raised, client, size):
            kind += K_GUARD_RAISED
    hashed = hash_three(guard.key, prefix, <uint64_t>zone << 4 | kind)
    slot, tag = hashed & guard.mask, hashed & ~<uint64_t>K_GUARD_TIME
    empty_at = bucket_read(guard.table + slot) ^ tag
    if empty_at > K_GUARD_TIME:
        slot = neighbour(guard, slot, tag, &empty_at)
    ahead = (empty_at - guard.now) & K_GUARD_TIME
    if ahead > K_GUARD_AHEAD:
        ahead = 0
    ahead += guard.cost[kind]
    if ahead > guard.most[kind]:
        return not (guard.some_exempt and in_ranges(&guard.exempt, client, size))
    bucket_write(guard.table + slot, tag | ((guard.now + ahead) & K_GUARD_TIME))
    return False


# The neighbouring slot, if the bucket is there; else the emptier of the two, to become that bucket.
cdef uint64_t neighbour(Buckets *guard, uint64_t slot, uint64_t tag, uint64_t *empty_at) noexcept nogil:
    cdef uint64_t beside = slot ^ 1, ahead, ahead_beside
    empty_at[0] = bucket_read(guard.table + beside) ^ tag
    if empty_at[0] <= K_GUARD_TIME:
        return beside
    ahead = (bucket_read(guard.table + slot) - guard.now) & K_GUARD_TIME
    ahead_beside = (bucket_read(guard.table + beside) - guard.now) & K_GUARD_TIME
    empty_at[0] = guard.now
    return slot if ahead > K_GUARD_AHEAD or ahead <= ahead_beside <= K_GUARD_AHEAD else beside


# What Python's hash gives for a tuple of three whole numbers: each modulo 2^61 - 1, then xxHash's rounds.
cdef inline uint64_t hash_three(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    cdef uint64_t value = <uint64_t>2870177450012600261
    value = hash_lane(value, a)
    value = hash_lane(value, b)
    value = hash_lane(value, c)
    value += 3 ^ (<uint64_t>2870177450012600261 ^ 3527539)
    return 1546275796 if value == ~<uint64_t>0 else value


cdef inline uint64_t hash_lane(uint64_t value, uint64_t lane) noexcept nogil:
    value += lane * <uint64_t>14029467366897019727
    value = value << 31 | value >> 33
    return value * <uint64_t>11400714785074694791


# True for every second call.
cdef inline bint slip(Buckets *guard) noexcept nogil:
    guard.slipped[0] ^= 1
    return guard.slipped[0]


# Whether an address is in one of the ranges.
cdef inline bint in_ranges(const Ranges *ranges, const uint8_t *client, uint32_t size) noexcept nogil:
    cdef uint32_t low = 0, high, middle, address
    cdef uint64_t upper, lower
    cdef const uint64_t *at
    if size == 4:
        address, high = be16(client) << 16 | be16(client + 2), ranges.count4
        while low < high:
            middle = (low + high) // 2
            if ranges.v4[2 * middle] <= address:
                low = middle + 1
            else:
                high = middle
        return low != 0 and address <= ranges.v4[2 * low - 1]
    upper, lower, high = be64(client), be64(client + 8), ranges.count6
    while low < high:
        middle = (low + high) // 2
        at = ranges.v6 + 4 * middle
        if at[0] < upper or (at[0] == upper and at[1] <= lower):
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return False
    at = ranges.v6 + 4 * (low - 1)
    return upper < at[2] or (upper == at[2] and lower <= at[3])


# From `dns.prefixes.Prefixes.ranges()`. With the GIL.
cdef fill_ranges(Ranges *ranges, parts):
    four, six = parts
    free_ranges(ranges)
    ranges.v4 = <uint32_t*>malloc(8 * len(four) + 8)
    ranges.v6 = <uint64_t*>malloc(32 * len(six) + 8)
    if ranges.v4 == NULL or ranges.v6 == NULL:
        raise MemoryError
    for i, (first, last) in enumerate(four):
        ranges.v4[2 * i], ranges.v4[2 * i + 1] = first, last
    for i, (first, last) in enumerate(six):
        ranges.v6[4 * i], ranges.v6[4 * i + 1] = first >> 64, first & 0xFFFFFFFFFFFFFFFF
        ranges.v6[4 * i + 2], ranges.v6[4 * i + 3] = last >> 64, last & 0xFFFFFFFFFFFFFFFF
    ranges.count4, ranges.count6 = len(four), len(six)


cdef void free_ranges(Ranges *ranges) noexcept:
    free(ranges.v4)
    free(ranges.v6)
    ranges.v4, ranges.v6 = NULL, NULL
    ranges.count4 = ranges.count6 = 0


# From `dns.guard.Guard.flat()`; who calls keeps what it refers to. With the GIL.
cdef fill_guard(Buckets *guard, parts):
    cdef uint64_t[::1] table
    cdef uint8_t[::1] slipped
    guard.table = NULL
    if parts is None:
        return
    table, slipped = parts.table, parts.slipped
    guard.mask, guard.key = parts.mask, parts.key
    if guard.mask & 1 == 0 or <uint64_t>table.shape[0] != guard.mask + 1 or slipped.shape[0] == 0:
        raise ValueError("not a guard's table")
    for i in range(16):
        guard.cost[i], guard.most[i] = parts.costs[i], parts.mosts[i]
    fill_ranges(&guard.exempt, parts.exempt)
    fill_ranges(&guard.raised, parts.raised)
    guard.apart4, guard.apart6, guard.some_exempt = parts.apart4, parts.apart6, parts.some_exempt
    guard.slipped, guard.table = &slipped[0], &table[0]
