"""Frames in rings that the kernel shares (packet(7), TPACKET_V2), past its output: the way out for GRE,
and the way in for what is Ethernet's alone. (A ring is no cheaper way out for the latter: sendmmsg takes two thirds of its time.) As offload.pxd, it shares no line with the fast path.

    | Ethernet | IPv4, of GRE | framing | inner packet |    a slot; the first three are one template, whose numbers are patched
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..fastpath.bytes cimport store16, store32
from ..fastpath.packetring cimport (
    TP_STATUS_AVAILABLE, TP_STATUS_KERNEL, TP_STATUS_SEND_REQUEST, TP_STATUS_USER, TX_DATA, tpacket2_hdr,
)
from ..fastpath.sys cimport MSG_DONTWAIT, load_acquire32, store_release32
from .framing cimport ROOM, Framing
from .offload cimport put_sum, sum_header

cdef extern from "<sys/socket.h>" nogil:
    ssize_t sendto(int, const void*, size_t, int, const void*, uint32_t)

cdef enum:
    FRAME = 2048            # octets of a slot
    FRAMES = 2048
    HEAD = 64               # room for a template
    ETHERNET = 14
    IPV4 = 20
    LINK = ETHERNET + IPV4  # the longest

cdef struct Outlet:
    int fd                  # a packet socket that is bound to its interface
    uint8_t* slots
    uint32_t next, marked
    uint8_t head[HEAD]
    int link                # octets in front of the framing
    int size                # of the template
    int length_at, sequence_at
    uint64_t sum            # of the IPv4 header, but for length and id
    uint16_t id


cdef struct Inlet:
    uint8_t* slots
    uint32_t next


cdef inline void put_head(Outlet* o, const Framing* f) noexcept nogil:
    """The template, when `link` octets of it stand there."""
    memcpy(o.head + o.link, f.template + ROOM - f.size, f.size)
    o.size = o.link + f.size
    o.length_at = o.size - ROOM + f.length_at
    o.sequence_at = o.size - ROOM + f.sequence_at if f.sequence_at else 0
    o.sum = sum_header(0, o.head + ETHERNET, IPV4) if o.link == LINK else 0


cdef inline uint8_t* slot(Outlet* o) noexcept nogil:
    """Of the next frame, or NULL while the kernel has it."""
    cdef uint8_t* at = o.slots + <size_t>o.next * FRAME
    return at + TX_DATA if load_acquire32(&(<tpacket2_hdr*>at).tp_status) == TP_STATUS_AVAILABLE else NULL


cdef inline void put_ip(uint8_t* ip, uint64_t sum, int n, uint16_t id) noexcept nogil:
    """Length, id and checksum of a header that has none of them yet; `sum` is of the rest of it."""
    store16(ip + 2, <uint16_t>n)
    store16(ip + 4, id)
    put_sum(ip + 10, sum_header(sum, ip + 2, 4))


cdef inline uint8_t* push_head(Outlet* o, Framing* f, uint8_t* at, int n) noexcept nogil:
    """The headers of n octets of IP into a slot; where these begin."""
    memcpy(at, o.head, HEAD)
    if o.link == LINK:
        put_ip(at + ETHERNET, o.sum, o.size - ETHERNET + n, o.id)
        o.id += 1
    store16(at + o.length_at, <uint16_t>(n + f.counted))
    if o.sequence_at:
        store32(at + o.sequence_at, f.sequence)
        f.sequence += 1
    return at + o.size


cdef inline void mark(Outlet* o, int n) noexcept nogil:
    """The slot is full, when n octets of IP are behind its headers."""
    cdef tpacket2_hdr* h = <tpacket2_hdr*>(o.slots + <size_t>o.next * FRAME)
    h.tp_len = o.size + n
    store_release32(&h.tp_status, TP_STATUS_SEND_REQUEST)
    o.next = (o.next + 1) % FRAMES
    o.marked += 1


cdef inline bint kick(Outlet* o) noexcept nogil:
    """Send what is marked; False: the device did not take all of it yet."""
    o.marked = 0
    return sendto(o.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0


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
