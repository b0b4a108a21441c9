# From a parsed query to the reply's octets. Lives here: the order of things as in answer.respond, limits, OPT, truncation.
# Does not live here: names (lookup.pxi, chain.pxi), choosing (service.pxi), who is over its rate (guard.pxi).


cdef enum:
    RECORD = 2560        # octets an OPT may have: OPTIONS, an NSID, a cookie, one padding block, and the rest
    NSID_MAX = 512       # octets of an NSID the engine tells


# The reply to a packet, written to `out` (4096 octets, over a stream 65,535): its size, 0 for none, or K_PASS_* where
# `respond` has to say it; then nothing was counted and no token taken. The caller sets packet, size, client,
# client_len, now and scratch.
cdef int answer(Ask *ask, Ctx *ctx, const Scene *scene, Work *work, uint8_t *out) noexcept nogil:
    cdef int shape, size
    ask.notes = ask.used = ask.pieces = ask.body = ask.options_len = 0
    ask.answers = ask.authority = ask.extra = ask.scope = ask.zone = 0
    ask.rcode = 0
    ask.aa = True
    shape = parse(ask)
    if shape == PLAIN:
        size = reply(ask, ctx, scene, work, out)
    elif shape == MALFORMED:
        size = malformed(ask, ctx, out)
    elif shape == SILENT:
        note(ask, K_M_DROPPED)
        size = 0
    else:
        return K_PASS_ODD
    if size >= 0:
        commit(ask, ctx)
    return size


cdef inline void commit(const Ask *ask, const Ctx *ctx) noexcept nogil:
    cdef uint32_t i
    for i in range(ask.notes):
        ctx.count[ask.note[i]] += 1


cdef inline int reply(Ask *ask, Ctx *ctx, const Scene *scene, Work *work, uint8_t *out) noexcept nogil:
    cdef uint32_t index
    cdef int ended
    if ask.edns:
        note(ask, K_M_EDNS)
        if ctx.ecs_listed and ask.ecs and not in_ranges(&ctx.ecs_from, ask.client, ask.client_len):
            note(ask, K_M_ECS_IGNORED)
            ask.ecs = False
        if ask.version:
            ask.kind, ask.rcode, ask.aa = K_M_KIND_BADVERS, K_T_BADVERS, False
            return finish(ask, ctx, scene, out)
    index = find_node(scene, ask.name, ask.name_len)
    ended = 1
    if index != K_NONE and ask.qclass == K_T_IN:
        ask.zone = le32(node_at(scene, index) + K_NODE_ZONE) + 1
        ended = answer_at(ask, scene, index, 0, work)
    if ended == 1:
        if ctx.why and ask.qtype == K_T_TXT and ask.name_len > 5 and le32(ask.name + 1) == 0x7968775F and ask.name[0] == 4:
            return K_PASS_DESK  # _why
        ended = resolve(ask, scene, index, work)
    return ended if ended < 0 else finish(ask, ctx, scene, out)


# Head, question as it came (0x20 kept), body, OPT; question and OPT with TC where that is too long.
cdef inline int finish(Ask *ask, Ctx *ctx, const Scene *scene, uint8_t *out) noexcept nogil:
    cdef uint8_t record[RECORD]
    cdef uint32_t size, most, record_size = 0, i
    cdef uint8_t *at
    cdef int held
    if ctx.strict:
        held = held_back(ask, ctx, out)
        if held >= 0:
            return held
    note(ask, ask.kind)
    note(ask, K_M_RCODE + ask.rcode)
    most = ctx.limit if ctx.tcp else K_PLAIN_SIZE
    if ask.edns:
        count_edns(ask)
        record_size = opt_reply(ask, ctx, scene, record)
        if not ctx.tcp:
            most = ask.udp_size if ask.udp_size < ctx.limit else ctx.limit
    size = ask.tail + ask.body + record_size
    if size > K_PLAIN_SIZE and size > most:
        return truncated(ask, record, record_size, out)
    at = head(ask, out, False, record_size)
    for i in range(ask.pieces):
        memcpy(at, ask.piece[i].at, ask.piece[i].size)
        at += ask.piece[i].size
    memcpy(at, record, record_size)
    return size


