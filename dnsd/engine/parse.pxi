# The bounded parser: a query's question and OPT. Lives here: octets -> the parts of an Ask, as dns.wire reads them.
# Does not live here: what is answered; queries of another shape than header, one question, at most one OPT are passed on.
#
# Nothing is followed and nothing is read twice; the cost is linear in the packet's first octets (RFC 9619, RFC 6891).


cdef enum:
    PLAIN = 0            # a query that can be answered
    MALFORMED = 1
    SILENT = 2           # no query: no reply
    ODD = 3
    SIGNED = 4


# Which way a packet goes; of PLAIN ones question and EDNS are filled in.
cdef inline int parse(Ask *ask) noexcept nogil:
    cdef const uint8_t *packet = ask.packet
    if ask.size < 12 or packet[2] & 0x80:
        return SILENT
    # QR 0, opcode 0, one question, no answer or authority, at most one additional record.
    if (ask.size < 17 or packet[2] & 0xF8 or packet[4] or packet[5] != 1 or packet[6] or packet[7] or packet[8]
            or packet[9] or packet[10] or packet[11] > 1):
        return ODD
    if not question(ask):
        return MALFORMED
    ask.edns = packet[11] != 0
    ask.ecs = ask.wishes = False
    if not ask.edns:
        ask.version = 0
        ask.dnssec_ok = False
        return PLAIN if ask.tail == ask.size else MALFORMED
    if ask.tail + 3 > ask.size or packet[ask.tail] or packet[ask.tail + 1] or packet[ask.tail + 2] != K_T_OPT:
        return SIGNED
    return PLAIN if opt_record(ask) else MALFORMED


# The question: labels, lower-cased name, type and class. False for anything but a plain name of at most 255 octets.
cdef inline bint question(Ask *ask) noexcept nogil:
    cdef const uint8_t *packet = ask.packet + 12
    cdef uint32_t room = ask.size - 12, at = 0, labels = 0, length, i
    cdef uint8_t octet
    if room > 255:
        room = 255
    while True:
        if at >= room:
            return False
        length = packet[at]
        ask.starts[labels] = <uint8_t>at
        ask.name[at] = <uint8_t>length
        if length == 0:
            break
        if length > 63 or at + length + 1 > room:
            return False
        for i in range(at + 1, at + 1 + length):
            octet = packet[i]
            ask.name[i] = <uint8_t>(octet | (<uint32_t>octet - 65 < 26) << 5)
        at += length + 1
        labels += 1
    if at + 17 > ask.size:
        return False
    ask.labels = labels
    ask.name_len = at + 1
    ask.qtype = be16(packet + at + 1)
    ask.qclass = be16(packet + at + 3)
    ask.tail = at + 17
    return True


# The OPT that must fill the packet from the question's end; False for any other (RFC 6891 §6.1.2).
cdef inline bint opt_record(Ask *ask) noexcept nogil:
    cdef const uint8_t *packet = ask.packet
    cdef uint32_t at = ask.tail, end = ask.size, length, code, left = K_OPTIONS_MAX
    if at + 11 > end or at + 11 + be16(packet + at + 9) != end:
        return False
    ask.udp_size = be16(packet + at + 3)
    ask.version = packet[at + 6]
    ask.dnssec_ok = packet[at + 7] >> 7
    ask.nsid = ask.keepalive = ask.padding = False
    ask.cookie_len = 0
    if ask.version:
        return True  # of a version we do not speak only the version is told
    at += 11
    while at < end:
        # The client subnet nearly every resolver sends, a whole IPv4 /24, is read without further questions.
        if at + 11 <= end and not ask.ecs and le64(packet + at) == <uint64_t>0x0018010007000800:
            ask.ecs = True
            ask.ecs6 = False
            ask.source = 24
            ask.ecs_at = at
            ask.ecs_len = 11
            ask.key4 = <uint32_t>packet[at + 8] << 16 | <uint32_t>packet[at + 9] << 8 | packet[at + 10]
            at += 11
            continue
        if at + 4 > end or left == 0:
            return False
        left -= 1
        code, length = be16(packet + at), be16(packet + at + 2)
        if at + 4 + length > end or not option(ask, code, at, length):
            return False
        at += 4 + length
    return True


cdef inline bint option(Ask *ask, uint32_t code, uint32_t at, uint32_t length) noexcept nogil:
    if code == K_T_OPTION_ECS:
        if ask.ecs:
            return False
        return client_subnet(ask, at, length)
    if code == K_T_OPTION_COOKIE:
        ask.wishes = True
        if ask.cookie_len == 0:  # all but the first are passed over (RFC 7873 §5.2)
            if length != 8 and (length < 16 or length > 40):
                return False  # RFC 7873 §5.2.2
            ask.cookie_at = at + 4
            ask.cookie_len = length
    elif code == K_T_OPTION_NSID:
        ask.wishes = ask.nsid = True
    elif code == K_T_OPTION_KEEPALIVE:
        ask.wishes = ask.keepalive = True
    elif code == K_T_OPTION_PADDING:
        ask.wishes = ask.padding = True
    return True


# RFC 7871 §6, §7.1.2: family 1 or 2, just the octets the source length needs, bits behind it and scope zero.
cdef bint client_subnet(Ask *ask, uint32_t at, uint32_t length) noexcept nogil:
    cdef const uint8_t *packet = ask.packet
    cdef uint32_t source, family, octets, i
    cdef uint8_t address[16]
    if length < 4 or packet[at + 7]:
        return False
    source, family, octets = packet[at + 6], packet[at + 5], length - 4
    if packet[at + 4] or octets != (source + 7) // 8:
        return False
    if source % 8 and packet[at + 8 + octets - 1] & ((1 << (8 - source % 8)) - 1):
        return False
    ask.ecs = True
    ask.source = source
    ask.ecs_at = at
    ask.ecs_len = length + 4
    for i in range(16):
        address[i] = packet[at + 8 + i] if i < octets else 0
    if family == 1 and source <= 32:
        ask.ecs6 = False
        ask.key4 = <uint32_t>address[0] << 16 | <uint32_t>address[1] << 8 | address[2]
        return True
    if family == 2 and source <= 128:
        ask.ecs6 = True
        ask.high, ask.low = be64(address), be64(address + 8)
        return True
    # Family 0 is what a client sends to opt out without telling its family (RFC 7871 §7.1.2).
    ask.ecs6 = False
    ask.key4 = 0
    return family == 0 and source == 0


cdef inline uint64_t be64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | at[i]
    return value
