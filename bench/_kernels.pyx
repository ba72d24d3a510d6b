"""The fast path's stages in memory: a worker without descriptors, fed from a trace of packets.

    trace -> the buffer that a receive or a read would have filled -> stages, timed -> what came out, dropped

A pass carries the whole trace through, batch by batch. `clock` stands still but while stages run, so that a
benchmark that reads it sees neither the filling of buffers nor the emptying of caches. Left out are the
system calls, and receive, deliver, collect and transmit, which consist of them.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ..fastpath.coalesce cimport coalesce
from ..fastpath.decap cimport decap
from ..fastpath.down cimport encap, route
from ..fastpath.flows cimport onward, straight
from ..fastpath.cells cimport free_spent
from ..fastpath.ip cimport read_headers
from ..fastpath.join cimport join, join_rest
from ..fastpath.order cimport order
from ..fastpath.packet cimport PASS, Packet
from ..fastpath.sys cimport (CLOCK_MONOTONIC, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE, clock_gettime,
                             full_fence, iovec, madvise, mmap, munmap, timespec, virtio_net_hdr)
from ..fastpath.prefix cimport address_hash
from ..fastpath.table cimport Session, Table, Tables, slot_of
from ..fastpath.timer cimport rearm_all, turn
from ..fastpath.up cimport admit, link
from ..fastpath.worker cimport BATCH, CELL, HEADROOM, JOIN_ROOM, WAITS, Out, Wait, Worker

cdef extern from * nogil:
    """
    #if defined(__clang__)
    #define HEADRACE_COMPILER __VERSION__
    #else
    #define HEADRACE_COMPILER "gcc " __VERSION__
    #endif
    #if defined(__x86_64__)
    #include <emmintrin.h>
    #define headrace_flush(p) _mm_clflush(p)
    #else
    #define headrace_flush(p) ((void)(p))
    #endif
    """
    void flush "headrace_flush"(const void*)
    const char* COMPILER "HEADRACE_COMPILER"

cdef enum:
    LINE = 64
    MEMORY = 1 << 20          # that a batch may fill
    ROOM = 64                 # iovecs of one merged packet
    SETTLE = 40               # ticks after which everyone is where its own time puts it
    UP, DOWN, COALESCE, JOIN, SPLIT     # what a pass runs

cdef struct Item:             # a packet of the trace
    size_t at
    uint32_t length
    uint32_t slot             # whose records are emptied out of the caches before its batch
    uint32_t entry            # of the index of addresses
    uint32_t segment_size


def compiler():
    """What made this, such as "gcc 12.2.0"."""
    return COMPILER.decode()


cdef inline uint64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef void* pages(size_t n) except NULL:
    """As a worker takes its memory."""
    cdef void* at = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if at == <void*>-1:
        raise MemoryError(f"{n} octets")
    madvise(at, n, MADV_HUGEPAGE)
    return at


cdef class Trace:
    """Packets in the order in which they come, each with the session whose it is."""
    cdef Item* items
    cdef uint8_t* octets
    cdef readonly int count
    cdef readonly int longest

    def __init__(self, Tables tables, list packets):
        """`packets` are (octets, tunnel, session, address, segment size) each."""
        cdef uint64_t key[2]
        cdef bytes octets, address
        cdef size_t at = 0
        self.items = <Item*>malloc(len(packets) * sizeof(Item))
        self.octets = <uint8_t*>malloc(sum(len(p[0]) for p in packets))
        if self.items == NULL or self.octets == NULL:
            raise MemoryError(f"{len(packets)} packets")
        for i, (octets, tunnel, session, address, segment_size) in enumerate(packets):
            memcpy(self.octets + at, <const char*>octets, len(octets))
            memcpy(key, <const char*>address, 16)
            self.items[i].at, self.items[i].length, self.items[i].segment_size = at, <uint32_t>len(octets), segment_size
            self.items[i].slot = slot_of(&tables.table, tunnel, session)
            self.items[i].entry = address_hash(key, 128) & tables.table.address_mask
            at += len(octets)
        self.count, self.longest = <int>len(packets), max(len(p[0]) for p in packets)

    def __dealloc__(self):
        free(self.items)
        free(self.octets)


cdef class Stages:
    """A worker, and a clock that runs while its stages do."""
    cdef Tables tables
    cdef Worker* worker
    cdef uint8_t* memory
    cdef uint64_t spent
    cdef uint64_t stages[4]
    cdef public bint apart    # time every stage by itself: two more readings a stage and batch
    cdef uint64_t idle        # what two readings of the clock cost by themselves
    cdef int kind             # of the pass that runs
    cdef int slow_kind, slow_stage      # the stage that is made slower, so that a test can see it found out ...
    cdef double slower                  # ... by this share of what it took

    def __init__(self, Tables tables, path):
        """`path` is where all datagrams come from: (peer, peer port), the peer as 16 octets."""
        cdef Worker* w = <Worker*>pages(sizeof(Worker))
        cdef bytes peer = path[0]
        cdef uint64_t start
        self.tables, self.worker, self.slow_kind = tables, w, -1
        self.memory = <uint8_t*>pages(MEMORY)
        w.out = <Out*>pages(sizeof(Out))
        w.waits = <Wait*>pages(WAITS * sizeof(Wait))
        w.wait_cells = <uint8_t*>pages(<size_t>WAITS * CELL)
        w.joined = <uint8_t*>pages(JOIN_ROOM)
        w.join_ns = 100000000
        w.table, w.record = &tables.table, &tables.table.workers[0]
        w.workers, w.tun, w.punt = 1, -1, -1
        w.arenas, w.buffers = self.memory, self.memory
        memcpy(w.receive[0].path.peer, <const char*>peer, 16)
        w.receive[0].path.peer_port = path[1]
        w.tick = w.wheel_tick = 1
        self.idle = <uint64_t>-1
        for _ in range(1000):
            start = now()
            self.idle = min(self.idle, now() - start)

    def __dealloc__(self):
        if self.worker != NULL:
            munmap(self.worker.out, sizeof(Out))
            munmap(self.worker.waits, WAITS * sizeof(Wait))
            munmap(self.worker.wait_cells, <size_t>WAITS * CELL)
            munmap(self.worker.joined, JOIN_ROOM)
            munmap(self.memory, MEMORY)
            munmap(self.worker, sizeof(Worker))

    def slow(self, str stage, double share):
        """From now on this stage takes so much longer: decap, link, order, admit, route or encap."""
        stages = {"decap": (UP, 0), "link": (UP, 1), "order": (UP, 2), "admit": (UP, 3), "route": (DOWN, 0), "encap": (DOWN, 1)}
        if stage not in stages:
            raise ValueError(f"{stage} is no stage of these: {', '.join(stages)}")
        self.slow_kind, self.slow_stage = stages[stage]
        self.slower = share

    def clock(self):
        """Seconds that stages have run."""
        return self.spent / 1e9

    def laps(self):
        """Nanoseconds of the single stages since the last look, in their order."""
        spent = list(self.stages)
        memset(self.stages, 0, sizeof(self.stages))
        return spent

    def done(self):
        """Nothing: whoever counts instructions divides his counts where this is called."""

    def up(self, Trace trace, int batch, bint cold=False):
        """decap, order, link, admit over batches of this size; return how many packets went through."""
        return self._pass(trace, batch, cold, UP)

    def down(self, Trace trace, int batch, bint cold=False):
        """route, encap (with cut); return how many datagrams came out."""
        return self._pass(trace, batch, cold, DOWN)

    def join(self, Trace trace, int batch):
        """join of what decap, order and link left, which are not timed; return how many packets came out. Every bundle begins at 0."""
        cdef uint32_t slot
        for slot in set([trace.items[i].slot for i in range(trace.count)]):
            self.worker.table.bundles[self.worker.table.sessions[slot].bundle].next = 0
            self.worker.table.bundles[self.worker.table.sessions[slot].bundle].scan = 0
        return self._pass(trace, batch, False, JOIN)

    def split(self, Trace trace, int batch):
        """encap of packets for bundles, which route found and is not timed; return how many datagrams came out."""
        return self._pass(trace, batch, False, SPLIT)

    def coalesce(self, Trace trace, int batch):
        """What deliver does before it writes; return how many writes there would be."""
        self.worker.flows.rest = 0        # whatever came before
        return self._pass(trace, batch, False, COALESCE)

    cdef _pass(self, Trace trace, int batch, bint cold, int kind):
        cdef int at = 0, n, done = 0
        if not 0 < batch <= BATCH or batch * (trace.longest + 2 * HEADROOM) > MEMORY:
            raise ValueError(f"batches of {batch} packets of up to {trace.longest} octets")
        with nogil:
            while at < trace.count:
                n = min(batch, trace.count - at)
                self._fill(trace, at, n, kind)
                if cold:
                    self._forget(trace, at, n)
                done += self._timed(kind)
                at += n
        return done

    cdef void _fill(self, Trace trace, int at, int n, int kind) noexcept nogil:
        """Lie packets where receive and collect leave them: octets in the cache, descriptions in the batch."""
        cdef Worker* w = self.worker
        cdef uint8_t* where = self.memory + HEADROOM
        cdef Item* item
        cdef Packet* p
        cdef int i
        for i in range(n):
            item = &trace.items[at + i]
            memcpy(where, trace.octets + item.at, item.length)
            p = &w.batch[i]
            memset(p, 0, sizeof(Packet))
            p.data, p.length, p.segment_size, p.verdict = where, item.length, <uint16_t>item.segment_size, PASS
            if kind == COALESCE:
                read_headers(p)
            where += item.length
            if kind == DOWN or kind == SPLIT:
                where += (HEADROOM + 63) & ~<size_t>63
        w.count = n

    cdef void _forget(self, Trace trace, int at, int n) noexcept nogil:
        """Take out of all caches what belongs to the sessions of a batch."""
        cdef Table* t = self.worker.table
        cdef uint8_t* s
        cdef int i, k
        for i in range(n):
            s = <uint8_t*>&t.sessions[trace.items[at + i].slot]
            for k in range(<int>sizeof(Session) // LINE):
                flush(s + k * LINE)
            flush(&t.addresses[t.header.active & 1][trace.items[at + i].entry])
        full_fence()              # not while lines are still on their way out

    cdef int _timed(self, int kind) noexcept nogil:
        cdef Worker* w = self.worker
        cdef uint64_t start = now()
        cdef int n = 0
        self.kind = kind
        if kind == UP:
            decap(w, &w.listener[0])
            start = self._lap(start, 0)
            order(w)
            start = self._lap(start, 1)
            link(w)
            start = self._lap(start, 2)
            admit(w)
            n = w.count
        elif kind == DOWN:
            route(w)
            start = self._lap(start, 0)
            encap(w)
            n = w.out.count
        elif kind == JOIN:
            decap(w, &w.listener[0])
            order(w)
            link(w)
            start = now()
            join(w)
            n = w.count
            while w.pieces_at < w.pieces_count:
                w.count = w.joined_used = 0
                join_rest(w)
                n += w.count
            w.joined_used = 0
            free_spent(w)
        elif kind == SPLIT:
            route(w)
            start = now()
            encap(w)
            n = w.out.count
        else:
            n = merge(w)
        self._stop(start, 3 if kind == UP else 1)
        w.out.count = w.out.iovs = 0
        return n

    cdef inline uint64_t _lap(self, uint64_t start, int stage) noexcept nogil:
        """Between two stages, where each is timed by itself."""
        if self.apart or self.slow_kind == self.kind:
            self._stop(start, stage)
            return now()
        return start

    cdef inline void _stop(self, uint64_t start, int stage) noexcept nogil:
        cdef uint64_t took = now() - start
        took -= min(took, self.idle)
        if self.slow_kind == self.kind and self.slow_stage == stage:
            took += <uint64_t>(took * self.slower)
            while now() - start < took:
                pass
        self.spent += took
        self.stages[stage] += took

    # -- the wheel

    def arm(self, uint32_t keepalive):
        """Put all open sessions into the wheel, each heard of at a time of its own within the last `keepalive` ticks."""
        cdef Worker* w = self.worker
        cdef uint32_t slot
        memset(w.wheel, 0, sizeof(w.wheel))
        w.tick = w.wheel_tick = 2 * keepalive
        for slot in self.tables.used_slots():
            w.table.sessions[slot].last_rx = w.tick - slot * <uint32_t>2654435761U % keepalive
            w.table.sessions[slot].echoes = 0
        rearm_all(w)
        self.turn(SETTLE)

    def turn(self, int ticks):
        """Let ticks pass; whoever is asked answers in the same tick. Return how many echo requests there were."""
        cdef Worker* w = self.worker
        cdef uint64_t start
        cdef int i, k, asked = 0
        for k in range(ticks):
            w.tick += 1
            start = now()
            turn(w)
            self._stop(start, 0)
            for i in range(w.out.count):
                w.out.segments[i].session.last_rx = w.tick
            asked += w.out.count
            w.out.count = w.out.iovs = 0
        return asked


cdef int merge(Worker* w) noexcept nogil:
    cdef iovec iov[ROOM]
    cdef virtio_net_hdr v
    cdef int i = 0, n, writes = 0
    cdef const uint16_t* order = straight(&w.flows)
    while i < w.count:
        n = coalesce(w.batch, order + i, w.count - i, &v, iov, ROOM, True)
        i += n
        order = onward(&w.flows, w.batch, order, n, i, w.count)
        writes += 1
    return writes
