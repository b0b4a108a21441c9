# What a name comes to when it has no finished answer: wildcards, cuts, CNAME chains, denials (chase.py).
# Does not live here: DNAME and transfers, which are passed on; the reply around it (finish.pxi).


# At a name without a finished answer (`index`: its node, or K_NONE). 0, or K_PASS_*.
cdef int resolve(Ask *ask, const Scene *scene, uint32_t index, Work *work) noexcept nogil:
    cdef const uint8_t *node
    cdef uint32_t at, flags, cut, wildcard
    cdef int passed
    if ask.qclass != K_T_IN:
        return K_PASS_CLASS
    if ask.qtype == K_T_AXFR or ask.qtype == K_T_IXFR:
        return K_PASS_DESK
    if index != K_NONE:
        ask.zone = le32(node_at(scene, index) + K_NODE_ZONE) + 1
        return at_node(ask, scene, index, work)
    index = find_encloser(scene, ask.name, ask.name_len, ask.starts, ask.labels, 1 if ask.labels else 0, &at)
    if index == K_NONE:
        refuse(ask)
        return 0
    node = node_at(scene, index)
    ask.zone = le32(node + K_NODE_ZONE) + 1
    cut = le32(node + K_NODE_CUT)
    if cut != K_NONE:
        return referral(ask, scene, cut, ask.tail - 4 - node_at(scene, cut)[K_NODE_NAME_LEN])
    flags = le16(node + K_NODE_FLAGS)
    if flags & K_N_DNAME:
        return K_PASS_DNAME
    wildcard = le32(node + K_NODE_WILDCARD)
    if wildcard != K_NONE:
        passed = at_node(ask, scene, wildcard, work)
        ask.kind = K_M_KIND_WILDCARD
        return passed
    ask.kind = K_M_KIND_NXDOMAIN
    ask.rcode = K_T_NXDOMAIN
    return 0 if denial(ask, scene, index, 0xC00C, ask.name_len) else K_PASS_LARGE


cdef void refuse(Ask *ask) noexcept nogil:
    ask.kind = K_M_KIND_REFUSED
    ask.rcode = K_T_REFUSED
    ask.aa = False
    add_options(ask, B_EDE_REFUSED, B_EDE_REFUSED_SIZE)


# At a node, or a wildcard that stands for the name.
cdef int at_node(Ask *ask, const Scene *scene, uint32_t index, Work *work) noexcept nogil:
    cdef const uint8_t *node = node_at(scene, index)
    cdef uint32_t flags = le16(node + K_NODE_FLAGS), cut = le32(node + K_NODE_CUT)
    cdef int ended
    if cut != K_NONE and (cut != index or ask.qtype != K_T_DS):
        return referral(ask, scene, cut, ask.tail - 4 - node_at(scene, cut)[K_NODE_NAME_LEN])
    if flags & K_N_CNAME and ask.qtype != K_T_CNAME:
        return chain(ask, scene, index, work)
    if ask.qtype == K_T_ANY and not flags & K_N_EMPTY:  # RFC 8482 §4.2
        ask.kind = K_M_KIND_ANY
        ask.answers = 1
        return 0 if add(ask, B_ANY_HINFO, B_ANY_HINFO_SIZE) else K_PASS_LARGE
    ended = answer_at(ask, scene, index, 0, work)
    if ended <= 0:
        return ended
    ask.kind = K_M_KIND_NODATA
    index = denier(ask, scene, index)
    return 0 if denial(ask, scene, index, 0xC00C, ask.name_len) else K_PASS_LARGE


# A static rrset or a service's choice at a node: 0, K_PASS_*, or 1 where the node has neither. The owner is `pointer`,
# 0: the question's name.
cdef int answer_at(Ask *ask, const Scene *scene, uint32_t index, uint32_t pointer, Work *work) noexcept nogil:
    cdef int kind = 0, number
    cdef int64_t found = find_answer(scene, index, ask.qtype, &kind)
    cdef const uint8_t *rrset
    cdef const uint8_t *data
    cdef uint32_t size
    if found == NOT_FOUND:
        return 1
    if found == SERVICE:
        return service_at(ask, scene, index, kind, pointer, work)
    rrset = rrset_at(scene, <uint32_t>found)
    ask.kind = K_M_KIND_STATIC
    ask.answers += le16(rrset + K_RRSET_COUNT)
    data, size = scene.data + le32(rrset + K_RRSET_DATA), le32(rrset + K_RRSET_SIZE)
    if pointer:
        data = reown(ask, data, size, pointer)
    return 0 if data != NULL and add(ask, data, size) else K_PASS_LARGE


