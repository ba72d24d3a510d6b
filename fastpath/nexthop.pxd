"""PPTP's data as frames of our own, past the kernel's output: Ethernet and IPv4 in front of GRE, in a packet ring.

Control resolves where a peer is reached: interface, path MTU and link header stand in a `NextHop` that the session names, and change
when routes or neighbours do. A datagram goes by the raw socket instead while its next hop is not known, when it is too long for the
path, while control is away and so nobody follows changes, and when the supervisor found that the kernel's output must not be passed
by (Header.bypass). DF is clear, so that a narrow link behind the next hop fragments.
"""
from libc.stdint cimport uint32_t

from .sys cimport load_acquire32
from .table cimport Session
from .worker cimport Out, Segment, Worker


cdef inline bint has_hop(const Segment* s) noexcept nogil:
    return s.session != NULL and load_acquire32(&s.session.nexthop) != 0


cdef int transmit_framed(Worker* w, Out* out, int first) noexcept nogil
cdef void flush_frames(Worker* w) noexcept nogil
