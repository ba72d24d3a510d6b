"""Enhanced GRE, the data channel of PPTP (RFC 2637 section 4.1).

     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    |C|R|K|S|s|Recur|A| Flags | Ver |         Protocol 0x880B       |
    |        Payload length         |            Call ID            |
    |                 Sequence number (if S)                        |
    |              Acknowledgment number (if A)                     |

S goes with a payload and with nothing else; a header with A and no payload is an acknowledgment alone.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .bytes cimport load16, load32, store16, store32
from .packet cimport DROP_LENGTH, DROP_SHORT, DROP_VERSION

cdef enum:
    GRE_S = 0x1000
    GRE_A = 0x0080
    GRE_BASE = 0x2001         # K and version 1, which are always there; all other bits are 0
    GRE_PPP = 0x880B
    GRE_LONGEST = 16

cdef struct Gre:
    uint16_t flags
    uint16_t call             # the receiver's id of the call
    uint16_t length           # octets of the payload; what lies behind it is padding
    uint32_t sequence
    uint32_t acknowledged


cdef inline int pull_gre(const uint8_t* p, size_t n, Gre* h) noexcept nogil:
    """Read the header at p; return the octets in front of the payload, or the negated verdict. Budget: 3 ns."""
    cdef size_t at = 8
    if n < 8:
        return -<int>DROP_SHORT
    h.flags = load16(p)
    if h.flags & ~(GRE_S | GRE_A) & 0xFFFF != GRE_BASE or load16(p + 2) != GRE_PPP:
        return -<int>DROP_VERSION
    h.length = load16(p + 4)
    h.call = load16(p + 6)
    h.sequence = h.acknowledged = 0
    if h.flags & GRE_S == 0 and h.length:
        return -<int>DROP_VERSION
    if n < at + (4 if h.flags & GRE_S else 0) + (4 if h.flags & GRE_A else 0):
        return -<int>DROP_SHORT
    if h.flags & GRE_S:
        h.sequence = load32(p + at)
        at += 4
    if h.flags & GRE_A:
        h.acknowledged = load32(p + at)
        at += 4
    if h.length > n - at:
        return -<int>DROP_LENGTH
    return <int>at


cdef inline int push_gre(uint8_t* p, const Gre* h) noexcept nogil:
    """Write a header of at most GRE_LONGEST octets at p; return its length."""
    cdef int at = 8
    store16(p, h.flags)
    store16(p + 2, GRE_PPP)
    store16(p + 4, h.length)
    store16(p + 6, h.call)
    if h.flags & GRE_S:
        store32(p + at, h.sequence)
        at += 4
    if h.flags & GRE_A:
        store32(p + at, h.acknowledged)
        at += 4
    return at
