# A client's address to its row and the scope that row is good for (image.table). Lives here: taking over a map's table,
# look-ups. Does not live here: what a row is worth (rank.pxi).
#
# A look-up is an index slot, a bisection between two of its neighbours and two XORs. Whatever a damaged table holds, no
# read leaves it: the index was checked when the table was taken over, levels and rows are checked when they are used.


# Takes over a map file's octets (its checksum was checked before); False where a look-up could leave them.
cdef bint table_ok(const uint8_t *data, uint64_t size, Table *table) noexcept nogil:
    cdef uint64_t offset = (K_SIZEOF_MAP + 7) & ~<uint64_t>7
    cdef uint32_t i, step, before = 0
    if size < offset + 4 * K_LEVELS or <uint64_t>data % 8 or le32(data + K_MAP_LAYOUT) != K_LAYOUT:
        return False
    table.sites, table.row_count = le32(data + K_MAP_SITES), le32(data + K_MAP_ROWS)
    table.runs4, table.runs6 = le32(data + K_MAP_RUNS4), le32(data + K_MAP_RUNS6)
    table.fine4_count, table.fine6_count = le32(data + K_MAP_FINE4), le32(data + K_MAP_FINE6)
    if not table.runs4 or not table.runs6 or not table.row_count or table.sites >= K_NO_COLUMN:
        return False
    table.levels = 0
    for i in range(K_LEVELS):
        step = le32(data + offset + 4 * i)
        if i == 0 or step > before:
            table.level_ms[table.levels] = step
            table.levels += 1
        before = step
    offset = laid(offset, K_LEVELS, 4)
    table.rows, offset = data + offset, laid(offset, <uint64_t>table.row_count * 2 * table.sites, 1)
    table.starts4, offset = <const uint32_t*>(data + offset), laid(offset, table.runs4, 4)
    table.rows4, offset = <const uint32_t*>(data + offset), laid(offset, table.runs4, 4)
    table.index4, offset = <const uint32_t*>(data + offset), laid(offset, K_INDEX4_SLOTS + 1, 4)
    table.starts6, offset = <const uint64_t*>(data + offset), laid(offset, table.runs6, 8)
    table.rows6, offset = <const uint32_t*>(data + offset), laid(offset, table.runs6, 4)
    table.index6, offset = <const uint32_t*>(data + offset), laid(offset, K_INDEX6_SLOTS + 1, 4)
    table.fine4, offset = <const uint32_t*>(data + offset), laid(offset, 2 * <uint64_t>table.fine4_count, 4)
    table.fine_rows4, offset = <const uint32_t*>(data + offset), laid(offset, table.fine4_count, 4)
    table.fine6, offset = <const uint64_t*>(data + offset), laid(offset, 2 * <uint64_t>table.fine6_count, 8)
    table.fine_rows6, offset = <const uint32_t*>(data + offset), laid(offset, table.fine6_count, 4)
    return offset == size and indexed(table)


# Where the array behind one of so many elements begins (image.layout.map_sections).
cdef inline uint64_t laid(uint64_t offset, uint64_t count, uint64_t width) noexcept nogil:
    return (offset + count * width + 7) & ~<uint64_t>7


cdef bint indexed(const Table *table) noexcept nogil:
    cdef uint32_t i
    if table.starts4[0] or table.starts6[0]:
        return False
    for i in range(K_INDEX4_SLOTS + 1):
        if table.index4[i] >= table.runs4:
            return False
    for i in range(K_INDEX6_SLOTS + 1):
        if table.index6[i] >= table.runs6:
            return False
    return True


# The row of an IPv4 key (address >> 8), and its scope, 0 to 24.
cdef inline uint32_t find4(const Table *table, uint32_t key, uint32_t *scope) noexcept nogil:
    cdef const uint32_t *starts = table.starts4
    cdef uint32_t slot = key >> K_INDEX4_SHIFT
    cdef uint32_t low = table.index4[slot], high = table.index4[slot + 1] + 1, middle, below, above
    prefetch(table.rows4 + ((low + high) >> 1))  # is needed once the bisection, a miss itself, has ended
    while low < high:
        middle = (low + high) >> 1
        if starts[middle] <= key:
            low = middle + 1
        else:
            high = middle
    below = key ^ (starts[low - 1] - 1 if starts[low - 1] else <uint32_t>1 << K_KEY4_BITS)
    above = key ^ (starts[low] if low < table.runs4 else <uint32_t>1 << K_KEY4_BITS)
    scope[0] = K_KEY4_BITS + 1 - bits(below if below < above else above)
    return table.rows4[low - 1]