# The header and the question; where the rest goes.
cdef inline uint8_t *head(const Ask *ask, uint8_t *out, bint tc, uint32_t record_size) noexcept nogil:
    out[0], out[1] = ask.packet[0], ask.packet[1]
    out[2] = <uint8_t>(0x80 | ask.aa << 2 | tc << 1 | (ask.packet[2] & 1))
    out[3] = <uint8_t>(ask.rcode & 15)
    put16(out + 4, 1)
    put16(out + 6, 0 if tc else ask.answers)
    put16(out + 8, 0 if tc else ask.authority)
    put16(out + 10, (0 if tc else ask.extra) + (record_size != 0))
    memcpy(out + 12, ask.packet + 12, ask.tail - 12)
    return out + ask.tail


# Only what fits whole is sent, and of a cut answer no part: resolvers ask again over TCP (RFC 2181 §9).
cdef int truncated(Ask *ask, uint8_t *record, uint32_t record_size, uint8_t *out) noexcept nogil:
    if ask.tail + record_size > K_PLAIN_SIZE:
        record_size = opt_head(record, ask.dnssec_ok, 0)
        put16(record + 9, 0)
    note(ask, K_M_TRUNCATED)
    memcpy(head(ask, out, True, record_size), record, record_size)
    return ask.tail + record_size


cdef inline void count_edns(Ask *ask) noexcept nogil:
    if ask.dnssec_ok:
        note(ask, K_M_DNSSEC_OK)
    if ask.ecs:
        note(ask, K_M_ECS_OPT_OUT if not ask.source else K_M_ECS_V6 if ask.ecs6 else K_M_ECS_V4)


# The first nine octets of our OPT; its size without options.
cdef inline uint32_t opt_head(uint8_t *record, bint dnssec_ok, int extended) noexcept nogil:
    record[0] = record[1] = 0
    record[2] = K_T_OPT
    put16(record + 3, K_UDP_SIZE)
    record[5] = <uint8_t>extended
    record[6] = 0
    record[7] = 0x80 if dnssec_ok else 0
    record[8] = 0
    return 11


# The OPT of a reply with all that was asked for; its size.
cdef inline uint32_t opt_reply(Ask *ask, Ctx *ctx, const Scene *scene, uint8_t *record) noexcept nogil:
    cdef uint32_t at = opt_head(record, ask.dnssec_ok, ask.rcode >> 4), size
    if ask.options_len:
        memcpy(record + at, ask.options, ask.options_len)
        at += ask.options_len
    if ask.ecs:
        memcpy(record + at, ask.packet + ask.ecs_at, ask.ecs_len)
        record[at + 7] = <uint8_t>ask.scope
        at += ask.ecs_len
    if ask.version == 0 and ask.wishes:
        at = wished(ask, ctx, scene, record, at)
    put16(record + 9, at - 11)
    return at


cdef inline uint32_t wished(Ask *ask, Ctx *ctx, const Scene *scene, uint8_t *record, uint32_t at) noexcept nogil:
    cdef uint32_t size = 0
    cdef int32_t room
    if ask.nsid:
        note(ask, K_M_NSID)
        at = option_head(record, at, K_T_OPTION_NSID, scene.identity_len)
        memcpy(record + at, scene.identity, scene.identity_len)
        at += scene.identity_len
    if ask.cookie_len and ctx.secrets:
        note(ask, K_M_COOKIES)
        cookie_answer(ctx, ask.packet + ask.cookie_at, ask.cookie_len, ask.client, ask.client_len, ask.now,
                      record + at + 4, &size)
        at = option_head(record, at, K_T_OPTION_COOKIE, size) + size
    if ask.keepalive and ctx.tcp and ctx.keepalive >= 0:
        at = option_head(record, at, K_T_OPTION_KEEPALIVE, 2)
        put16(record + at, ctx.keepalive)
        at += 2
    room = <int32_t>ctx.limit - <int32_t>(ask.tail + ask.body) - 15 - <int32_t>(at - 11)
    if ask.padding and ctx.pad and room >= 0:
        size = padding_size(<uint32_t>room, ctx.limit)
        at = option_head(record, at, K_T_OPTION_PADDING, size)
        memset(record + at, 0, size)
        at += size
    return at


