# TCP in the engine's thread: connections while they are new. Lives here: accepting, whole queries of a stream answered at
# once, giving a connection to Python. Does not live here: limits, deadlines, PROXY, TLS (serve.stream, serve.crowd, where
# a connection goes that lasts), an answer (finish.pxi).
#
# Most connections ask once and are closed: those never leave the thread. Whatever else becomes of one is Python's: that
# it outlasts the next tick but one, asks what the engine does not answer, does not take its answers, sends more than a
# place holds of a query not whole. It is handed over with what it has sent and not been answered, and what it has not
# taken. So all rules for connections are in one place, and here are FRESH of them at most.

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        pass
    int accept4(int fd, sockaddr *address, unsigned int *size, int flags)
    ssize_t recv(int fd, void *octets, size_t size, int flags)
    ssize_t sendto "send"(int fd, const void *octets, size_t size, int flags)
    const int MSG_NOSIGNAL
    const int SOCK_CLOEXEC
    const int SOCK_NONBLOCK
cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint32_t u32
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout)
    const int EPOLL_CTL_ADD
    const int EPOLL_CTL_DEL
    const int EPOLLIN
    const int EPOLL_CLOEXEC
cdef extern from "<netinet/in.h>" nogil:
    const int IPPROTO_TCP
cdef extern from "<errno.h>" nogil:
    const int ECONNABORTED


cdef enum:
    FRESH = 256              # connections the thread has at once
    NOBODY = 0xFFFFFFFF
    HANDED = 1024            # connections that may wait for Python
    TURN_QUERIES = 256       # as serve.stream.TURN
    WRITE_AT = 32768         # as serve.stream.WRITE_AT
    STREAM_IN = 65536
    STREAM_OUT = WRITE_AT + 2 + 65535
    ACCEPTS = 64             # in one turn
    OLD = 2                  # ticks
    TRIPS = 1024             # handshakes' round trips that may wait for Python
    TCP_INFO = 11            # linux/tcp.h
    MIN_RTT = 37             # of its words: tcpi_min_rtt, microseconds

# How a run of queries ended.
cdef enum:
    S_DRY                    # no whole query is left
    S_TURN                   # enough for one turn
    S_MALFORMED              # a length that cannot be a message's
    S_PASS                   # the next query is Python's to answer


# One new connection. In a list by age.
cdef struct Conn:
    int fd
    uint32_t before, after
    uint32_t tick            # when it was accepted
    uint32_t queries
    uint32_t pending         # octets of a query that is not whole
    uint32_t client_len
    uint8_t client[16]
    uint8_t octets[SLOT]


# A connection on its way to Python; its octets follow: what it sent, then what it has not taken.
cdef struct Handed:
    int fd
    uint32_t queries
    uint32_t pending
    uint32_t unsent


# How long a handshake took.
cdef struct Trip:
    uint32_t microseconds
    uint32_t client_len
    uint8_t client[16]


cdef struct Fresh:
    int fd                   # of epoll; -1: no TCP
    uint32_t lanes
    Lane *lane               # listening sockets
    bint listening
    uint32_t open
    uint32_t told            # the same for the main thread, and whether a tick has to be rung in
    uint32_t keepalive       # from the main thread, as Door.keepalive; NOBODY: -1
    uint64_t most            # queries that a connection may ask
    uint32_t oldest, newest, unused
    Conn *conn
    void *handed[HANDED]
    uint32_t head            # written by the main thread
    uint32_t tail            # written by the thread
    bint trips               # whether they are wanted
    uint32_t trip_head       # written by the main thread
    uint32_t trip_tail       # written by the thread
    Trip trip[TRIPS]
    epoll_event event[BATCH]
    uint8_t inbox[SLOT + STREAM_IN]
    uint8_t outbox[STREAM_OUT]


# Whole queries of a stream, answered into `out` (STREAM_OUT octets) with their lengths before them. How it ended; `at`:
# octets dealt with, `queries` how many that were, `replies` how many replies, `size` their octets; `reason`: K_PASS_*.
cdef int answer_run(Ask *ask, Ctx *ctx, const Scene *scene, Work *work, const uint8_t *data, uint32_t length,
                    uint8_t *out, uint32_t *at, uint32_t *queries, uint32_t *replies, uint32_t *size,
                    int *reason) noexcept nogil:
    cdef uint32_t begin = 0, octets
    cdef int written
    at[0] = queries[0] = replies[0] = size[0] = 0
    while length - begin >= 2:
        octets = <uint32_t>data[begin] << 8 | data[begin + 1]
        if length - begin - 2 < octets:
            break
        if queries[0] == TURN_QUERIES or size[0] >= WRITE_AT:
            return S_TURN
        if octets < 12:
            return S_MALFORMED
        ask.packet, ask.size = data + begin + 2, octets
        written = answer(ask, ctx, scene, work, out + size[0] + 2)
        if written < 0:
            reason[0] = written
            return S_PASS
        if written:
            put16(out + size[0], <uint32_t>written)
            size[0] += 2 + <uint32_t>written
            replies[0] += 1
        begin += 2 + octets
        at[0] = begin
        queries[0] += 1
    return S_DRY


