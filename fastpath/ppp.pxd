"""PPP's header in a tunnel: address and control, protocol (RFC 1661 section 2, RFC 1662 section 3.1).

    | FF 03 | may be left out (ACFC) |  protocol, 2 octets, or 1 when it is odd and below 256 (PFC) |
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t

from .bytes cimport load16

cdef enum:
    PPP_IP = 0x0021
    PPP_BRIDGED = 0x0031      # Ethernet (RFC 3518)
    PPP_MP = 0x003D           # a fragment (RFC 1990)
    PPP_IPV6 = 0x0057
    PPP_COMP = 0x00FD         # compressed or, here, encrypted (RFC 1962, RFC 3078)
    PPP_LCP = 0xC021
    LCP_ECHO_REQUEST = 9      # RFC 1661 section 5.8
    LCP_ECHO_REPLY = 10
    LCP_DISCARD = 11


cdef inline int pull_ppp(const uint8_t* p, size_t n, uint16_t* protocol) noexcept nogil:
    """Read the header at p in any mix of compressions; return its length, or -1."""
    cdef int at = 0
    if n >= 2 and p[0] == 0xFF and p[1] == 0x03:
        at = 2
    if n < <size_t>at + 1:
        return -1
    if p[at] & 1:
        protocol[0] = p[at]
        return at + 1
    if n < <size_t>at + 2:
        return -1
    protocol[0] = load16(p + at)
    return at + 2


cdef inline int pull_encrypted(const uint8_t* p, size_t n, uint16_t* protocol) noexcept nogil:
    """Read the protocol field that MPPE hid; return its length, or 0 when it is not that of an IP packet, and an IP packet of that
    version does not follow, nor that of an Ethernet frame with a header that may be: nothing else is sent encrypted, and no other sum
    tells that a key was wrong."""
    cdef int at = 1 if n and p[0] & 1 else 2
    if n < <size_t>at + 1:
        return 0
    protocol[0] = p[0] if at == 1 else load16(p)
    if protocol[0] == PPP_IP and p[at] >> 4 == 4 or protocol[0] == PPP_IPV6 and p[at] >> 4 == 6:
        return at
    if protocol[0] == PPP_BRIDGED and n >= <size_t>at + 2 and p[at] & 0x50 == 0 and p[at + 1] == 1:      # see bridge.pxd
        return at
    return 0
