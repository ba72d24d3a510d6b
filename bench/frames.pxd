"""Frames past the kernel's output: the way out for GRE, and in rings that the kernel shares (packet(7), TPACKET_V2) the way in for what
is Ethernet's alone. (A ring is a dearer way out than sendmmsg.) As offload.pxd, it shares no line with the fast path.

    | Ethernet | IPv4, of GRE | framing | inner packet |    the first two are a template, whose numbers are patched
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..fastpath.bytes cimport store16
from ..fastpath.packetring cimport TP_STATUS_KERNEL, TP_STATUS_USER, tpacket2_hdr
from ..fastpath.sys cimport load_acquire32, store_release32
from .offload cimport put_sum, sum_header

cdef enum:
    FRAME = 2048            # octets of a slot
    FRAMES = 2048
    ETHERNET = 14
    IPV4 = 20
    LINK = ETHERNET + IPV4

cdef struct Outlet:
    bint framed             # there is one; else packets leave by the socket that they come by
    int fd                  # a packet socket that is bound to its interface
    uint8_t head[LINK]
    uint64_t sum            # of the IPv4 header, but for length and id
    uint16_t id


cdef struct Inlet:
    uint8_t* slots
    uint32_t next


cdef inline void put_ip(uint8_t* ip, uint64_t sum, int n, uint16_t id) noexcept nogil:
    """Length, id and checksum of a header that has none of them yet; `sum` is of the rest of it."""
    store16(ip + 2, <uint16_t>n)
    store16(ip + 4, id)
    put_sum(ip + 10, sum_header(sum, ip + 2, 4))


cdef inline uint8_t* push_link(Outlet* o, uint8_t* at, int n) noexcept nogil:
    """The link header of n octets of GRE, in front of them."""
    memcpy(at - LINK, o.head, LINK)
    put_ip(at - IPV4, o.sum, IPV4 + n, o.id)
    o.id += 1
    return at - LINK


cdef inline tpacket2_hdr* arrived(const Inlet* i, uint32_t ahead) noexcept nogil:
    """The frame that came so many behind the next, or NULL."""
    cdef tpacket2_hdr* h = <tpacket2_hdr*>(i.slots + <size_t>((i.next + ahead) % FRAMES) * FRAME)
    return h if load_acquire32(&h.tp_status) & TP_STATUS_USER else NULL


cdef inline void give_back(Inlet* i, uint32_t n) noexcept nogil:
    """The next n are read."""
    cdef uint32_t k
    for k in range(n):
        store_release32(&(<tpacket2_hdr*>(i.slots + <size_t>i.next * FRAME)).tp_status, TP_STATUS_KERNEL)
        i.next = (i.next + 1) % FRAMES