cdef inline int service_at(Ask *ask, const Scene *scene, uint32_t index, int kind, uint32_t pointer,
                           Work *work) noexcept nogil:
    cdef const Plan *plan = scene.plans + le32(node_at(scene, index) + K_NODE_RECORD)
    cdef uint32_t before = ask.answers, pieces = ask.pieces
    cdef int number
    ask.answers = 0
    number = choose(ask, scene, plan, kind, work)
    if number < 0:
        return number
    ask.answers = before + number
    if number == 0:
        ask.kind = K_M_KIND_SERVFAIL
        ask.rcode = K_T_SERVFAIL
        ask.aa = False
        return 0
    ask.kind = K_M_KIND_SERVICE
    if pointer and ask.pieces > pieces:
        give_owner(<uint8_t*>ask.piece[pieces].at, ask.piece[pieces].size, pointer)
    return 0


# The same as reown, in place: of RRs that a choice has just written into the scratch.
cdef inline void give_owner(uint8_t *rrs, uint32_t size, uint32_t pointer) noexcept nogil:
    cdef uint32_t at = 0
    while at + 12 <= size:
        put16(rrs + at, pointer)
        at += 12 + be16(rrs + at + 10)


# The node whose zone says that a type is absent: of DS the parent's, where we hold it (RFC 4035 §3.1.4.1).
cdef uint32_t denier(Ask *ask, const Scene *scene, uint32_t index) noexcept nogil:
    cdef const uint8_t *node = node_at(scene, index)
    cdef const uint8_t *name = scene.names + le32(node + K_NODE_NAME)
    cdef uint8_t starts[129]
    cdef uint32_t labels, at, above
    if ask.qtype != K_T_DS or not le16(node + K_NODE_FLAGS) & K_N_APEX or node[K_NODE_NAME_LEN] == 1:
        return index
    labels = label_starts(name, starts)
    above = find_encloser(scene, name, node[K_NODE_NAME_LEN], starts, labels, 1, &at)
    if above != K_NONE and le32(node_at(scene, above) + K_NODE_CUT) == K_NONE:
        return above
    return index


# The offsets of a well-formed name's labels, the root's last; how many there are without it.
cdef inline uint32_t label_starts(const uint8_t *name, uint8_t *starts) noexcept nogil:
    cdef uint32_t at = 0, labels = 0
    starts[0] = 0
    while name[at] and labels < 127:
        at += 1 + name[at]
        labels += 1
        starts[labels] = <uint8_t>at
    return labels


# The cut's NS in authority, glue in additional, AA clear (RFC 1034 §4.3.2 3b); scope 0 (RFC 7871 §7.4).
# `pointer`: where the cut's name stands in the message.
cdef int referral(Ask *ask, const Scene *scene, uint32_t cut, uint32_t pointer) noexcept nogil:
    ask.kind = K_M_KIND_REFERRAL
    ask.aa = False
    return delegate(ask, scene, cut, 0xC000 | pointer)


cdef int delegate(Ask *ask, const Scene *scene, uint32_t cut, uint32_t pointer) noexcept nogil:
    cdef int64_t found = find_rrset(scene, node_at(scene, cut), K_T_NS)
    cdef const uint8_t *rrset
    cdef const uint8_t *rrs
    cdef uint32_t extra
    if found < 0:
        return K_PASS_LARGE  # a cut is one by its NS, which was checked
    rrset = rrset_at(scene, <uint32_t>found)
    rrs = reown(ask, scene.data + le32(rrset + K_RRSET_DATA), le32(rrset + K_RRSET_SIZE), pointer)
    ask.authority = le16(rrset + K_RRSET_COUNT)
    ask.extra = le16(rrset + K_RRSET_EXTRA_COUNT)
    extra = le32(rrset + K_RRSET_EXTRA_SIZE)
    if rrs == NULL or not add(ask, rrs, le32(rrset + K_RRSET_SIZE)):
        return K_PASS_LARGE
    return 0 if not extra or add(ask, scene.data + le32(rrset + K_RRSET_EXTRA), extra) else K_PASS_LARGE


