"""PPPoE behind Ethernet (RFC 2516 section 4) and up to two VLAN tags (IEEE 802.1Q).

     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    |  VER  | TYPE  |      CODE     |          SESSION_ID           |
    |            LENGTH             |           payload             ~

Who sent a frame is a *station*, 16 octets that no IP address is, so that paths and their comparison serve Ethernet too:

    FF FF | TPID, VLAN id of the outer tag | ... of the inner tag | MAC
      2   |        2 + 2                   |        2 + 2         |  6

A tag that is not there is zero, and so is a priority tag (VLAN id 0). What is in front of the MAC names the network.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .bytes cimport load16, store16
from .packet cimport DROP_LENGTH, DROP_SHORT, DROP_VERSION

cdef enum:
    ETHERTYPE_DISCOVERY = 0x8863
    ETHERTYPE_SESSION = 0x8864
    C_TAG = 0x8100
    S_TAG = 0x88A8
    MAC = 6
    STATION = 16
    NETWORK = 10              # octets of a station in front of its MAC
    ETHERNET = 14             # octets of an Ethernet header without tags
    PPPOE = 6                 # octets of PPPoE's
    VERSION_TYPE = 0x11

cdef struct Pppoe:
    uint16_t ethertype
    uint16_t session
    uint8_t code
    uint8_t station[STATION]  # who sent it
    uint32_t length           # octets of the frame up to the end of the payload, Ethernet's padding left out


cdef inline bint is_tag(uint16_t ethertype) noexcept nogil:
    return ethertype == C_TAG or ethertype == S_TAG


cdef inline uint8_t* put_tag(uint8_t* at, uint16_t tpid, uint16_t tci) noexcept nogil:
    """Write a tag into a station; one that names no VLAN takes no place. Return where the next one goes."""
    if tci & 0xFFF == 0:
        return at
    store16(at, tpid)
    store16(at + 2, tci & 0xFFF)
    return at + 4


cdef inline int pull_pppoe(const uint8_t* p, size_t n, uint16_t tpid, uint16_t tci, Pppoe* h) noexcept nogil:
    """Read the frame at p, whose outer tag the ring took off (tpid 0: there was none). Return the octets in front of PPPoE's
    payload, the negated verdict, or 0 for a frame that is not PPPoE's.

    Budget: 6 ns."""
    cdef size_t at = ETHERNET - 2
    cdef int tags = 0
    cdef uint8_t* tag = h.station + 2
    if n < ETHERNET:
        return -<int>DROP_SHORT
    h.station[0] = h.station[1] = 0xFF
    memset(tag, 0, 8)
    memcpy(h.station + NETWORK, p + MAC, MAC)
    if tpid:
        tag = put_tag(tag, tpid, tci)
        tags = 1
    h.ethertype = load16(p + at)
    while is_tag(h.ethertype):
        tags += 1
        if tags > 2:
            return 0
        if n < at + 6:
            return -<int>DROP_SHORT
        tag = put_tag(tag, h.ethertype, load16(p + at + 2))
        at += 4
        h.ethertype = load16(p + at)
    at += 2
    if h.ethertype != ETHERTYPE_SESSION and h.ethertype != ETHERTYPE_DISCOVERY:
        return 0
    if n < at + PPPOE:
        return -<int>DROP_SHORT
    if p[at] != VERSION_TYPE:
        return -<int>DROP_VERSION
    h.code = p[at + 1]
    h.session = load16(p + at + 2)
    h.length = <uint32_t>(at + PPPOE + load16(p + at + 4))
    if h.length > n:
        return -<int>DROP_LENGTH
    return <int>(at + PPPOE)


cdef inline size_t push_ethernet(uint8_t* p, const uint8_t* to, const uint8_t* station, uint16_t ethertype) noexcept nogil:
    """Write an Ethernet header with the tags of `to`, a station; return its octets, at most 22."""
    cdef size_t at = 2 * MAC
    cdef int i
    memcpy(p, to + NETWORK, MAC)
    memcpy(p + MAC, station + NETWORK, MAC)
    for i in range(2):
        if to[2 + 4 * i] or to[3 + 4 * i]:
            memcpy(p + at, to + 2 + 4 * i, 4)
            at += 4
    store16(p + at, ethertype)
    return at + 2


cdef inline void push_pppoe(uint8_t* p, uint8_t code, uint16_t session, uint16_t length) noexcept nogil:
    """Write the 6 octets in front of a payload of `length`."""
    p[0] = VERSION_TYPE
    p[1] = code
    store16(p + 2, session)
    store16(p + 4, length)
