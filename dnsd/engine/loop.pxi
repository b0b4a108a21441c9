# The engine's thread as Python has it: `Loop`. Lives here: its memory, starting and stopping, what is served and what
# is no longer used, what the thread left to Python. Does not live here: what the thread does (sockets.pxi).

from libc.stdlib cimport calloc


# A Stage and what keeps it valid.
cdef class Held:
    cdef Stage stage
    cdef Sight sight
    cdef Door door
    cdef Door door_of_streams


cdef class Loop:
    """The thread that answers these sockets, each (descriptor, whether it is IPv6); they must stay open meanwhile.

    `free`: so many datagrams of a quarter of a second leave every bucket of the guard unfilled, -1: there is no guard.
    One in `every` of the queries answered is sampled, 0: none. `streams` are listening TCP sockets in the same form:
    their connections are answered while they are new, `places` of them at once, and `queries` is how many one may ask;
    with `trips` the round trips of their handshakes are kept.
    All methods but `run` are the main thread's.
    """

    cdef Works *works
    cdef list held
    cdef object __weakref__

    def __cinit__(self):
        self.works = <Works*>calloc(1, sizeof(Works))
        if self.works == NULL:
            raise MemoryError
        self.works.wake = self.works.bell = -1

    def __init__(self, sockets, *, int64_t free=-1, uint32_t every=0, streams=(), uint64_t queries=1,
                 uint32_t places=FRESH, bint trips=False):
        cdef Works *works = self.works
        if self.held is not None:
            raise RuntimeError("a loop begins once")
        self.held = []
        works.pace.guarded, works.pace.free = free >= 0, <uint64_t>free if free >= 0 else 0
        works.every = every
        works.left = every - 1 if every else 0
        works.wake, works.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if works.wake < 0 or works.bell < 0:
            raise OSError(errno, "eventfd")
        works.lane = <Lane*>calloc(len(sockets) + 1, sizeof(Lane))
        works.polled = <pollfd*>calloc(len(sockets) + 2, sizeof(pollfd))
        if (works.lane == NULL or works.polled == NULL or not make_ring(&works.passed, PASSED_PLACES, SLOT)
                or not make_ring(&works.sampled, SAMPLE_PLACES if every else 1, SLOT + REPLY)):
            raise MemoryError
        for descriptor, v6 in sockets:
            self._add(descriptor, v6)
        works.polled[works.lanes].fd, works.polled[works.lanes].events = works.wake, POLLIN
        self._lay()
        if streams:
            self._listen(streams, queries, min(max(places, 1), FRESH))
            works.fresh.trips = trips

    cdef _add(self, int descriptor, bint v6):
        cdef uint32_t i = self.works.lanes
        cdef Lane *lane = &self.works.lane[i]
        lane.fd = descriptor
        lane.client, lane.client_len = (8, 16) if v6 else (4, 4)
        self.works.polled[i].fd, self.works.polled[i].events = descriptor, POLLIN
        self.works.lanes += 1

    cdef _listen(self, streams, uint64_t queries, uint32_t places):
        cdef Works *works = self.works
        cdef Fresh *fresh = <Fresh*>calloc(1, sizeof(Fresh))
        cdef uint32_t i
        if fresh == NULL:
            raise MemoryError
        works.fresh = fresh
        fresh.fd = epoll_create1(EPOLL_CLOEXEC)
        fresh.conn = <Conn*>calloc(FRESH, sizeof(Conn))
        fresh.lane = <Lane*>calloc(len(streams), sizeof(Lane))
        if fresh.fd < 0 or fresh.conn == NULL or fresh.lane == NULL:
            raise MemoryError
        fresh.most, fresh.keepalive, fresh.oldest, fresh.newest = queries, NOBODY, NOBODY, NOBODY
        for i in range(FRESH):
            fresh.conn[i].fd, fresh.conn[i].after = -1, i + 1 if i + 1 < places else NOBODY
        for descriptor, v6 in streams:
            fresh.lane[fresh.lanes].fd = descriptor
            fresh.lane[fresh.lanes].client, fresh.lane[fresh.lanes].client_len = (8, 16) if v6 else (4, 4)
            fresh.lanes += 1
        listen_to(fresh, True)
        works.polled[works.lanes + 1].fd, works.polled[works.lanes + 1].events = fresh.fd, POLLIN

    cdef _lay(self):
        cdef Works *works = self.works
        cdef uint32_t i
        for i in range(BATCH):
            works.in_iov[i].iov_base, works.in_iov[i].iov_len = works.queries[i], SLOT
            works.inbox[i].msg_hdr.msg_name, works.inbox[i].msg_hdr.msg_namelen = works.names[i], NAME
            works.inbox[i].msg_hdr.msg_iov, works.inbox[i].msg_hdr.msg_iovlen = &works.in_iov[i], 1
            works.outbox[i].msg_hdr.msg_iov, works.outbox[i].msg_hdr.msg_iovlen = &works.out_iov[i], 1

    def __dealloc__(self):
        cdef Works *works = self.works
        if works == NULL:
            return
        if works.wake >= 0:
            close(works.wake)
        if works.bell >= 0:
            close(works.bell)
        if works.fresh != NULL:
            free_fresh(works.fresh)
        free(works.passed.memory)
        free(works.sampled.memory)
        free(works.space.memory)
        free(works.lane)
        free(works.polled)
        free(works)

    def run(self):
        """What the thread does, without the GIL, until `stop`; something must have been published."""
        if look_at(&self.works.current) == NULL:
            raise ValueError("there is nothing to serve")
        if exchange(&self.works.running, 1):
            raise RuntimeError("a loop runs once")
        with nogil:
            work_on(self.works)
            tell(&self.works.running, 2)
            eventfd_write(self.works.bell, 1)

    def stop(self):
        """Have the thread empty the sockets' queues and end; the bell rings when it has."""
        tell(&self.works.stopping, 1)
        eventfd_write(self.works.wake, 1)

    def publish(self, Sight sight, Door door not None, Door stream=None):
        """Serve that from now on: what the thread receives after this is answered by it. Sight None: pass all on.

        The Doors are the thread's from then on: who has changes for them makes others. `stream` is TCP's.
        """
        cdef Held held = Held()
        if self.works.fresh != NULL and stream is None:
            raise ValueError("there are streams, and no door for them")
        held.sight, held.door, held.door_of_streams = sight, door, stream
        held.stage.ctx = &door.ctx
        held.stage.stream = &stream.ctx if stream is not None else NULL
        held.stage.scene = &sight.scene if sight is not None else NULL
        self.held.append(held)
        point(&self.works.current, &held.stage)
        self.reclaim()

    def reclaim(self):
        """Let go of what is no longer served; how many Stages there still are. To be called now and then."""
        cdef void *current = look_at(&self.works.current)
        cdef void *using = look_at(&self.works.using)
        cdef Held held
        kept = []
        for held in self.held:
            if <void*>&held.stage == current or <void*>&held.stage == using:
                kept.append(held)
        self.held = kept
        return len(kept)

    def tick(self):
        """A quarter of a second has passed."""
        tell(&self.works.ticks, self.works.ticks + 1)
        if self.works.fresh != NULL and look(&self.works.fresh.told):
            eventfd_write(self.works.wake, 1)

    def keepalive(self, int value):
        """What new connections are told, see `context.Context.keepalive`."""
        if self.works.fresh != NULL:
            tell(&self.works.fresh.keepalive, NOBODY if value < 0 else <uint32_t>value)

    def shut(self):
        """Have the thread take no more connections and hand over those it has; the bell rings when it has."""
        if self.works.fresh != NULL and not look(&self.works.shut):
            tell(&self.works.shut, 1)
            eventfd_write(self.works.wake, 1)

    @property
    def is_shut(self):
        """Whether it has no connections and takes none."""
        return self.works.fresh == NULL or look(&self.works.shut) == 2

    def handed(self):
        """Connections the thread hands over: (descriptor, what it sent, what it has not taken, queries it asked)."""
        cdef Fresh *fresh = self.works.fresh
        cdef Handed *handed
        cdef char *octets
        cdef list found = []
        while fresh != NULL and look(&fresh.tail) != fresh.head:
            handed = <Handed*>fresh.handed[fresh.head % HANDED]
            octets = <char*>handed + sizeof(Handed)
            found.append((handed.fd, PyBytes_FromStringAndSize(octets, handed.pending),
                          PyBytes_FromStringAndSize(octets + handed.pending, handed.unsent), handed.queries))
            free(handed)
            tell(&fresh.head, fresh.head + 1)
        return found

    def trips(self):
        """(client, microseconds) of handshakes since the last time, the first of them where there were many."""
        cdef Fresh *fresh = self.works.fresh
        cdef Trip *trip
        cdef list found = []
        while fresh != NULL and look(&fresh.trip_tail) != fresh.trip_head:
            trip = &fresh.trip[fresh.trip_head % TRIPS]
            found.append((PyBytes_FromStringAndSize(<char*>trip.client, trip.client_len), trip.microseconds))
            tell(&fresh.trip_head, fresh.trip_head + 1)
        return found

    @property
    def running(self):
        """Whether the thread has begun and not ended."""
        return look(&self.works.running) == 1

    @property
    def busy(self):
        """Whether the thread is at a batch just now, or between two without a rest."""
        return look_at(&self.works.using) != NULL

    @property
    def pace(self):
        """(strict, shed) of the thread's last batch, see `context.Context`."""
        told = look(&self.works.told)
        return bool(told & 1), told >> 1

    @property
    def bell(self):
        """The descriptor that is readable when something was left to Python, or the thread has ended."""
        return self.works.bell

    def hear(self):
        """The bell was heard: what is left to Python from now on rings it again. To be called before looking."""
        cdef uint64_t value
        eventfd_read(self.works.bell, &value)
        exchange(&self.works.called, 0)

    def waiting(self):
        """The socket, by its place in the list, of the query passed on that has waited longest; -1: none waits."""
        cdef Place *place = next_place(&self.works.passed)
        return <int64_t>place.lane if place != NULL else -1

    def take(self, uint32_t lane, uint32_t most):
        """Queries passed on, those first in the ring as far as they are of that socket: (query, sockaddr, b"")."""
        cdef list found = []
        cdef Place *place = next_place(&self.works.passed)
        while place != NULL and place.lane == lane and len(found) < most:
            found.append(taken(place))
            emptied(&self.works.passed)
            place = next_place(&self.works.passed)
        return found

    def samples(self):
        """The samples there are: (socket, (query, sockaddr, reply))."""
        cdef list found = []
        cdef Place *place = next_place(&self.works.sampled)
        while place != NULL and len(found) < SAMPLE_PLACES:
            found.append((place.lane, taken(place)))
            emptied(&self.works.sampled)
            place = next_place(&self.works.sampled)
        return found
