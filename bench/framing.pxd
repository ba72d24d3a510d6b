"""The headers that the benchmarks put in front of an IPv4 packet: the null tunnel's, L2TP's, PPTP's, PPPoE's.

null   16 octets, fixed: |0x4002|length|1|session|    sequence     |0xff03|0x0021|
L2TP   a data message (RFC 2661 section 3.1) with or without its length, and PPP's FF03 0021 (RFC 1661); of an encrypted session as below
GRE    enhanced GRE (RFC 2637 section 4.1) with S and without A, and PPP's FF03 0021; of an encrypted session FF03 00FD,
       MPPE's header (RFC 3078 section 3), and 0021, which is encrypted already
PPPoE  of a session (RFC 2516 section 4), and 0021; Ethernet's header in front of it is a link's (frames.pxd)

Each is a template of at most ROOM octets that ends where the inner packet begins.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ..fastpath.bytes cimport load16, store16, store32

cdef enum:
    ROOM = 32               # a header ends here, and may begin later
    FRAMING_NULL = 0
    FRAMING_L2TP = 1
    FRAMING_BARE = 2        # no outer header: an inner socket, or a TUN
    FRAMING_GRE = 3         # what comes in has an IPv4 header in front, as a raw socket gives it
    FRAMING_PPPOE = 4       # what comes in has Ethernet's header in front
    SEAL = 4                # MPPE's header and the protocol number behind it
    PUNT = -1
    QUIET = -2              # an acknowledgment
    BAD = 0

cdef struct Framing:
    int kind
    int size                # of the header
    int length_at           # in the template, or 0
    int counted             # octets of the header that the length counts
    int sequence_at         # in the template, or 0
    bint sealed             # the inner packet is encrypted, from SEAL - 2 octets before it on
    uint8_t template[ROOM]
    uint16_t tunnel         # what the peer must put into the packets that it sends us; 0: any
    uint16_t session
    uint32_t sequence


cdef inline void frame_null(Framing* f, uint16_t session) noexcept nogil:
    cdef uint8_t* p = f.template + ROOM - 16
    memset(f, 0, sizeof(Framing))
    f.kind = FRAMING_NULL
    f.size = f.counted = 16
    f.length_at = ROOM - 14
    f.sequence_at = ROOM - 8
    store16(p, 0x4002)
    store16(p + 4, 1)
    store16(p + 6, session)
    store16(p + 12, 0xff03)
    store16(p + 14, 0x0021)


cdef inline void frame_l2tp(Framing* f, bint length, uint16_t tunnel, uint16_t session, bint sealed) noexcept nogil:
    """Ids are the receiver's (RFC 2661 section 3.1)."""
    memset(f, 0, sizeof(Framing))
    f.kind = FRAMING_L2TP
    f.sealed = sealed
    f.size = f.counted = (12 if length else 10) + (SEAL if sealed else 0)
    cdef uint8_t* p = f.template + ROOM - f.size
    store16(p, 0x4002 if length else 0x0002)
    if length:
        f.length_at = ROOM - f.size + 2
        p += 2
    store16(p + 2, tunnel)
    store16(p + 4, session)
    store16(p + 6, 0xff03)
    store16(p + 8, 0x00fd if sealed else 0x0021)
    if sealed:
        store16(p + 12, 0x0021)


cdef inline void frame_gre(Framing* f, uint16_t call, uint32_t sequence, bint sealed) noexcept nogil:
    """`call` is the receiver's id."""
    memset(f, 0, sizeof(Framing))
    f.kind = FRAMING_GRE
    f.sealed = sealed
    f.size = 16 + (SEAL if sealed else 0)
    f.counted = f.size - 12
    cdef uint8_t* p = f.template + ROOM - f.size
    f.length_at = ROOM - f.size + 4
    f.sequence_at = ROOM - f.size + 8
    f.sequence = sequence
    store16(p, 0x3001)
    store16(p + 2, 0x880B)
    store16(p + 6, call)
    store16(p + 12, 0xff03)
    store16(p + 14, 0x00fd if sealed else 0x0021)
    if sealed:
        store16(p + 18, 0x0021)


