# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled engine: the same answers as `answer.respond`, octet for octet, at the cost of a C server.

Lives here: the parts put together, `Door` (a context as flat memory, `context.Context`). Does not live here: deciding
whether the engine is used and what it serves (`serve.engine`), anything that `respond` has to say.

Everything is in one unit, so that the compiler sees the whole way from octets to octets. Nothing on that way holds the
GIL, allocates, locks or raises; all memory is made when a Sight or a Door is.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc

include "constants.pxi"
include "types.pxi"
include "parse.pxi"
include "place.pxi"
include "rank.pxi"
include "service.pxi"
include "cookies.pxi"
include "guard.pxi"
include "lookup.pxi"
include "chain.pxi"
include "finish.pxi"
include "scene.pxi"


cdef class Door:
    """A kind of door. `count` are the slots it counts in; see `context.Context` for the rest. One thread at a time."""

    cdef Ctx ctx
    cdef Space space
    cdef object kept
    cdef uint8_t *out
    cdef uint8_t *run
    cdef uint64_t[::1] count

    def __cinit__(self):
        memset(&self.ctx, 0, sizeof(Ctx))
        self.space.memory = NULL
        self.space.largest = 0
        self.out = self.run = NULL

    def __init__(self, count, *, bint tcp=False, uint32_t limit=K_UDP_SIZE, int keepalive=-1, bint pad=False):
        self.count = count
        if self.count.shape[0] < K_M_SLOTS or limit > 65535 or (not tcp and limit > 4096):
            raise ValueError("too few slots to count in, or too large a limit")
        self.ctx.count = &self.count[0]
        self.ctx.tcp, self.ctx.limit, self.ctx.keepalive, self.ctx.pad = tcp, limit, keepalive, pad
        self.out = <uint8_t*>malloc(65536)
        if self.out == NULL or not fit(&self.space, 64):
            raise MemoryError

    def __dealloc__(self):
        free_ranges(&self.ctx.ecs_from)
        free_ranges(&self.ctx.guard.exempt)
        free_ranges(&self.ctx.guard.raised)
        free(self.space.memory)
        free(self.out)
        free(self.run)

    def cookies(self, secrets):
        """The secrets of cookies, 16 octets each, the active one first; none: no cookies."""
        fill_cookies(&self.ctx, secrets)

    def guard(self, parts):
        """The guard's table and rates (`dns.guard.GuardParts`); None: none."""
        self.kept = parts
        fill_guard(&self.ctx.guard, parts)

    def ecs_from(self, ranges):
        """The resolvers whose client subnet is believed (`Prefixes.ranges()`); None: all."""
        self.ctx.ecs_listed = ranges is not None
        fill_ranges(&self.ctx.ecs_from, ranges if ranges is not None else ([], []))

    def why(self, bint asked):
        """Whether questions for `_why` may be the desk's."""
        self.ctx.why = asked

    @property
    def strict(self):
        """See `context.Context.strict`."""
        return self.ctx.strict

    @strict.setter
    def strict(self, bint value):
        self.ctx.strict = value

    @property
    def shed(self):
        """See `context.Context.shed`."""
        return self.ctx.shed

    @shed.setter
    def shed(self, int value):
        self.ctx.shed = value

    @property
    def keepalive(self):
        """See `context.Context.keepalive`."""
        return self.ctx.keepalive

    @keepalive.setter
    def keepalive(self, int value):
        self.ctx.keepalive = value

    @property
    def guard_now(self):
        """The guard's time, see `dns.guard.Guard.now`."""
        return self.ctx.guard.now

    @guard_now.setter
    def guard_now(self, uint64_t value):
        self.ctx.guard.now = value

    def answer(self, bytes packet, bytes client, uint64_t now, Sight sight):
        """The reply; None for none; a whole number where `respond` must give it: a place in metrics.PASS_REASONS."""
        cdef Ask *ask = &self.space.ask
        cdef int size
        if len(client) not in (4, 16):
            raise ValueError("an address has 4 or 16 octets")
        if not fit(&self.space, sight.scene.largest):
            raise MemoryError
        ask.packet, ask.size = packet, len(packet)
        ask.client, ask.client_len, ask.now = client, len(client), now
        size = answer(ask, &self.ctx, &sight.scene, &self.space.work, self.out)
        if size < 0:
            self.ctx.count[K_M_PASSED - 1 - size] += 1
            return -1 - size
        return PyBytes_FromStringAndSize(<char*>self.out, size) if size else None

    def stream(self, bytes data, uint32_t at, bytes client, uint64_t now, Sight sight):
        """Answer the whole queries of a stream from there on, no more than a turn of them.

        (where the next query begins, queries, replies, the replies with their lengths, whether the next query is there
        too, why it was not answered). The last: a place in metrics.PASS_REASONS if `respond` must give that reply; -1 if
        it cannot be a message; -2 if there is no reason but the turn's end.
        """
        cdef Ask *ask = &self.space.ask
        cdef uint32_t done = 0, queries = 0, replies = 0, size = 0
        cdef int ended, reason = 0
        if len(client) not in (4, 16) or at > <uint32_t>len(data):
            raise ValueError("an address has 4 or 16 octets, and a query begins in its stream")
        if self.run == NULL:
            self.run = <uint8_t*>malloc(STREAM_OUT)
        if self.run == NULL or not fit(&self.space, sight.scene.largest):
            raise MemoryError
        ask.client, ask.client_len, ask.now = client, len(client), now
        ended = answer_run(ask, &self.ctx, &sight.scene, &self.space.work, <const uint8_t*>data + at,
                           <uint32_t>len(data) - at, self.run, &done, &queries, &replies, &size, &reason)
        if ended == S_PASS:
            self.ctx.count[K_M_PASSED - 1 - reason] += 1
        return (at + done, queries, replies, PyBytes_FromStringAndSize(<char*>self.run, size), ended != S_DRY,
                -1 - reason if ended == S_PASS else -1 if ended == S_MALFORMED else -2)

    def over(self, bytes client, uint32_t zone, uint32_t kind):
        """`dns.guard.Guard.over`."""
        if self.ctx.guard.table == NULL or len(client) not in (4, 16) or kind >= K_GUARD_KINDS:
            raise ValueError("no guard, or not a client and kind of its")
        return over(&self.ctx.guard, client, len(client), zone, kind)

    def cookie(self, bytes data, bytes client, uint64_t now):
        """`dns.cookies.Cookies.answer`."""
        if not self.ctx.secrets or len(client) not in (4, 16) or not 8 <= len(data) <= 40:
            raise ValueError("no secrets, or not a client and cookie")
        cdef uint8_t[64] out
        cdef uint32_t size = 0
        valid = cookie_answer(&self.ctx, data, len(data), client, len(client), now, out, &size)
        return bool(valid), out[:size]


include "ring.pxi"
include "sockets.pxi"
include "stream.pxi"
include "loop.pxi"
