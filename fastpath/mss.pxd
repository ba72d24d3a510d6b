"""The TCP maximum segment size option, lowered to what fits the tunnel (RFC 793 section 3.1, RFC 6691).

    |    Kind 2     |   Length 4    |      Maximum segment size     |
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .bytes cimport load16, store16
from .checksum cimport change_sum, word16
from .ip cimport IP6_HEADER, IP4_HEADER, IPPROTO_TCP, TCP_FLAGS, TCP_HEADER, TCP_OFFSET, TCP_SUM, TCP_SYN
from .packet cimport FLAG_CSUM, FLAG_FRAGMENT, FLAG_V6, Packet

cdef enum:
    OPTION_END = 0
    OPTION_NOP = 1
    OPTION_MSS = 2


cdef inline void clamp_mss(Packet* p, uint16_t mss) noexcept nogil:
    """Lower the MSS that a SYN offers to mss (what fits over IPv4; over IPv6 its longer header comes off). Headers were read.

    Budget: 2 ns for what is no SYN.
    """
    cdef uint8_t* tcp = p.data + p.ip_length
    cdef uint32_t n = p.length - p.ip_length
    if p.transport != IPPROTO_TCP or p.flags & FLAG_FRAGMENT or n < TCP_HEADER or not tcp[TCP_FLAGS] & TCP_SYN:
        return
    if p.flags & FLAG_V6:
        if mss <= IP6_HEADER - IP4_HEADER:
            return
        mss -= IP6_HEADER - IP4_HEADER
    lower_mss(tcp, n, mss, p.flags & FLAG_CSUM)


cdef inline void lower_mss(uint8_t* tcp, uint32_t n, uint16_t mss, bint unsummed) noexcept nogil:
    """Walk the options of the SYN at tcp, n >= TCP_HEADER octets of it."""
    cdef uint32_t at = TCP_HEADER, end = (tcp[TCP_OFFSET] >> 4) << 2
    cdef uint16_t old, new
    if end > n:
        return
    while at < end and tcp[at] != OPTION_END:
        if tcp[at] == OPTION_NOP:
            at += 1
            continue
        if at + 2 > end or tcp[at + 1] < 2 or at + tcp[at + 1] > end:
            return
        if tcp[at] == OPTION_MSS and tcp[at + 1] == 4:
            if load16(tcp + at + 2) > mss:
                old = word16(tcp + at + 2)
                store16(tcp + at + 2, mss)
                new = word16(tcp + at + 2)
                # A checksum still to be computed holds the pseudo-header only, in which the options have no part.
                if not unsummed:
                    if at & 1:          # the option lies across two words of the sum
                        old = <uint16_t>(old << 8 | old >> 8)
                        new = <uint16_t>(new << 8 | new >> 8)
                    change_sum(tcp + TCP_SUM, old, new)
        at += tcp[at + 1]
