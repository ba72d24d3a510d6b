"""The headers that the benchmarks put in front of an IPv4 packet: the null tunnel's, and L2TP's.

null   16 octets, fixed: |0x4002|length|1|session|    sequence     |0xff03|0x0021|
L2TP   a data message (RFC 2661 section 3.1) with or without its length, and PPP's FF03 0021 (RFC 1661)

Both are a template of at most 16 octets that ends where the inner packet begins.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ..fastpath.bytes cimport load16, store16, store32

cdef enum:
    ROOM = 16               # a header ends here, and may begin later
    FRAMING_NULL = 0
    FRAMING_L2TP = 1
    FRAMING_BARE = 2        # no outer header: an inner socket, or a TUN
    PUNT = -1
    BAD = 0

cdef struct Framing:
    int kind
    int size                # of the header
    int length_at           # in the template, or 0
    uint8_t template[16]
    uint16_t tunnel         # what the peer must put into the packets that it sends us; 0: any
    uint16_t session
    uint32_t sequence


cdef inline void frame_null(Framing* f, uint16_t session) noexcept nogil:
    memset(f, 0, sizeof(Framing))
    f.kind = FRAMING_NULL
    f.size = 16
    f.length_at = 2
    store16(f.template, 0x4002)
    store16(f.template + 4, 1)
    store16(f.template + 6, session)
    store16(f.template + 12, 0xff03)
    store16(f.template + 14, 0x0021)


cdef inline void frame_l2tp(Framing* f, bint length, uint16_t tunnel, uint16_t session) noexcept nogil:
    """Ids are the receiver's (RFC 2661 section 3.1)."""
    memset(f, 0, sizeof(Framing))
    f.kind = FRAMING_L2TP
    f.size = 12 if length else 10
    cdef uint8_t* p = f.template + ROOM - f.size
    store16(p, 0x4002 if length else 0x0002)
    if length:
        f.length_at = ROOM - f.size + 2
        p += 2
    store16(p + 2, tunnel)
    store16(p + 4, session)
    store16(p + 6, 0xff03)
    store16(p + 8, 0x0021)


cdef inline void push_frame(Framing* f, uint8_t* room, int n) noexcept nogil:
    """The header for n octets of IP into the ROOM octets before them."""
    memcpy(room, f.template, ROOM)
    if f.length_at:
        # L2TP's length counts PPP, the null tunnel's all there is: the same number
        store16(room + f.length_at, <uint16_t>(n + f.size))
    if f.kind == FRAMING_NULL:
        store32(room + 8, f.sequence)
        f.sequence += 1


cdef inline int pull_frame(const Framing* f, const uint8_t* p, int* n) noexcept nogil:
    """The offset of the IP packet in the *n octets at p (and *n becomes its length), PUNT for what is not
    this session's IP, or BAD."""
    cdef int at, flags, offset
    if f.kind == FRAMING_NULL:
        if n[0] < 36 or p[0] != 0x40:
            return BAD
        n[0] -= 16
        return 16
    if n[0] < 6:
        return BAD
    flags = load16(p)
    if flags & 0x000f != 2:
        return BAD
    if flags & 0x8000:
        return PUNT
    at = 2
    if flags & 0x4000:
        if load16(p + 2) > n[0]:
            return BAD
        n[0] = load16(p + 2)
        at = 4
    if n[0] < at + 4:
        return BAD
    if (f.tunnel and load16(p + at) != f.tunnel) or (f.session and load16(p + at + 2) != f.session):
        return BAD
    at += 4
    if flags & 0x0800:
        at += 4
    if flags & 0x0200:
        if n[0] < at + 2:
            return BAD
        offset = load16(p + at)
        at += 2 + offset
    if n[0] >= at + 2 and p[at] == 0xff and p[at + 1] == 0x03:
        at += 2
    if n[0] < at + 2:
        return BAD
    if p[at] == 0x21:                               # PFC (RFC 1661 section 6.5)
        at += 1
    elif p[at] == 0 and p[at + 1] == 0x21:
        at += 2
    else:
        return PUNT
    if n[0] < at + 20:
        return BAD
    n[0] -= at
    return at