cdef inline void frame_pppoe(Framing* f, uint16_t session, const uint8_t* link) noexcept nogil:
    """`link`: Ethernet's header, or NULL: it comes from elsewhere."""
    cdef uint8_t* p = f.template + ROOM - 8
    memset(f, 0, sizeof(Framing))
    f.kind = FRAMING_PPPOE
    f.size = 8
    if link != NULL:
        f.size = 22
        memcpy(p - 14, link, 14)
    f.counted = 2
    f.length_at = ROOM - 4
    store16(p, 0x1100)
    store16(p + 2, session)
    store16(p + 6, 0x0021)


cdef inline void push_frame(Framing* f, uint8_t* room, int n) noexcept nogil:
    """The header for n octets of IP into the ROOM octets before them."""
    memcpy(room, f.template, ROOM)
    if f.length_at:
        store16(room + f.length_at, <uint16_t>(n + f.counted))
    if f.sequence_at:
        store32(room + f.sequence_at, f.sequence)
        f.sequence += 1


cdef inline int pull_ppp(const uint8_t* p, int at, int n, uint16_t wanted) noexcept nogil:
    """Behind PPP's header, when it is of this protocol; PUNT for another one, or BAD."""
    if n >= at + 2 and p[at] == 0xff and p[at + 1] == 0x03:
        at += 2
    if n < at + 2:
        return BAD
    if p[at] == wanted:                             # PFC (RFC 1661 section 6.5)
        return at + 1
    return at + 2 if p[at] == 0 and p[at + 1] == wanted else PUNT


cdef inline int pull_gre(const Framing* f, const uint8_t* p, int* n) noexcept nogil:
    """As pull_frame; of a sealed packet the offset of MPPE's header."""
    cdef int at, flags, length
    if n[0] < 28:
        return BAD
    at = (p[0] & 15) * 4
    if n[0] < at + 8:
        return BAD
    flags = load16(p + at)
    if flags & ~0x1080 != 0x2001 or load16(p + at + 2) != 0x880B or (f.session and load16(p + at + 6) != f.session):
        return BAD
    if not flags & 0x1000:
        return QUIET
    length = load16(p + at + 4)
    at += 16 if flags & 0x0080 else 12
    if length > n[0] - at:
        return BAD
    n[0] = at + length
    at = pull_ppp(p, at, n[0], 0xfd if f.sealed else 0x21)
    if at <= 0:
        return at
    if n[0] < at + 20:
        return BAD
    n[0] -= at
    return at


cdef inline int pull_pppoe(const Framing* f, const uint8_t* p, int* n) noexcept nogil:
    """As pull_frame, of untagged frames."""
    cdef int at, length
    if n[0] < 20 or load16(p + 12) != 0x8864 or load16(p + 14) != 0x1100 or (f.session and load16(p + 16) != f.session):
        return BAD
    length = load16(p + 18)
    if length > n[0] - 20:
        return BAD
    n[0] = 20 + length
    at = pull_ppp(p, 20, n[0], 0x21)
    if at <= 0:
        return at
    if n[0] < at + 20:
        return BAD
    n[0] -= at
    return at


cdef inline int pull_frame(const Framing* f, const uint8_t* p, int* n) noexcept nogil:
    """The offset of the IP packet in the *n octets at p (and *n becomes its length), PUNT for what is not
    this session's IP, QUIET for what carries nothing, or BAD."""
    cdef int at, flags, offset
    if f.kind == FRAMING_NULL:
        if n[0] < 36 or p[0] != 0x40:
            return BAD
        n[0] -= 16
        return 16
    if f.kind == FRAMING_GRE:
        return pull_gre(f, p, n)
    if f.kind == FRAMING_PPPOE:
        return pull_pppoe(f, p, n)
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
    at = pull_ppp(p, at, n[0], 0xfd if f.sealed else 0x21)
    if at <= 0:
        return at
    if n[0] < at + 20:
        return BAD
    n[0] -= at
    return at


cdef inline uint16_t session_of(const Framing* f, const uint8_t* p) noexcept nogil:
    """Whose packet this is, that pull_frame has read: its GRE call, or its L2TP session."""
    if f.kind == FRAMING_GRE:
        return load16(p + (p[0] & 15) * 4 + 6)
    return load16(p + (6 if p[0] & 0x40 else 4))
