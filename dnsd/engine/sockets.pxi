# The engine's thread: from readable sockets to sent replies. Lives here: system calls, batches, the turn each socket
# gets, taking what is served now, when to be strict and what to shed. Does not live here: an answer (finish.pxi), what
# becomes of passed-on queries (serve.engine), making sockets (dnsd.sockets).
#
# The thread never holds the GIL. What it serves is a Stage the main thread points to. It says which one it is at, then
# looks again whether that is still the one (a hazard pointer); while it waits it is at none. So the main thread knows
# what may be freed. A batch is received first and its Stage taken then: who was told of a change is answered by it.

cdef extern from "<sys/socket.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    cdef struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *heads, unsigned int number, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *heads, unsigned int number, int flags)
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size)
    const int MSG_DONTWAIT
    const int SOL_SOCKET
cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long number, int timeout)
    const short POLLIN
    const short POLLOUT
    const short POLLNVAL
cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)
    const int EFD_CLOEXEC
    const int EFD_NONBLOCK
cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *value)
    const int CLOCK_REALTIME
    const int CLOCK_MONOTONIC
cdef extern from "<errno.h>" nogil:
    const int errno
    const int EAGAIN
    const int ENOBUFS
    const int EINTR
cdef extern from "<unistd.h>" nogil:
    int close(int fd)


# As serve.mmsg and serve.udp have them.
cdef enum:
    BATCH = 64
    ROUNDS = 8
    SLOT = 2112          # octets a query may have
    REPLY = 4096         # octets an answer may have
    FULL_WAIT_MS = 5     # how long a full send buffer may hold up the thread
    SHED_MOST = 3
    MEMINFO = 55         # SO_MEMINFO, linux/socket.h: nine u32
    STOP_MS = 200        # how long the queues may take to be emptied at the end


# What is served: a Sight's and a Door's parts. `scene` NULL: everything is passed on.
cdef struct Stage:
    const Scene *scene
    Ctx *ctx
    Ctx *stream              # for TCP


# One socket.
cdef struct Lane:
    int fd
    uint32_t client          # where in a socket address the host is, and how many octets that has
    uint32_t client_len
    int shed                 # what its last turn shed, and the tick it was in
    uint32_t turned


# When the guard is asked, and what is shed: serve.contexts.Contexts, whose comment says why.
cdef struct Pace:
    uint32_t ticks           # done of those the main thread has counted
    uint64_t seen
    uint64_t free
    bint guarded
    bint strict
    uint32_t shed


# Everything the thread has.
cdef struct Works:
    void *current            # the Stage to be used; written by the main thread
    void *using              # the one that is; written by the thread
    uint32_t stopping, ticks, called, running
    uint32_t told            # the pace for the main thread: strict, and above that bit what is shed
    int wake, bell           # eventfds: of the thread, of the main thread
    Stage *stage             # what `using` says, as the thread knows it
    bint fits                # whether there is room for its records
    Space space
    Pace pace
    uint32_t lanes
    Lane *lane
    pollfd *polled           # of each lane, then `wake`, then of `fresh`
    uint32_t every, left     # of sampling; every 0: none
    Ring passed, sampled
    Fresh *fresh             # NULL: no TCP here
    uint32_t shut            # 1: the main thread wants no new connections, 2: there are none
    mmsghdr inbox[BATCH]
    mmsghdr outbox[BATCH]
    iovec in_iov[BATCH]
    iovec out_iov[BATCH]
    uint8_t names[BATCH][NAME]
    uint8_t queries[BATCH][SLOT]
    uint8_t replies[BATCH * REPLY]


cdef void work_on(Works *works) noexcept nogil:
    cdef uint32_t i, wake = works.lanes
    cdef uint64_t value, until
    while not look(&works.stopping):
        rest(works)
        if poll(works.polled, works.lanes + 1 + (works.fresh != NULL), -1) <= 0:
            continue
        if works.polled[wake].revents:
            eventfd_read(works.wake, &value)
            if works.fresh != NULL:
                woken(works)
        if works.fresh != NULL and works.polled[wake + 1].revents:
            streams(works)
        for i in range(works.lanes):
            if works.polled[i].revents & POLLNVAL:
                works.polled[i].fd = -1
            elif works.polled[i].revents:
                turn(works, i)
    if works.fresh != NULL:
        tell(&works.shut, 1)
        woken(works)
    until = clock_ns(CLOCK_MONOTONIC) + STOP_MS * <uint64_t>1000000
    for i in range(works.lanes):
        while turn(works, i) and clock_ns(CLOCK_MONOTONIC) < until:
            pass
    rest(works)


