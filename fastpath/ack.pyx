"""GRE acknowledgments without payload."""
from libc.stdint cimport uint8_t, uint32_t

from .bytes cimport load16
from .gre cimport GRE_A, GRE_BASE, Gre, push_gre
from .port cimport full, push, scratch, transmit
from .sys cimport load_acquire8, store_release8
from .table cimport FREE, RETIRED, Session, config_of
from .worker cimport Out, Worker


cdef void acknowledge(Worker* w, Session* s) noexcept nogil:
    """Send one, unless data did it in the meantime."""
    cdef Out* out = w.out
    cdef Gre h
    cdef uint8_t* p
    if s.rx_acked == s.rx_next:
        return
    if full(out):
        transmit(w)
    s.rx_acked = s.rx_next
    h.flags, h.length, h.call, h.acknowledged = GRE_BASE | GRE_A, 0, load16(config_of(s).template + 6), s.rx_next - 1
    p = scratch(out)
    push(out, &s.path, s, 0, 0, p, push_gre(p, &h), NULL, 0)


cdef void pay_due(Worker* w) noexcept nogil:
    """The end of a batch: sessions with many packets to acknowledge."""
    cdef int i
    cdef Session* s
    for i in range(w.dues):
        s = &w.table.sessions[w.due[i]]
        s.acking = ACK_OWED
        acknowledge(w, s)
    w.dues = 0


cdef void pay_all(Worker* w) noexcept nogil:
    """A tick: all that is owed. Budget: 60 ns a session."""
    cdef uint32_t slot = w.owing
    cdef Session* s
    w.owing = 0
    while slot:
        w.slot = slot
        s = &w.table.sessions[slot]
        slot = s.ack_next
        if load_acquire8(&s.state) not in (FREE, RETIRED):
            acknowledge(w, s)
        store_release8(&s.acking, ACK_NONE)          # from here on control may use the slot again
    w.slot = 0
