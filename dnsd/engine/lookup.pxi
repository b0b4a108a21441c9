# Names to nodes, and a node's answers. Lives here: the hash of names, the closest encloser, finding an rrset.
# Does not live here: what a name that is missing comes to (chain.pxi), choosing (service.pxi).


# The node of a name (lower case, `size` octets with the root), K_NONE where there is none.
cdef inline uint32_t find_node(const Scene *scene, const uint8_t *name, uint32_t size) noexcept nogil:
    cdef uint32_t slot = name_hash(name, size) & scene.mask, index
    cdef const uint8_t *node
    while True:
        index = scene.slots[slot]
        if index == 0:
            return K_NONE
        index -= 1
        node = node_at(scene, index)
        if node[K_NODE_NAME_LEN] == size and memcmp(scene.names + le32(node + K_NODE_NAME), name, size) == 0:
            return index
        slot = (slot + 1) & scene.mask


# CRC-32 with the image's seed, as zlib has it; eight octets at once where there are so many.
cdef inline uint32_t name_hash(const uint8_t *name, uint32_t size) noexcept nogil:
    cdef uint32_t value = ~<uint32_t>K_HASH_SEED, i = 0
    cdef uint64_t word
    while i + 8 <= size:
        word = le64(name + i) ^ value
        value = (T_CRC32[1792 + (word & 0xFF)] ^ T_CRC32[1536 + (word >> 8 & 0xFF)]
                 ^ T_CRC32[1280 + (word >> 16 & 0xFF)] ^ T_CRC32[1024 + (word >> 24 & 0xFF)]
                 ^ T_CRC32[768 + (word >> 32 & 0xFF)] ^ T_CRC32[512 + (word >> 40 & 0xFF)]
                 ^ T_CRC32[256 + (word >> 48 & 0xFF)] ^ T_CRC32[word >> 56])
        i += 8
    while i < size:
        value = T_CRC32[(value ^ name[i]) & 0xFF] ^ value >> 8
        i += 1
    return ~value


cdef inline const uint8_t *node_at(const Scene *scene, uint32_t index) noexcept nogil:
    return scene.nodes + <uint64_t>index * K_SIZEOF_NODE


cdef inline const uint8_t *rrset_at(const Scene *scene, uint32_t index) noexcept nogil:
    return scene.rrsets + <uint64_t>index * K_SIZEOF_RRSET


# The closest encloser of a name with these label starts, from label `first` on; K_NONE: of no zone of ours.
# No node has more labels than `depth`, so deeper ancestors need not be looked for. `at`: the label where it begins.
cdef inline uint32_t find_encloser(const Scene *scene, const uint8_t *name, uint32_t size, const uint8_t *starts,
                                   uint32_t labels, uint32_t first, uint32_t *at) noexcept nogil:
    cdef uint32_t index, i = labels - scene.depth if labels > scene.depth else 0
    if i < first:
        i = first
    while i <= labels:
        index = find_node(scene, name + starts[i], size - starts[i])
        if index != K_NONE:
            at[0] = i
            return index
        i += 1
    return K_NONE


cdef enum:
    NOT_FOUND = -1
    SERVICE = -2


# The rrset that answers a type at a node: its number, SERVICE for one a service owns (`kind`: 0 A, 1 AAAA, 2 HTTPS).
cdef inline int64_t find_answer(const Scene *scene, uint32_t index, uint32_t qtype, int *kind) noexcept nogil:
    cdef const uint8_t *node = node_at(scene, index)
    cdef uint32_t record = le32(node + K_NODE_RECORD), cut = le32(node + K_NODE_CUT), owned = 0
    if record != K_NONE:
        if qtype == K_T_A:
            owned, kind[0] = K_R_OWNS_A, 0
        elif qtype == K_T_AAAA:
            owned, kind[0] = K_R_OWNS_AAAA, 1
        elif qtype == K_T_HTTPS:
            owned, kind[0] = K_R_OWNS_HTTPS, 2
        if owned and le32(scene.plans[record].data + K_RECORD_FLAGS) & owned:
            return SERVICE
    # At a cut only DS is ours to answer (RFC 4035 §3.1.4.1), below it nothing; the NS make the referral.
    if cut != K_NONE and (cut != index or qtype != K_T_DS):
        return NOT_FOUND
    return find_rrset(scene, node, qtype)


cdef inline int64_t find_rrset(const Scene *scene, const uint8_t *node, uint32_t qtype) noexcept nogil:
    cdef uint32_t first = le32(node + K_NODE_RRSETS), i
    for i in range(first, first + le16(node + K_NODE_RRSET_COUNT)):
        if le16(rrset_at(scene, i) + K_RRSET_TYPE) == qtype:
            return i
    return NOT_FOUND


# The zone's part of a denial at a node: NODATA or NXDOMAIN with the SOA cut to the negative TTL (RFC 2308 §3).
# `pointer` is the compression pointer to the name's first octet, `size` the name's.
cdef inline bint denial(Ask *ask, const Scene *scene, uint32_t index, uint32_t pointer, uint32_t size) noexcept nogil:
    cdef const Zone *zone = scene.zones + le32(node_at(scene, index) + K_NODE_ZONE)
    cdef uint8_t *owner = grow(ask, 2)
    if owner == NULL:
        return False
    put16(owner, pointer + size - zone.apex_len)
    ask.authority = 1
    return add(ask, owner, 2) and add(ask, zone.soa, zone.soa_len)


# RRs each owned by C0 0C, given to another owner, which is a pointer. NULL where they do not fit the scratch.
cdef const uint8_t *reown(Ask *ask, const uint8_t *rrs, uint32_t size, uint32_t pointer) noexcept nogil:
    cdef uint8_t *made = grow(ask, size)
    cdef uint32_t at = 0
    if made == NULL:
        return NULL
    memcpy(made, rrs, size)
    while at + 12 <= size:
        put16(made + at, pointer)
        at += 12 + be16(made + at + 10)
    return made
