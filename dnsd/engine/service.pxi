# Choosing for one client: a service's record and who asks -> its RRs and the scope they are good for (choose.py).
# Lives here: which row decides, the draw's block, the rungs below live, HTTPS. Does not live here: ranking (rank.pxi),
# rows (place.pxi).


# Whether these octets are a record that can be answered from (image.record.Plan).
cdef bint plan_ok(const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint64_t need = K_SIZEOF_RECORD + 4 * (K_LEVELS + K_MATCHES)
    if size < need:
        return False
    need += <uint64_t>le16(data + K_RECORD_ENDPOINTS) * K_SIZEOF_ENDPOINT
    need += 4 * <uint64_t>le16(data + K_RECORD_FALLBACK_A) + 16 * <uint64_t>le16(data + K_RECORD_FALLBACK_AAAA)
    need += <uint64_t>le16(data + K_RECORD_HTTPS_HEAD) + le16(data + K_RECORD_HTTPS_REST)
    return (need == size and le32(data + K_RECORD_TTL) and data[K_RECORD_SPLIT4] <= K_ECS_MAX4
            and data[K_RECORD_SPLIT6] <= K_ECS_MAX6)


# A (kind 0), AAAA (1) or HTTPS (2): the number of RRs, added to the body as one piece, and ask.scope; 0 where there is
# nothing to give; K_PASS_LARGE.
cdef int choose(Ask *ask, const Scene *scene, const Plan *plan, int kind, Work *work) noexcept nogil:
    if kind == 2:
        return choose_https(ask, plan, work)
    return choose_family(ask, plan, kind, work)


cdef inline int choose_family(Ask *ask, const Plan *plan, int kind, Work *work) noexcept nogil:
    cdef const uint8_t *data = plan.data
    cdef uint32_t flags = le32(data + K_RECORD_FLAGS), row
    cdef uint64_t window
    if (plan.table == NULL or not flags & K_R_USES_CLIENT or flags & K_R_DECLARED or data[K_RECORD_TAKE] != 1
            or data[K_RECORD_SPLIT4] or data[K_RECORD_FENCE]
            or data[K_RECORD_LADDER_AAAA if kind else K_RECORD_LADDER_A] != K_LADDER_LIVE):
        return declared(ask, plan, kind, work)
    row = row_of(ask, plan.table)
    if not row:
        note(ask, K_M_NO_PLACE)
    judge(plan, K_E_V6 if kind else K_E_V4, plan.table, row, 0, work)
    if work.count == 0:
        return 0
    window = ask.now // le32(data + K_RECORD_TTL)
    work.number[0] = first_of(plan, work, seed(le64(data + K_RECORD_KEY), block_of(ask), window))
    return give(ask, plan, kind, work, 1)


# The row of who asks, and ask.scope: the client subnet where one says something, else the resolver, with scope 0.
cdef inline uint32_t row_of(Ask *ask, const Table *table) noexcept nogil:
    if not ask.ecs or not ask.source:
        ask.scope = 0
        return find_resolver(table, ask.client, ask.client_len)
    if ask.ecs6:
        return find6(table, ask.high, ask.low, ask.source, &ask.scope)
    return find4(table, ask.key4, &ask.scope)


# The block a draw is keyed by: the client's /24 or /56, or what the client subnet tells of it.
cdef inline uint64_t block_of(const Ask *ask) noexcept nogil:
    if ask.ecs and ask.source:
        return ask.high >> 8 | K_V6_BLOCK if ask.ecs6 else ask.key4
    if ask.client_len == 4:
        return <uint64_t>ask.client[0] << 16 | <uint64_t>ask.client[1] << 8 | ask.client[2]
    return be64(ask.client) >> 8 | K_V6_BLOCK


# The chosen endpoints' RRs, as one piece with owners C0 0C.
cdef int give(Ask *ask, const Plan *plan, int kind, const Work *work, uint32_t count) noexcept nogil:
    cdef uint32_t size = 28 if kind else 16, i
    cdef uint8_t *at = grow(ask, size * count)
    cdef uint8_t *first = at
    if at == NULL or not add(ask, at, size * count):
        return K_PASS_LARGE
    for i in range(count):
        at = address_rr(at, plan, kind, endpoint_at(plan, work.number[i])
                        + (K_ENDPOINT_AAAA if kind else K_ENDPOINT_A))
    return <int>count


cdef inline uint8_t *address_rr(uint8_t *at, const Plan *plan, int kind, const uint8_t *address) noexcept nogil:
    cdef uint32_t length = 16 if kind else 4
    put16(at, 0xC00C)
    put16(at + 2, K_T_AAAA if kind else K_T_A)
    put16(at + 4, K_T_IN)
    put32(at + 6, le32(plan.data + K_RECORD_TTL))
    put16(at + 10, length)
    memcpy(at + 12, address, length)
    return at + 12 + length


# The long way: rungs below live, fallbacks the policy declares, fences, several addresses, sticky draws.
cdef int declared(Ask *ask, const Plan *plan, int kind, Work *work) noexcept nogil:
    cdef const uint8_t *data = plan.data
    cdef uint32_t flags = le32(data + K_RECORD_FLAGS), row = 0, count
    cdef uint64_t block, window
    cdef bint from_ecs = ask.ecs and ask.source > 0, uses_client = flags & K_R_USES_CLIENT != 0
    cdef int number
    if data[K_RECORD_LADDER_AAAA if kind else K_RECORD_LADDER_A] != K_LADDER_LIVE:
        return below(ask, plan, kind)
    block = standpoint(ask, plan, &row)
    if ((flags & K_R_NO_ECS_FALLBACK and not from_ecs)
            or (flags & K_R_UNKNOWN_FALLBACK and uses_client and not row)):
        number = rung(ask, plan, kind)
        if number:
            note(ask, K_M_DECLARED_FALLBACK)
            return number
    if not candidates(plan, kind, plan.table if uses_client else NULL, row, work):
        note(ask, K_M_DECLARED_FALLBACK)
        return rung(ask, plan, kind)
    if not row and uses_client:
        note(ask, K_M_NO_PLACE)
    window = 0 if data[K_RECORD_SPLIT4] else ask.now // le32(data + K_RECORD_TTL)
    block = seed(le64(data + K_RECORD_KEY), block, window)
    if flags & K_R_SPILL:
        count = spilled(plan, work, block, data[K_RECORD_TAKE], K_E_V6 if kind else K_E_V4)
        if not count:
            note(ask, K_M_DECLARED_FALLBACK)
            return rung(ask, plan, kind)
    else:
        count = first_few(plan, work, block, data[K_RECORD_TAKE])
    number = give(ask, plan, kind, work, count)
    if flags & K_R_PANIC and number >= 0:
        note(ask, K_M_PANIC)
        if not add_options(ask, B_EDE_PANIC, B_EDE_PANIC_SIZE):
            return K_PASS_LARGE
    return number


# Where a query is seen from: the row, ask.scope, and the draw's block (choose.standpoint).
cdef uint64_t standpoint(Ask *ask, const Plan *plan, uint32_t *row) noexcept nogil:
    cdef const uint8_t *data = plan.data
    cdef bint from_ecs = ask.ecs and ask.source > 0
    cdef uint64_t block = block_of(ask)
    cdef uint32_t length, known, most
    ask.scope = 0
    if le32(data + K_RECORD_FLAGS) & K_R_USES_CLIENT:
        if plan.table != NULL:
            row[0] = row_of(ask, plan.table)
        elif from_ecs:
            # Until the map is there nothing is known of who else is alike: the answer is for who asked.
            most = K_ECS_MAX6 if ask.ecs6 else K_ECS_MAX4
            ask.scope = ask.source if ask.source < most else most
    if not data[K_RECORD_SPLIT4]:
        return block
    # Sticky: clients of one split block share a draw, so no answer may be kept for more than that block.
    if block & K_V6_BLOCK:
        length, known = data[K_RECORD_SPLIT6], K_ECS_MAX6
    else:
        length, known = data[K_RECORD_SPLIT4], K_ECS_MAX4
    if not from_ecs:
        ask.scope = 0
    elif ask.scope < length:
        ask.scope = length
    return block >> (known - length) << (known - length)


# Judges who may be answered; False where that is nobody, or the fence lets the fallback answer.
cdef bint candidates(const Plan *plan, int kind, const Table *table, uint32_t row, Work *work) noexcept nogil:
    cdef uint32_t fence = plan.data[K_RECORD_FENCE], flag = K_E_V6 if kind else K_E_V4
    if le32(plan.data + K_RECORD_FLAGS) & K_R_SPILL:
        flag |= K_E_GHOST6 if kind else K_E_GHOST4
    judge(plan, flag, table, row, fence, work)
    if work.count == 0 and fence:
        if le16(plan.data + (K_RECORD_FALLBACK_AAAA if kind else K_RECORD_FALLBACK_A)):
            return False
        judge(plan, flag, table, row, 0, work)
    return work.count != 0


# The fallback's (or last good) addresses; how many.
cdef int rung(Ask *ask, const Plan *plan, int kind) noexcept nogil:
    cdef const uint8_t *data = plan.data
    cdef uint32_t a = le16(data + K_RECORD_FALLBACK_A), aaaa = le16(data + K_RECORD_FALLBACK_AAAA), i
    cdef uint32_t count = aaaa if kind else a, size = 28 if kind else 16
    cdef const uint8_t *address = endpoint_at(plan, le16(data + K_RECORD_ENDPOINTS)) + (4 * a if kind else 0)
    cdef uint8_t *at
    if not count:
        return 0
    at = grow(ask, size * count)
    if at == NULL or not add(ask, at, size * count):
        return K_PASS_LARGE
    for i in range(count):
        at = address_rr(at, plan, kind, address)
        address += 16 if kind else 4
    return <int>count


cdef int below(Ask *ask, const Plan *plan, int kind) noexcept nogil:
    cdef int number = rung(ask, plan, kind)
    ask.scope = 0
    if number == 0:
        note(ask, K_M_LADDER_EMPTY)
        return 0 if add_options(ask, B_EDE_NOBODY, B_EDE_NOBODY_SIZE) else K_PASS_LARGE
    if plan.data[K_RECORD_LADDER_AAAA if kind else K_RECORD_LADDER_A] == K_LADDER_LAST_GOOD:
        note(ask, K_M_LADDER_LAST_GOOD)
        if not add_options(ask, B_EDE_LAST_GOOD, B_EDE_LAST_GOOD_SIZE):
            return K_PASS_LARGE
    else:
        note(ask, K_M_LADDER_FALLBACK)
    return number


# The HTTPS record with what A and AAAA give for the same question as its hints (RFC 9460 §7.3). It is one answer: what
# happened to both families is told and counted once.
cdef int choose_https(Ask *ask, const Plan *plan, Work *work) noexcept nogil:
    cdef uint32_t notes = ask.notes, pieces = ask.pieces, body = ask.body, options = ask.options_len, scope = 0
    cdef uint32_t flags = le32(plan.data + K_RECORD_FLAGS), told = options
    cdef Piece hints[2]
    cdef int numbers[2]
    cdef int kind
    for kind in range(2):
        hints[kind].at, hints[kind].size, numbers[kind] = NULL, 0, 0
        ask.scope = 0
        if flags & (K_R_OWNS_AAAA if kind else K_R_OWNS_A):
            numbers[kind] = choose_family(ask, plan, kind, work)
        if numbers[kind] < 0:
            return numbers[kind]
        if numbers[kind]:
            hints[kind] = ask.piece[pieces]
        else:
            ask.options_len = told  # an empty family's options are not told while the other has an address
        scope = scope if scope > ask.scope else ask.scope
        if kind == 1 and told > options and ask.options_len - told == told - options and memcmp(
                ask.options + options, ask.options + told, told - options) == 0:
            ask.options_len = told
        told = ask.options_len
        ask.pieces, ask.body = pieces, body
    once(ask, notes, not numbers[0] and not numbers[1])
    ask.scope = 0
    if not numbers[0] and not numbers[1]:
        ask.options_len = options
        return 0 if add_options(ask, B_EDE_NOBODY, B_EDE_NOBODY_SIZE) else K_PASS_LARGE
    ask.scope = scope
    return https_rr(ask, plan, &hints[0], &hints[1])


# Each count made since `first` once, but not that a family was empty; or nothing but that, where both were.
cdef void once(Ask *ask, uint32_t first, bint empty) noexcept nogil:
    cdef uint32_t last = ask.notes, i, j
    ask.notes = first
    if empty:
        note(ask, K_M_LADDER_EMPTY)
        return
    for i in range(first, last):
        for j in range(first, ask.notes):
            if ask.note[j] == ask.note[i]:
                break
        else:
            j = ask.notes
        if j == ask.notes and ask.note[i] != K_M_LADDER_EMPTY:
            note(ask, ask.note[i])


cdef int https_rr(Ask *ask, const Plan *plan, const Piece *a, const Piece *aaaa) noexcept nogil:
    cdef uint32_t head_size = le16(plan.data + K_RECORD_HTTPS_HEAD), rest_size = le16(plan.data + K_RECORD_HTTPS_REST)
    cdef uint32_t hints4 = a.size // 16 * 4, hints6 = aaaa.size // 28 * 16, length, i
    cdef const uint8_t *params = plan.data + plan.size - head_size - rest_size
    cdef uint8_t *at
    cdef uint8_t *first
    length = 3 + head_size + rest_size + (4 + hints4 if hints4 else 0) + (4 + hints6 if hints6 else 0)
    at = first = grow(ask, 12 + length)
    if at == NULL or length > 65535 or not add(ask, at, 12 + length):
        return K_PASS_LARGE
    put16(at, 0xC00C)
    put16(at + 2, K_T_HTTPS)
    put16(at + 4, K_T_IN)
    put32(at + 6, le32(plan.data + K_RECORD_TTL))
    put16(at + 10, length)
    put16(at + 12, 1)
    at[14] = 0
    memcpy(at + 15, params, head_size)
    at = hint(at + 15 + head_size, 4, a, 16, 4)
    memcpy(at, params + head_size, rest_size)
    hint(at + rest_size, 6, aaaa, 28, 16)
    return 1


# One SvcParam of addresses taken out of finished RRs; where the next begins.
cdef inline uint8_t *hint(uint8_t *at, uint32_t key, const Piece *rrs, uint32_t each, uint32_t width) noexcept nogil:
    cdef uint32_t count = rrs.size // each, i
    if not count:
        return at
    put16(at, key)
    put16(at + 2, count * width)
    for i in range(count):
        memcpy(at + 4 + i * width, rrs.at + i * each + 12, width)
    return at + 4 + count * width
