"""Ethernet frames in PPP (RFC 3518 section 4.2), and the TAPs that they come from and go to.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    |F|I|Z|B| Pads  |  MAC type, 1  |   destination, source, EtherType or length, tag, data ...
    |   the frame's FCS, if F       |   so many octets of no meaning as Pads says

F says that an FCS is there, Z that zeros were cut off a frame of less than 60 octets. I and B, an old LAN identifier and the mark of
bridges' control packets, are agreed on by options that BCP of ours rejects. What we send has none of them: no FCS, and zeros where they belong.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from .bytes cimport load16, load32
from .packet cimport DROP_BRIDGED, DROP_SHORT
from .worker cimport Worker

cdef enum:
    BRIDGED_F = 0x80
    BRIDGED_I = 0x40
    BRIDGED_Z = 0x20
    BRIDGED_B = 0x10
    BRIDGED_PADS = 0x0F
    BRIDGED_HEADER = 2        # octets
    MAC_ETHERNET = 1          # the MAC type
    ETHERNET_HEADER = 14
    ETHERNET_LEAST = 60       # octets of the smallest frame, without FCS
    ETHERTYPE_AT = 12
    TAG_8021Q = 0x8100
    TAG_8021AD = 0x88A8
    FCS = 4

cpdef enum BridgeFlag:
    BRIDGE_OPEN = 1           # BCP is open: Ethernet frames are user data
    BRIDGE_TAGGED = 2         # the peer takes frames with a tag
    BRIDGE_STP = 4            # spanning tree's frames pass, both ways

cdef struct Bridged:
    uint32_t length           # of the frame, without FCS
    uint32_t fill             # zeros that belong behind it
    bint fcs


cdef inline int pull_bridged(const uint8_t* p, size_t n, Bridged* b) noexcept nogil:
    """Read the header at p; return its length, or a negated verdict."""
    cdef size_t behind
    if n < BRIDGED_HEADER:
        return -<int>DROP_SHORT
    if p[0] & (BRIDGED_I | BRIDGED_B) or p[1] != MAC_ETHERNET:
        return -<int>DROP_BRIDGED
    b.fcs = p[0] & BRIDGED_F != 0
    behind = <size_t>(p[0] & BRIDGED_PADS) + (FCS if b.fcs else 0)
    if n < BRIDGED_HEADER + ETHERNET_HEADER + behind:
        return -<int>DROP_SHORT
    b.length = <uint32_t>(n - BRIDGED_HEADER - behind)
    b.fill = ETHERNET_LEAST - b.length if p[0] & BRIDGED_Z and b.length < ETHERNET_LEAST else 0
    return BRIDGED_HEADER


cdef inline bint is_stp(const uint8_t* frame) noexcept nogil:
    """Whether a frame goes to the bridges' group, 01:80:C2:00:00:00."""
    return load32(frame) == 0x0180C200U and load16(frame + 4) == 0


cdef inline bint is_tagged(const uint8_t* frame) noexcept nogil:
    return load16(frame + ETHERTYPE_AT) in (TAG_8021Q, TAG_8021AD)


cdef uint32_t frame_check(const uint8_t* frame, size_t n, size_t zeros) noexcept nogil
cdef void bridge_up(Worker* w) noexcept nogil
cdef bint bridge_down(Worker* w, uint32_t number) noexcept nogil
cdef void unplug_dead(Worker* w) noexcept nogil
cdef void unplug(Worker* w, uint32_t number) noexcept nogil