# Something has happened to a listening socket or a connection.
cdef void streams(Works *works) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    cdef int number = epoll_wait(fresh.fd, fresh.event, BATCH, 0), i
    cdef uint32_t who, keepalive = look(&fresh.keepalive)
    cdef Stage *stage = taken_stage(works)
    stage.stream.keepalive = -1 if keepalive == NOBODY else <int>keepalive
    for i in range(number):
        who = fresh.event[i].data.u32
        if who >= FRESH:
            accept_some(works, who - FRESH)
        elif fresh.conn[who].fd >= 0:
            readable(works, who)
    tell(&fresh.told, fresh.open + (not fresh.listening))


cdef void accept_some(Works *works, uint32_t number) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    cdef Lane *lane = &fresh.lane[number]
    cdef uint8_t name[NAME]
    cdef unsigned int size
    cdef uint32_t i, who
    cdef int fd
    cdef Conn *conn
    for i in range(ACCEPTS):
        size = NAME
        fd = accept4(lane.fd, <sockaddr*>name, &size, SOCK_CLOEXEC | SOCK_NONBLOCK)
        if fd < 0:
            if errno == EINTR or errno == ECONNABORTED:
                continue
            if errno != EAGAIN:
                listen_to(fresh, False)  # no descriptors, no memory: until the next tick
            return
        works.stage.ctx.count[K_M_TCP_ACCEPTED] += 1
        if fresh.unused == NOBODY:
            hand_over(works, fresh.oldest, NULL, 0, NULL, 0)
        who = fresh.unused
        conn = &fresh.conn[who]
        fresh.unused = conn.after
        conn.fd, conn.tick, conn.queries, conn.pending = fd, works.pace.ticks, 0, 0
        conn.client_len = lane.client_len
        memcpy(conn.client, name + lane.client, lane.client_len)
        conn.before, conn.after = fresh.newest, NOBODY
        if fresh.newest == NOBODY:
            fresh.oldest = who
        else:
            fresh.conn[fresh.newest].after = who
        fresh.newest = who
        fresh.open += 1
        works.stage.ctx.count[K_M_TCP_OPEN] = fresh.open
        if fresh.trips:
            keep_trip(fresh, conn)
        if readable(works, who) and not watch(fresh, fd, who, EPOLL_CTL_ADD):
            hand_over(works, who, NULL, 0, NULL, 0)


# The kernel's figure of the handshake, while there is room for one: a flood of connections costs no more of them.
cdef void keep_trip(Fresh *fresh, const Conn *conn) noexcept nogil:
    cdef uint32_t info[MIN_RTT + 1]
    cdef unsigned int size = sizeof(info)
    cdef Trip *trip = &fresh.trip[fresh.trip_tail % TRIPS]
    if fresh.trip_tail - look(&fresh.trip_head) >= TRIPS:
        return
    if getsockopt(conn.fd, IPPROTO_TCP, TCP_INFO, info, &size) or size < sizeof(info):
        return
    trip.microseconds, trip.client_len = info[MIN_RTT], conn.client_len
    memcpy(trip.client, conn.client, conn.client_len)
    tell(&fresh.trip_tail, fresh.trip_tail + 1)


cdef inline bint watch(Fresh *fresh, int fd, uint32_t who, int how) noexcept nogil:
    cdef epoll_event event
    event.events, event.data.u32 = EPOLLIN, who
    return epoll_ctl(fresh.fd, how, fd, &event) == 0


cdef void listen_to(Fresh *fresh, bint wanted) noexcept nogil:
    cdef uint32_t i
    if wanted != fresh.listening:
        fresh.listening = wanted
        for i in range(fresh.lanes):
            watch(fresh, fresh.lane[i].fd, FRESH + i, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL)


# Take what a connection has sent and answer it; whether it is still here.
cdef bint readable(Works *works, uint32_t who) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    cdef Conn *conn = &fresh.conn[who]
    cdef uint8_t *data = fresh.inbox
    cdef uint32_t length = conn.pending, at = 0
    cdef ssize_t got = recv(conn.fd, data + length, STREAM_IN, MSG_DONTWAIT)
    cdef int ended
    if got < 0:
        if errno == EAGAIN or errno == EINTR:
            return True
        leave(works, who, K_M_TCP_CLOSED_ERROR)
        return False
    if got == 0:
        leave(works, who, K_M_TCP_CLOSED_CLIENT)
        return False
    memcpy(data, conn.octets, length)
    length += <uint32_t>got
    while True:
        ended = turn_of(works, who, data, length, &at)
        if ended < 0:
            return False
        data, length = data + at, length - at
        if ended != S_TURN or conn.queries >= fresh.most:
            break
    if ended == S_MALFORMED:
        leave(works, who, K_M_TCP_CLOSED_MALFORMED)
        return False
    if conn.queries >= fresh.most:
        leave(works, who, K_M_TCP_CLOSED_QUERIES)
        return False
    if ended == S_PASS or length > SLOT:
        hand_over(works, who, data, length, NULL, 0)
        return False
    conn.pending = length
    memcpy(conn.octets, data, length)
    return True