# The main thread rang: a tick may have passed, or connections are not wanted any more.
cdef void woken(Works *works) noexcept nogil:
    taken_stage(works)
    catch_up(&works.pace, look(&works.ticks))
    if look(&works.shut) == 0:
        grow_old(works, False)
    elif look(&works.shut) == 1:
        grow_old(works, True)
        tell(&works.shut, 2)
        if not exchange(&works.called, 1):
            eventfd_write(works.bell, 1)


# At no Stage from here on.
cdef inline void rest(Works *works) noexcept nogil:
    works.stage = NULL
    point(&works.using, NULL)


# A socket's turn, as serve.udp.Listener.readable; whether there may be more.
cdef bint turn(Works *works, uint32_t number) noexcept nogil:
    cdef Lane *lane = &works.lane[number]
    cdef Pace *pace = &works.pace
    cdef int got = 0, i
    cdef bint full = False
    catch_up(pace, look(&works.ticks))
    if lane.shed or pace.shed:
        pace.shed = <uint32_t>lane.shed if pace.ticks - lane.turned < 2 else 0
        pace.strict = pace.strict or pace.shed > 0
    for i in range(ROUNDS):
        got = recvmmsg(lane.fd, works.inbox, BATCH, MSG_DONTWAIT, NULL)
        full = got == BATCH
        if got <= 0:
            break
        pace.seen += got
        if pace.guarded and pace.seen > pace.free:
            pace.strict = True
        batch(works, number, <uint32_t>got)
        if not full:
            break
    if full or pace.shed:
        if full and crowded(lane.fd):
            pace.shed = pace.shed + 1 if pace.shed < SHED_MOST else SHED_MOST
            pace.strict = True
        elif pace.shed:
            pace.shed -= 1
    lane.shed, lane.turned = <int>pace.shed, pace.ticks
    return full


# Quarters of a second have passed (Contexts.tick); in all but the first of them nothing came.
cdef inline void catch_up(Pace *pace, uint32_t ticks) noexcept nogil:
    if ticks == pace.ticks:
        return
    pace.strict = pace.shed > 0 or (pace.guarded and pace.seen > pace.free and ticks - pace.ticks == 1)
    pace.seen = 0
    pace.ticks = ticks


# Answer what was received and send the replies.
cdef void batch(Works *works, uint32_t lane, uint32_t number) noexcept nogil:
    cdef Stage *stage = taken_stage(works)
    cdef Ctx *ctx = stage.ctx
    cdef Ask *ask = &works.space.ask
    cdef uint8_t *out = works.replies
    cdef uint32_t client = works.lane[lane].client, replies = 0, i, octets = 0, written = 0
    cdef bint handed = False
    cdef int size
    ask.now, ask.client_len = clock_ns(CLOCK_REALTIME) // 1000000000, works.lane[lane].client_len
    ctx.strict, ctx.shed = works.pace.strict, <int>works.pace.shed
    tell(&works.told, works.pace.shed << 1 | works.pace.strict)
    if works.pace.strict and works.pace.guarded:
        ctx.guard.now = clock_ns(CLOCK_MONOTONIC) // K_GUARD_UNIT_NS & K_GUARD_TIME
    for i in range(number):
        ask.packet, ask.size, ask.client = works.queries[i], works.inbox[i].msg_len, works.names[i] + client
        octets += ask.size
        size = answer(ask, ctx, stage.scene, &works.space.work, out) if works.fits else K_PASS_IMAGE
        if size > 0:
            reply_with(works, replies, i, out, <uint32_t>size)
            replies += 1
        if size < 0:
            handed |= pass_on(works, ctx, lane, i, size)
        elif works.every:
            handed |= sample(works, ctx, lane, i, out, <uint32_t>size)
        works.inbox[i].msg_hdr.msg_namelen = NAME
        if size > 0:
            written += size
            out += <uint32_t>size + APART - 1 & ~<uint32_t>(APART - 1)
    ctx.count[K_M_UDP_BATCHES] += 1
    ctx.count[K_M_QUERIES_UDP] += number
    ctx.count[K_M_BYTES_IN_UDP] += octets
    if replies:
        send(works, ctx, works.lane[lane].fd, replies, written)
    if handed and not exchange(&works.called, 1):
        eventfd_write(works.bell, 1)


