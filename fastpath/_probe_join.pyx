"""The join stage by itself, for tests: a worker that does nothing else, and time is an argument."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from .cells cimport free_spent
from .join cimport join, join_due, join_rest, to_bundle
from .packet cimport PASS, VERDICTS, Packet
from .ppp cimport PPP_MP
from .punt cimport prepare_punts
from .table cimport Tables, config_of
from .worker cimport BATCH, CELL, JOIN_ROOM, WAITS, Wait, Worker


cdef class Join:
    cdef Tables tables
    cdef Worker* w

    def __init__(self, Tables tables, uint64_t join_ns):
        cdef Worker* w = <Worker*>calloc(1, sizeof(Worker))
        self.tables, self.w = tables, w
        w.waits, w.wait_cells = <Wait*>calloc(WAITS, sizeof(Wait)), <uint8_t*>malloc(<size_t>WAITS * CELL)
        w.joined = <uint8_t*>malloc(JOIN_ROOM)
        if w.waits == NULL or w.wait_cells == NULL or w.joined == NULL:
            raise MemoryError()
        w.table, w.record, w.join_ns, w.punt = &tables.table, &tables.table.workers[0], join_ns, -1
        prepare_punts(w)

    def __dealloc__(self):
        free(self.w.waits)
        free(self.w.wait_cells)
        free(self.w.joined)
        free(self.w)

    def push(self, list fragments, uint64_t now_ns):
        """A batch of (slot of the link, octets behind PPP's header), each in memory of its own; (slot, octets) of what went on."""
        cdef Worker* w = self.w
        cdef Packet* p
        cdef bytes octets
        cdef list went = []
        cdef uint8_t* held[BATCH]
        cdef int i
        assert len(fragments) <= BATCH
        w.now_ns, w.count = now_ns, 0
        for i, (slot, octets) in enumerate(fragments):
            held[i] = <uint8_t*>malloc(len(octets) or 1)
            memcpy(held[i], <const char*>octets, len(octets))
            p = &w.batch[w.count]
            memset(p, 0, sizeof(Packet))
            p.data, p.length, p.slot, p.session = held[i], <uint32_t>len(octets), slot, &w.table.sessions[<uint32_t>slot]
            p.config, p.verdict, p.protocol = config_of(p.session), PASS, PPP_MP
            w.count += to_bundle(w, p) == 1
        join(w)
        self._went(went)
        while w.pieces_at < w.pieces_count:
            w.count = w.joined_used = 0
            join_rest(w)
            self._went(went)
        for i in range(len(fragments)):        # what waits must not lie there any more
            memset(held[i], 0xEE, len(fragments[i][1]))
            free(held[i])
        free_spent(w)
        w.joined_used = 0
        return went

    def due(self, uint64_t now_ns):
        """What a wait that is over sets free."""
        cdef list went = []
        self.w.now_ns = now_ns
        while True:
            self.w.count = self.w.joined_used = 0
            join_due(self.w)
            if self.w.count == 0:
                break
            self._went(went)
        free_spent(self.w)
        self.w.joined_used = 0
        return went

    cdef _went(self, list went):
        cdef Packet* p
        cdef int i
        for i in range(self.w.count):
            p = &self.w.batch[i]
            assert p.config == config_of(p.session) and p.flags == 0 and p.verdict == PASS
            went.append((p.slot, p.data[:p.length]))

    def verdicts(self):
        """How many came to each end."""
        return [self.w.verdicts[i] for i in range(<int>VERDICTS)]

    def cells(self):
        """(in use, ever used)"""
        return self.w.waits_out, self.w.waits_used
