"""Keepalive: the wheel, LCP echoes sent and answered (RFC 1661 section 5.8)."""
from libc.stdint cimport int32_t, uint32_t

from .packet cimport Packet
from .table cimport Session
from .worker cimport WHEEL, Worker

cdef void rearm_all(Worker* w) noexcept nogil
cdef void turn(Worker* w) noexcept nogil
cdef bint answer_echo(Worker* w, Packet* p) noexcept nogil


cdef inline void arm(Worker* w, uint32_t slot, Session* s, uint32_t due) noexcept nogil:
    """Put a session into the wheel, if it is in none of its lists."""
    cdef uint32_t wait = due - w.wheel_tick
    cdef uint32_t* head
    if s.armed:
        return
    if <int32_t>wait < 1:
        wait = 1
    if wait > WHEEL - 1:
        wait = WHEEL - 1
    head = &w.wheel[(w.wheel_tick + wait) % WHEEL]
    s.next = head[0]
    s.due = due
    s.armed = 1
    head[0] = slot