# The Stage there is now; it stays as it is until the thread takes another or rests.
cdef inline Stage *taken_stage(Works *works) noexcept nogil:
    cdef void *stage = look_at(&works.current)
    cdef void *again
    if stage == works.stage:
        return works.stage
    while True:
        point(&works.using, stage)
        again = look_at(&works.current)
        if again == stage:
            break
        stage = again
    works.stage = <Stage*>stage
    works.fits = works.stage.scene != NULL and fit(&works.space, works.stage.scene.largest)
    return works.stage


# The next reply is to query `i`, and goes to where that came from.
cdef inline void reply_with(Works *works, uint32_t number, uint32_t i, uint8_t *out, uint32_t size) noexcept nogil:
    works.out_iov[number].iov_base, works.out_iov[number].iov_len = out, size
    works.outbox[number].msg_hdr.msg_name = works.inbox[i].msg_hdr.msg_name
    works.outbox[number].msg_hdr.msg_namelen = works.inbox[i].msg_hdr.msg_namelen


# Leave query `i` to Python; False when that has too much already.
cdef bint pass_on(Works *works, Ctx *ctx, uint32_t lane, uint32_t i, int reason) noexcept nogil:
    cdef Place *place = free_place(&works.passed)
    cdef const mmsghdr *head = &works.inbox[i]
    if place == NULL:
        ctx.count[K_M_PASS_FULL] += 1
        return False
    fill(place, lane, works.names[i], head.msg_hdr.msg_namelen, works.queries[i], head.msg_len, works.queries[i], 0)
    filled(&works.passed)
    ctx.count[K_M_PASSED - 1 - reason] += 1
    return True


# One in `every` of those answered here is copied for the tap, as serve.tap.Tap counts them.
cdef inline bint sample(Works *works, Ctx *ctx, uint32_t lane, uint32_t i, const uint8_t *reply,
                        uint32_t size) noexcept nogil:
    cdef Place *place
    cdef const mmsghdr *head = &works.inbox[i]
    if works.left:
        works.left -= 1
        return False
    works.left = works.every - 1
    place = free_place(&works.sampled)
    if place == NULL:
        ctx.count[K_M_CAPTURE_DROPPED] += 1
        return False
    fill(place, lane, works.names[i], head.msg_hdr.msg_namelen, works.queries[i], head.msg_len, reply, size)
    filled(&works.sampled)
    return True


# All replies in one call, in more where the kernel stops: what it refuses is passed over, where it is full a moment is
# waited (serve.mmsg.Batched).
cdef void send(Works *works, Ctx *ctx, int fd, uint32_t number, uint32_t written) noexcept nogil:
    cdef int sent = sendmmsg(fd, works.outbox, number, MSG_DONTWAIT), problem
    cdef uint32_t first = <uint32_t>sent if sent > 0 else 0, gone = first
    cdef bint waited = False
    while first < number:
        sent = sendmmsg(fd, works.outbox + first, number - first, MSG_DONTWAIT)
        if sent > 0:
            first += <uint32_t>sent
            gone += <uint32_t>sent
            continue
        problem = errno
        if problem == EAGAIN or problem == ENOBUFS:
            if waited or not writable(fd):
                ctx.count[K_M_UDP_SEND_FULL] += number - first
                break
            waited = True
        elif problem != EINTR:
            ctx.count[K_M_UDP_SEND_ERRORS] += 1
            written -= <uint32_t>works.out_iov[first].iov_len
            first += 1
    while first < number:
        written -= <uint32_t>works.out_iov[first].iov_len
        first += 1
    ctx.count[K_M_RESPONSES_UDP] += gone
    ctx.count[K_M_BYTES_OUT_UDP] += written


cdef bint writable(int fd) noexcept nogil:
    cdef pollfd one
    one.fd, one.events, one.revents = fd, POLLOUT, 0
    return poll(&one, 1, FULL_WAIT_MS) > 0


# Whether more than half of the room that the kernel has for waiting datagrams is taken (serve.mmsg.crowded).
cdef bint crowded(int fd) noexcept nogil:
    cdef uint32_t account[9]
    cdef unsigned int size = sizeof(account)
    if getsockopt(fd, SOL_SOCKET, MEMINFO, account, &size) or size < 8:
        return False
    return 2 * <uint64_t>account[0] > account[1]


cdef inline uint64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
