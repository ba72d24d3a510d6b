"""The channel between a worker and control: one SEQPACKET message a frame, this header in front."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from .sys cimport load_acquire64
from .table cimport Path, Session
from .worker cimport PuntHeader, Worker

cpdef enum PuntKind:
    PUNT_L2TP = 1             # an L2TP control message, both ways
    PUNT_PPP = 2              # a PPP frame behind its protocol field, both ways
    PUNT_DEAD = 3             # up: a session's peer answers no echo
    PUNT_ARM = 4              # down: a session is open, start its keepalive
    PUNT_REKEY = 5            # down: the peer sent CCP's Reset-Request, flush the next encrypted packet
    PUNT_UNREADABLE = 6       # up: what the peer encrypts makes no sense to us
    PUNT_PPPOE = 7            # a PPPoE discovery packet behind its Ethernet header, both ways

cdef enum:
    STALE_NS = 2000000000     # control's heartbeat comes every 500 ms


cdef inline bint control_lives(Worker* w) noexcept nogil:
    """Whether control was heard of lately; signed, since its heartbeat may be younger than this pass."""
    return <int64_t>(w.now_ns - load_acquire64(&w.table.header.heartbeat)) <= STALE_NS


cdef void prepare_punts(Worker* w) noexcept nogil
cdef void punt_l2tp(Worker* w, const uint8_t* p, size_t n, const Path* path) noexcept nogil
cdef void punt_pppoe(Worker* w, const uint8_t* p, size_t n, const Path* path) noexcept nogil
cdef void punt_ppp(Worker* w, const uint8_t* p, size_t n, uint32_t slot, Session* s, uint16_t protocol) noexcept nogil
cdef void punt_session(Worker* w, PuntKind kind, uint32_t slot, Session* s) noexcept nogil
cdef void punt_out(Worker* w) noexcept nogil
cdef int punt_in(Worker* w) noexcept nogil
