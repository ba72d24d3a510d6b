"""Join: the fragments of a bundle become packets (RFC 1990 section 4).

    whole and the next one        goes on where it lies
    anything else                 waits in the window, by its number, until
        the packet is complete    B ... E without a gap, and nothing before it is waited for: put together, goes on
        a part of it is lost      what is missing is not after the smallest of the last numbers of all links, or too far behind the
                                  newest, or came not in time: its packet is dropped

Fragments of a packet that come in one batch are copied once, into the packet; only what still waits at the batch's end goes into cells.
Each number is looked at once when it comes and once when it leaves, whatever a peer sends.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memset

from .bundle cimport Bundle
from .packet cimport Packet
from .worker cimport Worker

cdef enum Gone:
    NOT_THE_BUNDLES = 0       # it stays the link's
    GOES_ON = 1               # as the bundle's, in this batch
    ENDED = 2                 # handed over, or dropped


cdef inline void wait_anew(Bundle* b) noexcept nogil:
    """What waited is gone: its worker died."""
    b.scan, b.gathered, b.waits = b.next, 0, 0
    memset(b.window, 0, sizeof(b.window))


cdef Gone to_bundle(Worker* w, Packet* p) noexcept nogil
cdef void join(Worker* w) noexcept nogil
cdef void join_rest(Worker* w) noexcept nogil
cdef void join_due(Worker* w) noexcept nogil
