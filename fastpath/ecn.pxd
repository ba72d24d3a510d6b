"""Explicit congestion notification through a tunnel (RFC 6040).

Going in, the inner field is copied outward (section 4.1, normal mode). Coming out, section 4.2:

                     outer   Not-ECT   ECT(0)    ECT(1)    CE
    inner  Not-ECT           Not-ECT   Not-ECT   Not-ECT   drop
           ECT(0)            ECT(0)    ECT(0)    ECT(1)    CE
           ECT(1)            ECT(1)    ECT(1)    ECT(1)    CE
           CE                CE        CE        CE        CE
"""
from libc.stdint cimport uint8_t, uint16_t

from .checksum cimport change_sum, word16
from .ip cimport IP4_SUM
from .packet cimport FLAG_V6, Packet

cdef enum:
    NOT_ECT = 0
    ECT1 = 1
    ECT0 = 2
    CE = 3


cdef inline bint ecn_decap(Packet* p, uint8_t outer_tos) noexcept nogil:
    """Bring the outer field into the inner packet, whose headers were read; False: drop it. Budget: 1 ns without congestion."""
    cdef uint8_t* ip = p.data
    cdef uint8_t outer = outer_tos & 3, shift = 4 if p.flags & FLAG_V6 else 0
    cdef uint8_t inner
    cdef uint16_t old
    if outer == NOT_ECT or outer == ECT0:
        return True
    inner = ip[1] >> shift & 3
    if inner == NOT_ECT:
        return outer != CE
    if inner == CE or inner == outer:
        return True
    old = word16(ip)
    ip[1] = <uint8_t>(ip[1] & ~(3 << shift) | outer << shift)
    if not shift:
        change_sum(ip + IP4_SUM, old, word16(ip))
    return True
