# Ranking and the keyed draw: row x record -> who is first, or the first few (steer.rank, steer.draw, image.record.Plan).
# Does not live here: which row, what is written into the answer (service.pxi). Integers only.
#
# Endpoints are read where the record has them. The best group needs no order of all: the lowest tier, in it the nearest,
# of those within the band the most points.


# A record's candidates of one family, judged for one client; arrays of `largest` elements each.
cdef struct Work:
    uint64_t *score
    uint64_t *price
    uint64_t *value
    uint32_t *number
    uint32_t *tier
    uint32_t *ms
    uint8_t *beyond
    uint32_t count


cdef size_t work_size(uint32_t largest) noexcept nogil:
    return <size_t>(largest + 1) * (3 * sizeof(uint64_t) + 3 * sizeof(uint32_t) + 1) + 8


cdef void work_lay(Work *work, uint8_t *memory, uint32_t largest) noexcept nogil:
    cdef size_t count = largest + 1
    work.score = <uint64_t*>memory
    work.price = work.score + count
    work.value = work.price + count
    work.number = <uint32_t*>(work.value + count)
    work.tier = work.number + count
    work.ms = work.tier + count
    work.beyond = <uint8_t*>(work.ms + count)


cdef inline const uint8_t *endpoint_at(const Plan *plan, uint32_t number) noexcept nogil:
    return plan.data + K_SIZEOF_RECORD + 4 * (K_LEVELS + K_MATCHES) + <uint64_t>number * K_SIZEOF_ENDPOINT


cdef inline uint32_t proximity_points(const Plan *plan, uint32_t level) noexcept nogil:
    return le32(plan.data + K_SIZEOF_RECORD + 4 * level)


cdef inline uint32_t match_points(const Plan *plan, uint32_t match) noexcept nogil:
    return le32(plan.data + K_SIZEOF_RECORD + 4 * (K_LEVELS + (match & 7)))


# All candidates of a family (`flag`: K_E_V4 or K_E_V6), judged for a row; table NULL: no row tells sites apart. With a
# fence only those that have its bit in common with the client.
cdef inline void judge(const Plan *plan, uint32_t flag, const Table *table, uint32_t row, uint32_t fence,
                       Work *work) noexcept nogil:
    cdef const uint8_t *levels = NULL
    cdef const uint8_t *endpoint = endpoint_at(plan, 0)
    cdef uint32_t count = le16(plan.data + K_RECORD_ENDPOINTS), sites = 0, far = 0, n = 0, i, level, match, column
    if table != NULL:
        sites, far = table.sites, table.levels - 1
        levels = table.rows + <uint64_t>(row if row < table.row_count else 0) * 2 * sites
    for i in range(count):
        if endpoint[K_ENDPOINT_FLAGS] & flag:
            column = endpoint[K_ENDPOINT_COLUMN]
            match = 0
            if column < sites:
                level, match = levels[column], levels[sites + column]
                level = level if level < far else far
            else:
                level = far if column == K_NO_COLUMN else 0  # without a table none is farther than another
            if not fence or (column != K_NO_COLUMN and match & fence):
                work.number[n] = i
                work.tier[n] = endpoint[K_ENDPOINT_TIER] + (0 if le16(endpoint + K_ENDPOINT_WEIGHT) else K_NEVER_FIRST)
                work.ms[n] = table.level_ms[level] if table != NULL else 0
                work.score[n] = <uint64_t>level << 8 | match  # until points are needed
                n += 1
        endpoint += K_SIZEOF_ENDPOINT
    work.count = n


# Points of a judged candidate: in the band all, beyond it proximity alone.
cdef inline uint64_t points(const Plan *plan, const Work *work, uint32_t i, bint beyond) noexcept nogil:
    cdef uint32_t level = <uint32_t>(work.score[i] >> 8)
    cdef uint64_t score = proximity_points(plan, level)
    if not beyond:
        score += match_points(plan, <uint32_t>work.score[i] & 0xFF)
        score += le32(endpoint_at(plan, work.number[i]) + K_ENDPOINT_STANDING)
    return score


# The endpoint that comes first for a block; there is a candidate.
cdef inline uint32_t first_of(const Plan *plan, Work *work, uint64_t draw_seed) noexcept nogil:
    cdef uint32_t tier = work.tier[0], best_ms = work.ms[0], i, n = 0
    cdef uint64_t best = 0, score, reach
    for i in range(1, work.count):
        if work.tier[i] < tier:
            tier, best_ms = work.tier[i], work.ms[i]
        elif work.tier[i] == tier and work.ms[i] < best_ms:
            best_ms = work.ms[i]
    reach = <uint64_t>best_ms + le32(plan.data + K_RECORD_BAND_MS)
    for i in range(work.count):
        if work.tier[i] == tier and work.ms[i] <= reach:
            score = points(plan, work, i, False)
            if n == 0 or score > best:
                best, n = score, 0
            if score == best:
                work.number[n] = work.number[i]
                n += 1
    return work.number[0] if n == 1 else drawn_first(plan, work.number, n, draw_seed)


# Of a group of equals the one with the least cost (draw.first).
cdef uint32_t drawn_first(const Plan *plan, const uint32_t *group, uint32_t count, uint64_t draw_seed) noexcept nogil:
    cdef uint64_t best_price = 0, best_value = 0, price, value = 0
    cdef uint32_t best = group[0], i
    for i in range(count):
        price = cost(endpoint_at(plan, group[i]), draw_seed, &value)
        if i == 0 or price < best_price or (price == best_price and value < best_value):
            best, best_price, best_value = group[i], price, value
    return best


