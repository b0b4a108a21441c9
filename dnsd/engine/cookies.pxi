# Server cookies (dns.cookies): made and judged with SipHash-2-4, so that every server with the same secret believes the
# same (RFC 9018). Does not live here: when a cookie is asked for (finish.pxi), the secrets' file.


cdef enum:
    COOKIE_MAKERS = 3


# For an option's data as it came (8 octets or more): whether it is valid; the data to send back and its size.
cdef int cookie_answer(const Ctx *ctx, const uint8_t *cookie, uint32_t size, const uint8_t *client, uint32_t client_len,
                       uint64_t now, uint8_t *out, uint32_t *out_size) noexcept nogil:
    cdef uint8_t signed_[32]
    cdef int64_t age = 0
    cdef int maker = -1, i
    if size == 24 and cookie[8] == 1:
        age = cookie_age(cookie, now)
        if K_COOKIE_YOUNGEST <= age <= K_COOKIE_OLDEST:
            memcpy(signed_, cookie, 16)
            memcpy(signed_ + 16, client, client_len)
            for i in range(ctx.secrets):
                if siphash(ctx.secret[i], signed_, 16 + client_len) == le64(cookie + 16):
                    maker = i
                    break
    # A valid cookie goes back as it came until it is half an hour old or its secret is no longer the active one.
    if maker == 0 and not cookie[9] and not cookie[10] and not cookie[11] and age <= K_COOKIE_RENEWED:
        memcpy(out, cookie, 24)
    else:
        make_cookie(ctx, cookie, client, client_len, now, out)
    out_size[0] = 24
    return maker >= 0


# The client's part and our fresh one (RFC 9018 §4).
cdef inline void make_cookie(const Ctx *ctx, const uint8_t *cookie, const uint8_t *client, uint32_t client_len,
                             uint64_t now, uint8_t *out) noexcept nogil:
    cdef uint8_t signed_[32]
    cdef uint64_t proof
    memcpy(signed_, cookie, 8)
    put32(signed_ + 8, 0x01000000)
    put32(signed_ + 12, <uint32_t>now)
    memcpy(signed_ + 16, client, client_len)
    memcpy(out, signed_, 16)
    proof = siphash(ctx.secret[0], signed_, 16 + client_len)
    memcpy(out + 16, &proof, 8)


# Seconds since a cookie was made, negative for the future; the time wraps (RFC 1982, RFC 9018 §4.3).
cdef inline int64_t cookie_age(const uint8_t *cookie, uint64_t now) noexcept nogil:
    cdef uint32_t made = be16(cookie + 12) << 16 | be16(cookie + 14)
    cdef uint32_t age = <uint32_t>now - made
    return <int64_t>age - (<int64_t>1 << 32) if age >> 31 else age


cdef inline uint64_t rotl(uint64_t value, int by) noexcept nogil:
    return value << by | value >> (64 - by)


cdef inline void sipround(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


# SipHash-2-4 with a 64-bit result.
cdef inline uint64_t siphash(const uint64_t *key, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef uint32_t at = 0, i
    v[0] = key[0] ^ <uint64_t>0x736F6D6570736575
    v[1] = key[1] ^ <uint64_t>0x646F72616E646F6D
    v[2] = key[0] ^ <uint64_t>0x6C7967656E657261
    v[3] = key[1] ^ <uint64_t>0x7465646279746573
    while at + 8 <= size:
        word = le64(data + at)
        v[3] ^= word
        sipround(v)
        sipround(v)
        v[0] ^= word
        at += 8
    word = <uint64_t>size << 56
    for i in range(size - at):
        word |= <uint64_t>data[at + i] << (8 * i)
    v[3] ^= word
    sipround(v)
    sipround(v)
    v[0] ^= word
    v[2] ^= 0xFF
    for i in range(4):
        sipround(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


# The secrets, the active one first; all or none. With the GIL.
cdef fill_cookies(Ctx *ctx, secrets):
    cdef const uint8_t[::1] secret
    if len(secrets) > COOKIE_MAKERS:
        raise ValueError(f"{len(secrets)} secrets, {COOKIE_MAKERS} at most")
    if any(len(each) != 16 for each in secrets):
        raise ValueError("a secret has 16 octets")
    for i in range(len(secrets)):
        secret = secrets[i]
        ctx.secret[i][0], ctx.secret[i][1] = le64(&secret[0]), le64(&secret[8])
    ctx.secrets = len(secrets)
