"""The order stage by itself, for tests: a worker that does nothing else, and time is an argument."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from .cells cimport free_spent
from .order cimport order, order_due, order_rest
from .packet cimport DROP_NO_SESSION, DROP_SEQUENCE, PASS, Packet
from .table cimport Tables, config_of
from .worker cimport BATCH, CELL, WAITS, Wait, Worker


cdef class Order:
    cdef Tables tables
    cdef Worker* w
    cdef readonly int outdated          # of what went on: packets whose configuration is not the one in force

    def __init__(self, Tables tables, uint32_t window, uint64_t window_ns):
        self.tables, self.w = tables, <Worker*>calloc(1, sizeof(Worker))
        self.w.waits, self.w.wait_cells = <Wait*>calloc(WAITS, sizeof(Wait)), <uint8_t*>malloc(<size_t>WAITS * CELL)
        if self.w.waits == NULL or self.w.wait_cells == NULL:
            raise MemoryError()
        self.w.table, self.w.window, self.w.window_ns = &tables.table, window, window_ns

    def __dealloc__(self):
        free(self.w.waits)
        free(self.w.wait_cells)
        free(self.w)

    def push(self, list packets, uint64_t now_ns, then=None):
        """A batch of (slot, bits of its number, number, payload), each payload in memory of its own; (slot, payload) of what went on.
        `then` is called when their sessions have been found."""
        cdef Worker* w = self.w
        cdef Packet* p
        cdef bytes payload
        cdef list went = []
        cdef uint8_t* held[BATCH]
        assert len(packets) <= BATCH
        w.now_ns, w.count = now_ns, <int>len(packets)
        for i, (slot, bits, number, payload) in enumerate(packets):
            held[i] = <uint8_t*>malloc(len(payload) or 1)
            memcpy(held[i], <const char*>payload, len(payload))
            p = &w.batch[i]
            p.data, p.length, p.slot, p.session = held[i], <uint32_t>len(payload), slot, &w.table.sessions[<uint32_t>slot]
            p.config, p.verdict, p.sequence_bits, p.sequence = config_of(p.session), PASS, bits, number
        if then is not None:
            then()
        order(w)
        self._went(went)
        while w.late_at < w.late_count:
            w.count = 0
            order_rest(w)
            assert w.count > 0 or w.late_at == w.late_count
            self._went(went)
        free_spent(w)
        for i in range(len(packets)):
            free(held[i])
        return went

    def due(self, uint64_t now_ns):
        """What has waited long enough."""
        cdef list went = []
        self.w.now_ns = now_ns
        while True:
            self.w.count = 0
            order_due(self.w)
            if self.w.count == 0:
                break
            self._went(went)
        free_spent(self.w)
        return went

    cdef _went(self, list went):
        cdef Packet* p
        cdef int i
        for i in range(self.w.count):
            p = &self.w.batch[i]
            went.append((p.slot, p.data[:p.length]))
            self.outdated += p.config != config_of(p.session)
            p.session.acking = 0        # nobody pays here
        self.w.dues = 0
        self.w.owing = 0

    def dropped(self):
        """(late or twice, of a session that is gone)"""
        return self.w.verdicts[<int>DROP_SEQUENCE], self.w.verdicts[<int>DROP_NO_SESSION]

    def cells(self):
        """(in use, ever used)"""
        cdef uint32_t at = self.w.waits_free, free_ones = 0
        while at:
            free_ones += 1
            at = self.w.waits[at].next
        return self.w.waits_used - free_ones, self.w.waits_used