# Follow CNAMEs through every zone of the image; the rcode is the last name's (RFC 6604 §2).
cdef int chain(Ask *ask, const Scene *scene, uint32_t index, Work *work) noexcept nogil:
    cdef const uint8_t *seen[K_CHAIN_MAX + 1]
    cdef uint32_t sizes[K_CHAIN_MAX + 1]
    cdef uint8_t starts[129]
    cdef uint8_t *name
    cdef uint32_t owner = 0xC00C, size, labels, at, step, i
    cdef int landed
    seen[0], sizes[0] = ask.name, ask.name_len
    for step in range(K_CHAIN_MAX):
        landed = alias(ask, scene, index, owner, &name, &size)
        if landed:
            return landed
        owner = 0xC000 | (ask.tail + ask.body - size)
        for i in range(step + 1):
            if sizes[i] == size and memcmp(seen[i], name, size) == 0:
                break
        else:
            i = step + 1
        seen[step + 1], sizes[step + 1] = name, size
        # An alias is all there is to say to ANY (RFC 8482 §4.1); a chain that comes back ends where it does.
        if i <= step or ask.qtype == K_T_ANY:
            break
        labels = label_starts(name, starts)
        index = find_encloser(scene, name, size, starts, labels, 0, &at)
        if index == K_NONE:
            break
        landed = land(ask, scene, &index, name, size, at, owner, work)
        if landed <= 0:
            ask.kind = K_M_KIND_CNAME
            return landed
    ask.kind = K_M_KIND_CNAME
    return 0


# One alias step's RR; its target in lower case in the scratch.
cdef int alias(Ask *ask, const Scene *scene, uint32_t index, uint32_t owner, uint8_t **name,
               uint32_t *size) noexcept nogil:
    cdef int64_t found = find_rrset(scene, node_at(scene, index), K_T_CNAME)
    cdef const uint8_t *rrs
    cdef const uint8_t *data
    cdef uint8_t *lower
    cdef uint32_t length, i
    if found < 0:
        return K_PASS_DNAME  # a DNAME's
    data = scene.data + le32(rrset_at(scene, <uint32_t>found) + K_RRSET_DATA)
    length = le32(rrset_at(scene, <uint32_t>found) + K_RRSET_SIZE)
    rrs = reown(ask, data, length, owner)
    size[0] = length - 12
    lower = grow(ask, size[0])
    if rrs == NULL or lower == NULL or not add(ask, rrs, length):
        return K_PASS_LARGE
    for i in range(size[0]):
        lower[i] = data[12 + i] | 0x20 if 65 <= data[12 + i] <= 90 else data[12 + i]
    name[0] = lower
    ask.answers += 1
    return 0


# What the chain's next name comes to. 1: another alias, at the node now in `index`; 0: the end; or K_PASS_*.
cdef int land(Ask *ask, const Scene *scene, uint32_t *index, const uint8_t *name, uint32_t size, uint32_t at,
              uint32_t owner, Work *work) noexcept nogil:
    cdef const uint8_t *node = node_at(scene, index[0])
    cdef uint32_t cut = le32(node + K_NODE_CUT), wildcard = le32(node + K_NODE_WILDCARD), speaker = index[0]
    cdef int ended
    if at and wildcard != K_NONE:
        speaker = wildcard
    if cut != K_NONE and (cut != speaker or at or ask.qtype != K_T_DS):
        return delegate(ask, scene, cut, owner + size - node_at(scene, cut)[K_NODE_NAME_LEN])
    if at and speaker == index[0]:
        if le16(node + K_NODE_FLAGS) & K_N_DNAME:
            return K_PASS_DNAME
        ask.rcode = K_T_NXDOMAIN
        return 0 if denial(ask, scene, index[0], owner, size) else K_PASS_LARGE
    index[0] = speaker
    if le16(node_at(scene, speaker) + K_NODE_FLAGS) & K_N_CNAME:
        return 1
    ended = answer_at(ask, scene, speaker, owner, work)
    if ended <= 0:
        return ended
    return 0 if denial(ask, scene, denier(ask, scene, speaker), owner, size) else K_PASS_LARGE
