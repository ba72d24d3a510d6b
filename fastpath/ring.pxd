"""A ring between two workers: one producer, one consumer, no lock.

A slot of the ring describes a packet; the octets stay in the producer's buffer, which carries a
count of the packets that others still hold. The consumer decrements it with release; the producer
takes the buffer again only when it reads 0 with acquire. That is why no second ring brings them back.
"""
from libc.stdint cimport uint8_t, uint32_t

from .packet cimport Packet
from .sys cimport add_relaxed32, load_acquire32, store_release32, sub_release32
from .table cimport Session
from .worker cimport Worker

cdef enum:
    RING = 2048               # descriptors, a power of two

cdef enum Way:                # where a packet that was handed over goes on
    WAY_UP = 0                # received for a session: from order
    WAY_DOWN = 1              # read for a session: from encap
    WAY_JOIN = 2              # received by a link for its bundle: from join
    WAY_LINK = 3              # sent by a bundle: to the link's encapsulation
    WAYS = 4

cdef struct Handed:
    Packet packet
    uint32_t* refs            # of the buffer that holds it
    uint32_t generation
    uint8_t way

cdef struct Ring:
    uint32_t head             # next to read: consumer's
    uint8_t pad0[60]
    uint32_t tail             # next to write: producer's
    uint32_t seen             # the producer's last sight of head
    uint8_t pad1[56]
    Handed slots[RING]


cdef inline bint ring_put(Ring* r, const Packet* p, uint32_t* refs, uint32_t generation, uint8_t way) noexcept nogil:
    """Hand a packet over; False when the ring is full. The caller has counted it in refs."""
    cdef Handed* h
    if r.tail - r.seen >= RING:
        r.seen = load_acquire32(&r.head)
        if r.tail - r.seen >= RING:
            return False
    h = &r.slots[r.tail & (RING - 1)]
    h.packet = p[0]
    h.refs = refs
    h.generation = generation
    h.way = way
    store_release32(&r.tail, r.tail + 1)
    return True


cdef inline Handed* ring_peek(Ring* r, uint32_t ahead) noexcept nogil:
    """The packet `ahead` places behind the oldest, or NULL."""
    if load_acquire32(&r.tail) - r.head <= ahead:
        return NULL
    return &r.slots[(r.head + ahead) & (RING - 1)]


cdef inline void ring_drop(Ring* r, uint32_t n) noexcept nogil:
    """Give n places back."""
    store_release32(&r.head, r.head + n)


cdef inline bint lend(Worker* w, const Packet* p, uint32_t* refs, Session* s, uint8_t way) noexcept nogil:
    """Hand a packet to the worker that owns its session, and lend the buffer. False: the ring is full, or there is no such worker."""
    if s.owner >= w.workers:
        return False
    add_relaxed32(refs, 1)          # before the other can see it: it may be done with it at once
    if not ring_put(<Ring*>w.others[s.owner].rings[w.index], p, refs, s.generation, way):
        sub_release32(refs, 1)
        return False
    w.woken |= 1 << s.owner
    w.record.ring_out += 1
    return True
