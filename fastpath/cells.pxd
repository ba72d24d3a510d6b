"""The pool of cells for what waits: a frame each, with the packet that describes it.

    take_cell -> by_age -> ... -> forget -> free_spent, at the end of the pass in which it went on

A packet that waits less than the batch lasts may lie where it was received; what then still waits is copied (`settle_cell`).
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from .worker cimport CELL, WAITS, Ages, Wait, Worker


cdef inline uint32_t take_cell(Worker* w) noexcept nogil:
    """A cell, or 0: none is free."""
    cdef uint32_t at
    if w.waits_free:
        at = w.waits_free
        w.waits_free = w.waits[at].next
    elif w.waits_used < WAITS - 1:
        w.waits_used += 1
        at = w.waits_used
    else:
        return 0
    w.waits_out += 1
    return at


cdef inline void settle_cell(Worker* w, uint32_t at) noexcept nogil:
    """Copy what waits into its cell, whose size its length does not exceed."""
    cdef Wait* c = &w.waits[at]
    memcpy(w.wait_cells + <size_t>at * CELL, c.packet.data, c.packet.length)
    c.packet.data = w.wait_cells + <size_t>at * CELL


cdef inline void by_age(Worker* w, Ages* a, uint32_t at) noexcept nogil:
    """It is the newest of those that wait."""
    cdef Wait* c = &w.waits[at]
    c.since = w.now_ns
    c.older, c.newer = a.newest, 0
    if a.newest:
        w.waits[a.newest].newer = at
    else:
        a.oldest = at
    a.newest = at


cdef inline void forget(Worker* w, Ages* a, uint32_t at) noexcept nogil:
    """Take a cell out of the list by age; it is used again when nothing refers to its octets any more."""
    cdef Wait* c = &w.waits[at]
    if c.older:
        w.waits[c.older].newer = c.newer
    else:
        a.oldest = c.newer
    if c.newer:
        w.waits[c.newer].older = c.older
    else:
        a.newest = c.older
    c.next = w.spent
    w.spent = at


cdef inline void free_spent(Worker* w) noexcept nogil:
    """Nothing refers any more to what went on."""
    cdef uint32_t at
    while w.spent:
        at = w.spent
        w.spent = w.waits[at].next
        w.waits[at].next = w.waits_free
        w.waits_free = at
        w.waits_out -= 1