cdef inline uint64_t cost(const uint8_t *endpoint, uint64_t draw_seed, uint64_t *value) noexcept nogil:
    cdef uint32_t weight = le16(endpoint + K_ENDPOINT_WEIGHT)
    value[0] = mix(draw_seed ^ le64(endpoint + K_ENDPOINT_KEY))
    if not weight:
        return <uint64_t>1 << 62
    return (T_DRAW_COST[value[0] >> (64 - K_LOG_BITS)] << 16) // weight


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    value = (value ^ value >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ value >> 27) * <uint64_t>0x94D049BB133111EB
    return value ^ value >> 31


cdef inline uint64_t seed(uint64_t service, uint64_t block, uint64_t window) noexcept nogil:
    return mix((service ^ block * <uint64_t>0x9E3779B97F4A7C15) + window * <uint64_t>0xD1342543DE82EF95)


# The first `take` of the whole order into work.number; how many there are. Each group is in the order of this draw.
cdef uint32_t first_few(const Plan *plan, Work *work, uint64_t draw_seed, uint32_t take) noexcept nogil:
    cdef uint32_t i
    take = take if take < work.count else work.count
    weigh(plan, work, draw_seed)
    for i in range(take):
        settle(work, i)
    return take


# What the order of all goes by: band, points, price.
cdef void weigh(const Plan *plan, Work *work, uint64_t draw_seed) noexcept nogil:
    cdef uint32_t nearest[2 * K_NEVER_FIRST]
    cdef uint32_t i, tier
    cdef uint64_t band = le32(plan.data + K_RECORD_BAND_MS)
    for i in range(work.count):
        nearest[work.tier[i]] = work.ms[i]
    for i in range(work.count):
        tier = work.tier[i]
        nearest[tier] = work.ms[i] if work.ms[i] < nearest[tier] else nearest[tier]
    for i in range(work.count):
        work.beyond[i] = work.ms[i] > nearest[work.tier[i]] + band
        work.price[i] = cost(endpoint_at(plan, work.number[i]), draw_seed, &work.value[i])
    for i in range(work.count):
        work.score[i] = points(plan, work, i, work.beyond[i])


# Puts at place i who comes first of those from there on.
cdef inline void settle(Work *work, uint32_t i) noexcept nogil:
    cdef uint32_t best = i, j
    for j in range(i + 1, work.count):
        if before(work, j, best):
            best = j
    if best != i:
        swap(work, i, best)


# Whom a client goes to where the service spills over (steer.spill.walk), and behind it others in the order; how many.
# `flag`: the family's that can be answered; the others among the judged are ghosts.
cdef uint32_t spilled(const Plan *plan, Work *work, uint64_t draw_seed, uint32_t take, uint32_t flag) noexcept nogil:
    cdef uint32_t none = work.count, first = none, left = none, chosen = none, i, n = 1
    cdef uint32_t native = 0, site, share
    cdef uint64_t value, price, least = 0
    cdef const uint8_t *endpoint
    if not take:
        return 0
    weigh(plan, work, draw_seed)
    for i in range(work.count):
        settle(work, i)
        endpoint = endpoint_at(plan, work.number[i])
        site = le32(endpoint + K_ENDPOINT_SITE)
        if i == 0:
            native = site
        if not endpoint[K_ENDPOINT_FLAGS] & flag:
            continue
        if first == none:
            first = i
        elif work.tier[i] != work.tier[first]:
            break
        share = le16(endpoint + (K_ENDPOINT_KEEP if site == native else K_ENDPOINT_TAKE))
        value = mix(draw_seed ^ site * <uint64_t>K_SPILL_GOLDEN)
        if (value >> 48) * K_SPILL_WHOLE >> 16 < share:
            chosen = i
            break
        if site != native and share:
            price = (T_DRAW_COST[value >> (64 - K_LOG_BITS) ^ K_SPILL_LAST] << 16) // share
            if left == none or price < least:
                left, least = i, price
    if first == none:
        return 0
    if chosen == none:
        chosen = left if left != none else first
    share = work.number[chosen]  # of it the number, for places change
    if take > 1:
        for i in range(work.count):
            settle(work, i)
        for i in range(work.count):
            if n < take and work.number[i] != share and endpoint_at(plan, work.number[i])[K_ENDPOINT_FLAGS] & flag:
                work.ms[n] = work.number[i]
                n += 1
        for i in range(1, n):
            work.number[i] = work.ms[i]
    work.number[0] = share
    return n


# Whether candidate a comes before b: tier, band, score, then the draw, then the number in the record.
cdef inline bint before(const Work *work, uint32_t a, uint32_t b) noexcept nogil:
    if work.tier[a] != work.tier[b]:
        return work.tier[a] < work.tier[b]
    if work.beyond[a] != work.beyond[b]:
        return work.beyond[a] < work.beyond[b]
    if work.score[a] != work.score[b]:
        return work.score[a] > work.score[b]
    if work.price[a] != work.price[b]:
        return work.price[a] < work.price[b]
    if work.value[a] != work.value[b]:
        return work.value[a] < work.value[b]
    return work.number[a] < work.number[b]


cdef inline void swap(Work *work, uint32_t a, uint32_t b) noexcept nogil:
    work.score[a], work.score[b] = work.score[b], work.score[a]
    work.price[a], work.price[b] = work.price[b], work.price[a]
    work.value[a], work.value[b] = work.value[b], work.value[a]
    work.number[a], work.number[b] = work.number[b], work.number[a]
    work.tier[a], work.tier[b] = work.tier[b], work.tier[a]
    work.ms[a], work.ms[b] = work.ms[b], work.ms[a]
    work.beyond[a], work.beyond[b] = work.beyond[b], work.beyond[a]