cdef inline uint32_t option_head(uint8_t *record, uint32_t at, int code, uint32_t size) noexcept nogil:
    put16(record + at, code)
    put16(record + at + 2, size)
    return at + 4


# Octets that bring the message to a whole number of blocks, or to the limit (RFC 8467 §4.1).
cdef inline uint32_t padding_size(uint32_t room, uint32_t limit) noexcept nogil:
    cdef uint32_t over = (limit - room) % K_PAD_BLOCK
    over = K_PAD_BLOCK - over if over else 0
    return room if room < over else over


# What is sent instead of the answer (answer._held): its size, 0 for nothing, -1 where nothing stands against the answer.
cdef int held_back(Ask *ask, Ctx *ctx, uint8_t *out) noexcept nogil:
    cdef int kind = ask.kind, valid
    cdef uint8_t data[64]
    cdef uint32_t size = 0
    if kind == K_M_KIND_WILDCARD and ask.answers == 0:
        kind = K_M_KIND_NODATA
    if ctx.shed >= <int>T_SHED_AT[kind]:
        note(ask, K_M_SHED)
        return 0
    if ctx.guard.table == NULL or ctx.tcp or not over(
            &ctx.guard, ask.client, ask.client_len, ask.zone, T_GUARD_KIND[kind]):
        return -1
    if ask.edns and ask.version == 0 and ask.wishes and ask.cookie_len and ctx.secrets:
        valid = cookie_answer(ctx, ask.packet + ask.cookie_at, ask.cookie_len, ask.client, ask.client_len, ask.now,
                              data, &size)
        if valid:
            note(ask, K_M_LIMITED_EXCUSED)
            return -1
    if ctx.shed > 1 or not slip(&ctx.guard):
        note(ask, K_M_LIMITED_DROPPED)
        return 0
    return slipped(ask, data, size, out)


# Every second of the others is told to come with the cookie it gets, or by TCP.
cdef int slipped(Ask *ask, const uint8_t *cookie, uint32_t size, uint8_t *out) noexcept nogil:
    cdef uint8_t *at
    ask.aa = False
    if size:
        note(ask, K_M_LIMITED_BADCOOKIE)
        note(ask, K_M_RCODE + K_T_BADCOOKIE)
        ask.rcode = K_T_BADCOOKIE
        ask.answers = ask.authority = ask.extra = 0
        at = head(ask, out, False, 1)
        opt_head(at, ask.dnssec_ok, K_T_BADCOOKIE >> 4)
        put16(at + 9, size + 4)
        option_head(at, 11, K_T_OPTION_COOKIE, size)
        memcpy(at + 15, cookie, size)
        return ask.tail + 15 + size
    note(ask, K_M_LIMITED_TRUNCATED)
    ask.rcode = 0
    at = head(ask, out, True, ask.edns)
    if not ask.edns:
        return ask.tail
    opt_head(at, ask.dnssec_ok, 0)
    put16(at + 9, 0)
    return ask.tail + 11


# FORMERR, with the question where it can be read, and EDNS where that was spoken (RFC 1035 §4.1.1, RFC 6891 §7).
cdef int malformed(Ask *ask, Ctx *ctx, uint8_t *out) noexcept nogil:
    cdef const uint8_t *packet = ask.packet
    cdef uint8_t *at
    cdef uint32_t tail
    cdef bint edns
    if ctx.strict and ctx.guard.table != NULL and not ctx.tcp and over(&ctx.guard, ask.client, ask.client_len, 0, 4):
        note(ask, K_M_LIMITED_DROPPED)
        return 0
    if ctx.shed:
        note(ask, K_M_SHED)
        return 0
    tail = ask.tail if question(ask) else 12
    edns = (packet[11] and tail > 12 and tail + 11 <= ask.size and packet[tail] == 0 and packet[tail + 1] == 0
            and packet[tail + 2] == K_T_OPT)
    note(ask, K_M_KIND_FORMERR)
    note(ask, K_M_RCODE + K_T_FORMERR)
    ask.rcode, ask.aa, ask.tail = K_T_FORMERR, False, tail
    at = head(ask, out, False, edns)
    if tail == 12:
        put16(out + 4, 0)
    if not edns:
        return tail
    opt_head(at, packet[tail + 7] >> 7, 0)
    put16(at + 9, 0)
    return tail + 11