# One turn's queries, answered and sent; how it ended, -1: the connection is not here any more.
cdef int turn_of(Works *works, uint32_t who, const uint8_t *data, uint32_t length, uint32_t *at) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    cdef Conn *conn = &fresh.conn[who]
    cdef Stage *stage = works.stage
    cdef Ctx *ctx = stage.stream
    cdef Ask *ask = &works.space.ask
    cdef uint32_t queries, replies, size
    cdef ssize_t sent
    cdef int ended, reason = 0
    at[0] = 0
    if not works.fits:
        return S_PASS
    ask.client, ask.client_len = conn.client, conn.client_len
    ask.now = clock_ns(CLOCK_REALTIME) // 1000000000
    ended = answer_run(ask, ctx, stage.scene, &works.space.work, data, length, fresh.outbox, at, &queries, &replies,
                       &size, &reason)
    if not queries:
        return ended
    conn.queries += queries
    ctx.count[K_M_QUERIES_TCP] += queries
    ctx.count[K_M_BYTES_IN_TCP] += at[0] - 2 * queries
    ctx.count[K_M_RESPONSES_TCP] += replies
    ctx.count[K_M_BYTES_OUT_TCP] += size - 2 * replies
    if not size:
        return ended
    sent = sendto(conn.fd, fresh.outbox, size, MSG_DONTWAIT | MSG_NOSIGNAL)
    if sent == <ssize_t>size:
        return ended
    if sent < 0 and errno != EAGAIN and errno != EINTR:
        leave(works, who, K_M_TCP_CLOSED_ERROR)
        return -1
    sent = sent if sent > 0 else 0
    hand_over(works, who, data + at[0], length - at[0], fresh.outbox + sent, size - <uint32_t>sent)
    return -1


# Close it.
cdef void leave(Works *works, uint32_t who, uint32_t slot) noexcept nogil:
    works.stage.ctx.count[slot] += 1
    close(works.fresh.conn[who].fd)
    gone(works, who)


# Its place is free.
cdef void gone(Works *works, uint32_t who) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    cdef Conn *conn = &fresh.conn[who]
    if conn.before == NOBODY:
        fresh.oldest = conn.after
    else:
        fresh.conn[conn.before].after = conn.after
    if conn.after == NOBODY:
        fresh.newest = conn.before
    else:
        fresh.conn[conn.after].before = conn.before
    conn.fd = -1
    conn.after = fresh.unused
    fresh.unused = who
    fresh.open -= 1
    works.stage.ctx.count[K_M_TCP_OPEN] = fresh.open


# Python's from here on, with what it has sent (NULL: what is kept of it) and not taken. Where Python is so far behind
# that it takes no more, it is closed.
cdef void hand_over(Works *works, uint32_t who, const uint8_t *data, uint32_t length, const uint8_t *unsent,
                    uint32_t left) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    cdef Conn *conn = &fresh.conn[who]
    cdef Handed *handed = NULL
    cdef uint8_t *octets
    if data == NULL:
        data, length = conn.octets, conn.pending
    if fresh.tail - look(&fresh.head) < HANDED:
        handed = <Handed*>malloc(sizeof(Handed) + length + left)
    if handed == NULL:
        leave(works, who, K_M_TCP_CLOSED_LIMIT)
        return
    watch(fresh, conn.fd, who, EPOLL_CTL_DEL)  # fails, and may, where it was never watched
    handed.fd, handed.queries, handed.pending, handed.unsent = conn.fd, conn.queries, length, left
    octets = <uint8_t*>handed + sizeof(Handed)
    memcpy(octets, data, length)
    if left:
        memcpy(octets + length, unsent, left)
    fresh.handed[fresh.tail % HANDED] = handed
    tell(&fresh.tail, fresh.tail + 1)
    gone(works, who)
    if not exchange(&works.called, 1):
        eventfd_write(works.bell, 1)


# A tick may have passed: hand over those that have become old (all of them, in the end), listen again.
cdef void grow_old(Works *works, bint all_of_them) noexcept nogil:
    cdef Fresh *fresh = works.fresh
    while fresh.oldest != NOBODY and (all_of_them or works.pace.ticks - fresh.conn[fresh.oldest].tick >= OLD):
        hand_over(works, fresh.oldest, NULL, 0, NULL, 0)
    listen_to(fresh, not all_of_them)
    tell(&fresh.told, fresh.open + (not fresh.listening))


# After the thread's end.
cdef void free_fresh(Fresh *fresh) noexcept:
    cdef uint32_t i
    while fresh.head != fresh.tail:
        close((<Handed*>fresh.handed[fresh.head % HANDED]).fd)
        free(fresh.handed[fresh.head % HANDED])
        fresh.head += 1
    for i in range(FRESH):
        if fresh.conn != NULL and fresh.conn[i].fd >= 0:
            close(fresh.conn[i].fd)
    if fresh.fd >= 0:
        close(fresh.fd)
    free(fresh.conn)
    free(fresh.lane)
    free(fresh)
