"""PPPoE discovery in a worker: its limits, and answers that wait. What is answered is in offer.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .pppoe cimport Pppoe
from .service cimport PORTS, Services
from .table cimport Path
from .worker cimport Listener, Worker

cdef enum:
    ASKERS = 4096             # buckets for stations, by hash: who shares one shares its rate
    ASKER_BURST = 40          # ticks of a station's rate that it may use at once,
    PORT_BURST = 20           # and of an interface's, and of all: when the power is back, all ask
    PADI_TOKENS = 10          # what one PADI costs; a rate a second is that of a tick then
    TELL_A_TICK = 100         # PADTs to who sends data of a session that is none
    WAITING = 1024            # PADOs that wait; when there are more the PADI is DROP_PADI
    ANSWERS = 64              # PADOs of one flush
    ANSWER = 1536             # octets of a frame

cdef struct Asker:
    uint32_t tick             # when its tokens were counted
    uint16_t tokens
    uint16_t pad

cdef struct Waiting:
    uint64_t due_ns
    uint16_t length
    uint8_t port
    uint8_t frame[ANSWER]

cdef struct Discovery:
    Asker askers[ASKERS]      # who sends PADIs,
    Asker takers[ASKERS]      # and PADRs
    uint32_t port_tokens[PORTS]
    uint32_t all_tokens
    uint32_t tell_tokens
    uint32_t tick             # when these were counted
    uint32_t answers          # that are queued for this flush
    uint16_t learned          # one more than the number of the offer whose MACs the listeners have
    int waiting               # how many in `order`, which begins with the next one
    uint16_t order[WAITING]
    uint16_t free[WAITING]    # places of `places` that hold none
    Waiting places[WAITING]
    uint8_t answer[ANSWERS][ANSWER]


cdef void prepare_discovery(Discovery* d) noexcept nogil
cdef void learn_macs(Worker* w) noexcept nogil
cdef void discover(Worker* w, Listener* l, const uint8_t* frame, int at, const Pppoe* h, const Path* path) noexcept nogil
cdef void answer_waiting(Worker* w) noexcept nogil
cdef void tell(Worker* w, Listener* l, const Pppoe* h) noexcept nogil