# The row of an IPv6 address of which the first `source` bits are known, and its scope.
cdef inline uint32_t find6(const Table *table, uint64_t key, uint64_t rest, uint32_t source,
                           uint32_t *scope) noexcept nogil:
    cdef const uint64_t *starts = table.starts6
    cdef uint64_t slot = (key - K_INDEX6_BASE) >> K_INDEX6_SHIFT, last
    cdef uint32_t low = 0, high = table.runs6, middle, row, inside = 0, before = 0
    if embedded4(key, rest, source, &inside, &before):
        row = find4(table, inside, scope)
        scope[0] += before
        return row
    if slot < K_INDEX6_SLOTS:
        low, high = table.index6[slot], table.index6[slot + 1] + 1
    while low < high:
        middle = (low + high) >> 1
        if starts[middle] <= key:
            low = middle + 1
        else:
            high = middle
    row = table.rows6[low - 1]
    last = starts[low] - 1 if low < table.runs6 else ~<uint64_t>0
    scope[0] = block6(key, starts[low - 1], last) if row else bare6(key, starts[low - 1], last)
    return row


# The IPv4 key inside an IPv6 disguise and how many bits stand before it; False for true IPv6 or too few bits.
cdef inline bint embedded4(uint64_t high, uint64_t low, uint32_t source, uint32_t *key, uint32_t *before) noexcept nogil:
    before[0] = 96
    if (high == 0 and low >> 32 == K_MAPPED) or (high == K_NAT64 and low >> 32 == 0):
        key[0] = <uint32_t>low >> 8
        return source >= 104
    if high >> 48 == K_SIX_TO_FOUR:
        key[0] = <uint32_t>(high >> 16) >> 8
        before[0] = 16
        return True
    if high >> 32 == K_TEREDO:
        key[0] = ~<uint32_t>low >> 8
        return source >= 104
    return False


# Prefix length of the largest aligned block that holds the key and lies inside [low, high] (steer.scope).
cdef inline uint32_t block6(uint64_t key, uint64_t low, uint64_t high) noexcept nogil:
    cdef uint32_t below = bits6(key ^ (low - 1)) if low else K_KEY6_BITS + 1
    cdef uint32_t above = bits6(key ^ (high + 1)) if high != ~<uint64_t>0 else K_KEY6_BITS + 1
    return K_KEY6_BITS + 1 - (below if below < above else above)


# Scope inside an unknown client's run, which may reach over disguises: their clients are judged by the IPv4 inside.
cdef uint32_t bare6(uint64_t key, uint64_t low, uint64_t high) noexcept nogil:
    cdef uint64_t first[4]
    cdef uint64_t last[4]
    cdef int i
    first[0], last[0] = 0, 0
    first[1], last[1] = K_NAT64, K_NAT64
    first[2], last[2] = <uint64_t>K_TEREDO << 32, (<uint64_t>K_TEREDO << 32) + <uint64_t>0xFFFFFFFF
    first[3], last[3] = <uint64_t>K_SIX_TO_FOUR << 48, (<uint64_t>K_SIX_TO_FOUR << 48) + <uint64_t>0xFFFFFFFFFFFF
    for i in range(4):
        if first[i] <= key <= last[i]:
            return 104
        if key < first[i]:
            high = min(high, first[i] - 1)
        else:
            low = max(low, last[i] + 1)
    return block6(key, low, high)


# The row of a whole address that is no client subnet: prefixes finer than a scope count too.
cdef inline uint32_t find_resolver(const Table *table, const uint8_t *client, uint32_t size) noexcept nogil:
    cdef uint32_t scope, row, address
    cdef uint64_t high
    if size == 4:
        address = be16(client) << 16 | be16(client + 2)
        if table.fine4_count and fine4(table, address, &row):
            return row
        return find4(table, address >> 8, &scope)
    high = be64(client)
    if table.fine6_count and fine6(table, high, &row):
        return row
    return find6(table, high, be64(client + 8), 128, &scope)


cdef bint fine4(const Table *table, uint32_t key, uint32_t *row) noexcept nogil:
    cdef uint32_t low = 0, high = table.fine4_count, middle
    while low < high:
        middle = (low + high) >> 1
        if table.fine4[2 * <uint64_t>middle] <= key:
            low = middle + 1
        else:
            high = middle
    if low == 0 or key > table.fine4[2 * <uint64_t>low - 1]:
        return False
    row[0] = table.fine_rows4[low - 1]
    return True


cdef bint fine6(const Table *table, uint64_t key, uint32_t *row) noexcept nogil:
    cdef uint32_t low = 0, high = table.fine6_count, middle
    while low < high:
        middle = (low + high) >> 1
        if table.fine6[2 * <uint64_t>middle] <= key:
            low = middle + 1
        else:
            high = middle
    if low == 0 or key > table.fine6[2 * <uint64_t>low - 1]:
        return False
    row[0] = table.fine_rows6[low - 1]
    return True


cdef extern from *:
    """
    static inline unsigned dnsd_bits(unsigned value) { return value ? 32 - __builtin_clz(value) : 0; }
    static inline unsigned dnsd_bits6(unsigned long long value) { return value ? 64 - __builtin_clzll(value) : 0; }
    """
    uint32_t bits "dnsd_bits" (uint32_t value) noexcept nogil
    void prefetch "__builtin_prefetch" (const void *at) noexcept nogil
    uint32_t bits6 "dnsd_bits6" (uint64_t value) noexcept nogil
